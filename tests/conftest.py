"""What every room's tests share."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from ui_support import World

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

# A shell that starts the tests in the background has Ctrl-C ignored, in this process and in all that it starts: the
# tests that press it would then wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The team's folder of real data and recorded cases; needed in CI, skipped with a sentence elsewhere."""
    if not SHARED.is_dir():
        if os.environ.get("CI"):
            pytest.fail("../shared is missing beside the checkout, and CI must have it")
        pytest.skip("../shared is not beside the checkout: tests on real data are skipped on this machine")
    return SHARED


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A function that gives a TCP port on loopback which nobody listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    return find


@pytest.fixture(scope="session")
def rounds() -> Callable[[int, int], int]:
    """How often a check repeats: ``rounds(short, long)`` is ``long`` under ``make soak`` and ``short`` otherwise."""
    return lambda short, long: long if os.environ.get("CLIPSEARCH_SOAK") else short


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch computes in one thread: small towers are slower in several, and sums keep their order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int], request: pytest.FixtureRequest
) -> Iterator[World]:
    """The search page over an engine with a corpus: the sample's, under ``make soak`` RSICD's (see ui_support)."""
    from ui_support import open_world

    shared = request.getfixturevalue("shared") if os.environ.get("CLIPSEARCH_SOAK") else None
    with open_world(tmp_path_factory.mktemp("world"), free_port, shared) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium. A module's own, because Playwright keeps an event loop running as long as it lives."""
    from ui_browsing import chromium

    with chromium() as opened:
        yield opened
