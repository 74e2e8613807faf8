"""Parquet, data sets saved by Hugging Face ``datasets``, and the hub: columns guessed, images read one at a time."""

from __future__ import annotations

import contextlib
import io
import json
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipsearch.corpora import ImageStore, open_corpus
from clipsearch.corpora.blocks import BlockCache
from clipsearch.corpora.store import is_image_name
from clipsearch.errors import CorpusError, ImageError
from clipsearch.images import load_image


def png(shade: int = 90) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), shade % 256, dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def structs(images: list[Any]) -> Any:
    return pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def write(path: Path, group: int = 1000, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


# --- Parquet


def test_the_hubs_parquet_files_give_images_captions_classes_and_splits(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["sea_lake", "Forest"]}}}}
    for split, shade in (("train", 10), ("validation", 20), ("test", 30)):
        table = pa.table(
            {
                "image": structs([{"bytes": png(shade), "path": f"{split}.png"}]),
                "captions": pa.array([[f"a {split} .", "", None]], pa.list_(pa.string())),
                "label": pa.array([1]),
            }
        ).replace_schema_metadata({"huggingface": json.dumps(features)})
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    with open_corpus(tmp_path) as corpus:
        assert corpus.layout == "parquet"
        by_split = {record.split: record for record in corpus.records}
        assert {split: record.captions for split, record in by_split.items()} == {
            name: (f"a {name}",) for name in ("train", "validation", "test")
        }
        assert by_split["test"].uri == "data/test-00000-of-00001.parquet!/image/0"
        assert by_split["test"].key == "test.png"
        assert corpus.classes == {"Forest": "forest"}
        assert load_image(corpus.read(by_split["validation"]))[0, 0, 0] == 20


def test_one_parquet_file_of_bytes_without_names_or_splits(tmp_path: Path) -> None:
    path = write(
        tmp_path / "pairs.parquet", jpg=[png(n) for n in range(50)], caption=[f"number {n}" for n in range(50)]
    )
    (tmp_path / "other.parquet").write_bytes(b"not looked at")
    corpus = open_corpus(path)
    assert corpus.records[7].key == "pairs-000007"
    assert corpus.records[7].captions == ("number 7",)
    assert {record.split for record in corpus.records} == {"train", "validation", "test"}
    assert [record.split for record in corpus.records] == [record.split for record in open_corpus(path).records]


def test_paths_in_a_column_are_files_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(1))
    write(
        tmp_path / "table.parquet",
        image=structs([{"bytes": None, "path": "images/a.png"}, {"bytes": png(2), "path": None}, None]),
        text=["from a file", "from a column", "from nowhere"],
    )
    with open_corpus(tmp_path) as corpus:
        assert [record.uri for record in corpus.records] == ["images/a.png", "table.parquet!/image/1"]
        assert [int(load_image(corpus.read(record))[0, 0, 0]) for record in corpus.records] == [1, 2]
        assert [issue.item for issue in corpus.issues] == ["table.parquet, row 2"]
        assert "no image in column image" in corpus.issues[0].reason
    write(tmp_path / "table.parquet", file_name=["images/a.png", "gone.png", None], caption=["x", "y", "z"])
    corpus = open_corpus(tmp_path)
    assert [record.uri for record in corpus.records] == ["images/a.png"]
    assert ["missing" in issue.reason or "no image" in issue.reason for issue in corpus.issues] == [True, True]


def test_rows_of_one_file_name_are_one_image(tmp_path: Path) -> None:
    write(
        tmp_path / "long.parquet",
        image=[png(1), png(1), png(2)],
        file_name=["a.png", "a.png", "b.png"],
        caption=["one", "two", "three"],
    )
    records = open_corpus(tmp_path).records
    assert [(record.key, record.captions) for record in records] == [("a.png", ("one", "two")), ("b.png", ("three",))]


