"""Which image-caption pairs make a batch: one caption of each image per epoch, and no caption twice in a batch.

Over half of RSICD's images share a caption with another image; as negatives of each other they would teach the model to
push equal texts apart. A pair whose caption is already in the batch waits for the next one; for losses that know
several positives, such pairs stay together and share a group instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Batch:
    """``images``: rows of the pixel cache; ``captions``: one text per image.

    ``groups``: one number per row; rows with the same number are positives of each other.
    """

    images: list[int]
    captions: list[str]
    groups: list[int] = field(default_factory=list)


def caption_key(caption: str) -> str:
    """What makes two captions the same in a batch: letter case, spacing and a final full stop do not count.

    ``captions.normalise_caption`` is coarser, since it passes over all punctuation: of the 18,188 captions of RSICD
    that differ here, it takes five pairs together, for a comma, a bracket or a hyphen. It must not take this one's
    place: the batches of a seed, and so a run that is resumed, depend on what is the same here.
    """
    return " ".join(caption.casefold().split()).rstrip(" .")


class CaptionSampler:
    """Batches of (image, caption) pairs; an epoch depends only on the captions, the seed and its number.

    ``captions``: the texts of each image, at least one. ``epoch_size``: images drawn per epoch, other ones each time (0
    or more than there are: all). ``duplicates``: whether a caption may stand in a batch twice, as one group; without
    it no group repeats in a batch, and where there are fewer captions than places, batches are as small as that.

    ``batch_size``: pairs of a batch; ``distinct``: captions that differ, counted up to that.
    """

    def __init__(
        self,
        captions: Sequence[Sequence[str]],
        batch_size: int,
        seed: int = 0,
        epoch_size: int = 0,
        duplicates: bool = False,
    ) -> None:
        self.captions = captions
        self.epoch_size = min(epoch_size or len(captions), len(captions))
        self.batch_size = min(batch_size, self.epoch_size)
        self.distinct = _count_distinct(captions, self.batch_size)
        if not duplicates:
            self.batch_size = min(self.batch_size, self.distinct)
        self.seed = seed
        self.duplicates = duplicates

    def __len__(self) -> int:
        """Number of full batches in an epoch without collisions."""
        return max(1, self.epoch_size // max(1, self.batch_size))

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, at most ``len(self)``, each image at most once; leftovers are dropped.

        ``skip``: how many batches to draw but not to yield, so that a run goes on inside an epoch.
        """
        generator = np.random.default_rng((self.seed, number))
        pairs = deque(
            (int(image), self.captions[image][int(generator.integers(len(self.captions[image])))])
            for image in generator.permutation(len(self.captions))[: self.epoch_size]
        )
        waiting: deque[tuple[int, str]] = deque()
        for drawn in range(len(self)):
            batch, waiting = self._fill(pairs, waiting)
            if len(batch.images) < max(2, self.batch_size // 2):
                return
            if drawn >= skip:
                yield batch

    def _fill(
        self, pairs: deque[tuple[int, str]], waiting: deque[tuple[int, str]]
    ) -> tuple[Batch, deque[tuple[int, str]]]:
        batch = Batch([], [])
        groups: dict[str, int] = {}
        again: deque[tuple[int, str]] = deque()
        while len(batch.images) < self.batch_size and (waiting or pairs):
            image, caption = waiting.popleft() if waiting else pairs.popleft()
            key = caption_key(caption)
            if key in groups and not self.duplicates:
                again.append((image, caption))
                continue
            batch.images.append(image)
            batch.captions.append(caption)
            batch.groups.append(groups.setdefault(key, len(groups)))
        return batch, again + waiting


def _count_distinct(captions: Sequence[Sequence[str]], most: int) -> int:
    """How many captions differ; counting stops at ``most``."""
    keys: set[str] = set()
    for texts in captions:
        keys.update(map(caption_key, texts))
        if len(keys) >= most:
            return most
    return len(keys)


def insert_tokens(
    ids: Sequence[int], chance: float, choices: Sequence[int], max_length: int, generator: np.random.Generator
) -> list[int]:
    """Token ids with random ones of ``choices`` put in before tokens, each time with ``chance``.

    The first token and the last (start and end) stay where they are; at most ``max_length`` tokens come back.
    """
    noisy = [ids[0]]
    for token, extra in zip(ids[1:-1], generator.geometric(1 - chance, len(ids) - 2) - 1, strict=True):
        noisy += [choices[int(number)] for number in generator.integers(len(choices), size=extra)]
        noisy.append(token)
    return [*noisy[: max_length - 1], ids[-1]]
