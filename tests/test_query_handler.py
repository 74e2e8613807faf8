"""The search API: result JSON, parameters, limits and errors as Vespa's."""

from __future__ import annotations

import base64
import json
import random
import string
from typing import Any

import numpy as np
import pytest
from query_support import VECTOR, Served, attribute, make_schema

from clipsearch.engine.http.messages import Request
from clipsearch.engine.package.model import Input, Phase, RankProfile
from clipsearch.engine.query.rendering import global_id
from clipsearch.engine.tensors import Tensor, parse_type

ALL = "select * from image where true"
NN = "select * from image where {targetHits:2}nearestNeighbor(embedding,q)"


def make_served(**options: Any) -> Served:
    inputs = {
        "q": Input("q", parse_type("tensor<float>(x[4])")),
        "alpha": Input("alpha", parse_type("tensor()"), "0.5"),
    }
    near = RankProfile(
        "near",
        inputs,
        first_phase=Phase("query(alpha) * closeness(field,embedding)"),
        match_features=("closeness(field,embedding)", "attribute(embedding)"),
        summary_features=("attribute(width)",),
    )
    engine = Served(make_schema(profiles=[near]), make_schema("song"), **options)
    for lid in range(5):
        cells = np.array([lid / 8, 0.5, 0, 0], np.float32)
        engine.put(
            lid,
            {
                "captions": ["river"] * (lid + 1),
                "title": "",
                "label": ["church", "airport"][lid % 2],
                "width": lid * 10,
                "picture": b"\xff\xd8jpeg",
                "embedding": Tensor(VECTOR, cells),
                "tags": {"sea": 3},
            },
        )
    engine.put(0, {"captions": ["a river song"], "label": "blues"}, schema="song")
    return engine


@pytest.fixture(scope="module")
def served() -> Served:
    return make_served()


def test_a_result_has_vespas_form(served: Served) -> None:
    status, root = served.get(yql=f"{ALL} and width = 40", ranking__profile="near", **{"input.query(q)": "[1,0,0,0]"})
    assert status == 200
    assert root == {
        "id": "toplevel",
        "relevance": 1.0,
        "fields": {"totalCount": 1},
        "coverage": {
            "coverage": 100, "documents": 5, "full": True, "nodes": 1, "results": 1, "resultsFull": 1,
        },
        "children": [
            {
                "id": "id:test:image::4",
                "relevance": 0.0,
                "source": "images",
                "fields": {
                    "matchfeatures": {
                        "closeness(field,embedding)": 0.0,
                        "attribute(embedding)": {"type": "tensor<bfloat16>(x[4])", "values": [0.5, 0.5, 0.0, 0.0]},
                    },
                    "summaryfeatures": {"attribute(width)": 40.0},
                    "sddocname": "image",
                    "documentid": "id:test:image::4",
                    "captions": ["river"] * 5,
                    "label": "church",
                    "width": 40,
                    "tags": {"sea": 3},
                    "picture": base64.b64encode(b"\xff\xd8jpeg").decode(),
                    "embedding": {"type": "tensor<bfloat16>(x[4])", "values": [0.5, 0.5, 0.0, 0.0]},
                },
            }
        ],
    }  # fmt: skip


def test_a_result_without_hits_has_no_children(served: Served) -> None:
    _, root = served.get(yql="select * from image where false")
    assert "children" not in root
    assert root["fields"] == {"totalCount": 0}
    _, root = served.get(yql="select * from image where true limit 0")
    assert "children" not in root
    assert root["fields"] == {"totalCount": 5}


def test_only_selected_fields_are_given_and_the_id_needs_the_document_id(served: Served) -> None:
    _, root = served.get(yql="select label, width from image where width = 10")
    (hit,) = root["children"]
    assert hit["fields"] == {"label": "airport", "width": 10}
    assert hit["id"] == f"index:images/0/{global_id('id:test:image::1')}"
    _, root = served.get(yql="select documentid from image where width = 10")
    assert root["children"][0]["id"] == "id:test:image::1"


def test_a_summary_class_gives_its_own_fields(served: Served) -> None:
    _, root = served.get(yql=f"{ALL} and width = 10", presentation__summary="short")
    assert root["children"][0]["fields"].keys() == {"sddocname", "label", "matchfeatures"}
    status, root = served.get(yql=ALL, summary="gone")
    assert status == 200
    assert root["errors"] == [
        {"code": 4, "summary": "Invalid query parameter", "message": "Summary 'gone' does not exist"}
    ]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("short", {"type": "tensor<bfloat16>(x[4])", "values": [0.125, 0.5, 0.0, 0.0]}),
        ("short-value", [0.125, 0.5, 0.0, 0.0]),
        ("hex-value", "3E003F0000000000"),
    ],
)
def test_tensors_are_rendered_in_the_form_that_is_asked_for(served: Served, form: str, expected: Any) -> None:
    _, root = served.get(yql=f"{ALL} and width = 10", format__tensors=form)
    assert root["children"][0]["fields"]["embedding"] == expected


