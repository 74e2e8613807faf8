"""The server loop that the engine and the UI share."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable

import pytest

from clipsearch.errors import InputError
from clipsearch.serving import check_port, exposure_warning, host_guard

PROGRAM = """
import sys
from clipsearch.serving import Listener, run

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["http_version"].encode() + scope["raw_path"]})

listeners = [Listener(app, "127.0.0.1", int(port)) for port in sys.argv[1:]]
run(listeners, lambda: print("ready", flush=True), lambda: print("closed", flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_every_port_until_a_signal_and_ends_with_0(free_port: Callable[[], int], number: int) -> None:
    ports = [str(free_port()), str(free_port())]
    command = [sys.executable, "-c", PROGRAM, *ports]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/a%2Fb", timeout=5) as answer:
                assert answer.read() == b"1.1/a%2Fb"
        child.send_signal(number)
        out, err = child.communicate(timeout=20)
        assert (child.returncode, out, err) == (0, "closed\n", "")


def test_a_port_in_use_is_named_with_the_option_that_changes_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port} .*--deploy-port"):
            check_port("127.0.0.1", port, "--deploy-port")


def test_a_port_that_was_just_left_is_free(free_port: Callable[[], int]) -> None:
    check_port("127.0.0.1", free_port())


def test_only_addresses_that_others_can_reach_are_warned_of() -> None:
    assert exposure_warning("127.0.0.1") == exposure_warning("::1") == exposure_warning("localhost") == ""
    assert "0.0.0.0" in exposure_warning("0.0.0.0")
    assert "10.1.2.3" in exposure_warning("10.1.2.3")


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("localhost", True),
        ("LocalHost:8080", True),
        ("localhost.", True),
        ("127.0.0.1:28080", True),
        ("127.8.9.10", True),
        ("[::1]:8080", True),
        ("::1", True),
        ("photos.internal:80", True),
        ("evil.example", False),
        ("localhost.evil.example:8080", False),
        ("127.0.0.1.evil.example", False),
        ("http://localhost", False),
        ("evil@localhost", False),
        ("10.0.0.1:8080", False),
        ("[::2]", False),
    ],
)
def test_a_server_on_loopback_answers_only_to_names_of_this_machine(header: str, allowed: bool) -> None:
    for bound in ("127.0.0.1", "localhost", "::1"):
        guard = host_guard(bound, ["photos.internal"])
        assert guard is not None
        assert guard(header) is allowed


def test_a_server_that_others_may_reach_answers_to_every_name() -> None:
    assert host_guard("0.0.0.0") is None
    assert host_guard("10.1.2.3") is None
