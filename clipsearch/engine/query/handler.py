"""GET and POST ``/search/``: a request to a response, by way of parameters, YQL, matching and ranking."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from clipsearch.engine.http.messages import Request, Response, json_response
from clipsearch.engine.index.documents import DocumentReader
from clipsearch.engine.index.index import Index
from clipsearch.engine.package.model import ApplicationPackage, RankProfile, Schema
from clipsearch.engine.query import rendering
from clipsearch.engine.query.features import Batch, QueryFeatures
from clipsearch.engine.query.matching import Matcher
from clipsearch.engine.query.parameters import Values, check_timeout, integer, read_parameters, text, truth
from clipsearch.engine.query.phases import Ranked, rank, sort
from clipsearch.engine.query.simple import Names, parse_user_input
from clipsearch.engine.query.tree import Options
from clipsearch.engine.query.where import Context
from clipsearch.engine.query.yql import Sort, Statement, parse_yql
from clipsearch.engine.tensors import parse_query_input
from clipsearch.engine.tensors.encode import FORMS
from clipsearch.engine.tensors.types import TensorType
from clipsearch.engine.tensors.value import Tensor
from clipsearch.errors import EngineError, ExpressionError, QueryError

if TYPE_CHECKING:
    from clipsearch.engine.ranking import RankProgram

Json = dict[str, Any]


class ServedApplication(Protocol):
    """One deployed application, replaced as a whole by a redeploy."""

    @property
    def package(self) -> ApplicationPackage:
        """The application package."""
        ...

    @property
    def indexes(self) -> Mapping[str, Index]:
        """The index of each schema."""
        ...

    @property
    def programs(self) -> Mapping[str, Mapping[str, RankProgram]]:
        """The compiled rank profiles of each schema."""
        ...


class SearchState(Protocol):
    """What a search needs of the engine."""

    @property
    def application(self) -> ServedApplication | None:
        """The deployed application, None before the first deploy."""
        ...

    @property
    def store(self) -> DocumentReader:
        """Where the fields of hits are read."""
        ...


@dataclass(frozen=True, slots=True)
class _Page:
    """What of the result is asked for."""

    hits: int
    offset: int
    summary: str
    form: str


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """One schema's share of the result."""

    schema: Schema
    program: RankProgram
    matcher: Matcher
    features: QueryFeatures
    rows: Any
    ranked: Ranked


class SearchHandler:
    """Answers searches over ``state``; safe to call from many threads."""

    def __init__(self, state: SearchState) -> None:
        self._state = state

    def handle(self, request: Request) -> Response:
        """The response to a search request; every error is Vespa's error JSON."""
        started = time.perf_counter()
        if request.method not in ("GET", "POST"):
            return _error(QueryError(f"'{request.method}' is not supported: use GET or POST", code=3, status=405))
        application = self._state.application
        if application is None:
            return json_response(
                503, {"root": _root([_error_json(10, "No backends in service", "No application is deployed")])}
            )
        try:
            return _Search(application, self._state.store, request).run(started)
        except QueryError as error:
            return _error(error)
        except ExpressionError as error:
            return _error(QueryError(str(error), code=3))
        except RecursionError:
            return _error(QueryError("Could not create query from YQL: the query is nested too deeply", code=4))
        except EngineError as error:
            return _error(QueryError(str(error), code=4))


def _root(errors: list[Json]) -> Json:
    return {"id": "toplevel", "relevance": 1.0, "fields": {"totalCount": 0}, "errors": errors}


def _error_json(code: int, summary: str, message: str) -> Json:
    return {"code": code, "summary": summary, "message": message}


def _error(error: QueryError) -> Response:
    return json_response(error.status, {"root": _root([_error_json(error.code, error.summary, str(error))])})


