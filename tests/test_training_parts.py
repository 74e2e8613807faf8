"""Sampler, augmentation, loss, optimiser, cache and state, each by itself."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import write_corpus

from clipsearch.clip.pixels import PixelSettings, resize_and_crop
from clipsearch.corpora import open_corpus
from clipsearch.errors import CheckpointError, CorpusError, InputError
from clipsearch.training.augment import affine_maps, augment, jitter, shift_colours
from clipsearch.training.cache import decode_split
from clipsearch.training.loop import Budget, check_finite
from clipsearch.training.loss import MAX_LOGIT_SCALE, clamp_logit_scale, contrastive_loss
from clipsearch.training.optimiser import build_optimiser, learning_rate_factor
from clipsearch.training.options import AUGMENTATIONS, AugmentOptions, TrainOptions, tiny_options
from clipsearch.training.sampler import CaptionSampler, caption_key, insert_tokens
from clipsearch.training.state import Learner, Progress, read_progress, restore, save_state

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


def test_resuming_inside_an_epoch_gives_the_batches_that_were_left() -> None:
    captions = [[f"{n} a", f"{n % 5} b"] for n in range(40)]
    for duplicates in (False, True):
        sampler = CaptionSampler(captions, 6, 1, duplicates=duplicates)
        whole = list(sampler.epoch(2))
        assert len(whole) > 3
        for skip in range(len(whole) + 1):
            assert list(sampler.epoch(2, skip)) == whole[skip:]


def test_an_epoch_can_be_a_subset_that_changes() -> None:
    sampler = CaptionSampler([[f"caption {n}"] for n in range(50)], 8, epoch_size=20)
    drawn = [{image for batch in sampler.epoch(number) for image in batch.images} for number in range(12)]
    assert len(sampler) == 2
    assert {len(images) for images in drawn} == {16}
    assert set.union(*drawn) == set(range(50))
    assert len(CaptionSampler([["a"], ["b"]], 8, epoch_size=20)) == 1


def test_equal_captions_share_a_group_and_meet_only_where_duplicates_are_wanted() -> None:
    captions = [[("Many planes.", "many planes", "a river", "a lake")[n % 4]] for n in range(24)]
    apart = [batch for number in range(4) for batch in CaptionSampler(captions, 6, number).epoch(0)]
    assert all(len(set(batch.groups)) == len(batch.groups) == len(batch.images) for batch in apart)
    together = [b for n in range(4) for b in CaptionSampler(captions, 6, n, duplicates=True).epoch(0)]
    assert all(len(batch.images) == 6 for batch in together)  # none had to wait
    assert any(len(set(batch.groups)) < 6 for batch in together)
    for batch in together:
        for group, caption in zip(batch.groups, batch.captions, strict=True):
            same = [caption_key(c) for g, c in zip(batch.groups, batch.captions, strict=True) if g == group]
            assert set(same) == {caption_key(caption)}
            assert len(same) == [caption_key(c) for c in batch.captions].count(caption_key(caption))


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
    flips_and_turns = AugmentOptions(min_scale=1.0, jitter=0.0, colour=0.0)
    many = augment(pixels.expand(64, 3, 8, 8), 8, flips_and_turns, torch.Generator().manual_seed(0))
    symmetries = [pixels.rot90(k, (2, 3)) for k in range(4)]
    symmetries += [picture.flip(3) for picture in symmetries]
    found = {
        next(n for n, picture in enumerate(symmetries) if torch.allclose(image, picture[0].float(), atol=1e-3))
        for image in many
    }
    assert found == set(range(8))


@pytest.mark.parametrize(
    ("name", "dims"), [("horizontal_flip", (3,)), ("vertical_flip", (2,)), ("quarter_turns", None), ("none", ())]
)
def test_each_flip_alone_gives_itself_and_nothing_else(name: str, dims: tuple[int, ...] | None) -> None:
    pixels = torch.randint(0, 256, (1, 3, 9, 9), dtype=torch.uint8)
    options = NO_CHANGE if name == "none" else replace(NO_CHANGE, **{name: True})
    many = augment(pixels.expand(64, 3, 9, 9), 9, options, torch.Generator().manual_seed(0))
    wanted = [pixels.rot90(k, (2, 3)) for k in range(4)] if dims is None else [pixels, pixels.flip(dims)]
    near = torch.stack([(many - picture.float()).abs().amax(dim=(1, 2, 3)) < 1e-2 for picture in wanted])
    assert near.any(dim=0).all()  # every image is one of the wanted ones
    assert near.any(dim=1).all()  # and every wanted one occurs


def test_jitter_changes_light_and_colour_changes_colours() -> None:
    grey = torch.full((200, 3, 4, 4), 128.0)
    grey[:, :, :2] = 100.0
    lit = jitter(grey, 0.4, torch.Generator().manual_seed(0))
    assert torch.allclose(lit[:, 0], lit[:, 2])  # grey stays grey
    assert lit.mean(dim=(1, 2, 3)).std() > 5
    assert (lit[:, 0, 3, 0] - lit[:, 0, 0, 0]).std() > 2  # contrast
    red = torch.tensor([200.0, 50.0, 50.0]).view(1, 3, 1, 1).expand(200, 3, 4, 4)
    coloured = shift_colours(red, 0.4, torch.Generator().manual_seed(0))
    assert (coloured[:, 0] / coloured[:, 1]).std() > 0.3
    assert (coloured[:, 1] - coloured[:, 2]).abs().amax() > 2  # the balance moves each channel by itself
    pixels = grey.to(torch.uint8)
    for name in ("aerial", "natural"):
        seen = augment(pixels, 4, AUGMENTATIONS[name], torch.Generator().manual_seed(0))
        assert (seen.amax(dim=1) - seen.amin(dim=1)).amax() > 2
    medical = augment(pixels, 4, AUGMENTATIONS["medical"], torch.Generator().manual_seed(0))
    assert torch.allclose(medical[:, 0], medical[:, 2], atol=1e-3)
    assert medical.mean(dim=(1, 2, 3)).std() > 1


def test_a_crop_shows_a_part_at_its_place_and_size() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).expand(300, 3, 64, 64)  # each column has its x as its value
    options = replace(NO_CHANGE, min_scale=0.5, stretch=2.0)
    seen = augment(ramp, 32, options, torch.Generator().manual_seed(0))
    widths = (seen[:, 0, 5, 30] - seen[:, 0, 5, 1]) / 29 * 32
    assert 21 < widths.min() < 30  # a half by the square root of a half
    assert widths.max() == pytest.approx(64, abs=1)
    assert seen[:, 0, 5, 0].std() > 3  # at many places
    square = augment(ramp, 32, replace(options, stretch=1.0), torch.Generator().manual_seed(0))
    assert ((square[:, 0, 5, 30] - square[:, 0, 5, 1]) / 29 * 32).min() > 31.5


def test_medical_images_are_never_mirrored_or_turned() -> None:
    maps = affine_maps(100, AUGMENTATIONS["medical"], torch.Generator().manual_seed(0))
    assert (maps[:, 0, 0] > 0).all()
    assert (maps[:, 1, 1] > 0).all()
    assert (maps[:, 0, 1] == 0).all()


def test_crops_stay_inside_the_image() -> None:
    maps = affine_maps(500, AugmentOptions(min_scale=0.4, stretch=1.5), torch.Generator().manual_seed(0))
    reach = maps[:, :, :2].abs().sum(dim=2) + maps[:, :, 2].abs()
    assert reach.max() <= 1 + 1e-5
    assert maps[:, :, :2].abs().amax(dim=(1, 2)).min() >= 0.4 / 1.5


def test_augmentation_is_seeded_and_stays_in_range() -> None:
    pixels = torch.randint(0, 256, (8, 3, 20, 20), dtype=torch.uint8)
    first, second = (augment(pixels, 16, AUGMENTATIONS["aerial"], torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (8, 3, 16, 16)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 255
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
    decayed, kept = build_optimiser(model, TrainOptions(weight_decay=0.1)).param_groups
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


def test_stored_pixels_are_read_again_without_decoding(tmp_path: Path) -> None:
    root, store = write_corpus(tmp_path / "c", per_class=6, corrupt=2), tmp_path / "store"
    decoded = 0

    def preprocess(image: np.ndarray) -> np.ndarray:
        nonlocal decoded
        decoded += 1
        return resize_and_crop(image, PixelSettings(16))

    with open_corpus(root) as corpus:
        records = corpus.split("train")
        plain = decode_split(corpus, records, preprocess, quiet=True)
        assert decoded == len(plain)
        first, second = (
            decode_split(corpus, records, preprocess, quiet=True, store=store, recipe="16 px") for _ in range(2)
        )
        assert decoded == 2 * len(plain)
        for split in (first, second):
            assert isinstance(split.pixels, np.memmap)
            assert np.array_equal(split.pixels, plain.pixels)
            assert (split.records, split.issues) == (plain.records, plain.issues)
        second.pixels[0] = 0  # nobody else sees that
        assert np.array_equal(first.pixels, plain.pixels)
        decode_split(corpus, records, preprocess, quiet=True, store=store, recipe="another size")
        assert decoded == 3 * len(plain)
        changed = Path(corpus.root) / records[0].uri
        changed.write_bytes((Path(corpus.root) / records[1].uri).read_bytes())
        decode_split(corpus, records, preprocess, quiet=True, store=store, recipe="16 px")
        assert decoded >= 4 * len(plain) - 1
        assert not list(store.glob("*.tmp"))


def test_a_store_without_room_or_rights_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with open_corpus(write_corpus(tmp_path / "c", per_class=3)) as corpus:
        records = corpus.split("train")
        with pytest.raises(CorpusError, match="pixel-cache memory"):
            decode_split(corpus, records, lambda image: image, quiet=True, store=tmp_path / "file", recipe="as it is")


class NoLossState:
    """In a ``Stepper``'s place: a loss that has no state of its own."""

    def state(self) -> dict[str, float]:
        return {}

    def load_state(self, state: dict[str, float]) -> None:
        assert state == {}


def test_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    def new() -> Learner:
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        return Learner(model, build_optimiser(model, TrainOptions(learning_rate=1e-3)), cast(Any, NoLossState()))

    learner, other = new(), new()
    for _ in range(3):
        learner.model(torch.randn(5, 3)).square().sum().backward()
        learner.optimiser.step()
    progress = Progress("abc", epoch=2, step=7, seconds=1.5, best_score=0.25, best_epoch=1, best_folder="epoch-0002")
    save_state(tmp_path, progress, learner)
    restore(tmp_path, other)
    assert read_progress(tmp_path) == progress
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])
    for number, moments in learner.optimiser.state_dict()["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, other.optimiser.state_dict()["state"][number][name])


def test_no_state_is_a_new_run_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    (tmp_path / "state.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="damaged: remove"):
        read_progress(tmp_path)


def test_defaults_are_within_their_limits() -> None:
    assert TrainOptions().check() == TrainOptions()
    assert tiny_options(seed=3).check().seed == 3
