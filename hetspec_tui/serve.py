"""The dashboard in a browser, through textual-serve: one process of it for every page that is opened.

There is no password. It listens on this machine only, unless somebody says otherwise.
"""

from __future__ import annotations

import importlib
import importlib.util
import shlex
import socket
import sys


def serve(host: str, port: int, *, read_only: bool) -> int:
    """Serve until it is stopped; gives the exit status."""
    if importlib.util.find_spec("textual_serve") is None:
        print(
            "hetspec: --serve needs the package textual-serve, which is not installed\n"
            "hint: pip install 'hetspec[serve]'",
            file=sys.stderr,
        )
        return 2
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        print(f"hetspec: {host}:{port} cannot be listened on: {error.strerror}\nhint: try --port", file=sys.stderr)
        return 8
    command = [sys.executable, "-m", "hetspec_tui.app", *(["--read-only"] if read_only else [])]
    server = importlib.import_module("textual_serve.server").Server
    server(shlex.join(command), host=host, port=port, title="HetSpec").serve()
    return 0
