"""Serve ASGI applications from this process: HTTP/1.1 and HTTP/2 cleartext on one port, until a signal.

Used by the local engine (two ports, one process) and by the search UI. granian's embedded server is the only one
measured that speaks h2c with prior knowledge, which ``vespa feed`` and pyvespa's asynchronous client need.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

from clipsearch.errors import InputError
from clipsearch.serving.inline import InlineLoop, portable

BACKLOG = 1024  # connections waiting to be accepted
BACKPRESSURE = 16_384  # requests in the server at once; granian's default, 256, would stall vespa feed's streams
MAX_STREAMS = 256  # requests at once on one HTTP/2 connection
YOUNG = 10_000  # new objects before the garbage collector looks at them


@dataclass(frozen=True, slots=True)
class Listener:
    """One ASGI application on one port; ``option`` is the command-line option that changes the port.

    ``inline``: the application knows ``on_loop``, and runs in the server's thread until it awaits that.
    """

    app: Callable[..., Any]
    host: str
    port: int
    option: str = "--port"
    inline: bool = False


def check_port(host: str, port: int, option: str = "--port") -> None:
    """Raise ``InputError`` when ``host:port`` cannot be listened on.

    granian binds with SO_REUSEPORT, so without this a second server would silently share the port with the first.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"cannot listen on {host}:{port} ({reason}): stop what uses it, or choose another port with {option}"
            ) from error


def exposure_warning(host: str) -> str:
    """A sentence for stderr when ``host`` is not loopback, or ""."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return ""
    if host == "localhost":
        return ""
    return f"Warning: --host {host} lets other machines in, and nothing here asks for a password."


def host_guard(bound: str, names: Collection[str] = ()) -> Callable[[str], bool] | None:
    """Which Host headers a server bound to ``bound`` answers to; None: all, for one that other machines may reach.

    A server on loopback is named localhost, 127.x.y.z or [::1], with any port, or one of ``names``; a page of another
    name that resolves to this machine (DNS rebinding) would otherwise read and write through a visitor's browser.
    """
    if exposure_warning(bound):
        return None
    known = {"localhost", bound.lower(), *(name.lower() for name in names)}

    @lru_cache(maxsize=256)
    def allowed(header: str) -> bool:
        if "://" in header or "/" in header or "@" in header:
            return False
        host = header.strip().lower()
        if host.startswith("["):
            host = host[1:].partition("]")[0]
        elif host.count(":") == 1:
            host = host.partition(":")[0]
        if host.rstrip(".") in known or host in ("", "[]"):
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(host).is_loopback
        return False

    return allowed


def run(
    listeners: Sequence[Listener],
    ready: Callable[[], None] = lambda: None,
    close: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Serve until a signal, call ``close``, and end the process with exit code 0.

    The process ends by ``os._exit``: granian's worker threads sometimes outlive the interpreter and panic in its
    finalisation (seen about once in five stops with a request in flight, granian 2.8).

    What is loaded by now stays, so the garbage collector passes it over, and looks at what is new less often than it
    would: a thousand requests under way are no garbage, and going through them took a sixth of the engine's time.
    """
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)
    asyncio.run(serve(listeners, ready))
    close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def serve(listeners: Sequence[Listener], ready: Callable[[], None] = lambda: None) -> None:
    """Serve all ``listeners`` until SIGINT or SIGTERM, then finish running requests and return.

    ``ready`` is called once every port answers connections. Raises ``InputError`` for a port in use.
    """
    for listener in listeners:
        check_port(listener.host, listener.port, listener.option)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    servers = [_server(listener) for listener in listeners]
    tasks = [asyncio.create_task(_served(server, each)) for server, each in zip(servers, listeners, strict=True)]
    stopping = asyncio.create_task(stop.wait())
    answering = asyncio.gather(*(_answers(listener.host, listener.port) for listener in listeners))
    first: list[asyncio.Future[Any]] = [answering, stopping, *tasks]
    try:
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if answering.done() and not stop.is_set():
            answering.result()
            ready()
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for server in servers:
            server.stop()
        answering.cancel()
        stopping.cancel()
        await asyncio.gather(*tasks, answering, stopping, return_exceptions=True)


def _server(listener: Listener) -> Any:
    logging.getLogger("_granian").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "embedded server is experimental"
        from granian.constants import HTTPModes, Interfaces
        from granian.http import HTTP2Settings
        from granian.server.embed import Server

        return Server(
            portable(listener.app) if listener.inline else listener.app,
            address=listener.host,
            port=listener.port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.auto,
            websockets=False,
            backlog=BACKLOG,
            backpressure=BACKPRESSURE,
            http2_settings=HTTP2Settings(max_concurrent_streams=MAX_STREAMS),
            log_enabled=False,
        )


async def _served(server: Any, listener: Listener) -> None:
    """Runs ``server`` until it is stopped.

    An inline application's server gets ``InlineLoop`` for its event loop, where that is known to do.
    """
    spawn = getattr(getattr(server, "_spawn_asgi_worker", None), "__wrapped__", None)
    if not listener.inline or not _inline_works() or spawn is None:
        await server.serve()
        return

    async def spawn_inline(number: int, signals: Any, app: Any, listening: Any, *rest: Any) -> None:
        loop = InlineLoop(asyncio.get_running_loop())
        await spawn(number, signals, app, listening, loop, *rest)

    await server.serve(spawn_target=spawn_inline)


def _inline_works() -> bool:
    """Whether granian asks no more of its loop than ``InlineLoop`` has: read in 2.8, on Linux (others poll)."""
    import granian

    return sys.platform == "linux" and granian.__version__.startswith("2.8.")


async def _answers(host: str, port: int) -> None:
    reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    for _ in range(500):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(reach, port)
            writer.close()
            return
        await asyncio.sleep(0.01)
    raise InputError(f"the server on {host}:{port} did not start within 5 s")
