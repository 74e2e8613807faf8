"""Schemas and rank profiles: what the parser reads, how inheritance resolves, and what is refused by its name."""

from __future__ import annotations

import time
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.engine.package import deploy_warnings, load_package, read_folder, read_zip
from clipsearch.engine.package.model import ApplicationPackage, FieldType, Phase, Schema
from clipsearch.engine.package.syntax import parse_schema, split_features
from clipsearch.errors import PackageError

VESPA_APP = Path(__file__).parent.parent / "vespa_app"
SERVICES = """
<services version="1.0">
  <container id="default" version="1.0"><search/><document-api/></container>
  <content id="music" version="1.0">
    <documents>{}</documents>
  </content>
</services>
"""


def package(files: dict[str, str], documents: str = "album") -> ApplicationPackage:
    services = SERVICES.format("".join(f'<document type="{each}" mode="index"/>' for each in documents.split()))
    return load_package({"services.xml": services.encode()} | {k: dedent(v).encode() for k, v in files.items()})


def album(document: str = "", schema: str = "", **profiles: str) -> Schema:
    """A schema with fields title (bm25) and vector (HNSW), and what is given."""
    text = f"""schema album {{
    document album {{
        field title type string {{
            indexing: index | summary
            index: enable-bm25
        }}
        field vector type tensor<float>(x[4]) {{
            indexing: attribute | index
            attribute {{ distance-metric: angular }}
        }}
{document}
    }}
{schema}
}}
"""
    files = {"schemas/album.sd": text} | {f"schemas/album/{name}.profile": each for name, each in profiles.items()}
    return package(files).schemas["album"]


def refusal(document: str = "", schema: str = "", **profiles: str) -> str:
    with pytest.raises(PackageError) as caught:
        album(document, schema, **profiles)
    return str(caught.value)


# ---- vespa_app


def test_vespa_app_holds_the_fields_that_the_rooms_agreed_on() -> None:
    app = load_package(read_folder(VESPA_APP))
    schema = app.schemas["image"]
    assert (app.content_cluster, app.container_cluster, app.snowball_english) == ("images", "default", True)
    assert deploy_warnings(app) == []
    assert str(schema.fields["captions"].type) == "array<string>"
    assert schema.fields["captions"].bm25
    assert schema.fieldsets == {"default": ("captions",)}
    assert next(iter(schema.fields.values())).language == "en"
    for name in ("label", "split", "corpus"):
        field = schema.fields[name]
        assert (field.attribute, field.fast_search, field.rank_filter, field.match) == (True, True, True, "word")
    embedding = schema.fields["embedding"]
    assert (str(embedding.type), embedding.distance_metric) == ("tensor<bfloat16>(x[512])", "prenormalized-angular")
    assert (embedding.hnsw, embedding.hnsw_max_links, embedding.hnsw_explore_at_insert) == (True, 16, 200)
    assert app.query_profiles["default"] == {
        "model.language": "en",
        "presentation.format.tensors": "short-value",
        "timeout": "5s",
    }


def test_vespa_app_summaries_keep_vectors_and_thumbnails_off_result_pages() -> None:
    summaries = load_package(read_folder(VESPA_APP)).schemas["image"].summaries
    assert set(summaries["default"].fields) - set(summaries["hit"].fields) == {"embedding", "patches", "thumbnail"}
    assert dict(summaries["thumbnail"].fields) == {"thumbnail": "thumbnail"}


@pytest.mark.parametrize("name", ["default", "lexical", "vector", "hybrid", "hybrid_linear"])
def test_every_profile_of_vespa_app_has_a_first_phase_and_shows_both_parts(name: str) -> None:
    profile = load_package(read_folder(VESPA_APP)).schemas["image"].rank_profiles[name]
    assert profile.first_phase is not None
    assert "nativeRank" not in profile.first_phase.expression
    assert str(profile.inputs["q"].type) == "tensor<float>(x[512])"
    assert profile.match_features[:2] == ("bm25(captions)", "closeness(field,embedding)")


def test_hybrid_profiles_of_vespa_app_let_two_thousand_hits_reach_the_fusion() -> None:
    profiles = load_package(read_folder(VESPA_APP)).schemas["image"].rank_profiles
    for name in ("hybrid", "hybrid_linear"):
        phase = profiles[name].global_phase
        assert phase is not None
        assert phase.rerank_count == 1000
    assert profiles["hybrid_linear"].inputs["alpha"].default == "0.5"
    assert profiles["hybrid_linear"].first_phase == profiles["hybrid"].first_phase


