"""What a run chooses and says: the metric, the mix with the start model, what it lost elsewhere, the card, logs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from small_clip import write_clip
from small_corpus import write_corpus
from transformers import CLIPModel

from clipsearch.cli import cli
from clipsearch.corpora import open_corpora, open_corpus
from clipsearch.errors import InputError
from clipsearch.metrics import RetrievalScores, ZeroShotScores
from clipsearch.records import Record
from clipsearch.training import FinetuneSummary, TrainOptions, finetune, tiny_options
from clipsearch.training.cache import DecodedSplit
from clipsearch.training.loop import step_seed
from clipsearch.training.ood import OutOfDomain, halves
from clipsearch.training.options import METRICS
from clipsearch.training.preparing import choose_splits, selection_metric
from clipsearch.training.tensorboard import EventFile
from clipsearch.training.validation import METRIC_NAMES, Scores, selection_score

pytestmark = pytest.mark.usefixtures("one_thread")

ZERO_SHOT = ZeroShotScores({1: 0.5, 3: 0.6, 5: 0.7, 10: 0.8}, images=10, classes=3)
RETRIEVAL = RetrievalScores(0.3, 0.5, {1: 0.1, 5: 0.2, 10: 0.3}, {1: 0.3, 5: 0.4, 10: 0.5}, images=10, captions=20)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = tmp_path_factory.mktemp("corpora")
    return [write_corpus(base / name, per_class=size) for name, size in (("blocks", 16), ("more", 8), ("elsewhere", 8))]


@pytest.fixture(scope="module")
def done(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FinetuneSummary]:
    base = tmp_path_factory.mktemp("models")
    start = write_clip(base / "start", folders[0])
    (start / "README.md").write_text("---\nlicense: mit\n---\n")
    options = TrainOptions(
        model=str(start), epochs=2, batch_size=16, learning_rate=3e-3, precision="fp32", ema=0.9, lora=2, device="cpu",
        ood=(str(folders[2]),), metric="mean-recall", epoch_size=32,
    )  # fmt: skip
    with open_corpora(folders[:2]) as corpora:
        return base / "tuned", finetune(corpora, base / "tuned", options, command="clipsearch finetune ...", quiet=True)


def test_several_corpora_are_one_training_set(done: tuple[Path, FinetuneSummary], folders: list[Path]) -> None:
    counts = []
    for folder in folders[:2]:
        with open_corpus(folder) as corpus:
            counts.append(len(corpus.split("train")))
    assert done[1].train_images == sum(counts)
    assert done[1].corpus == "blocks-more"


def test_the_mix_with_the_start_model_is_chosen_within_what_may_be_lost_elsewhere(
    done: tuple[Path, FinetuneSummary],
) -> None:
    out, summary = done
    curve = summary.interpolation
    assert [point["alpha"] for point in curve["points"]] == [step / 10 for step in range(11)]
    chosen = next(point for point in curve["points"] if point["alpha"] == curve["alpha"])
    lost = 100 * (curve["points"][0]["outside"][0] - chosen["outside"][0])
    assert lost <= 1 + 1e-9
    assert curve["measures"] == ["validation mean recall", "elsewhere zero-shot hits@1"]
    assert (out / "interpolation.png").read_bytes().startswith(b"\x89PNG")
    both = [*summary.validation.retrieval.text_to_image_hits.values()]  # type: ignore[union-attr]
    both += summary.validation.retrieval.image_to_text_hits.values()  # type: ignore[union-attr]
    assert sum(both) / 6 == pytest.approx(chosen["validation"], abs=1e-6)


def test_what_is_reported_out_of_domain_chose_nothing(done: tuple[Path, FinetuneSummary], folders: list[Path]) -> None:
    before, after = done[1].out_of_domain["elsewhere"]
    with open_corpus(folders[2]) as corpus:
        choosing, reporting = halves(corpus.records)
        assert not {record.key for record in choosing} & {record.key for record in reporting}
        assert reporting == corpus.split("test")
    assert before.retrieval is not None
    assert before.retrieval.images == len(reporting)
    assert after.retrieval is not None


def test_a_corpus_without_splits_is_halved_the_same_way_each_time() -> None:
    records = [Record("c", f"k{number}", f"{number}.png") for number in range(40)]
    first, second = halves(records)
    assert sorted(record.key for record in [*first, *second]) == sorted(record.key for record in records)
    assert 10 < len(first) < 30
    assert halves(records) == (first, second)


def test_low_rank_updates_and_averages_end_in_a_plain_clip(done: tuple[Path, FinetuneSummary]) -> None:
    out, summary = done
    model = CLIPModel.from_pretrained(out)
    start = load_file(Path(summary.options["model"]) / "model.safetensors")
    tuned = load_file(out / "model.safetensors")
    assert tuned.keys() == start.keys()
    assert model.config.model_type == "clip"
    if summary.interpolation["alpha"]:
        assert any(not torch.equal(tuned[name], start[name]) for name in start if name.endswith("q_proj.weight"))
    assert all(torch.equal(tuned[name], start[name]) for name in start if name.endswith("layer_norm1.weight"))


def test_the_card_says_data_command_choice_licence_and_limits(done: tuple[Path, FinetuneSummary]) -> None:
    out, summary = done
    card = (out / "README.md").read_text()
    for said in (
        "images: not stated; start model: mit", "`blocks-more`",
        f"{summary.train_images} training images", "clipsearch finetune ...",
        "mean recall", f"alpha {summary.interpolation['alpha']:g}", "out of domain: elsewhere", "lora = 2", "## Limits",
    ):  # fmt: skip
        assert said in card, said


def test_tensorboard_reads_what_the_log_holds(done: tuple[Path, FinetuneSummary], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out, _ = done
    events = accumulator.EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in logged if entry["event"] == "step"]
    assert [(e.step, pytest.approx(e.value)) for e in events.Scalars("train/loss")] == [
        (entry["step"], entry["loss"]) for entry in steps
    ]
    assert len(events.Scalars("validation/text_to_image_mrr@10")) == 2
    file = EventFile(tmp_path)
    file.add(1_000_000, {"a/b": -2.5}, wall_time=12.0)
    read = accumulator.EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(event.step, event.value, event.wall_time) for event in read.Scalars("a/b")] == [(1_000_000, -2.5, 12.0)]


def test_each_metric_selects_by_its_own_number() -> None:
    scores = Scores(ZERO_SHOT, RETRIEVAL)
    expected = {
        "mrr10": 0.4, "recall1": 0.2, "recall5": 0.3, "recall10": 0.4, "mean-recall": 0.3, "hits1": 0.5, "hits3": 0.6,
        "hits5": 0.7, "hits10": 0.8, "loss": -2.0,
    }  # fmt: skip
    assert set(METRICS) == set(METRIC_NAMES) == set(expected)
    for metric, value in expected.items():
        assert selection_score(metric, scores, 2.0) == pytest.approx(value)


@pytest.mark.parametrize(("labels", "chosen_by"), [(("red", "green"), "hits@1"), (("", ""), "MRR@10")])
def test_captions_that_choose_nothing_are_not_embedded(labels: tuple[str, str], chosen_by: str) -> None:
    embedded: list[str] = []

    class Counting:
        dim = 2

        def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
            return np.eye(2, dtype=np.float32)

        def embed_texts(self, texts: list[str]) -> np.ndarray:
            embedded.extend(texts)
            return np.eye(2, dtype=np.float32)[: len(texts)]

    records = [Record("c", str(n), "", (f"caption {n}",), "test", label) for n, label in enumerate(labels)]
    split = DecodedSplit(np.zeros((2, 4, 4, 3), np.uint8), records)
    classes = {"red": "red", "green": "green"}
    yardstick = OutOfDomain("elsewhere", classes, "a {}", split, split).yardstick()
    assert chosen_by in yardstick.title
    assert yardstick.score(Counting()) == 1.0  # type: ignore[arg-type]
    assert embedded == (["a red", "a green"] if labels[0] else ["caption 0", "caption 1"])


def test_a_metric_that_validation_cannot_give_is_refused_before_training(folders: list[Path]) -> None:
    with open_corpus(folders[0]) as corpus:
        validation = choose_splits(corpus).validation
        bare = [replace(record, captions=()) for record in validation]
        nameless = [replace(record, label="") for record in validation]

        def split(records: list[Record]) -> DecodedSplit:
            return DecodedSplit(None, records)  # type: ignore[arg-type]

        assert selection_metric("mrr10", split(validation), corpus) == "mrr10"
        assert selection_metric("mrr10", split(bare), corpus) == "hits1"
        assert selection_metric("mrr10", split([]), corpus) == "loss"
        with pytest.raises(InputError, match=r"recall@5 cannot select epochs: .* no captions"):
            selection_metric("recall5", split(bare), corpus)
        with pytest.raises(InputError, match=r"zero-shot hits@1 cannot select epochs: .* no class labels"):
            selection_metric("hits1", split(nameless), corpus)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 1e-3}, "100 times CLIP fine-tuning's usual 1e-05"),
        ({"learning_rate": 2e-3, "lora": 8}, "20 times LoRA fine-tuning's usual 0.0001"),
        ({"batch_size": 8}, "batch size 8 gives a caption 7 wrong images"),
    ],
)
def test_known_mistakes_are_warned_of(changes: dict[str, float], said: str) -> None:
    (warning,) = TrainOptions(model="some/clip", **changes).check().warnings()  # type: ignore[arg-type]
    assert said in warning


def test_usual_options_are_not_warned_of() -> None:
    assert TrainOptions(model="some/clip").warnings() == []
    assert TrainOptions(model="some/clip", lora=8, learning_rate=3e-4).warnings() == []
    assert tiny_options().warnings() == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "triplet"}, "loss must be one of 'clip', 'multi-positive', 'siglip', not 'triplet'"),
        ({"metric": "f1"}, "metric must be one of"),
        ({"ema": 1.0}, "ema must be from 0 to"),
        ({"layer_decay": 0.0}, "layer-decay must be from"),
        ({"lora": 4}, "lora needs a pretrained model"),
        ({"freeze": "text"}, "freeze needs a pretrained model"),
        ({"pixel_cache": "cloud"}, "pixel-cache must be one of"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        tiny_options(**changes).check()
    assert said in str(caught.value)


def test_each_step_draws_from_its_own_seed() -> None:
    seeds = {step_seed(seed, epoch, batch) for seed in range(3) for epoch in range(20) for batch in range(20)}
    assert len(seeds) == 1200
    assert step_seed(0, 1, 2) == step_seed(0, 1, 2) < 2**63


def test_the_command_takes_several_corpora_and_needs_one(tmp_path: Path) -> None:
    none = CliRunner().invoke(cli, ["finetune", "--preset", "tiny", "--out", str(tmp_path / "m")])
    assert none.exit_code == 2
    assert "give a CORPUS" in none.output
    shown = CliRunner().invoke(cli, ["finetune", "--help"]).output
    for field in TrainOptions.__dataclass_fields__:
        hidden = {"max_grad_norm", "token_noise"}
        assert f"--{field.replace('_', '-')}" in shown or field in hidden, field


def test_an_out_of_domain_corpus_with_nothing_to_measure_is_refused(
    folders: list[Path], done: tuple[Path, FinetuneSummary], tmp_path: Path
) -> None:
    bare = tmp_path / "bare" / "one"
    bare.mkdir(parents=True)
    for image in sorted((folders[0] / "images").glob("red_*.png"))[:4]:
        (bare / image.name).write_bytes(image.read_bytes())
    options = TrainOptions(model=done[1].options["model"], ood=(str(bare.parent),), device="cpu", epochs=1)
    with open_corpus(folders[0]) as corpus, pytest.raises(InputError, match="neither captions nor two classes"):
        finetune(corpus, tmp_path / "model", options, quiet=True)


def test_pixels_kept_on_disk_give_the_same_weights(
    folders: list[Path], done: tuple[Path, FinetuneSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = TrainOptions(model=done[1].options["model"], epochs=1, batch_size=16, interpolate=False, device="cpu")

    def weights(name: str, cache: str) -> dict[str, torch.Tensor]:
        with open_corpus(folders[0]) as corpus:
            finetune(corpus, tmp_path / name, replace(options, pixel_cache=cache), quiet=True)
        return load_file(tmp_path / name / "model.safetensors")

    memory, disk, device = weights("memory", "memory"), weights("disk", "disk"), weights("device", "device")
    assert all(torch.equal(memory[name], disk[name]) for name in memory)
    assert all(torch.equal(memory[name], device[name]) for name in memory)
    assert list((tmp_path / "cache").rglob("*.npy"))
