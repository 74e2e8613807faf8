"""How far to go from the start model to the tuned one: WiSE-FT (Wortsman et al. 2021, arXiv 2109.01903).

Fine-tuning gains in the domain and forgets outside it. Every tenth of the way between the two models is measured on
both sides, and one rule, written down before anything is measured, chooses: the best validation score among those
mixtures that lose at most ``ood_loss`` points against the start model on each corpus outside the domain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from clipsearch.clip.interpolate import Weights, load_mixture

if TYPE_CHECKING:
    from clipsearch.clip import Clip

ALPHAS = tuple(step / 10 for step in range(11))
MOST_IMAGES = 2000
"""Images at most that stand for a corpus outside the domain: eleven mixtures embed each of them."""

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Yardstick:
    """One thing to measure a model by. ``score``: in [0, 1], larger is better."""

    name: str
    metric: str
    score: Callable[[Clip], float]

    @property
    def title(self) -> str:
        """The head of a column: ``eurosat hits@1``."""
        return f"{self.name} {self.metric}"


@dataclass(frozen=True, slots=True)
class Point:
    """One mixture: ``alpha`` (0: the start model, 1: the tuned one) and its scores, ``outside`` a corpus each."""

    alpha: float
    validation: float
    outside: tuple[float, ...]

    @property
    def scores(self) -> tuple[float, ...]:
        """All scores, validation's first."""
        return (self.validation, *self.outside)


@dataclass(frozen=True, slots=True)
class Interpolation:
    """The curve and the choice. ``titles``: the measures' names, validation's first.

    ``points`` in the order of alpha, the start model first and the tuned one last; ``alpha``: the chosen one.
    """

    alpha: float
    points: tuple[Point, ...]
    ood_loss: float
    titles: tuple[str, ...]

    @property
    def chosen(self) -> Point:
        """The mixture that is kept."""
        return next(point for point in self.points if point.alpha == self.alpha)

    def loss(self, point: Point) -> float:
        """Points (hundredths) lost against the start model, on the corpus outside the domain that loses the most."""
        pairs = zip(self.points[0].outside, point.outside, strict=True)
        return max((100 * (start - score) for start, score in pairs), default=0.0)

    def reason(self) -> str:
        """Why this alpha, in one sentence."""
        metric = f"the best {self.titles[0]}"
        if not self.chosen.outside:
            return (
                f"alpha {self.alpha:g} has {metric}; nothing out of domain was measured (--ood CORPUS does), "
                "so what the model forgot elsewhere is not known"
            )
        allowed = sum(self.loss(point) <= self.ood_loss + _ROUNDING for point in self.points)
        bound = f"lose at most {self.ood_loss:g} point{'s' * (self.ood_loss != 1)} out of domain"
        if allowed == 1:
            return (
                f"alpha {self.alpha:g}, the start model, is kept: no other of the {len(self.points)} mixtures {bound}"
            )
        return f"alpha {self.alpha:g} has {metric} of the {allowed} mixtures of {len(self.points)} that {bound}"

    def table(self) -> str:
        """The curve for people: a row for each alpha, changes from the start model in points, the choice marked."""
        start = self.points[0]
        rows = [["", "alpha", *self.titles]]
        for point in self.points:
            mark = "*" if point.alpha == self.alpha else ""
            pairs = zip(point.scores, start.scores, strict=True)
            cells = [f"{score:.3f} ({100 * (score - before):+.1f})" for score, before in pairs]
            rows.append([mark, f"{point.alpha:.1f}", *cells])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*lines, f"* {self.reason()}"])

    def to_json(self) -> dict[str, Any]:
        """Plain values for the log: the choice, its reason and every point."""
        points = [{"alpha": p.alpha, "validation": p.validation, "outside": list(p.outside)} for p in self.points]
        return {
            "alpha": self.alpha,
            "reason": self.reason(),
            "ood_loss": self.ood_loss,
            "measures": list(self.titles),
            "points": points,
        }


def interpolation_from_json(values: dict[str, Any]) -> Interpolation:
    """The ``Interpolation`` that ``to_json`` made plain."""
    points = tuple(Point(p["alpha"], p["validation"], tuple(p["outside"])) for p in values["points"])
    return Interpolation(values["alpha"], points, values["ood_loss"], tuple(values["measures"]))


def choose_interpolation(
    clip: Clip,
    start: Weights,
    tuned: Weights,
    validation: Yardstick,
    outside: Sequence[Yardstick] = (),
    ood_loss: float = 1.0,
    quiet: bool = True,
) -> Interpolation:
    """Measure the mixtures of ``start`` and ``tuned`` at each of ``ALPHAS`` and leave the chosen one in ``clip``.

    Of equally good ones the one nearest to the start model is chosen. The start model itself always qualifies. Without
    ``outside`` the best validation score decides alone. Raises ``CheckpointError`` when the weights do not fit.
    """
    clip.model.eval()
    points = []
    for alpha in tqdm(ALPHAS, desc="interpolate", unit="mixture", leave=False, disable=quiet):
        load_mixture(clip.model, start, tuned, alpha)
        points.append(Point(alpha, validation.score(clip), tuple(yardstick.score(clip) for yardstick in outside)))
    titles = tuple(yardstick.title for yardstick in (validation, *outside))
    curve = Interpolation(0.0, tuple(points), ood_loss, titles)
    allowed = [point for point in points if curve.loss(point) <= ood_loss + _ROUNDING]
    best = max(allowed, key=lambda point: point.validation)  # the first of equals
    load_mixture(clip.model, start, tuned, best.alpha)
    return replace(curve, alpha=best.alpha)


def plot_interpolation(interpolation: Interpolation, path: Path) -> None:
    """The curve as a PNG: in domain against out of domain, one line for each corpus, alpha beside its points.

    Dotted lines are where ``ood_loss`` points are lost. With nothing out of domain: validation over alpha.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    chosen, points = interpolation.chosen, interpolation.points
    axes.set_xlabel(f"in domain: {interpolation.titles[0]}" if chosen.outside else "alpha")
    axes.set_ylabel("out of domain" if chosen.outside else interpolation.titles[0])
    lines: dict[str, list[tuple[float, float]]] = {
        title: [(point.validation, point.outside[number]) for point in points]
        for number, title in enumerate(interpolation.titles[1:])
    } or {"validation": [(point.alpha, point.validation) for point in points]}
    kept = points.index(chosen)
    for title, line in lines.items():
        (drawn,) = axes.plot(*zip(*line, strict=True), marker=".", label=title)
        look = {"color": drawn.get_color()}
        axes.plot(*line[kept], marker="*", markersize=15, **look)
        if chosen.outside:
            axes.axhline(line[0][1] - interpolation.ood_loss / 100, linestyle=":", linewidth=1, **look)
        for point, place in zip(points, line, strict=True):
            if point.alpha in (0.0, 1.0, chosen.alpha) or len(lines) == 1:
                axes.annotate(f"{point.alpha:g}", place, xytext=(-4, 6), textcoords="offset points", fontsize=8, **look)
    axes.set_title(f"From the start model (0) to the tuned one (1): {chosen.alpha:g} is kept", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
