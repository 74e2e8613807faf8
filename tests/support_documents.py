"""Probes of documents and pages: ARCHITECTURE.md's tables of document/v1, of HTTP paths and of the deploy API."""

from __future__ import annotations

from typing import Any

import orjson
from support_world import CONTENT, OPEN_NLP, Probe, Probes, World, deploys, not_deployed, package_of

from clipsearch.engine.http.messages import Request
from clipsearch.engine.package import write_zip

_ROOT = "/document/v1/t/song/docid/"
_FORMS = ("short", "long", "short-value", "long-value", "hex", "hex-value")


def _status(wanted: int, method: str, path: str, body: Any = None, **parameters: str) -> Probe:
    def probe(world: World) -> None:
        pairs = tuple((name.replace("__", "."), value) for name, value in parameters.items())
        data = b"" if body is None else orjson.dumps(body)
        answer = world.engine.container.handle(Request(method, path, pairs, {}, data))
        assert answer.status == wanted, answer.body

    return probe


def _refused(name: str, method: str, path: str, body: Any = None, **parameters: str) -> Probe:
    def probe(world: World) -> None:
        status, answer = world.ask(method, path, body, **parameters)
        assert status == 400, answer
        assert name in answer["message"]
        assert "not supported by the local engine" in answer["message"]

    return probe


def _round(world: World, fields: dict[str, Any], *operations: tuple[str, dict[str, Any]], **parameters: str) -> Any:
    """Puts a document of its own, applies ``operations``, and gives what is stored; it is removed again."""
    path = _ROOT + "round"
    world.put("round", fields)
    try:
        for method, body in operations:
            status, answer = world.ask(method, path, body, **parameters)
            assert status == 200, answer
        status, answer = world.ask("GET", path)
        assert status == 200
        return answer["fields"]
    finally:
        world.ask("DELETE", path)


def _update(fields: dict[str, Any], update: dict[str, Any], name: str, expected: Any) -> Probe:
    def probe(world: World) -> None:
        assert _round(world, fields, ("PUT", {"fields": update})).get(name) == expected

    return probe


def _update_refused(update: dict[str, Any], name: str) -> Probe:
    return _refused(name, "PUT", _ROOT + "0", {"fields": update})


def _put_get_remove(world: World) -> None:
    assert _round(world, {"title": "x"}) == {"title": "x"}
    assert world.ask("GET", _ROOT + "round")[0] == 404


def _condition(world: World) -> None:
    assert world.ask("PUT", _ROOT + "0", {"fields": {}}, condition="song.year < 5")[0] == 412
    assert world.ask("PUT", _ROOT + "0", {"fields": {}}, condition="song.year > 5")[0] == 200


def _create(world: World) -> None:
    assert world.ask("PUT", _ROOT + "made", {"fields": {"year": {"assign": 1}}}, create="true")[0] == 200
    assert world.ask("DELETE", _ROOT + "made")[0] == 200


def _dry(world: World) -> None:
    assert world.ask("POST", _ROOT + "dry", {"fields": {}}, dryRun="true")[0] == 200
    assert world.ask("GET", _ROOT + "dry")[0] == 404


def _many(world: World, method: str, **parameters: str) -> None:
    """An update or a removal by a selection that no document has."""
    body = {"fields": {"year": {"assign": 1}}} if method == "PUT" else None
    status, answer = world.ask(method, _ROOT, body, selection="song.year < 5", cluster="c", **parameters)
    assert (status, answer["documentCount"]) == (200, 0)


def _copy(world: World) -> None:
    status, answer = world.ask("POST", _ROOT, None, selection="true", cluster="c", destinationCluster="c")
    assert (status, answer["documentCount"]) == (200, 4)


_TENSOR = {"patches": {"blocks": {"a": [1, 2]}}}
OPERATIONS: tuple[Probes, Probes] = (
    {
        "put": _put_get_remove,
        "get": _status(200, "GET", _ROOT + "0"),
        "update": _update({"year": 1}, {"year": {"assign": 2}}, "year", 2),
        "remove": _status(200, "DELETE", _ROOT + "gone"),
        "visit": _status(200, "GET", _ROOT),
        "update of a selection": lambda world: _many(world, "PUT"),
        "removal of a selection": lambda world: _many(world, "DELETE"),
        "copy to the one cluster": _copy,
        "destinationCluster": _copy,
        "group and number ids": _status(404, "GET", "/document/v1/t/song/group/g/none"),
        "condition": _condition,
        "create": _create,
        "dryRun": _dry,
        "route": _status(200, "PUT", _ROOT + "0", {"fields": {}}, route="default"),
        "timeout": _status(200, "PUT", _ROOT + "0", {"fields": {}}, timeout="5s"),
        "tracelevel": _status(200, "PUT", _ROOT + "0", {"fields": {}}, tracelevel="1"),
        "fieldSet": lambda world: _fields(world, ["year"], fieldSet="song:year"),
        **{f"format.tensors={form}": _status(200, "GET", _ROOT + "0", format__tensors=form) for form in _FORMS},
    },
    {},
)  # fmt: skip


