"""The dashboard in a browser, through textual-serve: one process of it for every page that is opened.

There is no password. It listens on this machine only, unless somebody says otherwise, and answers no page of another
site: a browser lets any page that one visits open a websocket to this machine.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import shlex
import socket
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")


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
    command = [sys.executable, "-P", "-m", "hetspec_tui.app", *(["--read-only"] if read_only else [])]
    _server_class()(shlex.join(command), host=host, port=port, title="HetSpec").serve()
    return 0


def foreign(headers: Mapping[str, str], listens_on: str) -> bool:
    """Whether a request comes from a page that this server has not given out.

    A browser sends the site of the page as Origin, and the name by which it found this server as Host. Where only this
    machine is listened to, another name means that somebody else's name was made to point here.
    """
    host, origin = headers.get("Host", ""), headers.get("Origin")
    if listens_on in LOOPBACK and urlsplit(f"//{host}").hostname not in LOOPBACK:
        return True
    return origin is not None and urlsplit(origin).netloc != host


def _server_class() -> Any:
    """The server of textual-serve, which is imported for this only, with its pages closed when it ends."""
    web = importlib.import_module("aiohttp.web")

    class PageServer(importlib.import_module("textual_serve.server").Server):
        """Pages find their way back by the name under which they were opened, which a tunnel may have changed."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.open_pages: set[asyncio.Task[Any]] = set()
            self.leaving: asyncio.Task[None] | None = None

        async def handle_index(self, request: Any) -> Any:
            if foreign(request.headers, self.host):
                raise web.HTTPForbidden(text="this dashboard answers to its own address only\n")
            self.public_url = f"{request.scheme}://{request.host}"
            return await super().handle_index(request)

        async def handle_websocket(self, request: Any) -> Any:
            if foreign(request.headers, self.host):
                raise web.HTTPForbidden(text="this dashboard answers its own pages only\n")
            page = asyncio.current_task()
            assert page is not None
            self.open_pages.add(page)
            try:
                return await super().handle_websocket(request)
            finally:
                self.open_pages.discard(page)

        def request_exit(self) -> None:
            """End the dashboards that are open, then the server, which would wait for its pages to be closed first."""
            if self.leaving is not None:  # asked twice
                super().request_exit()
            self.leaving = asyncio.get_running_loop().create_task(self._close_pages())
            self.leaving.add_done_callback(lambda _: super(PageServer, self).request_exit())

        async def _close_pages(self) -> None:
            pages = list(self.open_pages)
            for page in pages:
                page.cancel()
            await asyncio.gather(*pages, return_exceptions=True)

    return PageServer
