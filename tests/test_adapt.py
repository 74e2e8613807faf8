"""The adapter: its file, its arithmetic, its training from pairs and shards, its refusals, and its commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from clipsearch.adapter import AdaptedModel, Adapter, Tower, adapted, load_adapter, save_adapter, unit
from clipsearch.cli import cli
from clipsearch.errors import CheckpointError, InputError, ShardError
from clipsearch.records import Embedded, Record
from clipsearch.shards import Manifest, write_manifest, write_shard
from clipsearch.training.adapting import AdaptOptions, fit_adapter
from clipsearch.training.adaptsources import read_archive, row_pairs
from clipsearch.training.gating import _mean_likeness, fit_gate
from clipsearch.training.pairs import caption_pairs, class_pairs, clusters, make_folds
from feeders.shards import feed_shards

DIM = 32
QUICK = AdaptOptions(rank=8, batch_size=32, steps=60)


def world(images: int = 240, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images and one caption each, in spaces that are turned against one another a little; unit norm."""
    generator = np.random.default_rng(seed)
    meaning = unit(generator.normal(size=(images, DIM)))
    turn = np.eye(DIM) + noise * generator.normal(size=(DIM, DIM)) / DIM**0.5
    return meaning, unit(meaning @ turn + 0.05 * generator.normal(size=meaning.shape))


def adapter(base: str = "model-1", alpha: float = 0.5, seed: int = 0) -> Adapter:
    generator = np.random.default_rng(seed)
    parts = [generator.normal(size=shape).astype(np.float32) for shape in ((DIM, 4), (4, DIM)) * 2]
    return Adapter(base, Tower(*parts[:2]), Tower(*parts[2:]), alpha, {"images": 3})


def rows(count: int = 24, model: str = "model-1", captions: bool = True) -> list[Embedded]:
    images, _ = world(count)
    return [
        Embedded(
            Record("c", f"k{i}", f"{i}.png", (f"caption {i}",) if captions else (), "train", "abc"[i % 3]),
            images[i], b"", 1, 1, "", model,
        )
        for i in range(count)
    ]  # fmt: skip


def shards(folder: Path, items: list[Embedded], model: str = "model-1") -> Path:
    folder.mkdir()
    write_shard(folder / "shard-00000.parquet", items, DIM)
    write_manifest(folder, Manifest("c", model, DIM, len(items), complete=True))
    return folder


def embed(texts: list[str]) -> np.ndarray:
    return world(24)[1][[int(text.split()[-1]) for text in texts]]


class Model:
    """An encoder without torch."""

    model_id, dim, image_size = "model-1", DIM, 8

    def embed_texts(self, texts: list[str], batch_size: int = 1) -> np.ndarray:
        return world(len(texts))[1]

    def embed_images(self, images: list[object]) -> np.ndarray:
        return world(len(images))[0]

    embed_pixels = embed_images


def test_alpha_zero_changes_nothing_and_results_have_length_one() -> None:
    images, texts = world()
    np.testing.assert_allclose(adapter(alpha=0.0).apply_images(images), images, atol=1e-6)
    for vectors in (adapter().apply_images(images), adapter().apply_texts(texts)):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert np.abs(vectors - images).max() > 0.01


def test_a_saved_adapter_comes_back_as_it_was(tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "deep" / "a.safetensors", adapter(alpha=0.1))
    again = load_adapter(path)
    assert (again.base, again.alpha, again.about, again.dim) == ("model-1", 0.1, {"images": 3}, DIM)
    assert again.model_id == adapter(alpha=0.1).model_id
    np.testing.assert_array_equal(again.apply_images(world()[0]), adapter(alpha=0.1).apply_images(world()[0]))
    assert [each.name for each in path.parent.iterdir()] == ["a.safetensors"]


def test_the_model_id_names_base_and_content() -> None:
    ids = {each.model_id for each in (adapter(), adapter(alpha=0.6), adapter(seed=1), adapter("model-2"))}
    assert len(ids) == 4
    assert adapter().model_id.startswith("model-1+")