def _fields(world: World, names: list[str], **parameters: str) -> None:
    status, answer = world.ask("GET", _ROOT + "0", None, **parameters)
    assert (status, sorted(answer["fields"])) == (200, names)


UPDATES: tuple[Probes, Probes] = (
    {
        "assign": _update({"year": 1}, {"year": {"assign": 2}}, "year", 2),
        "assign null": _update({"year": 1}, {"year": {"assign": None}}, "year", None),
        "increment": _update({"year": 1}, {"year": {"increment": 2}}, "year", 3),
        "decrement": _update({"year": 1}, {"year": {"decrement": 2}}, "year", -1),
        "multiply": _update({"year": 3}, {"year": {"multiply": 2}}, "year", 6),
        "divide": _update({"price": 3}, {"price": {"divide": 2}}, "price", 1.5),
        "add to an array": _update({"sizes": [1]}, {"sizes": {"add": [2]}}, "sizes", [1, 2]),
        "add to a weightedset": _update({"tags": {"a": 1}}, {"tags": {"add": {"b": 2}}}, "tags", {"a": 1, "b": 2}),
        "remove from an array": _update({"sizes": [1, 2]}, {"sizes": {"remove": [2]}}, "sizes", [1]),
        "remove from a weightedset": _update({"tags": {"a": 1}}, {"tags": {"remove": {"a": 0}}}, "tags", {}),
        "match": _update({"sizes": [1]}, {"sizes": {"match": {"element": 0, "assign": 7}}}, "sizes", [7]),
        "array[i]": _update({"sizes": [1]}, {"sizes[0]": {"assign": 7}}, "sizes", [7]),
        "weightedset{key}": _update({"tags": {"a": 1}}, {"tags{a}": {"increment": 2}}, "tags", {"a": 3}),
        **{f"modify {name}": _update(_TENSOR, {"patches": {"modify": {"operation": name, "cells": [
            {"address": {"p": "a", "x": "0"}, "value": 5}]}}}, "patches", {
                "type": "tensor<float>(p{},x[2])", "blocks": {"a": [value, 2.0]}})
           for name, value in {"replace": 5.0, "add": 6.0, "multiply": 5.0}.items()},
        "modify create": _update(_TENSOR, {"patches": {"modify": {"operation": "add", "create": True, "cells": [
            {"address": {"p": "b", "x": "0"}, "value": 5}]}}}, "patches", {
                "type": "tensor<float>(p{},x[2])", "blocks": {"a": [1.0, 2.0], "b": [5.0, 0.0]}}),
        "add to a tensor": _update(_TENSOR, {"patches": {"add": {"blocks": {"b": [3, 4]}}}}, "patches", {
            "type": "tensor<float>(p{},x[2])", "blocks": {"a": [1.0, 2.0], "b": [3.0, 4.0]}}),
        "remove from a tensor": _update(_TENSOR, {"patches": {"remove": {"addresses": [{"p": "a"}]}}}, "patches", {
            "type": "tensor<float>(p{},x[2])", "blocks": {}}),
    },
    {
        "array{key}": _update_refused({"sizes{a}": {"assign": 1}}, "sizes{a}"),
        "weightedset[i]": _update_refused({"tags[0]": {"assign": 1}}, "tags[0]"),
        "paths deeper than one step": _update_refused({"sizes[0].x": {"assign": 1}}, "sizes[0].x"),
    },
)  # fmt: skip


def _visit(count: int, **parameters: str) -> Probe:
    def probe(world: World) -> None:
        status, answer = world.ask("GET", _ROOT, None, **{"wantedDocumentCount": "9", **parameters})
        assert (status, answer["documentCount"]) == (200, count), answer

    return probe


def _pages(world: World) -> None:
    seen, token = [], ""
    while True:
        more = {"continuation": token} if token else {}
        _, answer = world.ask("GET", _ROOT, None, wantedDocumentCount="3", **more)
        seen += [document["id"] for document in answer["documents"]]
        token = answer.get("continuation", "")
        if not token:
            break
    assert len(set(seen)) == len(seen) == 4


def _slices(world: World) -> None:
    counts = [
        world.ask("GET", _ROOT, None, wantedDocumentCount="9", slices="2", sliceId=str(each))[1]["documentCount"]
        for each in range(2)
    ]
    assert sum(counts) == 4