def test_json_bodies_are_flattened_and_inputs_are_read_in_every_spelling(served: Served) -> None:
    bodies = [
        {"yql": NN, "ranking": "near", "input.query(q)": [1, 0, 0, 0], "input.query(alpha)": 1},
        {"yql": NN, "ranking": {"profile": "near", "features": {"query(q)": "[1,0,0,0]", "query(alpha)": "1.0"}}},
        {"yql": NN, "ranking.profile": "near", "input": {"query(q)": {"values": [1, 0, 0, 0]}, "query(alpha)": 1}},
    ]
    answers = [served.post(body) for body in bodies]
    assert [status for status, _ in answers] == [200] * 3
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][1]["children"][0]["relevance"] == pytest.approx(1 / 1.5)


def test_an_input_that_is_not_given_has_its_default(served: Served) -> None:
    _, root = served.post({"yql": NN, "ranking": "near", "input.query(q)": [1, 0, 0, 0]})
    assert root["children"][0]["relevance"] == pytest.approx(0.5 / 1.5)


def test_query_profiles_fill_in_what_the_request_leaves_out() -> None:
    profiles = {"default": {"presentation.format.tensors": "short-value"}, "two": {"hits": "2", "yql": ALL}}
    engine = make_served(query_profiles=profiles)
    _, root = engine.get(yql=ALL)
    assert root["children"][0]["fields"]["embedding"] == [0.0, 0.5, 0.0, 0.0]
    _, root = engine.get(queryProfile="two")
    assert len(root["children"]) == 2
    _, root = engine.get(queryProfile="two", hits=1)
    assert len(root["children"]) == 1


def test_user_queries_need_no_yql(served: Served) -> None:
    _, root = served.get(query="river -label:church", restrict="image")
    assert [hit["id"][-1] for hit in root["children"]] == ["3", "1"]
    _, root = served.post({"yql": "select * from image where userQuery()", "query": "song"})
    assert root["fields"]["totalCount"] == 0


def test_several_schemas_are_searched_together_and_restricted_by_name(served: Served) -> None:
    _, root = served.get(yql="select * from sources * where userInput('river')")
    assert {hit["fields"]["sddocname"] for hit in root["children"]} == {"image", "song"}
    scores = [hit["relevance"] for hit in root["children"]]
    assert scores == sorted(scores, reverse=True)
    for options in (
        {"yql": "select * from song where true"},
        {"yql": "select * from images where true", "restrict": "song"},
    ):
        assert served.get(**options)[1]["fields"]["totalCount"] == 1


def test_groups_count_the_documents_of_each_value(served: Served) -> None:
    _, root = served.get(yql=f"{ALL} limit 1 | all(group(label) order(-count()) each(output(count())))")
    group, hit = root["children"]
    assert hit["id"].startswith("id:test:image::")
    assert group == {
        "id": "group:root:0",
        "relevance": 1.0,
        "continuation": {"this": ""},
        "children": [
            {
                "id": "grouplist:label",
                "relevance": 1.0,
                "label": "label",
                "children": [
                    {"id": "group:string:church", "relevance": 1.0, "value": "church", "fields": {"count()": 3}},
                    {"id": "group:string:airport", "relevance": 0.5, "value": "airport", "fields": {"count()": 2}},
                ],
            }
        ],
    }


def test_timing_is_given_when_it_is_asked_for(served: Served) -> None:
    served.get(yql=ALL, presentation__timing="true")
    timing = served.whole["timing"]
    assert timing["searchtime"] == pytest.approx(timing["querytime"] + timing["summaryfetchtime"])
    served.get(yql=ALL)
    assert "timing" not in served.whole


