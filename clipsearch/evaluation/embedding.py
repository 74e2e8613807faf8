"""One split of a corpus as unit vectors: decoded in threads, embedded in batches, bad images set aside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from clipsearch.errors import CorpusError, ImageError
from clipsearch.images import load_image
from clipsearch.records import Issue, Record

if TYPE_CHECKING:
    from clipsearch.clip import Clip
    from clipsearch.corpora import Corpus


@dataclass(frozen=True, slots=True)
class EmbeddedSplit:
    """``images`` (N, D) float32, unit norm; ``records`` N; ``issues``: images that could not be decoded."""

    images: NDArray[np.float32]
    records: list[Record]
    issues: list[Issue]


def embed_split(
    clip: Clip, corpus: Corpus, split: str, batch_size: int = 128, workers: int = 4, quiet: bool = True
) -> EmbeddedSplit:
    """Embed all images of ``split``. Raises ``CorpusError`` when it has none that can be decoded."""
    records = corpus.split(split)
    vectors: list[NDArray[np.float32]] = []
    kept: list[Record] = []
    issues: list[Issue] = []
    bar = tqdm(total=len(records), desc=f"embed {split}", unit="img", leave=False, disable=quiet)
    with ThreadPoolExecutor(workers) as pool, bar:

        def decode(record: Record) -> NDArray[np.uint8] | Issue:
            try:
                return clip.preprocess(load_image(corpus.read(record)))
            except (ImageError, CorpusError) as error:
                return Issue(record.uri, str(error))

        for batch in batched(records, batch_size):
            decoded = list(pool.map(decode, batch))
            good = [pixels for pixels in decoded if not isinstance(pixels, Issue)]
            kept += [record for record, d in zip(batch, decoded, strict=True) if not isinstance(d, Issue)]
            issues += [d for d in decoded if isinstance(d, Issue)]
            if good:
                vectors.append(clip.embed_pixels(np.stack(good)))
            bar.update(len(batch))
    if not kept:
        reason = f" ({issues[0].reason})" if issues else ""
        raise CorpusError(f"{corpus.root} has no image in its {split} split that can be decoded{reason}")
    return EmbeddedSplit(np.concatenate(vectors), kept, issues)


def batched(records: Sequence[Record], size: int) -> Iterator[list[Record]]:
    """Lists of at most ``size`` records, in order."""
    rest = iter(records)
    while batch := list(islice(rest, size)):
        yield batch
