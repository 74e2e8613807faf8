"""Queries: YQL and the simple syntax, matching, ranking phases, and the search API."""

from __future__ import annotations

from clipsearch.engine.query.handler import SearchHandler, SearchState

__all__ = ["SearchHandler", "SearchState"]
