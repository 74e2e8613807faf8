"""Every image of a split decoded once, in threads, to uint8; a bad image goes to the ledger and never stops a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from clipsearch.errors import CorpusError, ImageError
from clipsearch.images import load_image
from clipsearch.lookahead import map_ahead
from clipsearch.records import Issue, Record

if TYPE_CHECKING:
    from clipsearch.corpora import Corpus

Pixels = NDArray[np.uint8]


@dataclass(slots=True)
class DecodedSplit:
    """``pixels`` (N, S, S, 3) uint8 and the ``records`` that they belong to; ``issues``: what could not be decoded."""

    pixels: Pixels
    records: list[Record]
    issues: list[Issue] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)


def decode_split(
    corpus: Corpus,
    records: Sequence[Record],
    preprocess: Callable[[Pixels], Pixels],
    workers: int = 4,
    title: str = "decode",
    quiet: bool = False,
) -> DecodedSplit:
    """Read and decode ``records`` in order; ``preprocess`` brings each image to one shape."""
    pixels: list[Pixels] = []
    kept: list[Record] = []
    issues: list[Issue] = []
    decoded = _decode_all(corpus, records, preprocess, workers)
    for record, result in tqdm(decoded, total=len(records), desc=title, unit="img", leave=False, disable=quiet):
        if isinstance(result, Issue):
            issues.append(result)
        else:
            pixels.append(result)
            kept.append(record)
    stacked = np.stack(pixels) if pixels else np.zeros((0, 1, 1, 3), np.uint8)
    return DecodedSplit(stacked, kept, issues)


def _decode_all(
    corpus: Corpus, records: Sequence[Record], preprocess: Callable[[Pixels], Pixels], workers: int
) -> Iterator[tuple[Record, Pixels | Issue]]:
    def decode(record: Record) -> Pixels | Issue:
        try:
            return preprocess(load_image(corpus.read(record)))
        except (ImageError, CorpusError) as error:
            return Issue(record.uri, str(error))

    return zip(records, map_ahead(decode, records, workers, 8 * workers), strict=True)
