"""Changes to a corpus' training data that lie in files beside it: other captions, and images to leave out.

Neither ever touches the test split: scores on changed test data could be compared with nobody's.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import orjson

from clipsearch.captions import clean_captions
from clipsearch.corpora.corpus import Corpus
from clipsearch.errors import CorpusError
from clipsearch.records import Record


def overlaid(corpus: Corpus, captions: Path | None = None, exclude: Path | None = None) -> Corpus:
    """``with_captions`` and then ``without``, each where its file is given."""
    if captions is not None:
        corpus = with_captions(corpus, captions)
    return without(corpus, exclude) if exclude is not None else corpus


def with_captions(corpus: Corpus, file: Path) -> Corpus:
    """``corpus`` with the captions that ``file`` gives some of its training images, instead of their own.

    ``file``: JSON lines ``{"key": ..., "captions": [...]}``, as ``clipsearch backtranslate`` writes them; ``key`` is a
    record's key or document id. The two corpora share the open files. Raises ``CorpusError`` that names the line for
    one that is damaged, names no image of the corpus, or names one outside the training split.
    """
    by_name = _by_name(corpus)
    changed: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(_read(file), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = orjson.loads(line)
            name, captions = row["key"], clean_captions(map(str, row["captions"]))
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise CorpusError(f'{where} is not JSON like {{"key": ..., "captions": [...]}}') from error
        record = by_name.get(name)
        if record is None:
            raise CorpusError(f"{where}: {corpus.name} has no image {name!r}: is this another corpus' file?")
        if record.split != "train":
            raise CorpusError(f"{where}: {name} is in the {record.split} split; only training captions can be replaced")
        if captions:
            changed[record.id] = captions
    return _with_records(
        corpus, (replace(record, captions=changed.get(record.id, record.captions)) for record in corpus.records)
    )


def without(corpus: Corpus, file: Path) -> Corpus:
    """``corpus`` without the images of its training and validation splits that ``file`` names.

    ``file``: one key or document id a line, what follows a ``#`` is a comment; ``clipsearch audit`` writes it. Names
    that the corpus does not have are passed over, as one file can be for several corpora; test images stay. Raises
    ``CorpusError`` when the file cannot be read.
    """
    names = {line.partition(b"#")[0].strip().decode("utf-8", "replace") for line in _read(file)}
    return _with_records(
        corpus,
        (record for record in corpus.records if record.split == "test" or not {record.key, record.id} & names),
    )


def _by_name(corpus: Corpus) -> dict[str, Record]:
    """Document id -> record, and key -> record for keys that only one of several corpora has."""
    keys = Counter(record.key for record in corpus.records)
    alone = {record.key: record for record in corpus.records if keys[record.key] == 1}
    return alone | {record.id: record for record in corpus.records}


def _with_records(corpus: Corpus, records: Iterable[Record]) -> Corpus:
    changed = copy.copy(corpus)
    changed.records = tuple(records)
    return changed


def _read(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error.strerror or error}") from error
