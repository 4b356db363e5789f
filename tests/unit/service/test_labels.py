"""Names, tags and notes have limits, which are told in a sentence before anything is written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hetspec_core.errors import UsageError
from hetspec_core.events import Marked
from hetspec_core.service.library import Library
from hetspec_core.service.workbench import Workbench
from tests.fakes.specs import small_spec


@pytest.fixture
def workbench(home: object) -> Iterator[Workbench]:
    with Workbench() as bench:
        yield bench


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 201, "201 characters"),
        ("two\nlines", "a line break"),
        ("bell\x07", "U+0007"),
        ("\udcfc", "not UTF-8"),
    ],
)
def test_a_name_that_no_list_can_show_is_refused_and_leaves_no_run(workbench: Workbench, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("+", r"\+")):
        workbench.submit(small_spec("a").model_copy(update={"name": name}))
    assert workbench.runs() == []


def test_a_name_of_200_characters_is_taken(workbench: Workbench) -> None:
    assert workbench.submit(small_spec("ü" * 200))


def test_tags_and_notes_beyond_their_limits_are_refused_and_leave_the_journal_as_it_is(workbench: Workbench) -> None:
    paths = workbench.submit(small_spec("a")).paths
    library = Library(workbench)
    before = paths.desk.read_bytes()
    for event in (Marked(add_tags=("t" * 65,)), Marked(note="n" * 10_001)):
        with pytest.raises(UsageError, match="characters"):
            library.mark(paths.run_id, event)
    assert paths.desk.read_bytes() == before
    marked = library.mark(paths.run_id, Marked(add_tags=("t" * 64,), note="n" * 10_000))
    assert marked.tags == ("t" * 64,) and len(marked.note) == 10_000
