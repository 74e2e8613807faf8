"""``clipsearch plan``: the published table comes out, every number has its source, and bad options are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from clipsearch.commands.plan import command, duration, size
from clipsearch.errors import InputError
from clipsearch.planning import FIGURES, Workload, graph_bytes, plan, vector_bytes


@pytest.mark.parametrize(
    ("count", "cells", "expected"),
    [
        (2e5, "float", "410 MB"), (2e5, "bfloat16", "205 MB"), (2e5, "bits", "12.8 MB"),
        (1e9, "float", "2.05 TB"), (1e9, "bfloat16", "1.02 TB"), (1e9, "bits", "64.0 GB"),
        (50 * 2e5, "bfloat16", "10.2 GB"), (50 * 2e5, "bits", "640 MB"),
        (50 * 1e9, "bfloat16", "51.2 TB"), (50 * 1e9, "bits", "3.20 TB"),
    ],
)  # fmt: skip
def test_vectors_of_512_values_weigh_what_the_table_says(count: float, cells: str, expected: str) -> None:
    assert size(vector_bytes(count, 512, cells)) == expected


@pytest.mark.parametrize(
    ("count", "several", "expected"),
    [(2e5, False, "18.4 MB"), (1e9, False, "92.0 GB"), (50 * 2e5, True, "1.04 GB")],
)
def test_graphs_weigh_what_was_measured(count: float, several: bool, expected: str) -> None:
    assert size(graph_bytes(count, 16, several=several)) == expected


def test_the_measured_billion_comes_out_within_a_tenth() -> None:
    """13-byte codes: 64.2, 103.7 and 156.3 GB; 104 bits are 13 bytes."""
    for links, measured in ((0, 64.2e9), (8, 103.7e9), (16, 156.3e9)):
        parts = plan(Workload(1e9, 104, bits=True, links=links)).parts
        assert sum(part.memory for part in parts) == pytest.approx(measured, rel=0.1)


def test_bits_take_a_sixteenth_of_the_memory_of_vectors_and_more_disk() -> None:
    full, bits = plan(Workload(1e8)), plan(Workload(1e8, bits=True))
    assert full.parts[0].memory == 16 * bits.parts[0].memory
    assert bits.disk > full.disk
    assert bits.memory < full.memory / 3
    assert {"phases", "paged"} <= set(bits.figures) - set(full.figures)


def test_nodes_follow_memory_disk_and_copies() -> None:
    assert (plan(Workload(2e5)).nodes, plan(Workload(2e5)).bound_by) == (2, "redundancy")
    large = plan(Workload(1e9, redundancy=1, node_disk=100e12))
    assert large.bound_by == "memory"
    assert large.nodes == -(-large.memory // (0.7 * 256e9))
    assert plan(Workload(1e9, node_disk=1e12)).bound_by == "disk"
    assert plan(Workload(1e9, redundancy=2, node_disk=1e15)).memory == 2 * large.memory


def test_200_000_images_are_fed_in_half_a_minute_to_two_on_one_node() -> None:
    one = plan(Workload(2e5, redundancy=1))
    assert 30 <= one.seconds <= 120
    patches = plan(Workload(2e5, redundancy=1, patches=50))
    assert patches.seconds == pytest.approx(10.2e6 / 5009)  # about half an hour
    assert patches.figures.count("feed-multi") == 1


def test_every_figure_of_a_plan_is_printed_with_its_source() -> None:
    text = CliRunner().invoke(command, ["--docs", "1e9", "--dim", "512", "--patches", "9", "--bits"]).output
    found = plan(Workload(1e9, patches=9, bits=True))
    for number, key in enumerate(found.figures, 1):
        assert f"[{number}] {FIGURES[key].says}. {FIGURES[key].source}" in text
        assert text.count(f"[{number}]") >= 2, f"{key} is not referred to"
    assert "64.0 GB" in text
    assert "bound by disk" in text


def test_json_has_bytes_and_sources() -> None:
    answer = json.loads(CliRunner().invoke(command, ["--docs", "200000", "--json"]).output)
    assert answer["parts"][0] == {
        "name": "embedding, bfloat16", "memory": 204.8e6, "disk": 204.8e6, "figures": ["cells"]
    }  # fmt: skip
    assert answer["figures"]["graph"]["source"].startswith("blog.vespa.ai")
    assert answer["workload"]["docs"] == 200000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"docs": 0}, "--docs"), ({"docs": float("nan")}, "--docs"), ({"docs": 1, "dim": 0}, "--dim"),
        ({"docs": 1, "dim": 500, "bits": True}, "8 divides"), ({"docs": 1, "headroom": 0.1}, "blocks feeding at 80 %"),
        ({"docs": 1, "bits": True, "cells": "float"}, "--cells"), ({"docs": 1, "links": 32}, "published figures"),
        ({"docs": 1, "node_memory": 0}, "above 0"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Workload(**options)


def test_sizes_and_times_are_readable() -> None:
    assert [size(each) for each in (0, 999, 1e3, 204.8e6, 1.024e12, 9e15)] == [
        "-", "999 B", "1.00 kB", "205 MB", "1.02 TB", "9000 TB"
    ]  # fmt: skip
    assert [duration(each) for each in (5, 150, 9000, 200_000)] == ["5.0 s", "2.5 minutes", "2.5 hours", "2.3 days"]


def test_the_figures_are_those_of_the_teams_facts(shared: Path) -> None:
    facts = (shared / "vespa" / "facts.md").read_text()
    for number in ("64.2 GB", "103.7 GB", "156.3 GB", "81,200", "32,000", "15,400", "5,521", "5,009", "205", "92 GB"):
        assert number in facts
