"""The command line of `hetspec`. It knows words, not the app: what it cannot take, it says and exits."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass

from hetspec_core import __version__


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
    config = commands.add_parser("config", help="say where your files are, and what does not hold in them")
    config.add_argument("--schema", action="store_true", help="print the JSON schema of dashboard.toml")
    options = parser.parse_args()
    if options.command == "config":
        if options.schema:
            from hetspec_tui.configuration import print_schema

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
