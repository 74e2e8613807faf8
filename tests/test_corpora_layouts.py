"""Each layout becomes the same kind of records; what cannot be used is an issue, and the others survive."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsearch.corpora import open_corpus
from clipsearch.errors import CorpusError, InputError
from clipsearch.images import load_image


def picture(path: Path, shade: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), shade, dtype=np.uint8)).save(path)
    return path


def rsicd(root: Path, entries: list[tuple[str, str, list[str]]]) -> None:
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": text} for text in texts]}
        for name, split, texts in entries
    ]
    (root / "dataset_rsicd.json").write_text(json.dumps({"images": images, "dataset": "rsicd"}))


# --- RSICD
# ----------------------------------------------------------------------------------------------------------


def test_rsicd_reads_splits_labels_and_clean_captions(tmp_path: Path) -> None:
    for name in ("airport_1.jpg", "storagetanks_2.jpg", "00001.jpg"):
        picture(tmp_path / "RSICD_images" / name)
    rsicd(
        tmp_path,
        [
            ("airport_1.jpg", "train", ["some planes .", "an airport ."]),
            ("storagetanks_2.jpg", "val", ["two tanks ."]),
            ("00001.jpg", "test", ["a field ."]),
        ],
    )
    with open_corpus(tmp_path, "rsicd") as corpus:
        assert corpus.layout == "rsicd"
        assert [record.split for record in corpus.records] == ["train", "validation", "test"]
        assert [record.label for record in corpus.records] == ["airport", "storagetanks", ""]
        assert corpus.records[0].captions == ("some planes", "an airport")
        assert corpus.records[0].id == "id:rsicd:image::airport_1.jpg"
        assert corpus.classes == {"airport": "airport", "storagetanks": "storage tanks"}
        assert corpus.prompt.format("x") == "an aerial photograph of x"
        assert load_image(corpus.read(corpus.records[0])).shape == (8, 8, 3)


def test_class_lists_spell_the_class_names(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "solarfield_1.jpg")
    rsicd(tmp_path, [("solarfield_1.jpg", "train", ["panels"])])
    (tmp_path / "txtclasses_rsicd").mkdir()
    (tmp_path / "txtclasses_rsicd" / "Solar Field.txt").write_text("solarfield_1.jpg\n")
    assert open_corpus(tmp_path).classes == {"solarfield": "solar field"}


def test_rsicd_images_may_lie_in_a_zip(tmp_path: Path) -> None:
    path = picture(tmp_path / "away" / "pond_1.jpg")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(path, "rsicd/pond_1.jpg")
        archive.writestr("__MACOSX/._pond_1.jpg", b"x")
    path.unlink()
    rsicd(tmp_path, [("pond_1.jpg", "train", ["a pond"])])
    with open_corpus(tmp_path) as corpus:
        assert corpus.records[0].uri == "images.zip!/rsicd/pond_1.jpg"
        assert load_image(corpus.read(corpus.records[0])).shape == (8, 8, 3)


def test_an_entry_whose_image_is_missing_is_an_issue_and_the_others_survive(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "pond_1.jpg")
    rsicd(tmp_path, [("pond_1.jpg", "train", ["a"]), ("pond_2.jpg", "train", ["b"]), ("", "train", [])])
    corpus = open_corpus(tmp_path)
    assert [record.key for record in corpus.records] == ["pond_1.jpg"]
    assert [issue.item for issue in corpus.issues] == ["pond_2.jpg", "dataset_rsicd.json, image 2"]
    assert "missing" in corpus.issues[0].reason


def test_a_split_that_is_none_is_an_issue_and_never_becomes_training_data(tmp_path: Path) -> None:
    for name in ("pond_1.jpg", "pond_2.jpg", "pond_3.jpg"):
        picture(tmp_path / "images" / name)
    rsicd(tmp_path, [("pond_1.jpg", "tests", ["a"]), ("pond_2.jpg", "restval", ["b"]), ("pond_3.jpg", "", ["c"])])
    corpus = open_corpus(tmp_path)
    assert [record.split for record in corpus.records] == ["validation", "train"]
    assert "'tests' is not a split" in corpus.issues[0].reason


@pytest.mark.parametrize("text", ["{", "[]", '{"images": 3}'])
def test_a_damaged_data_set_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset_rsicd.json").write_text(text)
    with pytest.raises(CorpusError, match=r"dataset_rsicd\.json"):
        open_corpus(tmp_path)


# --- ImageCLEF
# ------------------------------------------------------------------------------------------------------


def test_imageclef_finds_images_by_id_whatever_their_suffix(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "PMC1_a.001.jpg")
    picture(tmp_path / "images" / "PMC2.png")
    (tmp_path / "captions-train.tsv").write_text("PMC1_a.001\tA scan. With contrast.\n")
    (tmp_path / "captions-valid.tsv").write_text("PMC2\tAnother\tscan\n")
    corpus = open_corpus(tmp_path, "roco")
    assert corpus.layout == "imageclef"
    assert [record.uri for record in corpus.records] == ["images/PMC1_a.001.jpg", "images/PMC2.png"]
    assert [record.split for record in corpus.records] == ["train", "validation"]
    assert corpus.records[0].key == "PMC1_a.001"
    assert corpus.records[1].captions == ("Another scan",)


def test_bad_caption_lines_are_issues_with_their_line_number(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "captions-test.tsv").write_bytes(b"\xef\xbb\xbfa\tgood\r\nno tab\n\nb\t\xff\xfe\nc\tno image\n")
    corpus = open_corpus(tmp_path)
    assert [record.captions for record in corpus.records] == [("good",)]
    found = {issue.item: issue.reason for issue in corpus.issues}
    assert "ID<TAB>caption" in found["captions-test.tsv, line 2"]
    assert "UTF-8" in found["captions-test.tsv, line 4"]
    assert "captions-test.tsv, line 5" in found["c"]


# --- class folders
# --------------------------------------------------------------------------------------------------


def test_class_folders_give_labels_words_and_stable_splits(tmp_path: Path) -> None:
    for number in range(60):
        picture(tmp_path / "SeaLake" / f"lake_{number}.jpg")
    picture(tmp_path / "annual_crop" / "a.jpg")
    corpus = open_corpus(tmp_path, "euro")
    assert corpus.layout == "folders"
    assert corpus.classes == {"SeaLake": "sea lake", "annual_crop": "annual crop"}
    splits = {record.key: record.split for record in corpus.records}
    assert set(splits.values()) == {"train", "validation", "test"}
    (tmp_path / "SeaLake" / "lake_3.jpg").unlink()
    again = {record.key: record.split for record in open_corpus(tmp_path, "euro").records}
    assert all(splits[key] == split for key, split in again.items())


def test_same_names_in_two_classes_have_two_keys(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.jpg")
    picture(tmp_path / "b" / "1.jpg")
    assert len({record.key for record in open_corpus(tmp_path).records}) == 2


def test_split_folders_give_the_splits(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "pond" / "1.jpg")
    picture(tmp_path / "val" / "pond" / "2.jpg")
    corpus = open_corpus(tmp_path)
    assert [(record.split, record.label) for record in corpus.records] == [("train", "pond"), ("validation", "pond")]


def test_a_plain_folder_of_images_is_a_corpus_without_labels(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    corpus = open_corpus(tmp_path)
    assert (corpus.records[0].label, corpus.records[0].captions, dict(corpus.classes)) == ("", (), {})


# --- tables
# ---------------------------------------------------------------------------------------------------------


def test_jsonl_takes_one_caption_or_many(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.jpg")
    rows = [
        {"file": "images/a.jpg", "captions": ["one", "two"], "split": "val", "label": "pond"},
        {"filename": "b.jpg", "caption": "three", "split": "test"},
        {"image": "c", "sentences": [{"raw": "four ."}], "split": "train"},
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    corpus = open_corpus(tmp_path)
    assert corpus.layout == "table"
    assert [record.captions for record in corpus.records] == [("one", "two"), ("three",), ("four",)]
    assert [record.key for record in corpus.records] == ["a.jpg", "b.jpg", "c"]
    assert [record.split for record in corpus.records] == ["validation", "test", "train"]
    assert corpus.classes == {"pond": "pond"}


def test_csv_rows_for_one_image_join(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "captions.csv").write_text('File_Name,Text\na.jpg,"red, big"\na.jpg,"two\nlines"\n')
    corpus = open_corpus(tmp_path)
    assert [record.captions for record in corpus.records] == [("red, big", "two lines")]


def test_bad_table_rows_are_issues_with_their_line_number(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    lines = [
        '{"file": "a.jpg", "caption": "x"}', "{", "[1]", '{"caption": "y"}', '{"file": "gone.jpg"}',
        '{"file": "a.jpg", "split": "dessert"}',
    ]  # fmt: skip
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    corpus = open_corpus(tmp_path)
    assert len(corpus.records) == 1
    reasons = [f"{issue.item}: {issue.reason}" for issue in corpus.issues]
    for number, words in ((2, "not valid JSON"), (3, "not a JSON object"), (4, "names no image")):
        assert any(f"line {number}" in reason and words in reason for reason in reasons)
    assert any("gone.jpg" in reason and "missing" in reason for reason in reasons)
    assert any("dessert" in reason for reason in reasons)


def test_a_csv_caption_that_is_not_utf8_costs_one_row(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "b.jpg")
    (tmp_path / "captions.csv").write_bytes(b"file,caption\na.jpg,\xff\nb.jpg,fine\n")
    corpus = open_corpus(tmp_path)
    assert [record.key for record in corpus.records] == ["b.jpg"]
    assert "line 2" in corpus.issues[0].item


def test_a_csv_without_an_image_column_says_so(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "captions.csv").write_text("who,what\na,b\n")
    with pytest.raises(CorpusError, match="no column for the image"):
        open_corpus(tmp_path)


def test_a_name_that_fits_two_images_is_not_guessed(tmp_path: Path) -> None:
    picture(tmp_path / "x" / "a.jpg")
    picture(tmp_path / "y" / "a.jpg")
    (tmp_path / "captions.jsonl").write_text('{"file": "a.jpg"}\n{"file": "x/a.jpg"}\n')
    corpus = open_corpus(tmp_path)
    assert [record.uri for record in corpus.records] == ["x/a.jpg"]
    assert "several images" in corpus.issues[0].reason


def test_an_image_of_another_folder_never_gets_the_captions_of_one_that_is_missing(tmp_path: Path) -> None:
    picture(tmp_path / "bridge" / "1.jpg")
    picture(tmp_path / "airport" / "2.jpg")
    names = ("airport/1.jpg", "bridge/1.jpg", "/elsewhere/airport/2.jpg")
    (tmp_path / "captions.jsonl").write_text(
        "".join(json.dumps({"file": name, "caption": name}) + "\n" for name in names)
    )
    corpus = open_corpus(tmp_path)
    assert {record.uri: record.captions for record in corpus.records} == {
        "bridge/1.jpg": ("bridge/1.jpg",),
        "airport/2.jpg": ("/elsewhere/airport/2.jpg",),
    }
    assert [issue.item for issue in corpus.issues] == ["airport/1.jpg"]
    assert "the image is missing; bridge/1.jpg has its name" in corpus.issues[0].reason


def test_the_folder_of_a_name_says_nothing_when_all_images_lie_in_one(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "1.jpg")
    (tmp_path / "captions.jsonl").write_text('{"file": "RSICD_images/1.jpg", "caption": "a"}\n')
    assert [record.uri for record in open_corpus(tmp_path).records] == ["images/1.jpg"]


def test_members_of_one_name_are_not_guessed_but_an_archive_stored_twice_is_one(tmp_path: Path) -> None:
    image = picture(tmp_path / "away.jpg").read_bytes()
    (tmp_path / "away.jpg").unlink()
    for name in ("a.zip", "b.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member in ("airport/1.jpg", "bridge/1.jpg", "bridge/2.jpg"):
                archive.writestr(member, image)
    (tmp_path / "captions.jsonl").write_text('{"file": "1.jpg"}\n{"file": "2.jpg"}\n')
    corpus = open_corpus(tmp_path)
    assert [record.uri for record in corpus.records] == ["a.zip!/bridge/2.jpg"]
    assert "several images have this name" in corpus.issues[0].reason


def test_two_images_never_share_a_key(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "captions.jsonl").write_text('{"file": "a.jpg"}\n{"file": "images/a.jpg"}\n')
    keys = [record.key for record in open_corpus(tmp_path).records]
    assert len(set(keys)) == 2


def test_one_table_can_be_opened_by_its_path(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "mine.jsonl").write_text('{"file": "a.jpg"}\n')
    (tmp_path / "other.jsonl").write_text("{}\n")
    assert len(open_corpus(tmp_path / "mine.jsonl")) == 1


# --- opening
# --------------------------------------------------------------------------------------------------------


def test_classes_json_gives_name_prompt_and_words(tmp_path: Path) -> None:
    picture(tmp_path / "tanks" / "1.jpg")
    about = {"name": "oil", "prompt": "a photo of {}", "classes": {"tanks": "storage tanks", "unused": "x"}}
    (tmp_path / "classes.json").write_text(json.dumps(about))
    corpus = open_corpus(tmp_path)
    assert (corpus.name, corpus.prompt) == ("oil", "a photo of {}")
    assert corpus.classes == {"tanks": "storage tanks"}


@pytest.mark.parametrize("text", ["{", '{"prompt": "no braces"}', '{"classes": 3}', "[]"])
def test_a_damaged_classes_json_is_named(tmp_path: Path, text: str) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(CorpusError, match=r"classes\.json"):
        open_corpus(tmp_path)


def test_an_empty_corpus_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"empty corpus.*dataset_rsicd\.json"):
        open_corpus(tmp_path)


def test_a_corpus_none_of_whose_images_exist_names_the_first_problem(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "other.jpg")
    (tmp_path / "captions-train.tsv").write_text("a\tb\n")
    with pytest.raises(CorpusError, match=r"imageclef layout.*first problem: a: the image is missing"):
        open_corpus(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file or folder"):
        open_corpus(tmp_path / "nowhere")


def test_a_broken_zip_is_named(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"PK\3\4 broken")
    with pytest.raises(CorpusError, match=r"images\.zip is not a readable zip"):
        open_corpus(tmp_path)


def test_an_unknown_split_name_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"'val'.*train, validation, test"):
        open_corpus(tmp_path).split("val")


def test_places_are_read_from_tables_and_what_is_on_no_map_is_left_out_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in "abcdef":
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{name}.png")
    rows = ["file,caption,Latitude,longitude", "a.png,one,48.5,-3", "b.png,two,,", "c.png,three,95,0", "d.png,four,x,1"]
    rows += ["e.png,five,  , \t", "f.png,six,NaN,nan"]
    (tmp_path / "captions.csv").write_text("\n".join([*rows, "a.png,more,,"]))
    corpus = open_corpus(tmp_path)
    assert {r.key[0]: (r.latitude, r.longitude) for r in corpus.records} == {
        "a": (48.5, -3.0), "b": (None, None), "c": (None, None), "d": (None, None),
        "e": (None, None), "f": (None, None),
    }  # fmt: skip
    assert [issue.item for issue in corpus.issues] == ["c.png", "d.png"]
    assert "is no place" in corpus.issues[0].reason