class _Search:
    """One request under way."""

    def __init__(self, application: ServedApplication, store: DocumentReader, request: Request) -> None:
        self.application, self.store = application, store
        self.package = application.package
        self.values: Values = read_parameters(request, self.package)

    def run(self, started: float) -> Response:
        """Searches and renders."""
        statement = self._statement()
        page = self._page(statement)
        schemas = self._schemas(statement)
        order = statement.order or _sorting(text(self.values.get("ranking.sorting", "")))
        if order and len(schemas) > 1:
            raise QueryError("sorting hits of several document types is not supported by the local engine", code=3)
        found = [self._search(schema, statement, page, order) for schema in schemas]
        searched = time.perf_counter()
        root = self._render(found, statement, page)
        result: Json = {"root": root}
        if truth(self.values, "presentation.timing"):
            done = time.perf_counter()
            result["timing"] = {
                "querytime": searched - started,
                "summaryfetchtime": done - searched,
                "searchtime": done - started,
            }
        return json_response(200, result)

    def _context(self) -> Context:
        values = self.values
        return Context(
            parameters={name: text(value) for name, value in values.items()},
            query_string=text(values.get("model.queryString", "")),
            query_type=text(values.get("model.type", "weakAnd")),
            default_index=text(values.get("model.defaultIndex", "default")),
            names=_names(self.package),
        )

    def _statement(self) -> Statement:
        language = text(self.values.get("model.language", self.values.get("model.locale", "en"))).lower()
        if not language.startswith("en"):
            raise QueryError(
                f"model.language '{language}' is not supported by the local engine: it stems English", code=3
            )
        context = self._context()
        if "yql" in self.values:
            return parse_yql(text(self.values["yql"]), context)
        root = parse_user_input(
            context.query_string, context.query_type, context.default_index, Options(), None, context.names
        )
        if root is None:
            raise QueryError("No query: neither 'yql' nor 'query' says what to search for", code=3)
        return Statement((), (), root, (), None, None, "", ())

    def _page(self, statement: Statement) -> _Page:
        values = self.values
        check_timeout(text(values.get("timeout", "")))
        hits = integer(values, "hits", 10)
        offset = integer(values, "offset", 0)
        if statement.offset is not None:
            offset = statement.offset
        if statement.limit is not None:
            hits = statement.limit - (statement.offset or 0)  # YQL's limit counts from the first hit, as in Vespa
        for name, value, default in (("hits", hits, 400), ("offset", offset, 1000)):
            limit = integer(values, f"max{name.capitalize()}", default)
            in_yql = (statement.limit if name == "hits" else statement.offset) is not None
            if value > limit:
                shown = f"{value} hits requested, " if name == "hits" else f"offset of {value} requested, "
                raise QueryError(
                    f"{shown}configured limit: {limit}. See https://docs.vespa.ai/en/reference/query-api-reference.html",
                    code=4 if in_yql else 3,
                )
            if value < 0:
                raise QueryError(f"'{name}' must not be negative, but is {value}", code=3)
        form = text(values.get("presentation.format.tensors", "short"))
        if form not in FORMS:
            raise QueryError(f"Value '{form}' is not a tensor format: expected one of {', '.join(FORMS)}", code=3)
        return _Page(hits, offset, text(values.get("presentation.summary", "")) or "default", form)

    def _schemas(self, statement: Statement) -> list[Schema]:
        schemas, cluster = self.package.schemas, self.package.content_cluster
        asked = list(dict.fromkeys([*statement.sources, *_listed(self.values.get("model.sources"))]))
        for name in asked:
            if name not in schemas and name != cluster:
                valid = ", ".join([cluster, *schemas])
                raise QueryError(f"Could not resolve source ref '{name}'. Valid source refs are {valid}.", code=3)
        restricted = _listed(self.values.get("model.restrict"))
        for name in restricted:
            if name not in schemas:
                raise QueryError(f"model.restrict: there is no schema '{name}'", code=3)
        chosen = [name for name in asked if name in schemas]
        names = chosen if chosen and cluster not in asked else list(schemas)
        return [schemas[name] for name in names if not restricted or name in restricted]

    def _program(self, schema: Schema) -> RankProgram:
        name = text(self.values.get("ranking.profile", "default"))
        program = self.application.programs[schema.name].get(name)
        if program is None:
            if any(key.startswith("query(") for key in self.values):
                raise QueryError(
                    f"Invalid request: No profile named '{name}' exists in schemas [{schema.name}]", code=3
                )
            raise QueryError(f"schema '{schema.name}' does not contain requested rank profile '{name}'", code=4)
        return program

    def _inputs(self, profile: RankProfile) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, declared in profile.inputs.items():
            value = self.values.get(f"query({name})")
            if value is not None:
                try:
                    found[name] = parse_query_input(value, declared.type)
                except ExpressionError as error:
                    message = f"Could not set 'ranking.features.query({name})' to '{_shorten(text(value))}': {error}"
                    raise QueryError(message, code=4) from error
            elif declared.default:
                found[name] = parse_query_input(declared.default, declared.type)
        for key, value in self.values.items():
            if key.startswith("query(") and key[6:-1] not in profile.inputs:
                try:
                    found[key[6:-1]] = Tensor(TensorType(), np.asarray(float(text(value))))
                except ValueError as error:
                    message = f"Expected '{key}' to be a tensor, but it is a string. "
                    message += f"The rank profile '{profile.name}' does not declare this input"
                    raise QueryError(message, code=3) from error
        return found

    def _search(self, schema: Schema, statement: Statement, page: _Page, order: tuple[Sort, ...]) -> _Found:
        program = self._program(schema)
        snapshot = self.application.indexes[schema.name].snapshot()
        matcher = Matcher(schema, snapshot, self._inputs(program.profile))
        if statement.root is None:
            raise QueryError("Could not create query from YQL: a where clause is missing")
        rows = matcher.run(statement.root)
        features = QueryFeatures(matcher, {**program.profile.properties, **self._properties()})
        wanted = page.offset + page.hits
        if order:
            ranked = sort(features, program, rows, wanted, order)
        elif page.hits == 0 and program.profile.global_phase is None and not _drops(program.profile):
            nothing = np.empty(0)
            ranked = Ranked(np.empty(0, np.int64), nothing, nothing, len(rows))
        else:
            ranked = rank(features, program, rows, wanted, self._rerank_counts())
        return _Found(schema, program, matcher, features, rows, ranked)

    def _properties(self) -> dict[str, str]:
        """Rank properties that the request sets."""
        prefixes = ("ranking.properties.", "rankproperty.")
        return {
            name.removeprefix(prefix): text(value)
            for prefix in prefixes
            for name, value in self.values.items()
            if name.startswith(prefix)
        }

    def _rerank_counts(self) -> dict[str, int]:
        names = {"second": "ranking.rerankCount", "global": "ranking.globalPhase.rerankCount"}
        counts = {key: integer(self.values, name, 0) for key, name in names.items() if name in self.values}
        if any(count < 0 for count in counts.values()):
            raise QueryError("a rerank count must not be negative", code=3)
        return counts

    def _render(self, found: Sequence[_Found], statement: Statement, page: _Page) -> Json:
        documents = sum(part.matcher.snapshot.documents for part in found)
        root: Json = {
            "id": "toplevel",
            "relevance": 1.0,
            "fields": {"totalCount": sum(part.ranked.total for part in found)},
            "coverage": {
                "coverage": 100, "documents": documents, "full": True, "nodes": 1, "results": 1, "resultsFull": 1
            },
        }  # fmt: skip
        children: list[Json] = []
        if statement.groupings:
            matchers = [(part.matcher, part.rows) for part in found]
            lists = [rendering.group_list(grouping, matchers) for grouping in statement.groupings]
            children += [
                {"id": f"group:root:{place}", "relevance": 1.0, "continuation": {"this": ""}, "children": [group]}
                for place, group in enumerate(lists)
            ]
        hits, errors = self._hits(found, statement, page)
        children += hits
        if errors:
            root["errors"] = errors
        if children:
            root["children"] = children
        return root

    def _hits(self, found: Sequence[_Found], statement: Statement, page: _Page) -> tuple[list[Json], list[Json]]:
        merged = [(part, position) for part in found for position in range(len(part.ranked.rows))]
        if len(found) > 1:
            merged.sort(key=lambda item: -item[0].ranked.scores[item[1]])  # stable: schema order decides ties
        merged = merged[page.offset : page.offset + page.hits]
        errors: list[Json] = []
        rendered: dict[tuple[int, int], Json] = {}
        for part in found:
            positions = [position for owner, position in merged if owner is part]
            if positions:
                for position, hit in zip(positions, self._part(part, positions, statement, page, errors), strict=True):
                    rendered[id(part), position] = hit
        return [rendered[id(part), position] for part, position in merged], errors

    def _part(
        self, part: _Found, positions: list[int], statement: Statement, page: _Page, errors: list[Json]
    ) -> list[Json]:
        rows = part.ranked.rows[positions]
        scores = part.ranked.scores[positions]
        fields = rendering.summary_fields(part.schema, page.summary, statement.fields)
        if fields is None:
            errors.append(_error_json(4, "Invalid query parameter", f"Summary '{page.summary}' does not exist"))
            fields = {}
        lids = [int(lid) for lid in part.matcher.snapshot.lids[rows]]
        documents = self.store.read(part.schema.name, lids, rendering.stored_fields(fields))
        batch = Batch(part.features, rows, part.ranked.first_phase[positions])
        blocks = {}
        for name, values in (
            ("matchfeatures", part.program.match_values(batch, len(rows))),
            ("summaryfeatures", part.program.summary_values(batch, len(rows))),
        ):
            if (values and not statement.fields) or name in statement.fields:
                blocks[name] = values
        hits: list[Json] = []
        cluster = self.package.content_cluster
        for place, (document, score) in enumerate(zip(documents, scores, strict=True)):
            if document is None:  # removed since the search: Vespa gives such a hit without its fields
                shown_id = f"index:{cluster}/0/{lids[place]}"
                hits.append({"id": shown_id, "relevance": rendering.number(score), "source": cluster})
                continue
            hit = rendering.hit(document, part.schema, cluster, fields, float(score), page.form)
            shown = {name: rendering.features(values, place, page.form) for name, values in blocks.items()}
            hit["fields"] = {**shown, **hit["fields"]}
            if not hit["fields"]:
                del hit["fields"]
            hits.append(hit)
        return hits


