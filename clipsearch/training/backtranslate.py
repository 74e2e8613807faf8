"""Back-translation: further captions for training images that have too few different ones.

A caption goes through another language and back (Sennrich et al. 2016; for CLIP on RSICD: CLIP-rsicd). Originals are
always kept; only repeats make way. Test and validation captions are never touched: scores on translated captions can be
compared with nobody's.

Each translation is a line of a journal beside the output, written as soon as its batch is done. So a killed run loses
one batch at most, a second run translates nothing twice, and the output follows from corpus and journal alone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import orjson
from tqdm import tqdm

from clipsearch.captions import clean_caption, normalise_caption
from clipsearch.errors import CorpusError, InputError
from clipsearch.lookahead import batched

if TYPE_CHECKING:
    from clipsearch.corpora import Corpus

LANGUAGES = ("fr", "es", "it", "pt")
"""CLIP-rsicd's languages, in its order."""

WANTED = 5
"""Different captions that an image should have: what RSICD's annotators were asked for."""

BATCH = 64


class Translator(Protocol):
    """Takes sentences through another language and back; ``MarianTranslator`` has real models."""

    @property
    def name(self) -> str:
        """What translates, with all that changes its output: a journal belongs to one name."""
        ...

    def there_and_back(self, texts: Sequence[str], language: str) -> list[str]:
        """Each English text through ``language`` (``fr``, ...) and back to English, in the order given."""
        ...


@dataclass(frozen=True, slots=True)
class BacktranslateSummary:
    """What a run did. ``images``: of the training split; ``lacking``: with too few different captions before;
    ``changed``: that got new ones; ``still_lacking``: after. ``translated``: sentences in this run, ``reused``: from
    the journal. Of the translations that images asked for: ``added``, ``unchanged`` (equal to a caption that the image
    has, case and punctuation apart), ``runaway`` (empty, or absurdly long)."""

    out: str
    images: int
    lacking: int
    changed: int
    still_lacking: int
    translated: int
    reused: int
    added: int
    unchanged: int
    runaway: int


@dataclass(slots=True)
class _Plan:
    """One image on its way: its captions so far, what they are when normalised, and which repeats make way."""

    key: str
    captions: list[str]
    seen: set[str]
    sources: list[str]
    asked: int = 0

    def next(self, languages: Sequence[str]) -> tuple[str, str] | None:
        """The next sentence and language to try, every sentence in the first language first; None at the end."""
        if self.asked >= len(self.sources) * len(languages):
            return None
        language, source = divmod(self.asked, len(self.sources))
        return self.sources[source], languages[language]


def backtranslate(
    corpus: Corpus,
    translator: Translator,
    out: Path,
    *,
    split: str = "train",
    languages: Sequence[str] = LANGUAGES,
    wanted: int = WANTED,
    batch_size: int = BATCH,
    quiet: bool = False,
) -> BacktranslateSummary:
    """Give each training image of ``corpus`` up to ``wanted`` different captions; write those that changed to ``out``.

    ``out``: JSON lines ``{"key": document id, "captions": [...]}`` for ``finetune --captions``: the image's different
    captions in their order, then the new ones. The journal is ``out`` + ``.journal``. Raises ``InputError`` for another
    split than ``train``, for options that make no sense and for a journal of other models; ``CorpusError`` when no
    training image has captions.
    """
    if split != "train":
        raise InputError(
            f"only the train split is back-translated, not {split}: scores on translated captions can be compared with "
            "nobody's"
        )
    if wanted < 2 or batch_size < 1 or not languages or len(set(languages)) < len(languages):
        raise InputError("give at least 2 wanted captions, a batch of at least 1, and each language once")
    records = [record for record in corpus.split("train") if record.captions]
    if not records:
        raise CorpusError(f"{corpus.root} has no training images with captions: there is nothing to translate")
    plans = [_plan(record.id, record.captions) for record in records]
    lacking = [plan for plan in plans if len(plan.seen) < wanted and plan.sources]
    before = {plan.key: len(plan.captions) for plan in lacking}
    counts: Counter[str] = Counter()
    with Journal(out.with_name(out.name + ".journal"), translator.name) as journal:
        reused = len(journal.translations)
        _fill(lacking, translator, journal, languages, wanted, batch_size, counts, quiet)
        translated = len(journal.translations) - reused
    changed = [plan for plan in lacking if len(plan.captions) > before[plan.key]]
    rows = (orjson.dumps({"key": plan.key, "captions": plan.captions}) + b"\n" for plan in changed)
    _replace(out, b"".join(rows))
    still = sum(len(plan.seen) < wanted for plan in lacking)
    return BacktranslateSummary(
        str(out), len(records), len(lacking), len(changed), still, translated, reused, **_counted(counts)
    )


