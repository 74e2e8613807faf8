"""``report.md``, ``report.json`` and ``report.html``: the page needs no script, no other file and no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from clipsearch.errors import CorpusError, ImageError, InputError
from clipsearch.evaluation.charts import Line, bar, confusion_picture, line_chart, shares
from clipsearch.evaluation.markdown import markdown
from clipsearch.evaluation.retrieval import DIRECTIONS
from clipsearch.evaluation.scoring import Evaluation
from clipsearch.evaluation.tables import MEASURE_NAMES, SHORT, best_of, columns
from clipsearch.images import load_image, thumbnail

if TYPE_CHECKING:
    from clipsearch.corpora import Corpus
    from clipsearch.evaluation.classification import Failure

PICTURE_SIZE = 160
"""Longest side in px of the pictures of mistakes: twice their width on the page."""


def to_json(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """One evaluation as it is; several below ``evaluations``."""
    if len(evaluations) == 1:
        return evaluations[0].to_json()
    return {"evaluations": [each.to_json() for each in evaluations]}


def write_report(folder: Path, evaluations: Sequence[Evaluation], corpus: Corpus) -> Path:
    """Write the three files into ``folder``, which is made, and return the page's path. Raises ``InputError``."""
    page = folder / "report.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(markdown(evaluations), encoding="utf-8")
        text = json.dumps(to_json(evaluations), indent=1, allow_nan=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        page.write_text(html(evaluations, corpus), encoding="utf-8")
    except OSError as error:
        raise InputError(f"the report cannot be written to {folder}: {error.strerror or error}") from error
    return page


def html(evaluations: Sequence[Evaluation], corpus: Corpus) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("clipsearch.evaluation", "."),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    wanted = columns(evaluations)
    figures = [[column.figure(each) for column in wanted] for each in evaluations]
    best = best_of(figures)
    return environment.get_template("report.html").render(
        first=evaluations[0],
        titles=[column.title for column in wanted],
        rows=list(zip(evaluations, figures, strict=True)),
        best=best,
        compared=len(evaluations) > 1,
        recall_curves=_recall_curves(evaluations),
        models=[_model(each, corpus) for each in evaluations],
        bar=bar,
        names=MEASURE_NAMES,
        short=SHORT,
        directions=DIRECTIONS,
    )


def _recall_curves(evaluations: Sequence[Evaluation]) -> list[tuple[str, Markup]]:
    ranked = [(each.model_id, each.ranking) for each in evaluations if each.ranking]
    if not ranked:
        return []
    return [
        (
            SHORT[direction],
            line_chart(
                [Line(name, shares(ranking.curve[direction])) for name, ranking in ranked],
                "k",
                "R@k, %",
                log=True,
            ),
        )
        for direction in DIRECTIONS
    ]


def _model(each: Evaluation, corpus: Corpus) -> dict[str, Any]:
    """What the template shows of one model beside its figures."""
    found = each.classification
    return {
        "evaluation": each,
        "confusion": confusion_picture(found.confusion, [line.name for line in found.classes]) if found else "",
        "failures": [_failure(failure, corpus) for failure in found.failures[:12]] if found else [],
        "few_shot": _few_shot_chart(each),
        "curve": _interpolation_chart(each),
    }


def _few_shot_chart(each: Evaluation) -> Markup | str:
    if not each.few_shot:
        return ""
    points = each.few_shot.points

    def line(name: str, kind: str) -> Line:
        values = [(100 * getattr(p, kind), 100 * getattr(p, f"{kind}_spread")) for p in points]
        at = [(float(point.shots), value) for point, (value, _) in zip(points, values, strict=True)]
        return Line(name, at, [(value - spread, value + spread) for value, spread in values])

    level = Line("zero-shot", [(float(point.shots), 100 * each.few_shot.zero_shot) for point in points])
    lines = [line("linear probe", "probe"), line("prompt + prototype", "blend"), level]
    return line_chart(lines, "labelled images a class", "accuracy, %", log=True)


def _interpolation_chart(each: Evaluation) -> Markup | str:
    curve = each.interpolation
    if not curve:
        return ""
    lines = [
        Line(
            f"{curve.inside} (in domain)",
            [(point.alpha, 100 * point.inside.value) for point in curve.points],
            [(100 * point.inside.low, 100 * point.inside.high) for point in curve.points],
        )
    ]
    for name in curve.points[0].outside:
        figures = [(point.alpha, point.outside[name]) for point in curve.points]
        at = [(alpha, 100 * figure.value) for alpha, figure in figures]
        lines.append(Line(f"{name} (outside)", at, [(100 * f.low, 100 * f.high) for _, f in figures]))
    return line_chart(lines, "alpha: 0 start model, 1 fine-tuned", f"{curve.measure}, %", mark=curve.best_alpha)


def _failure(failure: Failure, corpus: Corpus) -> dict[str, Any]:
    """A mistake with its picture as a data URI; "" where the image can no longer be read."""
    try:
        jpeg = thumbnail(load_image(corpus.read(failure.record)), PICTURE_SIZE)
        picture = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    except (ImageError, CorpusError):
        picture = ""
    return {"failure": failure, "picture": picture}
