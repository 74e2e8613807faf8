"""The search client: requests (the only YQL), transport over pyvespa, results as plain records."""

from __future__ import annotations

from clipsearch.search.client import SearchClient
from clipsearch.search.encoders import Encoder, QueryEncoder
from clipsearch.search.endpoint import DEFAULT_URL
from clipsearch.search.query import (
    NO_FILTERS,
    PROFILES,
    Filters,
    by_profile,
    hybrid,
    lexical,
    vector,
)

__all__ = [
    "DEFAULT_URL",
    "NO_FILTERS",
    "PROFILES",
    "Encoder",
    "Filters",
    "QueryEncoder",
    "SearchClient",
    "by_profile",
    "hybrid",
    "lexical",
    "vector",
]
