"""``clipsearch feed`` with patches and places: fed, verified, updated, synced; and an index that lacks the fields."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feed_support import DIM, PixelModel, at, fed, feed, index, picture, pixels, rewrite, url, write_corpus
from small_index import running_engine

from clipsearch.appwriter import EmbeddingField, application_of, write_app, write_application
from clipsearch.corpora import open_corpus
from clipsearch.encoding import encode
from clipsearch.errors import InputError, ShardError
from clipsearch.search import SearchClient, query
from clipsearch.shards import open_shards
from feeders.images import Source

__all__ = ["at", "pixels", "url"]  # fixtures


def labels(url: str, corpus: str) -> dict[str, tuple[str, ...]]:
    """Labels of each document's patches."""
    stored = index(url, corpus)
    return {key: tuple(fields.get("patches", {}).get("blocks", ())) for key, fields in stored.items()}


def different(summary: dict[str, Any]) -> dict[str, list[str]]:
    lines = map(json.loads, Path(summary["findings"]).read_text().splitlines())
    return {line["id"].split("::")[1]: line["fields"] for line in lines}


def encoded(corpus: Path, folder: Path, model: PixelModel | None = None, plan: str = "1x2") -> Path:
    """Shards of ``corpus``, as an encoding without any index leaves them."""
    with open_corpus(corpus) as opened:
        encode(opened, model or PixelModel(), folder, progress=False, patches=plan)
    return folder


HALVES = ("0-0-500-1000", "500-0-1000-1000")


def test_images_are_fed_with_their_parts_and_found_by_them(
    pixels: type[PixelModel], at: list[Any], url: str, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "parts", 4)
    rows = {f"images/{number}.png": {"latitude": 10 + number, "longitude": -1.5} for number in range(3)}
    rewrite(corpus, {**rows, "images/3.png": {}})
    assert fed("images", corpus, *at, "--patches", "1x2")["fed"] == 4
    assert labels(url, "parts") == {f"{number}.png": HALVES for number in range(4)}
    stored = index(url, "parts")
    assert {fields["patches_model"] for fields in stored.values()} == {"pixels-1"}
    assert [stored[f"{number}.png"].get("latitude") for number in range(4)] == [10.0, 11.0, 12.0, None]
    shards = tmp_path / "work" / "parts" / "pixels-1-1x2"
    assert fed("verify", shards, "--url", url)["clean"]
    row = next(row for row in open_shards(shards) if row.record.key == "2.png")
    assert (row.record.latitude, row.record.longitude) == (12.0, -1.5)
    with SearchClient(url) as client:
        best = client.search(query.patches(row.patches[1], "pixels-1", filters=query.Filters("parts"))).hits[0]
    assert (best.id, best.box) == ("id:parts:image::2.png", (0.5, 0.0, 1.0, 1.0))
    assert feed("export", shards).stdout.count('"500-0-1000-1000":"') == 4
    asked = ("--model", "pixels-1", "--work", tmp_path / "another", "--name", "renamed", "--patches", "1x2")
    exported = feed("export", corpus, *asked).stdout
    assert (exported.count('"500-0-1000-1000":"'), exported.count('"id:renamed:image::')) == (4, 4)


def test_verify_notices_changed_and_missing_parts_and_update_renews_them(
    pixels: type[PixelModel], at: list[Any], url: str, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "renew", 3)
    fed("images", corpus, *at, "--patches", "1x2")
    shards = tmp_path / "work" / "renew" / "pixels-1-1x2"
    changes: list[dict[str, Any]] = [
        {"key": "0.png", "patches": None, "patches_model": None},
        {"key": "1.png", "patches": {"blocks": {HALVES[0]: [1.0] + [0.0] * (DIM - 1)}}},
        {"key": "2.png", "patches_model": "pixels-0", "latitude": 1.0},
    ]
    path = tmp_path / "changes.jsonl"
    path.write_text("\n".join(map(json.dumps, changes)))
    assert fed("update", path, "--corpus", "renew", "--url", url)["fed"] == 3
    assert different(fed("verify", shards, "--url", url, code=1)) == {
        "0.png": ["patches", "patches_model"], "1.png": ["patches"], "2.png": ["latitude", "patches_model"]
    }  # fmt: skip
    assert fed("update", shards, "--url", url)["fed"] == 3
    assert different(fed("verify", shards, "--url", url, code=1)) == {"2.png": ["latitude"]}
    assert fed("update", shards, "--fields", "place", "--url", url)["fed"] == 3
    assert fed("verify", shards, "--url", url)["clean"]