@pytest.mark.parametrize(
    ("parameters", "status", "code", "message"),
    [
        ({"yql": "select"}, 400, 4, "Could not create query from YQL: query:L"),
        ({"yql": "select * from image where gone contains 'a'"}, 400, 4, "Field 'gone' does not exist."),
        ({"yql": "select * from image where picture contains 'a'"}, 400, 4, "Field 'picture' does not exist."),
        ({"yql": "select * from image where embedding contains 'a'"}, 400, 3, "cannot be searched by a term"),
        ({"yql": "select * from elsewhere where true"}, 400, 3, "Could not resolve source ref 'elsewhere'"),
        ({"yql": ALL, "ranking": "gone"}, 400, 4, "schema 'image' does not contain requested rank profile 'gone'"),
        ({"yql": ALL, "ranking": "gone", "input.query(q)": "[1]"}, 400, 3,
         "No profile named 'gone' exists in schemas [image]"),
        ({"yql": ALL, "queryProfile": "gone"}, 400, 3, "Could not resolve query profile 'gone'"),
        ({"yql": ALL, "timezone": "cet"}, 400, 3, "the query parameter 'timezone' is not supported"),
        ({"yql": ALL, "searchChain": "gone"}, 400, 4, "No search chain named 'gone' was found"),
        ({"yql": ALL, "timeout": "1us"}, 400, 3, "Could not set 'timeout' to '1us'"),
        ({"yql": ALL, "hits": "401"}, 400, 3, "401 hits requested, configured limit: 400."),
        ({"yql": f"{ALL} limit 401"}, 400, 4, "401 hits requested, configured limit: 400."),
        ({"yql": ALL, "offset": "1001"}, 400, 3, "configured limit: 1000."),
        ({"yql": ALL, "hits": "many"}, 400, 3, "'many' is not a valid integer"),
        ({"yql": ALL, "hits": "-1"}, 400, 3, "must not be negative"),
        ({"yql": ALL, "timeout": "soon"}, 400, 3, "Could not set 'timeout' to 'soon'"),
        ({"yql": NN, "ranking": "near"}, 400, 3,
         "NEAREST_NEIGHBOR {field=embedding,queryTensorName=q,targetHits=2} requires a tensor rank feature named "
         "'query(q)' but this is not present"),
        ({"yql": NN, "ranking": "near", "input.query(q)": "[1,2,3,4,5]"}, 400, 4,
         "Could not set 'ranking.features.query(q)'"),
        ({"yql": NN, "input.query(other)": "[1,2]"}, 400, 3,
         "Expected 'query(other)' to be a tensor, but it is a string."),
        ({"yql": NN.replace("{targetHits:2}", ""), "ranking": "near", "input.query(q)": "[1,0,0,0]"}, 400, 3,
         "must have either targetHits or totalTargetHits set"),
        ({"yql": NN.replace("embedding", "width"), "ranking": "near", "input.query(q)": "[1,0,0,0]"}, 400, 3,
         "field is not a tensor"),
        ({"yql": NN.replace("embedding", "captions"), "ranking": "near", "input.query(q)": "[1,0,0,0]"}, 400, 3,
         "field is not an attribute"),
        ({"yql": ALL, "filter": "+a"}, 400, 4, "model.filter without userQuery() is not supported by the local engine"),
        ({"yql": ALL, "language": "fr"}, 400, 3, "model.language 'fr' is not supported"),
        ({"yql": ALL, "format": "xml"}, 400, 3, "renders JSON only"),
        ({"yql": ALL, "format.tensors": "tiny"}, 400, 3, "not a tensor format"),
        ({}, 400, 3, "neither 'yql' nor 'query'"),
    ],
)  # fmt: skip
def test_errors_are_vespas(served: Served, parameters: dict[str, str], status: int, code: int, message: str) -> None:
    got, root = served.get(**{"restrict": "image", **parameters})
    assert got == status
    (error,) = root["errors"]
    assert error["code"] == code
    assert message in error["message"]
    assert error["summary"] == {3: "Illegal query", 4: "Invalid query parameter"}[code]
    assert root["fields"] == {"totalCount": 0}


@pytest.mark.parametrize("body", [b"{", b"[1]", b"\xff\xfe", b'"yql"'])
def test_a_body_that_is_no_json_object_is_refused(served: Served, body: bytes) -> None:
    response = served.handler.handle(Request("POST", "/search/", (), {}, body))
    assert response.status == 400


def test_without_an_application_there_is_no_backend() -> None:
    engine = make_served()
    engine.application = None
    status, root = engine.get(yql=ALL)
    assert status == 503
    assert root["errors"][0]["code"] == 10


def test_other_methods_are_refused(served: Served) -> None:
    assert served.handler.handle(Request("DELETE", "/search/")).status == 405


def test_a_document_removed_between_search_and_summary_is_a_hit_without_fields(served: Served) -> None:
    engine = make_served()
    del engine.store.documents["image", 2]
    status, root = engine.get(yql=ALL)
    assert status == 200
    assert sum("fields" not in hit for hit in root["children"]) == 1


def test_global_ids_are_vespas() -> None:
    # GlobalIdTest of Vespa: the first four bytes are the location, the next eight from the md5 of the whole id
    assert global_id("id:ns:mytype:n=1:abc")[:8] == "01000000"
    assert global_id("id:ns:mytype:g=abc:1")[:8] == global_id("id:other:mytype::abc")[:8]
    assert len(global_id("id:a:b::c:d")) == 24


