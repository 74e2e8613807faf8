"""A seeded workload that looks like image search: CLIP-like vectors, captions with a Zipf vocabulary, queries.

It is independent of any data set, the same on every machine, and made once into a folder:

==================  ==================================================================
``vectors.npy``     (N, 512) float32, unit norm: the documents' embeddings
``buckets.npy``     (N,) int32 in 0..99, uniform: ``bucket < 1`` keeps 1 %, ``< 10`` 10 %
``captions.jsonl``  N JSON strings: one caption a document
``queries.npy``     (Q, 512) float32, unit norm: text queries of the same clusters
``queries.jsonl``   Q JSON strings: 3 to 8 words each, of captions that are not indexed
``truth_P.npy``     (Q, 10) int32: exact nearest documents of the P % with the lowest buckets, P in 1, 10, 100
``stored_P.npy``    the same with both sides cut to bfloat16, as Vespa does for a field of that type: its exact search
==================  ==================================================================

Vectors: 3,000 clusters with Zipf 0.6 sizes in a 64-dimensional subspace with spectrum j^-0.4 and lognormal axes of
their own; an image is norm(.75 mu_img + .60 centre + .40 within + .22 noise), a text query norm(.75 mu_text + .36
centre + .20 within + .50 noise), with cos(mu_img, mu_text) = .2. That gives CLIP's cosines: two random images about
.5, two of a cluster .82, a text and its images .3, a text and others .1.

Captions: 8,500 synthetic words that no stemmer changes and no stop list holds, so that every engine scores the same
terms. Their law is an English caption's: the first in 75 % of the captions, three more in about 50 %, then Zipf;
lengths are lognormal with median 12. A quarter of the captions repeat another one, as they do in RSICD.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

DIMENSION = 512
CLUSTERS = 3000
WORDS = 8500
NEIGHBORS = 10
FILTERS = (1, 10, 100)
_RANK = 64
_TOPICS = 12
_VERSION = 2

Floats = npt.NDArray[np.float32]
Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class Workload:
    """What a folder holds; ``truth`` and ``stored`` are by percentage of documents."""

    vectors: Floats
    buckets: npt.NDArray[np.int32]
    captions: Sequence[str]
    queries: Floats
    texts: Sequence[str]
    truth: dict[int, npt.NDArray[np.int32]]
    stored: dict[int, npt.NDArray[np.int32]]


def load(folder: Path) -> Workload:
    """The workload that ``make`` wrote to ``folder``; vectors are mapped, not read."""
    return Workload(
        np.load(folder / "vectors.npy", mmap_mode="r"),
        np.load(folder / "buckets.npy"),
        _lines(folder / "captions.jsonl"),
        np.load(folder / "queries.npy"),
        _lines(folder / "queries.jsonl"),
        {percent: np.load(folder / f"truth_{percent}.npy") for percent in FILTERS},
        {percent: np.load(folder / f"stored_{percent}.npy") for percent in FILTERS},
    )


def make(folder: Path, documents: int = 200_000, queries: int = 200, seed: int = 20261121) -> Workload:
    """Generate the workload into ``folder`` unless exactly this one lies there; 200,000 documents take about 20 s."""
    recipe = {"version": _VERSION, "documents": documents, "queries": queries, "seed": seed}
    mark = folder / "workload.json"
    if not mark.is_file() or json.loads(mark.read_text()) != recipe:
        folder.mkdir(parents=True, exist_ok=True)
        mark.unlink(missing_ok=True)
        random = np.random.default_rng(seed)
        space = _Space(random)
        owners = random.choice(CLUSTERS, documents, p=_zipf(CLUSTERS, 0.6)).astype(np.int32)
        asked = random.choice(owners, queries)
        vectors, buckets = space.images(owners, random), random.integers(0, 100, documents, dtype=np.int32)
        wanted = space.texts(asked, random)
        words = Words(random)
        captions = _repeated(words.captions(owners, random), owners, random)
        write(folder, vectors, buckets, captions, wanted, words.queries(asked, random))
        mark.write_text(json.dumps(recipe))
    return load(folder)


def write(
    folder: Path,
    vectors: Floats,
    buckets: npt.NDArray[np.int32],
    captions: Sequence[str],
    queries: Floats,
    texts: Sequence[str],
) -> None:
    """Write a workload's files, with the exact answers to its queries."""
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "buckets.npy", buckets)
    np.save(folder / "queries.npy", queries)
    (folder / "captions.jsonl").write_text("".join(json.dumps(text) + "\n" for text in captions))
    (folder / "queries.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    for percent in FILTERS:
        rows = np.flatnonzero(buckets < percent)
        np.save(folder / f"truth_{percent}.npy", exact(vectors, queries, rows))
        np.save(folder / f"stored_{percent}.npy", exact(bfloat16(vectors), bfloat16(queries), rows))


def bfloat16(vectors: Floats) -> Floats:
    """``vectors`` with each cell cut to a bfloat16, toward zero as Vespa cuts it."""
    bits = np.ascontiguousarray(vectors).view(np.uint32)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def exact(vectors: Floats, queries: Floats, rows: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """The ``NEIGHBORS`` of ``rows`` with the largest inner product, best first; (Q, 10) int32, -1 for none."""
    found = np.full((len(queries), NEIGHBORS), -1, np.int32)
    count = min(NEIGHBORS, len(rows))
    part = vectors[rows]
    for start in range(0, len(queries), 50):
        scores = queries[start : start + 50] @ part.T  # (50, rows)
        best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        found[start : start + 50, :count] = rows[np.take_along_axis(best, order, axis=1)]
    return found


def recall(found: Sequence[Sequence[int]], truth: npt.NDArray[np.int32]) -> float:
    """The share of ``truth`` (Q, 10) that ``found`` holds, over all queries."""
    hits = sum(len(set(one[:NEIGHBORS]) & set(true.tolist())) for one, true in zip(found, truth, strict=True))
    return hits / int((truth >= 0).sum())


class _Space:
    """The clusters: centres, axes, and the two modalities' means."""

    def __init__(self, random: Random) -> None:
        basis = np.linalg.qr(random.standard_normal((DIMENSION, _RANK + 2)))[0]  # orthonormal columns
        self._basis = basis[:, :_RANK].T.astype(np.float32)  # (64, 512)
        self._image = basis[:, _RANK].astype(np.float32)
        self._text = (0.2 * basis[:, _RANK] + np.sqrt(1 - 0.04) * basis[:, _RANK + 1]).astype(np.float32)
        self._spectrum = np.arange(1, _RANK + 1) ** -0.4
        self._centres = _unit((random.standard_normal((CLUSTERS, _RANK)) * self._spectrum).astype(np.float32))
        self._axes = random.lognormal(0, 0.5, (CLUSTERS, _RANK)).astype(np.float32)

    def images(self, owners: npt.NDArray[np.int32], random: Random) -> Floats:
        """(len(owners), 512) float32 of unit norm."""
        return self._sample(owners, random, 0.75 * self._image, (0.60, 0.40, 0.22))

    def texts(self, owners: npt.NDArray[np.int32], random: Random) -> Floats:
        """(len(owners), 512) float32 of unit norm."""
        return self._sample(owners, random, 0.75 * self._text, (0.36, 0.20, 0.50))

    def _sample(
        self, owners: npt.NDArray[np.int32], random: Random, mean: Floats, weights: tuple[float, float, float]
    ) -> Floats:
        centre, within, noise = weights
        rows = np.empty((len(owners), DIMENSION), np.float32)
        for start in range(0, len(owners), 20_000):  # the noise of all rows at once would double the memory
            own = owners[start : start + 20_000]
            normal = random.standard_normal((len(own), _RANK), dtype=np.float32) * self._spectrum.astype(np.float32)
            place = centre * self._centres[own] + within * _unit(normal * self._axes[own])
            error = random.standard_normal((len(own), DIMENSION), dtype=np.float32) / np.sqrt(np.float32(DIMENSION))
            rows[start : start + 20_000] = _unit(mean + place @ self._basis + np.float32(noise) * error)
        return rows


class Words:
    """The vocabulary, and each cluster's favourite words."""

    def __init__(self, random: Random) -> None:
        syllables = ["".join(pair) for pair in product("bdfgklmnprtvz", "aou")]
        stems = ["".join(parts) for parts in product(syllables, syllables, ("k", "m", "b", "g", "p", "f"))]
        self._vocabulary = random.permutation(np.array(stems))[:WORDS]
        weights = np.empty(WORDS)
        weights[:4] = 0.105, 0.053, 0.051, 0.049  # in about 75, 50, 49 and 48 of 100 captions
        weights[4:] = 1 / np.arange(5, WORDS + 1)
        weights[4:] *= (1 - weights[:4].sum()) / weights[4:].sum()
        self._law = np.cumsum(weights)
        self._topics = self._draw(random, CLUSTERS * _TOPICS).reshape(CLUSTERS, _TOPICS)

    def _draw(self, random: Random, count: int) -> npt.NDArray[np.int64]:
        return np.minimum(np.searchsorted(self._law, random.random(count)), WORDS - 1)

    def captions(self, owners: npt.NDArray[np.int32], random: Random) -> list[str]:
        """One caption for each owner."""
        lengths = np.clip(np.rint(random.lognormal(np.log(12), 0.34, len(owners))), 4, 40).astype(int)
        tokens = self._tokens(np.repeat(owners, lengths), random)
        return [" ".join(part) for part in np.split(tokens, np.cumsum(lengths)[:-1])]

    def queries(self, owners: npt.NDArray[np.int32], random: Random) -> list[str]:
        """3 to 8 different words of a caption that each owner might have."""
        texts = []
        for owner in owners:
            words = list(dict.fromkeys(self._tokens(np.repeat(owner, 40), random).tolist()))
            texts.append(" ".join(words[: random.integers(3, 9)]))
        return texts

    def _tokens(self, owners: npt.NDArray[Any], random: Random) -> npt.NDArray[np.str_]:
        drawn = self._draw(random, len(owners))
        favourite = self._topics[owners, random.integers(0, _TOPICS, len(owners))]
        chosen: npt.NDArray[np.str_] = self._vocabulary[np.where(random.random(len(owners)) < 0.3, favourite, drawn)]
        return chosen


def _repeated(captions: list[str], owners: npt.NDArray[np.int32], random: Random) -> list[str]:
    """A quarter of the captions replaced by the one before them in their cluster."""
    last: dict[int, str] = {}
    repeats = random.random(len(captions)) < 0.25
    for number, (owner, repeat) in enumerate(zip(owners.tolist(), repeats.tolist(), strict=True)):
        if repeat and owner in last:
            captions[number] = last[owner]
        last[owner] = captions[number]
    return captions


def _zipf(count: int, exponent: float) -> npt.NDArray[np.float64]:
    weights = np.arange(1, count + 1) ** -exponent
    return weights / weights.sum()


def _unit(rows: Floats) -> Floats:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _lines(path: Path) -> list[str]:
    with path.open() as file:
        return [json.loads(line) for line in file]


def batches(workload: Workload, size: int = 2000) -> Iterator[tuple[range, Floats]]:
    """Row numbers and their vectors, ``size`` at a time, read from disk once."""
    for start in range(0, len(workload.buckets), size):
        rows = range(start, min(start + size, len(workload.buckets)))
        yield rows, np.asarray(workload.vectors[rows.start : rows.stop])
