"""Indexing statements as they run: what a fed document holds afterwards, and what is made beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_package_constructs import SERVICES

from clipsearch.engine.engine import Engine
from clipsearch.engine.http.messages import Request
from clipsearch.engine.index.documents import FieldValue
from clipsearch.engine.package import load_package, write_zip
from clipsearch.engine.package.indexing import parse_indexing, parse_source
from clipsearch.engine.package.model import Schema
from clipsearch.engine.package.synthetic import for_document, for_update, stored_for, with_synthetic
from clipsearch.errors import DocumentError, ExpressionError, PackageError


def package(document: str = "", schema: str = "") -> dict[str, bytes]:
    held = f"document song {{\nfield title type string {{ indexing: summary | index }}\n{document}\n}}"
    text = f"schema song {{\n{held}\n{schema}\n}}"
    return {"services.xml": SERVICES.encode(), "schemas/song.sd": text.encode()}


def song(document: str = "", schema: str = "") -> Schema:
    return load_package(package(document, schema)).schemas["song"]


def made(statement: str, kind: str, given: FieldValue | None, given_kind: str = "string") -> FieldValue | None:
    """What field ``made`` outside the document gets from ``given`` in the field ``a``."""
    schema = song(
        f"field a type {given_kind} {{ indexing: summary }}\nfield b type string {{ indexing: summary }}",
        f"field made type {kind} {{ indexing: {statement} | attribute }}",
    )
    fields: dict[str, FieldValue] = {} if given is None else {"a": given}
    return with_synthetic(schema, fields).get("made")


@pytest.mark.parametrize(
    ("statement", "kind", "given", "expected"),
    [
        ("input a | lowercase", "string", "ÄB c", "äb c"),
        ("input a | trim", "string", " \t x y\n", "x y"),
        ("input a | normalize", "string", "Crème Brûlée", "Creme Brulee"),
        ("input a | substring 1 3", "string", "abcd", "bc"),
        ("input a | substring 3 9", "string", "abcd", "d"),
        ('input a . "-" . input a', "string", "x", "x-x"),
        ('input a . " " . input b', "string", "x", None),
        ('(input b || "none") . ": " . (input a || "none")', "string", "x", "none: x"),
        ('input b || input a', "string", "x", "x"),
        ('input a | split ";"', "array<string>", "a; b;;c;;", ["a", " b", "", "c"]),
        ('input a | split ";"', "array<string>", ";;", []),
        ('input a | split "\\\\s*,\\\\s*"', "array<string>", "a , b,c", ["a", "b", "c"]),
        ('input a | split ";" | for_each { trim | lowercase }', "array<string>", " A;B ", ["a", "b"]),
        ('input a | split "," | for_each { _ . "!" } | join " "', "string", "a,b", "a! b!"),
        ("input a | to_array", "array<string>", "x", ["x"]),
        ("input a | to_int", "int", "42", 42),
        ("input a | to_long", "long", "-9000000000", -9000000000),
        ("input a | to_double", "double", "1.5", 1.5),
        ("input a | to_float", "float", "0.1", 0.10000000149011612),
        ("input a | (lowercase | trim)", "string", " X ", "x"),
    ],
)  # fmt: skip
def test_a_statement_makes_what_vespa_makes(statement: str, kind: str, given: str, expected: FieldValue | None) -> None:
    assert made(statement, kind, given) == expected


def test_numbers_and_arrays_are_turned_into_text() -> None:
    assert made("input a | to_string", "string", 7, "int") == "7"
    assert made('"year " . input a', "string", 7, "int") == "year 7"
    assert made('"live: " . input a', "string", True, "bool") == "live: true"
    assert made('input a | join ", "', "string", ["x", "y"], "array<string>") == "x, y"
    assert made("input a . input a", "array<string>", ["x"], "array<string>") == ["x", "x"]


def test_a_missing_value_makes_nothing() -> None:
    assert made("input a | lowercase", "string", None) is None
    assert made('input a | split ";"', "array<string>", None) is None


def test_text_that_is_no_number_is_refused_with_field_and_statement() -> None:
    with pytest.raises(DocumentError, match=r"field 'made', indexing 'input a \| to_int'"):
        made("input a | to_int", "int", "many")
    with pytest.raises(DocumentError, match="does not fit int"):
        made("input a | to_int", "int", "9999999999")


def test_a_pattern_that_could_take_very_long_is_refused_at_deploy_or_at_the_value() -> None:
    with pytest.raises(PackageError, match="repetitions of a group"):
        made('input a | split "(a+)+b"', "array<string>", "a")
    with pytest.raises(DocumentError, match="too many repetitions"):
        made('input a | split "a*a*a*a*b"', "array<string>", "a" * 10_000)


def test_document_fields_are_changed_before_they_are_stored() -> None:
    schema = song(
        "field low type string { indexing: lowercase | attribute }\n"
        'field kind type string { indexing: (input kind || "plain") | attribute }\n'
        "field fed type long { indexing: now | attribute }"
    )
    before = int(time.time())
    stored = for_document(schema, {"title": "A Song", "low": "ABC"})
    assert (stored["title"], stored["low"], stored["kind"]) == ("A Song", "abc", "plain")
    assert isinstance(stored["fed"], int)
    assert before <= stored["fed"] <= time.time()
    assert for_update(schema.fields["low"], "XYZ") == "xyz"
    assert for_update(schema.fields["title"], "XYZ") == "XYZ"


def test_a_computed_field_needs_what_it_is_computed_from() -> None:
    schema = song("", 'field both type string { indexing: input title . "/" . input title | summary }')
    assert stored_for(schema, ["both"]) == {"title"}
    assert stored_for(schema, ["title", "documentid"]) == {"title", "documentid"}
    assert "both" not in with_synthetic(schema, {"title": "x"}, ["title"])


@pytest.mark.parametrize(
    "text",
    [
        "input a | lowercase",
        'input a . " " . (input b || "none") | embed clip | attribute',
        'input a | split ";\\"x\\\\" | for_each { trim | _ . "!" }',
        "input a | binarize 0.5 | pack_bits",
        "input a | substring 1 2",
    ],
)
def test_a_source_prints_as_text_that_reads_as_itself(text: str) -> None:
    source = parse_source(text)
    assert parse_source(str(source)) == source


def test_statements_may_break_lines_around_their_pipes_and_hold_braces_in_quotes() -> None:
    schema = song(
        "",
        "field x type string {\n indexing: input title |\n lowercase\n | attribute\n match: word\n }\n"
        'field y type array<string> { indexing { input title | split "}" | for_each { trim } | attribute; } }',
    )
    assert schema.fields["x"].source == "input title | lowercase"
    assert schema.fields["x"].attribute
    assert with_synthetic(schema, {"title": "a } b"})["y"] == ["a", "b"]


def test_statements_that_disagree_on_the_value_are_refused() -> None:
    with pytest.raises(ExpressionError, match="conflicting values"):
        parse_indexing("summary; lowercase | attribute", "a", True)
    with pytest.raises(ExpressionError, match="conflicting values"):
        parse_indexing("attribute | lowercase | index", "a", True)
    assert parse_indexing("input a | lowercase | summary; lowercase | index", "a", True).index


def test_statements_nested_without_end_are_refused() -> None:
    for text in ("(" * 5000 + "now" + ")" * 5000, "for_each { " * 3000 + "trim" + " }" * 3000):
        with pytest.raises(ExpressionError, match="nested deeper than 50 levels"):
            parse_indexing(f"input a | {text} | attribute", "b", False)
    assert parse_indexing("(" * 40 + "now" + ")" * 40 + " | attribute", "a", True).attribute


WORDS = """input a | . || ; ( ) { } for_each trim split now _ embed clip binarize 0.5 set_language attribute index b
    ';' 'x "en" "\\" \\ é"""


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(WORDS.split()), max_size=14))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    try:
        source = parse_indexing(" ".join(words), "b", False).source
    except ExpressionError:
        return
    if source is not None:
        assert parse_source(str(source)) == source


