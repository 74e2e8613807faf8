"""A small application, served in process, that the probes of ARCHITECTURE.md's tables ask; and how they ask."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
from serving import content

from clipsearch.engine.engine import Engine, compile_programs
from clipsearch.engine.http.messages import Request
from clipsearch.engine.index import Index
from clipsearch.engine.package import load_package, write_zip
from clipsearch.errors import PackageError

Probe = Callable[["World"], None]
Probes = Mapping[str, Probe]
OPEN_NLP = (
    '<config name="ai.vespa.opennlp.open-nlp"><snowballStemmingForEnglish>true</snowballStemmingForEnglish></config>'
)
CONTENT = '<content id="c" version="1.0"><documents><document type="song" mode="index"/></documents></content>'
SERVICES = (
    '<services version="1.0"><container id="default" version="1.0"><search/><document-api/>'
    f"{OPEN_NLP}</container>{CONTENT}</services>"
)
FIELDS = """
field title type string { indexing: summary | index
 index: enable-bm25 }
field label type string { indexing: attribute | summary }
field year type int { indexing: attribute | summary }
field price type double { indexing: attribute | summary }
field live type bool { indexing: attribute | summary }
field tags type weightedset<string> { indexing: attribute | summary }
field sizes type array<int> { indexing: attribute | summary }
field day type long { indexing: attribute | summary }
field vector type tensor<float>(x[2]) { indexing: attribute | index | summary }
field patches type tensor<float>(p{},x[2]) { indexing: attribute | index | summary }
field bits type tensor<int8>(x[1]) { indexing: attribute | summary
 attribute { distance-metric: hamming } }
"""
INPUTS = """inputs {
 query(v) tensor<float>(x[2]): [0, 0]
 query(h) tensor<int8>(x[1]): [0]
 query(a) double: 2
}"""
DOCUMENTS: tuple[dict[str, Any], ...] = (
    {"title": "a red river", "label": "Airport", "year": 2000, "price": 1.5, "live": True, "tags": {"a": 3, "b": 1},
     "sizes": [4, 5], "day": 86_400, "vector": [0, 0], "patches": {"a": [0, 0], "b": [3, 4]}, "bits": [0]},
    {"title": "the red bridge over a river", "label": "airports", "year": 2001, "price": 2.5, "live": False,
     "tags": {"a": 1}, "sizes": [1], "day": 90_061, "vector": [1, 0], "patches": {"a": [5, 0]}, "bits": [1]},
    {"title": "blue sea", "label": "harbour", "year": 2002, "price": 8.0, "live": True, "tags": {"b": 10}, "sizes": [],
     "day": 0, "vector": [3, 0], "patches": {"b": [0, 1]}, "bits": [3]},
    {"title": "many trees", "label": "sea", "year": 2003, "price": -1.0, "live": False, "vector": [10, 0],
     "bits": [-1]},
)  # fmt: skip


def schema_text(document: str = "", beside: str = "", profile: str = "") -> str:
    """The schema ``song`` with more in its document, beside it, and in a rank profile."""
    ranked = f"rank-profile mine {{\n{profile}\n}}" if profile else ""
    plain = f"rank-profile plain {{\n{INPUTS}\nfirst-phase {{ expression: 1 }}\n}}"
    words = f"rank-profile words {{\n{INPUTS}\nfirst-phase {{ expression: bm25(title) }}\n}}"
    rest = "fieldset default { fields: title }\ndocument-summary short { summary label {} }"
    return f"schema song {{\ndocument song {{\n{FIELDS}{document}\n}}\n{rest}\n{plain}\n{words}\n{beside}\n{ranked}\n}}"


def package_of(
    document: str = "", beside: str = "", profile: str = "", services: str = SERVICES, **files: str
) -> dict[str, bytes]:
    """The files of a package; ``files``: more of them, ``__`` in a name stands for ``/``."""
    texts = {"services.xml": services, "schemas/song.sd": schema_text(document, beside, profile)}
    texts |= {name.replace("__", "/"): text for name, text in files.items()}
    return {name: text.encode() for name, text in texts.items()}


class World:
    """The served application, with its four documents."""

    def __init__(self, folder: Path, features: str = "") -> None:
        self.engine = Engine(folder)
        profile = f"{INPUTS}\nfirst-phase {{ expression: 1 }}\n{features}"
        body = write_zip(package_of(profile=profile))
        headers = {"content-type": "application/zip", "host": "localhost:19071"}
        path = "/application/v2/tenant/default/prepareandactivate"
        answer = self.engine.deploy.handle(Request("POST", path, (), headers, body))
        assert answer.status == 200, answer.body
        for number, fields in enumerate(DOCUMENTS):
            self.put(number, fields)
        self._features: dict[str, list[dict[str, Any]]] = {}

    def ask(self, method: str, path: str, body: Any = None, **parameters: str) -> tuple[int, Any]:
        """Status and JSON of a request to the container's port."""
        pairs = tuple((name.replace("__", "."), value) for name, value in parameters.items())
        data = b"" if body is None else orjson.dumps(body)
        answer = self.engine.container.handle(Request(method, path, pairs, {}, data))
        return answer.status, content(answer)

    def put(self, key: Any, fields: Mapping[str, Any]) -> None:
        """Puts one document."""
        status, body = self.ask("POST", f"/document/v1/t/song/docid/{key}", {"fields": fields})
        assert status == 200, body

    def search(self, yql: str, **parameters: Any) -> tuple[int, dict[str, Any]]:
        """Status and root of a query; the rank profile is ``plain`` unless given, ``__`` in a name stands for ``.``."""
        given = {name.replace("__", "."): value for name, value in parameters.items()}
        status, body = self.ask("POST", "/search/", {"yql": yql, "ranking": "plain", **given})
        return status, body["root"]

    def features(self, where: str) -> list[dict[str, Any]]:
        """The match features of what ``where`` finds, in the documents' order."""
        if where not in self._features:
            status, root = self.search(f"select * from song where {where} order by year", ranking="mine")
            assert status == 200, root
            self._features[where] = [hit["fields"]["matchfeatures"] for hit in root["children"]]
        return self._features[where]