def test_files_that_are_missing_damaged_or_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no adapter file"):
        load_adapter(tmp_path / "none")
    path = save_adapter(tmp_path / "a", adapter())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_adapter(path)
    save_adapter(path, replace(adapter(), text=Tower(np.ones((DIM, 4), np.float32), np.ones((5, DIM), np.float32))))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_adapter(path)
    save_adapter(path, replace(adapter(), alpha=float("nan")))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_adapter(path)


def test_embeddings_of_another_model_or_size_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"for the model model-1, .* is of model-9"):
        adapter().apply_row(rows(1, "model-9")[0])
    with pytest.raises(CheckpointError, match="adapted already"):
        adapter().apply_row(adapter().apply_row(rows(1)[0]))
    with pytest.raises(CheckpointError, match="takes embeddings of 32 numbers"):
        adapter().apply_texts(np.ones((2, 16), np.float32))
    with pytest.raises(CheckpointError, match="model-2"):
        AdaptedModel(Model(), adapter("model-2"))


def test_an_adapted_model_encodes_as_its_own_model(tmp_path: Path) -> None:
    model = adapted(Model(), save_adapter(tmp_path / "a", adapter()))
    assert (model.model_id, model.dim, model.image_size) == (adapter().model_id, DIM, 8)
    np.testing.assert_array_equal(model.embed_texts(["x"] * 5), adapter().apply_texts(world(5)[1]))
    np.testing.assert_array_equal(model.embed_images([0] * 5), adapter().apply_images(world(5)[0]))
    assert adapted(Model(), None).model_id == "model-1"


def test_captions_alone_are_enough_and_retrieval_of_new_pairs_gains() -> None:
    images, texts = world(480, noise=2.0)
    result = fit_adapter(caption_pairs(images[:360], texts[:360], np.arange(360)), "m", replace(QUICK, rank=16))
    new_images, new_texts = result.adapter.apply_images(images[360:]), result.adapter.apply_texts(texts[360:])

    def right(some: np.ndarray, others: np.ndarray) -> float:
        return float(((some @ others.T).argmax(axis=1) == np.arange(len(some))).mean())

    assert right(new_images, new_texts) > right(images[360:], texts[360:]) + 0.03
    assert result.choice.gain > 2
    assert result.choice.change >= -QUICK.loss
    assert result.choice in result.choices


def test_the_same_seed_gives_the_same_adapter_and_a_given_alpha_is_taken() -> None:
    images, texts = world(120)
    pairs = caption_pairs(images, texts, np.arange(120))
    options = replace(QUICK, steps=20, alpha=0.25)
    first, second = (fit_adapter(pairs, "m", options).adapter for _ in range(2))
    assert first.alpha == 0.25
    assert first.model_id == second.model_id
    assert fit_adapter(pairs, "m", replace(options, seed=1)).adapter.model_id != first.model_id


def test_where_nothing_can_be_won_nothing_is_changed() -> None:
    images, _ = world(60)
    result = fit_adapter(caption_pairs(images, images, np.arange(60)), "m", QUICK)
    assert result.adapter.alpha == 0
    np.testing.assert_allclose(result.adapter.apply_images(images), images, atol=1e-6)


def test_each_stratum_is_left_out_once_and_never_trained_on_then() -> None:
    images, texts = world(100)
    labels = np.arange(100) % 7
    pairs = caption_pairs(images, texts, np.arange(100), labels)
    folds = make_folds(pairs, 4, 512, 0)
    left = [set(labels[fold.rows[fold.left_out]]) for fold in folds]
    assert sorted(number for each in left for number in each) == list(range(7))
    for fold, names in zip(folds, left, strict=True):
        assert not names & set(labels[fold.train])
        assert not set(fold.rows) & set(fold.train)


def test_images_without_labels_are_left_out_by_clusters_that_follow_the_data() -> None:
    centres = np.repeat(np.eye(DIM, dtype=np.float32)[:12], 8, axis=0)
    found = clusters(unit(centres + 0.01 * np.random.default_rng(0).normal(size=centres.shape)))
    assert len(np.unique(found)) > 6
    assert all(len(set(found[start : start + 8])) == 1 for start in range(0, 96, 8))


