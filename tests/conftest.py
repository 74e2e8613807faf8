"""What every room's tests share."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

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
