"""Pictures (SVG and PNG) of what `scripts/tmux_tour.sh` saw: the terminal's own cells, not the app's word for them.

HETSPEC_HOME=... scripts/tmux_tour.sh FOLDER && python scripts/tmux_pictures.py FOLDER [--out docs/screenshots]
[--only dashboard run help]
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from hetspec_tui.pictures import save_picture

ZOOM = 0.75


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the tour wrote its NAME.ansi")
    parser.add_argument("--out", type=Path, default=Path("docs/screenshots"))
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these screens; all when absent")
    options = parser.parse_args()
    seen = {path.stem: path for path in sorted(options.folder.glob("*.ansi"))}
    wanted = options.only or list(seen)
    if missing := [name for name in wanted if name not in seen]:
        there = ", ".join(seen) or "nothing"
        print(
            f"error: {options.folder} has no {missing[0]}.ansi; there is {there}: run the tour first", file=sys.stderr
        )
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        svg = draw(seen[name].read_text(encoding="utf-8"), name)
        for file in save_picture(options.out, f"tmux-{name}", svg, zoom=ZOOM):
            print(file)
    return 0


def draw(captured: str, title: str) -> str:
    """What `tmux capture-pane -e` printed, as SVG."""
    lines = [Text.from_ansi(line) for line in captured.splitlines()]
    width = max((line.cell_len for line in lines), default=1)
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        console.print(line, no_wrap=True, overflow="crop", soft_wrap=True)
    return console.export_svg(title=f"hetspec in tmux: {title}", theme=MONOKAI, unique_id=f"tmux-{title}")


if __name__ == "__main__":
    sys.exit(main())
