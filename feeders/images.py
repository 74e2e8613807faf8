"""``feed images``: a corpus becomes documents in one pass - decoded, embedded, stored as shards, fed.

The shards stay in a work folder, so that a second run encodes only what is new or changed, and an interrupted one goes
on where it stopped. Encoding runs in a thread and feeding beside it, shard by shard: neither waits for the other, and
what waits between them is on disk. A bad image becomes a line of the shards' ledger.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipsearch.adapter import Adapter, load_adapter
from clipsearch.corpora import Corpus, open_corpora
from clipsearch.encoding import BATCH, Encoder, EncodeSummary, ImageModel, encode, load_model
from clipsearch.errors import InputError, ShardError
from clipsearch.images.patches import parse_patches
from clipsearch.keys import make_key
from clipsearch.records import Embedded, Record
from clipsearch.search.endpoint import DEFAULT_URL, Endpoint
from clipsearch.shards import read_shard, shard_files
from feeders.dispatcher import Failure
from feeders.documents import document_rows
from feeders.feeding import FeedSummary, feed
from feeders.fitting import check_records
from feeders.journal import journal_path
from feeders.operations import Operation

WORK = Path(".clipsearch")
DEAD_LETTERS = "dead-letters.jsonl"
_POLL = 0.1  # seconds between two looks for a new shard

Stamp = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where operations go, and how: what every command of ``feed`` has in common.

    ``workers``: most requests in flight, 0 lets the feed find out; ``patience``: seconds without a sign of life after
    which the endpoint counts as gone; ``dead_letters``, ``journal``: files, by default in the folder of the command's
    other files.
    """

    url: str = DEFAULT_URL
    workers: int = 0
    patience: float = 60.0
    dead_letters: Path | None = None
    journal: Path | None = None
    progress: bool = True

    def feed(
        self, operations: Iterable[Operation | Failure], home: Path, *, total: int | None = None, resume: bool = False,
        unmet: Callable[[str], None] | None = None,
    ) -> FeedSummary:  # fmt: skip
        """Deliver ``operations``; ``home`` is the folder of the dead letters and, with ``resume``, of a journal.

        What is compared with the index anyway needs no journal, and must not have one: it would take a document that
        somebody changed since for done.
        """
        return feed(
            operations, self.url, dead_letters=self.dead_letters or home / DEAD_LETTERS,
            journal=self.journal or (journal_path(home, self.url) if resume else None), total=total,
            patience=self.patience, connections=self.workers, progress=self.progress, unmet=unmet,
        )  # fmt: skip

    def check(self) -> None:
        """Raise at once when no application answers."""
        endpoint = Endpoint(self.url)
        try:
            endpoint.status()
        finally:
            endpoint.close()


@dataclass(frozen=True, slots=True)
class ImagesSummary:
    """What ``feed images`` did: to each corpus, and in the index. ``encodings`` lacks those that were interrupted."""

    feed: FeedSummary
    encodings: tuple[EncodeSummary, ...]

    @property
    def failed_images(self) -> int:
        """Images that the ledgers list."""
        return sum(one.failed for one in self.encodings)

    @property
    def complete(self) -> bool:
        """Whether every image of the corpora is in the index."""
        return self.feed.complete and not self.failed_images

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        corpora = [{**asdict(one), "ledger": one.ledger} for one in self.encodings]
        return {**self.feed.as_json(), "failed_images": self.failed_images, "corpora": corpora}

    def __str__(self) -> str:
        lines = [encoded_sentence(one) for one in self.encodings]
        return "\n".join([*lines, str(self.feed)])


def encoded_sentence(one: EncodeSummary) -> str:
    """What was encoded, for people."""
    failed = f", {one.failed} failed: see {one.ledger}" if one.failed else ""
    return f"{one.corpus}: {one.encoded} images encoded, {one.reused} taken over, {one.removed} removed{failed}"


@dataclass(frozen=True, slots=True)
class Source:
    """Corpora and the model that embeds them. ``name``: of the only corpus, instead of its folder's; ``patches``: a
    plan such as ``3x3`` by which parts of each image are embedded too, "" for none.
    """

    corpora: Sequence[Path | str]
    model: str
    work: Path = WORK
    name: str = ""
    device: str = "auto"
    backend: str = "torch"
    precision: str = "auto"
    batch: int = BATCH
    adapter: Path | None = None
    patches: str = ""

    def __str__(self) -> str:
        return " and ".join(map(str, self.corpora))

    def open(self) -> Corpus:
        """The corpora as one; ``members_of`` gives them back."""
        if self.name and len(self.corpora) > 1:
            raise InputError("--name is for one corpus: several are named after their folders")
        if self.name:
            from clipsearch.corpora import open_corpus

            return open_corpus(self.corpora[0], self.name)
        return open_corpora(self.corpora)

    def load(self, corpus: Corpus) -> ImageModel:
        """The model, ready to embed; a fast way of running it is measured on some images of ``corpus``."""
        loaded: ImageModel = load_model(corpus, self.model, Encoder(self.device, self.backend, self.precision))
        return loaded

    def model_id(self) -> str:
        """The model's id, without loading it."""
        from clipsearch.clip import checkpoint_info

        return checkpoint_info(self.model)[0]

    def load_adapter(self, model_id: str) -> Adapter | None:
        """The adapter, if there is one; ``CheckpointError`` when it was made for another model."""
        if self.adapter is None:
            return None
        adapter = load_adapter(self.adapter)
        adapter.check(model_id)
        return adapter

    def folder(self, corpus: str, model_id: str) -> Path:
        """Where the shards of a corpus by this model are kept; those of other models, of numbers of an explicit
        precision and of plans of patches stay beside them.
        """
        numbers = "" if self.precision == "auto" else f"-{self.precision}"
        quantised = "-int8" if self.backend == "onnx-int8" else ""
        plan = f"-{make_key(str(parse_patches(self.patches)))}" if self.patches.strip() else ""
        return self.work / corpus / (make_key(model_id) + quantised + numbers + plan)


