"""A chat in words and colours: pieces of answers by where they came from, meters, verdicts, predictions.

All text of a model is data: it is made safe here and never read as markup.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from hetspec_tui.formatting import duration, number, safe

if TYPE_CHECKING:
    from hetspec_core.events.chat import ChatSettings
    from hetspec_core.service.chat import Comparison, Figures, Piece
    from hetspec_core.service.traces import Prediction, Simulation

DEPTH_STYLES = ("$text-success", "$text-accent", "$text-primary", "$text-secondary")
"""Accepted draft tokens by depth, from 1; deeper ones have the last."""
BONUS_STYLE = "$text-warning"
LEGEND = "accepted by depth: 1 2 3 4+   bonus   base"
_BARS = " ▏▎▍▌▋▊▉█"


def style_of(piece: Piece) -> str:
    """The colour of a piece; empty for what no draft proposed."""
    if piece.origin == "draft":
        return DEPTH_STYLES[min(piece.depth, len(DEPTH_STYLES)) - 1]
    return BONUS_STYLE if piece.origin == "bonus" else ""


def readable(text: str) -> str:
    """Text of an answer: lines stay lines, everything else that could move a cursor is written out."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter == "\n" or not unicodedata.category(letter).startswith(("C", "Zl", "Zp")) else safe(letter)
        for letter in text.replace("\t", "    ")
    )


def pieces_content(pieces: Sequence[Piece], step: int = -1) -> Content:
    """An answer, each token in the colour of its origin; those of verify step `step` are underlined."""
    parts: list[Content | str | tuple[str, str]] = []
    run, style = "", ""
    for piece in pieces:
        now = style_of(piece)
        if step >= 0 and piece.step == step:
            now = f"{now} underline bold".strip()
        if now != style and run:
            parts.append((readable(run), style) if style else readable(run))
            run = ""
        run, style = run + piece.text, now
    if run:
        parts.append((readable(run), style) if style else readable(run))
    return Content.assemble(*parts)


def settings_words(settings: ChatSettings) -> str:
    """How the next answer is made, in one line."""
    draft = safe(settings.draft_name) or "no draft"
    words = [draft, f"tree {settings.tree}"] if settings.draft else ["no draft (plain decoding)"]
    words.append("greedy" if settings.temperature == 0 else f"temperature {settings.temperature:g}")
    words.append(f"{settings.max_new_tokens} tokens at most")
    if settings.system_prompt:
        words.append(f"system: {' '.join(safe(settings.system_prompt).split())[:40]}")
    return " · ".join(words)


def bar(share: float, cells: int) -> str:
    """A bar of `cells` cells filled to a share of one."""
    eighths = round(max(0.0, min(1.0, share)) * cells * 8)
    whole, part = divmod(eighths, 8)
    return ("█" * whole + (_BARS[part] if part else "")).ljust(cells)


def meter_lines(figures: Figures, width: int) -> list[Content]:
    """The meters, a line each."""
    cells = max(6, min(24, width - 30))
    lines = [
        _fact(
            "accept length",
            (f"{figures.step_committed} now  " if figures.step_committed else "")
            + f"{_length(figures.accept_length)} answer  {_length(figures.pooled_accept_length)} pooled "
            f"({figures.pooled_steps} steps)",
        ),
        _fact("tokens/s", _speed(figures)),
    ]
    if figures.split is not None and figures.split.total_s > 0:
        propose, verify, other = figures.split.shares
        shares = f"propose {propose:.0%}  verify {verify:.0%}  other {other:.0%}"
        lines.append(_fact("time", f"{shares}   of {duration(figures.split.total_s)}"))
    lines.append(_fact("kv cache", f"{figures.kv_tokens:,} of {figures.context_tokens:,} tokens"))
    for row in figures.pooled_by_depth or figures.by_depth:
        rate = row.acceptance_rate
        if rate is not None:
            lines.append(
                _fact(f"depth {row.depth}", f"{bar(rate, cells)} {rate:>4.0%}  {row.accepted} of {row.offered}")
            )
    histogram = figures.pooled_histogram or figures.histogram
    most = max(histogram.values(), default=0)
    for length, count in sorted(histogram.items()):
        lines.append(_fact(f"{length} token{'s' if length > 1 else ''}", f"{bar(count / most, cells)} {count} steps"))
    return lines


