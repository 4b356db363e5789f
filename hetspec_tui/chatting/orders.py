"""What the chat page has the core do: drafts, traces, files. It knows the session, not the widgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hetspec_tui.pickers import Choice

if TYPE_CHECKING:
    from hetspec_core.service import Workbench
    from hetspec_core.service.chat import ChatConfig, DraftChoice
    from hetspec_core.service.traces import Simulation, TraceSummary

RECIPE = "smollm2-llama-eagle"
"""What a chat begins with when nobody chose: the base that needs no download."""
NO_DRAFT = "-"


def open_config(workbench: Workbench, recipe: str, draft: str | None) -> ChatConfig:
    """What a session begins with; without any trained draft it decodes plainly.

    Args:
        workbench: where runs are.
        recipe: recipe preset.
        draft: run or directory; the newest of the base when None, and none for `NO_DRAFT`.

    Raises:
        HetSpecError: the recipe does not hold, or a draft that was named is not there.
    """
    from hetspec_core.errors import NotFoundError
    from hetspec_core.service.chat import chat_config

    if draft == NO_DRAFT:
        return chat_config(workbench, recipe, plain=True)
    try:
        return chat_config(workbench, recipe, draft=draft)
    except NotFoundError:
        if draft is not None:
            raise
        return chat_config(workbench, recipe, plain=True)


def base_name(workbench: Workbench, recipe: str) -> str:
    """The base of a recipe."""
    return open_config(workbench, recipe, NO_DRAFT).base.name


def recipe_choices(workbench: Workbench) -> list[Choice]:
    """Recipes to take the base from."""
    from hetspec_core.service.presets import list_presets

    return [Choice(line.name, line.name, line.summary) for line in list_presets("recipe")]


def draft_choices(drafts: list[DraftChoice]) -> list[Choice]:
    """Drafts to choose from, and none."""
    found = [Choice(str(one.folder), one.name, one.run_id) for one in drafts]
    return [Choice(NO_DRAFT, "no draft", "plain decoding"), *found]


def trace_choices(traces: list[TraceSummary]) -> list[Choice]:
    """Recorded answers, those that can be read."""
    return [
        Choice(
            one.word,
            one.name or one.word,
            f"{one.base} {one.label}  {one.steps} steps"
            + (f"  accept length {one.accept_length:.2f}" if one.accept_length is not None else ""),
        )
        for one in traces
        if not one.error
    ]


def predict(word: str, calibration: object) -> Simulation:
    """What other trees would have done with a recorded answer, with measured costs where there are some.

    Raises:
        HetSpecError: the trace cannot be read, or has no trees.
    """
    from hetspec_core.service.traces import Costs, load_trace, read_positions, simulate

    costs = None if calibration is None else Costs(calibration)  # type: ignore[arg-type]
    return simulate([read_positions(load_trace(word), word)], costs=costs)


def export_trace(workbench: Workbench, word: str, form: str, step: int | None) -> Path:
    """Write a recorded answer as svg (one step), html or json; gives the file.

    Raises:
        HetSpecError: it cannot be read or written.
    """
    from hetspec_core.service.saved_files import save_export
    from hetspec_core.service.traces import export, load_trace

    text = export(load_trace(word), form, step=step)  # type: ignore[arg-type]
    return save_export(workbench, f"trace-{Path(word).stem}", f".{form}", text)
