"""Document ids, field values, updates, and document/v1 over one store."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import FIELDS, ONE, State, content, opened

from clipsearch.engine.documents.ids import parse_id
from clipsearch.engine.documents.requests import parse_path
from clipsearch.engine.documents.visits import prefers_jsonl
from clipsearch.engine.http.messages import Request
from clipsearch.errors import DocumentError

TOO_FAR = base64.urlsafe_b64encode(b'["music",99999999999999999999]').decode()


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
        ("cover", "A", "base64"),
        ("cover", "AAA==", "base64"),
        ("score", "1_0", "For input string"),
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
    puts = [
        Request(
            "POST",
            f"/document/v1/space{number % 2}/music/docid/{number}",
            body=b'{"fields":{"year":%d,"embedding":[%d,0,0]}}' % (number, number),
        )
        for number in range(count)
    ]
    answers = [state.handler.feed(put) for put in puts]
    assert all(answer is not None and answer.result(10).status == 200 for answer in answers)


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
    assert text[2].startswith('{"continuation":{"token":"')
    assert text[3] == '{"sessionStats":{"documentCount":2}}'
    every = state.handler.handle(Request("GET", "/document/v1/", query, {"accept": "application/jsonl"}))
    text = b"".join(every.body).decode().splitlines() if not isinstance(every.body, bytes) else []
    assert text[3:] == ['{"continuation":{"percentFinished":100.0}}', '{"sessionStats":{"documentCount":3}}']


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
        ("GET", "/", {"cluster": "content", "slices": "2"}, "None or both of 'slices' and 'sliceId'"),
        ("GET", "/", {"cluster": "content", "fromTimestamp": "1"}, "not supported by the local engine"),
        ("GET", "/", {"cluster": "content", "toTimestamp": "9"}, "not supported by the local engine"),
        ("GET", "/", {"cluster": "content", "fromTimestamp": "-1"}, "Failed parsing '-1'"),
        ("GET", "/", {"cluster": "content", "fromTimestamp": "2", "toTimestamp": "1"}, "toTimestamp must be"),
        ("GET", "/", {"cluster": "content", "tracelevel": "x"}, "Failed parsing 'x'"),
        ("GET", "/", {"cluster": "content", "dryRun": "true"}, "May not specify 'dryRun'"),
        ("GET", "/", {"cluster": "content", "selection": "all the things"}, "'the'"),
        ("POST", "/", {"destinationCluster": "x"}, "has no content cluster 'x'"),
        ("POST", "/", {"destinationCluster": "content"}, "Must specify 'selection'"),
        ("PUT", "/s/music/docid", {"cluster": "content", "selection": "true"}, "expected start of root object"),
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


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "expected start of root object, got null"),
        (b" ", "expected start of root object, got null"),
        (b"[]", "expected start of root object, got START_ARRAY"),
        (b"1.5", "expected start of root object, got VALUE_NUMBER_FLOAT"),
        (b"true", "expected start of root object, got VALUE_TRUE"),
        (b"{}", 'document is missing the required "fields" field'),
        (b'{"fields": []}', "Expected start of JSON object, got START_ARRAY"),
        (b'{"fields": {}, "condition": 1}', "expected string value for condition, got VALUE_NUMBER_INT"),
        (b'{"fields": {}, "create": "yes"}', "create must be true or false, got VALUE_STRING"),
        (b'{"fields": {}} x', "failed parsing document"),
        (b"{" * 5000, "failed parsing document"),
        (b'{"fields": {"artist": "\xff"}}', "failed parsing document"),
        (b'{"fields": {"artist": "\\ud800"}}', "failed parsing document"),
    ],
)
def test_a_body_that_is_no_document_is_refused_with_the_reason(state: State, body: bytes, said: str) -> None:
    for method in ("POST", "PUT"):
        status, answer = state.ask(method, ONE, body)
        assert status == 400
        assert said in answer["message"]


def test_condition_and_create_may_be_in_the_body_where_other_keys_are_ignored(state: State) -> None:
    body = {"put": "id:a:b::c", "fields": {"year": 1}, "condition": "music.year == 9", "junk": [{}]}
    assert state.ask("POST", ONE, body)[0] == 412
    assert state.ask("POST", ONE, body | {"create": True})[0] == 200
    assert state.ask("POST", ONE, body, condition="music.year == 1")[0] == 200
    assert state.ask("POST", ONE, body | {"condition": None})[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [("PUT", "/", 405, "GET, POST, DELETE"), ("PATCH", ONE, 405, "GET, POST, PUT, DELETE"), ("PUT", "/a", 404, None)],
)
def test_what_may_be_done_depends_on_the_path(
    state: State, method: str, path: str, status: int, allowed: str | None
) -> None:
    got, body = state.ask(method, path)
    assert got == status
    assert allowed is None or body["message"].endswith(f"Allowed methods are: {allowed}")
    assert state.ask("OPTIONS", ONE)[0] == 204


def test_documents_are_copied_to_the_one_cluster_by_counting_them(state: State) -> None:
    feed_many(state, 4)
    where = {"cluster": "content", "destinationCluster": "content", "selection": "music.year >= 1"}
    assert state.ask("POST", "/", b"", **where) == (200, {"pathId": "/document/v1/", "documentCount": 3})


def test_an_update_of_many_documents_stops_after_its_time_and_goes_on_where_it_stopped(state: State) -> None:
    feed_many(state, 600)
    change = {"fields": {"artist": {"assign": "late"}}}
    where = {"cluster": "content", "selection": "true", "timeChunk": "1ms"}
    counts = []
    while True:
        status, body = state.ask("PUT", "/space0/music/docid", change, **where)
        assert status == 200
        counts.append(body["documentCount"])
        if "continuation" not in body:
            break
        where["continuation"] = body["continuation"]
    assert counts == [300]
    status, body = state.ask("DELETE", "/", b"", cluster="content", selection="true", timeChunk="1ms")
    assert (body["documentCount"], "continuation" in body) == (512, True)


def test_a_visit_whose_selection_fails_on_the_way_says_so(state: State) -> None:
    feed_many(state, 3)
    where = (("cluster", "content"), ("selection", "10 / (music.year - 2) == 10 or true"), ("stream", "true"))
    whole = content(state.handler.handle(Request("GET", "/document/v1/", where)))
    assert whole["message"] == "document selection: Division by zero"
    assert whole["documentCount"] == 2
    lines = state.handler.handle(Request("GET", "/document/v1/", where, {"accept": "application/jsonl"}))
    assert not isinstance(lines.body, bytes)
    assert b'{"message":{"text":"document selection: Division by zero"' in b"".join(lines.body)


@pytest.mark.parametrize(
    ("accept", "jsonl"),
    [
        ("", False),
        ("application/jsonl", True),
        ("application/json, application/jsonl", False),
        ("application/json;q=0.5, application/jsonl;q=0.9", True),
        ("Application/JSONL; q=1.0, application/json;q=0.9", True),
        ("application/jsonl;q=nan, */*", False),
    ],
)
def test_the_accept_header_chooses_between_json_and_json_lines(accept: str, jsonl: bool) -> None:
    assert prefers_jsonl(accept) is jsonl


def test_a_visit_reads_only_the_fields_that_it_shows_or_selects_by(state: State) -> None:
    state.ask("POST", ONE, {"fields": FIELDS})
    where = {"cluster": "content", "fieldSet": "[id]"}
    assert state.ask("GET", "/", b"", selection="music.embedding == null", **where)[1]["documentCount"] == 0
    assert state.ask("GET", "/", b"", selection="music.artist == 'Tom Waits'", **where)[1]["documents"] == [
        {"id": "id:space:music::one", "fields": {}}
    ]