def test_sync_sends_the_parts_that_differ_and_leaves_them_alone_when_not_asked(
    pixels: type[PixelModel], at: list[Any], url: str, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "synced", 3)
    fed("sync", corpus, *at)
    assert labels(url, "synced") == {f"{number}.png": () for number in range(3)}
    plan = fed("sync", corpus, *at, "--patches", "1x2", "--dry-run")["plans"][0]
    assert (plan["updated"], plan["updated_patches"]) == (3, 3)
    assert fed("sync", corpus, *at, "--patches", "1x2")["plans"][0]["updated"] == 3
    assert labels(url, "synced") == {f"{number}.png": HALVES for number in range(3)}
    for again in ("--patches", "1x2"), ():
        assert fed("sync", corpus, *at, *again)["plans"][0]["unchanged"] == 3
    other_plan = fed("sync", corpus, *at, "--patches", "2x1")["plans"][0]
    assert (other_plan["updated"], other_plan["updated_patches"]) == (3, 3)
    assert labels(url, "synced")["0.png"] == ("0-0-1000-500", "0-500-1000-1000")
    other_model = fed("sync", corpus, *at[:-1], "pixels-2", "--patches", "2x1")["plans"][0]
    assert (other_model["updated_embedding"], other_model["updated_patches"]) == (3, 3)
    assert fed("verify", tmp_path / "work" / "synced" / "pixels-2-2x1", "--url", url)["clean"]


def test_an_index_of_an_earlier_version_takes_what_it_knows_and_says_what_it_lacks(
    pixels: type[PixelModel], tmp_path: Path, free_port: Callable[[], int]
) -> None:
    app = tmp_path / "app"
    write_app([EmbeddingField("embedding", DIM)], app)
    as_earlier(app)
    corpus = write_corpus(tmp_path / "old", 3)
    with running_engine(tmp_path / "data", free_port, app) as running:
        at = ["--url", running.url, "--work", tmp_path / "work", "--model", "pixels-1"]
        assert fed("images", corpus, *at)["fed"] == 3
        assert fed("verify", tmp_path / "work" / "old" / "pixels-1", "--url", running.url)["clean"]
        assert fed("sync", corpus, *at)["plans"][0]["unchanged"] == 3
        assert feed("export", corpus, "--model", "pixels-1", "--work", tmp_path / "work").exit_code == 0
        shards = encoded(corpus, tmp_path / "work" / "old" / "pixels-1-1x2")
        PixelModel.embedded = 0
        for command in "images", "sync":
            done = feed(command, corpus, *at, "--patches", "1x2")
            assert isinstance(done.exception, InputError), done.output
            assert f"does not take the patches of {corpus}" in str(done.exception)
            assert f"'clipsearch app --dim {DIM} --out DIR --force'" in str(done.exception)
        assert PixelModel.embedded == 0
        assert not (tmp_path / "work" / "dead-letters.jsonl").exists()
        done = feed("shards", shards, "--url", running.url)
        assert isinstance(done.exception, ShardError), done.output
        assert "does not take the patches" in str(done.exception)
        assert f"app --dim {DIM}" in str(done.exception)
        done = feed("update", shards, "--url", running.url)
        assert done.exit_code == 0, done.output
        assert "patches are left as they are" in done.stderr
        assert isinstance(feed("update", shards, "--fields", "patches", "--url", running.url).exception, ShardError)
        placed = write_corpus(tmp_path / "placed", 3)
        rewrite(placed, {"images/0.png": {}, "images/1.png": {"latitude": 1, "longitude": 2}, "images/2.png": {}})
        for arguments in ("images", placed, *at), ("sync", placed, *at), ("shards", encoded(placed, tmp_path / "p")):
            done = feed(*arguments, *(() if "--url" in arguments else ("--url", running.url)))
            assert isinstance(done.exception, InputError), done.output
            assert "does not take the places" in str(done.exception) or arguments[0] == "shards"
        done = feed("shards", encoded(placed, tmp_path / "q", plan=""), "--url", running.url)
        assert isinstance(done.exception, ShardError), done.output
        assert "does not take the places" in str(done.exception)
        assert not index(running.url, "placed")


