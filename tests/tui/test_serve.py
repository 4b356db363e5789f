"""The dashboard in a browser: the page, its websocket with what a browser would send, and what is left when it ends."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psutil
import pyte
import pytest

from hetspec_tui.serve import foreign, terminal_size
from tests.fakes.terminal import PRIVATE

aiohttp = pytest.importorskip("aiohttp", reason="comes with textual-serve, the extra `serve`")

PATIENCE_S = 20.0
SOON_S = 15.0
"""Far more than leaving takes; a server that waits for its pages to be closed waits a minute."""


class Served:
    """`hetspec --serve` on a free port of this machine."""

    def __init__(self, *arguments: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 - the process writes into it while this one reads
        self.process = psutil.Popen(
            [sys.executable, "-m", "hetspec_tui.app", "--serve", "--port", str(self.port), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )

    def said(self) -> str:
        """What it has printed so far."""
        self.output.seek(0)
        return self.output.read().decode()

    @property
    def token(self) -> str:
        """The token of the address that it printed; empty before."""
        found = re.search(rf"http://127\.0\.0\.1:{self.port}/\?token=(\S{{20,}})", self.said())
        return found[1] if found else ""

    def url(self, path: str = "/", name: str = "127.0.0.1") -> str:
        """An address with the token."""
        return f"{self.bare_url(path, name)}{'&' if '?' in path else '?'}token={self.token}"

    def bare_url(self, path: str = "/", name: str = "127.0.0.1") -> str:
        return f"http://{name}:{self.port}{path}"

    def dashboards(self) -> list[psutil.Process]:
        """The processes of the pages that are open."""
        return self.process.children(recursive=True)


@asynccontextmanager
async def served(*arguments: str) -> AsyncIterator[tuple[Served, aiohttp.ClientSession]]:
    server = Served(*arguments)
    try:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as browser:
            end = time.monotonic() + PATIENCE_S
            while True:
                try:
                    async with browser.get(server.bare_url()) as page:
                        assert page.status == 403 and server.token
                    break
                except aiohttp.ClientConnectionError:
                    assert time.monotonic() < end and server.process.poll() is None, "nothing listens"
                    await asyncio.sleep(0.05)
            yield server, browser
    finally:
        for process in [*server.dashboards(), server.process] if server.process.is_running() else ():
            process.kill()
        server.process.wait()


async def read_until(page: aiohttp.ClientWebSocketResponse, text: str) -> None:
    """Read what is drawn until a terminal of the usual size that was empty before shows this text."""
    screen = pyte.Screen(80, 24)
    terminal = pyte.ByteStream(screen)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while text not in "\n".join(screen.display):
                message = await page.receive()
                assert message.type is aiohttp.WSMsgType.BINARY, f"{message} before {text!r}"
                terminal.feed(PRIVATE.sub(b"", message.data))
    except TimeoutError:
        pytest.fail(f"{text!r} is not in\n" + "\n".join(screen.display))


async def read_to_the_end(page: aiohttp.ClientWebSocketResponse, patience_s: float) -> None:
    async with asyncio.timeout(patience_s):
        async for _ in page:
            pass


async def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        await asyncio.sleep(0.02)


def run(act: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(act())  # type: ignore[arg-type]


def test_a_browser_gets_a_dashboard_of_its_own_that_obeys_keys_and_nothing_is_left_of_it() -> None:
    async def act() -> None:
        async with served("--read-only") as (server, browser):
            async with browser.get(server.url()) as page:
                assert "HetSpec" in await page.text()
            async with browser.ws_connect(server.url("/ws?width=80&height=24")) as one:
                await read_until(one, "Begin")
                await one.send_json(["stdin", "2"])
                await read_until(one, "no runs yet")
                assert server.dashboards()
                await one.send_json(["stdin", "q"])
                await read_to_the_end(one, PATIENCE_S)
            await until(lambda: not server.dashboards(), "the end of the dashboard that was left by q")
            async with browser.ws_connect(server.url("/ws")) as two:
                await read_until(two, "no runs yet")  # the page that was open last
            await until(lambda: not server.dashboards(), "the end of the dashboard whose page was closed")
            async with browser.ws_connect(server.url("/ws")) as three:
                await read_until(three, "no runs yet")
                left = server.dashboards()
                server.process.send_signal(signal.SIGINT)
                await read_to_the_end(three, SOON_S)
                assert server.process.wait(SOON_S) == 0
                said = server.said()
                assert server.url() in said and "Traceback" not in said and "ERROR" not in said, said
            await until(lambda: not any(process.is_running() for process in left), "the end of all its processes")

    run(act)


def test_pages_of_other_sites_get_no_dashboard() -> None:
    async def act() -> None:
        async with served() as (server, browser):
            for headers in (
                {"Origin": "https://elsewhere.example"},
                {"Origin": f"http://127.0.0.1:{server.port + 1}"},
                {"Host": f"elsewhere.example:{server.port}", "Origin": f"http://elsewhere.example:{server.port}"},
                {"Host": f"elsewhere.example@127.0.0.1:{server.port}"},
                {"Host": f"127.0.0.1:{server.port}", "Origin": f"http://a@127.0.0.1:{server.port}"},
            ):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await browser.ws_connect(server.url("/ws"), headers=headers)
                assert refused.value.status == 403
            assert server.dashboards() == []
            own = {"Host": "localhost:9000", "Origin": "http://localhost:9000"}  # through a tunnel from another port
            async with browser.get(server.url(), headers=own) as page:
                assert "ws://localhost:9000/ws" in await page.text()
            async with browser.ws_connect(server.url("/ws"), headers=own) as one:
                await read_until(one, "Begin")

    run(act)


def test_without_the_token_nothing_is_answered() -> None:
    async def act() -> None:
        async with served() as (server, browser):
            wrong = {"Cookie": f"hetspec-{server.port}=guessed"}
            for path in ("/", "/?token=guessed", "/static/js/textual.js", "/download/x"):
                for headers in ({}, wrong):
                    async with browser.get(server.bare_url(path), headers=headers) as page:
                        assert page.status == 403 and "token" in await page.text()
            for path in ("/ws", "/ws?token=guessed"):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await browser.ws_connect(server.bare_url(path))
                assert refused.value.status == 403
            assert server.dashboards() == []

    run(act)


def test_the_first_page_keeps_the_token_as_a_cookie_that_other_sites_do_not_get() -> None:
    async def act() -> None:
        async with served() as (server, browser):
            async with browser.get(server.url()) as page:
                assert page.status == 200 and page.headers["Referrer-Policy"] == "no-referrer"
                cookie = page.headers["Set-Cookie"]
            assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
            kept = {"Cookie": cookie.partition(";")[0]}
            async with browser.get(server.bare_url("/static/js/textual.js"), headers=kept) as file:
                assert file.status == 200
            async with browser.ws_connect(server.bare_url("/ws"), headers=kept) as one:
                await read_until(one, "Begin")

    run(act)


def test_a_page_cannot_ask_for_a_terminal_without_bounds() -> None:
    assert terminal_size("99999", "99999") == (1000, 500)
    assert terminal_size("-5", "0") == (1, 1)
    assert terminal_size(None, "9" * 5000) == (80, 500)
    assert terminal_size("wide", [3]) == (80, 24)

    async def act() -> None:
        async with served() as (server, browser), browser.ws_connect(server.url("/ws?width=80&height=24")) as one:
            await read_until(one, "Begin")
            await one.send_json(["resize", {"width": 10**9, "height": 10**9}])
            await asyncio.sleep(2)
            assert sum(page.memory_info().rss for page in server.dashboards()) < 600 * 2**20

    run(act)


def test_a_dashboard_that_does_not_listen_ends_with_its_page_all_the_same() -> None:
    async def act() -> None:
        async with served() as (server, browser):
            async with browser.ws_connect(server.url("/ws")) as one:
                await read_until(one, "Begin")
                stopped = server.dashboards()
                for page in stopped:
                    page.suspend()  # it reads nothing more, as one that is busy
            await until(lambda: not any(page.is_running() for page in stopped), "the end of the stopped dashboard")

    run(act)


@pytest.mark.parametrize(
    ("host", "origin", "is_foreign"),
    [
        ("127.0.0.1:8000", None, False),
        ("localhost:8000", "http://localhost:8000", False),
        ("[::1]:8000", "http://[::1]:8000", False),
        ("evil.com@127.0.0.1", None, True),
        ("127.0.0.1", "http://evil.com@127.0.0.1", True),
        ("127.0.0.1.evil.com", None, True),
        ("[", None, True),
        ("", None, True),
    ],
)
def test_a_request_is_foreign_by_its_host_or_its_origin(host: str, origin: str | None, is_foreign: bool) -> None:
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    assert foreign(headers, "127.0.0.1") is is_foreign