# ---- fields


def test_every_type_that_the_engine_has_is_read() -> None:
    types = ["string", "int", "long", "float", "double", "bool", "array<string>", "array<int>", "weightedset<string>"]
    types += ["raw", "tensor(x[3])", "tensor<int8>(p{},x[8])", "tensor(a{},b{})"]
    fields = "".join(f"field f{i} type {t} {{ indexing: summary }}\n" for i, t in enumerate(types))
    read = album(fields).fields
    assert [str(read[f"f{i}"].type) for i in range(len(types))] == types
    assert read["f6"].type == FieldType("array", FieldType("string"))


def test_settings_mean_the_same_on_one_line_and_in_a_block() -> None:
    short = "field a type string { indexing: attribute\n attribute: fast-search\n rank: filter\n match: cased\n }"
    long = "field a type string { indexing { attribute; } attribute { fast-search } rank { filter } match { cased } }"
    first, second = album(short).fields["a"], album(long).fields["a"]
    assert first.fast_search
    assert first.rank_filter
    assert first.cased
    assert (first.attribute, first.match) == (second.attribute, second.match) == (True, "word")
    assert (second.fast_search, second.rank_filter, second.cased) == (True, True, True)


def test_numbers_with_an_index_become_attributes_and_exact_matches_are_filters() -> None:
    fields = album(
        "field year type int { indexing: index }\nfield isbn type string { indexing: index\n match: exact\n }"
    )
    assert (fields.fields["year"].attribute, fields.fields["year"].index) == (True, False)
    assert (fields.fields["isbn"].match, fields.fields["isbn"].rank_filter) == ("exact", True)


def test_stemming_comes_from_the_field_else_from_the_schema() -> None:
    schema = album("field a type string { indexing: index\n stemming: best\n }", "stemming: none")
    assert (schema.fields["a"].stemming, schema.fields["title"].stemming) == ("best", "none")


def test_a_packed_field_outside_the_document_keeps_its_source() -> None:
    bits = "field bits type tensor<int8>(x[1]) {\n indexing: input vector | binarize 0.5 | pack_bits | attribute\n }"
    field = album(schema=bits).fields["bits"]
    assert (field.source, field.in_document) == ("input vector | binarize 0.5 | pack_bits", False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("field a type predicate {}", "'predicate' is not supported"),
        ("field a type map<string,int> {}", "'map' is not supported"),
        ("field a type array<raw> {}", "'array<raw>' is not supported"),
        ("field a type tensor<half>(x[2]) {}", "unknown cell type 'half'"),
        ("field a type string { indexing: index | to_pos }", "'to_pos' is not supported"),
        ("field a type string { indexing: attribute | lowercase }", "assigns conflicting values to 'a'"),
        ("field a type string { indexing: attribute b }", "'attribute b' writes another field"),
        ('field a type string { indexing: "de" | set_language }', "language 'de' is not supported"),
        ("field a type string { indexing: set_language }", "set_language is supported only"),
        ("field a type string { indexing: input title | index }", "takes its own value"),
        ("field a type string { indexing: index\n match: gram\n }", "'gram' is not supported"),
        ("field a type string { indexing: index\n match { max-length: 3 } }", "'max-length: 3' is not supported"),
        ("field a type string { indexing: index\n rank: literal\n }", "'literal' is not supported"),
        ("field a type string { indexing: index\n bolding: on\n }", "'bolding: on' is not supported"),
        ("field a type string { indexing: index\n stemming: german\n }", "'stemming: german' is not supported"),
        ("field a type string { indexing: attribute\n dictionary: cased\n }", "'dictionary: cased' is not supported"),
        ("field a type string { indexing: attribute\n index: enable-bm25\n }", "enable-bm25 needs"),
        ("field a type int { indexing: attribute\n attribute { distance-metric: angular } }", "for tensor fields"),
        ("field a type int { indexing: attribute\n index { hnsw { max-links-per-node: 8 } } }", "for tensor fields"),
        ("field a type raw { indexing: index }", "type raw cannot have an index"),
        ("field a type tensor(x[2]) { indexing: index }", "must also be an attribute"),
        ("field a type tensor(x{},y{}) { indexing: attribute | index }", "cannot have an index"),
        (
            "field a type tensor(x[2]) { indexing: attribute\n attribute { distance-metric: cosine } }",
            "metric 'cosine'",
        ),
        ("field title type string {}", "'title' is defined twice"),
        ("field sddocname type string {}", "reserved"),
        ("field a type tensor(x[" + "9" * 5000 + "]) {}", ""),
    ],
)
def test_what_a_field_cannot_be_is_refused_with_file_line_and_name(text: str, message: str) -> None:
    refused = refusal(text)
    assert message in refused
    assert refused.startswith("schemas/album.sd, line 1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fieldset default { fields: title, nothing }", "field 'nothing' does not exist"),
        ("fieldset default { fields: title\n query-command: phrase }", "'query-command' is not supported"),
        ("document-summary s { summary nothing {} }", "there is no field 'nothing'"),
        ("document-summary s { summary title { dynamic } }", "'dynamic' is not supported"),
        ("document-summary s inherits t { }", "inherits 't'"),
        ("struct s { field a type int {} }", "'struct' is not supported"),
        ("import field a.b as c {}", "'import' is not supported"),
        ("constant c { file: c.json }", "it needs 'file: <path in the package>' and 'type: tensor(...)'"),
        ("onnx-model m { file: m.onnx }", "'onnx-model' is not supported"),
        ("field f type string { indexing: index }", "needs 'input <field>'"),
        ("field f type string { indexing: input nothing | index }", "'input nothing' is not a document field"),
        (
            "field f type tensor<int8>(x[2]) { indexing: input vector | binarize | pack_bits | attribute }",
            "does not fit",
        ),
        ("raw-as-base64-in-summary: false", "is not supported"),
    ],
)
def test_what_a_schema_cannot_hold_is_refused_with_file_line_and_name(text: str, message: str) -> None:
    refused = refusal(schema=text)
    assert message in refused
    assert refused.startswith("schemas/album.sd, line ")


