"""A search request's parameters: GET query or POST JSON, over the query profile's values.

JSON objects are flattened by dots, as Vespa's ``Json2SingleLevelMap`` does, except the values of ``input.*`` and
``ranking.features.*``. Aliases become full names. Parameters that would change an answer and are not supported are
refused by name; unknown ones are kept, because YQL may refer to them by ``@name``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from clipsearch.engine.http.messages import Request
from clipsearch.engine.package.model import ApplicationPackage
from clipsearch.errors import QueryError

ALIASES = {
    "query": "model.queryString", "type": "model.type",
    "default-index": "model.defaultIndex", "defaultIndex": "model.defaultIndex",
    "language": "model.language", "lang": "model.language", "locale": "model.locale",
    "sources": "model.sources", "search": "model.sources", "restrict": "model.restrict",
    "count": "hits", "start": "offset", "ranking": "ranking.profile", "sorting": "ranking.sorting",
    "sortspec": "ranking.sorting", "summary": "presentation.summary", "format": "presentation.format",
    "timing": "presentation.timing", "format.tensors": "presentation.format.tensors",
    "filter": "model.filter", "searchpath": "model.searchPath", "trace.level": "tracelevel",
    "traceLevel": "tracelevel", "rankfeatures": "ranking.listFeatures", "datetime": "ranking.freshness",
    "location": "ranking.location",
}  # fmt: skip
REFUSED = (
    "recall", "select.where", "select.grouping", "model.searchPath", "model.type.isYqlDefault", "model.type.profile",
    "collapsefield",
    "ranking.matching.termwiseLimit", "ranking.matchPhase.attribute", "ranking.matchPhase.maxHits",
    "weakAnd.replace", "wand.hits", "pos.ll", "pos.radius", "pos.bb", "streaming.selection", "ranking.location",
    "ranking.keepRankCount", "ranking.totalKeepRankCount", "ranking.rankScoreDropLimit",
    "ranking.secondPhase.totalRerankCount", "ranking.secondPhase.rankScoreDropLimit",
    "ranking.globalPhase.rankScoreDropLimit", "hitcountestimate", "ranking.listFeatures", "ranking.freshness",
    "ranking.significance.useModel", "ranking.matching.filterThreshold", "ranking.matching.weakand.stopwordLimit",
    "ranking.matching.weakand.adjustTarget", "ranking.matching.weakand.allowDropAll",
    "timezone", "continue",
)  # fmt: skip
_UTC = ("utc", "gmt", "etc/utc")
_UNLIMITED = "grouping.globalMaxGroups"
SEARCH_CHAINS = ("default", "vespa", "native", "")
FORMATS = ("", "json", "default", "application/json")
_INPUT = re.compile(r"(?:input\.|ranking\.features\.|rankfeature\.)(query\(([^()]+)\))")
Values = dict[str, Any]


def read_parameters(request: Request, package: ApplicationPackage) -> Values:
    """All parameters of ``request`` by full name; query inputs under ``query(name)``.

    Raises ``QueryError``: malformed body, unknown query profile, or a parameter that is not supported.
    """
    given: Values = dict(request.query)
    if request.method == "POST" and request.body:
        given |= _body(request)
    profile = str(given.get("queryProfile", "default"))
    base = package.query_profiles.get(profile)
    if base is None and profile != "default":
        raise QueryError(f"Could not resolve query profile '{profile}'", code=3)
    values = {_full_name(name): value for name, value in (base or {}).items()}
    values |= {_full_name(name): value for name, value in given.items()}
    for name in REFUSED:
        if _is_asked(name, values.get(name)):
            raise QueryError(f"the query parameter '{name}' is not supported by the local engine", code=3)
    if _UNLIMITED in given:
        raise QueryError(f"'{_UNLIMITED}' in a request is not supported: Vespa reads it from a query profile", code=3)
    if text(values.get(_UNLIMITED, -1)).strip() != "-1":
        raise QueryError(f"'{_UNLIMITED}' other than -1 is not supported by the local engine", code=3)
    if values.get("searchChain", "default") not in SEARCH_CHAINS:
        raise QueryError(f"No search chain named '{values['searchChain']}' was found", code=4)
    if str(values.get("presentation.format", "")).lower() not in FORMATS:
        asked = values["presentation.format"]
        raise QueryError(f"No renderer '{asked}': not supported by the local engine, which renders JSON only", code=3)
    return values


def _is_asked(name: str, value: Any) -> bool:
    """Whether ``value`` asks for something: 0 does, an empty value and false do not."""
    if value is None or value is False:
        return False
    written = value.strip().lower() if isinstance(value, str) else None
    return written not in ("", "false") and not (name == "timezone" and written in _UTC)


class TextParameters(Mapping[str, str]):
    """Parameters as text, each made when it is asked for, by its full name or an alias."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def _name(self, name: object) -> Any:
        return name if name in self._values else ALIASES.get(str(name), name)

    def __getitem__(self, name: str) -> str:
        return text(self._values[self._name(name)])

    def __contains__(self, name: object) -> bool:
        return self._name(name) in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _full_name(name: str) -> str:
    found = _INPUT.fullmatch(name)
    return found[1] if found is not None else ALIASES.get(name, name)


def _body(request: Request) -> Values:
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        from urllib.parse import parse_qsl

        return dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
    try:
        decoded = orjson.loads(request.body)
    except orjson.JSONDecodeError as error:
        raise QueryError(f"Could not parse the request body as JSON: {error}", code=3) from error
    if not isinstance(decoded, dict):
        raise QueryError("the request body must be a JSON object", code=3)
    flat: Values = {}
    _flatten("", decoded, flat)
    return flat


def _flatten(prefix: str, value: Mapping[str, Any], flat: Values) -> None:
    for key, inner in value.items():
        name = prefix + key
        if isinstance(inner, dict) and not _INPUT.fullmatch(name):
            _flatten(f"{name}.", inner, flat)
        elif inner is not None:
            flat[name] = inner


def text(value: Any) -> str:
    """A parameter as text: JSON values as they would stand in a URL."""
    if isinstance(value, bool):
        return str(value).lower()
    return (
        value
        if isinstance(value, str)
        else str(value)
        if isinstance(value, (int, float))
        else orjson.dumps(value).decode()
    )


def integer(values: Values, name: str, default: int) -> int:
    """Parameter ``name`` as a whole number. Raises ``QueryError`` that names it."""
    value = values.get(name)
    if value is None or value == "":
        return default
    try:
        return int(text(value))
    except ValueError as error:
        raise QueryError(
            f"Could not set '{name}' to '{text(value)}': '{text(value)}' is not a valid integer", code=3
        ) from error


def truth(values: Values, name: str) -> bool:
    """Whether parameter ``name`` is set to true."""
    return text(values.get(name, "false")).lower() in ("true", "1")
