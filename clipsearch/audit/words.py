"""What the captions of a corpus are: how many, how long, how often repeated, shared between splits, in what
language."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from clipsearch.captions import normalise_caption
from clipsearch.records import SPLITS, Record

CLIP_LIMIT = 77
"""Tokens that CLIP's text tower sees, the start and the end token among them."""

LANGUAGE_SAMPLE = 200_000
"""Distinct captions whose language is looked at, evenly spread over all when there are more."""

SURE = 0.9
"""Probability from which a caption counts as not English: short captions are easily mistaken."""

TokenCounter = Callable[[Sequence[str]], list[int]]

# How CLIP's tokenizer cuts a sentence before its byte pairs: letters, single digits, other signs.
_PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)\b|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)
_SOME = 8


@dataclass(frozen=True, slots=True)
class Lengths:
    """Caption lengths in tokens. ``counted_with``: the tokenizer, or how they were estimated; ``cut``: how many are
    longer than ``limit``; ``histogram``: tokens -> captions; ``longest``: the longest, as (tokens, key, caption)."""

    counted_with: str
    limit: int
    mean: float
    median: float
    p95: float
    longest: int
    cut: int
    cut_by_split: dict[str, int]
    histogram: dict[int, int]
    examples: list[tuple[int, str, str]]


@dataclass(frozen=True, slots=True)
class Languages:
    """``checked`` distinct captions, ``other`` of them surely not English; ``by_language``: code -> captions among
    those; ``examples``: (code, caption). ``note``: why nothing was checked, or that it was a sample."""

    checked: int = 0
    other: int = 0
    by_language: dict[str, int] = field(default_factory=dict)
    examples: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Captions:
    """``per_image`` and ``distinct_per_image`` (normalised): captions -> images. ``sharing``: split -> images that
    share a normalised caption with another image; ``commonest``: (images, caption); ``across``: "test in train" ->
    (distinct captions of test, how many of them are in train)."""

    total: int
    distinct: int
    distinct_normalised: int
    uncaptioned: int
    per_image: dict[int, int]
    distinct_per_image: dict[int, int]
    sharing: dict[str, int]
    commonest: list[tuple[int, str]]
    across: dict[str, tuple[int, int]]
    lengths: Lengths
    languages: Languages


def study_captions(
    records: Sequence[Record], count_tokens: TokenCounter | None = None, counted_with: str = "", limit: int = CLIP_LIMIT
) -> Captions:
    """Everything about the captions of ``records``.

    ``count_tokens``: texts -> their lengths in tokens with start and end token, as ``counted_with`` counts them;
    None: ``estimate_tokens``.
    """
    normalised = [[normalise_caption(caption) for caption in record.captions] for record in records]
    images: dict[str, int] = Counter(text for texts in normalised for text in set(texts))
    spelled = {
        text: caption
        for record, texts in zip(records, normalised, strict=True)
        for caption, text in zip(record.captions, texts, strict=True)
    }
    sharing = Counter(
        record.split
        for record, texts in zip(records, normalised, strict=True)
        if any(images[text] > 1 for text in texts)
    )
    commonest = sorted(((count, spelled[text]) for text, count in images.items() if count > 1), reverse=True)
    return Captions(
        total=sum(len(record.captions) for record in records),
        distinct=len({caption for record in records for caption in record.captions}),
        distinct_normalised=len(images),
        uncaptioned=sum(not record.captions for record in records),
        per_image=_histogram(len(record.captions) for record in records),
        distinct_per_image=_histogram(len(set(texts)) for texts in normalised),
        sharing={split: sharing[split] for split in SPLITS if sharing[split]},
        commonest=commonest[:_SOME],
        across=_across(records, normalised),
        lengths=_lengths(records, count_tokens or estimate_tokens, counted_with or ESTIMATE, limit),
        languages=find_languages(sorted({caption for record in records for caption in record.captions})),
    )


ESTIMATE = (
    "an estimate without a tokenizer: one token for each sign, digit and started eight letters of a word, and two "
    "around; --model counts exactly"
)
"""How ``estimate_tokens`` counts. Against CLIP's own tokenizer it is 0.5 tokens too high on RSICD's captions (mean
12.9) and 3.5 too low on ROCO's (mean 33.6), whose long medical words it cuts too seldom."""


def estimate_tokens(texts: Sequence[str]) -> list[int]:
    """About how many tokens CLIP's tokenizer makes of each text, start and end token included."""
    return [2 + sum(max(1, -(-len(piece) // 8)) for piece in _PIECES.findall(text)) for text in texts]


def find_languages(captions: Sequence[str]) -> Languages:
    """The languages of distinct captions, by py3langid (Lui and Baldwin 2012); none when it is not installed."""
    try:
        identifier = _identifier()
    except ImportError:
        return Languages(note="languages were not looked at: `pip install 'clipsearch[data]'` adds py3langid")
    chosen = captions[:: max(1, -(-len(captions) // LANGUAGE_SAMPLE))]
    other: dict[str, list[str]] = defaultdict(list)
    for caption in chosen:
        language, probability = identifier.classify(caption)
        if language != "en" and probability >= SURE:
            other[str(language)].append(caption)
    ranked = sorted(other.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    examples = [(language, caption) for language, found in ranked for caption in found[:4]][:_SOME]
    note = f"a sample of {len(chosen):,} of {len(captions):,} captions" if len(chosen) < len(captions) else ""
    by_language = {language: len(found) for language, found in ranked}
    return Languages(len(chosen), sum(by_language.values()), by_language, examples, note)


@cache
def _identifier() -> Any:
    """The language model, which takes most of a second to load."""
    from py3langid import langid

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def _lengths(records: Sequence[Record], count_tokens: TokenCounter, counted_with: str, limit: int) -> Lengths:
    captions = [(record, caption) for record in records for caption in record.captions]
    distinct = sorted({caption for _, caption in captions})
    tokens = dict(zip(distinct, count_tokens(distinct), strict=True))
    lengths = np.array([tokens[caption] for _, caption in captions] or [0])
    cut = Counter(record.split for record, caption in captions if tokens[caption] > limit)
    longest = sorted(((tokens[caption], record.key, caption) for record, caption in captions), reverse=True)
    return Lengths(
        counted_with,
        limit,
        mean=round(float(lengths.mean()), 2),
        median=float(np.median(lengths)),
        p95=float(np.percentile(lengths, 95)),
        longest=int(lengths.max()),
        cut=sum(cut.values()),
        cut_by_split={split: cut[split] for split in SPLITS if cut[split]},
        histogram=_histogram(lengths.tolist()) if captions else {},
        examples=longest[:3],
    )


def _across(records: Sequence[Record], normalised: Sequence[Sequence[str]]) -> dict[str, tuple[int, int]]:
    by_split: dict[str, set[str]] = defaultdict(set)
    for record, texts in zip(records, normalised, strict=True):
        by_split[record.split].update(texts)
    pairs = [("test", "train"), ("validation", "train"), ("test", "validation")]
    return {
        f"{held} in {source}": (len(by_split[held]), len(by_split[held] & by_split[source]))
        for held, source in pairs
        if by_split[held] and by_split[source]
    }


def _histogram(values: Iterable[int]) -> dict[int, int]:
    return dict(sorted(Counter(values).items()))
