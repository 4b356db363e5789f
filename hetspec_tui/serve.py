"""The dashboard in a browser, through textual-serve: one process of it for every page that is opened.

It listens on this machine only, unless it is told otherwise. Every request needs the random token of the address that
is printed at the start, because other users of the machine reach the port too. No page of another site is answered,
because a browser lets any page that one visits open a websocket to this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import importlib
import importlib.util
import logging
import os
import secrets
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hetspec_core.terminal_text import say, visible

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_COLUMNS, MOST_ROWS = 1000, 500
"""The largest terminal that a page can ask for; memory grows with the number of cells."""

_TOKEN_BYTES = 24
_END_S = 3.0
"""Seconds that a page's process has to end by itself after its page was closed."""
_HEARTBEAT_S = 10.0
"""Between questions whether a page is still there; one that does not answer for half as long counts as closed."""


def serve(host: str, port: int, *, read_only: bool) -> int:
    """Serve until it is stopped; gives the exit status."""
    if importlib.util.find_spec("textual_serve") is None:
        say(
            "hetspec: --serve needs the package textual-serve, which is not installed\n"
            "hint: pip install 'hetspec[serve]'",
            file=sys.stderr,
        )
        return 2
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        say(f"hetspec: {host}:{port} cannot be listened on: {error.strerror}\nhint: try --port", file=sys.stderr)
        return 8
    command = [sys.executable, "-P", "-m", "hetspec_tui.app", *(["--read-only"] if read_only else [])]
    _server_class()(command, host=host, port=port, token=secrets.token_urlsafe(_TOKEN_BYTES)).serve()
    return 0


def foreign(headers: Mapping[str, str], listens_on: str) -> bool:
    """Whether a request comes from a page that this server has not given out.

    A browser sends the site of the page as Origin, and the name by which it found this server as Host. Where only this
    machine is listened to, another name means that a foreign name was made to point here. No browser sends a user
    name in either.
    """
    host, origin = headers.get("Host", ""), headers.get("Origin")
    if "@" in host or "@" in (origin or ""):
        return True
    try:
        if listens_on in LOOPBACK and urlsplit(f"//{host}").hostname not in LOOPBACK:
            return True
        return origin is not None and urlsplit(origin).netloc != host
    except ValueError:  # brackets that are no address
        return True


def terminal_size(width: object, height: object) -> tuple[int, int]:
    """Columns and rows of a page's terminal, at least 1 and at most what a page may ask for; 80 x 24 for no numbers."""
    return _clamped(width, 80, MOST_COLUMNS), _clamped(height, 24, MOST_ROWS)


def _clamped(value: object, default: int, most: int) -> int:
    try:
        return max(1, min(int(str(value)[:12]), most))
    except ValueError:
        return default


def _page_environment() -> dict[str, str]:
    """PYTHONPATH without the present folder, and with this checkout where it is not installed."""
    home = str(Path(__file__).resolve().parents[1])
    own = [] if Path(home).name in ("site-packages", "dist-packages") else [home]
    given = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part not in own]
    return {"PYTHONPATH": os.pathsep.join([*own, *given])} if own or given else {}


class _Complaints(logging.Handler):
    """Warnings of the web server, which quote what clients have sent, as text on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"hetspec: {self.format(record)}", file=sys.stderr)


class _CleanReader:
    """What a page's process says on stderr; textual-serve prints it in this terminal."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream

    async def read(self, size: int = -1) -> bytes:
        """The next bytes, with control characters shown."""
        return visible((await self._stream.read(size)).decode(errors="replace")).encode(errors="replace")


