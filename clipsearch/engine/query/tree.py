"""The query tree: what YQL and the simple query syntax are parsed to, and what is executed.

``str(node)`` is Vespa's own notation (``Item.toString``), by which the conformance cases compare.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False, slots=True)
class Node:
    """Base of all items. ``annotations`` are the query's own: nothing in matching and ranking reads them."""

    annotations: dict[str, Any] = dataclasses.field(default_factory=dict, kw_only=True)

    def parts(self) -> list[Node]:
        """The direct children."""
        return []

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for part in self.parts():
            yield from part.walk()


def nested(node: Node) -> str:
    """``node`` as a child of a composite: composites get parentheses, their weight stands behind."""
    if isinstance(node, Composite):
        return f"({node.inside()}){node.suffix()}"
    return f"({node})" if isinstance(node, (Not, Near, Labeled)) else str(node)


@dataclass(eq=False, slots=True)
class Composite(Node):
    """Items under one operator. ``weight`` is kept for ``str`` only: terms weigh in ranking, composites do not."""

    items: list[Node]
    weight: int = dataclasses.field(default=100, kw_only=True)

    def parts(self) -> list[Node]:
        """The operands."""
        return self.items

    def _head(self) -> str:
        return ""

    def inside(self) -> str:
        """The operator and its operands."""
        return " ".join([self._head(), *(nested(item) for item in self.items)])

    def suffix(self) -> str:
        """The weight, unless it is the default."""
        return f"!{self.weight}" if self.weight != 100 else ""

    def __str__(self) -> str:
        return self.inside() + self.suffix()


class And(Composite):
    """All items match."""

    def _head(self) -> str:
        return "AND"


class SegmentAnd(And):
    """The parts of one written word, which must all match."""

    def _head(self) -> str:
        return "SAND"


class Or(Composite):
    """Some item matches."""

    def _head(self) -> str:
        return "OR"


class Rank(Composite):
    """The first item matches; the others give rank features only."""

    def _head(self) -> str:
        return "RANK"


class Equiv(Composite):
    """Words that count as one."""

    def _head(self) -> str:
        return "EQUIV"


@dataclass(eq=False, slots=True)
class WeakAnd(Composite):
    """The ``target_hits`` best by summed term weights match at least (here: every document with any of the items)."""

    target_hits: int = 0
    total_target_hits: int = 0

    def _head(self) -> str:
        head = f"WEAKAND({self.target_hits})" if self.target_hits else "WEAKAND"
        return head + (f" {{totalTargetHits={self.total_target_hits}}}" if self.total_target_hits else "")


@dataclass(eq=False, slots=True)
class Not(Node):
    """``positive`` (None: everything) without any of ``negatives``."""

    positive: Node | None
    negatives: list[Node]

    def parts(self) -> list[Node]:
        """Positive part first."""
        return [*([self.positive] if self.positive else []), *self.negatives]

    def __str__(self) -> str:
        head = [f"+{nested(self.positive)}"] if self.positive else []
        return " ".join(head + [f"-{nested(item)}" for item in self.negatives])


@dataclass(eq=False, slots=True)
class Constant(Node):
    """``true`` or ``false``."""

    value: bool

    def __str__(self) -> str:
        return "TRUE" if self.value else "FALSE"


@dataclass(eq=False, slots=True)
class Labeled(Node):
    """``labeled(item, label, score)``."""

    item: Node
    label: str
    score: float

    def parts(self) -> list[Node]:
        """The wrapped item."""
        return [self.item]

    def __str__(self) -> str:
        return f"LABEL_WRAPPER({self.label},{self.score}) {nested(self.item)}"


@dataclass(slots=True)
class Options:
    """Annotations of a term. ``ranked`` False (or ``filter``): no rank features. ``weight`` in percent.

    ``frequency``: of the term among how many documents, in place of the index's own and of ``significance``.
    """

    ranked: bool = True
    filter: bool = False
    weight: int = 100
    significance: float | None = None
    stem: bool = True
    label: str = ""
    language: str = "en"
    frequency: tuple[int, int] | None = None


@dataclass(eq=False, slots=True)
class Term(Node):
    """One leaf in ``field`` ("" in trees that have no default index)."""

    field: str
    options: Options = dataclasses.field(default_factory=Options, kw_only=True)

    def _text(self) -> str:
        return ""

    def __str__(self) -> str:
        head = ("|" if self.options.filter else "") + (f"{self.field}:" if self.field else "")
        text = self._text()
        if self.field.endswith("]"):  # field[2]: a condition on that element
            text = f"{{{text}}}"
        return head + text + (f"!{self.options.weight}" if self.options.weight != 100 else "")


@dataclass(eq=False, slots=True)
class Word(Term):
    """One word as written; ``prefix`` and ``suffix`` are wildcards after and before it (both: substring).

    ``shown``: what the tokeniser keeps of it, where that differs.
    """

    text: str
    prefix: bool = False
    suffix: bool = False
    shown: str = dataclasses.field(default="", kw_only=True)

    def _text(self) -> str:
        return ("*" if self.suffix else "") + (self.shown or self.text) + ("*" if self.prefix else "")


