"""Which grammar reads a user query: how its words are combined, cut and marked up.

Source: Vespa's ``com.yahoo.search.query.QueryType`` and ``ParserFactory``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from clipsearch.errors import QueryError

REFUSED_TYPES = {"yql": "yql", "prog": "programmatic", "programmatic": "programmatic", "select": "select"}
COMPOSITES = ("and", "or", "phrase", "weakAnd", "near", "oNear")
TOKENIZATIONS = ("internal", "linguistics")
SYNTAXES = ("advanced", "none", "simple", "web")
_COMPOSITES_OF = {"simple": ("and", "or", "phrase", "weakAnd"), "web": ("and", "weakAnd"), "advanced": ("and",)}
_REFUSED_SYNTAXES = ("json", "programmatic", "yql")


@dataclass(frozen=True, slots=True)
class QueryType:
    """``composite``: what words are collected in; ``syntax`` may also be raw or segment, which parse nothing."""

    composite: str
    tokenization: str
    syntax: str


TYPES = {
    "any": QueryType("or", "internal", "simple"),
    "all": QueryType("and", "internal", "simple"),
    "weakand": QueryType("weakAnd", "internal", "simple"),
    "web": QueryType("and", "internal", "web"),
    "phrase": QueryType("phrase", "internal", "none"),
    "tokenize": QueryType("weakAnd", "internal", "none"),
    "linguistics": QueryType("weakAnd", "linguistics", "none"),
    "raw": QueryType("weakAnd", "linguistics", "raw"),
    "segment": QueryType("weakAnd", "linguistics", "segment"),
    "near": QueryType("near", "internal", "none"),
    "onear": QueryType("oNear", "internal", "none"),
    "adv": QueryType("and", "internal", "advanced"),
    "advanced": QueryType("and", "internal", "advanced"),
}


Written = str | tuple[str, ...]
"""A type as it is asked for: its name, or name, composite, tokenization and syntax ("": as the name says)."""


def requested_type(values: Mapping[str, Any]) -> Written:
    """What the parameters ``model.type.*`` of a request say, as ``query_type`` reads it."""
    composite, tokenization = values.get("model.type.composite", ""), values.get("model.type.tokenization", "")
    parts = (composite, tokenization, values.get("model.type.syntax", ""))
    return (str(values.get("model.type", "weakAnd")), *map(str, parts))


@lru_cache(maxsize=256)
def query_type(written: Written) -> QueryType:
    """The type that is asked for; an empty part keeps what the name says.

    Raises ``QueryError`` for a name or part that is unknown, and naming what is not supported.
    """
    name, *parts = (written,) if isinstance(written, str) else written
    folded = name.lower()
    if folded in REFUSED_TYPES:
        raise QueryError(f"the query grammar '{REFUSED_TYPES[folded]}' is not supported by the local engine")
    if folded not in TYPES:
        raise QueryError(f"No query type '{name}': expected one of {', '.join(TYPES)}")
    base = TYPES[folded]
    composite, tokenization, syntax = (*parts, "", "", "")[:3]
    if syntax in _REFUSED_SYNTAXES:
        raise QueryError(f"grammar.syntax '{syntax}' is not supported by the local engine")
    for what, value, known in (
        ("composite", composite, COMPOSITES),
        ("tokenization", tokenization, TOKENIZATIONS),
        ("syntax", syntax, SYNTAXES),
    ):
        if value and value not in known:
            raise QueryError(f"grammar.{what}: '{value}' is none of {', '.join(known)}")
    if base.syntax in ("raw", "segment"):
        return base
    found = QueryType(composite or base.composite, tokenization or base.tokenization, syntax or base.syntax)
    if found.tokenization == "linguistics" and found.syntax != "none":
        raise QueryError("Linguistics tokenization can only be combined with syntax none")
    if found.composite not in _COMPOSITES_OF.get(found.syntax, COMPOSITES):
        raise QueryError(
            f"grammar.composite '{found.composite}' with syntax '{found.syntax}' is not supported by the local engine"
        )
    return found
