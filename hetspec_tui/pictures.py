"""Pictures of the screen: SVG always, PNG beside it where a program or library that draws SVG is there."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
from pathlib import Path

from hetspec_core.files import write_atomic

_FONT = "DejaVu Sans Mono"  # what such programs have; the web font of the SVG they would have to fetch
_FONT_SIZE_PX = 20.26  # at which its letters have the width of the cells, so that lines are not broken
_TIMEOUT_S = 30


def save_picture(folder: Path, name: str, svg: str, *, zoom: float = 1.0) -> list[Path]:
    """Write NAME.svg, and NAME.png in this size if it can be made; gives the files.

    Raises:
        OSError: the folder cannot be written.
    """
    files = [folder / f"{name}.svg"]
    write_atomic(files[0], svg)
    png = draw_png(svg, zoom)
    if png:
        files.append(folder / f"{name}.png")
        write_atomic(files[1], png)
    return files


def draw_png(svg: str, zoom: float = 1.0) -> bytes:
    """The SVG as PNG; empty when nothing here can draw it."""
    svg = svg.replace("Fira Code", _FONT).replace("font-size: 20px", f"font-size: {_FONT_SIZE_PX}px")
    svg = svg.replace("<svg ", '<svg xml:space="preserve" ', 1).replace("&#160;", " ")  # which some drop at the edges
    program = shutil.which("rsvg-convert")
    if program:
        try:
            done = subprocess.run(
                [program, "--format=png", f"--zoom={zoom}"],
                input=svg.encode(),
                capture_output=True,
                check=False,
                timeout=_TIMEOUT_S,
            )
        except (OSError, subprocess.TimeoutExpired):
            return b""
        return done.stdout if done.returncode == 0 else b""
    if importlib.util.find_spec("cairosvg"):
        try:
            return importlib.import_module("cairosvg").svg2png(bytestring=svg.encode(), scale=zoom)
        except Exception:  # it has many, and a picture in one format is enough
            return b""
    return b""
