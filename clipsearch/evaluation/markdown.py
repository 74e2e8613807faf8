"""The report as Markdown: the comparison first, then each model's own tables."""

from __future__ import annotations

from collections.abc import Sequence

from clipsearch.evaluation.figures import Figure
from clipsearch.evaluation.retrieval import DIRECTIONS, MEAN_RECALL, MEASURES
from clipsearch.evaluation.scoring import Evaluation
from clipsearch.evaluation.tables import MEASURE_NAMES, comparison, percent


def markdown(evaluations: Sequence[Evaluation]) -> str:
    """The whole report; all figures in per cent, with 95 % bootstrap intervals."""
    first = evaluations[0]
    parts = [f"# {first.corpus}, {first.split} split", _sizes(first), comparison(evaluations)]
    for each in evaluations:
        parts.append(f"## {each.model_id}")
        parts += [section for section in (_ranking(each), _classes(each), _shots(each), _curve(each)) if section]
    return "\n\n".join(parts) + "\n"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _sizes(first: Evaluation) -> str:
    sizes = []
    if first.zero_shot:
        many = len(first.classification.templates) if first.classification else 1
        sizes.append(
            f"{first.zero_shot.images:,} labelled images of {first.zero_shot.classes} classes, "
            f'{many} prompt{"s averaged" if many > 1 else ""} "{first.prompt}"'
        )
    if first.retrieval:
        sizes.append(f"{first.retrieval.images:,} images and {first.retrieval.captions:,} captions for retrieval")
    if first.left_out:
        sizes.append(f"{first.left_out} images could not be decoded")
    return (
        "; ".join(sizes) + ". In per cent, with 95 % bootstrap intervals over images; ties count as their expectation."
    )


def _ranking(each: Evaluation) -> str:
    if not each.ranking:
        return ""
    rows = [
        [
            MEASURE_NAMES[name],
            *(percent(figures[f"{direction}_{name}"]) for figures in _both(each) for direction in DIRECTIONS),
        ]
        for name in MEASURES
    ]
    rows.append(["mean recall", *(cell for figures in _both(each) for cell in (percent(figures[MEAN_RECALL]), ""))])
    head = ["retrieval", "text-image", "image-text", "text-image, duplicate-aware", "image-text, duplicate-aware"]
    note = f"{each.ranking.duplicates:,} captions are another image's too; duplicate-aware counts both as right."
    return grid(head, rows) + "\n\n" + note


def _both(each: Evaluation) -> tuple[dict[str, Figure], dict[str, Figure]]:
    assert each.ranking
    return each.ranking.plain, each.ranking.duplicate_aware


def _classes(each: Evaluation) -> str:
    found = each.classification
    if not found:
        return ""
    rows = [
        [line.name, str(line.support), *(_share(value) for value in (line.precision, line.recall, line.f1))]
        for line in found.classes
    ]
    rows.append(["mean of classes", "", "", f"{100 * found.balanced_accuracy:.1f}", f"{100 * found.macro_f1:.1f}"])
    search = ", ".join(
        f"{MEASURE_NAMES.get(name, name)} {percent(figure)}" for name, figure in found.class_to_image.items()
    )
    return grid(["class", "images", "precision", "recall", "F1"], rows) + f"\n\nClass prompt to images: {search}."


def _shots(each: Evaluation) -> str:
    if not each.few_shot:
        return ""
    rows = [["0", f"{100 * each.few_shot.zero_shot:.1f}", f"{100 * each.few_shot.zero_shot:.1f}"]]
    rows += [
        [
            str(point.shots),
            f"{100 * point.probe:.1f} ± {100 * point.probe_spread:.1f}",
            f"{100 * point.blend:.1f} ± {100 * point.blend_spread:.1f}",
        ]
        for point in each.few_shot.points
    ]
    return grid([f"shots a class, {each.few_shot.draws} draws", "linear probe", "prompt + prototype"], rows)


def _curve(each: Evaluation) -> str:
    curve = each.interpolation
    if not curve:
        return ""
    names = list(curve.points[0].outside)
    rows = []
    for point in curve.points:
        alpha = f"**{point.alpha:.1f}**" if point.alpha == curve.best_alpha else f"{point.alpha:.1f}"
        robust = [_points(point.robustness[name]) for name in names]
        rows.append([alpha, percent(point.inside), *(percent(point.outside[name]) for name in names), *robust])
    head = ["alpha", f"{curve.inside} {curve.measure}", *names, *(f"{name}: effective robustness" for name in names)]
    note = (
        f"Between {curve.start_id} (0) and this model (1). Bold: the best inside that loses at most {curve.ood_loss:g} "
        "points outside. Effective robustness: points above the line through both ends, on logit axes."
    )
    return grid(head, rows) + "\n\n" + note


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
