"""The command line of `hetspec`, and `hetspec config`: the user's files, what is wrong in them, and the
schema of the settings.

Textual puts a user's key in the place of the one in the code, and of two bindings on one key the last wins without a
message. So `key_problems` looks for clashes when the dashboard starts.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from textual.binding import Binding
from textual.dom import DOMNode

from hetspec_core import __version__
from hetspec_core.errors import HetSpecError, SpecError
from hetspec_core.terminal_text import say
from hetspec_tui import pages
from hetspec_tui.settings import DashboardFiles, place_of, settings_schema

PACKAGES = ("hetspec_tui", "__main__")
"""The second is the app where it was started with `python -m`, as it is for a browser."""


@dataclass(frozen=True)
class Options:
    """How the dashboard is to be opened in this terminal; `config`: not at all, its files are to be told of."""

    read_only: bool = False
    config: bool = False


def read_command_line() -> Options:
    """The options.

    Does not come back from `--version`, `--help`, `--serve`, `config --schema`, and words that cannot be taken.
    """
    parser = argparse.ArgumentParser(
        prog="hetspec",
        description="The terminal dashboard of HetSpec. Every command of it is also there as `hetspec-core`.",
    )
    parser.add_argument("--version", action="version", version=f"HetSpec {__version__}")
    parser.add_argument("--read-only", action="store_true", help="look only: start, stop and change nothing")
    web = parser.add_argument_group("in a browser")
    web.add_argument("--serve", action="store_true", help="serve the dashboard to a browser instead of this terminal")
    web.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    web.add_argument("--port", type=int, default=8000, help="port to listen on (default %(default)s)")
    web.add_argument(
        "--open-to-network",
        action="store_true",
        help="allow a --host that others can reach: the token in the address is sent unencrypted, there is no password",
    )
    commands = parser.add_subparsers(dest="command", title="instead of opening it", metavar="config")
    config = commands.add_parser("config", help="list your files and the faults in them")
    config.add_argument("--schema", action="store_true", help="print the JSON schema of dashboard.toml")
    options = parser.parse_args()
    if options.command == "config":
        if options.schema:
            sys.exit(print_schema())
        return Options(config=True)
    if options.serve:
        from hetspec_tui.serve import LOOPBACK, serve

        if options.host not in LOOPBACK and not options.open_to_network:
            parser.error(
                f"--host {options.host} can be reached by others, and there is no password: the token in the address "
                "is sent unencrypted, and anyone who learns it can start, stop and delete runs as you. Use "
                "127.0.0.1 and an ssh tunnel (ssh -L 8000:127.0.0.1:8000 HOST), or say --open-to-network if you mean it"
            )
        sys.exit(serve(options.host, options.port, read_only=options.read_only))
    if not has_terminal():
        parser.error("the dashboard needs a terminal; in scripts and pipes use hetspec-core")
    return Options(read_only=options.read_only)


def has_terminal() -> bool:
    """Whether keys can be read and a screen be drawn; a driver named from outside (a web server) needs no terminal."""
    if os.environ.get("TEXTUAL_DRIVER"):
        return True
    return all(stream is not None and stream.isatty() for stream in (sys.__stdin__, sys.__stderr__))


def print_schema() -> int:
    """Print the JSON schema of `dashboard.toml`; gives the exit status."""
    try:
        say(json.dumps(settings_schema([entry.name for entry in pages.available()]), indent=2))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe; else Python reports it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def refuse(error: HetSpecError) -> int:
    """Print why the dashboard cannot be opened; gives the exit status."""
    say(f"hetspec: {error.message}", file=sys.stderr)
    if error.hint:
        say(error.hint, file=sys.stderr)
    return error.exit_code


def report(files: DashboardFiles, keys: Mapping[str, str], problems: Sequence[str]) -> int:
    """Print the user's files and the faults in them; gives the exit status.

    Args:
        files: where they are.
        keys: the keymap that was read.
        problems: what is wrong with the other files, and with reading this one.
    """
    wrong = [*problems, *key_problems(files.keys, keys)]
    for name, path in (("settings", files.settings), ("keys", files.keys), ("themes", files.themes)):
        say(f"{name:<9} {path}{'' if path.exists() else '  not there'}")
    say(f"{'log':<9} {files.log}")
    for problem in wrong:
        say(problem, file=sys.stderr)
    if not wrong:
        return 0
    count = "1 fault" if len(wrong) == 1 else f"{len(wrong)} faults"
    say(f"hetspec: {count}; defaults are used in place of invalid values", file=sys.stderr)
    return SpecError.exit_code


def key_problems(path: Path, keys: Mapping[str, str]) -> list[str]:
    """What is wrong with a keymap, each with its line. Imports all pages, which bind keys."""
    if not keys:
        return []
    for target in (*(entry.target for entry in pages.available()), pages.RUN, pages.COMPARISON):
        pages.load(target)
    return [f"{place_of(path, *name.split('.'))}: {said}" for name, said in check_keymap(keys, bound_classes())]


def bound_classes(top: type[DOMNode] = DOMNode) -> Iterator[type[DOMNode]]:
    """The classes of the dashboard that have keys, as far as they are imported."""
    seen: set[type[DOMNode]] = set()
    left: list[type[DOMNode]] = [top]
    while left:
        for one in left.pop().__subclasses__():
            if one not in seen:
                seen.add(one)
                left.append(one)
                if one.__module__.partition(".")[0] in PACKAGES and "BINDINGS" in vars(one):
                    yield one


def own_bindings(node: type[DOMNode]) -> list[Binding]:
    """The bindings in the code of a class, one for each key."""
    return list(Binding.make_bindings(vars(node).get("BINDINGS", ())))


def check_keymap(keymap: Mapping[str, str], classes: Iterable[type[DOMNode]]) -> list[tuple[str, str]]:
    """What is wrong with a keymap: ids that nothing has, and two actions of one place on one key.

    Each is the id that it is said of, and the sentence.
    """
    nodes = [(node, own_bindings(node)) for node in classes]
    known = {binding.id for _, bindings in nodes for binding in bindings if binding.id}
    problems = [(name, f"no binding is called {name!r}{_meant(name, known)}") for name in keymap if name not in known]
    for node, bindings in nodes:
        keys: dict[str, dict[str, str]] = {}
        for binding in bindings:
            changed = keymap.get(binding.id or "")
            for key in [binding.key] if changed is None else changed.split(","):
                keys.setdefault(key, {})[binding.action] = binding.id or binding.description
        for key, owners in keys.items():
            changed_ids = [name for name in owners.values() if name in keymap]
            if len(owners) > 1 and changed_ids:
                said = f"{key} is the key of {' and of '.join(sorted(owners.values()))} in {node.__name__}"
                problems.append((changed_ids[0], said))
    return problems


def _meant(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else "; `?` shows those there are"
