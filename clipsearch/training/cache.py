"""Every image of a split decoded once, in threads, to uint8; a bad image goes to the ledger and never stops a run.

With a folder given, the pixels are kept there as a memory-mapped ``.npy`` under a name made of the images' contents, so
that the next run over the same images reads them instead of decoding again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from clipsearch.errors import CorpusError, ImageError
from clipsearch.images import content_hash, load_image
from clipsearch.lookahead import map_ahead
from clipsearch.records import Issue, Record

if TYPE_CHECKING:
    from clipsearch.corpora import Corpus

Pixels = NDArray[np.uint8]
Preprocess = Callable[[Pixels], Pixels]


@dataclass(slots=True)
class DecodedSplit:
    """``pixels`` (N, S, S, 3) uint8 and the ``records`` that they belong to; ``issues``: what could not be decoded."""

    pixels: Pixels
    records: list[Record]
    issues: list[Issue] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)


def pixel_folder() -> Path:
    """Where ``--pixel-cache disk`` keeps pixels: ``clipsearch/pixels`` below the user's cache folder.

    That is ``$XDG_CACHE_HOME``, or ``~/.cache``. What is in there can be removed at any time.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "clipsearch" / "pixels"


def decode_split(
    corpus: Corpus,
    records: Sequence[Record],
    preprocess: Preprocess,
    workers: int = 4,
    title: str = "decode",
    quiet: bool = False,
    *,
    store: Path | None = None,
    recipe: str = "",
) -> DecodedSplit:
    """Read and decode ``records`` in order; ``preprocess`` brings each image to one shape.

    ``store``: a folder that keeps the pixels from run to run; ``recipe`` then says what ``preprocess`` does (its sizes
    and filters), because pixels are found again by the images' bytes and the recipe alone. Raises ``CorpusError``
    when the store cannot be written.
    """
    if store is not None:
        return _stored_split(corpus, records, preprocess, workers, title, quiet, store, recipe)
    pixels: list[Pixels] = []
    kept: list[Record] = []
    issues: list[Issue] = []
    for record, result in _decode_all(corpus, records, preprocess, workers, title, quiet):
        if isinstance(result, Issue):
            issues.append(result)
        else:
            pixels.append(result)
            kept.append(record)
    stacked = np.stack(pixels) if pixels else np.zeros((0, 1, 1, 3), np.uint8)
    return DecodedSplit(stacked, kept, issues)


def _decode_all(
    corpus: Corpus, records: Sequence[Record], preprocess: Preprocess, workers: int, title: str, quiet: bool
) -> Iterator[tuple[Record, Pixels | Issue]]:
    def decode(record: Record) -> Pixels | Issue:
        try:
            return preprocess(load_image(corpus.read(record)))
        except (ImageError, CorpusError) as error:
            return Issue(record.uri, str(error))

    results = zip(records, map_ahead(decode, records, workers, 8 * workers), strict=True)
    return iter(tqdm(results, total=len(records), desc=title, unit="img", leave=False, disable=quiet))


def _stored_split(
    corpus: Corpus,
    records: Sequence[Record],
    preprocess: Preprocess,
    workers: int,
    title: str,
    quiet: bool,
    store: Path,
    recipe: str,
) -> DecodedSplit:
    if not recipe:
        raise ValueError("pixels that are stored need a recipe")
    path = store / f"{split_hash(corpus, records, recipe, workers)}.npy"
    try:
        if not path.with_suffix(".json").is_file():
            store.mkdir(parents=True, exist_ok=True)
            _write_store(path, _decode_all(corpus, records, preprocess, workers, title, quiet), len(records))
        reasons: dict[str, str] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        rows = np.load(path, mmap_mode="c")  # private pages: nothing that a program does to them reaches the file
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(
            f"the pixels of {corpus.root} cannot be kept in {store}: {reason}; "
            "give --pixel-cache memory, or set XDG_CACHE_HOME to a folder with room"
        ) from error
    kept = [record for number, record in enumerate(records) if str(number) not in reasons]
    issues = [Issue(records[int(number)].uri, reason) for number, reason in reasons.items()]
    return DecodedSplit(rows[: len(kept)], kept, issues)


def split_hash(corpus: Corpus, records: Sequence[Record], recipe: str, workers: int = 4) -> str:
    """A name for the pixels of ``records``: changes with the bytes of any image, their order and the recipe."""

    def hashed(record: Record) -> str:
        try:
            return content_hash(corpus.read(record))
        except (ImageError, CorpusError) as error:
            return f"unreadable: {error}"

    whole = hashlib.sha256(recipe.encode())
    for one in map_ahead(hashed, records, workers, 8 * workers):
        whole.update(one.encode() + b"\n")
    return whole.hexdigest()[:32]


def _write_store(path: Path, results: Iterator[tuple[Record, Pixels | Issue]], count: int) -> None:
    """Pixels, then the ledger: without it a file does not count, so that a kill leaves nothing that is half.

    Plain writes, not a writable memory map: on a full disk a map ends the process with a bus error.
    """
    reasons: dict[int, str] = {}
    fresh = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with fresh.open("wb") as file:
            shape: tuple[int, ...] = ()
            for number, (_, result) in enumerate(results):
                if isinstance(result, Issue):
                    reasons[number] = result.reason
                    continue
                if not shape:
                    shape = result.shape
                    _write_header(file, (count, *shape))
                file.write(result.tobytes())
            if not shape:
                _write_header(file, (count, 1, 1, 3))
                shape = (1, 1, 3)
            file.write(bytes(len(reasons) * int(np.prod(shape))))  # the header counts the bad ones too
        fresh.replace(path)
        fresh.write_text(json.dumps(reasons), encoding="utf-8")
        fresh.replace(path.with_suffix(".json"))
    finally:
        fresh.unlink(missing_ok=True)


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
