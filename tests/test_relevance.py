"""Judgments kept through kills, and rankings measured by them: numbers by hand, and through the engine."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fake_vespa import FakeVespa, serve_fake, unit
from small_index import ColourModel, running_engine, write_shards

from clipsearch.commands.relevance import command
from clipsearch.errors import CheckpointError, ClipsearchError, InputError
from clipsearch.metrics import Relevance, rank_all
from clipsearch.relevance.asking import Asker, filters
from clipsearch.relevance.judgments import JudgedQuery, Judgment, JudgmentBook, read_judgments
from clipsearch.relevance.measuring import MEASURES, Scores
from clipsearch.relevance.report import Section, as_json, evaluate, table
from clipsearch.relevance.topics import Topic, topics_of
from clipsearch.relevance.trec import read_qrels
from clipsearch.search import QueryEncoder, SearchClient, by_profile
from clipsearch.search.terms import Term
from clipsearch.web.searching import Searcher
from clipsearch.web.state import PageState
from clipsearch.web.uploads import Uploads
from feeders.shards import feed_shards

RIVER = JudgedQuery(q="river")


def doc(name: str) -> str:
    return f"id:demo:image::{name}"


def answer(*names: str) -> tuple[int, dict[str, Any]]:
    """Hits in this order."""
    hits = [
        {"id": doc(name), "relevance": None, "fields": {"documentid": doc(name), "matchfeatures": {}}} for name in names
    ]
    return 200, {"root": {"fields": {"totalCount": len(hits)}, "children": hits}}


@pytest.fixture
def fake() -> Iterator[FakeVespa]:
    with serve_fake() as server:
        for number in range(30):
            server.add(f"d{number}", ["a river"], number)
        yield server


def rank_as(fake: FakeVespa, orders: dict[str, list[str]]) -> None:
    """Answer queries by their words with documents in this order."""

    def special(method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        return answer(*orders[body["text"]]) if body.get("text") in orders else None

    fake.answer = special


def test_the_measures_are_those_of_the_textbook(fake: FakeVespa) -> None:
    rank_as(fake, {"river": ["d5", "d1", "d9", "d2", "d8"], "tanks": ["d3"]})
    topics = [
        Topic("1", RIVER, {doc("d1"): 1.0, doc("d2"): 1.0, doc("d3"): 1.0, doc("d5"): 0.0}),
        Topic("2", JudgedQuery(q="tanks"), {doc("d3"): 1.0}),
    ]
    (scores,) = evaluate(fake.url, topics, [], ["lexical", "vector"]).sections[0].scores
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert scores.values["mrr@10"] == pytest.approx([1 / 2, 1])
    assert scores.values["ndcg@10"] == pytest.approx([(1 / math.log2(3) + 1 / math.log2(5)) / ideal, 1])
    assert scores.values["precision@10"] == pytest.approx([0.2, 0.1])
    assert scores.values["recall@10"] == pytest.approx([2 / 3, 1])
    assert scores.values["map@100"] == pytest.approx([(1 / 2 + 2 / 4) / 3, 1])
    # of the judged hits alone the order is d5, d1, d2
    assert scores.values["ndcg@10 judged"] == pytest.approx([(1 / math.log2(3) + 1 / math.log2(4)) / ideal, 1])
    assert scores.judged == pytest.approx([3 / 5, 1])
    assert tuple(scores.values) == MEASURES


def test_grades_count_in_ndcg_and_all_above_0_are_relevant_to_the_others(fake: FakeVespa) -> None:
    rank_as(fake, {"river": ["d1", "d2", "d3"]})
    topic = Topic("1", RIVER, {doc("d1"): 0.5, doc("d2"): 1.0, doc("d4"): 0.0})
    (scores,) = evaluate(fake.url, [topic], [], ["lexical"]).sections[0].scores
    assert scores.means["ndcg@10"] == pytest.approx((0.5 + 1 / math.log2(3)) / (1 + 0.5 / math.log2(3)))
    assert scores.means["precision@10"] == pytest.approx(0.2)
    assert scores.means["map@100"] == pytest.approx(1)
    assert len([body for body in fake.requests if body[1] == "/search/"]) == 1


def test_equal_keys_of_two_corpora_are_two_documents(fake: FakeVespa) -> None:
    fake.add("d1", ["a river"], 1, corpus="other")
    rank_as(fake, {"river": ["d1"]})
    topic = Topic("1", RIVER, {"id:other:image::d1": 1.0})
    (scores,) = evaluate(fake.url, [topic], [], ["lexical"]).sections[0].scores
    assert scores.means["mrr@10"] == 0


def test_a_query_by_an_indexed_image_does_not_count_that_image(fake: FakeVespa) -> None:
    topic = Topic("1", JudgedQuery(like=doc("d4")), {doc("d7"): 1.0})

    class Model:
        model_id, dim = "m", 8

    report = evaluate(fake.url, [topic], [QueryEncoder(Model())], ["lexical", "vector", "hybrid"])  # type: ignore[arg-type]
    (section,) = report.sections
    assert [(section.kind, scores.profile, scores.model) for scores in section.scores] == [("images", "vector", "m")]
    cosines = sorted(range(30), key=lambda number: -float(unit(number) @ unit(4)))
    assert section.scores[0].means["mrr@10"] == pytest.approx(
        1 / cosines.index(7) if cosines.index(7) <= 10 else 0, abs=1e-6
    )
    assert fake.queries[-1]["hits"] == 101


@pytest.mark.parametrize(
    ("topics", "sentence"),
    [
        ([], "nothing is judged yet"),
        ([Topic("1", RIVER, {doc("d1"): 0.0})], "1 query no image judged relevant"),
        ([Topic("1", JudgedQuery(img="ab"), {doc("d1"): 1.0})], "by an uploaded image"),
        ([Topic("1", JudgedQuery(terms=("1:img:ab",)), {doc("d1"): 1.0})], "by an uploaded image"),
        ([Topic("1", JudgedQuery(like=doc("d4")), {doc("d1"): 1.0})], "needs --model"),
        ([Topic("1", RIVER, {doc("gone"): 1.0, doc("d1"): 1.0})], "gone were judged and are not in the index"),
        ([Topic("1", RIVER, {"../etc": 1.0})], "is not the id of an image"),
    ],
)
def test_what_cannot_be_measured_is_said(fake: FakeVespa, topics: list[Topic], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence.replace("(", r"\(")):
        evaluate(fake.url, topics, [], ["lexical"])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[str]:
    home = tmp_path_factory.mktemp("engine")
    with running_engine(home / "data", free_port) as engine:
        assert feed_shards(write_shards(home / "shards"), engine.url, progress=False).complete
        yield engine.url


def blocks(*names: str) -> dict[str, float]:
    return {f"id:blocks:image::{name}.png": 1.0 for name in names}


TOPICS = [
    Topic("1", JudgedQuery(q="a red block at the left"), {**blocks("red_left"), "id:blocks:image::red_top.png": 0.0}),
    Topic("2", JudgedQuery(q="green"), blocks("green_left", "green_right", "green_top")),
    Topic("3", JudgedQuery(q="something at the top", label="blue"), blocks("blue_top")),
    Topic("4", JudgedQuery(like="id:blocks:image::yellow_left.png"), blocks("yellow_right", "yellow_top")),
]


def test_through_the_engine_the_figures_are_those_of_our_own_metrics(url: str) -> None:
    model = ColourModel()
    encoder = QueryEncoder(model)
    profiles = ["lexical", "vector", "hybrid", "hybrid_linear"]
    words, images = evaluate(url, TOPICS, [encoder], profiles).sections
    assert [scores.profile for scores in words.scores] == profiles
    assert len(images.topics) == 1
    with SearchClient(url) as client:
        for scores in words.scores:
            for at, topic in enumerate(words.topics):
                request = by_profile(
                    scores.profile, topic.query.q, encoder.text(topic.query.q), filters=asked(topic), hits=100
                )
                order = [hit.id for hit in client.search(request).hits]
                expected = by_our_metrics(order, topic)
                assert {name: scores.values[name][at] for name in expected} == pytest.approx(expected), scores.profile


def asked(topic: Topic) -> Any:
    return filters(topic.query)


def by_our_metrics(order: list[str], topic: Topic) -> dict[str, float]:
    """``clipsearch.metrics`` on the same order; relevant images that were not found stand last, beyond hit 100."""
    everything = [*order, *[f"filler {n}" for n in range(100)], *(topic.relevant - set(order))]
    relevant = np.array([document in topic.relevant for document in everything])
    scores = np.arange(len(everything), 0, -1, dtype=np.float32)[:, None]
    found = rank_all(
        np.ones((1, 1), np.float32), scores, Relevance.by_group(np.array([1]), relevant.astype(int)), (10,)
    )
    return {name: float(found[name][0]) for name in ("mrr@10", "ndcg@10", "precision@10")}


def test_the_report_names_the_best_and_whether_its_lead_may_be_chance(url: str) -> None:
    report = evaluate(url, TOPICS, [QueryEncoder(ColourModel())], ["lexical", "vector"])
    text = table(report)
    assert "3 queries by words, 6 judgments, 5 relevant" in text
    assert "1 query by images, 2 judgments, 2 relevant" in text
    assert "over too few queries (3) to trust" in text
    assert "favours the rankings that were judged" in text
    section = as_json(report)["sections"][0]
    assert section["best"]["mrr@10"]["mean"] == max(run["mrr@10"] for run in section["runs"])
    assert 0 < section["runs"][0]["judged"] < 1


def test_a_judged_query_has_the_very_vector_that_the_page_asked_with(url: str) -> None:
    terms = ("-0.5:text:green", "2:like:id:blocks:image::red_top.png")
    asked = JudgedQuery(q="a red block", like="id:blocks:image::yellow_left.png", terms=terms)
    state = PageState(q=asked.q, like=asked.like, terms=tuple(map(Term.parse, terms)))
    encoder = QueryEncoder(ColourModel())
    with SearchClient(url) as client:
        page = Searcher(client, {"colours-1": encoder}, Uploads())
        by_page, measured = page.query_vector(state), Asker(client, encoder).vector(asked)
        assert by_page is not None
        assert by_page.tobytes() == measured.tobytes()
        cancelled = JudgedQuery(q="red", terms=("-1:text:red",))
        with pytest.raises(InputError, match="cancel out"):
            Asker(client, encoder).vector(cancelled)
        with pytest.raises(InputError, match="needs its upload"):
            Asker(client, encoder).vector(JudgedQuery(terms=("1:img:abc",)))


def test_a_model_that_the_index_does_not_hold_is_refused(url: str) -> None:
    class Other(ColourModel):
        model_id = "other"

    with pytest.raises(CheckpointError, match="none of the model other"):
        evaluate(url, TOPICS, [QueryEncoder(Other())], ["vector"])


def test_the_command_reads_the_pages_file_and_prints_json(url: str, tmp_path: Path) -> None:
    path = tmp_path / "judgments.jsonl"
    book = JudgmentBook(path)
    for topic in TOPICS[:3]:
        for document, grade in topic.grades.items():
            book.add(Judgment(topic.query, document, grade > 0, "lexical", "", 1))
    with path.open("a") as file:
        file.write('{"time": "20')
    done = CliRunner().invoke(command, [str(path), "--url", url, "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.output)
    assert said["torn_lines"] == [7]
    assert said["judged_under"] == {"lexical": 6}
    assert [run["profile"] for run in said["sections"][0]["runs"]] == ["lexical"]
    plain = CliRunner().invoke(command, [str(path), "--url", url])
    assert "Judged under: lexical 6." in plain.output
    assert "1 line was cut short" in plain.output


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "record some with"), ("", "nothing is judged"), ("{}\n", "line 1 is no judgment")]
)
def test_the_command_says_what_is_wrong_with_the_file(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "j.jsonl"
    if content is not None:
        path.write_text(content)
    done = CliRunner().invoke(command, [str(path)])
    assert done.exit_code != 0
    assert isinstance(done.exception, ClipsearchError)
    assert sentence in str(done.exception)


def test_a_later_line_replaces_an_earlier_one_and_null_takes_it_back(tmp_path: Path) -> None:
    book = JudgmentBook(tmp_path / "new" / "j.jsonl")
    book.check()
    assert book.of(RIVER) == {}
    for relevant, expected in ((True, {"a": True}), (False, {"a": False}), (None, {}), (True, {"a": True})):
        book.add(Judgment(RIVER, "a", relevant))
        assert book.of(RIVER) == expected
        assert book.of(JudgedQuery(q="river", corpus="rsicd")) == {}
    assert len(book.path.read_text().splitlines()) == 4
    assert len(read_judgments(book.path)) == 1
    assert topics_of(read_judgments(book.path))[0].relevant == {"a"}


def test_a_file_that_is_replaced_or_removed_while_the_page_runs_is_read_anew(tmp_path: Path) -> None:
    book, other = JudgmentBook(tmp_path / "j.jsonl"), JudgmentBook(tmp_path / "other.jsonl")
    book.add(Judgment(RIVER, "a", True))
    other.add(Judgment(RIVER, "b", False))
    assert book.of(RIVER) == {"a": True}
    other.path.rename(book.path)
    assert book.of(RIVER) == {"b": False}
    book.path.unlink()
    assert book.of(RIVER) == {}
    book.add(Judgment(RIVER, "c", True))
    assert book.of(RIVER) == {"c": True}


def test_a_torn_line_swallows_neither_the_one_before_nor_the_one_after(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    book = JudgmentBook(path)
    book.add(Judgment(RIVER, "a", True))
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        book.add(Judgment(RIVER, "b", False))
        assert book.of(RIVER) == {"a": True, "b": False}, cut
        assert len(read_judgments(path).torn) == (0 if cut == len(whole) - 1 else 1)


def test_many_threads_and_two_pages_write_whole_lines(tmp_path: Path) -> None:
    books = [JudgmentBook(tmp_path / "j.jsonl") for _ in range(2)]

    def write(number: int) -> None:
        for step in range(10):
            books[number % 2].add(Judgment(RIVER, f"{number}-{step}", True))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(books[0].of(RIVER)) == len(books[1].of(RIVER)) == 80
    assert read_judgments(books[0].path).torn == ()


def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    code = (
        "import sys; from pathlib import Path; from clipsearch.relevance.judgments import *\n"
        "book = JudgmentBook(Path(sys.argv[1]))\n"
        "for n in range(10**6): book.add(Judgment(JudgedQuery(q='river'), str(n), True)); print(n, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 50:
            process.kill()
            break
    acknowledged = [int(line) for line in process.stdout] or [50]
    process.wait(10)
    process.stdout.close()
    assert {str(n) for n in range(acknowledged[-1] + 1)} <= set(JudgmentBook(path).of(RIVER))


def test_a_disk_that_is_full_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = JudgmentBook(tmp_path / "j.jsonl")
    book.add(Judgment(RIVER, "a", True))
    before = book.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        book.add(Judgment(RIVER, "b", True))
    assert book.path.read_bytes() == before


def test_qrels_are_read_with_grades_and_their_topics_words(tmp_path: Path) -> None:
    (tmp_path / "topics").write_text("401\tstorage tanks\n402\ta river\n")
    (tmp_path / "qrels").write_text("401 0 a.jpg 2\n401 0 b.jpg 1\n401 Q0 c.jpg 0\n402 0 a.jpg -2\n\n")
    first, second = read_qrels(tmp_path / "qrels", tmp_path / "topics", "rsicd")
    assert (first.query, first.grades) == (
        JudgedQuery(q="storage tanks"),
        {"id:rsicd:image::a.jpg": 1.0, "id:rsicd:image::b.jpg": 0.5, "id:rsicd:image::c.jpg": 0.0},
    )
    assert not second.relevant


@pytest.mark.parametrize(
    ("qrels", "topics", "corpus", "sentence"),
    [
        ("401 0 a.jpg\n", "401\triver\n", "rsicd", "qrels, line 1 is not"),
        ("401 0 a.jpg one\n", "401\triver\n", "rsicd", "qrels, line 1 is not"),
        ("402 0 a.jpg 1\n", "401\triver\n", "rsicd", "has no words for it"),
        ("401 0 a.jpg 1\n", "401\triver\n", "", "name the corpus that it is a key of with --corpus"),
        ("401 0 a.jpg 1\n", "401 river\n", "rsicd", "topics, line 1 is not"),
    ],
)
def test_qrels_that_make_no_sense_name_file_and_line(
    tmp_path: Path, qrels: str, topics: str, corpus: str, sentence: str
) -> None:
    (tmp_path / "qrels").write_text(qrels)
    (tmp_path / "topics").write_text(topics)
    with pytest.raises(InputError, match=sentence):
        read_qrels(tmp_path / "qrels", tmp_path / "topics", corpus)


def scores_of(profile: str, values: list[float]) -> Scores:
    return Scores(profile, "", {name: np.array(values) for name in MEASURES}, np.ones(len(values)), frozenset())


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ([1.0] * 12, [0.5] * 12, "a, 0.5000 ahead of b (95 % of resamples: 0.5000 to 0.5000)"),
        ([1.0, 0.0] * 6, [0.0, 0.9] * 6, "a, 0.0500 ahead of b"),
        ([1.0] * 12, [1.0] * 12, "a, and b is as good"),
        ([1.0] * 9, [0.5] * 9, "over too few queries (9) to trust"),
    ],
)
def test_a_lead_is_believed_only_with_queries_enough(first: list[float], second: list[float], sentence: str) -> None:
    lead = Section("words", (), (scores_of("a", first), scores_of("b", second))).leads["mrr@10"]
    assert sentence in str(lead)
    assert lead.certain == (len(first) >= 10 and first[0] == 1.0 and first[1] == 1.0 and second[0] == 0.5)
    assert ("may be chance" in str(lead)) == (first[1] == 0.0)
