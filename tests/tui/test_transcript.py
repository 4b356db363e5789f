"""What was said: broken into lines as it comes, as if it had come at once; nothing of it moves the cursor."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult

from hetspec_tui.formatting import safe
from hetspec_tui.widgets.composer import Composer
from hetspec_tui.widgets.growing import Wrapping
from hetspec_tui.widgets.transcript import Token, Transcript, TranscriptEntry

TEXTS = st.lists(
    st.one_of(st.text(max_size=20), st.sampled_from([" ", "\n", "你好 ", "a\x1bb", "word ", "é"])), max_size=40
)


@settings(max_examples=50, deadline=None)
@given(TEXTS, st.integers(2, 60))
def test_lines_are_the_same_however_the_text_comes_and_never_too_wide(pieces: list[str], width: int) -> None:
    by_piece, at_once = Wrapping(width), Wrapping(width)
    for piece in pieces:
        by_piece.add(piece, 0)
    at_once.add("".join(pieces), 0)
    assert by_piece.lines == at_once.lines
    for line in by_piece.lines:
        text = "".join(run for run, _ in line)
        assert cell_len(text) <= width
        assert text == safe(text)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abc de", min_size=1, max_size=9), max_size=30), st.integers(4, 40))
def test_no_letter_is_lost_and_each_keeps_its_tag(pieces: list[str], width: int) -> None:
    wrapping = Wrapping(width)
    for tag, piece in enumerate(pieces):
        wrapping.add(piece, tag)
    said: dict[int, str] = {}
    for line in wrapping.lines:
        for run, tag in line:
            said[tag] = said.get(tag, "") + run
    for tag, piece in enumerate(pieces):
        assert said.get(tag, "").replace(" ", "") == piece.replace(" ", "")


class TalkApp(App[None]):
    def compose(self) -> ComposeResult:
        yield Transcript()
        yield Composer()


def test_an_answer_grows_at_its_end_follows_it_and_becomes_markdown_when_it_is_finished() -> None:
    async def act() -> None:
        app = TalkApp()
        async with app.run_test(size=(40, 12)) as pilot:
            talk = app.query_one(Transcript)
            asked = TranscriptEntry("0", "user", "you", (Token("why?"),))
            tokens = [Token("**Because** "), *(Token(f"w{n} ", "draft", n % 3 + 1, n // 3) for n in range(80))]
            for count in range(1, len(tokens), 7):
                talk.show([asked, TranscriptEntry("1", "assistant", "plain", tokens[:count])])
            talk.show([asked, TranscriptEntry("1", "assistant", "plain", tokens)])
            await pilot.pause()
            assert "**Because** w0 w1" in " ".join(line.strip() for line in talk.lines)
            assert talk.scroll_offset.y == talk.max_scroll_y > 0
            assert any("w79" in talk.render_line(y).text for y in range(talk.size.height))
            talk.show([asked, TranscriptEntry("1", "assistant", "plain", tokens, markdown=True)])
            await pilot.pause()
            assert "Because w0" in "\n".join(talk.lines)
            assert "**" not in "\n".join(talk.lines)

    asyncio.run(act())


def test_the_step_that_is_looked_at_is_marked_and_what_came_later_is_dim() -> None:
    async def act() -> None:
        app = TalkApp()
        async with app.run_test(size=(60, 12)):
            talk = app.query_one(Transcript)
            tokens = [Token("a ", "draft", 1, 0), Token("b ", "bonus", 0, 1), Token("c ", "draft", 1, 2)]
            talk.show([TranscriptEntry("1", "assistant", "", tokens)], here=1)
            styles = {segment.text: segment.style for segment in talk.render_line(0) if segment.style}
            assert styles["b "].bold
            assert styles["b "].bgcolor != styles["a "].bgcolor
            assert styles["c "].dim
            assert not styles["b "].dim

    asyncio.run(act())


def test_what_was_sent_comes_back_with_the_arrow_and_what_was_being_written_too() -> None:
    async def act() -> None:
        app = TalkApp()
        async with app.run_test(size=(40, 12)) as pilot:
            line = app.query_one(Composer)
            line.focus()
            line.sent("first")
            line.sent("second")
            await pilot.press(*"new", "up")
            assert line.text == "second"
            await pilot.press("up", "up")
            assert line.text == "first"
            await pilot.press("down", "down")
            assert line.text == "new"
            await pilot.press("ctrl+j", "x")
            assert line.text == "new\nx"

    asyncio.run(act())
