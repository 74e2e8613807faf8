"""``clipsearch app``: what it writes is vespa_app/ for one 512-d field, and a package that parses for all others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from clipsearch.appwriter import (
    FIRST,
    EmbeddingField,
    application_of,
    parse_field,
    render,
    render_package,
    write_app,
)
from clipsearch.commands.app import command
from clipsearch.engine.package import load_package, read_folder
from clipsearch.errors import InputError
from clipsearch.generations.package import changed_files, read_application
from clipsearch.records import Generation

VESPA_APP = Path(__file__).parent.parent / "vespa_app"
IMAGE = EmbeddingField("embedding", 512)


def test_dim_512_with_one_field_reproduces_vespa_app_byte_for_byte(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--dim", "512", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    written = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    committed = {p.relative_to(VESPA_APP): p.read_bytes() for p in VESPA_APP.rglob("*") if p.is_file()}
    assert written == committed


def test_another_dimension_changes_the_field_and_the_query_tensor_and_nothing_else() -> None:
    small, large = render_package([EmbeddingField("embedding", 256)]), render_package([IMAGE])
    assert {path for path in large if small[path] != large[path]} == {"schemas/image.sd"}
    assert small["schemas/image.sd"] == large["schemas/image.sd"].replace("x[512]", "x[256]")


def test_further_fields_get_their_type_their_query_tensor_and_a_profile(tmp_path: Path) -> None:
    fields = [
        IMAGE,
        EmbeddingField("embedding_bits", 512, "bits"),
        EmbeddingField("patches", 512, "patches"),
        EmbeddingField("second", 768),
        EmbeddingField("second_bits", 768, "bits"),
    ]
    write_app(fields, tmp_path)
    schema = load_package(read_folder(tmp_path)).schemas["image"]
    assert {
        name: str(schema.fields[name].type) for name in ("embedding", "patches", "embedding_bits", "second_bits")
    } == {
        "embedding": "tensor<bfloat16>(x[512])",
        "patches": "tensor<bfloat16>(patch{},x[512])",
        "embedding_bits": "tensor<int8>(x[64])",
        "second_bits": "tensor<int8>(x[96])",
    }
    assert schema.fields["second_bits"].source == "input second | binarize | pack_bits"
    assert schema.fields["embedding_bits"].distance_metric == "hamming"
    assert not schema.fields["embedding_bits"].in_document
    assert set(schema.rank_profiles) > {
        "vector_embedding_bits",
        "vector_patches",
        "vector_second",
        "vector_second_bits",
    }
    profile = schema.rank_profiles["vector_second_bits"]
    assert {name: str(each.type) for name, each in profile.inputs.items()} == {
        "q": "tensor<float>(x[512])",
        "q_embedding_bits": "tensor<int8>(x[64])",
        "q_patches": "tensor<float>(x[512])",
        "q_second": "tensor<float>(x[768])",
        "q_second_bits": "tensor<int8>(x[96])",
    }
    assert profile.second_phase is not None
    assert profile.second_phase.expression == "sum(query(q_second) * attribute(second))"


def test_writing_again_takes_away_the_profile_of_a_field_that_is_gone(tmp_path: Path) -> None:
    write_app([IMAGE, EmbeddingField("patches", 512, "patches")], tmp_path)
    write_app([IMAGE], tmp_path)
    assert read_folder(tmp_path) == read_folder(VESPA_APP)


def test_a_folder_with_other_files_is_left_alone_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        write_app([IMAGE], tmp_path)
    write_app([IMAGE], tmp_path, force=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "app").write_text("")
    with pytest.raises(InputError, match="app is a file"):
        write_app([IMAGE], tmp_path / "app")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "first field"),
        ([EmbeddingField("vector", 512)], "first field"),
        ([EmbeddingField("embedding", 0)], "not in 1"),
        ([IMAGE, EmbeddingField("captions", 512)], "exists already"),
        ([IMAGE, IMAGE], "exists already"),
        ([IMAGE, EmbeddingField("Patches", 512)], "small letters"),
        ([IMAGE, EmbeddingField("a", 512, "audio")], "unknown kind 'audio'"),
        ([IMAGE, EmbeddingField("bits", 500, "bits")], "8 divides"),
        ([IMAGE, EmbeddingField("bits", 256, "bits")], "no image field of dimension 256"),
    ],
)
def test_fields_that_do_not_fit_are_named(fields: list[EmbeddingField], message: str) -> None:
    with pytest.raises(InputError, match=message):
        render_package(fields)


def test_a_field_is_read_from_its_text() -> None:
    assert parse_field("patches:768:patches") == EmbeddingField("patches", 768, "patches")
    assert parse_field("second:256") == EmbeddingField("second", 256, "image")
    with pytest.raises(InputError, match="NAME:DIMENSION:KIND"):
        parse_field("patches")


def test_the_command_says_what_it_wrote_as_json(tmp_path: Path) -> None:
    arguments = ["--dim", "64", "--field", "b:64:bits", "--out", str(tmp_path / "app"), "--json"]
    answer = json.loads(CliRunner().invoke(command, arguments).output)
    assert str(tmp_path / "app" / "schemas" / "image" / "vector_b.profile") in answer["files"]
    assert len(answer["files"]) == 10


def test_a_further_generation_has_its_own_field_profiles_and_query_tensor_and_the_first_stays(tmp_path: Path) -> None:
    arguments = ["--dim", "512", "--generation", "256:new <&> model", "--out", str(tmp_path)]
    assert CliRunner().invoke(command, arguments).exit_code == 0
    package = load_package(read_folder(tmp_path))
    schema = package.schemas["image"]
    assert str(schema.fields["embedding_g2"].type) == "tensor<bfloat16>(x[256])"
    assert schema.fields["model_id_g2"].attribute
    assert set(schema.rank_profiles) == {
        "default", "lexical", "vector", "hybrid", "hybrid_linear", "unranked",
        "default_g2", "vector_g2", "hybrid_g2", "hybrid_linear_g2", "vector_patches",
    }  # fmt: skip
    assert str(schema.rank_profiles["hybrid_linear_g2"].inputs["q_g2"].type) == "tensor<float>(x[256])"
    assert "closeness(field, embedding_g2)" in schema.rank_profiles["vector_g2"].functions["semantic"].expression
    values = package.query_profiles["default"]
    assert values["ranking.profile"] == "default"
    assert values["generations.g2"] == "new <&> model"
    assert values["model.language"] == "en"
    first = read_folder(VESPA_APP)
    for profile in ("vector", "hybrid", "hybrid_linear"):
        path = f"schemas/image/{profile}.profile"
        assert read_folder(tmp_path)[path] == first[path]


def test_what_was_rendered_is_read_back_from_the_files() -> None:
    application = application_of([IMAGE, EmbeddingField("b", 512, "bits"), EmbeddingField("p", 64, "patches")])
    for changed in (application, application.adding(256, "m"), application.adding(8, "m").with_model(FIRST, "a")):
        files = {path: text.encode() for path, text in render(changed).items()}
        assert read_application(files) == changed
    files["schemas/image.sd"] += b"# by hand"
    with pytest.raises(InputError, match="not as 'clipsearch app' writes it"):
        read_application(files)


def test_a_dropped_generation_leaves_no_file_and_no_number_behind() -> None:
    two = replace(application_of([IMAGE]).adding(256, "new"), active=Generation(2))
    one = two.dropping(FIRST)
    assert [path for path in render(one) if "_g2.profile" in path] == [
        f"schemas/image/{name}_g2.profile" for name in ("vector", "hybrid", "hybrid_linear")
    ]
    assert "q_g2" in render(one)["schemas/image.sd"]
    assert "field embedding type" not in render(one)["schemas/image.sd"]
    assert load_package({path: text.encode() for path, text in render(one).items()})
    assert one.adding(8, "third").generations[-1].generation == Generation(3)
    with pytest.raises(InputError, match="g2 is active"):
        two.dropping(Generation(2))
    with pytest.raises(InputError, match="no generation g9"):
        two.dropping(Generation(9))
    with_bits = replace(two, extra=(EmbeddingField("b", 512, "bits"),))
    with pytest.raises(InputError, match="b is made of embedding"):
        with_bits.dropping(FIRST)


def test_what_people_changed_by_hand_stays_when_a_generation_is_added() -> None:
    old = application_of([IMAGE])
    files = {path: text.encode() for path, text in render(old).items()}
    files["services.xml"] += b"<!-- ours -->"
    files["schemas/image/hybrid.profile"] += b"# ours"
    files["search/query-profiles/default.xml"] = files["search/query-profiles/default.xml"].replace(b">5s<", b">9s<")
    new = replace(old.adding(256, "new"), active=Generation(2))
    changed = changed_files(files, old, new)
    assert changed["services.xml"] == files["services.xml"]
    assert changed["schemas/image/hybrid.profile"] == files["schemas/image/hybrid.profile"]
    package = load_package(changed)
    assert package.query_profiles["default"]["timeout"] == "9s"
    assert package.query_profiles["default"]["ranking.profile"] == "default_g2"
    again = changed_files(changed, new, replace(new, active=FIRST))
    assert load_package(again).query_profiles["default"]["ranking.profile"] == "default"
    assert again["search/query-profiles/default.xml"].count(b"generations.last") == 1


@pytest.mark.parametrize("name", ["g2", "embedding_g2", "model_id_g3"])
def test_a_further_field_cannot_take_the_name_of_a_generation(name: str) -> None:
    with pytest.raises(InputError, match="exists already"):
        render_package([IMAGE, EmbeddingField(name, 512)])


def test_every_package_has_patches_of_the_first_embeddings_size_and_a_user_may_choose_another() -> None:
    for dim, extra, expected in ((256, [], 256), (256, [EmbeddingField("patches", 64, "patches")], 64)):
        files = {k: v.encode() for k, v in render_package([EmbeddingField("embedding", dim), *extra]).items()}
        schema = load_package(files).schemas["image"]
        assert str(schema.fields["patches"].type) == f"tensor<bfloat16>(patch{{}},x[{expected}])"
        assert schema.fields["patches"].distance_metric == "prenormalized-angular"
        profile = schema.rank_profiles["vector_patches"]
        assert str(profile.inputs["q_patches"].type) == f"tensor<float>(x[{expected}])"
        assert "closest(patches)" in files["schemas/image/vector_patches.profile"].decode()
    with pytest.raises(InputError, match="its kind must be patches"):
        render_package([IMAGE, EmbeddingField("patches", 512)])


def test_patches_stay_one_field_while_generations_come_and_go() -> None:
    two = replace(application_of([IMAGE]).adding(256, "new"), active=Generation(2))
    one = two.dropping(FIRST)
    for application in (two, one):
        schema = load_package({k: v.encode() for k, v in render(application).items()}).schemas["image"]
        assert [name for name in schema.fields if name.startswith("patches")] == ["patches_model", "patches"]
        fields = schema.summaries["hit_vector_g2"].fields
        assert "embedding_g2" in fields
        assert "embedding" not in fields
        assert {"captions", "patches_model", "latitude"} <= set(fields)
    assert set(schema.summaries) == {"default", "hit", "hit_vector_g2", "id", "thumbnail"}
    assert list(schema.summaries["id"].fields) == ["documentid"]


def test_hybrid_knows_in_every_generation_which_captions_hold_all_words() -> None:
    files = render(application_of([IMAGE]).adding(256, "new"))
    for name in ("hybrid", "hybrid_g2"):
        text = files[f"schemas/image/{name}.profile"]
        assert "if (complete > 0.999, query(whole) / 61, 0)" in text
        assert "query(whole) double: 1\n" in text
    for name in ("hybrid", "hybrid_g2", "lexical", "default_g2"):
        assert "        elementCompleteness(captions).queryCompleteness\n" in files[f"schemas/image/{name}.profile"]
    assert "elementCompleteness(captions).fieldCompletenessImportance: 0\n" in files["schemas/image.sd"]
