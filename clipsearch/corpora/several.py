"""Several corpora as one, for training and evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clipsearch.corpora.corpus import Corpus, Listing
from clipsearch.corpora.opening import open_corpus
from clipsearch.errors import InputError
from clipsearch.records import Issue, Record


class Corpora(Corpus):
    """Corpora side by side: the records of all, in the order given, each still of its own corpus.

    Each keeps its own splits. ``record.id`` is unique, as it begins with the corpus's name; ``record.key`` is unique
    within its corpus. ``members``: the corpora; ``prompt``: the members' own where they agree or only one has classes,
    else the first's; equal labels are one class. ``issues`` name their corpus.
    """

    def __init__(self, members: Sequence[Corpus]) -> None:
        self.members = tuple(members)
        self._by_name = {member.name: member for member in members}
        self.name = "-".join(self._by_name)[:64].rstrip("-_")
        self.layout = " + ".join(dict.fromkeys(member.layout for member in members))
        self.root = Path(os.path.commonpath([member.root for member in members]))
        self.records: Sequence[Record] = tuple(record for member in members for record in member.records)
        self.issues: Sequence[Issue] = tuple(
            replace(issue, item=f"{member.name}: {issue.item}") for member in members for issue in member.issues
        )
        listing = Listing()
        for member in reversed(members):
            listing.classes |= member.classes
        for member in members:
            for licence, count in member.licences.items():
                listing.licences[licence] = listing.licences.get(licence, 0) + count
        self.classes = dict(sorted(listing.classes.items()))
        self.licences = listing.licences
        self.prompt = next((member.prompt for member in members if member.classes), members[0].prompt)

    def read(self, record: Record) -> bytes:
        """Return the bytes of the record's image file; thread-safe. Raises ``ImageError`` with the reason."""
        return self._by_name[record.corpus].read(record)

    def close(self) -> None:
        """Close every member."""
        for member in self.members:
            member.close()


def open_corpora(
    paths: Sequence[str | Path],
    *,
    layout: str | None = None,
    image_column: str = "",
    caption_column: str | Sequence[str] = (),
    label_column: str = "",
    split_column: str = "",
) -> Corpus:
    """Open one corpus or several; one comes back as it is, several as ``Corpora``.

    The options are ``open_corpus``'s and hold for all; where corpora differ, their ``classes.json`` can say. Two
    corpora of one name become ``name`` and ``name-2``. Raises ``InputError`` when there is none or one is given twice,
    and ``CorpusError`` for one that cannot be opened.
    """
    if not paths:
        raise InputError("no corpus is given: name a folder, a file or hf:OWNER/NAME")
    if len(set(map(str, paths))) < len(paths):
        raise InputError(f"a corpus is given twice: {', '.join(map(str, paths))}")
    members: list[Corpus] = []
    try:
        for path in paths:
            opened = open_corpus(
                path,
                layout=layout,
                image_column=image_column,
                caption_column=caption_column,
                label_column=label_column,
                split_column=split_column,
            )
            members.append(_named_apart(opened, {member.name for member in members}))
    except BaseException:
        for member in members:
            member.close()
        raise
    return members[0] if len(members) == 1 else Corpora(members)


def _named_apart(corpus: Corpus, taken: set[str]) -> Corpus:
    name = corpus.name
    number = 2
    while name in taken:
        name = f"{corpus.name[:60]}-{number}"
        number += 1
    if name != corpus.name:
        corpus.records = tuple(replace(record, corpus=name) for record in corpus.records)
        corpus.name = name
    return corpus
