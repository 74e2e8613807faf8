"""GET and POST ``/search/``: a request to a response, by way of parameters, YQL, matching and ranking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from clipsearch.engine.http.messages import Request, Response, json_response
from clipsearch.engine.index.documents import DocumentReader
from clipsearch.engine.index.index import Index
from clipsearch.engine.package.model import ApplicationPackage, Schema
from clipsearch.engine.query.answer import Answer, error_json, error_root
from clipsearch.engine.query.clock import Clock, parse_timeout
from clipsearch.engine.query.execution import Task, execute
from clipsearch.engine.query.grouping import parse_groupings
from clipsearch.engine.query.inputs import read_inputs
from clipsearch.engine.query.page import (
    Page,
    chosen_schemas,
    read_order,
    read_page,
    read_properties,
    read_rerank_counts,
)
from clipsearch.engine.query.parameters import TextParameters, Values, integer, read_parameters, text, truth
from clipsearch.engine.query.query_types import requested_type
from clipsearch.engine.query.simple import Names, names_of, parse_filter, parse_user_input
from clipsearch.engine.query.tree import Options
from clipsearch.engine.query.where import Context
from clipsearch.engine.query.yql import Sort, Statement, parse_yql
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


class SearchHandler:
    """Answers searches over ``state``; safe to call from many threads."""

    def __init__(self, state: SearchState) -> None:
        self._state = state
        self._names: tuple[ServedApplication | None, Names] = (None, Names())

    def handle(self, request: Request) -> Response:
        """The response to a search request; every error is Vespa's error JSON."""
        clock = Clock()
        if request.method not in ("GET", "POST"):
            return _error(QueryError(f"'{request.method}' is not supported: use GET or POST", code=3, status=405))
        application = self._state.application
        if application is None:
            error = {"code": 10, "summary": "No backends in service", "message": "No application is deployed"}
            return json_response(503, {"root": error_root([error])})
        try:
            names = self._names_of(application)
            return json_response(200, _Search(application, self._state.store, request, names, clock).run())
        except QueryError as error:
            return _error(error)
        except ExpressionError as error:
            return _error(QueryError(str(error), code=3))
        except RecursionError:
            return _error(QueryError("Could not create query from YQL: the query is nested too deeply", code=4))
        except EngineError as error:
            return _error(QueryError(str(error), code=4))

    def _names_of(self, application: ServedApplication) -> Names:
        """What may be named in user input, kept until another application is deployed."""
        known, names = self._names
        if known is not application:
            names = names_of(application.package.schemas.values())
            self._names = application, names
        return names


def _error(error: QueryError) -> Response:
    return json_response(error.status, {"root": error_root([error_json(error)])})


class _Search:
    """One request under way."""

    def __init__(
        self, application: ServedApplication, store: DocumentReader, request: Request, names: Names, clock: Clock
    ) -> None:
        self.application, self.store, self.names, self.clock = application, store, names, clock
        self.package = application.package
        self.values: Values = read_parameters(request, self.package)

    def run(self) -> Json:
        """Searches and renders."""
        values, clock = self.values, self.clock
        clock.limit = parse_timeout(text(values.get("timeout", "")))
        with clock.step("parse"):
            statement = self._statement()
            if statement.timeout:
                written = statement.timeout
                written = TextParameters(values).get(written[1:], "") if written.startswith("@") else written
                clock.limit = (parse_timeout(written) or 0.0) / 1000  # in YQL it is in milliseconds
            page, order = read_page(values, statement), read_order(values, statement)
            schemas = chosen_schemas(values, statement, dict(self.package.schemas), self.package.content_cluster)
        found = [execute(self._task(schema, statement, page, order)) for schema in schemas]
        searched = clock.elapsed()
        clock.limit = None  # what was found is given
        with clock.step("summary"):
            result: Json = {"root": Answer(self.package, self.store, statement, page, order).root(found)}
        if truth(values, "presentation.timing"):
            done = clock.elapsed()
            result["timing"] = {"querytime": searched, "summaryfetchtime": done - searched, "searchtime": done}
        if integer(values, "tracelevel", 0) > 0:
            result["trace"] = clock.trace()
        return result

    def _statement(self) -> Statement:
        values = self.values
        language = text(values.get("model.language", values.get("model.locale", "en"))).lower()
        if not language.startswith("en"):
            raise QueryError(
                f"model.language '{language}' is not supported by the local engine: it stems English", code=3
            )
        context = Context(
            parameters=TextParameters(values),
            query_string=text(values.get("model.queryString", "")),
            query_type=requested_type(values),
            default_index=text(values.get("model.defaultIndex", "default")),
            names=self.names,
            filter=text(values.get("model.filter", "")),
        )
        select = text(values.get("select", ""))
        if select.lstrip().startswith("{"):
            raise QueryError("a query as JSON in 'select' is not supported by the local engine: write YQL", code=3)
        if select and "yql" in values:
            raise QueryError("Illegal query: Query contains both yql and select parameter", code=3)
        if "yql" in values:
            return parse_yql(text(values["yql"]), context)
        root = parse_user_input(
            context.query_string, context.query_type, context.default_index, Options(), None, context.names
        )
        if context.filter:
            root = parse_filter(root, context.filter, context.default_index, context.names)
        if root is None:
            raise QueryError("No query: neither 'yql' nor 'query' says what to search for", code=3)
        return Statement((), (), root, (), None, None, "", parse_groupings(f"|{select}"))

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

    def _task(self, schema: Schema, statement: Statement, page: Page, order: tuple[Sort, ...]) -> Task:
        program = self._program(schema)
        inputs = read_inputs(self.values, program.profile, self.package)
        if statement.root is None:
            raise QueryError("Could not create query from YQL: a where clause is missing")
        return Task(
            schema=schema,
            snapshot=self.application.indexes[schema.name].snapshot(),
            program=program,
            root=statement.root,
            inputs=inputs,
            properties={**program.profile.properties, **read_properties(self.values)},
            wanted=page.offset + page.hits,
            hits=page.hits,
            order=order,
            rerank_counts=read_rerank_counts(self.values),
            all_rows=bool(statement.groupings),
            clock=self.clock,
        )
