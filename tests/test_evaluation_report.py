"""What an evaluation says beyond its headline: prompts, duplicates, the outside, the report, and bad input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from small_corpus import COLOURS, draw
from test_evaluation_scoring import Oracle

from clipsearch.cli import cli
from clipsearch.corpora import Corpus, open_corpus
from clipsearch.errors import InputError
from clipsearch.evaluation import EmbeddedSplit, average, comparison, ensemble, evaluate, table
from clipsearch.evaluation.charts import confusion_picture
from clipsearch.evaluation.classification import classify
from clipsearch.evaluation.figures import Figure
from clipsearch.evaluation.report import write_report
from clipsearch.evaluation.running import Plan, _probes
from clipsearch.evaluation.shift import Curve, CurvePoint, Target, _best, effective_robustness, line_through
from clipsearch.metrics import first_ranks, hits_at
from clipsearch.prompts import Prompts, preset
from clipsearch.records import Record


class Reader(Oracle):
    """An ``Oracle`` that takes some images for others: ``seen`` maps a colour to what it sees instead."""

    def __init__(self, name: str = "reader-0", **seen: str) -> None:
        self.model_id = name
        self.seen = seen
        self.asked: list[str] = []

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        names = list(COLOURS)
        order = [names.index(self.seen.get(colour, colour)) for colour in names]
        return np.eye(4, dtype=np.float32)[order][super().embed_pixels(pixels).argmax(axis=1)]

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        self.asked += texts
        return super().embed_texts(texts)


def write(folder: Path, rows: list[dict[str, Any]], classes: list[str] | None = None) -> Path:
    """A corpus of blocks: ``colour`` of the picture, and what the row says otherwise."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for number, row in enumerate(rows):
        name = f"images/{number}.png"
        draw(row.get("colour", "red"), "left", number).save(folder / name)
        lines.append({"file": name, "split": "test", **{key: row[key] for key in row if key != "colour"}})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


ROWS = [
    *({"colour": "red", "label": "red", "captions": ["A red block.", f"number {n}"]} for n in range(3)),
    *({"colour": "green", "label": "green", "captions": ["a red block", "green"]} for _ in range(2)),
    {"colour": "blue", "label": "blue", "captions": ["blue"]},
    {"colour": "yellow", "label": "yellow", "captions": ["yellow"], "split": "train"},
    {"colour": "blue", "label": "blue", "captions": ["blue"], "split": "train"},
]


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Corpus]:
    with open_corpus(write(tmp_path / "blocks", ROWS)) as opened:
        yield opened


def test_an_ensemble_is_normalised_averaged_and_normalised_again() -> None:
    texts = {"a x": [3.0, 0.0], "b x": [0.0, 0.5], "a y": [0.0, 2.0], "b y": [0.0, 9.0]}
    found = ensemble(lambda asked: np.array([texts[text] for text in asked]), ["a {}", "b {}"], ["x", "y"])
    assert found == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0, 1]]))
    assert average(np.array([[[1.0, 0.0]], [[-1.0, 0.0]]])).tolist() == [[0, 0]], "opposite prompts are no direction"


@pytest.mark.parametrize(("model", "expected"), [("CLIP", 0.8129), ("RemoteCLIP", 0.9522)])
def test_the_averaged_prompts_of_real_embeddings_classify_as_published(
    shared: Path, model: str, expected: float
) -> None:
    data = np.load(shared / "data" / "embeddings" / f"{model}_ViT-B-32.npz")
    images, prompts = average(data["image"][None]), average(data["text"][:106])
    ranks = first_ranks(images @ prompts.T, data["label"][:, None] == np.arange(19))
    assert hits_at(ranks, 1) == pytest.approx(expected, abs=5e-5)


def test_every_template_is_asked_with_the_words_of_every_class(corpus: Corpus) -> None:
    model = Reader()
    result = evaluate(model, corpus, prompts=Prompts("two", ("a {}.", "the {}.")), resamples=50)  # type: ignore[arg-type]
    assert {"a red.", "the red.", "a blue.", "the blue."} <= set(model.asked)
    assert result.prompt == "two"
    assert 'zero-shot, 2 prompts averaged "two", 6 images, 4 classes' in table(result)


def test_classes_without_images_in_the_split_are_prompts_but_in_no_mean(corpus: Corpus) -> None:
    result = evaluate(Reader(green="yellow"), corpus, resamples=50)  # type: ignore[arg-type]
    found = result.classification
    assert found is not None
    by_name = {line.name: line for line in found.classes}
    assert by_name["yellow"].support == 0
    assert by_name["yellow"].recall is None
    assert by_name["yellow"].precision == 0
    assert by_name["green"].recall == 0
    assert found.balanced_accuracy == pytest.approx((1 + 0 + 1) / 3)
    assert found.hits["hits@1"].value == pytest.approx(4 / 6)
    assert found.hits["hits@1"].low <= 4 / 6 <= found.hits["hits@1"].high
    assert [failure.predicted[0][0] for failure in found.failures] == ["yellow", "yellow"]
    assert np.trace(np.array(found.confusion)) == 4
    assert "1 classes have no image in this split" in table(result)


