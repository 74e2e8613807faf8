"""Unmodified pyvespa against a running engine: every verb of its clients, and its evaluators with known numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_process import ROOT, Running, embedding, fields, running
from vespa.application import Vespa
from vespa.evaluation import VespaEvaluator, VespaMatchEvaluator, VespaNNRecallEvaluator
from vespa.exceptions import VespaError


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("engine")
    with running(folder, free_port, "--app", str(ROOT / "vespa_app")) as process:
        yield process


@pytest.fixture
def application(engine: Running) -> Vespa:
    return Vespa("http://127.0.0.1", engine.port)


class Failures(list[Any]):
    """A feed's callback that keeps what was refused."""

    def __call__(self, response: Any, document_id: str) -> None:
        if not response.is_successful():
            self.append((document_id, response.json))


def documents(count: int) -> list[dict[str, Any]]:
    return [{"id": f"k{number}", "fields": fields(number)} for number in range(count)]


def vector_query(number: int) -> dict[str, Any]:
    return {
        "yql": "select * from image where {targetHits:5}nearestNeighbor(embedding,q)",
        "input.query(q)": embedding(number),
        "ranking": "vector",
        "presentation.summary": "hit",
        "hits": 5,
    }


def check_fed(application: Vespa, namespace: str, count: int) -> None:
    with application.syncio() as session:
        found = session.query({**vector_query(3), "yql": vector_query(3)["yql"] + " and width = 103"})
        assert found.status_code == 200
        assert found.hits[0]["fields"]["width"] == 103
    assert visited(application, namespace, slices=2) == {f"id:{namespace}:image::k{number}" for number in range(count)}


def visited(application: Vespa, namespace: str, **options: Any) -> set[str]:
    pages = application.visit("images", "image", namespace=namespace, **options)
    ids = [document["id"] for page in pages for part in page for document in part.documents]
    assert len(ids) == len(set(ids))
    return set(ids)


# ---- documents


def test_the_synchronous_client_feeds_reads_updates_and_deletes(application: Vespa) -> None:
    failed = Failures()
    application.feed_iterable(documents(30), schema="image", namespace="sync", callback=failed)
    assert failed == []
    check_fed(application, "sync", 30)
    found = application.get_data("image", "k5", namespace="sync")
    assert found.json["fields"]["captions"] == fields(5)["captions"]
    assert application.update_data("image", "k5", {"width": 9}, namespace="sync").status_code == 200
    assert application.get_data("image", "k5", namespace="sync").json["fields"]["width"] == 9
    assert application.update_data("image", "new", {"width": 1}, namespace="sync").status_code == 200
    assert application.get_data("image", "new", namespace="sync").status_code == 404
    assert application.update_data("image", "new", {"width": 1}, create=True, namespace="sync").status_code == 200
    assert application.get_data("image", "new", namespace="sync").json["fields"] == {"width": 1}
    assert application.delete_data("image", "k5", namespace="sync").status_code == 200
    assert application.get_data("image", "k5", namespace="sync").status_code == 404


def test_delete_all_docs_deletes_one_namespace_and_no_other(application: Vespa) -> None:
    for namespace in ("gone", "kept"):
        application.feed_iterable(documents(12), schema="image", namespace=namespace)
    application.delete_all_docs("images", "image", namespace="gone", slices=2)
    assert visited(application, "gone") == set()
    assert len(visited(application, "kept")) == 12


def test_visit_goes_through_pages_slices_and_a_selection(application: Vespa) -> None:
    application.feed_iterable(documents(25), schema="image", namespace="visit")
    everything = {f"id:visit:image::k{number}" for number in range(25)}
    assert visited(application, "visit", wanted_document_count=4) == everything
    parts = [visited(application, "visit", slices=3, slice_id=number) for number in range(3)]
    assert set.union(*parts) == everything
    assert sum(len(part) for part in parts) == 25
    few = visited(application, "visit", selection="image.width >= 120", fieldSet="image:width")
    assert few == {f"id:visit:image::k{number}" for number in range(20, 25)}


