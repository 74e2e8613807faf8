"""What is measured: queries with the grades of the images that somebody judged for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from clipsearch.relevance.judgments import JudgedQuery, Judgments


@dataclass(frozen=True, slots=True)
class Topic:
    """A query and the grade in [0, 1] of each judged image, by document id: 0 is not relevant."""

    name: str
    query: JudgedQuery
    grades: Mapping[str, float]

    @property
    def relevant(self) -> frozenset[str]:
        """The ids of the images that are relevant at all."""
        return frozenset(document for document, grade in self.grades.items() if grade > 0)

    @property
    def graded(self) -> bool:
        """Whether some images are more relevant than others."""
        return any(0 < grade < 1 for grade in self.grades.values())

    @property
    def by_words(self) -> bool:
        """Whether every ranking can answer it: those by words need words."""
        return bool(self.query.q)

    @property
    def replayable(self) -> bool:
        """Whether it can be asked again: an uploaded image is known to the page only, while it runs."""
        return not self.query.img and not any(term.split(":")[1:2] == ["img"] for term in self.query.terms)


def topics_of(judgments: Judgments) -> list[Topic]:
    """A topic for each judged query."""
    return [
        Topic(str(number), query, {document: float(bool(each.relevant)) for document, each in found.items()})
        for number, (query, found) in enumerate(judgments.by_query.items(), 1)
    ]


def seen_under(judgments: Judgments) -> dict[str, int]:
    """How many judgments were made under each ranking, most first: measures favour those that were looked at."""
    rankings = Counter(each.ranking or "unknown" for found in judgments.by_query.values() for each in found.values())
    return dict(rankings.most_common())
