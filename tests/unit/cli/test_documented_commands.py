"""Every command line that the pages on sweeps and on coming from specforge_het show can be typed."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from hetspec_core.cli.main import COMMANDS, PROGRAM, _application
from hetspec_core.config.library import preset_files
from tests.conftest import REPOSITORY

PAGES = ("from-specforge-het", "sweeps")


def lines_of(page: str) -> list[str]:
    text = (REPOSITORY / "docs" / f"{page}.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if PROGRAM in line]


SHOWN = [(page, line) for page in PAGES for line in lines_of(page)]


def parse(words: list[str]) -> None:
    """Read a command line as the program would, down to its command, without running it."""
    command = typer.main.get_command(_application(words[0]))
    context = command.make_context(PROGRAM, list(words))
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert name is not None and command is not None
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_a_line_of_the_documentation_can_be_typed(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    words = words[words.index(PROGRAM) + 1 :]
    assert words[0] in COMMANDS
    presets = {*preset_files("recipe"), *preset_files("base")}
    named = {word for word in words if re.match(r"(llama|qwen|smollm)\S*-", word)}
    assert named <= presets
    parse(words)


def test_a_line_that_cannot_be_typed_would_be_found() -> None:
    with pytest.raises(Exception, match=r"(?i)no such option"):
        parse(["bench", "--prompt", "x"])
    with pytest.raises(Exception, match=r"(?i)no such command"):
        parse(["dataset", "make"])


def test_the_page_shows_every_preset_and_command_there_was() -> None:
    text = (REPOSITORY / "docs" / "from-specforge-het.md").read_text()
    words = """gen_dataset merge_datasets ds_range output_dir ds_prefix sharegpt_path read_eagle_format eval_path
        report_to init_speculative_algorithm stand_alone_draft_model_path stand_alone_draft_model_key_adapt
        use_saved_json_config
        max_memory question.jsonl push_dataset probe_datasets manual_sample_ids max_read_items target_model_only"""
    for word in words.split():
        assert word in text
    assert len(SHOWN) > 30
    recipes = set(re.findall(r"\| `((?:llama|qwen)[\w.-]+-(?:eagle|latent))` \|", text))
    assert recipes <= set(preset_files("recipe")) and len(recipes) == 7
