"""The dispatcher: every operation ends in exactly one verdict, whatever the endpoint and the producer do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from clipsearch.errors import CorpusError, InputError, RejectedError, UnreachableError
from feeders import dispatcher
from feeders.dispatcher import Dispatcher, Failure, Operation


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "LONGEST_WAIT", 0.002)


class Verdicts:
    """Collects what ``done`` is told."""

    def __init__(self) -> None:
        self.fed: list[str] = []
        self.failed: dict[str, Failure] = {}

    def __call__(self, document_id: str, failure: Failure | None) -> None:
        if failure:
            self.failed[document_id] = failure
        else:
            self.fed.append(document_id)


def operations(count: int, send: Callable[[str], None]) -> Iterator[Operation]:
    for number in range(count):
        name = f"d{number}"
        yield Operation(name, lambda name=name: send(name))


def test_every_operation_ends_in_one_verdict() -> None:
    verdicts = Verdicts()

    def send(name: str) -> None:
        if name.endswith("7"):
            raise RejectedError(400, "no such field")

    Dispatcher(verdicts).run(operations(100, send))
    assert len(verdicts.fed) == 90
    assert sorted(verdicts.failed) == sorted(f"d{n}" for n in range(7, 100, 10))
    assert verdicts.failed["d7"] == Failure("d7", 400, "HTTP 400: no such field")


@pytest.mark.parametrize(
    "error", [RejectedError(429, "overload"), RejectedError(503, "restarting"), UnreachableError("reset")]
)
def test_overload_restarts_and_lost_connections_are_retried(error: Exception) -> None:
    verdicts, tries = Verdicts(), dict[str, int]()

    def send(name: str) -> None:
        tries[name] = tries.get(name, 0) + 1
        if tries[name] < 4:
            raise error

    Dispatcher(verdicts).run(operations(20, send))
    assert len(verdicts.fed) == 20
    assert set(tries.values()) == {4}


@pytest.mark.parametrize("error", [RejectedError(507, "disk full"), RejectedError(400, "bad"), InputError("bad row")])
def test_other_errors_are_not_retried(error: Exception) -> None:
    verdicts, tries = Verdicts(), []

    def send(name: str) -> None:
        tries.append(name)
        raise error

    Dispatcher(verdicts).run(operations(5, send))
    assert len(tries) == len(verdicts.failed) == 5


def test_one_document_that_never_succeeds_is_given_up_while_others_pass() -> None:
    verdicts = Verdicts()

    def send(name: str) -> None:
        if name == "d0":
            raise RejectedError(503, "always")

    Dispatcher(verdicts).run(operations(50, send))
    assert list(verdicts.failed) == ["d0"]
    assert len(verdicts.fed) == 49


def test_an_endpoint_that_is_gone_ends_the_feed_within_its_patience() -> None:
    verdicts, taken = Verdicts(), []

    def produce() -> Iterator[Operation]:
        for operation in operations(10_000, send):
            taken.append(operation.id)
            yield operation

    def send(name: str) -> None:
        raise UnreachableError("nobody answers")

    runner = Dispatcher(verdicts, workers=4, in_flight=8, patience=0.2)
    start = time.monotonic()
    runner.run(produce())
    assert time.monotonic() - start < 3
    assert runner.gave_up
    assert not verdicts.fed
    assert len(verdicts.failed) <= 8
    assert set(verdicts.failed) <= set(taken)
    assert len(taken) <= 9


def test_memory_is_bounded_by_the_operations_in_flight() -> None:
    running, most, lock = [0], [0], threading.Lock()

    def send(name: str) -> None:
        time.sleep(0.0005)

    def produce() -> Iterator[Operation]:
        for operation in operations(200, send):
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            yield operation

    def done(name: str, failure: Failure | None) -> None:
        with lock:
            running[0] -= 1

    Dispatcher(done, workers=4, in_flight=8).run(produce())
    assert most[0] <= 9  # eight in flight, and the one that waits for a slot
    assert running[0] == 0


def test_a_producer_that_raises_is_an_error_and_no_hang() -> None:
    verdicts = Verdicts()

    def produce() -> Iterator[Operation]:
        yield from operations(20, lambda name: None)
        raise CorpusError("the shard is cut off")

    with pytest.raises(CorpusError, match="cut off"):
        Dispatcher(verdicts).run(produce())
    assert len(verdicts.fed) == 20


def test_operations_on_one_id_keep_their_order() -> None:
    seen: list[int] = []

    def send(number: int) -> None:
        time.sleep(0.001 if number % 2 == 0 else 0)
        seen.append(number)

    same = (Operation("d", lambda number=number: send(number)) for number in range(30))
    Dispatcher(Verdicts()).run(same)
    assert seen == list(range(30))


def test_a_fault_of_ours_reaches_the_caller() -> None:
    def done(name: str, failure: Failure | None) -> None:
        raise OSError("no space left for dead letters")

    with pytest.raises(OSError, match="no space"):
        Dispatcher(done).run(operations(100, lambda name: None))


def test_a_slow_producer_does_not_use_up_the_patience() -> None:
    verdicts, tries = Verdicts(), []

    def slowly() -> Iterator[Operation]:
        time.sleep(0.3)
        yield Operation("d0", lambda: send("d0"))

    def send(name: str) -> None:
        tries.append(name)
        if len(tries) < 3:
            raise RejectedError(503, "restarting")

    Dispatcher(verdicts, patience=0.2).run(slowly())
    assert verdicts.fed == ["d0"]