VISITS: tuple[Probes, Probes] = (
    {
        "selection": _visit(2, selection="song.year > 2001"),
        "continuation": _pages,
        "wantedDocumentCount": _visit(2, wantedDocumentCount="2"),
        "slices": _slices,
        "sliceId": _slices,
        "stream": _visit(4, stream="true"),
        "cluster": _visit(4, cluster="c"),
        "bucketSpace": _visit(0, bucketSpace="global"),
        "concurrency": _visit(4, concurrency="2"),
        "fieldSet": _visit(4, fieldSet="[id]"),
        "format.tensors": _visit(4, format__tensors="hex"),
        "timeout": _visit(4, timeout="10s"),
        "tracelevel": _visit(4, tracelevel="1"),
        "fromTimestamp=0": _visit(4, fromTimestamp="0"),
        "includeRemoves=false": _visit(4, includeRemoves="false"),
        "timeChunk": lambda world: _many(world, "DELETE", timeChunk="1s"),
    },
    {
        "fromTimestamp": _refused("fromTimestamp", "GET", _ROOT, fromTimestamp="1"),
        "toTimestamp": _refused("toTimestamp", "GET", _ROOT, toTimestamp="1"),
        "includeRemoves": _refused("includeRemoves", "GET", _ROOT, includeRemoves="true"),
    },
)

_SELECTED = {
    "and": ("song.year > 2000 and song.live == true", 1), "or": ("song.year == 2000 or song.year == 2003", 2),
    "not": ("not song.live == true", 2), "==": ("song.year == 2001", 1), "!=": ("song.year != 2001", 3),
    "<": ("song.year < 2001", 1), "<=": ("song.year <= 2001", 2), ">": ("song.year > 2001", 2),
    ">=": ("song.year >= 2001", 3), "=": ('song.label = "a*"', 1), "=~": ('song.label =~ "^air"', 1),
    "+": ("song.year + 1 == 2001", 1), "-": ("song.year - 1 == 2000", 1), "*": ("song.year * 2 == 4000", 1),
    "/": ("song.year / 2 == 1000", 2), "%": ("song.year % 2 == 0", 2), "null": ("song.tags == null", 1),
    "a document type": ("song", 4), "a field": ("song.tags", 3), "id.scheme": ('id.scheme == "id"', 4),
    "id.namespace": ('id.namespace == "t"', 4), "id.type": ('id.type == "song"', 4),
    "id.specific": ('id.specific == "1"', 1), "id.user": ("id.user == 1", 0), "id.group": ('id.group == "g"', 0),
    "now()": ("song.day < now() - 9", 3), "hash()": ("song.label.hash() == 0", 0),
    "lowercase()": ('song.label.lowercase() == "airport"', 1), "abs()": ("song.price.abs() == 1", 1),
    "array[i]": ("song.sizes[0] == 4", 1), "array[$x]": ("song.sizes[$x] == 5", 1),
    "weightedset{key}": ("song.tags{a} == 3", 1),
}  # fmt: skip
SELECTIONS: tuple[Probes, Probes] = (
    {name: _visit(count, selection=text) for name, (text, count) in _SELECTED.items()},
    {
        "id.bucket": _refused("id.bucket", "GET", _ROOT, selection="id.bucket == 3"),
        "id.order()": _refused("id.order", "GET", _ROOT, selection="id.order(1,2) > 3"),
        "searchcolumn": _refused("searchcolumn", "GET", _ROOT, selection="searchcolumn.3 == 1"),
        "timestamp": _refused("'song'", "GET", _ROOT, selection="song.timestamp() > 3"),
        "fields of a struct": _refused("title", "GET", _ROOT, selection="song.title.first == 3"),
    },
)

PAGES: tuple[Probes, Probes] = (
    {
        "/search/": _status(200, "GET", "/search/", yql="select * from song where true", ranking="plain"),
        "/document/v1/": _status(200, "GET", "/document/v1/", cluster="c"),
        **{path: _status(200, "GET", path) for path in (
            "/", "/ApplicationStatus", "/status.html", "/state/v1", "/state/v1/health", "/state/v1/metrics",
            "/state/v1/config", "/state/v1/version", "/metrics/v2/values")},
    },
    {path: _status(404, "GET", path) for path in ("/prometheus/v1/values", "/reindexing/v1", "/model-evaluation/v1")},
)  # fmt: skip

_TENANT = "/application/v2/tenant"
_INSTANCE = f"{_TENANT}/default/application/default/environment/prod/region/default/instance/default"


