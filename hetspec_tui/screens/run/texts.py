"""A run in words: the two lines above its panes, its workers, files, results and settings."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from textual.content import Content
from textual.widgets import Static

from hetspec_core.documents import flatten
from hetspec_core.events import AT_WORK
from hetspec_core.service.bench_view import Bars, Grid, Part, bench_lines, is_bench, is_tuning, tune_lines
from hetspec_core.service.run_news import exit_words
from hetspec_tui.formatting import STATE_COLOURS, STATE_SIGNS, count, duration, number, safe, size

if TYPE_CHECKING:
    from hetspec_core.events import Artifact, CheckpointSaved
    from hetspec_core.service.gpus import GpuReport
    from hetspec_core.service.presets import ResolvedValue
    from hetspec_core.service.report import RunSummary
    from hetspec_core.service.run_news import WorkerFacts

_SAMPLES_S = 60.0
MUTED = "$foreground-muted"
_EIGHTHS = " ▏▎▍▌▋▊▉"
BAR_CELLS = 28
_NAME_CELLS, _VALUE_CELLS = 44, 24
_ROOMY_CELLS = 100


class RunHead(Static):
    """State, name, stage; progress, elapsed time, time left, key figures; of a failed run its error."""

    DEFAULT_CSS = """
    RunHead { height: 2; padding: 0 1; background: $surface; text-wrap: nowrap; text-overflow: ellipsis; }
    RunHead.-failed { background: $error 20%; }
    """

    def __init__(self) -> None:
        super().__init__(id="run-head", markup=False)
        self._samples: deque[tuple[float, float]] = deque()
        self._run: RunSummary | None = None
        self._deleted = False

    def show(self, run: RunSummary) -> None:
        now = time.monotonic()
        if self._run is None or run.task != self._run.task or (run.done or 0) < (self._run.done or 0):
            self._samples.clear()
        if run.done is not None and (not self._samples or self._samples[-1][1] != run.done):
            self._samples.append((now, run.done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _SAMPLES_S:
            self._samples.popleft()
        self._run = run
        self.draw()

    def show_deleted(self) -> None:
        self._deleted = True
        self.draw()

    def draw(self) -> None:
        if self._run is not None:
            self.set_class(self._run.state in ("failed", "lost", "unreadable") or self._deleted, "-failed")
            self.update(head(self._run, self.size.width - 2, self.time_left(), deleted=self._deleted))

    def on_resize(self) -> None:
        self.draw()

    def time_left(self) -> float | None:
        """Seconds to the end of the present task, by the speed of the last minute; None = cannot be told."""
        run = self._run
        if run is None or run.state not in AT_WORK or not run.total or run.done is None or len(self._samples) < 2:
            return None
        (first_time, first), (last_time, last) = self._samples[0], self._samples[-1]
        if last <= first or last_time <= first_time or last >= run.total:
            return None
        return (run.total - last) * (last_time - first_time) / (last - first)


def runtime_s(run: RunSummary) -> float | None:
    """Seconds since the first start, to the end if it has ended."""
    if run.started is None:
        return None
    return max(0.0, (run.ended or time.time()) - run.started)


def head(run: RunSummary, width: int, left_s: float | None, *, deleted: bool = False) -> Content:
    """The two lines."""
    state = "deleted" if deleted else run.state
    sign, colour = STATE_SIGNS.get(state, "✖"), STATE_COLOURS.get(state, "$error")
    parts = [
        Content.styled(f"{sign} {state}", f"bold {colour}"),
        Content.styled(safe(run.name) or run.run_id, "bold"),
        Content(run.stage),
    ]
    if run.name:
        parts.append(Content.styled(run.run_id, MUTED))
    if run.starred:
        parts.append(Content.styled("★", "$warning"))
    parts += [Content.styled(f"#{safe(tag)}", "$accent") for tag in run.tags]
    first = Content("  ").join(parts)
    return Content("\n").join([first, _second(run, width, left_s, deleted)])


def _second(run: RunSummary, width: int, left_s: float | None, deleted: bool) -> Content:
    if deleted:
        return Content.styled("Its folder is not there any more: it was deleted or moved. esc goes back.", "$error")
    if run.error and run.state == "unreadable":
        return Content.styled(f"It cannot be read: {safe(run.error['message'])}", "$error")
    if run.error and run.state == "failed":
        text = safe(run.error["message"].split("\n")[0])
        return Content.styled(f"{text}  ", "$error") + Content.styled("e: what went wrong", "bold")
    if run.state == "lost":
        return Content.styled("its worker exited without an end event  ", "$error") + Content.styled(
            "e: what went wrong", "bold"
        )
    parts: list[Content] = []
    if run.progress is not None:
        cells = max(6, min(24, width // 5))
        filled = round(run.progress * cells)
        bar = Content.styled("━" * filled, STATE_COLOURS[run.state]) + Content.styled("─" * (cells - filled), MUTED)
        parts.append(bar + Content(f" {run.progress:.0%}"))
    if run.done is None and run.task and run.state in AT_WORK:
        parts.append(Content(safe(run.task)))
    if run.done is not None:
        total = f"/{count(run.total)}" if run.total else ""
        parts.append(Content(f"{safe(run.task)} {count(run.done)}{total} {safe(run.unit)}".strip()))
    if run.waits:
        parts.append(Content(safe(run.waits)))
    parts.append(Content.styled("not begun", MUTED) if run.started is None else Content(duration(runtime_s(run))))
    if left_s is not None:
        parts.append(Content.styled(f"{duration(left_s)} left", "bold"))
    if run.accept_length is not None:
        parts.append(Content(f"accept length {number(run.accept_length, 3)}"))
    if run.speedup is not None:
        parts.append(Content(f"speedup {number(run.speedup, 3)}"))
    if run.note:
        parts.append(Content.styled(safe(run.note), f"italic {MUTED}"))
    return Content("  ").join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> Content:
    """Rows under a head, in columns as wide as they need to be.

    Args:
        head: names of the columns.
        rows: cells; what a row lacks is empty.
        right: columns that stand at the right.
    """
    cells = [[safe(cell) for cell in row] + [""] * (len(head) - len(row)) for row in rows]
    widths = [max(cell_len(row[at]) for row in [list(head), *cells]) for at in range(len(head))]

    def line(row: Sequence[str]) -> str:
        parts = []
        for at, cell in enumerate(row):
            blank = " " * (widths[at] - cell_len(cell))
            parts.append(blank + cell if at in right else cell + blank)
        return "  ".join(parts).rstrip()

    lines = [Content.styled(line(head), f"bold {MUTED}"), *(Content(line(row)) for row in cells)]
    return Content("\n").join(lines)


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """A bar of eighths of cells."""
    eighths = round(max(0.0, min(1.0, share)) * cells * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def workers_text(workers: Sequence[WorkerFacts], gpus: GpuReport | None, run_id: str) -> Content:
    """Workers of all attempts, then the GPUs that the run has."""
    if not workers:
        return _muted("It was not started yet. Its workers will be here.")
    rows = []
    for one in workers:
        ended = "" if one.ended is None else exit_words(one.exit_status)
        took = "" if one.started is None else duration((one.ended or time.time()) - one.started)
        if one.name == "supervisor":
            took = ""
        started = "" if one.started is None else time.strftime("%m-%d %H:%M:%S", time.localtime(one.started))
        pid = "" if one.pid is None else str(one.pid)
        rows.append((str(one.attempt), one.name, pid, one.host, started, took, ended))
    parts = [table(("attempt", "worker", "process", "host", "started", "took", "ended with"), rows, right=(0, 2))]
    if gpus is not None:
        parts.append(Content(""))
        own = [status for status in gpus.gpus if status.run_id == run_id]
        if own:
            rows = [
                (
                    str(status.gpu.index),
                    status.gpu.name,
                    "-" if status.gpu.utilisation is None else f"{status.gpu.utilisation} %",
                    _memory(status.gpu.memory_mib - status.gpu.free_mib, status.gpu.memory_mib),
                    "-" if status.gpu.temperature_c is None else f"{status.gpu.temperature_c} °C",
                )
                for status in own
            ]
            parts.append(table(("GPU", "name", "busy", "memory", "temperature"), rows, right=(0, 2, 3, 4)))
        else:
            parts.append(_muted("It has no GPU." if gpus.gpus else f"No GPU here: {safe(gpus.reason)}"))
    return Content("\n").join(parts)


def _memory(used_mib: int, all_mib: int) -> str:
    return f"{size(used_mib * 2**20)} / {size(all_mib * 2**20)}"


def files_text(
    checkpoints: Sequence[CheckpointSaved], artifacts: Sequence[Artifact], files: Mapping[str, int], folder: str
) -> Content:
    """Checkpoints, what was made, and what lies in the folder."""
    parts = [Content(safe(folder)), Content("")]
    if artifacts:
        rows = [(one.kind, one.path, _short(one.summary)) for one in artifacts]
        parts += [table(("made", "where", "what"), rows), Content("")]
    if checkpoints:
        rows = [
            (f"{one.step:,}", "best" if one.best else "", one.path, _short(one.values))
            for one in sorted(checkpoints, key=lambda one: -one.step)
        ]
        parts += [table(("step", "", "checkpoint", "values"), rows, right=(0,)), Content("")]
    rows = [(name, size(bytes_)) for name, bytes_ in files.items()]
    parts.append(table(("in the folder", "size"), rows, right=(1,)))
    return Content("\n").join(parts)


def results_text(results: Mapping[str, Any]) -> Content:
    """All results; of a bench and a tuning what their commands print, with distributions as bars."""
    if not results:
        return _muted("No result yet. A bench has its tables here, a training its last evaluation.")
    parts: list[Content] = []
    for kind, data in results.items():
        if parts:
            parts.append(Content(""))
        parts.append(Content.styled(safe(kind), "bold $accent"))
        if is_bench(data) or is_tuning(data):
            parts += _measured(bench_lines(data) if is_bench(data) else tune_lines(data))
        else:
            parts.append(table(("name", "value"), _value_rows(data)))
    return Content("\n").join(parts)


def _measured(shown: Sequence[Part]) -> list[Content]:
    parts: list[Content] = []
    for part in shown:
        if isinstance(part, Grid):
            parts += [Content(""), table(part.head, part.rows, right=part.figures), Content("")]
        elif isinstance(part, Bars):
            parts += [Content(""), Content.styled(safe(part.title), "bold")]
            parts += [_bar_line(bar.name, bar.length, bar.figures) for bar in part.bars]
        else:
            parts.append(Content.styled(safe(part.text), "$warning") if part.warning else Content(safe(part.text)))
    return parts


def _bar_line(name: str, share: float, figures: str) -> Content:
    drawn = Content.styled(f"{bar(share):<{BAR_CELLS}}", "$primary")
    return Content(f"{safe(name):>4}  ") + drawn + Content(f"  {safe(figures)}")


def _value_rows(data: Any) -> list[tuple[str, str]]:
    """The values of a result by dotted name, as they are shown."""
    values = flatten(data, keep_empty=False) if isinstance(data, dict) else {"": data}
    return [(name, number(value) if isinstance(value, float) else str(value)) for name, value in values.items()]


def setting_lines(values: Sequence[ResolvedValue], width: int = 0) -> list[str]:
    """Settings, one a line, with names and values in columns, and where each value came from when that is known.

    Args:
        values: the settings.
        width: cells after which lines are broken, if they are: what does not fit has its source at the beginning of a
            row of its own, in the same line, so that a filter finds both.
    """
    small = 0 < width < _ROOMY_CELLS
    names = min(width * 2 // 5 if small else _NAME_CELLS, max((cell_len(safe(one.key)) for one in values), default=0))
    shown = [safe(repr(one.value) if isinstance(one.value, str) else str(one.value)) for one in values]
    wide = min(width // 6 if small else _VALUE_CELLS, max((cell_len(text) for text in shown), default=0))
    lines = []
    for one, text in zip(values, shown):
        name = safe(one.key)
        line = f"{name}{' ' * (names - cell_len(name))}  {text}"
        if one.source:
            source = f"  <- {safe(one.source)}"
            beside = line + " " * (wide - cell_len(text)) + source
            below = f"{line}{' ' * (-cell_len(line) % max(1, width))}  {source}"
            line = below if 0 < width < cell_len(beside) else beside
        lines.append(line)
    return lines


def _short(values: Mapping[str, Any]) -> str:
    shown = [f"{name} {_number(value) if isinstance(value, int | float) else value}" for name, value in values.items()]
    return ", ".join(shown[:4])


def _number(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else "-" if value is None else str(value)


def _muted(text: str) -> Content:
    return Content.styled(text, MUTED)


def recent_text(sentences: Sequence[str]) -> Content:
    """The newest events, each as its time and what happened."""
    lines = []
    for said in sentences:
        clock, _, rest = said.partition("  ")
        lines.append(Content.styled(clock[-8:], MUTED) + Content(f" {rest.partition('  ')[2].strip()}"))
    return Content("\n").join(lines)


def facts_text(run: RunSummary, checkpoints: Sequence[CheckpointSaved]) -> Content:
    """The facts of a run, for the side of a wide screen."""
    best = next((one for one in reversed(checkpoints) if one.best), None)
    rows = [
        ("run", run.run_id),
        ("stage", run.stage),
        ("recipe", run.recipe),
        ("base", run.base),
        ("draft", run.draft),
        ("algorithm", run.algorithm),
        ("attempt", str(run.attempt) if run.attempt else ""),
        ("step", f"{run.step:,}" if run.step is not None else ""),
        ("tokens", f"{run.tokens:,}" if run.tokens is not None else ""),
        ("accept length", _number(run.accept_length) if run.accept_length is not None else ""),
        ("speedup", _number(run.speedup) if run.speedup is not None else ""),
        ("best", f"step {best.step:,}" if best else ""),
        ("depends on", ", ".join(run.parents)),
        ("tags", " ".join(run.tags)),
        ("note", run.note),
        ("spec", run.spec_hash),
    ]
    lines = []
    for name, value in rows:
        if value:
            lines.append(Content.styled(f"{name:<14}", MUTED) + Content(safe(value)))
    return Content("\n").join(lines)
