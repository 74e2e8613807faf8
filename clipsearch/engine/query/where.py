"""The ``where`` clause of a parsed YQL statement to a query tree.

Annotations hold for everything inside the expression that they stand before, the nearest one winning, as in Vespa's
``YqlParser``. Words are cut into tokens here but stemmed only when they are looked up.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lark import Tree

from clipsearch.engine.index import linguistics
from clipsearch.engine.query import tree as q
from clipsearch.engine.query.annotations import REFUSED as _REFUSED_ANNOTATIONS
from clipsearch.engine.query.annotations import TUNING as _TUNING
from clipsearch.engine.query.annotations import annotation_map, check_origin, document_frequency, origin_text
from clipsearch.engine.query.foreign import geo_bounding_box, geo_location, predicate, word_alternatives
from clipsearch.engine.query.literals import Numeral, constant, is_integer, node_text, number_text, one_of
from clipsearch.engine.query.parameter_lists import parameter_list, parameter_weights
from clipsearch.engine.query.query_types import Written
from clipsearch.engine.query.simple import Names, parse_filter, parse_user_input
from clipsearch.errors import QueryError

Ast = Tree[Any]
_REFUSED_CALLS = ("uri",)
_GRAMMAR = ("composite", "tokenization", "syntax")
_UNPARSED = ("raw", "segment")
_FIELD = "\0"  # stands for a field's name in what is shown of a phrase
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "="}


@dataclass(frozen=True, slots=True)
class Context:
    """What a query's text refers to: its parameters and ``model.*`` settings."""

    parameters: Mapping[str, str] = field(default_factory=dict)
    query_string: str = ""
    query_type: Written = "weakAnd"
    default_index: str = "default"
    names: Names | None = None
    filter: str = ""


def build_where(where: Ast, context: Context) -> q.Node:
    """The query tree of ``where``. Raises ``QueryError`` naming what is wrong or not supported."""
    if context.filter and not any(call.children[0] == "userQuery" for call in where.find_data("call")):
        raise QueryError("model.filter without userQuery() is not supported by the local engine")
    builder = _Builder(context)
    found = builder.expression(where)
    builder.check_connections()
    return found


def _arguments(call: Ast) -> list[Ast]:
    return [child for child in call.children[1:] if child is not None]


