"""A small served application for tests of the query room, without HTTP and without a store on disk."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from clipsearch.engine.http.messages import Request
from clipsearch.engine.index import FieldValue, Index, StoredDocument
from clipsearch.engine.package.model import (
    ApplicationPackage,
    Field,
    FieldType,
    Input,
    Phase,
    RankProfile,
    Schema,
    SummaryClass,
)
from clipsearch.engine.query import SearchHandler
from clipsearch.engine.query.where import Context
from clipsearch.engine.query.yql import parse_yql
from clipsearch.engine.ranking import RankProgram, compile_profile
from clipsearch.engine.tensors import parse_type

STRING = FieldType("string")
VECTOR = parse_type("tensor<bfloat16>(x[4])")


def parsed(where: str, parameters: Mapping[str, str]) -> str:
    """The tree of a condition, as Vespa prints it."""
    return str(parse_yql(f"select * from sources * where {where}", Context(parameters=parameters)).root)


def text_field(name: str, **options: Any) -> Field:
    """An array<string> index with bm25."""
    return Field(name, FieldType("array", STRING), index=True, summary=True, bm25=True, **options)


def attribute(name: str, kind: str, **options: Any) -> Field:
    """A single-value attribute."""
    return Field(name, FieldType(kind), attribute=True, summary=True, match="word", **options)


def make_schema(name: str = "image", profiles: Sequence[RankProfile] = (), **extra: Field) -> Schema:
    """captions and title (indexes), label, width, score, flag, tags (attributes), embedding (4-d, HNSW)."""
    vector = FieldType("tensor", tensor=VECTOR)
    fields = {
        f.name: f
        for f in (
            text_field("captions"),
            text_field("title"),
            attribute("label", "string"),
            attribute("width", "int"),
            attribute("score", "double"),
            attribute("flag", "bool"),
            Field("tags", FieldType("weightedset", STRING), attribute=True, summary=True, match="word"),
            Field(
                "embedding", vector, attribute=True, summary=True, hnsw=True, distance_metric="prenormalized-angular"
            ),
            Field("picture", FieldType("raw"), summary=True),
            *extra.values(),
        )
    }
    inputs = {
        "q": Input("q", parse_type("tensor<float>(x[4])")),
        "alpha": Input("alpha", parse_type("tensor()"), "0.5"),
    }
    default = RankProfile("default", inputs, first_phase=Phase("bm25(captions)"), match_features=("bm25(captions)",))
    everything = {p.name: p for p in (default, *profiles)}
    summaries = {
        "default": SummaryClass("default", {f: f for f in fields}),
        "short": SummaryClass("short", {"label": "label"}),
    }
    return Schema(name, fields, {"default": ("captions",), "both": ("captions", "title")}, summaries, everything)


@dataclass
class Memory:
    """A document reader over a dictionary."""

    documents: dict[tuple[str, int], StoredDocument] = field(default_factory=dict)

    def read(
        self, schema: str, lids: Sequence[int], fields: Collection[str] | None = None
    ) -> list[StoredDocument | None]:
        return [self.documents.get((schema, lid)) for lid in lids]


@dataclass
class Application:
    package: ApplicationPackage
    indexes: dict[str, Index]
    programs: dict[str, dict[str, RankProgram]]


class Served:
    """A deployed application with documents; ``search`` answers as the engine's port does."""

    def __init__(self, *schemas: Schema, query_profiles: Mapping[str, Mapping[str, str]] | None = None) -> None:
        by_name = {schema.name: schema for schema in schemas}
        package = ApplicationPackage(by_name, query_profiles or {}, "images", "default", True, {})
        self.application: Application | None = Application(
            package,
            {name: Index(schema, True) for name, schema in by_name.items()},
            {
                name: {p.name: compile_profile(p, schema) for p in schema.rank_profiles.values()}
                for name, schema in by_name.items()
            },
        )
        self.store = Memory()
        self.handler = SearchHandler(self)

    def put(self, lid: int, fields: Mapping[str, FieldValue], schema: str = "image") -> None:
        assert self.application is not None
        self.application.indexes[schema].put(lid, fields)
        self.store.documents[schema, lid] = StoredDocument(f"id:test:{schema}::{lid}", fields)

    def remove(self, lid: int, schema: str = "image") -> None:
        assert self.application is not None
        self.application.indexes[schema].remove(lid)
        del self.store.documents[schema, lid]

    def get(self, **parameters: Any) -> tuple[int, dict[str, Any]]:
        """Status and root of a GET request."""
        pairs = tuple((name.replace("__", "."), str(value)) for name, value in parameters.items())
        return self._answer(Request("GET", "/search/?" + urlencode(pairs), pairs))

    def post(self, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and root of a POST request."""
        return self._answer(Request("POST", "/search/", (), {}, json.dumps(body).encode()))

    def _answer(self, request: Request) -> tuple[int, dict[str, Any]]:
        response = self.handler.handle(request)
        assert isinstance(response.body, bytes)
        answer = json.loads(response.body)
        self.whole = answer
        return response.status, answer["root"]

    def ids(self, yql: str, **parameters: Any) -> list[int]:
        """The keys of the hits of ``yql`` in order; fails when the query is refused."""
        status, root = self.post({"yql": yql, "hits": 400, **parameters})
        assert status == 200, root
        return [int(hit["id"].rpartition("::")[2]) for hit in root.get("children", [])]
