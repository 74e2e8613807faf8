"""Corpora that are never trained on, measured before and after: what a run forgets.

Half of each serves to choose how far to go from the start model (WiSE-FT), the other half to say what was lost: the
figures that are reported have chosen nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clipsearch.corpora import open_corpus
from clipsearch.errors import InputError
from clipsearch.records import Issue, Record
from clipsearch.training.cache import DecodedSplit, decode_split
from clipsearch.training.validation import METRIC_NAMES, Scores, measure, selection_score
from clipsearch.training.wiseft import Yardstick

if TYPE_CHECKING:
    from clipsearch.clip import Clip
    from clipsearch.training.options import TrainOptions

MOST_IMAGES = 2000
"""Images at most that choose for one corpus: eleven mixtures embed each of them."""


@dataclass(frozen=True, slots=True)
class OutOfDomain:
    """One corpus, decoded: ``choosing`` and ``reporting`` have no image in common."""

    name: str
    classes: Mapping[str, str]
    prompt: str
    choosing: DecodedSplit
    reporting: DecodedSplit

    @property
    def issues(self) -> list[Issue]:
        """Images that could not be decoded."""
        return [*self.choosing.issues, *self.reporting.issues]

    def measure(self, clip: Clip) -> Scores:
        """The scores that are reported."""
        return measure(clip, self.reporting, self.classes, self.prompt)

    def yardstick(self) -> Yardstick:
        """What may choose: hits@1 over the classes where there are labelled images, else MRR@10 both ways."""
        labelled = any(record.label in self.classes for record in self.choosing.records) and len(self.classes) > 1
        metric = "hits1" if labelled else "mrr10"
        choosing = self.choosing
        if labelled:  # captions decide nothing then: eleven mixtures would embed each of them in vain
            choosing = replace(choosing, records=[replace(record, captions=()) for record in choosing.records])

        def score(clip: Clip) -> float:
            return selection_score(metric, measure(clip, choosing, self.classes, self.prompt), 0.0)

        return Yardstick(self.name, METRIC_NAMES[metric], score)


def read_out_of_domain(options: TrainOptions, clip: Clip, quiet: bool) -> list[OutOfDomain]:
    """Open and decode each corpus. Raises ``InputError`` for one that has neither captions nor two classes, or a name
    that another one has."""
    found: list[OutOfDomain] = []
    for path in options.ood:
        with open_corpus(path) as corpus:
            if corpus.name in {other.name for other in found}:
                raise InputError(f"--ood {path}: there is a corpus named {corpus.name} already")
            usable = [r for r in corpus.records if r.captions or r.label]
            if len(usable) < 4 or (len(corpus.classes) < 2 and not any(r.captions for r in usable)):
                raise InputError(f"--ood {path} has neither captions nor two classes: nothing can be measured on it")
            choosing, reporting = halves(usable)
            parts = [
                decode_split(corpus, records, clip.preprocess, options.workers, f"decode {corpus.name}", quiet)
                for records in (spread(choosing, MOST_IMAGES), reporting)
            ]
            if not all(map(len, parts)):
                reason = next(issue.reason for part in parts for issue in part.issues)
                raise InputError(f"--ood {path}: its images cannot be decoded ({reason})")
            found.append(OutOfDomain(corpus.name, corpus.classes, corpus.prompt, parts[0], parts[1]))
    return found


def halves(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """What chooses and what is reported, without a common image: all but the test split, and that; where there is no
    test split two halves, by the keys' hashes."""
    test = [record for record in records if record.split == "test"]
    rest = [record for record in records if record.split != "test"]
    if rest and test:
        return rest, test
    some = test or rest
    odd = [hashlib.sha256(record.key.encode()).digest()[0] & 1 for record in some]
    first = [record for record, number in zip(some, odd, strict=True) if number]
    second = [record for record, number in zip(some, odd, strict=True) if not number]
    return (first, second) if first and second else (list(some), list(some))


def spread(records: list[Record], most: int) -> list[Record]:
    """At most ``most`` of the records, evenly spread."""
    return records[:: -(-len(records) // most)]
