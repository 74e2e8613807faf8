"""The published templates are complete and have sources; files and single templates are checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import clipsearch
from clipsearch.errors import InputError
from clipsearch.prompts import about, preset, read_prompts, template_names, templates

SIZES = {"imagenet": 80, "imagenet-7": 7, "eurosat": 3, "resisc45": 18, "skyscript": 2, "clip-rsicd-3": 3, "medical": 1}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_the_published_lists_are_whole(name: str, size: int) -> None:
    assert len(templates(name)) == size


def test_every_template_has_one_place_for_the_class_and_every_preset_a_source_and_a_licence() -> None:
    data = json.loads((Path(clipsearch.__file__).parent / "prompts.json").read_text())["presets"]
    assert sorted(data) == template_names()
    for name, entry in data.items():
        assert all(template.count("{}") == 1 for template in entry["templates"]), name
        assert len(set(entry["templates"])) == len(entry["templates"])
        assert entry["source"]
        assert entry["licence"]
        assert entry["source"] in about(name)


def test_the_seven_best_are_among_the_eighty() -> None:
    assert set(templates("imagenet-7")) <= set(templates("imagenet"))


def test_eurosat_is_asked_for_in_clips_words_however_its_folders_are_spelt() -> None:
    classes = {"SeaLake": "sea lake", "highway": "highway", "Annual_Crop": "annual crop", "Moon": "moon"}
    words = preset("eurosat").words(classes)
    assert list(words.values()) == ["lake or sea", "highway or road", "annual crop land", "moon"]
    assert len(preset("eurosat").classes) == 10
    assert preset("eurosat").texts(classes)[0][0] == "a centered satellite photo of lake or sea."


def test_a_word_with_braces_cannot_break_a_prompt() -> None:
    assert read_prompts("a {} here").texts({"x": "{0} {y}"}) == [["a {0} {y} here"]]


def test_prompts_come_from_a_preset_a_file_or_a_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("# two of mine\na scan of {}\n\n{} under a microscope\n")
    assert read_prompts(str(file)).templates == ("a scan of {}", "{} under a microscope")
    assert read_prompts("resisc45") == preset("resisc45")
    assert read_prompts("an image of {}").templates == ("an image of {}",)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a scan of {}\na scan\n", "line 2 of .*mine.txt"), ("{} and {}\n", "once"), ("# none\n", "no prompt templates")],
)
def test_a_file_with_a_bad_template_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_prompts(str(file))


def test_a_template_without_a_place_for_the_class_says_what_can_be_given() -> None:
    with pytest.raises(InputError, match=r"neither a preset .*resisc45.* a template has {} where"):
        read_prompts("a photo of something")
    with pytest.raises(InputError, match="choose one of"):
        templates("no-such")