def test_captions_that_another_image_carries_are_right_for_both(corpus: Corpus) -> None:
    result = evaluate(Reader(), corpus, resamples=50)  # type: ignore[arg-type]
    assert result.ranking is not None
    assert result.retrieval == result.ranking.scores
    assert result.ranking.duplicates == 5 + 2, "five images are said to have a red block, two only to be green"
    plain, aware = result.ranking.plain, result.ranking.duplicate_aware
    assert aware["text_to_image_recall@1"].value > plain["text_to_image_recall@1"].value
    assert aware["mean_recall"].value > plain["mean_recall"].value
    assert aware["image_to_text_recall@1"].low <= aware["image_to_text_recall@1"].high
    assert "duplicate-aware" in table(result)


def test_images_without_captions_can_be_found_but_do_not_search(tmp_path: Path) -> None:
    rows = [
        {"colour": "red", "captions": ["red"]},
        {"colour": "red", "captions": []},
        {"colour": "blue", "captions": ["blue"]},
    ]
    with open_corpus(write(tmp_path / "some", rows)) as corpus:
        result = evaluate(Reader(), corpus, resamples=20)  # type: ignore[arg-type]
    assert result.retrieval is not None
    assert result.retrieval.image_to_text_hits[1] == 1
    assert result.retrieval.text_to_image_hits[1] == pytest.approx(0.75), "half a hit for the red caption's tie"
    assert result.zero_shot is None


def test_captions_that_are_too_long_for_the_model_are_counted(tmp_path: Path) -> None:
    class Short(Reader):
        text_length = 77

        @staticmethod
        def tokenizer(texts: list[str], truncation: bool, max_length: int) -> dict[str, list[list[int]]]:
            return {"input_ids": [[0] * min(len(text.split()) + 2, max_length) for text in texts]}

    rows = [{"captions": ["red " * 331, "red"]}, {"captions": ["red " * 75, "a long wordless caption" + "!" * 99]}]
    with open_corpus(write(tmp_path / "long", rows)) as corpus:
        result = evaluate(Short(), corpus, resamples=20)  # type: ignore[arg-type]
    assert result.ranking is not None
    assert result.ranking.cut == 1
    assert "1 captions are longer than the model reads" in table(result)


def test_probes_go_through_the_corpus_and_refuse_a_split_without_labels(corpus: Corpus) -> None:
    plan = Plan(Target(corpus, "test"), probe=True, few_shot=True, resamples=20)
    probe, shots = _probes(Reader(), plan)  # type: ignore[arg-type]
    assert probe is not None
    assert probe.unseen == 2, "red and green are in no training image"
    assert probe.accuracy.value == pytest.approx(1 / 6)
    assert shots is not None
    assert shots.zero_shot == 1
    result = replace(
        evaluate(Reader(), corpus, resamples=20),  # type: ignore[arg-type]
        linear_probe=probe,
        few_shot=shots,
    )
    assert "2 classes have no training image" in table(result)
    assert "classes have fewer images" in table(result)


def test_the_line_of_effective_robustness_is_straight_on_logit_axes() -> None:
    assert line_through([0.5, 0.5], [0.2, 0.3]) is None
    line = line_through([0.5, 0.9], [0.5, 0.9])
    assert line is not None
    assert line == pytest.approx((1, 0), abs=1e-9)
    assert effective_robustness(0.7, 0.75, line) == pytest.approx(0.05)


def test_the_best_mixture_loses_at_most_a_point_outside() -> None:
    def point(alpha: float, inside: float, outside: float) -> CurvePoint:
        return CurvePoint(alpha, Figure(inside, 0, 1), {"eurosat": Figure(outside, 0, 1)}, {"eurosat": None})

    points = [point(0, 0.5, 0.5), point(0.5, 0.8, 0.49), point(0.7, 0.85, 0.48), point(1, 0.9, 0.3)]
    assert _best(points, 1.0) == 0.5
    assert _best(points, 2.0) == 0.7
    assert _best(points, 100.0) == 1