def test_feed_iterable_updates_deletes_and_reports_what_is_refused(application: Vespa) -> None:
    application.feed_iterable(documents(6), schema="image", namespace="batch")
    failed = Failures()
    updates = [{"id": f"k{number}", "fields": {"width": number}} for number in range(6)]
    application.feed_iterable(updates, schema="image", namespace="batch", operation_type="update", callback=failed)
    assert [application.get_data("image", f"k{n}", namespace="batch").json["fields"]["width"] for n in range(6)] == [
        *range(6)
    ]
    deletes = [{"id": f"k{number}"} for number in range(4)]
    application.feed_iterable(deletes, schema="image", namespace="batch", operation_type="delete", callback=failed)
    assert visited(application, "batch") == {"id:batch:image::k4", "id:batch:image::k5"}
    assert failed == []
    wrong = [{"id": "bad", "fields": {"width": "wide"}}, {"id": "good", "fields": {"width": 1}}]
    application.feed_iterable(wrong, schema="image", namespace="batch", callback=failed)
    assert [name for name, _ in failed] == ["bad"]
    assert "width" in failed[0][1]["message"]


def test_feed_async_iterable_feeds_updates_and_deletes(application: Vespa) -> None:
    failed = Failures()
    application.feed_async_iterable(documents(30), schema="image", namespace="async", callback=failed)
    check_fed(application, "async", 30)
    updates = [{"id": f"k{number}", "fields": {"width": number}} for number in range(30)]
    options = {"schema": "image", "namespace": "async", "callback": failed}
    application.feed_async_iterable(updates, operation_type="update", **options)
    assert application.get_data("image", "k29", namespace="async").json["fields"]["width"] == 29
    application.feed_async_iterable([{"id": f"k{n}"} for n in range(20)], operation_type="delete", **options)
    assert len(visited(application, "async")) == 10
    assert failed == []
    application.delete_all_docs("images", "image", namespace="async")


def test_the_asynchronous_session_has_every_verb(application: Vespa) -> None:
    async def verbs() -> list[Any]:
        async with application.asyncio() as session:
            known = {"schema": "image", "data_id": "z", "namespace": "verbs"}
            put = await session.feed_data_point(fields={"width": 1}, **known)
            update = await session.update_data(fields={"width": 2}, **known)
            got = await session.get_data(**known)
            query = await session.query({"yql": "select * from image where width = 2"})
            delete = await session.delete_data(**known)
            missing = await session.get_data(**known)
            return [put, update, got, query, delete, missing]

    put, update, got, query, delete, missing = asyncio.run(verbs())
    assert [answer.status_code for answer in (put, update, got, query, delete, missing)] == [200] * 5 + [404]
    assert got.json["fields"] == {"width": 2}
    assert "id:verbs:image::z" in [hit["id"] for hit in query.hits]


# ---- queries and evaluators, over one small collection


@pytest.fixture(scope="module")
def collection(engine: Running) -> Vespa:
    """40 documents, which the tests below leave alone; ``label`` holds class0 to class3."""
    application = Vespa("http://127.0.0.1", engine.port)
    made = [
        {"id": f"e{number}", "fields": fields(number) | {"corpus": "eval", "model_id": f"e{number}"}}
        for number in range(40)
    ]
    application.feed_iterable(made, schema="image", namespace="eval")
    return application


def eval_query(words, hits):  # pyvespa compares annotations with types, and postponed ones are strings
    return {
        "yql": "select * from image where userInput(@words) and corpus contains 'eval'",
        "words": words,
        "ranking": "lexical",
        "hits": hits,
    }


def test_query_many_answers_in_the_order_of_the_questions(collection: Vespa) -> None:
    asked = [{**vector_query(n), "yql": vector_query(n)["yql"] + " and corpus contains 'eval'"} for n in range(20)]
    for answers in (collection.query_many(asked), asyncio.run(collection.query_many_async(asked))):
        assert [answer.hits[0]["fields"]["width"] for answer in answers] == [100 + number for number in range(20)]


