"""Rankings measured against judgments by pyvespa's ``VespaEvaluator`` (``vespa.evaluation``).

What it does not do is worked round in this file, and nowhere else:

* It gives means only, and intervals need the value of each query: here each query has an evaluator of its own.
* With grades it computes nDCG and nothing else: here the other measures take every grade above 0 as relevant, from the
  same answer.
* It names documents by their key, so that equal keys of two corpora were one: ``id_field`` is ``documentid`` here.
* It asks through a client whose errors are no sentences: ``_Answers`` stands for its ``app`` and asks through ours.
* It takes what nobody judged for not relevant, which favours the rankings that were looked at: here the share of judged
  hits stands beside, and nDCG also over the judged hits alone (condensed lists: Sakai, "Alternatives to Bpref", 2007).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vespa.evaluation import VespaEvaluator
from vespa.io import VespaQueryResponse

from clipsearch.errors import InputError
from clipsearch.relevance.topics import Topic
from clipsearch.search import SearchClient
from clipsearch.search.endpoint import Endpoint, parse_id
from clipsearch.search.query import Request

K = 10
DEPTH = 100  # hits of each query: average precision looks this far
MEASURES = (f"mrr@{K}", f"ndcg@{K}", f"precision@{K}", f"recall@{K}", f"map@{DEPTH}", f"ndcg@{K} judged")
_CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class Run:
    """A ranking, of one model where it compares embeddings; ``ask`` gives the request for a topic and a depth."""

    profile: str
    model: str
    ask: Callable[[Topic, int], Request]


@dataclass(frozen=True, slots=True)
class Scores:
    """What a run is worth: ``values`` has (Q,) float64 for each measure, ``judged`` the share of judged hits among the
    first ten of each query, (Q,), NaN where nothing was found; ``found``: all documents that came back.
    """

    profile: str
    model: str
    values: Mapping[str, NDArray[np.float64]]
    judged: NDArray[np.float64]
    found: frozenset[str]

    @property
    def means(self) -> dict[str, float]:
        """The mean of each measure over the queries."""
        return {name: float(values.mean()) for name, values in self.values.items()}


def measure(endpoint: Endpoint, run: Run, topics: Sequence[Topic]) -> Scores:
    """Ask every topic of ``run``, several at a time; raises what the endpoint's errors become."""
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        rows = list(pool.map(lambda topic: _one(endpoint, run.ask(topic, DEPTH), topic), topics))
    values = {name: np.array([row[0][name] for row in rows]) for name in MEASURES}
    found = frozenset(document for _, documents in rows for document in documents)
    shares = [_judged(documents[:K], topic.grades) for (_, documents), topic in zip(rows, topics, strict=True)]
    return Scores(run.profile, run.model, values, np.array(shares), found)


def check_indexed(client: SearchClient, topics: Sequence[Topic], found: Collection[str]) -> None:
    """Raise ``InputError`` when a judged image is not in the index; ``found`` are known to be."""
    unseen = sorted({document for topic in topics for document in topic.grades} - set(found))
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        there = list(pool.map(lambda document: client.get(document, ("corpus",)) is not None, unseen))
    missing = [document for document, known in zip(unseen, there, strict=True) if not known]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"{missing[0]}{others} were judged and are not in the index at {client.url}: feed them again, give the "
            "index that was judged with --url, or take their lines out of the file"
        )


def check_ids(topics: Sequence[Topic]) -> None:
    """Raise ``InputError`` for a judged document whose id cannot be one of the index."""
    for topic in topics:
        for document in topic.grades:
            parse_id(document)


def _one(endpoint: Endpoint, request: Request, topic: Topic) -> tuple[dict[str, float], list[str]]:
    """The measures of one topic, and the ids of its hits in rank order."""
    answers = _Answers(endpoint, request, topic.query.like)
    scores = _evaluate(topic, set(topic.relevant), answers)
    if topic.graded:
        scores[f"ndcg@{K}"] = _evaluate(topic, dict(topic.grades), answers)[f"ndcg@{K}"]
    condensed = dict(topic.grades) if topic.graded else set(topic.relevant)
    judged = _evaluate(topic, condensed, answers.only(topic.grades))
    return {**scores, f"ndcg@{K} judged": judged[f"ndcg@{K}"]}, answers.documents


def _evaluate(topic: Topic, relevance: set[str] | dict[str, float], answers: _Answers) -> dict[str, float]:
    evaluator = VespaEvaluator(
        {topic.name: str(topic.query)},
        {topic.name: relevance},
        lambda query_text, top_k: dict(answers.request),
        answers,
        id_field="documentid",
        accuracy_at_k=[],
        precision_recall_at_k=[K],
        mrr_at_k=[K],
        ndcg_at_k=[K],
        map_at_k=[DEPTH],
    )
    scores: dict[str, float] = evaluator.run()
    return scores


class _Answers:
    """Stands for pyvespa's ``Vespa`` in an evaluator: asks once, whoever evaluates the answer how often.

    ``leave_out``: the document that was searched by, which is no answer.
    """

    def __init__(self, endpoint: Endpoint, request: Request, leave_out: str = "") -> None:
        self.request = request
        self._hits = [
            _plain(hit, place)
            for place, hit in enumerate(endpoint.query(request)["root"].get("children", ()))
            if hit.get("fields", {}).get("documentid") != leave_out
        ][:DEPTH]

    @property
    def documents(self) -> list[str]:
        """The ids of the hits in rank order."""
        return [hit["fields"]["documentid"] for hit in self._hits]

    def only(self, documents: Collection[str]) -> _Answers:
        """The same answer without hits that are not among ``documents``."""
        other = object.__new__(_Answers)
        other.request = self.request
        other._hits = [hit for hit in self._hits if hit["fields"]["documentid"] in documents]
        return other

    def query_many(self, bodies: Iterable[Any], max_concurrent: int = 1) -> list[VespaQueryResponse]:
        """What the evaluator calls."""
        reply = {"root": {"children": self._hits}}
        return [VespaQueryResponse(reply, 200, "", request_body=body) for body in bodies]


def _plain(hit: Mapping[str, Any], place: int) -> dict[str, Any]:
    """What an evaluator reads of a hit. It wants a number as score, which Vespa renders as null for NaN."""
    return {"relevance": -float(place), "fields": {"documentid": str(hit["fields"]["documentid"])}}


def _judged(documents: Sequence[str], grades: Mapping[str, float]) -> float:
    return sum(document in grades for document in documents) / len(documents) if documents else float("nan")
