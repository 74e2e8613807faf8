"""Sampler, augmentation, loss, optimiser, cache and state, each by itself."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import write_corpus

from clipsearch.clip.pixels import PixelSettings, resize_and_crop
from clipsearch.corpora import open_corpus
from clipsearch.errors import CheckpointError, InputError
from clipsearch.training.augment import affine_maps, augment
from clipsearch.training.cache import decode_split
from clipsearch.training.loop import Budget, check_finite
from clipsearch.training.loss import MAX_LOGIT_SCALE, clamp_logit_scale, contrastive_loss
from clipsearch.training.optimiser import build_optimiser, learning_rate_factor
from clipsearch.training.options import AUGMENTATIONS, AugmentOptions, TrainOptions, tiny_options
from clipsearch.training.sampler import CaptionSampler, caption_key, insert_tokens
from clipsearch.training.state import Progress, read_progress, restore, save_state

NO_CHANGE = AUGMENTATIONS["none"]


@settings(max_examples=60, deadline=None)
@given(
    captions=st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=3), min_size=2, max_size=40),
    batch_size=st.integers(2, 12),
    seed=st.integers(0, 99),
)
def test_a_batch_has_no_image_and_no_caption_twice(captions: list[list[str]], batch_size: int, seed: int) -> None:
    sampler = CaptionSampler(captions, batch_size, seed)
    drawn: Counter[int] = Counter()
    batches = list(sampler.epoch(0))
    for batch in batches:
        assert len(batch.images) == len(batch.captions) <= batch_size
        assert len({caption_key(caption) for caption in batch.captions}) == len(batch.captions)
        assert all(text in captions[image] for image, text in zip(batch.images, batch.captions, strict=True))
        drawn.update(batch.images)
    assert len(batches) <= len(sampler)
    assert set(drawn.values()) <= {1}


def test_without_collisions_every_image_of_full_batches_is_seen() -> None:
    sampler = CaptionSampler([[f"caption {n}"] for n in range(20)], 5)
    assert sorted(image for batch in sampler.epoch(3) for image in batch.images) == list(range(20))


def test_epochs_differ_and_repeat_by_seed() -> None:
    captions = [[f"{n} a", f"{n} b", f"{n} c"] for n in range(32)]

    def drawn(seed: int, epoch: int) -> list[tuple[list[int], list[str]]]:
        return [(batch.images, batch.captions) for batch in CaptionSampler(captions, 8, seed).epoch(epoch)]

    assert drawn(1, 2) == drawn(1, 2)
    assert drawn(1, 2) != drawn(1, 3)
    assert drawn(1, 2) != drawn(2, 2)
    texts = {text for epoch in range(20) for _, captions in drawn(0, epoch) for text in captions}
    assert len(texts) == 96  # over the epochs, every caption has its turn


def test_case_spacing_and_a_full_stop_do_not_make_another_caption() -> None:
    assert caption_key("Many  planes .") == caption_key("many planes.") == "many planes"


def test_a_small_corpus_is_one_batch() -> None:
    assert len(CaptionSampler([["a"], ["b"], ["c"]], 256)) == 1
    assert [sorted(batch.images) for batch in CaptionSampler([["a"], ["b"], ["c"]], 256).epoch(0)] == [[0, 1, 2]]


def test_token_noise_keeps_every_token_in_order_between_start_and_end() -> None:
    generator = np.random.default_rng(0)
    ids = [100, 1, 2, 3, 4, 101]
    lengths = []
    for _ in range(200):
        noisy = insert_tokens(ids, 0.3, [50, 51], 99, generator)
        assert [token for token in noisy if token not in {50, 51}] == ids
        assert (noisy[0], noisy[-1]) == (100, 101)
        lengths.append(len(noisy))
    assert np.mean(lengths) == pytest.approx(6 + 4 * 0.3 / 0.7, abs=0.5)
    assert insert_tokens(ids, 0.9, [50], 8, generator)[-1] == 101
    assert len(insert_tokens(ids, 0.9, [50], 8, generator)) <= 8
    assert insert_tokens([100, 101], 0.3, [50], 8, generator) == [100, 101]


def test_no_augmentation_is_the_picture_itself() -> None:
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    assert torch.allclose(augment(pixels, 16, NO_CHANGE, torch.Generator()), pixels.float(), atol=1e-3)


def test_turns_and_flips_are_exact_for_whole_images() -> None:
    pixels = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    flips_and_turns = AugmentOptions(min_scale=1.0, jitter=0.0)
    many = augment(pixels.expand(64, 3, 8, 8), 8, flips_and_turns, torch.Generator().manual_seed(0))
    symmetries = [pixels.rot90(k, (2, 3)) for k in range(4)]
    symmetries += [picture.flip(3) for picture in symmetries]
    found = {
        next(n for n, picture in enumerate(symmetries) if torch.allclose(image, picture[0].float(), atol=1e-3))
        for image in many
    }
    assert found == set(range(8))


def test_medical_images_are_never_mirrored_or_turned() -> None:
    maps = affine_maps(100, AUGMENTATIONS["medical"], torch.Generator().manual_seed(0))
    assert (maps[:, 0, 0] > 0).all()
    assert (maps[:, 1, 1] > 0).all()
    assert (maps[:, 0, 1] == 0).all()


def test_crops_stay_inside_the_image() -> None:
    maps = affine_maps(500, AugmentOptions(min_scale=0.4), torch.Generator().manual_seed(0))
    reach = maps[:, :, :2].abs().sum(dim=2) + maps[:, :, 2].abs()
    assert reach.max() <= 1 + 1e-5
    assert maps[:, :, :2].abs().amax(dim=(1, 2)).min() >= 0.4


def test_augmentation_is_seeded_and_stays_in_range() -> None:
    pixels = torch.randint(0, 256, (8, 3, 20, 20), dtype=torch.uint8)
    first, second = (augment(pixels, 16, AUGMENTATIONS["aerial"], torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (8, 3, 16, 16)
    assert (first.min() >= 0, first.max() <= 255) == (True, True)
    assert not torch.allclose(first[0], first[1])


def test_the_loss_is_the_mean_of_both_cross_entropies() -> None:
    images = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    logits = 10 * images @ texts.T
    by_hand = -(logits.log_softmax(1).diag().mean() + logits.log_softmax(0).diag().mean()) / 2
    assert contrastive_loss(images, texts, torch.tensor(math.log(10))) == pytest.approx(float(by_hand), abs=1e-5)


def test_a_model_that_knows_nothing_loses_log_b_and_the_scale_is_clamped() -> None:
    same = torch.ones(6, 4) / 2
    assert float(contrastive_loss(same, same, torch.tensor(2.0))) == pytest.approx(math.log(6))
    wild, bound = torch.tensor(50.0), torch.tensor(MAX_LOGIT_SCALE)
    images = torch.eye(4)
    assert torch.equal(contrastive_loss(images, images, wild), contrastive_loss(images, images, bound))
    parameter = torch.nn.Parameter(torch.tensor(9.0))
    clamp_logit_scale(parameter)
    assert float(parameter.detach()) == pytest.approx(math.log(100))


def test_biases_norms_and_scalars_do_not_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    decayed, kept = build_optimiser(model, 1e-3, 0.1).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3)]
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert len(kept["params"]) == 3


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    assert learning_rate_factor(0, 10, 0.0) == pytest.approx(0.1)
    assert learning_rate_factor(9, 10, 0.0) == pytest.approx(1.0)
    assert learning_rate_factor(50, 10, 0.5) == pytest.approx(0.5)
    assert learning_rate_factor(99, 10, 1.0) == pytest.approx(0.0)
    assert learning_rate_factor(0, 0, 0.0) == 1.0


def test_a_budget_follows_steps_or_time_whichever_is_further() -> None:
    assert Budget(100).progress(50) == 0.5
    late = Budget(100, limit=10, spent_before=8)
    assert late.progress(1) == pytest.approx(0.8, abs=0.05)
    assert late.progress(95) == 0.95
    assert Budget(100, limit=10, spent_before=99).progress(0) == 1.0


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_an_exploded_loss_stops_with_advice(loss: float) -> None:
    assert check_finite(1.5, 3) == 1.5
    with pytest.raises(InputError, match=r"step 8: give a smaller --learning-rate"):
        check_finite(loss, 7)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": -1}, {"augment": "sideways"}, {"image_size": 8}]
)
def test_senseless_options_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong)).replace("_", "-").replace("augment", "augmentation")):
        tiny_options(**wrong).check()


def test_corrupt_images_go_to_the_ledger_and_the_order_stays(tmp_path: Path) -> None:
    with open_corpus(write_corpus(tmp_path / "c", per_class=6, corrupt=2)) as corpus:
        records = corpus.split("train")[::-1]
        decoded = decode_split(corpus, records, lambda image: resize_and_crop(image, PixelSettings(16)), quiet=True)
    assert sorted(Path(issue.item).name for issue in decoded.issues) == ["broken_0.png", "broken_1.png"]
    assert decoded.records == [record for record in records if "broken" not in record.uri]
    assert decoded.pixels.shape == (len(decoded), 16, 16, 3)
    assert decoded.pixels.dtype == np.uint8


def test_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    def new() -> tuple[torch.nn.Module, torch.optim.AdamW]:
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        return model, build_optimiser(model, 1e-3, 0.1)

    model, optimiser = new()
    for _ in range(3):
        model(torch.randn(5, 3)).square().sum().backward()
        optimiser.step()
    progress = Progress("abc", 2, 7, 1.5, 0.25, 1, "epoch-0002", 1)
    save_state(tmp_path, progress, model, optimiser)
    other, other_optimiser = new()
    restore(tmp_path, other, other_optimiser)
    assert read_progress(tmp_path) == progress
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    for number, moments in optimiser.state_dict()["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, other_optimiser.state_dict()["state"][number][name])


def test_no_state_is_a_new_run_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    (tmp_path / "state.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="damaged: remove"):
        read_progress(tmp_path)


def test_defaults_are_within_their_limits() -> None:
    assert TrainOptions().check() == TrainOptions()
    assert tiny_options(seed=3).check().seed == 3
