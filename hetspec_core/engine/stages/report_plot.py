"""Pareto plots as a picture: the engine's side of `hetspec-core report --png`.

matplotlib belongs to the extra `report` and is imported only here, in a child process.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from hetspec_core.engine.reporting import answer
from hetspec_core.errors import ResourceError
from hetspec_core.files import write_output

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def draw(plots: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    """Draw plots side by side into a PNG file.

    Args:
        plots: each with title, across, up (names of the axes) and points (label, x, y, front).
        path: the file.

    Raises:
        ResourceError: matplotlib is not installed.
        HetSpecError: the file cannot be written; the message says why.
    """
    try:  # by name: who has no need of pictures has no matplotlib
        figures = importlib.import_module("matplotlib.figure")
        canvases = importlib.import_module("matplotlib.backends.backend_agg")
    except ImportError:
        raise ResourceError(
            "matplotlib is not installed, and pictures are drawn with it", hint='pip install "hetspec[report]"'
        ) from None
    most = max((len(plot["points"]) for plot in plots), default=0)
    figure = figures.Figure(figsize=(7.0 * len(plots), 5.2 + 0.1 * most), layout="constrained")
    canvases.FigureCanvasAgg(figure)
    for number, plot in enumerate(plots, 1):
        axes = figure.add_subplot(1, len(plots), number)
        best = sorted((point["x"], point["y"]) for point in plot["points"] if point["front"])
        if best:
            axes.plot(*zip(*best), color="#1b7837", linewidth=1.2, zorder=1)
        for index, point in enumerate(plot["points"]):
            colour, letter = "#1b7837" if point["front"] else "#8c959f", _LETTERS[index % len(_LETTERS)]
            label = f"{letter}  {point['label']}".replace("$", r"\$")  # a dollar would begin mathematics
            axes.scatter([point["x"]], [point["y"]], color=colour, s=36, zorder=2, label=label)
            axes.annotate(
                letter,
                (point["x"], point["y"]),
                fontsize=8,
                xytext=(4 + 6 * (index % 3), 4),
                textcoords="offset points",
            )
        # The names are below the plot, because they would overlap beside the points.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=7, ncols=2, markerscale=0.6)
        axes.set_title(plot["title"])
        axes.set_xlabel(plot["across"])
        axes.set_ylabel(plot["up"])
        axes.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_output(path, picture.getvalue())
    return {"file": str(path), "plots": len(plots), "points": sum(len(plot["points"]) for plot in plots)}


def main(arguments: list[str] | None = None) -> int:
    """Command line of the module: the file, and the plots as JSON."""
    path, plots = (sys.argv[1:] if arguments is None else arguments)[:2]
    return answer(lambda: draw(json.loads(plots), Path(path)))


if __name__ == "__main__":
    sys.exit(main())
