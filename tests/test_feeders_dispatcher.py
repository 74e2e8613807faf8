"""The dispatcher: every operation ends in one verdict, whatever the endpoint or the producer does."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from clipsearch.errors import CorpusError
from feeders import dispatcher
from feeders.dispatcher import UNSURE, Dispatcher, Failure
from feeders.operations import Operation, Request, to_request
from feeders.transport import DONE, Answer

BUSY, AWAY, LOST = Answer("overload", 429, "HTTP 429"), Answer("unavailable", 503, "HTTP 503"), Answer("lost", 0, "cut")
UNSENT = Answer("unsent", 0, "no connection")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "LONGEST_WAIT", 0.002)
    monkeypatch.setattr(dispatcher, "TICK", 0.001)


class Verdicts:
    """Collects what the dispatcher reports."""

    def __init__(self) -> None:
        self.fed: list[str] = []
        self.failed: dict[str, Failure] = {}

    def __call__(self, request: Request, answer: Answer, failure: Failure | None) -> None:
        if failure:
            assert request.id not in self.failed
            self.failed[request.id] = failure
        else:
            self.fed.append(request.id)


def name(number: int) -> str:
    return f"id:demo:image::d{number}"


def puts(count: int) -> Iterator[Request]:
    for number in range(count):
        yield to_request(Operation("put", name(number), {"width": number}))


def deliver(
    send: Callable[[Request], Answer], requests: Iterator[Request], patience: float = 60, most: int = 8
) -> tuple[Verdicts, Dispatcher]:
    verdicts = Verdicts()
    runner = Dispatcher(send, verdicts, most=most, patience=patience)
    runner.run(requests)
    return verdicts, runner


def test_every_operation_ends_in_one_verdict() -> None:
    refused = Answer("refused", 400, "no such field")
    verdicts, runner = deliver(lambda request: refused if request.id.endswith("7") else DONE, puts(100))
    assert len(verdicts.fed) == len(set(verdicts.fed)) == 90
    assert sorted(verdicts.failed) == sorted(name(n) for n in range(7, 100, 10))
    assert verdicts.failed[name(7)] == Failure(name(7), 400, "no such field")
    assert (runner.left, runner.retries, runner.gave_up) == (0, 0, False)


@pytest.mark.parametrize("answer", [BUSY, AWAY, LOST, UNSENT], ids=lambda answer: answer.verdict)
def test_overload_restarts_and_lost_connections_are_retried(answer: Answer) -> None:
    tries = dict[str, int]()

    def send(request: Request) -> Answer:
        tries[request.id] = tries.get(request.id, 0) + 1
        return DONE if tries[request.id] > 3 else answer

    verdicts, runner = deliver(send, puts(20))
    assert sorted(verdicts.fed) == sorted(map(name, range(20)))
    assert set(tries.values()) == {4}
    assert runner.retries == 60


@pytest.mark.parametrize("answer", [Answer("refused", 400), Answer("trouble", 507), Answer("trouble", 500)])
def test_what_will_not_get_better_is_sent_once(answer: Answer) -> None:
    tries = []
    verdicts, _ = deliver(lambda request: tries.append(request.id) or answer, puts(5))
    assert len(tries) == len(verdicts.failed) == 5


def test_one_document_that_never_succeeds_is_given_up_while_others_pass() -> None:
    def send(request: Request) -> Answer:
        time.sleep(0.001)
        return AWAY if request.id == name(0) else DONE

    verdicts, runner = deliver(send, puts(1500))
    assert list(verdicts.failed) == [name(0)]
    assert len(verdicts.fed) == 1499
    assert not runner.gave_up


def test_an_increment_whose_answer_is_lost_is_not_sent_again_unless_a_condition_guards_it() -> None:
    change = {"width": {"increment": 1}}
    operations = [
        Operation("update", name(0), change),
        Operation("update", name(1), change, condition="image.width == 3"),
        Operation("update", name(2), {"width": {"assign": 1}}),
    ]
    seen: list[str] = []

    def send(request: Request) -> Answer:
        seen.append(request.id)
        return DONE if seen.count(request.id) > 1 else LOST

    verdicts, _ = deliver(send, map(to_request, operations))
    assert list(verdicts.failed) == [name(0)]
    assert UNSURE in verdicts.failed[name(0)].reason
    assert [seen.count(name(n)) for n in range(3)] == [1, 2, 2]
    again, _ = deliver(
        lambda request: DONE if seen.count("x") else seen.append("x") or UNSENT, iter([to_request(operations[0])])
    )
    assert again.fed == [name(0)]  # it never left: once more is right


def test_an_endpoint_that_is_gone_ends_the_feed_within_its_patience() -> None:
    taken: list[str] = []

    def produce() -> Iterator[Request]:
        for request in puts(10_000):
            taken.append(request.id)
            yield request

    sent: set[str] = set()
    start = time.monotonic()
    verdicts, runner = deliver(lambda request: sent.add(request.id) or UNSENT, produce(), patience=0.3, most=4)
    assert 0.3 <= time.monotonic() - start < 3
    assert runner.gave_up
    assert not verdicts.fed
    assert set(verdicts.failed) == sent  # what was never sent is left, not failed
    assert len(sent) <= 4
    assert len(taken) == runner.left + len(verdicts.failed) <= dispatcher.HELD + 1


def test_an_endpoint_that_never_answers_ends_the_feed_too() -> None:
    release = threading.Event()
    start = time.monotonic()

    def send(request: Request) -> Answer:
        release.wait(20)
        return LOST

    verdicts, runner = deliver(send, puts(10), patience=0.2, most=2)
    assert time.monotonic() - start < 3
    release.set()
    assert runner.gave_up
    assert (len(verdicts.failed), runner.left) == (2, 8)
    assert {failure.reason for failure in verdicts.failed.values()} == {"no answer"}


def test_a_failing_endpoint_gets_only_probes_and_is_used_fully_when_it_is_back() -> None:
    times: list[float] = []
    resets: list[float] = []
    start = time.monotonic()

    def send(request: Request) -> Answer:
        times.append(time.monotonic() - start)
        return DONE if times[-1] > 1.5 else AWAY

    verdicts = Verdicts()
    runner = Dispatcher(send, verdicts, most=8, patience=3, reset=lambda: resets.append(0))
    runner.run(puts(200))
    assert len(verdicts.fed) == 200
    assert len(resets) == 1
    assert sum(1.05 < moment < 1.5 for moment in times) <= 3  # half-open after a third of the patience


def test_memory_is_bounded() -> None:
    held, most = [0], [0]

    def produce() -> Iterator[Request]:
        for request in puts(1000):
            held[0] += 1
            most[0] = max(most[0], held[0])
            yield request

    def done(request: Request, answer: Answer, failure: Failure | None) -> None:
        held[0] -= 1

    Dispatcher(lambda request: DONE, done, most=4).run(produce())
    assert most[0] <= dispatcher.HELD + 4
    assert held[0] == 0


def test_a_producer_that_raises_is_an_error_and_no_hang() -> None:
    def produce() -> Iterator[Request]:
        yield from puts(20)
        raise CorpusError("the shard is cut off")

    verdicts = Verdicts()
    with pytest.raises(CorpusError, match="cut off"):
        Dispatcher(lambda request: DONE, verdicts).run(produce())
    assert len(verdicts.fed) == 20


def test_operations_on_one_id_keep_their_order_through_failures() -> None:
    seen: dict[str, list[int]] = {}
    tries: dict[tuple[str, bytes], int] = {}

    def produce() -> Iterator[Request]:
        for version in range(30):
            for number in range(4):
                yield to_request(Operation("put", name(number), {"width": version}))

    def send(request: Request) -> Answer:
        tried = tries[request.id, request.body] = tries.get((request.id, request.body), 0) + 1
        if hash((request.body, tried)) % 3 == 0:
            return LOST
        version = int(request.body.rsplit(b":", 1)[1].rstrip(b"}"))
        seen.setdefault(request.id, []).append(version)
        return DONE

    deliver(send, produce())
    assert seen == {name(number): list(range(30)) for number in range(4)}


def test_a_fault_of_ours_reaches_the_caller() -> None:
    def done(request: Request, answer: Answer, failure: Failure | None) -> None:
        raise OSError("no space left for dead letters")

    with pytest.raises(OSError, match="no space"):
        Dispatcher(lambda request: DONE, done).run(puts(2000))


def test_a_slow_producer_does_not_use_up_the_patience() -> None:
    tries: list[str] = []

    def slowly() -> Iterator[Request]:
        time.sleep(0.4)
        yield from puts(1)

    verdicts, _ = deliver(lambda r: DONE if len(tries) > 2 else tries.append(r.id) or AWAY, slowly(), patience=0.3)
    assert verdicts.fed == [name(0)]


def test_ctrl_c_finishes_what_is_in_flight_and_leaves_the_rest() -> None:
    started = threading.Event()

    def send(request: Request) -> Answer:
        started.set()
        time.sleep(0.05)
        return DONE

    def press() -> None:
        started.wait(5)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    verdicts, runner = deliver(send, puts(5000), most=4)
    thread.join()
    assert runner.interrupted
    assert not verdicts.failed
    assert 0 < len(verdicts.fed) < 20
    assert runner.left > 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_stops_a_producer_that_is_at_work() -> None:
    def produce() -> Iterator[Request]:
        yield from puts(3)
        signal.raise_signal(signal.SIGINT)
        time.sleep(30)

    start = time.monotonic()
    verdicts, runner = deliver(lambda request: DONE, produce())
    assert time.monotonic() - start < 5
    assert runner.interrupted
    assert len(verdicts.fed) + runner.left == 3
