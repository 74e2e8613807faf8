"""A feed survives what a long night brings: kills of either side, an endpoint that fails at every turn."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner
from engine_process import Running, start
from fake_vespa import serve_fake
from fault_proxy import fault_proxy
from soak_feed import DIM, ROOT, contents, count, operation, start_feed, versions, write_shards

from clipsearch.cli import cli
from feeders import dispatcher
from feeders.dispatcher import Failure
from feeders.feeding import feed
from feeders.journal import Journal, journal_path
from feeders.operations import Operation

pytestmark = pytest.mark.soak
Rounds = Callable[[int, int], int]


@pytest.fixture
def engine(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Running]:
    running = start(tmp_path / "data", free_port(), free_port(), "--app", str(ROOT / "vespa_app"))
    yield running
    running.process.kill()
    running.process.wait()


def test_kill_9_of_the_feeder_at_random_moments_loses_and_doubles_nothing(
    tmp_path: Path, engine: Running, rounds: Rounds
) -> None:
    documents, kills, random = rounds(2000, 200_000), rounds(3, 100), Random(5)
    shards = write_shards(tmp_path / "shards", documents)
    journal, twice, ends = journal_path(shards, engine.url), 0, 0
    for kill in range(kills):
        process = start_feed(shards, engine.url)
        goal = documents * (kill + 1) // (kills + 1)
        while process.poll() is None and count(engine.port) < goal:
            time.sleep(0.01)
        time.sleep(random.random() * 0.02)
        ends += process.poll() is not None
        process.kill()
        process.wait()
        process.stdout.close()
        again = count(engine.port) - (Journal.peek(journal) if journal.exists() else 0)
        assert 0 <= again < 3 * dispatcher.HELD, f"kill {kill}: {again} documents will be sent a second time"
        twice += again
    process = start_feed(shards, engine.url)
    summary = json.loads(process.communicate(timeout=600)[0].replace("'", '"').replace("False", "false"))
    found = contents(engine.port)
    print(f"{kills} kills, {documents} documents, {twice} sent twice, {summary}")
    assert process.returncode == 0
    assert ends == 0, "the feed was over before a kill"
    assert sorted(name for name, _ in found) == [f"id:k:image::{number:07}" for number in range(documents)]
    assert summary["skipped"] + summary["fed"] == documents
    assert summary["skipped"] > documents // (kills + 1) - 1
    assert not journal.exists()


def test_kill_9_of_the_engine_in_the_middle_of_a_feed_is_waited_for(
    tmp_path: Path, engine: Running, rounds: Rounds
) -> None:
    documents, taken, again = rounds(1500, 50_000), [0], []

    def produce() -> Iterator[Operation]:
        for number in range(documents):
            taken[0] += 1
            yield operation(f"id:k:image::{number:07}", number)

    def restart() -> None:
        while taken[0] < documents // 2:
            time.sleep(0.005)
        engine.process.kill()
        engine.process.wait()
        time.sleep(0.3)
        again.append(start(tmp_path / "data", engine.port, engine.deploy_port))

    thread = threading.Thread(target=restart)
    thread.start()
    summary = feed(produce(), engine.url, dead_letters=tmp_path / "dead.jsonl", total=documents, progress=False)
    thread.join()
    try:
        assert summary.complete, summary
        assert summary.fed == documents
        assert summary.retries > 0
        assert sorted(contents(engine.port)) == [(f"id:k:image::{number:07}", number) for number in range(documents)]
    finally:
        again[0].process.kill()
        again[0].process.wait()
    print(f"{documents} documents, engine killed and restarted in between: {summary}; {summary.retries} retries")


def test_every_third_request_meets_a_fault_and_all_is_delivered_last_write_last(
    tmp_path: Path, engine: Running, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations, ids = rounds(1000, 26_000), rounds(700, 20_000)
    monkeypatch.setattr(dispatcher, "LONGEST_WAIT", rounds(1, 100) / 20)
    wanted = dict(versions(operations, ids, 7))
    with fault_proxy(engine.url, 0.3, rounds(1, 100) / 10) as proxy:
        made = (operation(*one) for one in versions(operations, ids, 7))
        summary = feed(
            made,
            proxy.url,
            dead_letters=tmp_path / "dead.jsonl",
            journal=tmp_path / "j",
            total=operations,
            progress=False,
        )
        print(f"{operations} operations on {ids} documents: {summary}; {summary.retries} retries; {dict(proxy.faults)}")
        assert sum(proxy.faults.values()) > 0.25 * operations
        assert len(proxy.faults) == len(proxy.kinds)
    assert summary.complete
    assert summary.fed == operations
    assert sorted(contents(engine.port)) == sorted(
        (name, version) for name, version in wanted.items() if version is not None
    )
    assert not (tmp_path / "dead.jsonl").exists()


@pytest.mark.parametrize(
    "kinds", [("503",), ("429",), ("reset",), ("stall",), ("close", "503", "reset", "429")], ids=str
)
def test_an_endpoint_that_fails_always_ends_the_feed_and_the_dead_letters_are_what_was_sent(
    tmp_path: Path, kinds: tuple[str, ...], rounds: Rounds
) -> None:
    patience, documents = rounds(5, 300) / 10, rounds(500, 20_000)
    with serve_fake() as fake, fault_proxy(fake.url, 1.0, 2 * patience) as proxy:
        proxy.kinds = kinds
        made = (operation(f"id:k:image::{number:07}", number) for number in range(documents))
        begin = time.monotonic()
        summary = feed(
            made, proxy.url, dead_letters=tmp_path / "dead.jsonl", total=documents, patience=patience, progress=False
        )
        seconds = time.monotonic() - begin
        sent = {path.partition("?")[0].rsplit("/", 1)[1] for path in proxy.seen}
    failures = [Failure(**json.loads(line)) for line in (tmp_path / "dead.jsonl").read_text().splitlines()]
    print(f"{kinds}: gave up after {seconds:.1f} s of {patience}; {summary}")
    assert patience <= seconds < patience + rounds(10, 2)  # short form: 20 of its patience, for a loaded machine
    assert summary.gave_up
    assert not summary.complete
    assert sorted(failure.id.rsplit(":", 1)[1] for failure in failures) == sorted(sent)
    assert summary.failed == len(failures) <= 64
    assert summary.failed + summary.not_sent == documents
    assert "run the same command again" in str(summary)


@pytest.mark.parametrize("kinds", [("503",), ("stall",), ("reset after",)], ids=str)
def test_the_command_gives_up_in_time_with_an_exit_code_and_the_dead_letters_of_all_that_it_sent(
    tmp_path: Path, kinds: tuple[str, ...], rounds: Rounds
) -> None:
    patience, documents = rounds(4, 300) / 10, rounds(300, 20_000)
    shards = write_shards(tmp_path / "shards", documents)
    arguments = ["feed", "shards", str(shards), "--patience", str(patience), "--json"]
    with serve_fake(dim=DIM) as fake, fault_proxy(fake.url, 1.0, 2 * patience) as proxy:
        proxy.kinds = kinds
        begin = time.monotonic()
        done = CliRunner().invoke(cli, [*arguments, "--url", proxy.url])
        seconds = time.monotonic() - begin
        sent = {path.partition("?")[0].rsplit("/", 1)[1] for path in proxy.seen}
    summary = json.loads(done.stdout.splitlines()[-1])
    letters = (shards / "dead-letters.jsonl").read_text().splitlines()
    failed = [json.loads(line)["id"].rsplit(":", 1)[1] for line in letters]
    print(f"{kinds}: exit code {done.exit_code} after {seconds:.1f} s of {patience}; {summary}")
    assert done.exit_code == 1
    assert summary["gave_up"]
    assert (summary["fed"], summary["failed"] + summary["not_sent"]) == (0, documents)
    assert sorted(failed) == sorted(sent)
    assert summary["failed"] == len(failed)
    slack = rounds(20 * 4, 10) / 10  # short form: a patience of 0.4 s, 20 of which a loaded machine meets too
    assert summary["seconds"] < patience + slack
    assert seconds < 3 * patience + 2 * slack  # the application is probed before, once more where its connection broke