def members_of(corpus: Corpus) -> tuple[Corpus, ...]:
    """The corpora that ``open_corpora`` put together, or the one corpus."""
    return getattr(corpus, "members", (corpus,))


def records_of(corpus: Corpus) -> Iterator[Record]:
    """The records of all its members."""
    for member in members_of(corpus):
        yield from member.records


class Encoding:
    """Encodes ``corpus`` into ``folder`` in a thread; ``rows`` are there for the taking as shards are written.

    ``summary`` is None until encoding came to its end.
    """

    def __init__(
        self, corpus: Corpus, model: ImageModel, folder: Path, batch: int = BATCH, progress: bool = False,
        patches: str = "",
    ) -> None:  # fmt: skip
        self.summary: EncodeSummary | None = None
        self._patches = patches
        self._corpus, self._folder, self._batch, self._progress = corpus, folder, batch, progress
        self._stop = threading.Event()
        self._model = _Stoppable(model, self._stop)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="encode", daemon=True)

    def _run(self) -> None:
        try:
            self.summary = encode(
                self._corpus, self._model, self._folder, batch=self._batch, progress=self._progress,
                patches=self._patches,
            )  # fmt: skip
        except BaseException as error:
            self._error = error

    def rows(self) -> Iterator[Embedded]:
        """Each embedded image once, or twice when its shard was written again; raises what encoding raises.

        Shards of earlier runs come last: only when encoding has ended are they known to be up to date.
        """
        seen = set(_stamps(self._folder))
        earlier = set(seen)
        self._thread.start()
        try:
            while self._thread.is_alive():
                yield from self._unseen(seen)
                self._thread.join(_POLL)
            if self._error is not None:
                raise self._error
            yield from self._unseen(seen - earlier)
        finally:
            self._stop.set()
            self._thread.join()

    def _unseen(self, seen: set[Stamp]) -> Iterator[Embedded]:
        for stamp, path in _stamps(self._folder).items():
            if stamp not in seen:
                try:
                    rows = read_shard(path, self._model.dim)
                    seen.add(stamp)
                    yield from rows
                except ShardError:
                    if path.exists():
                        raise  # else it was replaced by another, which is still to come


def _stamps(folder: Path) -> dict[Stamp, Path]:
    """What tells a shard that was written again from what it was before."""
    stamps = {}
    for path in shard_files(folder):
        try:
            state = path.stat()
        except FileNotFoundError:
            continue
        stamps[path.name, state.st_mtime_ns, state.st_ino] = path
    return stamps


class _Stoppable:
    """A model that raises as soon as nobody wants its embeddings any more."""

    def __init__(self, model: ImageModel, stop: threading.Event) -> None:
        self._model, self._stop = model, stop
        self.model_id, self.dim = model.model_id, model.dim

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def preprocess(self, image: Any) -> Any:
        """The model's own."""
        return self._model.preprocess(image)

    def embed_pixels(self, pixels: Any) -> Any:
        """The model's own. ``InputError`` when the feed has ended."""
        if self._stop.is_set():
            raise InputError("encoding was stopped, because the feed ended")
        return self._model.embed_pixels(pixels)


def puts(rows: Iterator[Embedded], adapter: Adapter | None = None) -> Iterator[Operation | Failure]:
    """One put a row; a row that is unfit for the index becomes a dead letter."""
    for document_id, fields in document_rows(map(adapter.apply_row, rows) if adapter else rows):
        if isinstance(fields, InputError):
            yield Failure(document_id, 0, str(fields))
        else:
            yield Operation("put", document_id, fields)


def feed_images(source: Source, delivery: Delivery) -> ImagesSummary:
    """Encode the corpora and feed them: what ``clipsearch feed images`` does.

    Raises, before anything is encoded, ``UnreachableError`` or ``RejectedError`` when no application answers,
    ``InputError`` when it takes no patches or places and there are some, and ``CorpusError`` or ``CheckpointError`` for
    what cannot be opened.
    """
    delivery.check()
    encodings: list[Encoding] = []
    with source.open() as opened:
        model = source.load(opened)
        adapter = source.load_adapter(model.model_id)
        check_records(delivery.url, records_of(opened), bool(source.patches.strip()), model.dim, source)

        def operations() -> Generator[Operation | Failure, None, None]:
            for corpus in members_of(opened):
                folder = source.folder(corpus.name, model.model_id)
                encoding = Encoding(corpus, model, folder, source.batch, delivery.progress, source.patches)
                encodings.append(encoding)
                yield from puts(encoding.rows(), adapter)

        with closing(operations()) as made:  # so that encoding ends with the feed, however that ends
            summary = delivery.feed(made, source.work, resume=True)
    return ImagesSummary(summary, tuple(one.summary for one in encodings if one.summary is not None))