def ids(root: Mapping[str, Any]) -> list[int]:
    """The numbers of the documents that were found, in the order of the hits."""
    return [int(hit["id"].rpartition(":")[2]) for hit in root.get("children", []) if "source" in hit]


def finds(where: str, *expected: int, **parameters: Any) -> Probe:
    """``where`` finds these documents."""

    def probe(world: World) -> None:
        status, root = world.search(f"select * from song where {where}", **parameters)
        assert status == 200, root
        assert sorted(ids(root)) == sorted(expected)

    return probe


def answers(yql: str, *expected: int, **parameters: Any) -> Probe:
    """The whole statement gives these documents in this order."""

    def probe(world: World) -> None:
        status, root = world.search(yql, **parameters)
        assert status == 200, root
        assert ids(root) == list(expected)

    return probe


def refuses(where: str, name: str, **parameters: Any) -> Probe:
    """The query is refused with a 400 that names it."""

    def probe(world: World) -> None:
        status, root = world.search(f"select * from song where {where}", **parameters)
        assert status == 400, root
        message = root["errors"][0]["message"]
        assert name in message
        assert "not supported" in message, message

    return probe


def deploys(document: str = "", beside: str = "", profile: str = "", services: str = SERVICES, **files: str) -> Probe:
    """The package is accepted, its rank profiles compile and its documents can be indexed."""

    def probe(world: World) -> None:
        package = load_package(package_of(document, beside, profile, services, **files))
        compile_programs(package)
        for schema in package.schemas.values():
            Index(schema, package.snowball_english)

    return probe


def not_deployed(
    name: str, document: str = "", beside: str = "", profile: str = "", services: str = SERVICES, **files: str
) -> Probe:
    """The package is refused with a message that names what and in which file."""

    def probe(world: World) -> None:
        try:
            deploys(document, beside, profile, services, **files)(world)
        except PackageError as error:
            message = str(error)
        else:
            raise AssertionError(f"'{name}' is not refused")
        assert name in message, message
        assert error_is_a_refusal(message), message

    return probe


def error_is_a_refusal(message: str) -> bool:
    """Whether the deploy error says that the local engine, or what it takes, is the reason."""
    return "not supported" in message or "the local engine takes" in message


def close(found: Any, expected: Any) -> bool:
    """Whether numbers are equal to seven digits; anything else, exactly."""
    if isinstance(found, (int, float)) and isinstance(expected, (int, float)):
        return math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9)
    return bool(found == expected)