class _Builder:
    """Builds one tree; ``_stack`` holds the annotations of the expressions around."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.parameters = context.parameters
        self._stack: list[dict[str, Any]] = []
        self._in_element = False
        self._ids: set[int] = set()
        self._connected: list[tuple[str, int]] = []
        self._calls: dict[str, Callable[[Ast], q.Node]] = {
            "nearestNeighbor": self._nearest_neighbor,
            "userInput": self._user_input,
            "userQuery": self._user_query,
            "rank": lambda call: q.Rank([self.expression(a) for a in _arguments(call)]),
            "weakAnd": self._weak_and,
            "range": self._range,
            "labeled": self._labeled,
            "nonEmpty": self._non_empty,
            "predicate": lambda call: predicate(_arguments(call), self.parameters),
            "geoLocation": lambda call: geo_location(_arguments(call), self.parameters),
            "geoBoundingBox": lambda call: geo_bounding_box(_arguments(call), self.parameters),
            "weightedSet": lambda call: self._weighted(call, "WEIGHTEDSET"),
            "dotProduct": lambda call: self._weighted(call, "DOTPRODUCT"),
            "wand": lambda call: self._weighted(call, "WAND"),
        }

    def annotation(self, name: str, default: Any = None) -> Any:
        """The nearest annotation ``name`` around the expression that is being built."""
        for around in reversed(self._stack):
            if name in around:
                return around[name]
        return default

    def _annotated(self, node: Ast, build: Callable[[Ast], Any]) -> Any:
        annotations = annotation_map(node, self.parameters)
        for name in _REFUSED_ANNOTATIONS:
            if name in annotations:
                raise QueryError(f"the annotation '{name}' is not supported by the local engine")
        self._stack.append(annotations)
        try:
            built = build(node.children[1])
        finally:
            self._stack.pop()
        self._connect(annotations, built)
        if isinstance(built, q.Node) and isinstance(annotations.get("annotations"), dict):
            built.annotations |= annotations["annotations"]
        return built

    def _connect(self, annotations: dict[str, Any], built: Any) -> None:
        """Keeps what is said of a term's neighbour: no supported feature reads it, but the neighbour must exist."""
        if "id" in annotations:
            self._ids.add(int(annotations["id"]))
        connection = annotations.get("connectivity")
        if connection is not None:
            if "id" not in connection or "weight" not in connection:
                raise QueryError("Map annotation 'connectivity' must contain entries with the keys 'id' and 'weight'.")
            float(connection["weight"])
            self._connected.append((str(built), int(connection["id"])))

    def check_connections(self) -> None:
        """Raises ``QueryError`` for a term that is connected to one that is not there."""
        for shown, number in self._connected:
            if number not in self._ids:
                said = f"Item '{shown}' was specified to connect to item with ID {number}"
                raise QueryError(f"{said}, which does not exist in the query.")

    def expression(self, node: Ast) -> q.Node:
        """Any expression that matches documents."""
        kind = node.data
        if kind == "annotated":
            built: q.Node = self._annotated(node, self.expression)
            return built
        if kind == "disjunction":
            return q.Or([self.expression(child) for child in node.children])
        if kind == "conjunction":
            return self._conjunction(node)
        if kind == "negation":
            return q.Not(None, [self.expression(node.children[0])])
        if kind == "binary":
            return self._binary(node)
        if kind == "member":
            return self._member(node)
        if kind == "no_member":
            expected = "AND, OR, EQ, LT, GT, LTEQ, GTEQ, CONTAINS, MATCHES, CALL, LITERAL, NOT or IN"
            raise QueryError(f"Expected {expected}, got NOT_IN.")
        if kind == "boolean":
            return q.Constant(bool(constant(node, self.parameters)))
        if kind == "call":
            return self._call(node)
        if self._in_element and kind in ("string", "parameter"):
            return self._word("", node)
        raise QueryError(f"expected a condition such as field contains 'word', but got '{node_text(node)}'")

    def _call(self, node: Ast) -> q.Node:
        name = str(node.children[0])
        if name not in self._calls:
            if self._in_element:  # of an array of strings: near('a', 'b') without a field
                return self._contains("", node)
            if name in _REFUSED_CALLS:
                raise QueryError(f"'{name}' is not supported by the local engine")
            raise QueryError(f"No such function: '{name}'")
        return self._calls[name](node)

    def _conjunction(self, node: Ast) -> q.Node:
        positives: list[q.Node] = []
        negatives: list[q.Node] = []
        for child in node.children:
            if child.data == "negation":
                negatives.append(self.expression(child.children[0]))
            else:
                positives.append(self.expression(child))
        positive = None if not positives else positives[0] if len(positives) == 1 else q.And(positives)
        if negatives:
            return q.Not(positive, negatives)
        assert positive is not None
        return positive

    def _binary(self, node: Ast) -> q.Node:
        left, token, right = node.children
        operator = str(token).lower()
        if operator == "contains":
            return self._contains(self._field(left), right)
        if operator == "matches":
            return q.Regex(self._field(left), self._string(right), self._options())
        if operator not in _FLIPPED:
            raise QueryError(f"the operator '{token}' is not supported: use !(field = value) or matches")
        if left.data != "name":
            left, operator, right = right, _FLIPPED[operator], left
        return self._compare(self._field(left), operator, right)

    def _field(self, node: Ast) -> str:
        if node.data == "name":
            return str(node.children[0])
        raise QueryError("expected a field name on one side of the comparison")

    def _compare(self, name: str, operator: str, node: Ast) -> q.Node:
        if node.data == "annotated":
            compared: q.Node = self._annotated(node, lambda inner: self._compare(name, operator, inner))
            return compared
        value = constant(node, self.parameters)
        options = self._options()
        if operator == "=" and value in ("true", "false"):
            value = value == "true"
        if operator == "=" and name.endswith("]") and type(value) is str:
            return q.Word(name, value, options=options)
        if isinstance(value, bool):
            if operator != "=":
                raise QueryError(f"'{name}': a boolean can only be compared by =")
            return q.Boolean(name, value, options=options)
        text = number_text(name, value)
        limit = self._hit_limit()
        if operator == "=":
            return q.Number(name, text, text, options=options)
        if operator.startswith(">"):
            return q.Number(name, text, "", operator == ">=", True, limit, options=options)
        return q.Number(name, "", text, True, operator == "<=", limit, options=options)

    def _hit_limit(self) -> int:
        limit = int(self.annotation("hitLimit", 0))
        if limit and None not in (self.annotation("ascending"), self.annotation("descending")):
            raise QueryError("Settings for both ascending and descending ordering set, only one of these expected.")
        if limit and (self.annotation("descending") is True or self.annotation("ascending") is False):
            return -abs(limit)
        return limit

    def _range(self, call: Ast) -> q.Node:
        arguments = _arguments(call)
        if len(arguments) != 3:
            raise QueryError(f"range: Expected 3 arguments, got {len(arguments)}.")
        name = self._field(arguments[0])
        low, high = (constant(a, self.parameters) for a in arguments[1:])
        for bound in (low, high):
            if not isinstance(bound, Numeral) and bound not in ("Infinity", "-Infinity"):
                raise QueryError(f"Expected a numerical argument (or 'Infinity') to range but got '{bound}'")
        low, high = number_text(name, low), number_text(name, high)
        bounds = self.annotation("bounds", "closed")
        if bounds not in ("closed", "open", "leftOpen", "rightOpen"):
            raise QueryError(f"range: the bounds '{bounds}' are none of open, leftOpen and rightOpen")
        left, right = bounds not in ("open", "leftOpen"), bounds not in ("open", "rightOpen")
        return q.Number(name, low, high, left, right, self._hit_limit(), options=self._options())

    def _member(self, node: Ast) -> q.Node:
        name = self._field(node.children[0])
        values: list[Any] = []
        for child in node.children[1:]:
            if child is None:
                continue
            if child.data == "name":
                raise QueryError("in: Expected LITERAL or VARREF, got READ_FIELD.")
            value = constant(child, self.parameters)
            if child.data == "parameter":
                values += parameter_list(value)
            else:
                if not isinstance(value, str) or (isinstance(value, Numeral) and not is_integer(value)):
                    raise QueryError(f"in: '{value}' has another type than expected: an integer or a string")
                values.append(int(value) if isinstance(value, Numeral) else value)
        return q.In(name, values, options=self._options())

    def _contains(self, name: str, node: Ast) -> q.Node:
        if node.data == "annotated":
            built: q.Node = self._annotated(node, lambda inner: self._contains(name, inner))
            return built
        if node.data != "call":
            return self._word(name, node)
        function, arguments = str(node.children[0]), _arguments(node)
        if function == "phrase":
            return self._phrase(name, arguments)
        if function in ("near", "onear"):
            return self._near(name, arguments, function == "onear")
        if function == "equiv":
            if len(arguments) < 2:
                raise QueryError(f"Expected 2 or more arguments, got {len(arguments)}.")
            return q.Equiv([self._contains(name, one_of(argument, "equiv", "phrase")) for argument in arguments])
        if function == "sameElement":
            outer, self._in_element = self._in_element, True
            try:
                return q.SameElement(name, [self.expression(argument) for argument in arguments])
            finally:
                self._in_element = outer
        if function == "fuzzy":
            return self._fuzzy(name, arguments)
        if function == "text":
            return self._text(node, name, "linguistics")
        if function == "alternatives":
            return word_alternatives(name, arguments, self.parameters)
        raise QueryError(f"'contains {function}(...)' is not supported by the local engine")

    def _fuzzy(self, name: str, arguments: list[Ast]) -> q.Node:
        if len(arguments) != 1:
            raise QueryError(f"fuzzy: Expected 1 argument, got {len(arguments)}.")
        return q.Fuzzy(
            name,
            self._string(arguments[0]),
            int(self.annotation("maxEditDistance", 2)),
            int(self.annotation("prefixLength", 0)),
            self.annotation("prefix") is True,
            options=self._options(),
        )

    def _text(self, call: Ast, index: str, grammar: str) -> q.Node:
        """The tree of a user's text (``userInput`` and ``contains text``), ``grammar`` unless annotations say else."""
        arguments = _arguments(call)
        if not arguments:
            raise QueryError(f"{call.children[0]}: Expected 1 argument, got 0.")
        text, empty = self._string(arguments[0]), self.annotation("allowEmpty") is True
        if not text and empty:
            return q.Constant(False)
        name = str(self.annotation("grammar", grammar))
        written = (name, *(str(self.annotation(f"grammar.{part}", "")) for part in _GRAMMAR))
        extra = {name: self.annotation(name) for name in ("distance", "targetHits", "totalTargetHits")}
        options = self._options() if name in _UNPARSED else self._propagated()
        found = parse_user_input(text, written, index, options, extra, self.context.names)
        if found is None and not empty:
            raise QueryError(f"Parsing '{text}' only resulted in NullItem.")
        return q.Constant(False) if found is None else found

    def _non_empty(self, call: Ast) -> q.Node:
        arguments = _arguments(call)
        if len(arguments) != 1:
            raise QueryError(f"nonEmpty: Expected 1 argument, got {len(arguments)}.")
        found = self.expression(arguments[0])
        if any(_is_empty(part) for part in found.walk()):
            raise QueryError("nonEmpty: the expression is empty")
        return found

    def _string(self, node: Ast) -> str:
        """``node`` as text: a quoted string or a parameter, nothing else."""
        if node.data not in ("string", "parameter"):
            raise QueryError(f"expected a string such as 'word' or a @parameter, got another type: '{node_text(node)}'")
        return str(constant(node, self.parameters))

    def _word(self, name: str, node: Ast) -> q.Node:
        value = self._string(node)
        if self.annotation("nfkc") is True:
            value = unicodedata.normalize("NFKC", value)
        options = self._options()
        prefix, suffix = self.annotation("prefix") is True, self.annotation("suffix") is True
        substring = self.annotation("substring") is True
        if prefix + suffix + substring > 1:
            raise QueryError("Only one of prefix, substring and suffix can be set.")
        if prefix or suffix or substring or not self.annotation("implicitTransforms", True):
            return q.Word(name, value, prefix or substring, suffix or substring, options=options)
        if self.annotation("grammar") == "raw":
            return q.Word(name, value, options=options)
        check_origin(self.annotation("origin"), value)
        pieces = linguistics.split(value)
        if len(pieces) > 1:
            return q.Phrase(name, pieces, value, True, options=options)
        return q.Word(name, value, options=options, shown="".join(pieces))

    def _phrase(self, name: str, arguments: list[Ast]) -> q.Node:
        origin = self._stack[-1].get("origin") if self._stack else None
        parts = [self._phrase_words(argument) for argument in arguments]
        shown = " ".join(text for _, text in parts)
        words = self._segmented(origin, [word for part, _ in parts for word in part])
        foreign = next((word for word in words if isinstance(word, q.Foreign)), None)
        if foreign is not None:
            return q.Foreign(foreign.operator, f'{name}:"{shown.replace(_FIELD, name)}"')
        if origin is None:
            return q.Phrase(name, words, shown=shown, options=self._options())
        return q.Phrase(name, words, origin_text(origin), True, options=self._options())

    def _segmented(self, origin: Any, words: list[Any]) -> list[Any]:
        """The words of a phrase: of what the user wrote, where ``origin`` says so."""
        if origin is None:
            return words
        if any(isinstance(word, q.Foreign) for word in words):
            raise QueryError("'alternatives' in a phrase with the annotation 'origin' is not supported")
        raw = origin_text(origin)
        return (linguistics.split(raw) if self.annotation("implicitTransforms", True) else []) or words

    def _phrase_words(self, node: Ast) -> tuple[list[Any], str]:
        """The words of one argument of a phrase, and how Vespa prints them."""
        if node.data == "annotated":
            found: tuple[list[Any], str] = self._annotated(node, self._phrase_words)
            if node.children[1].data != "call":
                check_origin(annotation_map(node, self.parameters).get("origin"), self._string(node.children[1]))
            return found
        if node.data == "call":
            if node.children[0] == "alternatives":
                alternatives = word_alternatives(_FIELD, _arguments(node), self.parameters)
                return [alternatives], str(alternatives)
            if node.children[0] != "phrase":
                raise QueryError(f"Expected phrase or word alternatives, got {node.children[0]}")
            parts = [self._phrase_words(argument) for argument in _arguments(node)]
            origin = self._stack[-1].get("origin") if self._stack else None
            words = self._segmented(origin, [word for part, _ in parts for word in part])
            return words, " ".join(text for _, text in parts) if origin is None else f"'{' '.join(words)}'"
        value = self._string(node)
        words = linguistics.split(value) or [value]
        return words, " ".join(words)

    def _near(self, name: str, arguments: list[Ast], ordered: bool) -> q.Node:
        operator = "ONEAR" if ordered else "NEAR"
        signs = [argument.data == "negation" for argument in arguments]
        if signs and signs[0]:
            raise QueryError(f"Must have some positive term before negative terms in {operator}")
        if sorted(signs) != signs:
            raise QueryError(f"Positive terms must come before negative terms in {operator}")
        inside = [argument.children[0] if argument.data == "negation" else argument for argument in arguments]
        terms = [self._contains(name, one_of(a, "near", "equiv", "phrase", "alternatives")) for a in inside]
        distance = int(self.annotation("distance", 2))
        exclusion = int(self.annotation("exclusionDistance", (distance + 1) // 2))
        near = q.Near(terms, distance, ordered, sum(signs), exclusion)
        foreign = next((term for term in terms if isinstance(term, q.Foreign)), None)
        return near if foreign is None else q.Foreign(foreign.operator, str(near))

    def _propagated(self) -> q.Options:
        """The annotations that reach each word of a user's text (``AnnotationPropagator``)."""
        own = self._options()
        return q.Options(ranked=own.ranked, filter=own.filter, stem=own.stem, language=own.language)

    def _options(self) -> q.Options:
        significance, frequency = self.annotation("significance"), self.annotation("documentFrequency")
        filtered = self.annotation("filter") is True
        return q.Options(
            ranked=self.annotation("ranked", True) is not False and not filtered,
            filter=filtered,
            weight=int(self.annotation("weight", 100)),
            significance=None if significance is None else float(significance),
            stem=self.annotation("stem", True) is not False,
            label=str(self.annotation("label", "")),
            language=str(self.annotation("language", "en")).lower(),
            frequency=None if frequency is None else document_frequency(frequency),
        )

    def _nearest_neighbor(self, call: Ast) -> q.Node:
        arguments = _arguments(call)
        if len(arguments) != 2:
            raise QueryError(f"nearestNeighbor: Expected 2 arguments, got {len(arguments)}.")
        threshold = self.annotation("distanceThreshold")
        return q.NearestNeighbor(
            field=self._field(arguments[0]),
            tensor=self._field(arguments[1]),
            target_hits=int(self.annotation("targetHits", self.annotation("targetNumHits", 0))),
            total_target_hits=int(self.annotation("totalTargetHits", 0)),
            approximate=self.annotation("approximate", True) is not False,
            distance_threshold=None if threshold is None else float(threshold),
            label=str(self.annotation("label", "")),
            explore_additional_hits=int(self.annotation("hnsw.exploreAdditionalHits", 0)),
            tuning={name: float(self.annotation(name)) for name in _TUNING if self.annotation(name) is not None},
        )

    def _weak_and(self, call: Ast) -> q.Node:
        items = [self.expression(argument) for argument in _arguments(call)]
        return q.WeakAnd(items, int(self.annotation("targetHits", 0)), int(self.annotation("totalTargetHits", 0)))

    def _labeled(self, call: Ast) -> q.Node:
        arguments = _arguments(call)
        if len(arguments) != 3:
            raise QueryError(f"Expected 3 arguments, got {len(arguments)}.")
        label, score = (constant(argument, self.parameters) for argument in arguments[1:])
        return q.Labeled(self.expression(arguments[0]), str(label), float(score))

    def _weighted(self, call: Ast, operator: str) -> q.Node:
        arguments = _arguments(call)
        if len(arguments) != 2:
            raise QueryError(f"Expected 2 arguments, got {len(arguments)}.")
        tokens = constant(arguments[1], self.parameters)
        if arguments[1].data == "parameter":
            tokens = parameter_weights(tokens)
        if isinstance(tokens, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in tokens):
            tokens = {str(int(token)): weight for token, weight in tokens}  # numbers, as [[11, 1], [37, 2]]
        if not isinstance(tokens, dict):
            raise QueryError(f"{operator}: Expected ARRAY or MAP, got LITERAL.")
        weights = {token: int(weight) for token, weight in tokens.items()}
        return q.WeightedTokens(
            self._field(arguments[0]),
            operator,
            weights,
            target_hits=int(self.annotation("targetHits", self.annotation("targetNumHits", 10))),
            score_threshold=float(self.annotation("scoreThreshold", 0.0)),
            options=self._options(),
        )

    def _user_input(self, call: Ast) -> q.Node:
        index = "" if self._in_element else "default"
        return self._text(call, str(self.annotation("defaultIndex", index)), "weakAnd")

    def _user_query(self, call: Ast) -> q.Node:
        text, grammar, names = self.context.query_string, self.context.query_type, self.context.names
        # The request's own query, parsed before: annotations around it do not reach it (Vespa's fetchUserQuery).
        found = parse_user_input(text, grammar, self.context.default_index, q.Options(), None, names)
        if self.context.filter:
            found = parse_filter(found, self.context.filter, self.context.default_index, self.context.names)
        return q.Constant(False) if found is None else found


def _is_empty(node: q.Node) -> bool:
    if isinstance(node, q.Constant):
        return not node.value
    return (isinstance(node, q.Word) and not node.text) or (isinstance(node, q.Phrase) and not node.words)