def _fact(name: str, words: str) -> Content:
    return Content.assemble((f"{name:<14}", "$foreground-muted"), words)


def _length(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _speed(figures: Figures) -> str:
    words = number(figures.tokens_per_s, 3)
    if figures.plain_tokens_per_s is None:
        return f"{words}  plain not measured: k or b does"
    source = f"plain {number(figures.plain_tokens_per_s, 3)} by {figures.plain_source}"
    return f"{words}  {source}" + (f"  speedup {figures.speedup:.2f}" if figures.speedup is not None else "")


def verdict_lines(comparison: Comparison) -> list[Content]:
    """What came of an A/B, or how far it is."""
    verdict = comparison.verdict
    if verdict is None or not comparison.done:
        failed = [answer.error for _, answer in comparison.answers if answer.error]
        return [
            Content.styled(safe(failed[0]) if failed else "both sides answer in turn; esc stops", "$foreground-muted")
        ]
    lines = [
        Content.styled(safe(verdict.sentence), "bold"),
        Content(
            f"tokens/s {number(verdict.left_tokens_per_s, 3)} | {number(verdict.right_tokens_per_s, 3)}   "
            f"accept length {_length(verdict.left_accept_length)} | {_length(verdict.right_accept_length)}"
        ),
    ]
    if not verdict.identical and verdict.difference is not None:
        sign = (
            "✖ both are greedy: in float32 this is a fault" if verdict.must_be_identical else "may differ when sampling"
        )
        parted = verdict.difference
        left, right = safe(parted.left_text), safe(parted.right_text)
        lines.append(Content.styled(f"{sign}; token {parted.token}: {left!r} | {right!r}", "$text-warning"))
    elif verdict.identical:
        lines.append(Content.styled("✔ texts identical, token by token", "$text-success"))
    return lines


def prediction_lines(simulation: Simulation, recorded: str, room: int) -> list[Content]:
    """The best shape, the frontier, then the rest, as many as there is room for."""
    frontier = {one.shape.label for one in simulation.frontier}
    best = simulation.best.shape.label if simulation.best else ""
    heads = f"   {'shape':<10}{'accept length':>14}{'tokens/s':>10}{'speedup':>9}  sure"
    lines = [
        Content.styled(f"What other trees would have done with the answers of {safe(recorded)}", "bold"),
        Content.styled(
            "★ best  ▲ no other beats it at lower cost  extrapolated: at best a lower bound", "$foreground-muted"
        ),
        Content.styled(heads, "$foreground-muted"),
    ]
    order = [one for one in simulation.predictions if one.shape.label == best]
    order += [one for one in simulation.frontier if one.shape.label != best]
    order += [one for one in simulation.predictions if one.shape.label not in frontier | {best}]
    for one in order[: max(1, room - len(lines))]:
        lines.append(_prediction(one, best=one.shape.label == best, frontier=one.shape.label in frontier))
    return lines


def _prediction(one: Prediction, *, best: bool, frontier: bool) -> Content:
    sign = "★" if best else "▲" if frontier else " "
    speedup = "-" if one.speedup is None else f"{one.speedup:.2f}"
    note = (
        "extrapolated: at best a lower bound"
        if one.extrapolated
        else "best"
        if best
        else "frontier"
        if frontier
        else ""
    )
    text = (
        f" {sign} {one.shape.label:<10}{one.accept_length:>14.2f}{number(one.tokens_per_s, 3):>10}{speedup:>9}"
        f"  {one.certain:>4.0%}   {note}"
    )
    style = "$text-success bold" if best else "" if frontier else "$foreground-muted"
    return Content.styled(text, style) if style else Content(text)