def test_columns_of_unusual_names_are_given(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", scan=[png(5)], thumb=[png(6)], befund=["a scan"], teil=["Val"], art=["MR/T 1"])
    with pytest.raises(
        CorpusError, match=r"no column of images: it has scan \(binary\), thumb.*x\.parquet\?image=COLUMN"
    ):
        open_corpus(path)
    with open_corpus(
        path, image_column="Scan", caption_column="befund", split_column="teil", label_column="art"
    ) as corpus:
        record = corpus.records[0]
        assert (record.captions, record.split, record.label) == (("a scan",), "validation", "MR/T 1")
        assert load_image(corpus.read(record))[0, 0, 0] == 5
    with pytest.raises(CorpusError, match="no column 'colour': it has scan"):
        open_corpus(path, image_column="scan", caption_column="colour")


def test_a_column_whose_name_has_a_slash_and_a_space_is_read(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", **{"my images/png": [png(5)]})
    with open_corpus(tmp_path) as corpus:
        assert load_image(corpus.read(corpus.records[0]))[0, 0, 0] == 5


def test_embedding_shards_are_not_taken_for_a_corpus(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", thumbnail=[png()], embedding=[[0.5]], content_hash=["0"])
    with pytest.raises(CorpusError, match="holds embeddings"):
        open_corpus(tmp_path)


def test_bad_rows_cost_themselves_and_bad_files_themselves(tmp_path: Path) -> None:
    captions = pa.Array.from_buffers(  # Arrow takes a producer's word for UTF-8
        pa.string(), 4, pa.array([b"fine", b"caf\xe9", b"", b"word " * 333]).buffers()
    )
    write(tmp_path / "a.parquet", image=[png(1), png(2), png(3), png(4)], caption=captions, split=["train"] * 4)
    write(tmp_path / "b.parquet", image=[png(5), png(6)], caption=[None, "x"], split=["test", "dessert"])
    (tmp_path / "c.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-20])
    write(tmp_path / "d.parquet", who=["x"])
    with open_corpus(tmp_path) as corpus:
        assert [(record.uri[:9], len(record.captions)) for record in corpus.records] == [
            ("a.parquet", 1), ("a.parquet", 0), ("a.parquet", 1), ("b.parquet", 0),
        ]  # fmt: skip
        assert len(corpus.records[2].captions[0].split()) == 333
        reasons = {issue.item: issue.reason for issue in corpus.issues}
    assert "caption is not UTF-8" in reasons["a.parquet, row 1"]
    assert "'dessert' is not a split" in reasons["b.parquet, row 1"]
    assert "not a readable Parquet file" in reasons["c.parquet"]
    assert "no column of images: it has who (string)" in reasons["d.parquet"]


def test_a_damaged_row_group_costs_its_rows_and_not_the_others(tmp_path: Path) -> None:
    captions = [f"{n} {random.Random(n).random()}" for n in range(300)]
    path = tmp_path / "x.parquet"
    table = pa.table({"image": [png(n) for n in range(300)], "caption": captions})
    pq.write_table(table, path, row_group_size=100, compression="zstd", use_dictionary=False)
    place = pq.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
    data = bytearray(path.read_bytes())
    data[place + 40 : place + 200] = b"\xff" * 160
    path.write_bytes(data)
    with open_corpus(path) as corpus:
        assert [record.captions[0] for record in corpus.records] == captions[:100] + captions[200:]
        assert "rows 100 to 199 cannot be read" in corpus.issues[0].reason


def test_rows_of_tables_count_as_images_for_the_search_page(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", image=[png(9)])
    with open_corpus(tmp_path) as corpus, ImageStore(tmp_path) as store:
        uri = corpus.records[0].uri
        assert is_image_name(uri)
        assert load_image(store.read(uri))[0, 0, 0] == 9
    assert not is_image_name("x.parquet")
    assert not is_image_name("x.parquet!/image/one")


def test_what_cannot_be_read_of_a_table_is_an_image_error(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", image=[png(), None], n=[1, 2])
    (tmp_path / "y.parquet").write_bytes(b"PAR1")
    with ImageStore(tmp_path) as store:
        for uri, reason in (
            ("x.parquet!/image/1", "has no image"),
            ("x.parquet!/image/2", "has no row 2"),
            ("x.parquet!/images/0", "has no column images"),
            ("x.parquet!/n/0", "not an image"),
            ("x.parquet!/0", "is not COLUMN/ROW"),
            ("x.parquet!/image/-1", "is not COLUMN/ROW"),
            ("y.parquet!/image/0", "not a readable Parquet file"),
            ("z.parquet!/image/0", "missing"),
            ("../x.parquet!/image/0", "not a file below"),
        ):
            with pytest.raises(ImageError, match=reason):
                store.read(uri)


@pytest.mark.parametrize("group", [7, 5000])
def test_threads_read_rows_in_any_order_and_memory_stays_bounded(tmp_path: Path, group: int) -> None:
    count = 800
    images = [number.to_bytes(4, "big") * 4096 for number in range(count)]  # 16 KB each, 13 MB
    write(tmp_path / "x.parquet", group, image=structs([{"bytes": data, "path": None} for data in images]))
    with open_corpus(tmp_path) as corpus, ThreadPoolExecutor(8) as pool:
        corpus._store._blocks._limit = 2 * 1024 * 1024
        assert list(pool.map(corpus.read, corpus.records)) == images
        order = random.Random(0).sample(range(count), 10)
        assert [corpus.read(corpus.records[number]) for number in order] == [images[number] for number in order]
        assert 0 < corpus._store._blocks._held <= 5 * 1024 * 1024  # one block at least


def test_a_block_is_decoded_once_in_the_order_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.parquet", 400, image=[bytes([number % 256]) * 50_000 for number in range(1000)])
    with open_corpus(tmp_path) as corpus:
        puts: list[object] = []
        put = BlockCache.put
        monkeypatch.setattr(BlockCache, "put", lambda self, key, *rest: (puts.append(key), put(self, key, *rest)))
        for record in corpus.records:
            corpus.read(record)
        assert len(puts) == len(set(puts)) > 10


# --- saved by Hugging Face datasets


@pytest.fixture(scope="module")
def hugging() -> Any:
    return pytest.importorskip("datasets")


def saved(hugging: Any, root: Path) -> Path:
    features = hugging.Features(
        {
            "image": hugging.Image(),
            "caption": hugging.Value("string"),
            "label": hugging.ClassLabel(names=["pond", "bare_land"]),
        }
    )
    splits = {
        split: hugging.Dataset.from_dict(
            {
                "image": [{"bytes": png(shade + n), "path": None} for n in range(3)],
                "caption": [f"{split} {n}" for n in range(3)],
                "label": [n % 2 for n in range(3)],
            },
            features=features,
        )
        for split, shade in (("train", 10), ("test", 20))
    }  # fmt: skip
    hugging.DatasetDict(splits).save_to_disk(str(root))
    return root


def test_a_saved_data_set_opens_with_its_splits_and_class_names(hugging: Any, tmp_path: Path) -> None:
    with open_corpus(saved(hugging, tmp_path / "ponds")) as corpus:
        assert corpus.name == "ponds"
        assert [record.split for record in corpus.records] == ["test"] * 3 + ["train"] * 3
        assert corpus.records[1].captions == ("test 1",)
        assert corpus.classes == {"bare_land": "bare land", "pond": "pond"}
        assert [int(load_image(corpus.read(record))[0, 0, 0]) for record in corpus.records] == [20, 21, 22, 10, 11, 12]
        assert "/data-00000-of-00001.arrow!/image/1" in corpus.records[1].uri
    with open_corpus(tmp_path / "ponds" / "train") as corpus:  # one split alone: nobody says which
        assert len(corpus) == 3
        with ThreadPoolExecutor(4) as pool:
            assert len(list(pool.map(corpus.read, corpus.records * 20))) == 60


def test_a_saved_data_set_that_is_cut_short_keeps_its_whole_batches(hugging: Any, tmp_path: Path) -> None:
    root = saved(hugging, tmp_path / "ponds")
    arrow = next((root / "train").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:-700])
    corpus = open_corpus(root)
    assert [record.split for record in corpus.records] == ["test"] * 3
    assert "damaged" in corpus.issues[0].reason
    (root / "test" / "state.json").write_text("{}")
    with pytest.raises(CorpusError, match="save it again with save_to_disk"):
        open_corpus(root)


def test_a_hub_name_is_loaded_once_and_then_opened_from_the_cache(
    hugging: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = hugging.load_from_disk(str(saved(hugging, tmp_path / "origin")))
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(hugging.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hugging, "load_dataset", lambda *names, revision: (asked.append((*names, revision)), local)[1])
    for _ in range(2):
        with open_corpus("hf:someone/Ponds:small@v2") as corpus:
            assert (corpus.name, len(corpus)) == ("ponds", 6)
            assert load_image(corpus.read(corpus.records[0]))[0, 0, 0] == 20
    assert asked == [("someone/Ponds", "small", "v2")]


def test_a_hub_name_that_cannot_be_loaded_says_why(
    hugging: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'a/b' on the Hub")

    monkeypatch.setattr(hugging.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(hugging, "load_dataset", offline)
    with pytest.raises(CorpusError, match=r"hf:a/b could not be loaded: Couldn't reach"):
        open_corpus("hf:a/b")
    with pytest.raises(CorpusError, match="is not the name of a data set: write hf:OWNER/NAME"):
        open_corpus("hf:a/../b")
    assert threading.active_count() < 50


def test_tables_that_are_closed_and_opened_again_never_mix_their_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsearch.corpora.store._OPEN_TABLES", 1)
    for number in range(6):
        write(tmp_path / f"{number}.parquet", image=[bytes([number, row]) for row in range(4)])
    with open_corpus(tmp_path) as corpus:
        for _ in range(3):
            read = [corpus.read(record) for record in sorted(corpus.records, key=lambda record: record.uri[::-1])]
            assert sorted(read) == [bytes([number, row]) for number in range(6) for row in range(4)]
            assert [data[0] for data in read] == [0, 1, 2, 3, 4, 5] * 4


@pytest.mark.soak
@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_a_damaged_table_is_refused_or_read_and_never_brings_the_process_down(
    tmp_path: Path, name: str, rounds: Callable[[int, int], int]
) -> None:
    rows = range(60)
    images = structs([{"bytes": bytes([row]) * 300, "path": f"{row}.png"} for row in rows])
    path = write(tmp_path / name, 20, image=images, caption=[[f"c {row}", None] for row in rows], label=list(rows))
    if name.endswith("arrow"):
        table = pq.read_table(path)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=20)
    good = path.read_bytes()
    for seed in range(rounds(30, 2000)):
        draw = random.Random(seed)
        data = bytearray(good)
        for _ in range(draw.randint(1, 6)):
            data[draw.choice([draw.randrange(len(data)), -1 - draw.randrange(2000)])] = draw.randrange(256)
        path.write_bytes(data[: draw.choice([len(data)] * 4 + [draw.randrange(len(data))])])
        with contextlib.suppress(CorpusError), open_corpus(path) as corpus:
            for record in corpus.records:
                with contextlib.suppress(ImageError):
                    assert isinstance(corpus.read(record), bytes)


def test_places_are_read_from_columns_of_numbers(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    image = (tmp_path / "a.png").read_bytes()
    nan = float("nan")
    columns = {"image": [image] * 5, "latitude": [1.5, None, 99.0, nan, nan], "longitude": [2.0, None, 0.0, nan, 1.0]}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    corpus = open_corpus(tmp_path / "train.parquet")
    assert [(record.latitude, record.longitude) for record in corpus.records] == [
        (1.5, 2.0),
        *[(None, None)] * 4,
    ]
    assert [issue.item for issue in corpus.issues] == ["train.parquet, row 2", "train.parquet, row 4"]