@pytest.mark.parametrize(
    "damage", ["", "schema album", "schema album { document {", "{", "schema album { docment { } }"]
)
def test_broken_schema_text_is_refused_with_its_line(damage: str) -> None:
    with pytest.raises(PackageError, match=r"^schemas/album\.sd, line 1: "):
        package({"schemas/album.sd": damage})


def test_the_file_the_schema_and_the_document_have_one_name() -> None:
    with pytest.raises(PackageError, match=r"must be named 'record\.sd'"):
        package({"schemas/album.sd": "schema record { document record {} }"})
    with pytest.raises(PackageError, match="must have its name, not 'record'"):
        package({"schemas/album.sd": "schema album { document record {} }"})


def test_comments_may_stand_anywhere_but_before_a_profile() -> None:
    schema = album("# a\nfield a type int { # b\n indexing: attribute # c\n }", "# } d")
    assert schema.fields["a"].attribute
    profile = "rank-profile p { # e\n first-phase { expression { bm25(title) # f }\n + 1 } } }"
    first = album(p=profile.replace("# f }", "# f")).rank_profiles["p"].first_phase
    assert first == Phase("bm25(title) \n + 1")
    assert "must begin with 'rank-profile'" in refusal(p="# first\nrank-profile p { }")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_packages_are_read_or_refused_and_never_break_the_parser(data: st.DataObject) -> None:
    files = read_folder(VESPA_APP)
    path = data.draw(st.sampled_from(sorted(set(files) - {"hosts.xml"})))
    text = files[path].decode()
    start = data.draw(st.integers(0, len(text)))
    end = start + data.draw(st.integers(0, 40))
    other = data.draw(st.integers(0, len(text)))
    inserted = data.draw(st.one_of(st.text(max_size=8), st.just(text[other : other + 30])))
    try:
        load_package(files | {path: (text[:start] + inserted + text[end:]).encode("utf-8", "replace")})
    except PackageError:
        return


def test_types_nested_without_end_are_refused_too() -> None:
    assert "nested too deeply" in refusal("field a type " + "array<" * 2000 + "int" + ">" * 2000 + " {}")


# ---- inheritance between schemas


