"""One split of a corpus as unit vectors: decoded in threads, embedded in batches, bad images set aside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from clipsearch.errors import CorpusError, ImageError
from clipsearch.images import load_image
from clipsearch.lookahead import batched, map_ahead
from clipsearch.records import Issue, Record

if TYPE_CHECKING:
    from clipsearch.clip import Clip
    from clipsearch.corpora import Corpus


Pixels = dict[str, NDArray[np.uint8] | Issue]
"""Decoded images, ready for the image tower, by document id; or why there is none."""

ALL = "all"
"""Every split of a corpus together: for out-of-domain corpora, of which nothing was trained on."""


@dataclass(frozen=True, slots=True)
class EmbeddedSplit:
    """``images`` (N, D) float32, unit norm; ``records`` N; ``issues``: images that could not be decoded."""

    images: NDArray[np.float32]
    records: list[Record]
    issues: list[Issue]


def embed_split(
    clip: Clip,
    corpus: Corpus,
    split: str,
    batch_size: int = 128,
    workers: int = 4,
    quiet: bool = True,
    labelled: bool = False,
    kept: Pixels | None = None,
) -> EmbeddedSplit:
    """Embed all images of ``split``, or of all three with ``all``; ``labelled``: only those with a known label.
    ``kept``: pixels by document id; what is in it is not decoded again, and what is decoded goes into it.

    Raises ``CorpusError`` when there are none that can be decoded.
    """
    records = list(corpus.records) if split == ALL else corpus.split(split)
    if labelled:
        records = [record for record in records if record.label in corpus.classes]
    vectors: list[NDArray[np.float32]] = []
    found: list[Record] = []
    issues: list[Issue] = []

    def decode(record: Record) -> NDArray[np.uint8] | Issue:
        if kept is not None and record.id in kept:
            return kept[record.id]
        pixels: NDArray[np.uint8] | Issue
        try:
            pixels = clip.preprocess(load_image(corpus.read(record)))
        except (ImageError, CorpusError) as error:
            pixels = Issue(record.uri, str(error))
        if kept is not None:
            kept[record.id] = pixels
        return pixels

    decoded = zip(records, map_ahead(decode, records, workers, batch_size), strict=True)
    with tqdm(total=len(records), desc=f"embed {split}", unit="img", leave=False, disable=quiet) as bar:
        for batch in batched(decoded, batch_size):
            good = [(record, pixels) for record, pixels in batch if not isinstance(pixels, Issue)]
            found += [record for record, _ in good]
            issues += [issue for _, issue in batch if isinstance(issue, Issue)]
            if good:
                vectors.append(clip.embed_pixels(np.stack([pixels for _, pixels in good])))
            bar.update(len(batch))
    if not found:
        reason = f" ({issues[0].reason})" if issues else ""
        raise CorpusError(f"{corpus.root} has no image in its {split} split that can be decoded{reason}")
    return EmbeddedSplit(np.concatenate(vectors), found, issues)
