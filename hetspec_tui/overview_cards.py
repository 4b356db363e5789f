"""How runs and GPUs look on the dashboard: cards of styled text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.cells import cell_len

from hetspec_tui.formatting import (
    STATE_COLOURS,
    STATE_SIGNS,
    ago,
    area,
    bar,
    duration,
    meter,
    number,
    safe,
    size,
    sparkline,
)
from hetspec_tui.widgets.cards import CardVisual, Line
from hetspec_tui.widgets.cells import fit

if TYPE_CHECKING:
    from hetspec_core.service.gpus import GpuReport
    from hetspec_core.service.overview import Concern, LiveRun, Overview
    from hetspec_core.service.report import RunSummary

Piece = tuple[str, str]
DIM, FAINT, BAD = "$text-muted", "$text-disabled", "$text-error"
_MIB = 1 << 20
_OWNER_CELLS = 24
_AGE = 8
HOT_C, WARM_C = 85, 75


def title_of(run: RunSummary) -> str:
    """What a run is called: its name, or its id when it has none."""
    return safe(run.name or run.run_id)


# --- runs at work and waiting -----------------------------------------------------------------------------------------


def live_card(run: LiveRun, now: float, *, chart_lines: int = 0) -> CardVisual:
    """A run at work: what it is, how far it is, its key metric; with its curve in so many lines where there is room."""
    lines = chart_lines if len(run.curve) > 1 else 0
    return CardVisual(run.summary.run_id, 2 + (lines + 1 if lines else 0), partial(_live_lines, run, now, lines))


def _live_lines(live: LiveRun, now: float, chart_lines: int, width: int) -> list[Line]:
    run = live.summary
    sign: Piece = (f"{STATE_SIGNS[run.state]} ", STATE_COLOURS[run.state])
    facts = "  ".join(word for word in (run.stage, _parts(run), _since(run, now)) if word)
    name_width = max(16, min(cell_len(title_of(run)) + 2, width - 2 - min(cell_len(facts), width // 2)))
    first: Line = [sign, (fit(title_of(run), name_width), "bold"), (fit(facts, width - 2 - name_width), DIM)]
    share = run.progress
    percent = f"{share * 100:4.0f}%" if share is not None else "  ..."
    eta = f"  eta {duration(live.eta_s)}" if live.eta_s is not None else f"  {run.task or run.state}"
    has_curve = len(live.curve) > 1 and width >= 50
    bar_width = max(8, min(40, width // 3))
    full, empty = bar(share, bar_width)
    second: list[Piece] = [
        ("  ", ""),
        (full, STATE_COLOURS[run.state]),
        (empty, FAINT),
        (percent, "bold"),
        (fit(eta, 14), DIM),
    ]
    if has_curve:
        newest = next((value for value in reversed(live.curve) if value is not None), None)
        label = f" {live.metric.rpartition('/')[2]} {number(newest)} "
        room = width - 2 - bar_width - 5 - 14 - cell_len(label)
        second += [(label, ""), ("" if chart_lines else sparkline(live.curve, max(0, min(room, 60))), "$accent")]
    elif run.unit and run.done is not None:
        second.append((f" {number(run.done)}/{number(run.total)} {safe(run.unit)}", DIM))
    return [first, second, *_chart(live.curve, width, chart_lines)]


def _chart(curve: Sequence[float | None], width: int, height: int) -> list[Line]:
    known = [value for value in curve if value is not None]
    if not known or not height:
        return []
    labels = {0: number(max(known), 3), height - 1: number(min(known), 3)}
    lines: list[Line] = []
    for place, line in enumerate(area(curve, max(8, min(width - 12, 120)), height)):
        lines.append([(f"  {labels.get(place, ''):>7} ", DIM), ("│", FAINT), (line, "$primary")])
    return [*lines, []]


def queued_card(run: RunSummary, place: int, now: float) -> CardVisual:
    """A run that waits."""
    return CardVisual(run.run_id, 1, partial(_queued_lines, run, place, now))


def _queued_lines(run: RunSummary, place: int, now: float, width: int) -> list[Line]:
    why = safe(run.waits.removeprefix("waits "))
    facts = f"{run.stage}  waits {duration(now - run.created)} {why}, place {place}  {_parts(run)}".replace(" ,", ",")
    name_width = max(16, width - 2 - min(cell_len(facts) + 1, width * 2 // 3))
    return [
        [
            (f"{STATE_SIGNS[run.state]} ", STATE_COLOURS[run.state]),
            (fit(title_of(run), name_width), ""),
            (fit(facts, width - 2 - name_width), DIM),
        ]
    ]


def _parts(run: RunSummary) -> str:
    return " · ".join(safe(part) for part in (run.base, run.draft) if part)


def _since(run: RunSummary, now: float) -> str:
    return "" if run.started is None else f"for {duration(now - run.started)}"


# --- results and concerns ---------------------------------------------------------------------------------------------


def recent_card(run: RunSummary, now: float) -> CardVisual:
    """A run that has ended: what came out."""
    return CardVisual(run.run_id, 1, partial(_recent_lines, run, now))


def _recent_lines(run: RunSummary, now: float, width: int) -> list[Line]:
    age = ago(now - (run.ended or run.created))
    age = age if age == "now" else f"{age} ago"
    result = _result(run)
    left = width - 2 - _AGE
    result_width = min(22 if left >= 50 else 19 if left >= 32 else 12, left * 3 // 5)
    stage_width = 9 if left - result_width >= 30 else 0
    name_width = max(0, left - result_width - stage_width)
    return [
        [
            (f"{STATE_SIGNS[run.state]} ", STATE_COLOURS[run.state]),
            (fit(f"{title_of(run)} ", name_width), ""),
            (fit(run.stage, stage_width), DIM),
            (fit(result, result_width), "bold" if run.state == "succeeded" else STATE_COLOURS[run.state]),
            (f"{age:>{_AGE}}", DIM),
        ]
    ]


def _result(run: RunSummary) -> str:
    if run.state != "succeeded":
        return run.state
    words = []
    if run.accept_length is not None:
        words.append(f"accept {run.accept_length:4.2f}")
    if run.speedup is not None:
        words.append(f"{run.speedup:.2f}x")
    return "  ".join(words) or (duration(run.ended - run.started) if run.ended and run.started else "done")


def concern_card(concern: Concern, number_: int, now: float) -> CardVisual:
    """Something that needs attention; its key is the run's id, or `!` and its number."""
    key = concern.run.run_id if concern.run is not None else f"!{number_}"
    return CardVisual(key, 2, partial(_concern_lines, concern, now))


