"""One training step: each loss against its formula, gradients of parts and processes against those of the whole."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from step_worker import SETTINGS, SIZE, batch, gradients, one_step, small_clip
from torch import Tensor, nn
from torch.nn import functional as F

from clipsearch.clip import Clip
from clipsearch.errors import InputError
from clipsearch.training import step
from clipsearch.training.distributed import SharedBatchNorm2d, World, share_batch_norm
from clipsearch.training.loss import (
    batch_loss,
    calibrated_bias,
    contrastive_loss,
    multi_positive_loss,
    same_group,
    siglip_loss,
)
from clipsearch.training.options import TrainOptions
from clipsearch.training.precision import LossScale, choose_precision, compiler_missing, native_bf16
from clipsearch.training.step import Stepper

WORKER = Path(__file__).with_name("step_worker.py")
ROOT = WORKER.parent.parent


Torchrun = tuple[subprocess.Popen[str], Path]


@pytest.fixture(scope="module", autouse=True)
def torchrun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Torchrun]:
    """Two processes at work in the folder; started first, since they import for seconds while other tests run."""
    folder = tmp_path_factory.mktemp("torchrun")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*command, str(WORKER), str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    yield process, folder
    if process.poll() is None:
        process.terminate()
    process.communicate()


def features(count: int = 6, dim: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(2, count, dim, generator=generator, dtype=torch.float64)
    return F.normalize(draw[0], dim=1), F.normalize(draw[1], dim=1)


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], relative: float) -> None:
    """Each tensor's largest difference is at most ``relative`` of the expected tensor's largest number."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            # a key's bias moves all scores of a query alike: its true gradient is zero, and only rounding is left
            size = max(float(tensor.abs().max()), 1e-6)
            assert float((found[name] - tensor).abs().max()) <= relative * size, name
        else:
            assert torch.equal(found[name], tensor), name


def options(**changes: Any) -> TrainOptions:
    return TrainOptions(**{"precision": "fp32", **changes})


# losses


def test_clip_loss_is_the_mean_of_both_directions_negative_log_likelihoods() -> None:
    images, texts = features()
    logits = 7.0 * images @ texts.T
    rows = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    columns = logits.exp() / logits.exp().sum(dim=0, keepdim=True)
    expected = -(rows.diag().log().mean() + columns.diag().log().mean()) / 2
    assert float(contrastive_loss(images, texts, torch.tensor(7.0).log())) == pytest.approx(float(expected), rel=1e-6)


def test_the_temperature_is_clamped_inside_the_loss() -> None:
    images, texts = features()
    assert contrastive_loss(images, texts, torch.tensor(9.0)) == contrastive_loss(
        images, texts, torch.tensor(100.0).log()
    )


def test_several_positives_share_the_target_equally() -> None:
    images, texts = features(4)
    groups = [1, 2, 1, 1]
    logits = 5.0 * images @ texts.T
    expected = 0.0
    for scores in (logits.log_softmax(dim=1), logits.T.log_softmax(dim=1)):
        for row, group in enumerate(groups):
            expected -= float(np.mean([float(scores[row, j]) for j in range(4) if groups[j] == group])) / 8
    found = multi_positive_loss(images, texts, torch.tensor(5.0).log(), same_group(groups))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_without_repeated_groups_several_positives_are_clip_loss() -> None:
    images, texts = features()
    scale = torch.tensor(2.0)
    found = batch_loss("multi-positive", images, texts, scale, range(6))
    assert torch.allclose(found, contrastive_loss(images, texts, scale), rtol=1e-12)


def test_siglip_asks_each_pair_on_its_own() -> None:
    images, texts = features(3)
    logits = (4.0 * images @ texts.T - 2.5).numpy()
    sign = np.array([[1, -1, 1], [-1, 1, -1], [1, -1, 1]])
    expected = np.log1p(np.exp(-sign * logits)).sum() / 3
    found = siglip_loss(images, texts, torch.tensor(4.0).log(), torch.tensor(-2.5), same_group([0, 1, 0]))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_the_first_bias_is_where_siglip_loss_is_least() -> None:
    images, texts = features(16)
    scale, positive = torch.tensor(3.0), same_group(range(16))
    best = calibrated_bias(images, texts, scale, positive)
    losses = [
        float(siglip_loss(images, texts, scale, torch.tensor(best + d).double(), positive)) for d in (-0.1, 0, 0.1)
    ]
    assert losses[1] < losses[0]
    assert losses[1] < losses[2]
    same = F.normalize(torch.ones(16, 4), dim=1) * 0
    assert calibrated_bias(same, same, scale, positive) == pytest.approx(-math.log(15), abs=1e-6)


