"""Document ids, field values, updates, and document/v1 over one store."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import State, content, music, opened, tensor

from clipsearch.engine.documents.ids import parse_id
from clipsearch.engine.documents.requests import parse_path
from clipsearch.engine.http.messages import Request
from clipsearch.errors import DocumentError

ONE = "/space/music/docid/one"
TOO_FAR = base64.urlsafe_b64encode(b'["music",99999999999999999999]').decode()
FIELDS: dict[str, Any] = {
    "artist": "Tom Waits",
    "year": 1985,
    "plays": 1 << 40,
    "score": 0.1,
    "live": False,
    "tags": ["rain", "dogs"],
    "genres": {"blues": 3},
    "cover": base64.b64encode(b"\x00\xff").decode(),
    "embedding": {"type": "tensor(x[3])", "values": [1.0, 2.0, 3.0]},
}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with opened(tmp_path) as state:
        yield state


@pytest.mark.parametrize(
    "text", ["id:ns:image::a b/c#1", "id:ns:image:n=18446744073709551615:x", "id:ns:image:g=å/'b:c:d", "id:n:t::é:f"]
)
def test_an_id_survives_its_text_and_its_path(text: str) -> None:
    doc = parse_id(text)
    assert str(doc) == text
    assert parse_path(doc.path).id == doc


def test_an_id_is_percent_encoded_as_the_clients_do() -> None:
    assert parse_id("id:image:image::a b/c#1").path == "/document/v1/image/image/docid/a%20b/c%231"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "id:ns:image:x",
        "doc:ns:image::x",
        "id::image::x",
        "id:ns:::x",
        "id:ns:image::",
        "id:a:b:n=x:c",
        "id:a:b:n=-1:c",
        "id:a:b:n=18446744073709551616:c",
        "id:a:b:q=1:c",
        "id:a:b::x\x00",
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(DocumentError):
        parse_id(text)


def test_a_document_is_read_back_as_it_was_put(state: State) -> None:
    assert state.ask("POST", ONE, {"fields": FIELDS}) == (
        200,
        {"pathId": "/document/v1" + ONE, "id": "id:space:music::one"},
    )
    status, body = state.ask("GET", ONE)
    assert status == 200
    assert body["fields"] == FIELDS


def test_null_leaves_a_field_empty_and_a_put_replaces_the_whole_document(state: State) -> None:
    state.ask("POST", ONE, {"fields": FIELDS})
    state.ask("POST", ONE, {"fields": {"artist": "Nobody", "year": None}})
    assert state.ask("GET", ONE)[1]["fields"] == {"artist": "Nobody"}


def test_scalars_may_be_fed_as_text_as_in_vespa(state: State) -> None:
    state.ask("POST", ONE, {"fields": {"artist": 7, "year": "1985", "score": "0.5", "live": "true"}})
    assert state.ask("GET", ONE)[1]["fields"] == {"artist": "7", "year": 1985, "score": 0.5, "live": True}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rooms", 1, "No field 'rooms' in the structure of type 'music', which has the fields: [artist (string)"),
        ("year", "abc", "could not parse field 'year' of type 'int': For input string: \"abc\""),
        ("year", 1.5, 'For input string: "1.5"'),
        ("year", 1 << 31, 'For input string: "2147483648"'),
        ("plays", 1 << 63, "For input string"),
        ("year", [1], "Expected a value of type int, got an array"),
        ("score", "x", 'For input string: "x"'),
        ("score", 1e300, 'For input string: "1e+300"'),
        ("score", "NaN", "not supported by the local engine"),
        ("live", 1, "neither true nor false"),
        ("artist", "a\x00b", "illegal code point 0x0"),
        ("artist", {"a": 1}, "got an object"),
        ("tags", "rain", "Expected start of array"),
        ("tags", [None], "got null"),
        ("genres", ["blues"], "Expected start of JSON object"),
        ("genres", {"blues": "x"}, "For input string"),
        ("cover", "?", "base64"),
        ("embedding", [1, 2], "embedding"),
        ("embedding", "x", "embedding"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_document_field_and_reason(
    state: State, name: str, value: Any, said: str
) -> None:
    status, body = state.ask("POST", ONE, {"fields": {name: value}})
    assert status == 400
    assert said in body["message"]
    assert state.ask("GET", ONE)[0] == 404


@pytest.mark.parametrize(
    ("update", "name", "expected"),
    [
        ({"year": {"assign": 7}}, "year", 7),
        ({"year": {"assign": None}}, "year", None),
        ({"year": {"increment": 2}}, "year", 1987),
        ({"year": {"decrement": 5}}, "year", 1980),
        ({"year": {"multiply": 2}}, "year", 3970),
        ({"score": {"divide": 2}}, "score", 0.05),
        ({"tags": {"add": ["night"]}}, "tags", ["rain", "dogs", "night"]),
        ({"tags": {"remove": ["rain"]}}, "tags", ["dogs"]),
        ({"genres": {"add": {"jazz": 2}}}, "genres", {"blues": 3, "jazz": 2}),
        ({"genres": {"add": ["jazz"]}}, "genres", {"blues": 3, "jazz": 1}),
        ({"genres": {"remove": {"blues": 0}}}, "genres", {}),
        ({"embedding": {"assign": [4, 5, 6]}}, "embedding", {"type": "tensor(x[3])", "values": [4.0, 5.0, 6.0]}),
    ],
)
def test_an_update_changes_its_field_and_no_other(state: State, update: Any, name: str, expected: Any) -> None:
    state.ask("POST", ONE, {"fields": FIELDS})
    assert state.ask("PUT", ONE, {"fields": update})[0] == 200
    fields = state.ask("GET", ONE)[1]["fields"]
    assert fields.get(name) == expected
    assert {n: v for n, v in fields.items() if n != name} == {n: v for n, v in FIELDS.items() if n != name}


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"rooms": {"assign": 1}}, "No field 'rooms'"),
        ({"year": 7}, "update operation"),
        ({"year": {"grow": 7}}, "Unknown update operation 'grow'"),
        ({"artist": {"increment": 7}}, "cannot increment a field of type string"),
        ({"artist": {"add": ["x"]}}, "cannot add in a field of type string"),
        ({"year": {"divide": 0}}, "division by zero"),
        ({"year": {"increment": "x"}}, "expects a number"),
        ({"genres": {"add": [["x"]]}}, "must be a plain value"),
        ({"score": {"multiply": 1e308}}, "score"),
        ({"plays": {"multiply": 1e308}}, "plays"),
        ({"tags[0]": {"assign": "x"}}, "field paths are not supported by the local engine"),
        ({"tags": {"match": {}}}, "'match' is not supported by the local engine"),
        ({"embedding": {"modify": {}}}, "Unknown tensor modify operation 'None'"),
        ({"embedding": {"modify": {"operation": "add", "cells": [{"address": {"x": "3"}, "value": 1}]}}}, "'3'"),
        ({"embedding": {"modify": {"operation": "add", "cells": [{"address": {"y": "0"}, "value": 1}]}}}, "'y'"),
        ({"embedding": {"add": {"cells": []}}}, "needs a mapped dimension"),
        ({"embedding": {"remove": {"addresses": [{"x": "0"}]}}}, "needs a mapped dimension"),
    ],
)
def test_an_update_that_cannot_be_applied_is_refused_by_name(state: State, update: Any, said: str) -> None:
    state.ask("POST", ONE, {"fields": FIELDS})
    status, body = state.ask("PUT", ONE, {"fields": update})
    assert status == 400
    assert said in body["message"]
    assert state.ask("GET", ONE)[1]["fields"] == FIELDS


def test_an_update_modifies_cells_of_a_dense_tensor(state: State) -> None:
    state.ask("POST", ONE, {"fields": FIELDS})
    for operation, value, expected in (("add", 0.5, 2.5), ("multiply", 4, 10.0), ("replace", -1, -1.0)):
        cells = [{"address": {"x": "1"}, "value": value}]
        update = {"embedding": {"modify": {"operation": operation, "cells": cells}}}
        assert state.ask("PUT", ONE, {"fields": update})[0] == 200
        assert state.ask("GET", ONE)[1]["fields"]["embedding"]["values"] == [1.0, expected, 3.0]


def test_an_update_adds_changes_and_removes_blocks_of_a_mixed_tensor(tmp_path: Path) -> None:
    with opened(tmp_path, music(embedding=tensor("tensor<float>(p{},x[2])"))) as state:
        state.ask("POST", ONE, {"fields": {"embedding": {"a": [1, 2], "b": [3, 4]}}})

        def update(**change: Any) -> Any:
            status, body = state.ask("PUT", ONE, {"fields": {"embedding": change}})
            assert status == 200, body
            return state.ask("GET", ONE)[1]["fields"]["embedding"]["blocks"]

        assert update(add={"blocks": {"c": [5, 6]}}) == {"a": [1, 2], "b": [3, 4], "c": [5, 6]}
        assert update(remove={"addresses": [{"p": "b"}]}) == {"a": [1, 2], "c": [5, 6]}
        assert update(modify={"operation": "add", "blocks": {"a": [1, 1], "z": [9, 9]}}) == {"a": [2, 3], "c": [5, 6]}
        cells = [{"address": {"p": "c", "x": "1"}, "value": 10}]
        assert update(modify={"operation": "multiply", "cells": cells}) == {"a": [2, 3], "c": [5, 60]}
        created = {"operation": "add", "create": True, "cells": [{"address": {"p": "n", "x": "0"}, "value": 7}]}
        assert update(modify=created) == {"a": [2, 3], "c": [5, 60], "n": [7, 0]}


def test_arithmetic_that_leaves_the_type_fails_only_its_own_operation(state: State) -> None:
    state.ask("POST", ONE, {"fields": FIELDS})
    status, body = state.ask("PUT", ONE, {"fields": {"year": {"multiply": 10_000_000}}})
    assert status == 400
    assert "year" in body["message"]
    assert state.ask("GET", ONE)[1]["fields"] == FIELDS


def test_an_update_of_a_missing_document_does_nothing_unless_it_may_create(state: State) -> None:
    update = {"fields": {"year": {"assign": 7}}}
    assert state.ask("PUT", ONE, update)[0] == 200
    assert state.ask("GET", ONE)[0] == 404
    assert state.ask("PUT", ONE, update, create="true")[0] == 200
    assert state.ask("GET", ONE)[1]["fields"] == {"year": 7}
    assert state.ask("PUT", "/space/music/docid/two", update | {"create": True})[0] == 200
    assert state.ask("GET", "/space/music/docid/two")[0] == 200


def test_a_condition_decides_over_put_update_and_remove(state: State) -> None:
    state.ask("POST", ONE, {"fields": FIELDS})
    new = {"fields": {"year": 1999}}
    change = {"fields": {"year": {"assign": 1999}}}
    for method, body in (("POST", new), ("PUT", change), ("DELETE", b"")):
        status, answer = state.ask(method, ONE, body, condition="music.year == 1")
        assert status == 412
        assert answer["id"] == "id:space:music::one"
    assert state.ask("GET", ONE)[1]["fields"] == FIELDS
    assert state.ask("PUT", ONE, change, condition="music.year == 1985")[0] == 200
    assert state.ask("DELETE", ONE, condition="music.year == 1999")[0] == 200
    assert state.ask("GET", ONE)[0] == 404


def test_a_condition_on_a_missing_document_fails_unless_it_may_be_created(state: State) -> None:
    new = {"fields": {"year": 1}}
    assert state.ask("POST", ONE, new, condition="true")[0] == 412
    assert state.ask("DELETE", ONE, condition="true")[0] == 412
    assert state.ask("POST", ONE, new, condition="music.year == 9", create="true")[0] == 200


def test_removing_a_missing_document_succeeds(state: State) -> None:
    assert state.ask("DELETE", ONE)[0] == 200


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("[all]", set(FIELDS)),
        ("[document]", set(FIELDS)),
        ("music:[document]", set(FIELDS)),
        ("[id]", set()),
        ("music:artist,year", {"artist", "year"}),
    ],
)
def test_a_field_set_chooses_fields(state: State, wanted: str, names: set[str]) -> None:
    state.ask("POST", ONE, {"fields": FIELDS})
    assert set(state.ask("GET", ONE, fieldSet=wanted)[1]["fields"]) == names


@pytest.mark.parametrize("params", [{"fieldSet": "music:rooms"}, {"fieldSet": "go"}, {"format.tensors": "big"}])
def test_a_bad_field_set_or_format_is_refused(state: State, params: dict[str, str]) -> None:
    state.ask("POST", ONE, {"fields": FIELDS})
    assert state.ask("GET", ONE, b"", **params)[0] == 400


def feed_many(state: State, count: int) -> None:
    for number in range(count):
        path = f"/space{number % 2}/music/docid/{number}"
        state.ask("POST", path, {"fields": {"year": number, "embedding": [number, 0, 0]}})


def test_a_visit_with_continuations_sees_every_document_once(state: State) -> None:
    feed_many(state, 23)
    seen: list[str] = []
    params = {"cluster": "content", "wantedDocumentCount": "5"}
    while True:
        status, body = state.ask("GET", "/", b"", **params)
        assert status == 200
        assert body["documentCount"] == len(body["documents"])
        seen += [document["id"] for document in body["documents"]]
        if "continuation" not in body:
            break
        params["continuation"] = body["continuation"]
    assert seen == [f"id:space{n % 2}:music::{n}" for n in range(23)]


def test_slices_of_a_visit_are_disjoint_and_together_everything(state: State) -> None:
    feed_many(state, 30)
    parts = []
    for part in range(3):
        params = {"cluster": "content", "wantedDocumentCount": "100", "slices": "3", "sliceId": str(part)}
        parts.append({d["id"] for d in state.ask("GET", "/", b"", **params)[1]["documents"]})
    assert all(parts)
    assert sum(map(len, parts)) == len(set().union(*parts)) == 30


def test_a_visit_is_narrowed_by_path_selection_and_bucket_space(state: State) -> None:
    feed_many(state, 10)
    state.ask("POST", "/space0/music/number/4/x", {"fields": {"year": 100}})

    def count(path: str, **params: str) -> int:
        return int(
            state.ask("GET", path, b"", wantedDocumentCount="100", cluster="content", **params)[1]["documentCount"]
        )

    assert count("/space0/music/docid/") == 6
    assert count("/space0/music/number/4/") == 1
    assert count("/", selection="music.year >= 8") == 3
    assert count("/", bucketSpace="global") == 0
    assert count("/space9/music/docid") == 0


def test_a_streamed_visit_is_json_or_json_lines_as_the_client_accepts(state: State) -> None:
    feed_many(state, 3)
    query = (("stream", "true"), ("cluster", "content"), ("fieldSet", "music:year"))
    whole = content(state.handler.handle(Request("GET", "/document/v1/", query)))
    assert whole["documentCount"] == 3
    assert whole["documents"][2] == {"id": "id:space0:music::2", "fields": {"year": 2}}
    limited = (*query, ("wantedDocumentCount", "2"))
    lines = state.handler.handle(Request("GET", "/document/v1/", limited, {"accept": "application/jsonl"}))
    text = b"".join(lines.body).decode().splitlines() if not isinstance(lines.body, bytes) else []
    assert text[0] == '{"put":"id:space0:music::0","fields":{"year":0}}'
    assert text[2].startswith('{"continuation":')
    assert text[3] == '{"documentCount":2}'


def test_update_where_and_delete_where_touch_what_the_selection_picks(state: State) -> None:
    feed_many(state, 10)
    where = {"cluster": "content", "selection": "music.year >= 6"}
    change = {"fields": {"artist": {"assign": "late"}}}
    assert state.ask("PUT", "/space0/music/docid", change, **where)[1]["documentCount"] == 2
    assert state.ask("GET", "/space0/music/docid/8")[1]["fields"]["artist"] == "late"
    assert state.ask("DELETE", "/", b"", **where)[1]["documentCount"] == 4
    everything = {"cluster": "content", "selection": "true", "slices": "1", "sliceId": "0"}
    assert state.ask("DELETE", "/space0/music/docid/", b"", **everything)[1]["documentCount"] == 3
    assert state.store.count("music") == 3


@pytest.mark.parametrize(
    ("method", "path", "params", "said"),
    [
        ("GET", "/", {}, "Must set 'cluster' parameter"),
        ("GET", "/", {"cluster": "*"}, "has no content cluster '*', only 'content'"),
        ("GET", "/", {"cluster": "content", "bucketSpace": "x"}, "Bucket space 'x'"),
        ("GET", "/", {"cluster": "content", "wantedDocumentCount": "0"}, "must be positive"),
        ("GET", "/", {"cluster": "content", "continuation": "x"}, "not a continuation"),
        ("GET", "/", {"cluster": "content", "continuation": TOO_FAR}, "not a continuation"),
        ("GET", "/", {"cluster": "content", "slices": "2", "sliceId": "2"}, "sliceId"),
        ("GET", "/", {"cluster": "content", "includeRemoves": "true"}, "not supported by the local engine"),
        ("GET", "/a/house/docid/", {}, "Document type house does not exist"),
        ("GET", "/a/music/number/x/", {}, "Failed parsing 'x'"),
        ("GET", ONE, {"timeout": "soon"}, "Failed parsing 'soon'"),
        ("DELETE", "/", {"selection": "true", "cluster": "content", "fieldSet": "[id]"}, "May not specify 'fieldSet'"),
    ],
)
def test_a_bad_request_is_answered_with_400_and_the_reason(
    state: State, method: str, path: str, params: dict[str, str], said: str
) -> None:
    status, body = state.ask(method, path, b"", **params)
    assert status == 400
    assert said in body["message"]
    assert body["pathId"] == "/document/v1" + path


def test_tensors_are_truncated_and_kept_exactly(state: State) -> None:
    state.ask("POST", ONE, {"fields": {"embedding": [0.1, -2, 3e10]}})
    row = state.store.get(parse_id("id:space:music::one"))
    assert row is not None
    embedding: Any = row.fields["embedding"]
    np.testing.assert_array_equal(embedding.cells, np.array([0.1, -2, 3e10]))
