"""Explained results, and ``clipsearch search`` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result
from fake_vespa import serve_fake
from small_index import ROOT

from clipsearch.commands.search import command
from clipsearch.errors import InputError, UnreachableError
from clipsearch.records import COMPLETE, Hit, Results
from clipsearch.search.explain import as_json, cosine, table

HITS = (
    Hit("id:demo:image::a.jpg", 0.0328, {"captions": ["a river\nwith a bridge " + "and trees " * 30]}, 2.5, 0.8, 2 / 3),
    Hit("id:demo:image::longer-name.jpg", 0.01, {"captions": []}),
)


def test_cosine_is_closeness_undone() -> None:
    assert cosine(1 / (1 + (1 - 0.25))) == pytest.approx(0.25)
    assert cosine(0.0) is None


def test_the_table_has_one_line_a_hit_within_the_width() -> None:
    lines = table(Results(HITS, 2), 90).splitlines()
    assert len(lines) == 3
    assert all(len(line) <= 90 for line in lines)
    assert lines[0].split() == ["#", "id", "relevance", "lexical", "complete", "cosine", "caption"]
    assert lines[1].split()[:6] == ["1", "id:demo:image::a.jpg", "0.0328", "2.50", "0.67", "0.750"]
    assert lines[1].endswith("…")
    assert lines[2].split() == ["2", "id:demo:image::longer-name.jpg", "0.0100", "-", "-", "-"]


def test_an_empty_result_is_a_sentence() -> None:
    assert table(Results((), 0)) == "No image matches."


def test_json_leaves_out_the_vector_and_keeps_the_parts() -> None:
    answer = as_json(Results(HITS, 2, {"yql": "y", "input.query(q)": [0.1]}, 0.01))
    assert answer["request"] == {"yql": "y"}
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2]
    assert answer["hits"][1]["cosine"] is None
    assert [hit["complete"] for hit in answer["hits"]] == [2 / 3, 0]


def test_the_page_calls_complete_what_the_profile_does() -> None:
    assert Hit("a", 1, {}, complete=1 - 1e-6).is_complete
    assert not Hit("a", 1, {}, complete=0.9).is_complete
    assert f"complete > {COMPLETE}" in (ROOT / "vespa_app" / "schemas" / "image" / "hybrid.profile").read_text()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, env={"CLIPSEARCH_MODEL": "", "CLIPSEARCH_URL": ""})


def test_lexical_search_needs_no_model() -> None:
    with serve_fake() as fake:
        fake.add("tanks.jpg", ["storage tanks"], seed=1)
        done = run("storage tanks", "--profile", "lexical", "--url", fake.url)
        machine = run("storage tanks", "--profile", "lexical", "--url", fake.url, "--json")
    assert done.exit_code == 0
    assert "id:demo:image::tanks.jpg" in done.stdout
    assert json.loads(machine.stdout)["hits"][0]["lexical"] == 2.0


def test_other_rankings_say_what_to_give() -> None:
    with serve_fake() as fake:
        done = run("storage tanks", "--url", fake.url)
    assert isinstance(done.exception, InputError)
    assert "--model DIR" in str(done.exception)
    assert "CLIPSEARCH_MODEL" in str(done.exception)


def test_words_beside_an_image_are_refused_rather_than_ignored() -> None:
    assert "--image" in str(run("words", "--image", "a.jpg").exception)


def test_an_engine_that_is_down_is_found_before_the_model_is_loaded(free_port: Callable[[], int]) -> None:
    done = run("river", "--model", "does-not-exist", "--url", f"http://127.0.0.1:{free_port()}")
    assert isinstance(done.exception, UnreachableError)
