"""How events become lines and bars."""

from __future__ import annotations

import pytest

from hetspec_core.cli import follow as module
from hetspec_core.cli.console import error_console
from hetspec_core.cli.follow import PlainView, TerminalView, metric_line, progress_line
from hetspec_core.events import CheckpointSaved, Log, Metric, Progress, RunStarted

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_lines_of_a_task_come_every_two_seconds_and_the_last_always(clock: list[float], capsys: Capture) -> None:
    with PlainView() as view:
        for done in range(101):
            clock[0] += 0.1
            view.show(Progress(task="train", done=done, total=100, unit="steps"))
            view.show(Progress(task="count", done=done))
    lines = capsys.readouterr().err.splitlines()
    train = [line for line in lines if line.startswith("train")]
    assert train[0] == "train: 0/100 steps (0%)" and train[-1] == "train: 100/100 steps (100%)"
    assert 5 <= len(train) <= 7
    assert [line for line in lines if line.startswith("count")][-1] == "count: 100"


def test_metrics_of_different_kinds_do_not_hide_each_other(clock: list[float], capsys: Capture) -> None:
    with PlainView() as view:
        for step in range(5):
            view.show(Metric(step=step, values={"loss": step / 10}))
        view.show(Metric(step=4, values={"eval/loss": 0.5}))
    assert capsys.readouterr().err.splitlines() == ["step 0  loss 0", "step 4  eval/loss 0.5", "step 4  loss 0.4"]


def test_what_a_worker_says_is_never_markup(capsys: Capture) -> None:
    with PlainView() as view:
        view.show(RunStarted(stage="train", pid=1, host="h"))
        view.show(Log(message="row [red]7[/red] :smile: has [/nothing]"))
        view.show(Log(level="warning", message="few rows"))
        view.show(CheckpointSaved(path="checkpoints/step-5", step=5, best=True))
    assert capsys.readouterr().err.splitlines() == [
        "row [red]7[/red] :smile: has [/nothing]",
        "warning: few rows",
        "checkpoint of step 5: checkpoints/step-5 (best so far)",
    ]


def test_bars_show_task_amount_and_note_as_they_are(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    error_console.cache_clear()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    try:
        with TerminalView() as view:
            view.show(Progress(task="[b]capture[/b]", done=1, total=4, unit="shards", note="[i]12 tok/s[/i]"))
            view.show(Progress(task="write", done=3, unit="answers"))
            view.show(Log(message="hello [x]"))
            view.show(Progress(task="[b]capture[/b]", done=4, total=4, unit="shards"))
        text = capsys.readouterr().err
    finally:
        error_console.cache_clear()
    assert "[b]capture[/b]" in text and "4/4 shards" in text and "3 answers" in text and "hello [x]" in text


def test_lines_of_progress_and_metrics() -> None:
    assert progress_line(Progress(task="a", done=1500, total=6000, unit="tokens", note="n")) == (
        "a: 1,500/6,000 tokens (25%) n"
    )
    assert progress_line(Progress(task="a", done=0, total=0)) == "a: 0/0"
    assert progress_line(Progress(task="load base", done=0, total=1, prepares=True)) == "load base"
    assert progress_line(Progress(task="load base", done=1, total=1, prepares=True)) == "load base: done"
    starting = Progress(task="start server", done=0.25, total=1, note="weights are loaded", prepares=True)
    assert progress_line(starting) == "start server: 25% weights are loaded"
    assert metric_line(Metric(step=1200, values={"loss": None, "lr": 1e-4})) == "step 1200  loss -  lr 0.0001"
