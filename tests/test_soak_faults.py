"""Faults at every write, sync and rename below SQLite and the index files, and loss of power after any of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
import soak_faults
from soak_faults import IO_ERROR, KINDS, NO_SPACE, SHORT, STOP, STOPPED, TORN_ERROR, TORN_STOP, Disk, Server, Step

pytestmark = pytest.mark.soak
CHANGES = ("create", "write", "truncate", "sync", "sync-folder", "rename", "unlink", "mkdir")
LASTING = 1 << 30


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    folder = tmp_path_factory.mktemp("faults")
    shim = soak_faults.compile_shim(folder)
    running = [Server(shim, tmp_path_factory.mktemp("server")) for _ in range(2)]
    yield running
    for server in running:
        server.close()


@pytest.fixture(scope="module")
def server(servers: list[Server]) -> Server:
    return servers[0]


@pytest.fixture(scope="module")
def life(server: Server) -> tuple[Path, list[Step]]:
    """A life without a fault: its folder and everything that reached the disk."""
    root, steps, answer = server.live()
    assert answer == {"code": 0, "problems": []}
    return root, steps


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_shim_sees_everything_that_reaches_the_disk(server: Server, life: tuple[Path, list[Step]]) -> None:
    root, steps = life
    disk, rebuilt = Disk(root), server.new_folder()
    for step in steps:
        disk.do(step)
    disk.write_to(rebuilt, soak_faults.everything)
    assert files_of(rebuilt) == {name: data for name, data in files_of(root).items() if not name.endswith("-shm")}
    assert {"create", "write", "sync", "sync-folder", "unlink"} <= {step.type for step in steps}
    assert server.check(rebuilt, soak_faults.expected_after(steps)) == []


def faults(steps: list[Step]) -> list[tuple[int, int, int]]:
    """(operation, kind of fault, repeats) for everything that can go wrong; operations count from 1."""
    changes = [step for step in steps if step.type in CHANGES]
    found = []
    for at, step in enumerate(changes, 1):
        kinds = [NO_SPACE, IO_ERROR, STOP]
        if step.type == "write":
            kinds += [TORN_ERROR, TORN_STOP, SHORT]
        found += [(at, kind, 0) for kind in kinds]
        if step.type != "write" or at % 5 == 0:
            found.append((at, NO_SPACE, LASTING))
    return found


def in_two_halves(servers: list[Server], work: Callable[[Server, list[Any]], list[str]], cases: list[Any]) -> list[str]:
    """What ``work`` finds, each server doing every other case."""
    with ThreadPoolExecutor(len(servers)) as pool:
        halves = pool.map(work, servers, [cases[n :: len(servers)] for n in range(len(servers))])
        return [problem for half in halves for problem in half]


def test_after_any_fault_the_state_is_old_or_new_and_the_engine_goes_on(
    servers: list[Server], life: tuple[Path, list[Step]], rounds: Callable[[int, int], int]
) -> None:
    every = faults(life[1])
    chosen = sorted(Random(20261121).sample(every, min(len(every), rounds(16, len(every)))))
    wrong = in_two_halves(servers, after_faults, chosen)
    struck = Counter(KINDS[kind] + (", lasting" if repeats else "") for _, kind, repeats in chosen)
    counts = ", ".join(f"{count} {kind}" for kind, count in struck.items())
    print(f"{len(chosen)} of {len(every)} faults ({counts}): {len(wrong)} wrong states")
    assert not wrong, "\n".join(wrong[:10])


def after_faults(server: Server, cases: list[tuple[int, int, int]]) -> list[str]:
    """What is wrong during lives with one fault each, and after a new start on a sound disk."""
    wrong = []
    for at, kind, repeats in cases:
        root, steps, answer = server.live(at, kind, repeats)
        name = f"{KINDS[kind]}{' for a while' if repeats else ''} at operation {at}"
        stopped = kind in (STOP, TORN_STOP)
        if answer["code"] not in ((0, STOPPED) if stopped else (0,)):
            wrong.append(f"{name}: the engine ended with {answer['code']}")
        wrong += [f"{name}: {problem}" for problem in answer["problems"]]
        wrong += [f"{name}, then started: {p}" for p in server.check(root, soak_faults.expected_after(steps))]
    return wrong


def test_after_a_loss_of_power_all_that_was_acknowledged_is_there(
    servers: list[Server], life: tuple[Path, list[Step]], rounds: Callable[[int, int], int]
) -> None:
    root, steps = life
    everywhere = range(len(steps) + 1)
    points = sorted(Random(20261121).sample(everywhere, min(len(everywhere), rounds(8, len(everywhere)))))
    variants = rounds(1, 2)

    def after_losses(server: Server, points: list[int]) -> list[str]:
        disk, done, wrong = Disk(root), 0, []
        for point in points:
            while done < point:
                disk.do(steps[done])
                done += 1
            keeps = {"nothing": soak_faults.nothing}
            keeps |= {f"some({seed})": soak_faults.some(seed) for seed in range(point * 7, point * 7 + variants)}
            for name, keep in keeps.items():
                folder = server.new_folder()
                disk.write_to(folder, keep)
                found = server.check(folder, soak_faults.expected_after(steps[:point]))
                wrong += [f"power lost after step {point}, keeping {name} of what was not synced: {p}" for p in found]
        return wrong

    wrong = in_two_halves(servers, after_losses, points)
    count = len(points) * (variants + 1)
    print(f"{count} losses of power, after {len(points)} of {len(steps) + 1} steps: {len(wrong)} wrong states")
    assert not wrong, "\n".join(wrong[:10])