# ---- in the engine


class Served:
    """An engine on a folder, asked through its handlers."""

    def __init__(self, folder: Path) -> None:
        self.engine = Engine(folder)

    def ask(self, method: str, path: str, body: Any = b"", **parameters: str) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        request = Request(method, path, tuple(parameters.items()), {"content-type": "application/zip"}, content)
        deploy = path.startswith("/application/")
        answer: Any = (self.engine.deploy if deploy else self.engine.container).handle(request)
        answer = answer.result() if hasattr(answer, "result") else answer
        return answer.status, orjson.loads(answer.body)

    def deploy(self, files: dict[str, bytes]) -> tuple[int, Any]:
        return self.ask("POST", "/application/v2/tenant/default/prepareandactivate", write_zip(files))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    engine = Served(tmp_path)
    yield engine
    engine.engine.close()


def test_fields_that_are_computed_are_stored_searched_and_shown(served: Served) -> None:
    files = package(
        "field code type string { indexing: lowercase | attribute | summary }\n"
        "field loud type byte { indexing: attribute | summary }",
        'field all type string { indexing: input title . " by " . input code | index | summary }\n'
        "fieldset default { fields: all }",
    )
    assert served.deploy(files)[0] == 200
    fields = {"title": "Boats", "code": "ABBA", "loud": -3}
    assert served.ask("POST", "/document/v1/t/song/docid/1", {"fields": fields})[0] == 200
    stored = served.ask("GET", "/document/v1/t/song/docid/1")[1]["fields"]
    assert stored == {"title": "Boats", "code": "abba", "loud": -3}
    yql = "select all, loud from song where default contains 'boat' and all contains 'abba' and loud < 0"
    status, answer = served.ask("GET", "/search/", yql=yql, ranking="unranked")
    assert status == 200, answer
    assert answer["root"]["children"][0]["fields"] == {"all": "Boats by abba", "loud": -3}
    update = {"fields": {"code": {"assign": "QUEEN"}}}
    assert served.ask("PUT", "/document/v1/t/song/docid/1", update)[0] == 200
    assert served.ask("GET", "/document/v1/t/song/docid/1")[1]["fields"]["code"] == "queen"
    status, answer = served.ask(
        "GET", "/search/", yql="select all from song where all contains 'queen'", ranking="unranked"
    )
    assert answer["root"]["children"][0]["fields"] == {"all": "Boats by queen"}
    assert served.ask("POST", "/document/v1/t/song/docid/2", {"fields": {"loud": 128}})[0] == 400


