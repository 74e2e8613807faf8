"""``audit``: everything worth knowing about corpora before anybody trains on them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from clipsearch.audit.leakage import Leak, find_leaks
from clipsearch.audit.pictures import Picture, inspect
from clipsearch.audit.twins import (
    COSINE,
    DETAIL,
    DISTANCE,
    Twin,
    embedding_twins,
    exact_groups,
    exact_twins,
    near_twins,
)
from clipsearch.audit.words import CLIP_LIMIT, Captions, TokenCounter, study_captions
from clipsearch.errors import CorpusError, ImageError, InputError
from clipsearch.images import load_image
from clipsearch.lookahead import batched, map_ahead
from clipsearch.records import SPLITS, Issue, Record

if TYPE_CHECKING:
    from clipsearch.corpora import Corpus

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]

_BATCH = 128


class ImageModel(Protocol):
    """What the audit asks of a model that looks at images; ``clipsearch.clip.Clip`` has it."""

    @property
    def model_id(self) -> str:
        """Name and hash of the weights."""
        ...

    def preprocess(self, image: Pixels) -> Pixels:
        """``(H, W, 3)`` uint8 -> ``(S, S, 3)`` uint8; called in threads."""
        ...

    def embed_pixels(self, pixels: Pixels) -> Vectors:
        """``(N, S, S, 3)`` uint8 -> ``(N, D)`` float32, unit norm."""
        ...


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """``distance``: bits between perceptual hashes of near duplicates; ``flips``: look for turned and mirrored copies
    too; ``cosine``: least cosine of look-alike embeddings; ``workers``: decoding threads, 0 for one a core."""

    distance: int = DISTANCE
    flips: bool = False
    cosine: float = COSINE
    workers: int = 0

    def check(self) -> AuditOptions:
        """Itself. Raises ``InputError`` that names the option when a value makes no sense."""
        for name, low, high in (("distance", 0, 16), ("cosine", 0.5, 1.0), ("workers", 0, 256)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")
        return self


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found. ``records`` of all corpora in a row, ``pictures`` beside them; positions index both.

    ``names``: the corpora; ``issues``: entries that they left out. ``groups``: equal pixels; ``twins``: all
    pairs, exact ones first; ``leaks``: twins across splits. ``embedded_by``: the model that look-alikes are of, or "".
    ``whole``: False when so many pictures are alike that the search stopped. ``seconds``: wall clock.
    """

    names: tuple[str, ...]
    corpus: Corpus
    records: list[Record]
    issues: list[Issue]
    pictures: list[Picture]
    captions: Captions
    groups: list[list[int]]
    twins: list[Twin]
    leaks: list[Leak]
    options: AuditOptions
    embedded_by: str = ""
    whole: bool = True
    seconds: float = 0.0

    def read(self, position: int) -> Pixels:
        """The decoded picture at a position, (H, W, 3) uint8. Raises ``ImageError``."""
        return load_image(self.corpus.read(self.records[position]))

    @property
    def broken(self) -> list[int]:
        """Positions of images that cannot be used."""
        return [position for position, picture in enumerate(self.pictures) if picture.error]

    @property
    def classes(self) -> dict[str, Counter[str]]:
        """Label -> split -> images, by label; empty when the corpora have no labels."""
        table: dict[str, Counter[str]] = {}
        for record in self.records:
            if record.label:
                table.setdefault(record.label, Counter())[record.split] += 1
        return dict(sorted(table.items()))

    @property
    def warnings(self) -> list[str]:
        """What somebody who trains on this should know first."""
        return [*_split_warnings(self), *_class_warnings(self), *_label_warnings(self)]

    def exclude(self) -> dict[str, str]:
        """Document id -> why, of the images to leave out: broken ones, and the twins of held-out images.

        A training image goes when it is the twin of a validation or test image, a validation image when it is that of
        a test image. Look-alikes to a model are not among them, as they can be two places.
        """
        reasons = {self.records[position].id: f"broken: {self.pictures[position].error}" for position in self.broken}
        for leak in self.leaks:
            if leak.sure:
                held, source = self.records[leak.held], self.records[leak.source]
                reasons.setdefault(source.id, f"the same picture as {held.key} of {held.split}")
        for position in self._further_sources():
            reasons.setdefault(self.records[position].id, "the same picture as a held-out image")
        return {
            record.id: reasons[record.id] for record in self.records if record.id in reasons and record.split != "test"
        }

    def _further_sources(self) -> set[int]:
        """Every image of an earlier split that is a twin of a held-out one, not only each one's closest."""
        members = {group[0]: group for group in self.groups}
        found = set()
        pairs = [(group, group) for group in self.groups]
        pairs += [
            (members.get(twin.left, [twin.left]), members.get(twin.right, [twin.right]))
            for twin in self.twins
            if twin.kind in {"near", "turned"}
        ]
        for left, right in pairs:
            latest = max(SPLITS.index(self.records[position].split) for position in (*left, *right))
            found |= {p for p in (*left, *right) if SPLITS.index(self.records[p].split) < latest}
        return found