@dataclass(eq=False, slots=True)
class Phrase(Term):
    """Words next to each other. ``segment``: one written word that the tokeniser cut, ``raw`` as it was written.

    ``shown``: how Vespa prints the words, where that differs.
    """

    words: list[str]
    raw: str = ""
    segment: bool = False
    shown: str = dataclasses.field(default="", kw_only=True)

    def _text(self) -> str:
        quote = "'" if self.segment else '"'
        return quote + (self.shown or " ".join(self.words)) + quote


class Regex(Term):
    """``matches``: a regular expression, searched anywhere in the value."""

    __slots__ = ("pattern",)

    def __init__(self, field_name: str, pattern: str, options: Options) -> None:
        super().__init__(field_name, options=options)
        self.pattern = pattern

    def __str__(self) -> str:
        return f"REGEXP {self.field}:{self.pattern}"


@dataclass(eq=False, slots=True)
class Number(Term):
    """A number or a range of numbers, bounds as written ("" is open)."""

    low: str
    high: str
    low_inclusive: bool = True
    high_inclusive: bool = True
    hit_limit: int = 0

    def _text(self) -> str:
        if self.low == self.high and self.low_inclusive and self.high_inclusive:
            return self.low
        if not self.hit_limit and not self.high and not self.low_inclusive:
            return f">{self.low}"
        if not self.hit_limit and not self.low and not self.high_inclusive:
            return f"<{self.high}"
        opening, closing = "[" if self.low_inclusive else "<", "]" if self.high_inclusive else ">"
        limit = f";{self.hit_limit}" if self.hit_limit else ""
        return f"{opening}{self.low};{self.high}{limit}{closing}"


@dataclass(eq=False, slots=True)
class Boolean(Term):
    """``field = true``."""

    value: bool

    def _text(self) -> str:
        return str(self.value).lower()


@dataclass(eq=False, slots=True)
class In(Term):
    """``field in (a, b)``."""

    values: list[Any]

    def _text(self) -> str:
        return "{" + ",".join(str(value) for value in self.values) + "}"


@dataclass(eq=False, slots=True)
class Fuzzy(Term):
    """Strings within ``max_edits`` Levenshtein edits of ``text``, the first ``prefix_length`` characters fixed.

    ``prefix``: the edits to some beginning of the string count.
    """

    text: str
    max_edits: int = 2
    prefix_length: int = 0
    prefix: bool = False

    def __str__(self) -> str:
        numbers = f"{self.text},{self.max_edits},{self.prefix_length},{str(self.prefix).lower()}"
        return f"FUZZY({numbers}) {Term.__str__(self)}{self.text}"


@dataclass(eq=False, slots=True)
class WeightedTokens(Term):
    """``weightedSet``, ``dotProduct`` or ``wand`` over tokens with weights.

    ``wand`` matches at least the ``target_hits`` best of the rows that score more than ``score_threshold``.
    """

    operator: str
    tokens: dict[str, int]
    target_hits: int = dataclasses.field(default=10, kw_only=True)
    score_threshold: float = dataclasses.field(default=0.0, kw_only=True)

    def __str__(self) -> str:
        inside = ",".join(f'[{weight}]:"{token}"' for token, weight in self.tokens.items())
        return f"{self.operator} {self.field}{{{inside}}}"


@dataclass(eq=False, slots=True)
class Near(Node):
    """Words within ``distance`` of each other, in order if ``ordered``; the last ``negatives`` must not be near."""

    items: list[Node]
    distance: int
    ordered: bool
    negatives: int = 0
    exclusion: int = 0

    def parts(self) -> list[Node]:
        """The words."""
        return self.items

    def __str__(self) -> str:
        numbers = f"{self.distance},{self.negatives},{self.exclusion}" if self.negatives else f"{self.distance}"
        return f"{'ONEAR' if self.ordered else 'NEAR'}({numbers}) " + " ".join(nested(i) for i in self.items)


@dataclass(eq=False, slots=True)
class Foreign(Node):
    """An item over a kind of field that the local engine does not have: parsed, and refused when it is executed."""

    operator: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(eq=False, slots=True)
class SameElement(Node):
    """All items in one element of ``field``."""

    field: str
    items: list[Node]

    def parts(self) -> list[Node]:
        """The conditions on the element."""
        return self.items

    def __str__(self) -> str:
        return f"{self.field}:{{{' '.join(nested(item) for item in self.items)}}}"


@dataclass(eq=False, slots=True)
class NearestNeighbor(Node):
    """The ``target_hits`` documents whose ``field`` is nearest to ``query(tensor)``."""

    field: str
    tensor: str
    target_hits: int = 0
    total_target_hits: int = 0
    approximate: bool = True
    distance_threshold: float | None = None
    label: str = ""
    explore_additional_hits: int = 0
    tuning: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        inside = f"field={self.field},queryTensorName={self.tensor}"
        if self.explore_additional_hits:
            inside += f",hnsw.exploreAdditionalHits={self.explore_additional_hits}"
        if self.distance_threshold is not None:
            inside += f",distanceThreshold={self.distance_threshold}"
        if not self.approximate:
            inside += ",approximate=false"
        if self.target_hits:
            inside += f",targetHits={self.target_hits}"
        if self.total_target_hits:
            inside += f",totalTargetHits={self.total_target_hits}"
        return f"NEAREST_NEIGHBOR {{{inside}{''.join(f',{k}={v}' for k, v in self.tuning.items())}}}"
