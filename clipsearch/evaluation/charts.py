"""Plots as inline SVG: they take their colours from the page (light or dark), need no script and no other file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

Scale = Callable[[float], float]

WIDTH, HEIGHT = 360.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 14.0, 12.0, 40.0
COLOURS = 6
MOST_CLASSES = 45
"""Classes at most in the picture of a confusion matrix: those with the most mistakes."""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: ``points`` (x, y), and for each point its interval (low, high), or none at all."""

    name: str
    points: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[float, float]] = ()


def line_chart(
    lines: Sequence[Line], x_label: str, y_label: str, *, log: bool = False, mark: float | None = None
) -> Markup:
    """Curves over one another, in per cent; ``log``: a logarithmic x axis with the points as ticks; ``mark``: one x."""
    xs = sorted({x for line in lines for x, _ in line.points})
    place_x = _scale([math.log(x) for x in xs] if log else xs, LEFT, WIDTH - RIGHT)

    def at(x: float) -> float:
        return place_x(math.log(x) if log else x)

    values = [y for line in lines for _, y in line.points] + [
        b for line in lines for pair in line.intervals for b in pair
    ]
    low, high, step = _ticks(min(values), max(values))
    place_y = _scale([low, high], HEIGHT - BOTTOM, TOP)
    parts = [_axes(low, high, step, place_y, x_label, y_label)]
    for x in _spaced(xs, at):
        parts.append(f'<text x="{at(x):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{x:g}</text>')
    if mark is not None:
        parts.append(f'<line class="mark" x1="{at(mark):.1f}" x2="{at(mark):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for number, line in enumerate(lines):
        parts.append(_curve(line, number % COLOURS + 1, at, place_y))
    return _svg("".join(parts), WIDTH, HEIGHT, f"{y_label} over {x_label}") + legend([line.name for line in lines])


def legend(names: Sequence[str]) -> Markup:
    """What the colours mean; nothing for a single curve."""
    if len(names) < 2:
        return Markup("")
    items = (Markup('<li><i class="c{}"></i>{}</li>').format(i % COLOURS + 1, name) for i, name in enumerate(names))
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def confusion_picture(matrix: Sequence[Sequence[float]], names: Sequence[str]) -> Markup:
    """A confusion matrix in shares of each true class (row); the darker, the more. Hovering names a cell."""
    counts = np.asarray(matrix, float)
    kept = _most_confused(counts)
    counts, names = counts[np.ix_(kept, kept)], [names[row] for row in kept]
    sums = np.asarray(matrix, float)[kept].sum(axis=1)
    cell, margin = 14.0, 8 + 6.4 * max(len(name) for name in names)
    size = margin + cell * len(names) + 4
    parts = []
    for i, name in enumerate(names):
        middle = margin + cell * (i + 0.72)
        parts.append(f'<text x="{margin - 5:.1f}" y="{middle:.1f}" text-anchor="end">{escape(name)}</text>')
        across = margin + cell * (i + 0.72)
        parts.append(f'<text transform="translate({across:.1f} {margin - 5:.1f}) rotate(-90)">{escape(name)}</text>')
        for j, count in enumerate(counts[i]):
            share = count / sums[i] if sums[i] else 0.0
            if share > 0:
                kind = "right" if i == j else "wrong"
                title = f"{name} taken for {names[j]}: {count:g} of {sums[i]:g}"
                parts.append(
                    f'<rect class="{kind}" x="{margin + cell * j:.1f}" y="{margin + cell * i:.1f}" width="{cell - 1}"'
                    f' height="{cell - 1}" opacity="{0.12 + 0.88 * share:.3f}"><title>{escape(title)}</title></rect>'
                )
    side = cell * len(names) + 1
    box = f'<rect class="frame" x="{margin - 1:.1f}" y="{margin - 1:.1f}" width="{side:.1f}" height="{side:.1f}"/>'
    note = Markup("")
    if len(kept) < len(matrix):
        note = Markup('<p class="quiet">The {} of {} classes with the most mistakes.</p>').format(
            len(kept), len(matrix)
        )
    drawing = _svg(box + "".join(parts), size, size, "confusion matrix")
    return Markup('<div class="wide" style="--least:{}px">{}</div>').format(round(size), drawing) + note


def bar(value: float | None) -> Markup:
    """A share as a number with a bar behind it; a dash where it is undefined."""
    if value is None:
        return Markup('<td class="number">–</td>')
    return Markup('<td class="number bar" style="--share:{}%">{}</td>').format(
        round(100 * value, 1), f"{100 * value:.1f}"
    )


def shares(values: Mapping[int, float]) -> list[tuple[float, float]]:
    """Points of a curve, in per cent."""
    return [(x, 100 * y) for x, y in values.items()]


def _axes(low: float, high: float, step: float, place_y: Scale, x_label: str, y_label: str) -> str:
    parts = []
    for tick in np.arange(low, high + step / 2, step):
        y = place_y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')
    return "".join(parts)


def _curve(line: Line, colour: int, at: Scale, place_y: Scale) -> str:
    path = " ".join(f"{at(x):.1f},{place_y(y):.1f}" for x, y in line.points)
    parts = [f'<polyline class="curve c{colour}" points="{path}"/>']
    for (x, _), (low, high) in zip(line.points, line.intervals, strict=False):
        parts.append(
            f'<line class="interval c{colour}" x1="{at(x):.1f}" x2="{at(x):.1f}"'
            f' y1="{place_y(low):.1f}" y2="{place_y(high):.1f}"/>'
        )
    for x, y in line.points:
        title = escape(f"{line.name}: {y:.1f} at {x:g}")
        parts.append(
            f'<circle class="c{colour}" cx="{at(x):.1f}" cy="{place_y(y):.1f}" r="3"><title>{title}</title></circle>'
        )
    return "".join(parts)


def _svg(content: str, width: float, height: float, label: str) -> Markup:
    return Markup(f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{content}</svg>')


def _scale(values: Sequence[float], start: float, end: float) -> Scale:
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    middle = 0.5 if high == low else 0.0
    return lambda value: start + (end - start) * ((value - low) / span + middle)


def _ticks(low: float, high: float) -> tuple[float, float, float]:
    """A round lowest and highest tick, and the step, for about five ticks; at least two points, none above 100."""
    low = max(0.0, min(low, 98.0, (low + high) / 2 - 1))
    span = max(high - low, 2.0)
    size = 10 ** math.floor(math.log10(span / 4))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if span / (size * factor) <= 5)
    bottom = math.floor(low / step) * step
    top = min(100.0, math.ceil(round(high / step, 6)) * step)
    return bottom, max(top, bottom + step), step


def _spaced(xs: Sequence[float], at: Scale) -> list[float]:
    """Those ticks that have room for their text."""
    kept: list[float] = []
    for x in xs:
        if not kept or at(x) - at(kept[-1]) >= 24:
            kept.append(x)
    return kept


def _most_confused(counts: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[int]:
    mistakes = counts.sum(axis=1) + counts.sum(axis=0) - 2 * np.diag(counts)
    worst = np.argsort(-mistakes, kind="stable")[:MOST_CLASSES]
    return sorted(int(row) for row in worst)
