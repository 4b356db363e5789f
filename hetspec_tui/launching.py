"""A launch as rows of a form (what they show, what a change of one means, what can be picked), and its cost as text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast, get_args

from textual.content import Content

from hetspec_core.events import UNFINISHED
from hetspec_core.service.forms import COMMON, Field, launch_fields, set_text
from hetspec_core.service.launch import LaunchRequest, What, names
from hetspec_core.service.presets import list_presets
from hetspec_tui.dialogs import Choice
from hetspec_tui.formatting import count, duration, safe, size
from hetspec_tui.widgets.form import FormRow

if TYPE_CHECKING:
    from hetspec_core.service.launch import Review
    from hetspec_core.service.plan import Plan
    from hetspec_core.service.workbench import Workbench

PARTS = ("base", "draft", "algorithm")
SEVERAL = ("datasets", "gpus")
_MUTED = "$foreground-muted"
WHATS: dict[str, str] = {
    "pipeline": "dataset, training and bench, one after another",
    "dataset": "conversations in, hidden states of the base out",
    "train": "a draft learns from hidden states",
    "bench": "measure a draft against plain decoding",
}
assert tuple(WHATS) == get_args(What)
HELP = {
    "what": "One stage, or all three as runs that wait for each other.",
    "recipe": "What everything below begins with: one of each part, and settings of the stages.",
    "base": "The frozen model that decides. One that does not fit the draft is shown with the reason.",
    "draft": "The small model that proposes. One that does not fit the base is shown with the reason.",
    "algorithm": "How the draft is trained.",
    "datasets": "Hidden states to learn from: runs of stage dataset.",
    "from": "A trained draft: a run of stage train. Nothing chosen: a bench takes the best or newest, a training none.",
    "name": "Name of the run; those of a pipeline get their stage behind it.",
    "gpus": "Which GPUs the run may use. Nothing chosen: any that are free.",
}


def fields_of(choice: LaunchRequest, seen: Review | None) -> dict[str, Field]:
    """Key -> field of every setting that matters to the choice."""
    known = seen.values.get("algorithm.name") if seen is not None else None
    algorithm = str(known.value) if known is not None else "eagle"
    return {field.key: field for field in launch_fields(choice.stages, algorithm=algorithm)}


def part_of(choice: LaunchRequest, seen: Review | None, part: str) -> str:
    """Name of the preset of a part: chosen, or the recipe's; for an algorithm the recipe's is told by its card."""
    if part in choice.parts:
        return choice.parts[part]
    known = seen.beneath.get(f"{part}.name") if seen is not None else None
    return str(known.value) if known is not None and known.value else "none" if part == "draft" and seen else ""


def chosen_gpus(choice: LaunchRequest) -> tuple[str, ...]:
    """Indices or UUIDs that the choice names."""
    text = choice.values.get("resources.gpus", "")
    return tuple(part.strip("\" '") for part in text.strip("[]").split(",") if part.strip())


# --- rows -------------------------------------------------------------------------------------------------------------


def rows_of(choice: LaunchRequest, seen: Review | None) -> list[FormRow]:
    """Every row: what is run, the settings changed most, and all others by section."""
    common = {key for stage in choice.stages for key in COMMON[stage]}
    fields = fields_of(choice, seen)
    rows = [_row(field, choice, seen, field.key in common) for field in fields.values()]
    order = {section: place for place, section in enumerate(dict.fromkeys(row.section for row in rows))}
    return _first_rows(choice, seen) + sorted(rows, key=lambda row: order[row.section])


def _first_rows(choice: LaunchRequest, seen: Review | None) -> list[FormRow]:
    def row(key: str, title: str, text: str, source: str = "", *, kind: str = "pick", changed: bool = False) -> FormRow:
        keys = {"from": ("draft",), **{part: (f"{part}.preset", f"{part}.name") for part in PARTS}}.get(key, (key,))
        fault = next((why for name in keys if seen is not None and (why := seen.fault_of(name))), "")
        return FormRow(key, title, "what", kind, text, source, help=HELP[key], changed=changed, fault=fault)

    rows = [row("what", "run", choice.what, WHATS[choice.what]), row("recipe", "recipe", choice.recipe)]
    for part in PARTS:
        chosen = part in choice.parts
        rows.append(row(part, part, part_of(choice, seen, part), "chosen here" if chosen else "recipe", changed=chosen))
    if choice.what == "train":
        rows.append(row("datasets", "datasets", "\n".join(choice.datasets), changed=bool(choice.datasets)))
    if choice.what in ("train", "bench"):
        title = "begin from draft" if choice.what == "train" else "draft to measure"
        rows.append(row("from", title, choice.draft, changed=bool(choice.draft)))
    gpus = chosen_gpus(choice)
    rows.append(row("gpus", "GPUs", " ".join(gpus), "" if gpus else "any that are free", changed=bool(gpus)))
    rows.append(row("name", "name", choice.name, kind="text", changed=bool(choice.name)))
    return rows


def _row(field: Field, choice: LaunchRequest, seen: Review | None, common: bool) -> FormRow:
    key = field.key
    found = seen.values.get(key) if seen is not None else None
    text, source = (field.to_text(found.value), found.source) if found is not None else ("", "")
    changed = key in choice.values
    if changed:
        text, source = field.typed(choice.values[key]), "set here"
    return FormRow(
        key=key,
        title=key if common else key.rpartition(".")[2],
        section="most used" if common else key.rpartition(".")[0],
        kind="bool" if field.kind == "bool" else "pick" if field.choices else field.kind,
        text=text,
        source=source,
        short=source.partition(": formula")[0].rpartition("/")[2],
        needs=field.needs + (", or nothing" if field.optional else ""),
        help=field.help,
        changed=changed,
        fault=seen.fault_of(key) if seen is not None and seen.choice == choice else "",
    )


def changed(choice: LaunchRequest, seen: Review | None, key: str, text: str) -> LaunchRequest:
    """The choice after a row was given another text."""
    match key:
        case "what":
            return replace(choice, what=cast(What, text))
        case "recipe":
            return LaunchRequest(text, choice.what, name=choice.name, datasets=choice.datasets, draft=choice.draft)
        case "base" | "draft" | "algorithm":
            return replace(choice, parts={**choice.parts, key: text})
        case "datasets":
            return replace(choice, datasets=tuple(text.split()))
        case "from":
            return replace(choice, draft=text)
        case "name":
            return replace(choice, name=text.strip())
        case "gpus":
            words = text.split()
            rest = {
                name: at for name, at in choice.values.items() if name not in ("resources.gpus", "resources.num_gpus")
            }
            if words:
                rest |= {"resources.gpus": set_text(words), "resources.num_gpus": str(len(words))}
            return replace(choice, values=rest)
    value, _ = fields_of(choice, seen)[key].read(text)
    return replace(choice, values={**choice.values, key: set_text(value)})


def reset(choice: LaunchRequest, key: str) -> LaunchRequest:
    """The choice without what was chosen for a row."""
    if key in ("name", "from", "datasets", "gpus"):
        return changed(choice, None, key, "")
    values = {name: text for name, text in choice.values.items() if name != key}
    parts = {name: text for name, text in choice.parts.items() if name != key}
    return replace(choice, values=values, parts=parts)


# --- what can be picked -----------------------------------------------------------------------------------------------


def items_for(workbench: Workbench, choice: LaunchRequest, seen: Review | None, key: str) -> list[Choice]:
    """What a row can be. Blocks: it reads the registry, the presets or the GPUs."""
    match key:
        case "what":
            return [Choice(name, name, note) for name, note in WHATS.items()]
        case "recipe":
            return [Choice(line.name, line.name, line.summary, line.problem) for line in list_presets("recipe")]
        case "base" | "draft" | "algorithm":
            return [Choice(name, name, note, _misfit(choice, seen, key, name)) for name, note in names(key).items()]
        case "datasets" | "from":
            return _products(workbench, *(("dataset", "hidden_states") if key == "datasets" else ("train", "draft")))
        case "gpus":
            return [
                Choice(
                    str(status.gpu.index),
                    str(status.gpu.index),
                    f"{status.gpu.name}, {size(status.gpu.free_mib << 20)} free, {status.state} {status.run_id}",
                )
                for status in workbench.gpus().gpus
            ]
    return [Choice(word, word) for word in fields_of(choice, seen)[key].choices]


def _products(workbench: Workbench, stage: str, folder: str) -> list[Choice]:
    found = []
    for run in workbench.runs(stage=stage):
        made = (workbench.paths(run.run_id).folder / folder).is_dir()
        if made or run.state in UNFINISHED:
            problem = "" if run.state == "succeeded" else f"it is {run.state}"
            found.append(
                Choice(
                    run.run_id, run.run_id, " ".join(part for part in (run.name, run.recipe, run.base) if part), problem
                )
            )
    return found


def _misfit(choice: LaunchRequest, seen: Review | None, part: str, name: str) -> str:
    """Why a base does not fit the draft chosen now, or a draft the base."""
    if seen is None or part == "algorithm":
        return ""
    other = part_of(choice, seen, "draft" if part == "base" else "base")
    for pair in seen.pairs:
        mine, its = (pair.base, pair.draft) if part == "base" else (pair.draft, pair.base)
        if (mine, its) == (name, other):
            return pair.problem
    return ""


# --- cost -------------------------------------------------------------------------------------------------------------


def cost_text(seen: Review, *, roomy: bool) -> Content:
    """What a choice costs, whether it fits, and notes; one line per stage, or with `roomy` every figure."""
    lines = [_summary(seen)]
    for stage, made in seen.plans.items():
        lines += _stage(stage, made, roomy)
    if roomy:
        lines.append(Content(""))
    lines += [_line("✖", str(fault), "$text-error") for fault in seen.faults]
    lines += [_line("!", f"does not fit: {text}", "$text-warning") for text in seen.refusals]
    lines += [_line("·", text, _MUTED) for text in seen.notes]
    if roomy:
        expected = dict.fromkeys(tree.sentence for made in seen.plans.values() for tree in made.trees)
        lines += [_line("·", f"expected: {text}", _MUTED) for text in expected]
        assumed = dict.fromkeys(text for made in seen.plans.values() for text in made.assumptions)
        lines += [_line("·", f"assumed: {text}", _MUTED) for text in assumed]
    return Content("\n").join(lines)


def _summary(seen: Review) -> Content:
    if seen.faults:
        number = len(seen.faults)
        text = "1 value is invalid" if number == 1 else f"{number} values are invalid"
        return Content.assemble(("✖ cannot start: ", "bold $text-error"), (text, "$text-error"))
    plans = seen.plans.values()
    known = [made.seconds for made in plans if made.seconds is not None]
    time = f"about {duration(sum(known))}" if len(known) == len(plans) else "time not known beforehand"
    whole = f"{time}, {size(sum(made.disk_bytes for made in plans))} on disk"
    if seen.refusals:
        return Content.assemble(("! does not fit  ", "bold $text-warning"), whole)
    return Content.assemble(("✔ ready  ", "bold $text-success"), whole)


def _stage(stage: str, made: Plan, roomy: bool) -> list[Content]:
    sign, style = ("▪", "$primary") if made.fits else ("✖", "$text-error")
    time = "unknown" if made.seconds is None else duration(made.seconds)
    gpu = made.device == "cuda"
    device = f"GPU memory{f' x {made.num_devices}' if made.num_devices > 1 else ''}" if gpu else "memory"
    head = Content.assemble(
        (f"{sign} ", style),
        (f"{stage:<8}", "bold"),
        f" {time:>7}  {size(made.device_bytes):>8} {device}  {size(made.disk_bytes):>8} disk",
    )
    if not roomy:
        return [head]
    free_bytes = made.free_device_bytes if gpu else made.free_memory_bytes
    free = "unknown" if free_bytes is None else size(free_bytes)
    draft = f", draft {count(made.draft.total)}" if made.draft is not None else ""
    about = [
        *([f"{count(made.samples)} conversations"] if made.samples is not None else []),
        *([f"{count(made.tokens)} tokens"] if made.tokens is not None else []),
        *([f"{made.steps:,} steps at most"] if made.steps is not None else []),
    ]
    details = [
        f"base {count(made.base.total)}{draft}",
        ", ".join(about),
        f"free: {free} {device}, {size(made.free_disk_bytes)} disk",
    ]
    return [Content(""), head, *(_line(" ", text, _MUTED) for text in details if text)]


def _line(sign: str, text: str, style: str) -> Content:
    return Content.assemble((f"{sign} {safe(text)}", style))
