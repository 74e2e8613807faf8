"""Every construct of application packages that a search engineer reaches for: read, or refused by name at its line."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

import pytest

from clipsearch.engine.engine import compile_programs
from clipsearch.engine.index import Index
from clipsearch.engine.package import deploy_warnings, load_package, read_folder
from clipsearch.engine.package.model import Schema
from clipsearch.errors import PackageError

SERVICES = """
<services version="1.0">
  <container id="default" version="1.0"><search/><document-api/>
    <config name="ai.vespa.opennlp.open-nlp"><snowballStemmingForEnglish>true</snowballStemmingForEnglish></config>
  </container>
  <content id="c" version="1.0"><documents><document type="song" mode="index"/></documents></content>
</services>
"""
FIELDS = """\
field title type string {
    indexing: index | summary
    index: enable-bm25
}
field year type int { indexing: attribute | summary }
field vector type tensor<float>(x[16]) { indexing: attribute }
field tags type array<string> { indexing: attribute | summary }
"""
MORE = {
    "constants/weights.json": '{"values": [1, 2]}',
    "constants/rows.json": '{"cells": [{"address": {"key": "a"}, "value": 3}]}',
}


def song(document: str = "", schema: str = "", profile: str = "") -> Schema:
    """A schema with what is given in its document, beside it, and in a rank profile: compiled and indexable."""
    ranked = f"rank-profile p {{\n{profile}\n}}" if profile else ""
    held = f"document song {{\n{indent(FIELDS, '        ')}{document}\n}}"
    text = f"schema song {{\n{held}\n{schema}\n{ranked}\n}}\n"
    files = {"services.xml": SERVICES, "schemas/song.sd": text, **MORE}
    package = load_package({path: content.encode() for path, content in files.items()})
    compile_programs(package)
    Index(package.schemas["song"], package.snowball_english)
    return package.schemas["song"]


IN_DOCUMENT = [
    "field a type string { indexing: attribute | summary }",
    "field a type array<string> { indexing: index | attribute | summary }",
    "field a type byte { indexing: attribute }",
    "field a type int { indexing: attribute }",
    "field a type long { indexing: attribute }",
    "field a type float { indexing: attribute }",
    "field a type double { indexing: attribute }",
    "field a type bool { indexing: attribute }",
    "field a type raw { indexing: summary }",
    "field a type array<double> { indexing: attribute }",
    "field a type weightedset<string> { indexing: attribute }",
    "field a type weightedset<int> { indexing: attribute }",
    "field a type tensor(x[2]) { indexing: attribute }",
    "field a type tensor<bfloat16>(x[2],y[3]) { indexing: attribute }",
    "field a type tensor<int8>(p{},x[2]) {\n indexing: attribute | index\n attribute { distance-metric: hamming } }",
    "field a type tensor<float>(k{}) { indexing: attribute | summary }",
    'field a type string { indexing: "en" | set_language }',
    "field a type string { indexing: lowercase | attribute | summary }",
    "field a type string { indexing: trim | lowercase | index }",
    'field a type array<string> { indexing: for_each { trim . "!" } | attribute }',
    "field a type long { indexing: now | attribute | summary }",
    'field a type string { indexing: (input a || "none") | attribute }',
    "field a type string { indexing { attribute; summary; } }",
    "field a type string {\n indexing: index\n match: text\n normalizing: none\n stemming: none\n }",
    "field a type string {\n indexing: attribute\n match { word cased }\n dictionary { hash cased }\n }",
    "field a type string {\n indexing: attribute\n attribute: fast-search\n attribute: paged\n rank: filter\n }",
    "field a type string {\n indexing: index\n match: exact\n }",
    "field a type int {\n indexing: attribute\n dictionary: btree\n id: 7\n }",
    "compression {\n type: lz4\n }",
]
BESIDE = [
    'field b type string { indexing: input title . " " . input title | index | summary }',
    "field b type string { indexing: input year | to_string | attribute }",
    'field b type array<string> { indexing: input title | split ";" | for_each { trim } | attribute }',
    "field b type array<string> { indexing: input title | to_array | attribute }",
    'field b type string { indexing: input tags | join ", " | lowercase | index }',
    'field b type string { indexing: (input title || "") . ": " . (input title || "") | summary | index }',
    "field b type string { indexing: input title | substring 0 3 | normalize | attribute }",
    "field b type tensor<int8>(x[2]) { indexing: input vector | binarize 0.25 | pack_bits | attribute | index }",
    "field b type tensor<float>(x[16]) { indexing: input vector | binarize | attribute }",
    "field b type tensor<int8>(x[2]) { indexing: input vector | pack_bits | attribute }",
    "fieldset default { fields: title }",
    "document-summary s {\n summary title {}\n summary shown { source: year }\n from-disk\n }",
    "document-summary s { summary title {} }\n document-summary t inherits s, default { summary year type int {} }",
    "constant weights {\n file: constants/weights.json\n type: tensor<float>(x[2])\n }",
    "stemming: none",
    "raw-as-base64-in-summary: true",
    "rank-profile a { }\n rank-profile b { }\n rank-profile c inherits a, b { }",
]
IN_PROFILE = [
    "inputs { query(q) tensor<float>(x[2]): [1, 2]\n query(a) double: 0.5\n query(b) int: 3 }",
    "function f(x, y) { expression: x * y }\n first-phase { expression: f(2, bm25(title)) }",
    "function inline f() { expression: 1 }",
    "constants { pi: 3.14\n w tensor(x[2]): [1,2]\n r tensor(key{}): file: constants/rows.json }",
    "constant r {\n file: constants/rows.json\n type: tensor(key{})\n }\n first-phase { expression: sum(constant(r)) }",
    "first-phase {\n keep-rank-count: 10\n rank-score-drop-limit: 0.1\n expression: bm25(title)\n }",
    "first-phase { expression: 1 }\n second-phase {\n rerank-count: 10\n expression: firstPhase\n }",
    "first-phase { expression: 1 }\n second-phase {\n total-rerank-count: 10\n expression: 2\n }",
    "first-phase { expression: 1 }\n global-phase {\n rerank-count: 5\n expression: normalize_linear(bm25(title))\n }",
    "first-phase { expression { if (attribute(year) > 2000, 1, 0) } }",
    "match-features: bm25(title) attribute(year)",
    "summary-features {\n bm25(title)\n }",
    "rank-properties {\n bm25(title).k1: 1.5\n }",
    "rank-properties { vespa.matching.numthreadspersearch: 2 }",
    "num-threads-per-search: 4\n min-hits-per-thread: 100\n num-search-partitions: 2\n termwise-limit: 0.5",
    "approximate-threshold: 0.1\n post-filter-threshold: 0.5\n ignore-default-rank-features",
]


@pytest.mark.parametrize("text", IN_DOCUMENT)
def test_a_document_may_hold(text: str) -> None:
    song(document=text)


@pytest.mark.parametrize("text", BESIDE)
def test_a_schema_may_hold(text: str) -> None:
    song(schema=text)


@pytest.mark.parametrize("text", IN_PROFILE)
def test_a_rank_profile_may_hold(text: str) -> None:
    song(profile=text)


# Each text begins on its line 1; the number is the line that the refusal must name.
REFUSED_IN_DOCUMENT = [
    ("struct s {\n field x type int {}\n }", 1, "'struct'"),
    ("field a type s {}", 1, "field type 's'"),
    ("field a type map<string,int> { indexing: summary }", 1, "field type 'map'"),
    ("field a type array<tensor(x[2])> {}", 1, "'array<tensor(x[2])>'"),
    ("field a type position { indexing: attribute }", 1, "field type 'position'"),
    ("field a type predicate { indexing: attribute }", 1, "field type 'predicate'"),
    ("field a type reference<song> { indexing: attribute }", 1, "field type 'reference'"),
    ("field a type uri { indexing: index }", 1, "field type 'uri'"),
    ("field a type tensor<float>(x[2]) {\n\n indexing: attribute | tokenize\n }", 3, "indexing 'tokenize'"),
    ("field a type string {\n indexing: index | ngram 2\n }", 2, "indexing 'ngram'"),
    ("field a type string { indexing: if (1 < 2) { index } }", 1, "'if'"),
    ("field a type int { indexing: input a + 1 | attribute }", 1, "'+' in indexing 'input a + 1 | attribute'"),
    ("field a type int { indexing: random 5 | attribute }", 1, "indexing 'random'"),
    ("field a type string { indexing: to_wset | attribute }", 1, "indexing 'to_wset'"),
    ('field a type string { indexing: "no" | set_language }', 1, "language 'no'"),
    ("field a type string {\n indexing: index\n match: gram\n }", 3, "match setting 'gram'"),
    ("field a type string {\n indexing: attribute\n match: prefix\n }", 3, "match setting 'prefix'"),
    ("field a type string {\n indexing: index\n match {\n substring\n }\n }", 4, "match setting 'substring'"),
    ('field a type string {\n indexing: index\n match { exact-terminator: "@" }\n }', 3, "'exact-terminator: @'"),
    ("field a type string {\n indexing: index\n rank: literal\n }", 3, "rank setting 'literal'"),
    ("field a type string {\n indexing: index\n rank-type: tags\n }", 3, "'rank-type: tags'"),
    ("field a type string {\n indexing: index\n weight: 300\n }", 3, "'weight: 300'"),
    ("field a type string {\n indexing: index\n bolding: on\n }", 3, "'bolding: on'"),
    ("field a type string {\n indexing: index\n summary: dynamic\n }", 3, "'summary: dynamic'"),
    ("field a type string {\n indexing: index\n alias: b\n }", 3, "'alias: b'"),
    ("field a type string {\n indexing: attribute\n sorting: descending\n }", 3, "'sorting: descending'"),
    ("field a type string {\n indexing: attribute\n dictionary: cased\n }", 3, "'dictionary: cased'"),
    ("field a type string {\n indexing: attribute\n linguistics { profile: x }\n }", 3, "'linguistics'"),
    ("field a type tensor(x[2]) {\n indexing: attribute | index\n index { hnsw { wide: 2 } }\n }", 3, "'wide: 2'"),
]
REFUSED_BESIDE = [
    ("import field other.name as name {}", 1, "'import'"),
    ("index title { stemming: none }", 1, "'index'"),
    ("annotation person { }", 1, "'annotation'"),
    ("onnx-model m {\n file: m.onnx\n input x: y\n }", 1, "'onnx-model'"),
    ("\nstruct s {\n field x type int {}\n }", 2, "'struct'"),
    ("fieldset f {\n fields: title\n match: gram\n }", 3, "'match'"),
    ("document-summary s {\n summary title {\n dynamic\n }\n }", 3, "'dynamic'"),
    ("document-summary s {\n summary title {\n bolding: on\n }\n }", 3, "'bolding'"),
    ("document-summary s {\n summary title {}\n compact\n }", 3, "'compact'"),
    ("raw-as-base64-in-summary: false", 1, "'raw-as-base64-in-summary: false'"),
    ("constant w { uri: http/x\n type: tensor(x[2]) }", 1, "'uri'"),
    ("constant w { file: constants/w.tbf\n type: tensor(x[2]) }", 1, "no file 'constants/w.tbf'"),
    ("constant w { file: constants/weights.json\n type: tensor(x[3]) }", 1, "constant 'w': 'constants/weights.json'"),
    ("field b type string { indexing: input title | flatten | index }", 1, "indexing 'flatten'"),
    ("field b type int { indexing: input title | attribute }", 1, "does not fit int"),
    ("field b type string { indexing: input title | embed clip | index }", 1, "No embedders are configured"),
    ("field b type string { indexing: input none | index }", 1, "'input none' is not a document field"),
    ("field b type long { indexing: now | attribute }", 1, "'now' outside of the document"),
    ("field b type string { indexing: input title . now | attribute }", 1, "'now' outside of the document"),
]
REFUSED_IN_PROFILE = [
    ("match-phase {\n attribute: year\n }", 1, "'match-phase'"),
    ("diversity {\n attribute: year\n min-groups: 2\n }", 1, "'diversity'"),
    ("\nmutate {\n on-match { year += 1 }\n }", 2, "'mutate'"),
    ("weakand { stopword-limit: 0.6 }", 1, "'weakand'"),
    ("filter-threshold: 0.1", 1, "'filter-threshold'"),
    ("rank title { filter-threshold: 0.1 }", 1, "'rank'"),
    ("rank title: filter", 1, "'rank'"),
    ("rank-type title: identity", 1, "'rank-type'"),
    ("onnx-model m { file: m.onnx }", 1, "'onnx-model'"),
    ("significance { use-model: true }", 1, "'significance'"),
    ("rank-profile inner { }", 1, "'rank-profile'"),
    ("inputs { query(s) string }", 1, "string inputs"),
    ("rank-properties { vespa.hitcollector.heapsize: 5 }", 0, "rank property 'vespa.hitcollector.heapsize'"),
    ("rank-properties {\n bm25(title).k1: odd\n }", 0, "rank property 'bm25(title).k1' of 'p' is 'odd', not a number"),
    ("first-phase { expression: file:first.expression }", 0, "an expression in a file"),
    ("first-phase { expression: nativeRank(title) }", 0, "nativeRank"),
    ("first-phase { expression: xgboost(\"m.json\") }", 0, "xgboost"),
    ("first-phase { expression: fieldMatch(title) }", 0, "fieldMatch"),
    ("function titlematch$(a) { expression: a }", 1, "the name 'titlematch$' is not supported by the local engine"),
]  # fmt: skip


def refusal(**parts: str) -> str:
    with pytest.raises(PackageError) as caught:
        song(**parts)
    return str(caught.value)


@pytest.mark.parametrize(("text", "line", "name"), REFUSED_IN_DOCUMENT)
def test_a_document_is_refused_by_name_with_its_line(text: str, line: int, name: str) -> None:
    check(refusal(document=text), 2 + FIELDS.count("\n") + line, name)


@pytest.mark.parametrize(("text", "line", "name"), REFUSED_BESIDE)
def test_a_schema_is_refused_by_name_with_its_line(text: str, line: int, name: str) -> None:
    check(refusal(schema=text), 4 + FIELDS.count("\n") + line, name)


@pytest.mark.parametrize(("text", "line", "name"), REFUSED_IN_PROFILE)
def test_a_rank_profile_is_refused_by_name_with_its_line(text: str, line: int, name: str) -> None:
    check(refusal(profile=text), 6 + FIELDS.count("\n") + line, name)


def check(message: str, line: int, name: str) -> None:
    assert message.startswith(f"schemas/song.sd, line {line}: "), (line, message)
    assert name in message


def test_the_albums_application_is_deployable() -> None:
    package = load_package(read_folder(Path(__file__).parent / "apps" / "albums"))
    assert list(package.schemas) == ["album", "artist"]
    assert deploy_warnings(package) == []
    assert {"popular", "look_alike", "mood", "sound"} <= set(compile_programs(package)["album"])
    assert package.query_profiles["shop"]["maxHits"] == "100"


def test_a_schema_needs_its_document_to_inherit_as_it_does() -> None:
    files = {
        "services.xml": SERVICES,
        "schemas/base.sd": "schema base { document base { } }",
        "schemas/song.sd": "schema song inherits base {\n document song { }\n}",
    }
    with pytest.raises(PackageError, match="its document does not inherit 'base's document"):
        load_package({path: content.encode() for path, content in files.items()})
