"""Presets as rows of a form: every resolved key with its source, and which of them a line of text can change."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from textual.content import Content

from hetspec_core.service.forms import Field, fields
from hetspec_core.service.launch import names
from hetspec_tui.dialogs import Choice
from hetspec_tui.formatting import count, duration, safe, size
from hetspec_tui.widgets.form import FormRow

if TYPE_CHECKING:
    from hetspec_core.service.plan import Plan
    from hetspec_core.service.presets import Difference, PresetView

PARTS = ("base", "draft", "algorithm")
_LAST = {"base": 1, "run": 2}  # of a recipe these are looked at least
_FORMULA = re.compile(r"formula '([^']*)'")


def fields_of(view: PresetView) -> dict[str, Field]:
    """Key -> field of everything in a preset that one line of text can change."""
    algorithm = next((str(item.value) for item in view.values if item.key == "algorithm.name"), "eagle")
    sections = None if view.line.kind == "recipe" else (view.line.kind,)
    found = fields(algorithm=algorithm) if sections is None else fields(algorithm=algorithm, sections=sections)
    return {field.key: field for field in found}


def items_for(view: PresetView, key: str) -> list[Choice]:
    """What a key can be; empty when that is no short list. Blocks: it reads the presets."""
    part, _, last = key.partition(".")
    if last == "preset" and part in PARTS:
        return [Choice(name, name, note) for name, note in names(part).items()]
    field = fields_of(view).get(key)
    return [Choice(choice, choice) for choice in field.choices] if field is not None else []


def summary_key(kind: str) -> str:
    """The key of a preset's own summary."""
    return "summary" if kind == "recipe" else f"{kind}.summary"


def rows_of(
    view: PresetView,
    changes: Mapping[str, Any],
    faults: Sequence[str],
    *,
    stated_only: bool = False,
) -> list[FormRow]:
    """Every key of a preset.

    Args:
        view: the preset.
        changes: dotted key -> value that it is about to get; None = taken out.
        faults: what is wrong with the preset and its changes, as `key: sentence`.
        stated_only: without the keys that have their default.
    """
    known = fields_of(view)
    wrong = {text.partition(": ")[0]: text.partition(": ")[2] for text in faults}
    kind = view.line.kind
    rows = [_summary(view, changes, wrong)]
    if kind == "recipe":
        rows += [_part(view, part, changes, wrong) for part in PARTS]
    for item in view.values:
        if item.key == summary_key(kind) or (stated_only and item.layer == "default" and item.key not in changes):
            continue
        field = known.get(item.key)
        text = _shown(item.value) if field is None else field.to_text(item.value)
        formula = _FORMULA.search(item.source)
        if item.key in changes:
            value = changes[item.key]
            text = "(as beneath)" if value is None else field.to_text(value) if field is not None else _shown(value)
        rows.append(
            FormRow(
                key=item.key,
                title=item.key.rpartition(".")[2],
                section=item.key.rpartition(".")[0] or "run",
                kind=_kind(field),
                text=text,
                source="changed here" if item.key in changes else item.source,
                short="changed" if item.key in changes else item.source.partition(": formula")[0].rpartition("/")[2],
                needs=field.needs if field is not None else "",
                help=(field.help if field is not None else "Not a single line: e opens the file in your editor.")
                + (f" Now: {formula[1]}" if formula else ""),
                changed=item.key in changes or item.source.startswith("your preset"),
                fault=wrong.get(item.key, ""),
            )
        )
    order = {section: place for place, section in enumerate(dict.fromkeys(row.section for row in rows))}
    return sorted(rows, key=lambda row: (_LAST.get(row.section.partition(".")[0], 0), order[row.section]))


def _kind(field: Field | None) -> str:
    if field is None:
        return "fixed"
    return "bool" if field.kind == "bool" else "pick" if field.choices else field.kind


def _summary(view: PresetView, changes: Mapping[str, Any], wrong: Mapping[str, str]) -> FormRow:
    key = summary_key(view.line.kind)
    text = str(changes.get(key, view.line.summary) or "")
    about = "One line for lists."
    return FormRow(key, "summary", "preset", "text", text, help=about, changed=key in changes, fault=wrong.get(key, ""))


def _part(view: PresetView, part: str, changes: Mapping[str, Any], wrong: Mapping[str, str]) -> FormRow:
    key = f"{part}.preset"
    found = next((item for item in view.values if item.key == f"{part}.name"), None)
    text = str(changes.get(key) or (found.value if found is not None and found.value else "none"))
    fault = wrong.get(key, "") or wrong.get(part, "")
    about = f"Which {part} preset the recipe takes."
    return FormRow(key, part, "preset", "pick", text, help=about, changed=key in changes, fault=fault)


def _shown(value: Any) -> str:
    return "" if value is None else safe(str(value))


def facts_of(plans: Mapping[str, Plan], missing: Mapping[str, str]) -> Content:
    """Parameters, and what the stages cost here: a line each."""
    lines: list[Content] = []
    first = next(iter(plans.values()), None)
    with_draft = next((made.draft for made in plans.values() if made.draft is not None), None)
    if first is not None:
        draft = f", draft {count(with_draft.total)}" if with_draft is not None else ""
        exact = "" if first.base.exact else "about "
        lines.append(
            Content.assemble(
                ("weights  ", "$foreground-muted"), f"base {exact}{count(first.base.total)}{draft} parameters"
            )
        )
    for stage, made in plans.items():
        time = "time unknown" if made.seconds is None else duration(made.seconds)
        device = "GPU memory" if made.device == "cuda" else "memory"
        refused = ("  ! does not fit here", "$text-warning") if made.refusals else ""
        lines.append(
            Content.assemble(
                (f"{stage:<8} ", "$foreground-muted"),
                f"{time}, {size(made.device_bytes)} {device}, {size(made.disk_bytes)} disk",
                refused,
            )
        )
    lines += [Content.assemble((f"{stage:<8} {safe(why)}", "$text-warning")) for stage, why in missing.items()]
    return Content("\n").join(lines)


def difference_of(first: str, second: str, found: Sequence[Difference], width: int) -> Content:
    """Two presets side by side, only what differs."""
    if not found:
        return Content(f"{first} and {second} resolve to the same.")
    key_width = min(44, max(12, max(len(item.key) for item in found)))
    room = max(8, (width - key_width - 4) // 2)

    def cell(value: Any) -> str:
        text = "-" if value is None else safe(str(value))
        return (text if len(text) <= room else f"{text[: room - 1]}…").ljust(room)

    lines = [
        Content.assemble(
            ("key".ljust(key_width), "$foreground-muted"), "  ", (cell(first), "bold"), "  ", (cell(second), "bold")
        )
    ]
    lines += [
        Content.assemble(
            (item.key[:key_width].ljust(key_width), "$text-primary"),
            "  ",
            (cell(item.first), "$text-error"),
            "  ",
            (cell(item.second), "$text-success"),
        )
        for item in found
    ]
    return Content("\n").join(lines)