def audit(
    corpus: Corpus,
    options: AuditOptions | None = None,
    *,
    model: ImageModel | None = None,
    vectors: dict[str, Vectors] | None = None,
    embedded_by: str = "",
    count_tokens: TokenCounter | None = None,
    counted_with: str = "",
    limit: int = CLIP_LIMIT,
    quiet: bool = False,
) -> Audit:
    """Look at every image and caption of ``corpus``, which can be several (``open_corpora``).

    ``model`` embeds the images on the way; or ``vectors`` (document id -> (D,) float32 unit norm) come from shards of
    the model ``embedded_by``. ``count_tokens``, ``counted_with``, ``limit``: see ``study_captions``. Bad images never
    stop the run. Raises ``CorpusError`` when there is no image at all, ``InputError`` for options that make no sense.
    """
    started = time.monotonic()
    options = (options or AuditOptions()).check()
    records = list(corpus.records)
    if not records:
        raise CorpusError(f"{corpus.root} has no images: there is nothing to audit")
    pictures, embedded = _look(corpus, options, model, quiet)
    captions = study_captions(records, count_tokens, counted_with, limit)
    groups = exact_groups(pictures)

    def read(position: int) -> Pixels:
        try:
            pixels = load_image(corpus.read(records[position]))
        except ImageError:  # it could be read before: the file changed meanwhile, and is like nothing now
            return np.zeros((DETAIL, DETAIL), np.uint8)
        return _grey(pixels)

    near, whole = near_twins(pictures, read, distance=options.distance, flips=options.flips)
    twins = [*exact_twins(pictures, groups), *near]
    if vectors is not None:
        embedded = {number: vectors[record.id] for number, record in enumerate(records) if record.id in vectors}
    looks = _look_alikes(pictures, embedded, twins, options.cosine)
    leaks = find_leaks(records, pictures, groups, [*near, *looks])
    names = tuple(dict.fromkeys(record.corpus for record in records))
    return Audit(
        names, corpus, records, list(corpus.issues), pictures, captions, groups, [*twins, *looks], leaks, options,
        model.model_id if model else embedded_by, whole, time.monotonic() - started,
    )  # fmt: skip


def _look(
    corpus: Corpus, options: AuditOptions, model: ImageModel | None, quiet: bool
) -> tuple[list[Picture], dict[int, Vectors]]:
    """Every picture's facts in the records' order, and the vectors of those that ``model`` can embed by position."""

    def look(record: Record) -> tuple[Picture, Pixels | None]:
        try:
            data = corpus.read(record)
        except ImageError as error:
            return Picture(error=str(error)), None
        picture, pixels = inspect(data, record.uri)
        return picture, model.preprocess(pixels) if model is not None and pixels is not None else None

    pictures: list[Picture] = []
    embedded: dict[int, Vectors] = {}
    looked = map_ahead(look, corpus.records, options.workers or os.cpu_count() or 1, _BATCH)
    with tqdm(total=len(corpus.records), desc="look at images", unit="img", leave=False, disable=quiet) as bar:
        for batch in batched(looked, _BATCH):
            ready = {len(pictures) + number: pixels for number, (_, pixels) in enumerate(batch) if pixels is not None}
            pictures += [picture for picture, _ in batch]
            if model is not None and ready:
                embedded.update(zip(ready, model.embed_pixels(np.stack(list(ready.values()))), strict=True))
            bar.update(len(batch))
    return pictures, embedded


def _look_alikes(
    pictures: Sequence[Picture], embedded: dict[int, Vectors], twins: Sequence[Twin], cosine: float
) -> list[Twin]:
    """Pairs that only the embeddings find: neither equal pixels nor near duplicates."""
    firsts: dict[bytes, int] = {}
    for position in embedded:
        if not pictures[position].error:
            firsts.setdefault(pictures[position].pixel_hash, position)
    positions = list(firsts.values())
    if not positions:
        return []
    known = {(twin.left, twin.right) for twin in twins}
    matrix = np.stack([embedded[position] for position in positions]).astype(np.float32)
    return [twin for twin in embedding_twins(matrix, positions, cosine) if (twin.left, twin.right) not in known]


def _grey(pixels: Pixels) -> Pixels:
    image = Image.fromarray(pixels).convert("L").resize((DETAIL, DETAIL), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _split_warnings(found: Audit) -> list[str]:
    splits = Counter(record.split for record in found.records)
    said = [f"there is no {split} split" for split in SPLITS if not splits[split]]
    held = {leak.held for leak in found.leaks if leak.sure}
    for split in ("test", "validation"):
        mine = [position for position in held if found.records[position].split == split]
        if mine:
            earlier = "training or validation" if split == "test" else "training"
            share = f"{len(mine) / splits[split]:.1%}"
            said.append(f"leakage: {len(mine)} of {splits[split]:,} {split} images ({share}) are also {earlier} images")
    if found.broken:
        said.append(f"{len(found.broken)} images cannot be read")
    if found.issues:
        said.append(f"{len(found.issues)} entries of the corpus were left out: {found.issues[0].reason}")
    if not found.whole:
        said.append("so many pictures are alike that the search for near duplicates stopped early: lower --distance")
    return said


def _class_warnings(found: Audit) -> list[str]:
    said = []
    classes = found.classes
    alone = [label for label, splits in classes.items() if splits.total() == 1]
    if alone:
        said.append(f"{len(alone)} classes have one image: {', '.join(alone[:5])}")
    lacking = [label for label, splits in classes.items() if splits["test"] and not splits["train"]]
    if lacking:
        said.append(f"{len(lacking)} classes have test images and no training image: {', '.join(lacking[:5])}")
    return said


def _label_warnings(found: Audit) -> list[str]:
    """Equal or near-equal pictures that two labels are given to: one of them is wrong."""
    clashes = [
        (found.records[twin.left], found.records[twin.right])
        for twin in found.twins
        if twin.kind != "embedding"
        and "" not in (found.records[twin.left].label, found.records[twin.right].label)
        and found.records[twin.left].label != found.records[twin.right].label
    ]
    if not clashes:
        return []
    left, right = clashes[0]
    return [f"{len(clashes)} pairs of equal pictures have two labels, such as {left.key} and {right.key}"]