def _names(package: ApplicationPackage) -> Names:
    """What ``name:`` may stand before a term of user input, over all schemas."""
    fields = [field for schema in package.schemas.values() for field in schema.fields.values()]
    searchable = {field.name for field in fields if field.attribute or field.index}
    fieldsets = {name for schema in package.schemas.values() for name in schema.fieldsets}
    exact = {field.name for field in fields if field.match == "exact"}
    return Names(frozenset(searchable | fieldsets), frozenset(exact))


def _drops(profile: RankProfile) -> bool:
    return any(p is not None and p.drop_limit is not None for p in (profile.first_phase, profile.second_phase))


def _listed(value: Any) -> list[str]:
    names = value if isinstance(value, list) else text(value or "").split(",")
    return [str(name).strip() for name in names if str(name).strip() not in ("", "*")]


def _sorting(specification: str) -> tuple[Sort, ...]:
    """``ranking.sorting``: ``-year +title``."""
    items = []
    for part in specification.split():
        if "(" in part:
            raise QueryError(f"the sort function in '{part}' is not supported by the local engine", code=3)
        items.append(Sort(part.lstrip("+-"), part.startswith("-")))
    return tuple(items)


def _shorten(shown: str) -> str:
    return shown if len(shown) <= 200 else f"{shown[:200]}..."
