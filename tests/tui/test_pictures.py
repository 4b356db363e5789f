"""Pictures of whole screens as text, at fixed sizes and a frozen clock, compared with those in `pictures/`.

`HETSPEC_UPDATE_PICTURES=1` writes them anew; look at the difference before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from textual.pilot import Pilot

from hetspec_core.service import GpuReport, Workbench
from hetspec_tui.app import HetSpecApp
from tests.tui.driving import drive, screen_text, until
from tests.tui.homes import NOW, lively_home

FOLDER = Path(__file__).parent / "pictures"


def compare(name: str, text: str) -> None:
    path = FOLDER / f"{name}.txt"
    if os.environ.get("HETSPEC_UPDATE_PICTURES"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text + "\n")
    assert text + "\n" == path.read_text(), f"{name} looks different; see the module's docstring"


@pytest.mark.parametrize(
    ("name", "size", "lively"),
    [
        ("dashboard-80x24", (80, 24), True),
        ("dashboard-120x40", (120, 40), True),
        ("first-start-80x24", (80, 24), False),
    ],
)
def test_the_dashboard_looks_as_it_did(
    name: str, size: tuple[int, int], lively: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lively:
        lively_home(home, NOW)
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr(Workbench, "gpus", lambda self: GpuReport((), "no NVIDIA driver"))
    monkeypatch.setattr("hetspec_core.service.overview.shutil.disk_usage", lambda path: _Usage())
    monkeypatch.setattr("hetspec_tui.screens.dashboard.FIRST_STEPS", _steps())
    monkeypatch.setattr(
        "hetspec_tui.pages.installed", lambda target: target.endswith(("DashboardScreen", "RegistryScreen"))
    )

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.overview is not None and "Looking" not in screen_text(app))
        await pilot.pause()
        compare(name, screen_text(app))

    drive(act, size)


class _Usage:
    free = 123_000_000_000


def _steps() -> tuple[tuple[str, str, str, str], ...]:
    return (
        ("dashboard", "d", "Begin here", "where one is"),
        ("runs", "n", "Look at the runs", "of which there are none"),
    )