def _page_class() -> Any:
    """The process of one page, as textual-serve starts it, which is ended when its page closes."""

    class Page(importlib.import_module("textual_serve.app_service").AppService):
        """One page.

        Args:
            words: the command line.
            options: those of AppService.
        """

        def __init__(self, words: Sequence[str], **options: Any) -> None:
            super().__init__("", **options)
            self.words = list(words)

        async def _open_app_process(self, width: int = 80, height: int = 24) -> Any:
            environment = {**self._build_environment(width=width, height=height), **_page_environment()}
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                *self.words, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
            )
            self._process, self._stdin = process, process.stdin
            assert process.stderr is not None
            process.stderr = _CleanReader(process.stderr)  # type: ignore[assignment]
            return process

        async def set_terminal_size(self, width: int, height: int) -> None:
            await super().set_terminal_size(*terminal_size(width, height))

        async def stop(self) -> None:
            """Ask the process to end, and end it if it does not."""
            try:
                with contextlib.suppress(TimeoutError, OSError):
                    await asyncio.wait_for(super().stop(), _END_S)
            finally:
                process = self._process
                if process is not None and process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()

    return Page


def _server_class() -> Any:
    """The server of textual-serve, imported here only, with a check before every answer."""
    web = importlib.import_module("aiohttp.web")
    page_class = _page_class()

    class PageServer(importlib.import_module("textual_serve.server").Server):
        """Pages find their way back by the name under which they were opened, which a tunnel may have changed.

        Args:
            words: the command line of a page's process.
            host, port: where it listens.
            token: what every request must bring, in its address or as the cookie that the first page set.
        """

        def __init__(self, words: Sequence[str], *, host: str, port: int, token: str) -> None:
            super().__init__("hetspec", host=host, port=port, title="HetSpec")
            self.words = list(words)
            self.token = token
            self.cookie = f"hetspec-{port}"  # cookies know no ports
            self.open_pages: set[asyncio.Task[Any]] = set()
            self.leaving: asyncio.Task[None] | None = None

        def initialize_logging(self) -> None:
            """Warnings only: the lines about requests hold the token."""
            logging.basicConfig(level=logging.WARNING, handlers=[_Complaints()])

        async def _make_app(self) -> Any:
            app = await super()._make_app()

            @web.middleware
            async def gate(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
                return await self._pass(request, handler)

            app.middlewares.append(gate)
            return app

        async def on_startup(self, app: Any) -> None:
            name = f"[{self.host}]" if ":" in self.host else self.host
            say(f"The dashboard is at\n\n    http://{name}:{self.port}/?token={self.token}\n\nCtrl-C ends it.")
            sys.stdout.flush()

        async def _pass(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
            """Refuse what comes from other sites and what does not know the token; a page keeps it as a cookie."""
            if foreign(request.headers, self.host):
                raise web.HTTPForbidden(text="this dashboard answers its own pages, at its own address, only\n")
            given = request.query.get("token", "")
            if not (self._is_token(given) or self._is_token(request.cookies.get(self.cookie, ""))):
                raise web.HTTPForbidden(text="open the address that `hetspec --serve` printed, which holds a token\n")
            response = await handler(request)
            if not response.prepared:
                response.headers["Referrer-Policy"] = "no-referrer"
                if given:
                    response.set_cookie(self.cookie, self.token, path="/", httponly=True, samesite="Strict")
            return response

        def _is_token(self, word: str) -> bool:
            return hmac.compare_digest(word.encode(errors="replace"), self.token.encode())

        async def handle_index(self, request: Any) -> Any:
            self.public_url = f"{request.scheme}://{request.host}"
            return await super().handle_index(request)

        async def handle_websocket(self, request: Any) -> Any:
            """Start the process of a page, and end it with its socket, however that ends."""
            this = asyncio.current_task()
            assert this is not None
            self.open_pages.add(this)
            socket = web.WebSocketResponse(heartbeat=_HEARTBEAT_S)
            page = page_class(
                self.words,
                write_bytes=socket.send_bytes,
                write_str=socket.send_str,
                close=socket.close,
                download_manager=self.download_manager,
                debug=False,
            )
            try:
                await socket.prepare(request)
                await page.start(*terminal_size(request.query.get("width"), request.query.get("height")))
                await self._process_messages(socket, page)
            except asyncio.CancelledError:
                await socket.close()
            except Exception as error:  # of one page, which others must not feel
                logging.getLogger("textual-serve").warning("a page ended: %s: %s", type(error).__name__, error)
            finally:
                self.open_pages.discard(this)
                await page.stop()
            return socket

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