def test_random_requests_never_fail_inside(served: Served) -> None:
    chance = random.Random(5)
    pieces = [
        *string.printable[:95],
        *("select ", "* from image where ", " and ", " or ", "contains ", "'river'", "captions ", "width ", "|"),
        *("nearestNeighbor(embedding,q)", "{targetHits:1}", "userInput(@text)", " in (1,2)", " limit 5", "rank("),
        *("all(group(label) each(output(count())))", "phrase('a','b')", ")", "-5", "é", "\u0000", "😀"),
    ]
    names = ["hits", "offset", "ranking", "text", "input.query(q)", "query", "type", "summary", "restrict", "timeout"]
    for _ in range(600):
        yql = "".join(chance.choices(pieces, k=chance.randint(0, 14)))
        if chance.random() < 0.7:
            yql = "select * from image where " + yql
        body = {"yql": yql} | {
            n: "".join(chance.choices(pieces, k=2)) for n in chance.sample(names, chance.randint(0, 3))
        }
        if chance.random() < 0.3:
            body.pop("yql")
        response = served.handler.handle(Request("POST", "/search/", (), {}, json.dumps(body).encode()))
        assert response.status in (200, 400), body
        assert isinstance(response.body, bytes)
        assert "root" in json.loads(response.body)


def test_a_source_that_is_named_twice_is_searched_once(served: Served) -> None:
    _, root = served.post({"yql": "select * from image, image where true", "sources": "image,images"})
    assert root["fields"]["totalCount"] == 6
    assert served.ids("select * from image, image where true") == [0, 1, 2, 3, 4]


def test_hits_of_several_document_types_are_sorted_together() -> None:
    served = Served(make_schema(year=attribute("year", "int")), make_schema("song", year=attribute("year", "string")))
    for lid, (width, label) in enumerate([(5, "b"), (None, "D"), (9, "a"), (7, "c"), (5, "e"), (None, "f")]):
        fields: dict[str, Any] = {"label": label, "year": lid} | ({} if width is None else {"width": width})
        schema = "song" if lid % 2 else "image"
        served.put(lid, {**fields, "year": str(lid)} if lid % 2 else fields, schema)
    everything = "select * from images where true order by "
    assert served.ids(everything + "label") == [2, 0, 3, 1, 4, 5]
    assert served.ids(everything + "width desc, label desc") == [2, 3, 4, 0, 5, 1]
    assert served.ids(everything + "width, label", hits=2, offset=1) == [5, 0]
    assert served.ids("select * from images where true", sorting="-raw(label)") == [5, 4, 3, 0, 2, 1]
    status, root = served.post({"yql": everything + "year"})
    assert (status, root["errors"][0]["code"]) == (400, 3)
    assert "a string in one document type and a number in another" in root["errors"][0]["message"]


@pytest.mark.parametrize(
    "where",
    ["true", "captions contains ({ranked: false}'river')", "!(captions contains 'sea')", "{filter: true}(width < 9)"],
)
def test_a_profile_without_first_phase_gives_0_where_nothing_is_ranked(where: str) -> None:
    served = Served(make_schema(profiles=[RankProfile("native")]))
    for lid in range(3):
        served.put(lid, {"captions": ["a river"], "width": lid})
    for query in (f"select * from image where {where}", f"select * from image where {where} | all(output(count()))"):
        status, root = served.get(yql=query, ranking="native")
        assert (status, root["fields"]["totalCount"]) == (200, 3)
        assert {hit["relevance"] for hit in root["children"] if hit["id"].startswith("id:")} == {0.0}


@pytest.mark.parametrize(
    "query",
    [
        "captions contains 'river'",
        "width = 1",
        "rank(true, captions contains 'river')",
        "weightedSet(tags, {'a': 1})",
        "dotProduct(tags, {'a': 1})",
        "captions contains 'river' limit 0 | all(group(label) each(output(count())))",
    ],
)
def test_a_profile_without_first_phase_is_refused_where_native_rank_would_rank(query: str) -> None:
    served = Served(make_schema(profiles=[RankProfile("native")]))
    served.put(0, {"captions": ["a river"], "width": 1, "label": "x", "tags": {"a": 1}})
    status, root = served.get(yql=f"select * from image where {query}", ranking="native")
    assert status == 400
    assert "nativeRank, which is not supported by the local engine" in root["errors"][0]["message"]


@pytest.mark.parametrize("name", ["ranking.rerankCount", "ranking.globalPhase.rerankCount"])
def test_a_negative_rerank_count_is_refused(served: Served, name: str) -> None:
    status, root = served.post({"yql": "select * from image where true", name: -1})
    assert (status, root["errors"][0]["code"]) == (400, 3)
