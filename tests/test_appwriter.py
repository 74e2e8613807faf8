"""``clipsearch app``: what it writes is vespa_app/ for one 512-d field, and a package that parses for all others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from clipsearch.appwriter import EmbeddingField, parse_field, render_package, write_app
from clipsearch.commands.app import command
from clipsearch.engine.package import load_package, read_folder
from clipsearch.errors import InputError

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
    assert len(answer["files"]) == 9
