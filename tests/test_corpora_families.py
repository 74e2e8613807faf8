"""The published layouts beside RSICD's: UCM, Sydney, RSITMD, CLIP-rsicd's captions, ImageCLEF 2017, ROCO, Flickr."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
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


def dataset(path: Path, entries: Iterable[tuple[str, str, list[str]]], **more: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": text} for text in texts], **more}
        for name, split, texts in entries
    ]
    path.write_text(json.dumps({"images": images}))


# --- RSICD's family


@pytest.mark.parametrize("name", ["dataset.json", "dataset_ucm.json", "dataset_RSITMD.json"])
def test_the_family_of_rsicd_opens_with_tif_images_in_imgs(tmp_path: Path, name: str) -> None:
    for number in (1, 2, 3):
        picture(tmp_path / "UCM_captions" / "imgs" / f"{number}.tif")
    dataset(
        tmp_path / "UCM_captions" / name,
        [("1.tif", "train", ["A field ."]), ("2.tif", "val", ["Two planes ."]), ("3.tif", "test", ["A ship ."])],
    )
    with open_corpus(tmp_path / "UCM_captions") as corpus:
        assert (corpus.layout, corpus.name) == ("rsicd", "ucm_captions")
        assert [record.split for record in corpus.records] == ["train", "validation", "test"]
        assert [record.uri for record in corpus.records] == ["imgs/1.tif", "imgs/2.tif", "imgs/3.tif"]
        assert corpus.records[1].captions == ("Two planes",)
        assert corpus.prompt == "an aerial photograph of {}"
        assert load_image(corpus.read(corpus.records[0])).shape == (8, 8, 3)


def test_class_lists_label_images_whose_names_have_no_class(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        picture(tmp_path / "imgs" / f"{number}.tif")
    dataset(tmp_path / "dataset.json", [(f"{number}.tif", "train", ["x"]) for number in (1, 2, 3)])
    (tmp_path / "txtclasses_ucm").mkdir()
    (tmp_path / "txtclasses_ucm" / "storage tanks.txt").write_text("1.tif\n2.tif\n")
    corpus = open_corpus(tmp_path)
    assert [record.label for record in corpus.records] == ["storagetanks", "storagetanks", ""]
    assert corpus.classes == {"storagetanks": "storage tanks"}


def test_karpathys_coco_file_gives_folders_and_no_aerial_prompt(tmp_path: Path) -> None:
    picture(tmp_path / "val2014" / "COCO_val2014_000000000001.jpg")
    dataset(
        tmp_path / "dataset_coco.json",
        [("COCO_val2014_000000000001.jpg", "restval", ["a dog"])],
        filepath="val2014",
    )
    corpus = open_corpus(tmp_path)
    assert corpus.records[0].uri == "val2014/COCO_val2014_000000000001.jpg"
    assert corpus.prompt == "a photo of {}"


def test_two_data_sets_in_one_folder_are_not_guessed_between(tmp_path: Path) -> None:
    picture(tmp_path / "1.tif")
    for name in ("dataset_ucm.json", "dataset_sydney.json"):
        dataset(tmp_path / name, [("1.tif", "test", [name])])
    with pytest.raises(CorpusError, match=r"several data sets \(dataset_sydney\.json, dataset_ucm\.json\)"):
        open_corpus(tmp_path)
    assert open_corpus(tmp_path / "dataset_ucm.json").records[0].captions == ("dataset_ucm.json",)


def test_an_image_that_the_source_has_in_two_splits_stays_in_both(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    dataset(
        tmp_path / "dataset_rsicd.json",
        [("a.jpg", "train", ["one"]), ("a.jpg", "test", ["two"]), ("a.jpg", "train", ["three"])],
    )
    records = open_corpus(tmp_path).records
    assert [(record.split, record.captions) for record in records] == [("train", ("one", "three")), ("test", ("two",))]
    assert len({record.key for record in records}) == 2
    assert len({record.uri for record in records}) == 1


# --- CLIP-rsicd's back-translated captions


def augmented(root: Path) -> Path:
    for name in ("pond_1", "pond_2", "river_3"):
        picture(root / "rsicd_images" / f"{name}.jpg")
    for split, name in (("train", "pond_1"), ("valid", "pond_2"), ("test", "river_3")):
        row = {"filename": f"rsicd_images/{name}.jpg", "captions": [f"augmented {split} ."]}
        (root / f"textaug_{split}_rsicd.jsonl").write_text(json.dumps(row) + "\n")
    return root


def test_augmented_captions_replace_only_those_of_training(tmp_path: Path) -> None:
    names = (("pond_1.jpg", "train"), ("pond_2.jpg", "val"), ("river_3.jpg", "test"))
    dataset(augmented(tmp_path) / "dataset_rsicd.json", [(name, split, ["original"]) for name, split in names])
    assert [record.captions for record in open_corpus(tmp_path).records] == [("original",)] * 3
    corpus = open_corpus(tmp_path, layout="textaug")
    assert [record.captions for record in corpus.records] == [("augmented train",), ("original",), ("original",)]
    assert [record.split for record in corpus.records] == ["train", "validation", "test"]
    assert corpus.classes == {"pond": "pond", "river": "river"}


def test_augmented_captions_alone_keep_their_own_splits(tmp_path: Path) -> None:
    for corpus in (open_corpus(augmented(tmp_path)), open_corpus(tmp_path, layout="textaug")):
        by_split = {record.split: record.captions for record in corpus.records}
        assert by_split == {name: (f"augmented {name[:5]}",) for name in ("train", "validation", "test")}


def test_the_augmented_captions_of_all_of_rsicd(shared: Path) -> None:
    with open_corpus(shared / "data" / "rsicd", layout="textaug") as corpus:
        assert Counter(record.split for record in corpus.records) == {"train": 8734, "validation": 1094, "test": 1093}
        assert sum(len(record.captions) for record in corpus.split("train")) == 43_670 - 2  # two are only a stop
        assert all(len(record.captions) == 5 for record in corpus.split("test")[:100])
        longest = max(len(text.split()) for record in corpus.records for text in record.captions)
        assert longest > 30  # nothing is cut here: the tokenizer of the model decides


# --- ImageCLEF and ROCO


def test_imageclef_2017_opens_as_it_is_distributed(tmp_path: Path) -> None:
    for folder, name in (
        ("training/CaptionPredictionTraining2017", "1471-1-l"),
        ("validation/ConceptDetectionValidation2017", "1472-2"),
        ("test/CaptionPredictionTesting2017", "1473-3"),
    ):
        picture(tmp_path / folder / f"{name}.jpg")
    (tmp_path / "training" / "CaptionPredictionTraining2017-Captions.csv").write_text("1471-1-l\tA, scan \n")
    (tmp_path / "training" / "ConceptDetectionTraining2017-Concepts.txt").write_text("1471-1-l\tC0021400,C0040405\n")
    (tmp_path / "validation" / "CaptionPredictionValidation2017-Captions.csv").write_text("1472-2\tX-ray\n1479-9\t?\n")
    (tmp_path / "test" / "CaptionPredictionTesting2017-List.txt").write_text("1473-3\n")
    corpus = open_corpus(tmp_path)
    assert corpus.layout == "imageclef"
    assert [(record.key, record.captions, record.split) for record in corpus.records] == [
        ("1471-1-l", ("A, scan",), "train"),
        ("1472-2", ("X-ray",), "validation"),
        ("1473-3", (), "test"),
    ]
    assert [issue.item for issue in corpus.issues] == ["1479-9"]


def test_roco_opens_as_it_is_distributed_and_counts_licences(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "validation", "test")):
        folder = tmp_path / split / "radiology"
        picture(folder / "images" / f"ROCO_0000{number}.jpg")
        (folder / "captions.txt").write_text(f"ROCO_0000{number}\t Scan {number}. \n")
        licence = "CC BY" if number else "CC BY-NC"
        (folder / "licences.txt").write_text(f"ROCO_ID,PMC_ID,CC\nROCO_0000{number},PMC1_a.jpg,{licence}\n")
    corpus = open_corpus(tmp_path)
    assert corpus.layout == "imageclef"
    assert [(record.split, record.captions) for record in corpus.records] == [
        ("train", ("Scan 0.",)),
        ("validation", ("Scan 1.",)),
        ("test", ("Scan 2.",)),
    ]
    assert corpus.licences == {"CC BY": 2, "CC BY-NC": 1}


def test_the_csv_of_roco_opens_where_there_is_no_captions_txt(tmp_path: Path) -> None:
    for split, word in (("train", "train"), ("validation", "val")):
        picture(tmp_path / split / "radiology" / "images" / f"PMC_{word}.jpg")
        text = f'id,name,caption\nROCO_1,PMC_{word}.jpg," A {word} scan.\n"\n'
        (tmp_path / split / f"radiology{word}data.csv").write_text(text)
    records = open_corpus(tmp_path).records
    assert {record.split: record.captions for record in records} == {
        "train": ("A train scan.",),
        "validation": ("A val scan.",),
    }


def test_our_share_of_roco_says_its_licences(shared: Path) -> None:
    corpus = open_corpus(shared / "data" / "roco")
    assert sum(corpus.licences.values()) == len(corpus)
    assert "CC BY" in corpus.licences


# --- tables in other clothes


def test_an_image_folder_of_hugging_face_is_a_table_a_split(tmp_path: Path) -> None:
    for split, shade in (("train", 10), ("test", 20)):
        picture(tmp_path / split / "0001.png", shade)  # the same name in both, on purpose
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps({"file_name": "0001.png", "text": split}) + "\n")
    corpus = open_corpus(tmp_path)
    assert {record.split: (record.uri, record.captions) for record in corpus.records} == {
        "train": ("train/0001.png", ("train",)),
        "test": ("test/0001.png", ("test",)),
    }


def test_flickrs_captions_txt_is_a_csv(tmp_path: Path) -> None:
    picture(tmp_path / "Images" / "1.jpg")
    (tmp_path / "captions.txt").write_text("image,caption\n1.jpg,A dog .\n1.jpg,A cat .\n")
    assert [record.captions for record in open_corpus(tmp_path).records] == [("A dog", "A cat")]


def test_tables_named_after_splits_are_found(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        picture(tmp_path / "images" / f"{name}.jpg")
        (tmp_path / f"{name}.csv").write_text(f"filename,caption\n{name}.jpg,a {name}\n")
    splits = {record.captions[0]: record.split for record in open_corpus(tmp_path).records}
    assert splits == {"a train": "train", "a val": "validation", "a test": "test"}


def test_columns_can_be_named_by_option_or_in_classes_json(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "captions.csv").write_text("Foto,Beschreibung,Kurz,Art,caption\na.jpg,one,two,pond,no\n")
    by_option = open_corpus(
        tmp_path, image_column="foto", caption_column=["beschreibung", "kurz"], label_column="Art"
    ).records[0]
    columns = {"image": "foto", "caption": ["beschreibung", "kurz"], "label": "Art"}
    (tmp_path / "classes.json").write_text(json.dumps({"columns": columns, "layout": "table"}))
    assert by_option == open_corpus(tmp_path).records[0]
    assert (by_option.captions, by_option.label) == (("one", "two"), "pond")
    with pytest.raises(CorpusError, match=r"no column 'colour': it has art, beschreibung, caption, foto, kurz"):
        open_corpus(tmp_path, label_column="colour")


def test_a_path_may_say_what_is_to_be_known_of_a_corpus(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "captions.csv").write_text("Foto,Lang,Kurz,caption\na.jpg,one,two,no\n")
    address = f"{tmp_path}/captions.csv?image=foto&caption=Lang,kurz&name=kunst&layout=table"
    for path in (address, Path(address)):
        record = open_corpus(path).records[0]
        assert (record.corpus, record.captions) == ("kunst", ("one", "two"))
    with pytest.raises(InputError, match=r"no 'colour' to say of a corpus: choose from layout, name, image"):
        open_corpus(f"{tmp_path}?colour=red")


def test_numbered_caption_columns_are_all_read(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "captions.csv").write_text("file,caption_1,caption_2\na.jpg,one,two\n")
    assert open_corpus(tmp_path).records[0].captions == ("one", "two")


def test_an_address_on_the_network_is_an_issue_that_says_so(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "captions.jsonl").write_text('{"file": "a.jpg"}\n{"image": "https://example.org/b.jpg"}\n')
    assert "nothing is downloaded" in open_corpus(tmp_path).issues[0].reason


# --- opening


def test_a_layout_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no layout 'coco': choose one of rsicd, textaug"):
        open_corpus(tmp_path, layout="coco")


def test_a_folder_of_no_known_layout_lists_the_layouts_and_what_was_found(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy", "images.tar.gz"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CorpusError) as caught:
        open_corpus(tmp_path)
    message = str(caught.value)
    for words in ("dataset_rsicd.json", "captions.jsonl", "*.tar", "*.parquet", "hf:OWNER/NAME", "2 .npy", "1 .gz"):
        assert words in message
    assert "Unpack images.tar.gz first" in message


def test_a_file_that_is_no_corpus_says_what_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "notes.docx").write_bytes(b"x")
    with pytest.raises(CorpusError, match=r"notes\.docx is not a corpus: give a folder, a caption table"):
        open_corpus(tmp_path / "notes.docx")