def test_prepare_refuses_what_deploy_would_and_the_generation_outlives_the_engine(
    served: Served, tmp_path: Path
) -> None:
    session = "/application/v2/tenant/default/session"
    assert served.deploy(package("field year type int { indexing: attribute }"))[1]["session-id"] == "2"
    changed = write_zip(package("field year type string { indexing: attribute }"))
    assert served.ask("POST", session, changed)[1]["session-id"] == "3"
    status, answer = served.ask("PUT", f"{session}/3/prepared")
    assert (status, answer["error-code"]) == (400, "INVALID_APPLICATION_PACKAGE")
    assert "field-type-change: Document type 'song': Field 'year' changed" in answer["message"]
    wrong = package(schema="rank-profile p { first-phase { expression: bm25(nothing) } }")
    assert served.ask("POST", session, write_zip(wrong))[0] == 400
    assert (
        served.deploy(
            package("field year type int { indexing: attribute }\nfield more type int { indexing: summary }")
        )[0]
        == 200
    )
    generation = served.engine.deploy._deployments.generation
    assert generation > 3
    served.engine.close()
    served.engine = Engine(tmp_path)
    assert served.engine.deploy._deployments.generation == generation
    answer = served.ask("POST", session, changed)[1]
    assert answer["session-id"] == str(generation + 1)
