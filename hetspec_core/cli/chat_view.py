"""A chat as lines for a plain terminal or a pipe: the answer as it appears, trees, figures, verdicts.

Colours are for terminals only and honour NO_COLOR; signs carry the same information.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TextIO

from rich.text import Text

from hetspec_core.cli.console import console, format_number, note, print_text
from hetspec_core.events.chat import ChatEvent, Loading, Notice, Step, Tokens
from hetspec_core.service.chat.answer import best_rejected, shown

if TYPE_CHECKING:
    from hetspec_core.events.steps import TreeStep
    from hetspec_core.service.chat.answer import Answer
    from hetspec_core.service.chat.meters import ComparisonResult, Figures

DEPTH_STYLES = ("bold green", "green", "cyan", "blue", "magenta", "bright_magenta")
"""Style of an accepted draft token by its depth; deeper ones have the last."""
BONUS_STYLE = "yellow"
_BAR = 20
_SECONDS = re.compile(r", (\d+) s$")  # how long a task has taken so far


class AnswerPrinter:
    """Writes the pieces of one answer as they come.

    Args:
        out: where to; stdout when absent.
        marks: put `|` between verify steps.
    """

    def __init__(self, out: TextIO | None = None, *, marks: bool = False) -> None:
        self._out = out
        self._marks = marks
        self._printed = 0
        self._step = -1

    def show(self, answer: Answer) -> None:
        """Write what is new."""
        pieces = answer.pieces[self._printed :]
        if not pieces:
            return
        text = Text()
        for piece in pieces:
            if self._marks and piece.step != self._step and self._printed:
                text.append("|", style="dim")
            self._step = piece.step
            style = ""
            if piece.origin == "draft":
                style = DEPTH_STYLES[min(piece.depth, len(DEPTH_STYLES)) - 1]
            elif piece.origin == "bonus":
                style = BONUS_STYLE
            text.append(piece.text, style=style)
            self._printed += 1
        if console().color_system is None:
            print_text(text.plain, out=self._out)
        else:
            console().print(text, end="", soft_wrap=True)

    def finish(self) -> None:
        """End the line."""
        if self._printed:
            print_text("\n", out=self._out)


def show_loading(event: ChatEvent, answering: bool = False) -> None:
    """Print what is being loaded or prepared, when it begins and every ten seconds, and what did not go as planned."""
    seconds = _SECONDS.search(event.what) if isinstance(event, Loading) else None
    if isinstance(event, Loading) and event.done == 0 and (seconds is None or int(seconds[1]) % 10 == 0):
        note(f"{event.what} ..." if answering else f"loading {event.what} ...")
    elif isinstance(event, Notice):
        note(event.text)


def show_end(answer: Answer, figures: Figures) -> None:
    """Print how an answer ended, in one line."""
    if answer.went_wrong:
        note(f"{answer.state}: {answer.error}" + (f" ({answer.hint})" if answer.hint else ""))
        return
    reason = answer.end.stop_reason if answer.end else answer.state
    parts = [f"{len(answer.tokens)} tokens ({reason})"]
    if figures.tokens_per_s is not None:
        parts.append(f"{format_number(figures.tokens_per_s)} tokens/s")
    if figures.accept_length is not None:
        parts.append(f"accept length {figures.accept_length:.2f} over {figures.verify_steps} steps")
    if figures.speedup is not None:
        parts.append(f"{figures.speedup:.2f}x plain ({figures.plain_source})")
    if answer.end is not None and answer.end.tree:
        promised = answer.end.predicted_speedup
        words = "" if promised is None else f", predicted {promised:.2f}x plain"
        parts.append(f"tree auto took {answer.end.tree}{words}")
    if answer.end is not None and answer.end.kept_tokens:
        parts.append(f"{answer.end.kept_tokens} of {answer.end.prompt_tokens} prompt tokens kept")
    if answer.end is not None and answer.end.draft_vocab_size:
        parts.append(f"draft vocabulary {answer.end.draft_vocab_size:,}")
    note(", ".join(parts))


def tree_lines(step: TreeStep) -> list[Text]:
    """A verify step as lines: nodes below their parents, accepted ones marked `*`, the bonus token `+`."""
    accepted, depths = set(step.path), step.depths
    children: list[list[int]] = [[] for _ in step.tokens]
    for node in range(1, len(step.tokens)):
        children[step.parents[node]].append(node)
    for below in children:
        below.sort(key=lambda node: (node not in accepted, -step.draft_probs[node]))
    lines = [Text(f"step {step.index}: {len(step.path)} of {step.num_nodes} nodes accepted", style="bold")]
    end = step.path[-1] if step.path else 0
    stack = [0]
    while stack:
        node = stack.pop()
        stack += reversed(children[node])
        mark = "*" if node in accepted or node == 0 else " "
        style = "bold green" if node in accepted else "bold" if node == 0 else "dim"
        line = Text(f"{mark} {'  ' * depths[node]}{shown(step.texts[node])}", style=style)
        if node:
            line.append(
                f"  draft {step.draft_probs[node]:.2f}  base {step.base_probs[node]:.2f} (#{step.base_ranks[node] + 1})"
            )
        lines.append(line)
        if node == end:
            bonus = Text(f"+ {'  ' * (depths[end] + 1)}{shown(step.bonus_text)}", style=f"bold {BONUS_STYLE}")
            bonus.append(f"  bonus, base {step.bonus_prob:.2f}")
            lines.append(bonus)
    rejected = best_rejected(step)
    if rejected is not None:
        lines.append(Text(f"  {rejected.sentence}", style="dim"))
    return lines


def figure_lines(figures: Figures) -> list[str]:
    """The meters as lines."""
    lines = [f"decoding        {figures.label}"]
    if figures.accept_length is not None:
        lines.append(f"accept length   {figures.accept_length:.2f} over {figures.verify_steps} steps")
    if figures.pooled_accept_length is not None:
        lines.append(f"  pooled        {figures.pooled_accept_length:.2f} over {figures.pooled_steps} steps")
    for row in figures.pooled_by_depth:
        rate = row.acceptance_rate or 0.0
        lines.append(
            f"  depth {row.depth:<2}      {_bar(rate)} {rate:5.1%} of {row.offered}, joint {row.joint_rate:.1%}"
        )
    most = max(figures.pooled_histogram.values(), default=0)
    for length, count in figures.pooled_histogram.items():
        lines.append(f"  {length:>2} tokens     {_bar(count / most)} {count}")
    if figures.tokens_per_s is not None:
        lines.append(f"tokens/s        {format_number(figures.tokens_per_s)}")
    if figures.plain_tokens_per_s is not None:
        lines.append(f"  plain         {format_number(figures.plain_tokens_per_s)} (from {figures.plain_source})")
    if figures.speedup is not None:
        lines.append(f"  speedup       {figures.speedup:.2f}")
    if figures.split is not None and figures.split.total_s > 0:
        propose, verify, other = figures.split.shares
        lines.append(f"time            propose {propose:.0%}, verify {verify:.0%}, other {other:.0%}")
    if figures.kv_tokens:
        lines.append(f"key/value cache {figures.kv_tokens} of {figures.context_tokens} tokens")
    return lines


def verdict_lines(verdict: ComparisonResult) -> list[str]:
    """A comparison as lines."""
    rows = []
    for label, speed, length in (
        (verdict.left_label, verdict.left_tokens_per_s, verdict.left_accept_length),
        (verdict.right_label, verdict.right_tokens_per_s, verdict.right_accept_length),
    ):
        words = [f"{format_number(speed)} tokens/s" if speed is not None else "speed not known"]
        if length is not None:
            words.append(f"accept length {length:.2f}")
        rows.append(f"{label}: {', '.join(words)}")
    rows.append(verdict.sentence)
    if verdict.difference is not None:
        one, other = shown(verdict.difference.left_text), shown(verdict.difference.right_text)
        rows.append(f"  token {verdict.difference.token}: {one!r} / {other!r}")
        if verdict.must_be_identical:
            rows.append("  greedy answers must be the same in float32; in bfloat16 near ties may fall either way")
    return rows


def is_shown(event: ChatEvent) -> bool:
    """Whether an event adds text to the answer."""
    return isinstance(event, Tokens | Step)


def _bar(share: float) -> str:
    filled = round(_BAR * max(0.0, min(1.0, share)))
    return "#" * filled + "." * (_BAR - filled)