def test_pairs_that_cannot_be_learned_from_are_refused_with_what_to_do() -> None:
    images, texts = world(40)
    bad = images.copy()
    bad[7, 3] = np.nan
    owners = np.arange(40)
    cases = [
        ((bad, texts, owners), "1 image embeddings are zero or not finite, the first in row 7"),
        ((images, texts[:, :16], owners), "images have embeddings of 32 numbers and texts of 16"),
        ((images, texts[:9], owners[:9]), "at least 16 images with a text, and there are 9"),
        ((images, texts, owners + 1), "owners must be image rows below 40"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            caption_pairs(*arguments)
    with pytest.raises(InputError, match="at least three"):
        class_pairs(images, owners % 2, texts[:2], np.arange(2))


def classes(count: int = 6, each: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N, D) around ``count`` centres, their labels, and names (C, D), some of them badly placed."""
    generator = np.random.default_rng(seed)
    centres = unit(generator.normal(size=(count, DIM)))
    labels = np.repeat(np.arange(count), each)
    images = unit(centres[labels] + 0.08 * generator.normal(size=(len(labels), DIM)))
    return images, labels, unit(centres + 0.22 * generator.normal(size=centres.shape))


def test_an_image_unlike_the_classes_stays_and_texts_stay_too() -> None:
    images, labels, names = classes()
    tower = fit_gate(images, labels, names, 0.7, 0.5, 0.5)
    far = unit(np.random.default_rng(1).normal(size=(50, DIM)))
    np.testing.assert_array_equal(tower.residual(far[(far @ images.T).max(axis=1) < 0.5]), 0)
    before, after = images @ names.T, tower(images, 1.0) @ names.T
    rows = np.arange(len(labels))
    assert (after[rows, labels] > before[rows, labels]).all()
    assert fit_adapter(class_pairs(images, labels, names, np.arange(6)), "m").adapter.text.up.shape == (0, DIM)


def test_a_class_whose_images_lead_by_the_margin_does_not_move() -> None:
    images, labels, _ = classes()
    tower = fit_gate(
        images, labels, unit(np.stack([images[labels == n].mean(axis=0) for n in range(6)])), 0.7, 0.1, 0.5
    )
    assert not tower.up.any()


def test_likeness_without_the_image_equals_fitting_without_it() -> None:
    images, labels, _ = classes(4, 5)
    means = np.stack([images[labels == number].mean(axis=0, dtype=np.float64) for number in range(4)])
    residuals, middle = images - means[labels], means.mean(axis=0)
    precision = np.linalg.inv(residuals.T @ residuals / 20 + 0.01 * np.eye(DIM))
    cosines = np.zeros(20)
    for row, label in enumerate(labels):
        others = (labels == label) & (np.arange(20) != row)
        mean = images[others].mean(axis=0, dtype=np.float64)
        left = residuals.copy()
        left[row], left[others] = 0, images[others] - mean
        without = np.linalg.inv(left.T @ left / 20 + 0.01 * np.eye(DIM))
        one, other = images[row] - middle, mean - middle
        cosines[row] = one @ without @ other / ((one @ without @ one) * (other @ without @ other)) ** 0.5
    found = _mean_likeness(residuals, labels, means - middle, precision)
    np.testing.assert_allclose(found, cosines.reshape(4, 5).mean(axis=1), atol=1e-6)


def test_classes_of_one_image_and_names_that_are_alike_change_nothing() -> None:
    images, labels, names = classes()
    single = np.unique(labels, return_index=True)[1]
    assert fit_gate(images[single], labels[single], names, 0.7, 0.1, 0.5).up.size == 0
    assert fit_gate(images, labels, np.repeat(names[:1], 6, axis=0), 0.7, 0.1, 0.5).up.size == 0
    some = np.concatenate([np.flatnonzero(labels < 3), single[3:]])
    tower = fit_gate(images[some], labels[some], names, 0.7, 0.5, 0.5)
    assert tower.up.shape == (3, DIM)
    twins = fit_gate(images, labels, np.concatenate([names[:5], names[4:5]]), 0.7, 0.5, 0.5)
    assert np.isfinite(twins(images, 1.0)).all()


def test_a_gated_adapter_comes_back_as_it_was_and_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images, labels, names = classes()
    made = fit_adapter(class_pairs(images, labels, names, np.arange(6)), "m").adapter
    made = replace(made, alpha=0.5)
    again = load_adapter(save_adapter(tmp_path / "a", made))
    assert again.model_id == made.model_id
    np.testing.assert_array_equal(again.apply_images(images), made.apply_images(images))
    for wrong in ({"centre": None}, {"bias": np.zeros(5, np.float32)}, {"white": np.full((DIM, DIM), np.inf)}):
        save_adapter(tmp_path / "a", replace(made, image=replace(made.image, **wrong)))
        with pytest.raises(CheckpointError, match="do not fit"):
            load_adapter(tmp_path / "a")


def test_rows_of_two_models_are_refused_and_images_without_captions_name_the_way_out() -> None:
    mixed = [*rows(20), replace(rows(21)[20], model_id="model-2")]
    with pytest.raises(ShardError, match="mix embeddings of the models model-1 and model-2"):
        row_pairs(mixed, embed)
    with pytest.raises(ShardError, match="no images with captions in the train split"):
        row_pairs(rows(captions=False), embed)
    with pytest.raises(ShardError, match="in the test split"):
        row_pairs(rows(), embed, split="test")
    pairs = row_pairs(rows(), lambda texts: world(len(texts))[1], lambda label: [f"a {label}", f"the {label}"])
    assert pairs.classes
    assert len(pairs.texts) == 6


def test_an_archive_says_what_it_lacks(tmp_path: Path) -> None:
    images, texts = world(40)
    path = tmp_path / "a.npz"
    cases: list[tuple[dict[str, np.ndarray], str]] = [
        ({"image": images}, "lacks the array 'text'"),
        ({"image": images, "text": texts}, "need the array owner"),
        ({"image": images, "text": texts[None]}, "need the array label"),
        ({"image": images, "text": texts[None], "label": np.arange(40) + 5}, "below the 40 classes"),
        ({"image": images, "text": texts, "owner": np.arange(3)}, "owner has the shape"),
    ]
    for arrays, message in cases:
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=message):
            read_archive(path)
    np.savez(path, image=images, text=texts, owner=np.arange(40), model_id="clip-1")
    assert read_archive(path)[1] == "clip-1"
    path.write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match="cannot be read"):
        read_archive(path)


def test_the_command_writes_an_adapter_and_prints_json(tmp_path: Path) -> None:
    images, texts = world(80)
    np.savez(tmp_path / "a.npz", image=images, text=texts, owner=np.arange(80), model_id="clip-1")
    out = tmp_path / "a.safetensors"
    arguments = ["adapt", str(tmp_path / "a.npz"), "--out", str(out), "--steps", "20", "--rank", "4"]
    done = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    told = json.loads(done.output)
    assert told["model_id"] == load_adapter(out).model_id
    assert told["base"] == "clip-1"
    assert set(told["left_out"]) == {"before", "after"}
    assert "MRR@10" in CliRunner().invoke(cli, arguments).output
    refused = CliRunner().invoke(cli, ["adapt", str(shards(tmp_path / "s", rows())), "--out", str(out)])
    assert isinstance(refused.exception, InputError)
    assert "--model DIR" in str(refused.exception)


def test_feeding_with_an_adapter_of_another_model_stops_before_anything_is_sent(tmp_path: Path) -> None:
    folder = shards(tmp_path / "s", rows(), "model-1")
    path = save_adapter(tmp_path / "a", adapter("model-2"))
    with pytest.raises(CheckpointError, match="was made for the model model-2"):
        feed_shards(folder, "http://127.0.0.1:9", adapter=path, progress=False)