def _deployer(wanted: int, path: str, method: str = "GET") -> Probe:
    def probe(world: World) -> None:
        answer = world.engine.deploy.handle(Request(method, path, (), {"host": "localhost:19071"}))
        assert answer.status == wanted, answer.body

    return probe


def _sessions(world: World) -> None:
    """Uploads, prepares and activates the package that is served already."""
    from support_ranking import MATCH_FEATURES
    from support_world import INPUTS

    body = write_zip(package_of(profile=f"{INPUTS}\nfirst-phase {{ expression: 1 }}\n{MATCH_FEATURES}"))
    headers = {"host": "localhost:19071", "content-type": "application/zip"}
    handle, path = world.engine.deploy.handle, f"{_TENANT}/default/session"
    assert handle(Request("POST", path, (), headers, body)).status == 200
    number = world.engine.deploy._deployments._last
    for method, end in (("PUT", "prepared"), ("PUT", "active"), ("GET", "content/services.xml")):
        assert handle(Request(method, f"{path}/{number}/{end}", (), headers)).status == 200


def _from_application(world: World) -> None:
    request = Request("POST", f"{_TENANT}/default/session", (("from", "http://x"),), {"host": "localhost:19071"})
    answer = world.engine.deploy.handle(request)
    assert answer.status == 400
    assert isinstance(answer.body, bytes)
    assert b"not supported by the local engine" in answer.body


DEPLOYS: tuple[Probes, Probes] = (
    {
        "prepareandactivate": lambda world: None,  # every probe's application was deployed so
        "session, prepared, active, content": _sessions,
        "tenant": _deployer(200, _TENANT),
        "application": _deployer(200, f"{_TENANT}/default/application"),
        "serviceconverge": _deployer(200, f"{_INSTANCE}/serviceconverge"),
        "application content": _deployer(200, f"{_INSTANCE}/content/services.xml"),
        **{path: _deployer(200, path) for path in (
            "/", "/status.html", "/state/v1", "/state/v1/health", "/state/v1/metrics", "/state/v1/version",
            "/ApplicationStatus")},
    },
    {
        "logs, of vespa log": _deployer(404, f"{_INSTANCE}/logs"),
        "another tenant": _deployer(404, f"{_TENANT}/other"),
        "removing the application": _deployer(405, f"{_TENANT}/default/application/default", "DELETE"),
        "session from an application": _from_application,
    },
)  # fmt: skip

_MODEL = {"transformer-model": "m.onnx", "tokenizer-model": "t.json"}
_SETTINGS = {
    "max-tokens": "128", "transformer-input-ids": "input_ids", "transformer-attention-mask": "attention_mask",
    "transformer-token-type-ids": "token_type_ids", "transformer-output": "last_hidden_state",
    "pooling-strategy": "cls", "normalize": "true", "prepend": "<query>q: </query>",
    "onnx-execution-mode": "parallel", "onnx-interop-threads": "1", "onnx-intraop-threads": "2",
    "onnx-gpu-device": "0",
}  # fmt: skip


def _embedder(inside: str = "", model: str = "") -> dict[str, str]:
    model = model or "".join(f'<{tag} path="{path}"/>' for tag, path in _MODEL.items())
    component = f'<component id="clip" type="hugging-face-embedder">{model}{inside}</component>'
    opened = f'<services version="1.0"><container id="d" version="1.0"><search/>{component}{OPEN_NLP}</container>'
    return {"services": f"{opened}{CONTENT}</services>", "m.onnx": "", "t.json": ""}


EMBEDDERS: tuple[Probes, Probes] = (
    {
        "hugging-face-embedder": deploys(**_embedder()),
        "embed": deploys(
            beside="field e type tensor<float>(x[2]) { indexing: input title | embed | attribute }", **_embedder()
        ),
        "embed of an array": deploys(
            "field t type array<string> { indexing: summary }",
            "field e type tensor<float>(p{},x[2]) { indexing: input t | embed clip | attribute }", **_embedder(),
        ),
        **{tag: deploys(**_embedder(f"<{tag}>{text}</{tag}>")) for tag, text in _SETTINGS.items()},
        **{tag: deploys(**_embedder()) for tag in _MODEL},
    },
    {
        **{f"a model by {name}": not_deployed(f"a model by {name}", **_embedder(
            model=f'<transformer-model {name}="x"/><tokenizer-model path="t.json"/>'))
           for name in ("url", "model-id")},
        "embed with a dimension": not_deployed(
            "a dimension for embed",
            beside="field e type tensor<float>(x[2]) { indexing: input title | embed clip x | attribute }",
            **_embedder(),
        ),
    },
)  # fmt: skip