def test_a_schema_inherits_fields_summaries_fieldsets_and_profiles() -> None:
    base = """
        schema base {
            document base { field title type string { indexing: index | summary } }
            fieldset default { fields: title }
            document-summary short { summary title {} }
            rank-profile one { first-phase { expression: 1 } }
        }"""
    child = """
        schema album inherits base {
            document album inherits base { field year type int { indexing: attribute | summary } }
            document-summary long inherits short { summary y { source: year } summary documentid {} }
            rank-profile two inherits one { second-phase { expression: 2 } }
        }"""
    schema = package({"schemas/base.sd": base, "schemas/album.sd": child}).schemas["album"]
    assert list(schema.fields) == ["title", "year"]
    assert schema.fieldsets == {"default": ("title",)}
    assert dict(schema.summaries["long"].fields) == {"title": "title", "y": "year", "documentid": "documentid"}
    assert schema.rank_profiles["two"].first_phase == Phase("1")
    assert schema.rank_profiles["two"].second_phase == Phase("2")


def test_schemas_that_inherit_nothing_known_or_themselves_are_refused() -> None:
    with pytest.raises(PackageError, match="inherits 'base', which is not in the application"):
        package({"schemas/album.sd": "schema album inherits base { document album { } }"})
    with pytest.raises(PackageError, match="inherits itself"):
        package({"schemas/album.sd": "schema album { document album inherits album { } }"})


# ---- rank profiles


def test_default_and_unranked_always_exist() -> None:
    profiles = album().rank_profiles
    assert profiles["default"].first_phase is None
    assert profiles["unranked"].first_phase == Phase("0")


def test_a_profile_merges_what_it_inherits_and_its_own_wins() -> None:
    base = """rank-profile base {
        inputs { query(q) tensor<float>(x[4]): [1,2,3,4]
                 query(a) double: 1.5 }
        constants { pi: 3.14
            weights tensor<float>(x[2]): [1,2] }
        function f(x) { expression: x * 2 }
        function g() { expression: f(1) }
        first-phase { keep-rank-count: 50
                      rank-score-drop-limit: 0.5
                      expression: g }
        second-phase { rerank-count: 7
                       expression: g + 1 }
        match-features: bm25(title) g
        summary-features { closeness(field, vector) }
        rank-properties { bm25(title).k1: 1.5 }
    }"""
    child = """rank-profile child inherits base {
        inputs { query(a) double: 2 }
        function g() { expression: 5 }
        second-phase { expression: g + 2 }
        match-features { }
        summary-features inherits base { bm25(title) }
        rank-properties { "bm25(title).b" : 0.5 }
        num-threads-per-search: 4
    }"""
    profile = album(base=base, child=child).rank_profiles["child"]
    assert (profile.inputs["a"].default, profile.inputs["q"].default) == ("2", "[1,2,3,4]")
    assert profile.constants == {"pi": "3.14", "weights": "tensor<float>(x[2]):[1,2]"}
    assert {name: f.expression for name, f in profile.functions.items()} == {"f": "x * 2", "g": "5"}
    assert profile.functions["f"].arguments == ("x",)
    assert profile.first_phase == Phase("g", drop_limit=0.5)
    assert profile.second_phase == Phase("g + 2", rerank_count=7)
    assert profile.keep_rank_count == 50
    assert profile.match_features == ()
    assert profile.summary_features == ("closeness(field,vector)", "bm25(title)")
    assert profile.properties == {"bm25(title).k1": "1.5", "bm25(title).b": "0.5"}
    assert (profile.file, profile.line) == ("schemas/album/child.profile", 1)


