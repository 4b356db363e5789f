"""The dashboard in a browser: the page, its websocket with what a browser would send, and what is left when it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psutil
import pyte
import pytest

from tests.tui.test_terminal import PRIVATE

aiohttp = pytest.importorskip("aiohttp", reason="comes with textual-serve, the extra `serve`")

PATIENCE_S = 20.0
SOON_S = 15.0
"""Far more than leaving takes; a server that waits for its pages to be closed waits a minute."""


class Served:
    """`hetspec --serve` on a free port of this machine."""

    def __init__(self, *arguments: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process = psutil.Popen(
            [sys.executable, "-m", "hetspec_tui.app", "--serve", "--port", str(self.port), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def url(self, path: str = "/", name: str = "127.0.0.1") -> str:
        return f"http://{name}:{self.port}{path}"

    def dashboards(self) -> list[psutil.Process]:
        """The processes of the pages that are open."""
        return self.process.children(recursive=True)


@asynccontextmanager
async def served(*arguments: str) -> AsyncIterator[tuple[Served, aiohttp.ClientSession]]:
    server = Served(*arguments)
    try:
        async with aiohttp.ClientSession() as browser:
            end = time.monotonic() + PATIENCE_S
            while True:
                try:
                    async with browser.get(server.url()) as page:
                        assert page.status == 200
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
                said = server.process.stdout.read().decode()
                assert server.url("") in said and "Traceback" not in said and "ERROR" not in said, said
            await until(lambda: not any(process.is_running() for process in left), "the end of all its processes")

    run(act)


def test_pages_of_other_sites_get_no_dashboard() -> None:
    async def act() -> None:
        async with served() as (server, browser):
            for headers in (
                {"Origin": "https://elsewhere.example"},
                {"Origin": f"http://127.0.0.1:{server.port + 1}"},
                {"Host": f"elsewhere.example:{server.port}", "Origin": f"http://elsewhere.example:{server.port}"},
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