def test_logits_of_half_precision_features_are_float32_even_under_autocast() -> None:
    images, texts = features(8)
    with torch.autocast("cpu", torch.bfloat16):
        found = batch_loss("clip", images.float(), texts.float(), torch.tensor(4.6), range(8))
        halves = batch_loss("clip", images.bfloat16(), texts.bfloat16(), torch.tensor(4.6), range(8))
    assert found.dtype == halves.dtype == torch.float32
    assert float(found) == pytest.approx(float(contrastive_loss(images, texts, torch.tensor(4.6))), rel=1e-5)


# parts


def uncached(clip: Clip, stepper: Stepper, rows: tuple[Tensor, list[list[int]], list[int]], parts: int) -> float:
    """The same parts in the same order, all activations kept: what gradient caching must equal."""
    towers = stepper._towers(rows[0], rows[1], parts)
    images, texts = (tower.features() for tower in towers)
    loss = batch_loss(stepper.options.loss, images, texts, clip.model.logit_scale, rows[2])
    loss.backward()
    return float(loss.detach())


def test_gradients_of_512_pairs_in_chunks_equal_those_of_the_whole() -> None:
    found, losses = [], []
    for chunk in (0, 100):
        clip = small_clip()
        stepper = Stepper(clip, options(chunk=chunk))
        losses.append(stepper.backward(*batch(clip, 512)))
        found.append(gradients(clip))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert_close(found[1], found[0], 1e-6)