def test_two_parents_that_differ_need_a_decision() -> None:
    parents = {
        "a": "rank-profile a { first-phase { expression: 1 } }",
        "b": "rank-profile b { first-phase { expression: 2 } }",
    }
    assert "two different values of first-phase" in refusal(**parents, c="rank-profile c inherits a, b { }")
    own = "rank-profile c inherits a, b { first-phase { expression: 3 } }"
    assert album(**parents, c=own).rank_profiles["c"].first_phase == Phase("3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank-profile p inherits q { }", "inherits 'q', which does not exist"),
        ("rank-profile p {\n first-phase { expression: bm25(vector) } }", "bm25(vector) needs 'index: enable-bm25'"),
        ("rank-profile p {\n match-features: bm25(name)\n }", "there is no field 'name'"),
        ("rank-profile p {\n first-phase { expression: closeness(field, title) } }", "needs a tensor field"),
        ("rank-profile p {\n inputs { query(q) tensor<half>(x[2]) } }", "query(q): 'tensor<half>(x[2])'"),
        ("rank-profile p {\n inputs { query(q) string } }", "string inputs"),
        ("rank-profile p {\n match-phase { attribute: year } }", "'match-phase'"),
        ("rank-profile p {\n rank title { filter-threshold: 0.1 } }", "'rank'"),
        ("rank-profile p {\n weakand { stopword-limit: 0.6 } }", "'weakand'"),
        ("rank-profile p {\n second-phase { keep-rank-count: 5 } }", "'keep-rank-count' in second-phase"),
        ("rank-profile p {\n second-phase { rerank-count: many } }", "'many' is not a number that fits"),
        ("rank-profile p {\n second-phase { rerank-count: nan } }", "'nan' is not a number that fits"),
        ("rank-profile p {\n function f() { expression: 1 }\n function f() { expression: 2 } }", "defined twice"),
        ("rank-profile p {\n summary-features inherits q { bm25(title) } }", "does not inherit"),
        ("rank-profile p {\n rank-properties {\n nothing\n } }", "is not 'name: value'"),
        ("rank-profile p {\n first-phase { expression: 1 ", "a '}' is missing"),
    ],
)
def test_what_a_profile_cannot_hold_is_refused_with_its_file(text: str, message: str) -> None:
    refused = refusal(p=text)
    assert message in refused
    assert refused.startswith("schemas/album/p.profile, line ")


def test_profiles_that_inherit_each_other_are_refused() -> None:
    refused = refusal(a="rank-profile a inherits b { }", b="rank-profile b inherits a { }")
    assert "inherit each other" in refused


def test_a_profile_for_no_schema_is_refused() -> None:
    with pytest.raises(PackageError, match="no schema 'other'"):
        package({"schemas/album.sd": "schema album { document { } }", "schemas/other/p.profile": "rank-profile p { }"})


def test_feature_lists_are_put_in_canonical_form() -> None:
    text = "bm25(title)\n closeness( field , vector )  bm25(title) attribute(a).count"
    assert split_features(text) == ("bm25(title)", "closeness(field,vector)", "attribute(a).count")


def test_expressions_keep_braces_that_belong_to_tensors() -> None:
    text = "rank-profile p { first-phase { expression: reduce(tensor(x{}):{a:1,b:2} * t{x:(1+1)}, sum) } }"
    phase = album(p=text).rank_profiles["p"].first_phase
    assert phase == Phase("reduce(tensor(x{}):{a:1,b:2} * t{x:(1+1)}, sum)")


def test_a_package_that_pyvespa_writes_is_read() -> None:
    from vespa.package import HNSW, ApplicationPackage, Document, Field, FieldSet, RankProfile
    from vespa.package import Schema as PyvespaSchema

    hnsw = HNSW(distance_metric="angular")
    fields = [
        Field(name="title", type="string", indexing=["index", "summary"], index="enable-bm25"),
        Field(name="vector", type="tensor<float>(x[4])", indexing=["attribute", "index"], ann=hnsw),
    ]
    profile = RankProfile(
        name="fusion",
        inputs=[("query(q)", "tensor<float>(x[4])")],
        first_phase="closeness(field, vector)",
        match_features=["bm25(title)"],
    )
    schema = PyvespaSchema(
        name="album",
        document=Document(fields=fields),
        fieldsets=[FieldSet(name="default", fields=["title"])],
        rank_profiles=[profile],
    )
    read = load_package(read_zip(ApplicationPackage(name="music", schema=[schema]).to_zip().getvalue()))
    assert read.content_cluster == "music_content"
    assert read.schemas["album"].fields["vector"].hnsw
    assert read.schemas["album"].rank_profiles["fusion"].match_features == ("bm25(title)",)


def test_a_long_line_without_a_block_is_refused_at_once() -> None:
    long = "a" * 20_000 + " " + "b-" * 20_000
    text = "schema s {\n  document s {\n    field f type string {\n      # " + long + "\n      " + long + "\n}"
    started = time.process_time()
    with pytest.raises(PackageError):
        parse_schema(text, "s.sd")
    assert time.process_time() - started < 5  # it took hours before
