"""One run in a narrow column: what it is, how far it is, what it came to. Text only; it asks nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from textual.content import Content

from hetspec_tui.formatting import STATE_COLOURS, STATE_SIGNS, ago, count, duration, number, safe
from hetspec_tui.registry.columns import moment, times, took_s, two_places

if TYPE_CHECKING:
    from hetspec_core.service import RunSummary

_LABEL = 11


def details(run: RunSummary, figures: Mapping[str, float], most_figures: int = 24) -> Content:
    """The run in lines.

    Args:
        run: which.
        figures: everything that it measured, by name.
        most_figures: of these so many at most.
    """
    colour = STATE_COLOURS.get(run.state, "")
    parts: list[Content] = [
        Content.assemble(("★ " if run.starred else "", "$warning"), (safe(run.name) or "-", "bold")),
        Content.assemble(
            (f"{STATE_SIGNS.get(run.state, '')} {run.state}", colour),
            (f"  {run.stage}" + ("  archived" if run.archived else ""), "dim"),
        ),
        Content.styled(run.run_id, "dim"),
    ]
    if run.progress is not None and run.state in ("starting", "running"):
        width = 24
        full = round(run.progress * width)
        parts += [
            Content.assemble(
                ("█" * full, "$primary"), ("░" * (width - full), "dim"), f" {run.progress:.0%} {safe(run.task)}"
            )
        ]
    if run.error is not None:
        parts += [
            Content(""),
            Content.styled(f"✖ {safe(run.error['kind'])}: {safe(run.error['message'])}", "$text-error"),
        ]
        if run.error["hint"]:
            parts.append(Content.styled(f"→ {safe(run.error['hint'])}", "dim"))
    parts.append(Content(""))
    parts += _lines(
        {
            "base": run.base,
            "draft": run.draft,
            "algorithm": run.algorithm,
            "recipe": run.recipe,
            "created": f"{moment(run.created)}  ({ago(max(0.0, time.time() - run.created))} ago)",
            "took": "" if took_s(run) is None else duration(took_s(run)),
            "attempt": str(run.attempt) if run.attempt > 1 else "",
            "step": "" if run.step is None else f"{run.step:,}",
            "tokens": "" if run.tokens is None else count(run.tokens),
            "accept": "" if run.accept_length is None else two_places(run.accept_length),
            "speed-up": "" if run.speedup is None else times(run.speedup),
            "tags": " ".join(run.tags),
            "stands on": "\n".join(run.parents),
            "note": run.note,
        }
    )
    if figures:
        parts += [Content(""), Content.styled("figures", "bold $text-accent")]
        width = min(30, max(len(safe(name)) for name in figures))
        shown = sorted(figures)[:most_figures]
        parts += [
            Content.assemble((f"{safe(name)[-width:]:<{width}}  ", "dim"), number(figures[name])) for name in shown
        ]
        if len(figures) > most_figures:
            parts.append(Content.styled(f"and {len(figures) - most_figures} more: enter opens the run", "dim"))
    return Content("\n").join(parts)


def _lines(facts: Mapping[str, str]) -> list[Content]:
    lines: list[Content] = []
    for name, value in facts.items():
        for number_, part in enumerate(value.split("\n") if value else ()):
            label = name if number_ == 0 else ""
            lines.append(Content.assemble((f"{label:<{_LABEL}}", "dim"), safe(part)))
    return lines