def test_a_refused_query_says_why_in_every_client(collection: Vespa) -> None:
    bad = {"yql": "select * from image where true", "ranking": "none"}
    with pytest.raises(VespaError) as caught:
        collection.query(bad)
    why = "schema 'image' does not contain requested rank profile 'none'"
    assert caught.value.args[0] == [{"code": 4, "summary": "Invalid query parameter", "message": why}]
    (many,) = collection.query_many([bad])
    assert many.status_code == 400


def test_the_evaluator_computes_the_metrics_that_a_hand_does(collection: Vespa, tmp_path: Path) -> None:
    """'number 7' finds e7 first. 'number 9' too, but e8 is called relevant: it comes second to last at best."""
    evaluator = VespaEvaluator(
        queries={"right": "scene number 7", "wrong": "number 9"},
        relevant_docs={"right": {"e7"}, "wrong": {"nowhere"}},
        vespa_query_fn=eval_query,
        app=collection,
        name="hand",
        accuracy_at_k=[1, 3],
        precision_recall_at_k=[1, 5],
        mrr_at_k=[10],
        ndcg_at_k=[10],
        map_at_k=[20],
        write_csv=True,
        csv_dir=str(tmp_path),
    )
    metrics = evaluator()
    assert evaluator.primary_metric == "ndcg@10"
    known = {name: value for name, value in metrics.items() if not name.startswith("searchtime")}
    assert known == {
        "accuracy@1": 0.5,
        "accuracy@3": 0.5,
        "precision@1": 0.5,
        "recall@1": 0.5,
        "precision@5": 0.1,
        "recall@5": 0.5,
        "mrr@10": 0.5,
        "ndcg@10": 0.5,
        "map@20": 0.5,
    }
    assert 0 < metrics["searchtime_q50"] < 5
    assert len(list(tmp_path.glob("*.csv"))) == 1


def test_the_evaluator_grades_relevance_by_place(collection: Vespa) -> None:
    """Documents 2, 6, 10... hold 'boats in a harbour' and all else alike: e2 and e6 tie and come in feeding order."""
    first = [hit["id"].rpartition(":")[2] for hit in collection.query(eval_query("boats harbour", 2)).hits]
    graded = VespaEvaluator(
        queries={"boats": "boats harbour"},
        relevant_docs={"boats": {first[0]: 0.5, first[1]: 1.0}},
        vespa_query_fn=eval_query,
        app=collection,
        ndcg_at_k=[2],
    )
    dcg, ideal = 0.5 + 1 / np.log2(3), 1 + 0.5 / np.log2(3)
    assert graded()["ndcg@2"] == pytest.approx(dcg / ideal)


def test_the_match_evaluator_counts_relevant_documents_among_the_matched(collection: Vespa) -> None:
    """Ten documents of 40 hold 'boats'; e2 and e6 are two of them, e3 and e4 are none."""
    evaluator = VespaMatchEvaluator(
        queries={"boats": "boats", "tanks": "tanks"},
        relevant_docs={"boats": {"e2", "e6", "e3", "e4"}, "tanks": {"e1"}},
        vespa_query_fn=eval_query,
        app=collection,
        id_field="model_id",
    )
    metrics = evaluator()
    known = {name: value for name, value in metrics.items() if not name.startswith("searchtime")}
    assert known == {
        "match_recall": 0.6,
        "avg_recall_per_query": 0.75,
        "total_relevant_docs": 5,
        "total_matched_relevant": 3,
        "avg_matched_per_query": 10,
        "total_queries": 2,
    }


def test_the_nearest_neighbour_recall_evaluator_compares_with_exact_search(collection: Vespa) -> None:
    asked = [{**vector_query(n), "yql": vector_query(n)["yql"] + " and corpus contains 'eval'"} for n in range(12)]
    recalls = VespaNNRecallEvaluator(asked, hits=5, app=collection, query_limit=10, id_field="model_id").run()
    assert recalls == [1.0] * 10