def to_json(summary: BacktranslateSummary) -> dict[str, str | int]:
    """The summary as plain values."""
    return asdict(summary)


def _plan(key: str, captions: Sequence[str]) -> _Plan:
    """The different captions of an image; sentences to translate are the most repeated first, as in CLIP-rsicd."""
    first: dict[str, str] = {}
    for caption in captions:
        first.setdefault(normalise_caption(caption), caption)
    times = Counter(map(normalise_caption, captions))
    sources = sorted((text for text in first if text), key=lambda text: -times[text])
    return _Plan(key, list(first.values()), set(first), [first[text] for text in sources])


def _fill(
    plans: Sequence[_Plan],
    translator: Translator,
    journal: Journal,
    languages: Sequence[str],
    wanted: int,
    batch_size: int,
    counts: Counter[str],
    quiet: bool,
) -> None:
    """Ask for one translation an image and round, until all have enough or have tried everything."""
    waiting = list(plans)
    with tqdm(desc="back-translate", unit="caption", disable=quiet) as bar:
        while waiting:
            asked = [(plan, request) for plan in waiting if (request := plan.next(languages)) is not None]
            missing = dict.fromkeys(request for _, request in asked if request not in journal.translations)
            bar.total = bar.n + len(missing)
            for batch in _batches(missing, languages, batch_size):
                language = batch[0][1]
                texts = [text for text, _ in batch]
                journal.add(language, texts, translator.there_and_back(texts, language))
                bar.update(len(batch))
            for plan, request in asked:
                plan.asked += 1
                counts[_take(plan, request[0], journal.translations[request])] += 1
            waiting = [plan for plan, _ in asked if len(plan.seen) < wanted]


def _batches(
    requests: Iterable[tuple[str, str]], languages: Sequence[str], size: int
) -> Iterable[list[tuple[str, str]]]:
    """Batches of one language, like lengths together, so that little is padding."""
    ordered = sorted(requests, key=lambda request: (len(request[0]), request[0]))
    for language in languages:
        yield from batched((request for request in ordered if request[1] == language), size)


def _take(plan: _Plan, source: str, translation: str) -> str:
    """Add a translation to an image, or say why not: ``unchanged`` or ``runaway``."""
    caption = clean_caption(translation)
    text = normalise_caption(caption)
    # a beam that has lost its way repeats itself until the limit: RSICD's published file has such a one of 333 tokens
    if not text or len(text.split()) > 2 * len(source.split()) + 5:
        return "runaway"
    if text in plan.seen:
        return "unchanged"
    plan.seen.add(text)
    plan.captions.append(caption)
    return "added"


def _counted(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in ("added", "unchanged", "runaway")}


class Journal:
    """Translations in a file that only grows: a line that says whose they are, then one JSON object each.

    ``translations``: (English text, language) -> the text that came back. A half-written last line, which a killed run
    leaves, is cut off; any other damage raises ``InputError`` with the line's number.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.translations: dict[tuple[str, str], str] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes() if path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            self._load(whole, path, name)
            self._file = path.open("r+b" if path.exists() else "wb")
            self._file.truncate(len(whole))
            self._file.seek(len(whole))
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
        if not whole:
            self._write([{"translator": name}])

    def add(self, language: str, texts: Sequence[str], translations: Sequence[str]) -> None:
        """Note one batch and write it to disk at once."""
        pairs = list(zip(texts, translations, strict=True))
        self._write([{"language": language, "text": text, "back": back} for text, back in pairs])
        self.translations.update({(text, language): back for text, back in pairs})

    def _load(self, data: bytes, path: Path, name: str) -> None:
        for number, line in enumerate(data.splitlines(), start=1):
            try:
                row = orjson.loads(line)
                if number == 1:
                    found = row["translator"]
                else:
                    self.translations[row["text"], row["language"]] = row["back"]
            except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                raise InputError(f"{path}, line {number} is damaged: remove that line, or the file") from error
            if number == 1 and found != name:
                raise InputError(
                    f"{path} holds translations by {found}, and this is {name}: choose another --out, or remove it"
                )

    def _write(self, rows: Iterable[dict[str, str]]) -> None:
        self._file.write(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _replace(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
