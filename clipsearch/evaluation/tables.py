"""Evaluations as text for terminals and as Markdown, as the field's papers print them: models down, measures across."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipsearch.evaluation.figures import Figure
from clipsearch.evaluation.retrieval import DIRECTIONS, MEAN_RECALL, MEASURES, Retrieval
from clipsearch.evaluation.scoring import Evaluation

if TYPE_CHECKING:
    from clipsearch.evaluation.shift import Curve

SHORT = {"text_to_image": "text-image", "image_to_text": "image-text"}
MEASURE_NAMES = {
    **{f"recall@{k}": f"R@{k}" for k in (1, 5, 10)},
    "mrr@10": "MRR@10",
    "ndcg@10": "nDCG@10",
    "map": "mAP",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One measure of a comparison: its title, and where an evaluation keeps it (None where it has none)."""

    title: str
    figure: Callable[[Evaluation], Figure | None]


def columns(evaluations: Sequence[Evaluation]) -> list[Column]:
    """The measures that at least one of the evaluations has, in the order of the field's tables."""
    found = [Column(f"hits@{k}", _hits(f"hits@{k}")) for k in (1, 3, 5, 10)]
    found += [
        Column(f"{SHORT[direction]} {MEASURE_NAMES[name]}", _ranking(f"{direction}_{name}"))
        for name in (*(f"recall@{k}" for k in (1, 5, 10)), "mrr@10")
        for direction in DIRECTIONS
    ]
    found.append(Column("mean recall", _ranking(MEAN_RECALL)))
    names = dict.fromkeys(_outside_title(other) for each in evaluations for other in each.out_of_domain)
    found += [Column(name, _outside(name)) for name in names]
    found.append(Column("linear probe", lambda each: each.linear_probe.accuracy if each.linear_probe else None))
    return [column for column in found if any(column.figure(each) for each in evaluations)]


