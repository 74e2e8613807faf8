"""The journal: what was acknowledged is not sent again, everything else is, whatever a kill leaves of the file."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from clipsearch.errors import InputError
from feeders.journal import Journal, journal_path
from feeders.operations import Operation, Request, to_request

INDEX = "http://127.0.0.1:8080 image"


def put(name: str, width: int = 1) -> Request:
    return to_request(Operation("put", f"id:demo:image::{name}", {"width": width}))


def write(path: Path, *requests: Request, owner: str = INDEX, complete: bool = False) -> None:
    """A feed that acknowledges ``requests``, each in a frame of its own."""
    journal = Journal(path, owner)
    for request in requests:
        journal.acknowledged(request)
        journal.flush()
    journal.close(complete)


def look_up(path: Path, *requests: Request, owner: str = INDEX) -> list[str]:
    journal = Journal(path, owner)
    found = [journal.look_up(request) for request in requests]
    journal.close(False)
    return found


def test_an_acknowledged_operation_is_known_by_its_id_and_content(tmp_path: Path) -> None:
    write(tmp_path / "j", put("a"), put("b"))
    assert look_up(tmp_path / "j", put("b"), put("c"), put("a", 2)) == ["done", "new", "new"]
    remove = to_request(Operation("remove", "id:demo:image::b"))
    assert look_up(tmp_path / "j", remove) == ["new"]


def test_a_complete_feed_leaves_no_journal(tmp_path: Path) -> None:
    write(tmp_path / "j", put("a"), complete=True)
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize("lost", range(1, 60, 3))
def test_a_torn_tail_costs_only_itself(tmp_path: Path, lost: int) -> None:
    requests = [put(str(number)) for number in range(5)]
    write(tmp_path / "j", *requests)
    data = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(data[:-lost])
    whole = 5 - -(-lost // 28)
    assert look_up(tmp_path / "j", *requests) == ["done"] * whole + ["new"] * (5 - whole)
    write(tmp_path / "j", *requests[whole:])  # and what is appended to it then is found
    assert look_up(tmp_path / "j", *requests) == ["done"] * 5


def test_garbage_is_never_taken_for_fed(tmp_path: Path) -> None:
    random = Random(1)
    requests = [put(str(number)) for number in range(20)]
    for _ in range(20):
        write(tmp_path / "j", *requests[:10])
        data = bytearray((tmp_path / "j").read_bytes())
        at = random.randrange(len(data))
        data[at : at + random.randrange(40)] = random.randbytes(random.randrange(25))
        (tmp_path / "j").write_bytes(data)
        found = look_up(tmp_path / "j", *requests)
        assert "done" not in found[10:]
        assert found[:10] == sorted(found[:10])  # a beginning of it: "done" comes before "new"
        (tmp_path / "j").unlink()


def test_another_index_is_never_taken_for_fed(tmp_path: Path) -> None:
    write(tmp_path / "j", put("a"))
    other = Journal(tmp_path / "j", INDEX + " redeployed")
    assert other.foreign
    assert other.look_up(put("a")) == "new"
    other.close(False)
    assert look_up(tmp_path / "j", put("a")) == ["new"]  # it belongs to the other one now
    assert (
        journal_path(tmp_path, "http://a:1/")
        == journal_path(tmp_path, "http://a:1")
        != journal_path(tmp_path, "http://b:1")
    )


def test_two_feeds_never_share_a_journal(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j", INDEX)
    with pytest.raises(InputError, match="another feed is going on"):
        Journal(tmp_path / "j", INDEX)
    first.close(False)
    Journal(tmp_path / "j", INDEX).close(False)


def test_the_same_operation_twice_in_one_feed_counts_twice(tmp_path: Path) -> None:
    sequence = [put("a", 1), put("a", 2), put("a", 1)]
    write(tmp_path / "j", *sequence[:2])
    assert look_up(tmp_path / "j", *sequence) == ["done", "done", "new"]
    write(tmp_path / "k", *sequence)
    assert look_up(tmp_path / "k", *sequence) == ["done"] * 3


def test_after_a_change_is_sent_again_so_is_all_that_followed_it(tmp_path: Path) -> None:
    write(tmp_path / "j", put("b"), put("a", 2))  # the first operation on a was not acknowledged
    sequence = [put("a", 1), put("a", 2), put("b")]
    assert look_up(tmp_path / "j", *sequence) == ["new", "new", "done"]
    write(tmp_path / "j", put("a", 1))  # killed before version 2 was acknowledged once more
    assert look_up(tmp_path / "j", *sequence) == ["done", "new", "done"]


@pytest.mark.parametrize("seed", range(25))
def test_whatever_is_killed_or_fails_the_last_write_wins(tmp_path: Path, seed: int) -> None:
    """Feeds of one sequence, killed again and again; then one that gets to its end: the index is as if never killed."""
    random = Random(seed)
    sequence = [(f"d{random.randrange(4)}", random.randrange(3)) for _ in range(30)]
    index: dict[str, Any] = {}
    for life in range(8):
        last = life == 7
        journal = Journal(tmp_path / "j", INDEX)
        end = len(sequence) if last else random.randrange(len(sequence) + 1)
        for name, version in sequence[:end]:
            request = put(name, version)
            if journal.look_up(request) == "new":
                if not last and random.random() < 0.2:
                    continue  # refused: not acknowledged
                index[name] = version
                if last or random.random() < 0.9:  # else its note is lost with the kill
                    journal.acknowledged(request)
                else:
                    break
        journal.flush()
        journal.close(False)
    assert index == dict(sequence)


def test_an_increment_that_was_under_way_at_a_kill_is_not_sent_again(tmp_path: Path) -> None:
    first, second = (
        to_request(Operation("update", f"id:demo:image::{name}", {"width": {"increment": 1}})) for name in "ab"
    )
    journal = Journal(tmp_path / "j", INDEX)
    for request in (first, second):
        journal.sending(request)
    journal.acknowledged(first)
    journal.flush()
    journal.close(False)
    assert look_up(tmp_path / "j", first, second) == ["done", "unsure"]


def test_a_journal_of_many_operations_is_read_in_moments(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", INDEX)
    requests = [put(str(number)) for number in range(3000)]
    for request in requests:
        journal.acknowledged(request)
    journal.close(False)
    assert (tmp_path / "j").stat().st_size < 3000 * 17
    assert Journal.peek(tmp_path / "j") == 3000
    assert look_up(tmp_path / "j", *requests) == ["done"] * 3000
