"""The command with real (random) models: inside and outside, probes, the curve to the start model, and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small_corpus import COLOURS, draw, write_corpus

from clipsearch.cli import cli
from clipsearch.clip import PixelSettings, TinyOptions, build_tiny, load_clip, save_clip
from clipsearch.corpora import open_corpus
from clipsearch.evaluation.scoring import evaluate
from clipsearch.evaluation.shift import Target, interpolation

TEXTS = [f"a {colour} block at the left" for colour in COLOURS]


def tiny(folder: Path, seed: int, channels: tuple[int, ...] = (8, 8), texts: int = 16) -> Path:
    options = TinyOptions(dim=16, image_size=16, channels=channels, strides=(2, 2), text_width=16, text_length=texts)
    model, tokenizer = build_tiny(TEXTS, options, seed)
    return save_clip(folder, model, tokenizer, PixelSettings(16).to_processor())


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("evaluation")
    write_corpus(room / "blocks", per_class=12, corrupt=1)
    for number in range(24):
        colour = list(COLOURS)[number % 4]
        (room / "outside" / colour).mkdir(parents=True, exist_ok=True)
        draw(colour, "top", number + 100).save(room / "outside" / colour / f"{number}.png")
    tiny(room / "start", 0)
    tiny(room / "tuned", 1)
    tiny(room / "other", 2, channels=(8, 16))
    return room


def run(room: Path, *words: str) -> Any:
    paths = {name: str(room / name) for name in ("blocks", "outside", "start", "tuned", "other", "report")}
    options = ["--device", "cpu", "--resamples", "20"]
    return CliRunner().invoke(cli, ["evaluate", *(paths.get(word, word) for word in words), *options])


def test_one_command_measures_all_and_writes_the_report(room: Path) -> None:
    done = run(
        room, "blocks", "--model", "tuned", "--start", "start", "--ood", "outside", "--ood-split", "all",
        "--probe", "--few-shot", "--prompts", "resisc45", "--report", "report", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result == json.loads((room / "report" / "report.json").read_text())
    assert result["corpus"] == "blocks"
    assert set(result["zero_shot"]) == {"hits", "images", "classes"}, "as it was before there was more"
    assert result["retrieval"]["text_to_image_mrr10"] == result["ranking"]["plain"]["text_to_image_mrr@10"]["value"]
    assert len(result["classification"]["templates"]) == 18
    assert result["linear_probe"]["train_images"] > 20
    assert [point["shots"] for point in result["few_shot"]["points"]] == [1, 2, 4, 8, 16]
    (outside,) = result["out_of_domain"]
    assert outside["corpus"] == "outside"
    assert outside["zero_shot"]["images"] == 24
    assert outside["retrieval"] is None
    curve = result["interpolation"]
    assert [point["alpha"] for point in curve["points"]] == pytest.approx([step / 10 for step in range(11)])
    last = curve["points"][-1]
    assert last["inside"]["value"] == result["classification"]["hits"]["hits@1"]["value"]
    assert last["outside"]["outside"]["value"] == outside["classification"]["hits"]["hits@1"]["value"]
    assert "choose on validation" in (room / "report" / "report.html").read_text()


def test_several_models_are_compared_and_texts_come_out_as_a_table(room: Path) -> None:
    done = run(room, "start", "tuned", "--corpus", "blocks")
    assert done.exit_code == 0, done.output
    assert "| model | hits@1 |" in done.output
    assert "| start-" in done.output
    assert "| tuned-" in done.output
    assert "duplicate-aware" in done.output


def test_corpora_of_one_name_outside_are_both_in_the_table(room: Path) -> None:
    for place, colours in (("a", ("red", "blue")), ("b", ("green", "yellow"))):
        for colour in colours:
            (room / place / "same" / colour).mkdir(parents=True)
            draw(colour, "top", 5).save(room / place / "same" / colour / "one.png")
    outside = [word for place in "ab" for word in ("--ood", str(room / place / "same"))]
    done = run(room, "blocks", "--model", "tuned", "--model", "start", *outside, "--ood-split", "all")
    assert done.exit_code == 0, done.output
    assert "out of domain, same, all split" in done.output
    assert "out of domain, same-2, all split" in done.output
    assert "same hits@1 | same-2 hits@1" in done.output


def test_a_split_that_is_not_there_is_named_before_anything_is_measured(room: Path) -> None:
    (room / "unsplit").mkdir()
    draw("red", "left", 1).save(room / "unsplit" / "a.png")
    row = {"file": "a.png", "captions": ["a red block"], "split": "train"}
    (room / "unsplit" / "captions.jsonl").write_text(json.dumps(row) + "\n")
    done = run(room, "blocks", "--model", "tuned", "--ood", str(room / "unsplit"))
    assert done.exit_code == 1
    said = str(done.output) + str(done.exception)
    assert "has no test split: choose another --ood-split (images, train: 1), or all" in said
    assert "zero-shot" not in said


def test_the_curve_is_not_of_images_classified_together(room: Path) -> None:
    done = run(room, "blocks", "--model", "tuned", "--start", "start", "--transduce")
    assert done.exit_code == 1
    assert "--transduce" in str(done.output) + str(done.exception)


def test_both_ends_of_the_curve_are_the_two_models_and_the_tuned_one_is_left_as_it_was(room: Path) -> None:
    start, tuned = load_clip(room / "start", "cpu"), load_clip(room / "tuned", "cpu")
    with open_corpus(room / "blocks") as blocks, open_corpus(room / "outside") as outside:
        targets = Target(blocks, "test"), [Target(outside, "all"), Target(outside, "test")]
        curve = interpolation(start, tuned, *targets, alphas=(0, 0.5, 1), resamples=10)
        assert list(curve.points[0].outside) == ["outside", "outside-2"]
        for model, point in ((start, curve.points[0]), (tuned, curve.points[2])):
            again = evaluate(model, blocks, resamples=10)
            assert again.headline is not None
            assert point.inside == again.headline[1]
    assert curve.measure == "hits@1"


def test_a_start_of_another_architecture_is_refused_by_the_weight_that_differs(room: Path) -> None:
    done = run(room, "blocks", "--model", "tuned", "--start", "other")
    assert done.exit_code == 1
    assert "cannot be mixed" in str(done.output) + str(done.exception)


def test_a_probe_cannot_be_measured_on_its_own_training_split(room: Path) -> None:
    done = run(room, "blocks", "--model", "tuned", "--probe", "--split", "train")
    assert done.exit_code == 1
    assert "trained on the train split" in str(done.output) + str(done.exception)


def test_captions_of_333_tokens_are_cut_counted_and_measured(room: Path) -> None:
    folder = room / "long"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(4):
        draw("red", "left", number).save(folder / "images" / f"{number}.png")
        rows.append(
            {
                "file": f"images/{number}.png",
                "captions": [f"a red block {'left ' * 333}", f"block {number}"],
                "split": "test",
            }
        )
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with open_corpus(folder) as corpus:
        result = evaluate(load_clip(room / "tuned", "cpu"), corpus, resamples=10)
    assert result.ranking is not None
    assert result.ranking.cut == 4
    assert result.ranking.duplicates == 4
    assert result.zero_shot is None
