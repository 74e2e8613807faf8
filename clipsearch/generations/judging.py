"""Two generations of embeddings on the same held-out captions, measured through the query API that users ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipsearch.errors import InputError
from clipsearch.metrics.bootstrap import bootstrap_intervals
from clipsearch.records import Generation, Record
from clipsearch.search.client import SearchClient
from clipsearch.search.query import Filters, Vector, vector

K = 10
_CONNECTIONS = 4


class TextModel(Protocol):
    """What judging needs of a model."""

    def embed_texts(self, texts: Sequence[str]) -> Any:
        """(N, D) float32, unit norm."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One caption as a query, and the ids of the images that it stands for, all of one corpus."""

    text: str
    relevant: frozenset[str]
    corpus: str


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over the captions, and the values of each: (Q,) float64."""

    mrr: NDArray[np.float64]
    recall: NDArray[np.float64]

    def as_json(self) -> dict[str, float]:
        """For machines."""
        return {f"mrr@{K}": round(float(self.mrr.mean()), 6), f"recall@{K}": round(float(self.recall.mean()), 6)}


def held_out(records: Sequence[Record], split: str, limit: int, seed: int = 0) -> list[HeldOut]:
    """At most ``limit`` captions of a split's images, drawn with ``seed``. Equal captions are one query.

    Raises ``InputError`` when there are none.
    """
    owners: dict[tuple[str, str], set[str]] = {}
    for record in records:
        if record.split == split:
            for caption in record.captions:
                owners.setdefault((record.corpus, caption), set()).add(record.id)
    if not owners:
        raise InputError(
            f"the corpus has no captions in its split {split!r} to judge the models by: name another one with "
            "--split, or switch without judging with --force"
        )
    found = [HeldOut(text, frozenset(ids), corpus) for (corpus, text), ids in owners.items()]
    if len(found) <= limit:
        return found
    chosen = np.random.default_rng(seed).choice(len(found), limit, replace=False)
    return [found[int(at)] for at in np.sort(chosen)]


def judge(
    client: SearchClient, captions: Sequence[HeldOut], model: TextModel, generation: Generation, split: str
) -> Scores:
    """Reciprocal rank of the first right image and recall, both at 10, by ranking ``vector`` among images of
    the caption's corpus and split.

    BM25 would find the captions themselves in the documents, so rankings that read words are no judges here.
    """
    vectors = np.asarray(model.embed_texts([caption.text for caption in captions]), np.float32)

    def one(pair: tuple[HeldOut, Vector]) -> tuple[float, float]:
        caption, embedding = pair
        filters = Filters(caption.corpus, split=split)
        found = client.search(vector(embedding, filters=filters, hits=K, generation=generation)).hits
        right = [hit.id in caption.relevant for hit in found]
        return (1 / (right.index(True) + 1) if any(right) else 0.0), sum(right) / len(caption.relevant)

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        values = np.array(list(pool.map(one, zip(captions, vectors, strict=True))))  # (Q, 2)
    return Scores(values[:, 0], values[:, 1])


def difference(old: Scores, new: Scores) -> Mapping[str, tuple[float, float, float]]:
    """New less old: mean, and the 95 % interval of a bootstrap over captions, by measure."""
    values = {f"mrr@{K}": new.mrr - old.mrr, f"recall@{K}": new.recall - old.recall}
    return {name: (float(values[name].mean()), *interval) for name, interval in bootstrap_intervals(values).items()}