def comparison(evaluations: Sequence[Evaluation]) -> str:
    """Several models in one Markdown table, in per cent with 95 % intervals, the best of each column in bold."""
    wanted = columns(evaluations)
    figures = [[column.figure(each) for column in wanted] for each in evaluations]
    best = best_of(figures)
    rows = [["model", *(column.title for column in wanted)], ["---", *["---:"] * len(wanted)]]
    for each, row in zip(evaluations, figures, strict=True):
        cells = [
            percent(figure, len(evaluations) > 1 and figure.value == best[i]) if figure else "–"
            for i, figure in enumerate(row)
        ]
        rows.append([each.model_id, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def best_of(figures: Sequence[Sequence[Figure | None]]) -> list[float]:
    """The highest value of each column of a comparison; 0 for one without values."""
    return [max((figure.value for figure in column if figure), default=0.0) for column in zip(*figures, strict=True)]


def percent(figure: Figure, bold: bool = False) -> str:
    """``81.3 [78.9, 83.6]``; the value in Markdown's bold."""
    value = f"{100 * figure.value:.1f}"
    return f"{f'**{value}**' if bold else value} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


def table(result: Evaluation) -> str:
    """The scores of one evaluation as lines for people."""
    lines = [f"{result.model_id} on {result.corpus}, {result.split} split"]
    if result.zero_shot:
        lines += _zero_shot_lines(result)
    if result.retrieval:
        scores = result.retrieval
        lines.append(f"retrieval, {scores.images:,} images, {scores.captions:,} captions:   text-image  image-text")
        if result.ranking:
            lines += _ranking_lines(result.ranking)
    if result.linear_probe:
        probe = result.linear_probe
        sizes = f"{probe.train_images:,} training images, C = {probe.c:g}"
        lines.append(f"linear probe, {sizes}: {probe.accuracy}")
        if probe.unseen:
            lines.append(f"  {probe.unseen} classes have no training image: their images count as mistakes")
    if result.few_shot:
        shots = result.few_shot
        lines.append(f"few-shot, mean and spread of {shots.draws} draws:   probe          prompt + prototype")
        lines += [
            f"  {each.shots:>2} shots  {each.probe:.4f} ± {each.probe_spread:.4f}"
            f"  {each.blend:.4f} ± {each.blend_spread:.4f}"
            + (f"  ({each.short} classes have fewer images)" if each.short else "")
            for each in shots.points
        ]
    for other in result.out_of_domain:
        measure, figure = other.headline or ("", "nothing to measure: no labels, no captions")
        lines.append(f"out of domain, {other.corpus}, {other.split} split: {measure} {figure}")
    if result.interpolation:
        lines += curve_lines(result.interpolation)
    if result.left_out:
        lines.append(f"{result.left_out} images could not be decoded and were left out")
    return "\n".join(lines)


def curve_lines(curve: Curve) -> list[str]:
    """The interpolation curve, a line a mixture; the best one of the rule is marked."""
    names = list(curve.points[0].outside)
    head = "  ".join(f"{name:>12}" for name in names)
    lines = [
        f"between {curve.start_id} (0) and this model (1), {curve.measure} of {curve.inside}, {curve.split}; {head}"
    ]
    for point in curve.points:
        outside = "  ".join(f"{point.outside[name].value:>12.4f}" for name in names)
        mark = "  <- best" if point.alpha == curve.best_alpha else ""
        lines.append(f"  alpha {point.alpha:.1f}  {point.inside.value:.4f}  {outside}{mark}")
    rule = f"  best: the highest that loses at most {curve.ood_loss:g} points of each corpus outside"
    unsafe = "; choose on validation (--split validation), not by this table" if curve.split == "test" else ""
    return [*lines, rule + unsafe]


def _zero_shot_lines(result: Evaluation) -> list[str]:
    assert result.zero_shot is not None
    size = f"{result.zero_shot.images:,} images, {result.zero_shot.classes} classes"
    found = result.classification
    many = f"{len(found.templates)} prompts averaged" if found and len(found.templates) > 1 else "prompt"
    lines = [f'zero-shot, {many} "{result.prompt}", {size}:']
    for k, value in result.zero_shot.hits.items():
        interval = found.hits[f"hits@{k}"] if found else None
        lines.append(f"  hits@{k:<4}{value:.4f}" + (f"  [{interval.low:.3f}, {interval.high:.3f}]" if interval else ""))
    if found:
        lines.append(f"  balanced accuracy {found.balanced_accuracy:.4f}, macro F1 {found.macro_f1:.4f}")
        absent = sum(not each.support for each in found.classes)
        if absent:
            lines.append(f"  {absent} classes have no image in this split: they are prompts only, and in no mean")
    return lines


def _ranking_lines(ranking: Retrieval) -> list[str]:
    aware = ranking.duplicate_aware is not ranking.plain and ranking.duplicates > 0
    lines = []
    for title, figures in [("", ranking.plain), *([("duplicate-aware", ranking.duplicate_aware)] if aware else [])]:
        if title:
            lines.append(f"  {title}: {ranking.duplicates:,} captions are another image's too, and right for both")
        for name in MEASURES:
            both = "  ".join(str(figures[f"{direction}_{name}"]) for direction in DIRECTIONS)
            lines.append(f"  {MEASURE_NAMES[name]:<8}{both}")
        lines.append(f"  mean recall {figures[MEAN_RECALL]}")
    if ranking.cut:
        lines.append(f"  {ranking.cut:,} captions are longer than the model reads and were cut")
    return lines


def _outside_title(other: Evaluation) -> str:
    return f"{other.corpus} {other.headline[0] if other.headline else '(nothing to measure)'}"


def _outside(title: str) -> Callable[[Evaluation], Figure | None]:
    def figure(each: Evaluation) -> Figure | None:
        return next((o.headline[1] for o in each.out_of_domain if o.headline and _outside_title(o) == title), None)

    return figure


def _hits(name: str) -> Callable[[Evaluation], Figure | None]:
    return lambda each: each.classification.hits[name] if each.classification else None


def _ranking(name: str) -> Callable[[Evaluation], Figure | None]:
    return lambda each: each.ranking.plain[name] if each.ranking else None