@pytest.mark.parametrize(("loss", "count"), [("clip", 256), ("multi-positive", 64)])
def test_with_dropout_the_second_pass_draws_the_masks_of_the_first(loss: str, count: int) -> None:
    found, losses, after = [], [], []
    for cached in (True, False):
        clip = small_clip(dropout=0.3)
        stepper = Stepper(clip, options(chunk=count // 4, loss=loss))
        rows = batch(clip, count)
        torch.manual_seed(11)
        losses.append(stepper.backward(*rows) if cached else uncached(clip, stepper, rows, 4))
        found.append(gradients(clip))
        after.append(torch.get_rng_state())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert_close(found[0], found[1], 1e-6)
    assert torch.equal(after[0], after[1]), "the step leaves the generator where one pass would"


def test_without_replay_dropout_would_spoil_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = small_clip(dropout=0.3)
    stepper = Stepper(clip, options(chunk=16))
    rows = batch(clip, 64)
    torch.manual_seed(11)
    uncached(clip, stepper, rows, 4)
    expected = gradients(clip)
    monkeypatch.setattr("clipsearch.training.gradcache.set_generator_states", lambda states, device: None)
    torch.manual_seed(11)
    stepper.backward(*rows)
    with pytest.raises(AssertionError):
        assert_close(gradients(clip), expected, 1e-3)


def test_in_chunks_batch_norm_sees_one_chunk_and_updates_its_statistics_once() -> None:
    clip, other = small_clip("tiny"), small_clip("tiny")
    stepper = Stepper(clip, options(chunk=8))
    stepper.backward(*batch(clip, 24))
    rows = batch(other, 24)
    uncached(other, Stepper(other, options(chunk=8)), rows, 3)
    assert_close(gradients(clip), gradients(other), 1e-6)
    assert_close(dict(clip.model.named_buffers()), dict(other.model.named_buffers()), 1e-12)
    assert int(clip.model.vision_model.blocks[0].normalisation.num_batches_tracked) == 3


@pytest.mark.parametrize("chunk", [0, 8])
def test_a_frozen_tower_gets_no_gradient_and_the_other_one_does(chunk: int) -> None:
    clip = small_clip()
    for part in (clip.model.vision_model, clip.model.visual_projection):
        part.requires_grad_(False)
    Stepper(clip, options(chunk=chunk)).backward(*batch(clip, 32))
    names = set(gradients(clip))
    assert not any(name.startswith("vis") for name in names)
    assert {"logit_scale", "text_projection.weight"} <= names


def test_texts_in_parts_of_like_lengths_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for parts in (1, 4):
        monkeypatch.setattr(step, "CPU_TEXT_PARTS", parts)
        clip = small_clip()
        stepper = Stepper(clip, options())
        rows = batch(clip, 40)
        assert len(stepper._towers(rows[0], rows[1], 1)[1].parts) == parts
        stepper.backward(*rows)
        found.append(gradients(clip))
    assert_close(found[1], found[0], 1e-9)


def test_a_batch_whose_halves_differ_in_number_is_refused() -> None:
    clip = small_clip()
    images, ids, groups = batch(clip, 8)
    with pytest.raises(ValueError, match="8 images, 7 texts and 8 groups"):
        Stepper(clip, options()).backward(images, ids[:7], groups)


# SigLIP's bias


def test_siglip_bias_is_calibrated_once_learned_and_kept_out_of_the_checkpoint() -> None:
    clip = small_clip()
    before = set(clip.model.state_dict())
    stepper = Stepper(clip, options(loss="siglip"))
    rows = batch(clip, 24)
    stepper.backward(*rows)
    (bias,) = stepper.parameters()
    start = float(bias.detach())
    assert start < -1
    assert bias.grad is not None
    assert abs(float(bias.grad)) < 1e-4, "the calibrated bias is where the gradient vanishes"
    with torch.no_grad():
        bias += 1
    stepper.backward(*rows)
    assert float(bias.detach()) == pytest.approx(start + 1)
    assert float(bias.grad) > 0.01
    assert set(clip.model.state_dict()) == before
    resumed = Stepper(clip, options(loss="siglip"))
    resumed.load_state(stepper.state())
    assert resumed.backward(*rows) == stepper.backward(*rows)


# processes


def test_rows_are_shared_out_in_order_and_every_row_once() -> None:
    shares = [World(rank, 3).rows(8) for rank in range(3)]
    assert [(share.start, share.stop) for share in shares] == [(0, 3), (3, 6), (6, 8)]
    with pytest.raises(InputError, match="batch of 2 cannot be shared by 3 processes"):
        World(0, 3).rows(2)


def test_without_torchrun_the_world_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with World.start("cpu") as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert world.agree("x") == "x"
        assert world.rows(5) == slice(0, 5)


def test_two_processes_under_torchrun_equal_one(torchrun: Torchrun) -> None:
    process, folder = torchrun
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    for name, setting in SETTINGS.items():
        loss, expected = one_step(setting, World())
        both = [load_file(folder / f"{name}.{rank}") for rank in range(2)]
        for found in both:
            assert float(found.pop("loss")) == pytest.approx(loss, rel=1e-6), name
            assert_close(found, expected, 1e-6)
        assert all(torch.equal(both[0][key], both[1][key]) for key in both[0]), "no process drifts from the other"


def test_shared_batch_norm_of_one_process_is_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.training.distributed.distributed.all_reduce", lambda tensor: None)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    shared = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    shared.load_state_dict(plain.state_dict())
    weight = shared[1].weight
    share_batch_norm(shared)
    assert isinstance(shared[1], SharedBatchNorm2d)
    assert shared[1].weight is weight, "an optimiser that was built before still holds the parameters"
    x = torch.randn(5, 3, SIZE, SIZE, dtype=torch.float64)
    for mode in (True, False):
        plain.train(mode)
        shared.train(mode)
        assert torch.allclose(plain(x), shared(x), rtol=1e-10)
    assert_close(shared.state_dict(), plain.state_dict(), 1e-12)


# precision


def test_auto_precision_is_bf16_only_where_it_is_native() -> None:
    expected = torch.bfloat16 if native_bf16() else torch.float32
    assert choose_precision("auto", torch.device("cpu")).dtype == expected
    with pytest.raises(InputError, match="no precision 'int8'"):
        choose_precision("int8", torch.device("cpu"))


@pytest.mark.parametrize(("name", "tolerance"), [("bf16", 0.1), ("fp16", 0.02)])
@pytest.mark.parametrize("chunk", [0, 16])
def test_half_precision_gradients_are_those_of_float32_but_for_rounding(
    name: str, tolerance: float, chunk: int
) -> None:
    found = []
    for precision in ("fp32", name):
        clip = small_clip(dtype=torch.float32)
        stepper = Stepper(clip, options(precision=precision, chunk=chunk))
        stepper.backward(*batch(clip, 48, torch.float32))
        found.append(torch.cat([g.flatten() for g in gradients(clip).values()]))
        assert found[-1].dtype == torch.float32
    assert float((found[1] - found[0]).norm() / found[0].norm()) < tolerance


def test_an_overflow_in_fp16_repeats_the_batch_at_a_smaller_scale() -> None:
    clip = small_clip("tiny", dtype=torch.float32)
    rows = batch(clip, 16, torch.float32)
    expected = Stepper(clip, options(precision="fp16"))
    expected.backward(*rows)
    right = gradients(clip)
    tracked = int(clip.model.vision_model.blocks[0].normalisation.num_batches_tracked)
    stepper = Stepper(clip, options(precision="fp16"))
    stepper.scale.value = 2.0**60
    stepper.backward(*rows)
    assert stepper.scale.value < 2.0**40
    assert_close(gradients(clip), right, 0.02)
    assert int(clip.model.vision_model.blocks[0].normalisation.num_batches_tracked) == tracked + 1


def test_the_loss_scale_doubles_after_enough_good_batches() -> None:
    scale = LossScale(8.0, interval=2)
    scale.succeeded()
    assert scale.value == 8
    scale.succeeded()
    assert (scale.value, scale.good) == (16, 0)
    assert scale.overflowed()
    assert scale.value == 8
    scale.value = 2.0**-10
    assert not scale.overflowed()


def test_a_batch_of_nan_is_reported_and_not_repeated_for_ever() -> None:
    clip = small_clip(dtype=torch.float32)
    images, ids, groups = batch(clip, 8, torch.float32)
    images[0] = math.nan
    assert math.isnan(Stepper(clip, options(precision="fp16")).backward(images, ids, groups))


def test_checkpointed_activations_change_no_gradient() -> None:
    found = []
    for checkpointing in (False, True):
        clip = small_clip(dropout=0.2)
        stepper = Stepper(clip, options(checkpointing=checkpointing, chunk=8))
        assert not stepper.notes
        torch.manual_seed(3)
        stepper.backward(*batch(clip, 24))
        found.append(gradients(clip))
    assert_close(found[1], found[0], 1e-9)


def test_checkpointing_says_that_it_leaves_the_convolutional_tower_alone() -> None:
    stepper = Stepper(small_clip("tiny"), options(checkpointing=True))
    assert "not the convolutional one" in stepper.notes[0]


def test_where_nothing_can_be_compiled_the_run_goes_on_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("no C++ compiler was found")

    compiler_missing.cache_clear()
    monkeypatch.setattr(torch, "compile", broken)
    clip = small_clip()
    stepper = Stepper(clip, options(compile=True))
    compiler_missing.cache_clear()
    assert "no C++ compiler was found" in stepper.notes[0]
    assert math.isfinite(stepper.backward(*batch(clip, 8)))


@pytest.mark.soak
def test_compiled_towers_give_the_same_gradients_and_names(rounds: Any) -> None:
    if rounds(0, 1) == 0 or compiler_missing("cpu"):
        pytest.skip("compiling takes half a minute: make soak")
    found = []
    for compiled in (False, True):
        clip = small_clip()
        names = set(clip.model.state_dict())
        Stepper(clip, options(compile=compiled, chunk=8)).backward(*batch(clip, 24))
        found.append(gradients(clip))
        assert set(clip.model.state_dict()) == names
    assert_close(found[1], found[0], 1e-6)
