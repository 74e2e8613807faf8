"""The search client against a recorded stand-in: results, errors as sentences, documents read back."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fake_vespa import DIM, FakeVespa, serve_fake, unit

from clipsearch.errors import CheckpointError, InputError, RejectedError, UnreachableError
from clipsearch.search import Filters, QueryEncoder, SearchClient, by_profile, hybrid, lexical, query, vector
from clipsearch.search.answers import read_facets, read_hit, read_vector
from clipsearch.search.explain import as_json


@pytest.fixture
def fake() -> Iterator[FakeVespa]:
    with serve_fake() as server:
        server.add("river.jpg", ["a river with a bridge"], seed=1, label="river")
        server.add("stadium.jpg", ["a stadium next to a river", "a stadium"], seed=2, label="stadium")
        server.add("tanks.jpg", ["storage tanks"], seed=3, corpus="other")
        yield server


@pytest.fixture
def client(fake: FakeVespa) -> Iterator[SearchClient]:
    with SearchClient(fake.url) as client:
        yield client


def test_hits_carry_their_lexical_and_semantic_parts(client: SearchClient) -> None:
    request = hybrid("stadium", unit(2))
    results = client.search(request)
    best = results.hits[0]
    assert best.id == "id:demo:image::stadium.jpg"
    assert best.lexical == 2.0
    assert best.semantic == pytest.approx(1.0)
    assert best.fields["captions"] == ["a stadium next to a river", "a stadium"]
    assert not {"matchfeatures", "sddocname", "documentid", "thumbnail", "embedding"} & set(best.fields)
    assert results.total == 3
    assert results.request == request
    assert results.seconds > 0


def test_the_body_is_sent_unchanged(client: SearchClient, fake: FakeVespa) -> None:
    request = lexical("a river", filters=Filters(corpus="demo"), hits=5)
    client.search(request)
    assert fake.queries == [request]


def test_filters_restrict(client: SearchClient) -> None:
    found = client.search(by_profile("lexical", "storage tanks river", None, filters=Filters(corpus="other")))
    assert [hit.id for hit in found.hits] == ["id:other:image::tanks.jpg"]


def test_the_embedding_of_what_is_not_there_says_so(client: SearchClient) -> None:
    with pytest.raises(InputError, match=r"no image id:demo:image::gone.jpg is in the index"):
        client.embedding("id:demo:image::gone.jpg")


@pytest.mark.parametrize(
    "bad", ["", "river.jpg", "id:demo:image::", "id:demo:image::../../etc", "id:demo:image::a/b", "id:demo:text::a"]
)
def test_only_ids_of_images_reach_a_path(client: SearchClient, fake: FakeVespa, bad: str) -> None:
    with pytest.raises(InputError, match="not the id of an image"):
        client.get(bad)
    assert fake.requests == []


def test_thumbnail_and_embedding_come_out_of_the_document(client: SearchClient, fake: FakeVespa) -> None:
    thumbnail = client.thumbnail("id:demo:image::river.jpg")
    assert thumbnail is not None
    assert thumbnail.startswith(b"\xff\xd8")
    assert client.thumbnail("id:demo:image::gone.jpg") is None
    assert np.allclose(client.embedding("id:demo:image::river.jpg"), unit(1))
    assert "fieldSet=image%3Athumbnail" in fake.requests[0][1]


def test_document_count_can_be_of_one_corpus(client: SearchClient) -> None:
    assert client.document_count() == 3
    assert client.document_count("other") == 1


def test_a_vector_of_another_size_is_refused_before_it_is_padded(client: SearchClient, fake: FakeVespa) -> None:
    with pytest.raises(CheckpointError, match=rf"vectors of 4 numbers.*holds vectors of {DIM}"):
        client.search(vector(unit(1, 4)))
    assert not any("input.query(q)" in query for query in fake.queries)


def test_a_new_application_with_another_size_is_noticed(client: SearchClient, fake: FakeVespa) -> None:
    assert client.vector_size() == DIM
    fake.documents.clear()
    fake.dim = 4
    fake.add("new.jpg", ["new"], seed=9)
    assert len(client.search(vector(unit(9, 4))).hits) == 1


def test_an_empty_index_has_no_size_and_no_hits(client: SearchClient, fake: FakeVespa) -> None:
    fake.documents.clear()
    assert client.vector_size() is None
    assert client.search(vector(unit(1))).hits == ()


def test_an_error_reply_is_raised_in_the_endpoints_words(client: SearchClient, fake: FakeVespa) -> None:
    error = {"code": 4, "summary": "Invalid query parameter", "message": "Field 'x' does not exist."}
    fake.answer = lambda method, path, body: (400, {"root": {"errors": [error]}})
    with pytest.raises(RejectedError, match=r"HTTP 400: Field 'x' does not exist.") as caught:
        client.search(lexical("river"))
    assert caught.value.status == 400


def test_errors_beside_hits_are_raised_too(client: SearchClient, fake: FakeVespa) -> None:
    error = {"code": 4, "summary": "Invalid query parameter", "message": "Summary 'hit' does not exist"}
    fake.answer = lambda method, path, body: (200, {"root": {"errors": [error], "children": []}})
    with pytest.raises(RejectedError, match="Summary 'hit'"):
        client.search(lexical("river"))


def test_nobody_there_names_the_url_and_what_to_do(free_port: Callable[[], int]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with SearchClient(url) as client, pytest.raises(UnreachableError) as caught:
        client.search(lexical("river"))
    assert url in str(caught.value)
    assert "clipsearch engine --data" in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://x", "http://"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="not the URL of an endpoint"):
        SearchClient(url)


def test_one_client_serves_many_threads(client: SearchClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: client.search(lexical(f"river {n}")).total, range(64)))
    assert answers == [2] * 64


@pytest.mark.parametrize(
    "value",
    [
        [0.5, -1.0],
        {"type": "tensor<bfloat16>(x[2])", "values": [0.5, -1.0]},
        {"type": "tensor<bfloat16>(x[2])", "values": "3F00BF80"},
        {"type": "tensor<float>(x[2])", "values": "3F000000BF800000"},
        "3F00BF80",
    ],
)
def test_a_stored_vector_is_read_in_every_form(value: object) -> None:
    assert read_vector(value).tolist() == [0.5, -1.0]


@pytest.mark.parametrize("relevance", ["-Infinity", "Infinity", "NaN", None])
def test_a_relevance_that_json_cannot_hold_is_0(client: SearchClient, fake: FakeVespa, relevance: str | None) -> None:
    child = {
        "id": "id:demo:image::a",
        "relevance": relevance,
        "fields": {"matchfeatures": {"bm25(captions)": relevance}},
    }
    fake.answer = lambda method, path, body: (200, {"root": {"fields": {"totalCount": 1}, "children": [child]}})
    results = client.search(lexical("a river"))
    assert (results.hits[0].relevance, results.hits[0].lexical) == (0, 0)
    json.dumps(as_json(results), allow_nan=False)


@pytest.mark.parametrize("answer", [(404, {"message": "Nothing here"}), (302, {}), (200, {"hello": "world"})])
def test_a_server_that_is_not_vespa_is_told_from_an_empty_index(
    client: SearchClient, fake: FakeVespa, answer: tuple[int, dict[str, str]]
) -> None:
    fake.answer = lambda method, path, body: answer
    with pytest.raises(UnreachableError, match="not a Vespa container"):
        client.search(lexical("a river"))
    if answer[0] != 200:
        with pytest.raises(UnreachableError, match="not a Vespa container"):
            client.get("id:demo:image::river.jpg")


class CountingModel:
    """Encodes a text by its length and counts how often it is asked."""

    model_id, dim = "counting", 2

    def __init__(self) -> None:
        self.calls = 0

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        self.calls += 1
        return np.array([[len(text), 0.0] for text in texts])

    def embed_images(self, images: list[np.ndarray]) -> np.ndarray:
        self.calls += 1
        return np.array([[0.0, image.shape[0]] for image in images])


def test_the_encoder_remembers_recent_texts_only() -> None:
    model = CountingModel()
    encoder = QueryEncoder(model, remember=2)
    for text in ("a", "bb", "a", "ccc", "a"):
        encoder.text(text)
    assert model.calls == 3
    encoder.text("bb")
    assert model.calls == 4
    assert encoder.image(np.zeros((7, 5, 3), np.uint8)).tolist() == [0.0, 7.0]


def test_a_connection_that_the_server_closed_while_idle_is_no_error() -> None:
    """httpr does not notice that a pooled connection is closed until it sends: each second request failed."""
    reply = b'{"root": {"fields": {"totalCount": 7}}}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(reply)

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:  # answers once, promises to keep the connection, and closes it
                    connection.recv(65536)
                    connection.sendall(head + reply)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        with SearchClient(f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
            for _ in range(4):
                assert client.search(lexical("river")).total == 7
                time.sleep(0.05)
        listening.shutdown(socket.SHUT_RDWR)


def test_facets_are_read_in_every_form_and_documents_without_a_value_are_left_out() -> None:
    def group(value: str, count: int) -> dict[str, Any]:
        return {"id": f"group:string:{value}", "value": value, "fields": {"count()": count}}

    bucket = {"id": "group:long_bucket:320:1024", "limits": {"from": "320", "to": "1024"}, "fields": {"count()": 2}}
    root = {
        "id": "group:root:0",
        "children": [
            {"id": "grouplist:label", "label": "label", "children": [group("b", 2), group("", 9), group("a", 2)]},
            {"id": "grouplist:size", "label": "size", "children": [group("null", 3), bucket]},
        ],
    }
    facets = read_facets([{"id": "id:demo:image::a"}, root])
    assert facets == {"corpus": {}, "label": {"a": 2, "b": 2}, "split": {}, "size": {"medium": 2}}
    assert list(facets["label"]) == ["a", "b"]
    assert read_facets([{"id": "id:demo:image::a"}]) == {}


@pytest.mark.parametrize(
    ("closest", "box"),
    [
        ({"0-333-333-667": 1.0}, (0.0, 0.333, 0.333, 0.667)),
        ({"type": "tensor<float>(patch{})", "cells": {"0-0-1000-500": 1.0}}, (0.0, 0.0, 1.0, 0.5)),
        ({}, None),
        ({"whole": 1.0}, None),
        (None, None),
    ],
)
def test_the_winning_patch_is_read_off_its_label(closest: Any, box: tuple[float, ...] | None) -> None:
    features = {"closest(patches)": closest, "closeness(field,patches)": 0.5}
    hit = read_hit({"id": "id:demo:image::a", "relevance": 0.5, "fields": {"matchfeatures": features}})
    assert (hit.box, hit.semantic) == (box, 0.5)


def test_an_application_without_patches_says_how_to_get_them(fake: FakeVespa) -> None:
    refused = {"root": {"errors": [{"code": 4, "message": "schema 'image' does not contain the profile"}]}}
    fake.answer = lambda method, path, body: (400, refused) if "patches" in str(body.get("yql")) else None
    with SearchClient(fake.url) as client, pytest.raises(CheckpointError, match="has no patches: deploy"):
        client.search(query.patches(unit(1), "m"))


def test_an_encoder_takes_several_images_at_once_and_passes_on_the_models_logit_scale() -> None:
    class Model:
        model_id, dim = "m", 2

        def embed_texts(self, texts: list[str]) -> np.ndarray:
            return np.ones((len(texts), 2))

        def embed_images(self, images: list[np.ndarray]) -> np.ndarray:
            return np.stack([np.full(2, image.mean()) for image in images])

    model: Any = Model()
    vectors = QueryEncoder(model).images([np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8)])
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[0, 0], [1, 1]]
    assert QueryEncoder(model).logit_scale == 100
    model.logit_scale = 14.3
    assert QueryEncoder(model).logit_scale == 14.3