class Page(HTMLParser):
    """Collects what a page would load, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]


def test_a_report_is_three_files_and_its_page_stands_alone(corpus: Corpus, tmp_path: Path) -> None:
    good, bad = Reader("good-<b>1", green="yellow"), Reader("bad-2", green="red", red="blue")
    results = [evaluate(model, corpus, resamples=20) for model in (good, bad)]  # type: ignore[arg-type]
    outside = replace(results[0], corpus="eurosat")
    figure = Figure(0.5, 0.4, 0.6)
    curve = Curve(
        "start", "hits@1", "blocks", "test", 1.0, 0.0, [CurvePoint(0, figure, {"eurosat": figure}, {"eurosat": None})]
    )
    results[0] = replace(results[0], out_of_domain=(outside,), interpolation=curve)
    page = write_report(tmp_path / "report", results, corpus)
    text = page.read_text()
    parsed = Page()
    parsed.feed(text)
    assert "script" not in parsed.tags
    assert "link" not in parsed.tags
    assert parsed.loads, "mistakes are shown as pictures"
    assert all(each.startswith("data:image/jpeg;base64,") for each in parsed.loads)
    assert "http" not in text.replace("base64", "")[:4000]
    assert "good-&lt;b&gt;1" in text
    assert "<b>1" not in text
    data = json.loads((page.parent / "report.json").read_text())
    assert [each["model_id"] for each in data["evaluations"]] == ["good-<b>1", "bad-2"]
    written = (page.parent / "report.md").read_text()
    assert "**66.7**" in written
    assert "eurosat hits@1" in written


def test_a_comparison_has_one_line_a_model_and_the_best_in_bold(corpus: Corpus) -> None:
    models = [Reader("good"), Reader("bad", red="blue")]
    lines = comparison([evaluate(model, corpus, resamples=20) for model in models]).splitlines()  # type: ignore[arg-type]
    assert lines[0].startswith("| model | hits@1 | hits@3 |")
    assert lines[2].startswith("| good | **100.0** [100.0, 100.0] |")
    assert lines[3].startswith("| bad | 50.0 [")


def test_a_report_that_cannot_be_written_is_named(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("a file")
    with pytest.raises(InputError, match="report cannot be written"):
        write_report(tmp_path / "report", [evaluate(Reader(), corpus, resamples=5)], corpus)  # type: ignore[arg-type]


def test_only_the_most_confused_of_many_classes_are_drawn() -> None:
    matrix = np.diag(np.full(60, 3.0))
    matrix[50, 51] = 1
    drawn = confusion_picture(matrix.tolist(), [f"class {n}" for n in range(60)])
    assert "45 of 60 classes" in drawn
    assert "class 50 taken for class 51: 1 of 4" in drawn


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x", "--model", "m", "--corpus", "c"], "the models and --corpus"),
        (["--model", "m"], "the models and --corpus"),
        (["CORPUS", "--model", "nothing"], "there is no checkpoint folder nothing"),
        (["nowhere", "--model", "m"], "no corpus at nowhere"),
        (["CORPUS", "--model", "m", "--ood", "nowhere"], "no corpus at nowhere"),
        (["CORPUS", "--model", "m", "--prompts", "a photo"], "neither a preset"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(tmp_path: Path, words: list[str], message: str) -> None:
    folder = write(tmp_path / "blocks", ROWS)
    done = CliRunner().invoke(cli, ["evaluate", *(str(folder) if word == "CORPUS" else word for word in words)])
    assert done.exit_code != 0
    assert message in done.output.replace("\n", " ") or message in str(done.exception)


def test_the_presets_are_listed_with_their_sources() -> None:
    done = CliRunner().invoke(cli, ["evaluate", "--prompts", "list"])
    assert done.exit_code == 0
    assert "resisc45: 18 templates" in done.output
    assert "openai/CLIP" in done.output


def test_the_published_classification_of_rsicd_by_clip_is_scored_as_published(shared: Path, tmp_path: Path) -> None:
    """The file's ten best classes of each image, through the function that evaluates: only its input is a stand-in."""
    lines = (shared / "data/reference/clip_rsicd_baseline.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    classes = sorted({name for row in rows for name in row[2::2]})
    scores = np.full((len(rows), len(classes)), -1.0, np.float32)
    for number, row in enumerate(rows):
        for place, name in enumerate(row[2::2]):
            scores[number, classes.index(name)] = 1 - place / 100  # the file's order settles its rounded ties
    records = [Record("rsicd", row[0], row[0], label=row[1]) for row in rows]
    corpus = SimpleNamespace(classes=dict(zip(classes, classes, strict=True)))
    embedded = EmbeddedSplit(scores, records, [])
    found = classify(embedded, corpus, np.eye(len(classes), dtype=np.float32), preset("clip"), resamples=200)  # type: ignore[arg-type]
    assert found.scores.images == 1027
    assert [round(value, 4) for value in found.scores.hits.values()] == [0.5755, 0.7429, 0.8218, 0.9309]
    assert found.hits["hits@1"].low == pytest.approx(0.5755 - 0.03, abs=0.01)