def test_a_feed_that_is_refused_for_its_patches_leaves_the_documents_as_they_are(
    pixels: type[PixelModel], at: list[Any], url: str, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """The application's patches have half the cells of the shards'."""
    write_app([EmbeddingField("embedding", DIM)], tmp_path / "app")
    schema = tmp_path / "app" / "schemas" / "image.sd"
    before, _, after = schema.read_text().partition("        field patches type")
    schema.write_text(f"{before}        field patches type{after.replace(f'x[{DIM}]', f'x[{DIM // 2}]', 1)}")
    (tmp_path / "app" / "schemas" / "image" / "vector_patches.profile").unlink()
    corpus = write_corpus(tmp_path / "kept", 2)
    shards = encoded(corpus, tmp_path / "shards")
    with running_engine(tmp_path / "data", free_port, tmp_path / "app") as running:
        fed("images", corpus, "--url", running.url, "--work", tmp_path / "work", "--model", "pixels-1")
        half = {"blocks": {HALVES[0]: [1.0] + [0.0] * (DIM // 2 - 1)}}
        changes = tmp_path / "changes.jsonl"
        changes.write_text(json.dumps({"key": "0.png", "patches": half, "patches_model": "half"}))
        assert fed("update", changes, "--corpus", "kept", "--url", running.url)["fed"] == 1
        stored = index(running.url, "kept")
        done = feed("shards", shards, "--url", running.url)
        assert isinstance(done.exception, ShardError), done.output
        assert "does not take the patches" in str(done.exception)
        assert index(running.url, "kept") == stored
        assert stored["0.png"]["patches_model"] == "half"


@pytest.fixture
def two_generations(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[str]:
    """An index of three images with embeddings of pixels-1 (active) and pixels-2, and patches of pixels-1."""
    application = application_of([EmbeddingField("embedding", DIM)]).adding(DIM, "pixels-2")
    write_application(application, tmp_path / "two")
    corpus = write_corpus(tmp_path / "both", 3)
    with running_engine(tmp_path / "data", free_port, tmp_path / "two") as running:
        at = ["--url", running.url, "--work", tmp_path / "work", "--model", "pixels-1"]
        assert fed("images", corpus, *at, "--patches", "1x2")["fed"] == 3
        values = {"values": [1.0] + [0.0] * (DIM - 1)}
        lines = [{"key": f"{n}.png", "embedding_g2": values, "model_id_g2": "pixels-2"} for n in range(3)]
        (tmp_path / "g2.jsonl").write_text("\n".join(map(json.dumps, lines)))
        assert fed("update", tmp_path / "g2.jsonl", "--corpus", "both", "--url", running.url)["fed"] == 3
        yield running.url


def models_of_patches(url: str) -> set[str]:
    return {fields["patches_model"] for fields in index(url, "both").values()}


def test_patches_of_a_second_generation_replace_those_of_the_first_only_when_asked_by_name(
    pixels: type[PixelModel], two_generations: str, tmp_path: Path
) -> None:
    url, corpus = two_generations, tmp_path / "both"
    second = encoded(corpus, tmp_path / "second", PixelModel("pixels-2"))
    before = index(url, "both")
    done = feed("update", second, "--url", url)
    assert done.exit_code == 0, done.output
    assert "patches are left as they are" in done.stderr
    assert "--fields patches" in done.stderr
    after = index(url, "both")
    assert all(after[key]["embedding_g2"] != fields["embedding_g2"] for key, fields in before.items())
    assert all(after[key]["patches"] == fields["patches"] for key, fields in before.items())
    assert models_of_patches(url) == {"pixels-1"}
    first = encoded(corpus, tmp_path / "first", plan="2x1")
    assert fed("update", first, "--url", url)["fed"] == 3  # of the first generation: patches come along
    assert labels(url, "both")["0.png"] == ("0-0-1000-500", "0-500-1000-1000")
    at = ["--url", url, "--work", tmp_path / "work", "--model", "pixels-2"]
    done = feed("sync", corpus, *at, "--patches", "1x2", "--json")
    assert "patches are left as they are" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["plans"][0]["unchanged"] == 3
    assert models_of_patches(url) == {"pixels-1"}
    assert fed("update", second, "--fields", "patches", "--url", url)["fed"] == 3
    assert models_of_patches(url) == {"pixels-2"}


def test_a_replaced_image_loses_its_patches_where_sync_is_not_asked_for_them_and_the_plan_counts_it(
    pixels: type[PixelModel], at: list[Any], url: str, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "losing", 3)
    fed("sync", corpus, *at, "--patches", "1x2")
    picture(corpus / "images" / "1.png", 77)
    for options in ("--dry-run",), ():
        plan = fed("sync", corpus, *at, *options)["plans"][0]
        assert (plan["replaced"], plan["replaced_without_patches"], plan["unchanged"]) == (1, 1, 2)
    assert labels(url, "losing") == {"0.png": HALVES, "1.png": (), "2.png": HALVES}
    picture(corpus / "images" / "1.png", 78)
    assert "replaced_without_patches" not in fed("sync", corpus, *at)["plans"][0]


def test_shards_of_an_explicit_precision_are_kept_apart(tmp_path: Path) -> None:
    def folder(**options: str) -> str:
        return Source(["c"], "m", tmp_path, **options).folder("c", "model").name  # type: ignore[arg-type]

    assert folder() == folder(precision="auto") == "model"
    assert folder(precision="fp32") == "model-fp32"
    assert folder(precision="bf16", patches="1x2") == "model-bf16-1x2"


def as_earlier(app: Path) -> None:
    """Take out of a package what came with patches and places."""
    (app / "schemas" / "image" / "vector_patches.profile").unlink()
    schema = app / "schemas" / "image.sd"
    text = schema.read_text()
    for name in ("patches_model", "latitude", "longitude", "patches"):
        before, _, after = text.partition(f"        field {name} type")
        assert after, name
        text = before + after.partition("\n        }\n")[2]
        text = text.replace(f"        summary {name} {{}}\n", "")
    schema.write_text(text)


def test_patches_that_are_no_unit_vectors_are_named(tmp_path: Path) -> None:
    from fake_vespa import jpeg, unit

    from clipsearch.records import Embedded, Record
    from feeders.documents import document_fields, document_rows, patch_labels

    boxes = np.array([[0, 0, 32, 48], [32, 0, 64, 48], [0, 0, 32, 48]], np.int32)
    whole = np.stack([unit(2), unit(3), unit(4)])
    row = Embedded(Record("demo", "a", "a"), unit(1), jpeg(), 64, 48, "ab", "m", whole, boxes)
    fields = document_fields(row)
    assert list(fields["patches"]["blocks"]) == list(HALVES)  # of two with one box, the first stays
    assert fields["patches_model"] == "m"
    assert patch_labels([[75, 0, 149, 74]], 224, 224) == ["335-0-665-330"]
    for bad in (whole * 2, whole * np.nan):
        broken = Embedded(row.record, unit(1), jpeg(), 64, 48, "ab", "m", bad, boxes)
        (found,) = document_rows([broken])
        assert isinstance(found[1], InputError)
        assert "one of its patches" in str(found[1])
