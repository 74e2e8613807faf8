"""A hit as the pages show it: with the query's words marked, its figures, how sure it is, and its near-duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clipsearch.records import Hit
from clipsearch.search import explain
from clipsearch.search.duplicates import Group, collapse
from clipsearch.search.highlight import Segments, best_caption, segments
from clipsearch.search.query import Vector, counts_whole
from clipsearch.search.ranks import ListRanks
from clipsearch.web.background import Sample
from clipsearch.web.pictures import corpus_and_key, version_of

NO_RANKS = ListRanks()
FUNCTION_WORDS = {
    "a", "an", "and", "are", "as", "at", "by", "for", "from", "in", "is", "it", "its", "of", "on", "or", "that", "the",
    "there", "this", "to", "with",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Card:
    """A hit as the page shows it.

    ``captions``: the best first, each cut into (text, is it a word of the query). ``probability``: how likely the image
    fits the query, in [0, 1], None when the query has no vector; ``weak``: no better than chance. ``word_rank`` and
    ``vector_rank``: places in the lists of a fusion by words and by vector, 0 when it is not among the first hundred;
    ``all_words``: it is in hybrid's third list, a caption holds every word of a query long enough for that to count.
    ``box``: left, top, width and height of the winning part in px of an image of ``size``. ``others``: near-duplicates
    further down.
    """

    hit: Hit
    rank: int
    corpus: str
    key: str
    captions: tuple[Segments, ...]
    caption: str
    version: str
    cosine: float | None
    probability: float | None = None
    weak: bool = False
    word_rank: int = 0
    vector_rank: int = 0
    all_words: bool = False
    size: tuple[int, int] = (1, 1)
    box: tuple[float, float, float, float] | None = None
    others: tuple[Card, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The card for machines."""
        return explain.hit_json(self.hit, self.rank) | {
            "probability": None if self.probability is None else round(self.probability, 4),
            "weak": self.weak,
            "word_rank": self.word_rank or None,
            "vector_rank": self.vector_rank or None,
            "box": self.hit.box,
            "duplicates": [other.as_json() for other in self.others],
        }


@dataclass(frozen=True, slots=True)
class Judge:
    """What hits are judged by: the query's words and vector, a sample of the index, places in a fusion's lists.

    ``words_suffice``: a hit one of whose captions holds all the words is never weak; not so where the query is more
    than its words.
    """

    words: str = ""
    vector: Vector | None = None
    sample: Sample | None = None
    ranks: ListRanks = NO_RANKS
    words_suffice: bool = True


NO_JUDGE = Judge()


def cards(hits: Iterable[Hit], offset: int = 0, judge: Judge = NO_JUDGE, *, together: bool = False) -> tuple[Card, ...]:
    """Hits in rank order as cards, ranked from ``offset`` + 1; ``together``: near-duplicates join their first."""
    found = tuple(hits)
    ranks = {hit.id: rank for rank, hit in enumerate(found, offset + 1)}
    sure = _judged(found, judge)
    groups = collapse(found) if together else tuple(Group(hit) for hit in found)
    return tuple(
        _card(group.first, ranks, judge, sure, tuple(_card(other, ranks, judge, sure) for other in group.others))
        for group in groups
    )


def _judged(hits: tuple[Hit, ...], judge: Judge) -> Mapping[str, tuple[float, bool]]:
    """Document id -> probability, is it weak."""
    if judge.sample is None or judge.vector is None or not hits:
        return {}
    angles = [explain.cosine(hit.semantic) for hit in hits]
    cosines = [-1.0 if angle is None else angle for angle in angles]
    suffice = judge.words_suffice and bool(judge.words)
    probabilities = judge.sample.background.relevance(judge.vector, cosines)
    weak = judge.sample.background.weak(judge.vector, cosines, judge.sample.documents)
    return {
        hit.id: (float(probability), bool(poor) and not (suffice and hit.is_complete))
        for hit, angle, probability, poor in zip(hits, angles, probabilities, weak, strict=True)
        if angle is not None
    }


def _card(
    hit: Hit,
    ranks: Mapping[str, int],
    judge: Judge,
    sure: Mapping[str, tuple[float, bool]],
    others: tuple[Card, ...] = (),
) -> Card:
    captions = list(dict.fromkeys(str(caption) for caption in hit.fields.get("captions") or ()))
    corpus, key = corpus_and_key(hit.id)
    best = best_caption(captions, judge.words)
    captions = [*captions[best : best + 1], *captions[:best], *captions[best + 1 :]]
    telling = not FUNCTION_WORDS.issuperset(judge.words.lower().split())
    size = (_pixels(hit.fields.get("width")), _pixels(hit.fields.get("height")))
    probability, weak = sure.get(hit.id, (None, False))
    return Card(
        hit=hit,
        rank=ranks[hit.id],
        corpus=corpus,
        key=key,
        captions=tuple(_joined(segments(caption, judge.words), telling) for caption in captions),
        caption=captions[0] if captions else key,
        version=version_of(hit),
        cosine=explain.cosine(hit.semantic),
        probability=probability,
        weak=weak,
        word_rank=judge.ranks.lexical.get(hit.id, 0),
        vector_rank=judge.ranks.semantic.get(hit.id, 0),
        all_words=hit.is_complete and counts_whole(judge.words),
        size=size,
        box=_rectangle(hit.box, size),
        others=others,
    )


def _joined(cut: Segments, telling: bool) -> Segments:
    """Matches with nothing but a space between them become one, so that a phrase is marked as a phrase.

    ``telling``: the query has more than function words, so that these are not marked where they stand alone: BM25 gives
    them next to nothing.
    """
    joined: list[tuple[str, bool]] = []
    for number, (text, is_match) in enumerate(cut):
        between = text.isspace() and 0 < number < len(cut) - 1
        if joined and joined[-1][1] and (is_match or between):
            joined[-1] = (joined[-1][0] + text, True)
        else:
            joined.append((text, is_match))
    if telling:
        return tuple((text, found and not FUNCTION_WORDS.issuperset(text.lower().split())) for text, found in joined)
    return tuple(joined)


def _rectangle(
    box: tuple[float, float, float, float] | None, size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    if box is None:
        return None
    left, top, right, bottom = box
    width, height = size
    return left * width, top * height, (right - left) * width, (bottom - top) * height


def _pixels(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 1