def _concern_lines(concern: Concern, now: float, width: int) -> list[Line]:
    run = concern.run
    if run is None:
        return [[("! ", "$warning"), (concern.text, "bold $warning")], [("  ", ""), (concern.hint, DIM)]]
    ended = ago(now - (run.ended or run.created))
    name_width = min(cell_len(title_of(run)) + 1, max(10, width - 24))
    first: Line = [
        (f"{STATE_SIGNS[run.state]} ", BAD),
        (fit(title_of(run), name_width), "bold"),
        (f" {concern.kind} {ended} ago" if ended != "now" else f" {concern.kind} just now", BAD),
    ]
    return [first, [("  ", ""), (safe(concern.text), DIM)]]


# --- GPUs and the line above ------------------------------------------------------------------------------------------


def gpu_cards(report: GpuReport, runs: Mapping[str, str]) -> list[CardVisual]:
    """One card for each GPU; `runs` are the names of runs by id. Their key is the run's id, or `gpu` and the index."""
    cards = []
    for status in report.gpus:
        key = status.run_id or f"gpu{status.gpu.index}"
        if any(card.key == key for card in cards):  # a run with several
            key = f"{key} {status.gpu.index}"
        cards.append(CardVisual(key, 1, partial(_gpu_lines, status, runs)))
    return cards


def _gpu_lines(status: object, runs: Mapping[str, str], width: int) -> list[Line]:
    gpu = status.gpu  # type: ignore[attr-defined]
    run_id, state = status.run_id, status.state  # type: ignore[attr-defined]
    used = gpu.memory_mib - gpu.free_mib
    load = None if gpu.utilisation is None else gpu.utilisation / 100
    share = used / gpu.memory_mib if gpu.memory_mib else None
    wide = width >= 100
    owner = runs.get(run_id, run_id) if run_id else "busy (not ours)" if state == "busy" else state
    room = width - 3 - min(cell_len(owner) + 4, _OWNER_CELLS)  # the owner stays readable when other parts are cut
    meter_width = 14 if wide else 8 if room >= 36 else 4
    room -= 2 * meter_width + (35 if wide else 20)
    has_heat = gpu.temperature_c is not None and room >= 6
    room -= 6 if has_heat else 0
    name_width = min(18, room) if room >= 9 else 0
    has_power = gpu.power_w is not None and room - name_width >= 7
    pieces: list[Piece] = [(f"{gpu.index:>2} ", "bold")]
    if name_width:
        pieces.append((fit(safe(_short(gpu.name)), name_width - 1) + " ", DIM))
    for label, part, text in (
        ("util ", load, "  ?%" if load is None else f"{gpu.utilisation:3d}%"),
        (
            " mem ",
            share,
            f"{size(used * _MIB)}/{size(gpu.memory_mib * _MIB)}" if wide else f"{(share or 0) * 100:3.0f}%",
        ),
    ):
        full, empty = meter(part, meter_width)
        pieces += [(label, DIM), (full, _heat(part)), (empty, FAINT), (f" {text}", "")]
    if has_heat and gpu.temperature_c is not None:
        ink = BAD if gpu.temperature_c >= HOT_C else "$warning" if gpu.temperature_c >= WARM_C else DIM
        pieces.append((f" {gpu.temperature_c:3d}°C", ink))
    if has_power:
        pieces.append((f" {gpu.power_w:4.0f} W", DIM))
    if run_id:
        pieces += [("  ▶ ", "$primary"), (owner, "bold")]
    else:
        pieces.append((f"  {owner}", "$warning" if state == "busy" else DIM))
    return [pieces]


def _short(name: str) -> str:
    return name.removeprefix("NVIDIA ").removeprefix("GeForce ")


def _heat(share: float | None) -> str:
    return DIM if share is None else BAD if share >= 0.95 else "$warning" if share >= 0.8 else "$success"


def totals(overview: Overview) -> list[Piece]:
    """One line: how many runs are in which state, and the room on the disk."""
    order: Sequence[str] = ("running", "starting", "queued", "succeeded", "failed", "cancelled", "lost", "unreadable")
    pieces: list[Piece] = []
    for state in order:
        if many := overview.counts.get(state, 0):
            pieces += [(f" {STATE_SIGNS[state]} ", f"bold {STATE_COLOURS[state]}"), (f"{many:,} {state} ", "")]
    pieces.append((f"  {overview.free_bytes / 1e9:,.0f} GB free", DIM))
    return pieces
