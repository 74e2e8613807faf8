"""Outlines in world coordinates: ``(N, 2)`` float64, where the picture shows about [-1, 1] x [-1, 1]."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]


def rectangle(x: float, y: float, width: float, height: float, angle: float = 0.0) -> Points:
    """Four corners of a rectangle around ``(x, y)``, turned by ``angle`` radians."""
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=np.float64) * (width / 2, height / 2)
    return moved(turned(half, angle), x, y)


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, steps: int = 40) -> Points:
    """An ellipse around ``(x, y)``."""
    t = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return moved(turned(np.stack([rx * np.cos(t), ry * np.sin(t)], axis=1), angle), x, y)


def stadium_shape(x: float, y: float, length: float, width: float, angle: float = 0.0) -> Points:
    """A rectangle with half-round ends: a running track's outline."""
    r = width / 2
    straight = max(length / 2 - r, 0.0)
    t = np.linspace(-np.pi / 2, np.pi / 2, 16)
    right = np.stack([straight + r * np.cos(t), r * np.sin(t)], axis=1)
    return moved(turned(np.concatenate([right, -right]), angle), x, y)


def blob(rng: np.random.Generator, x: float, y: float, radius: float, wobble: float = 0.25, steps: int = 60) -> Points:
    """A smooth irregular outline: a circle whose radius has random harmonics."""
    t = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    r = np.ones(steps)
    for harmonic in range(1, 6):
        r += wobble / harmonic * rng.normal() * np.cos(harmonic * t + rng.uniform(0, 2 * np.pi))
    r = np.clip(r, 0.35, 1.9)
    squash = rng.uniform(0.65, 1.0)
    outline = np.stack([radius * r * np.cos(t), radius * squash * r * np.sin(t)], axis=1)
    return moved(turned(outline, rng.uniform(0, 6.28)), x, y)


def curve(rng: np.random.Generator, start: ArrayLike, end: ArrayLike, bend: float = 0.2, steps: int = 48) -> Points:
    """A winding path from ``start`` to ``end``; ``bend`` is the amplitude in world units."""
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    t = np.linspace(0, 1, steps)[:, None]
    normal = np.array([a[1] - b[1], b[0] - a[0]]) / max(float(np.linalg.norm(b - a)), 1e-9)
    sway = sum(
        rng.normal() / k * np.sin(2 * np.pi * k * t * rng.uniform(0.5, 0.9) + rng.uniform(0, 6.28)) for k in (1, 2, 3)
    )
    points: Points = a + (b - a) * t + normal * (bend * sway)
    return points


def arc(x: float, y: float, radius: float, start: float, stop: float, steps: int = 32) -> Points:
    """Points on a circle from angle ``start`` to ``stop`` in radians."""
    t = np.linspace(start, stop, steps)
    return np.stack([x + radius * np.cos(t), y + radius * np.sin(t)], axis=1)


def band(path: Points, width: float) -> Points:
    """The outline of a path drawn ``width`` wide."""
    along = np.gradient(path, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    return np.concatenate([path + normal * width / 2, (path - normal * width / 2)[::-1]])


def turned(points: Points, angle: float) -> Points:
    """Rotate points around the origin by ``angle`` radians."""
    c, s = np.cos(angle), np.sin(angle)
    rotated: Points = points @ np.array([[c, s], [-s, c]])
    return rotated


def moved(points: Points, x: float, y: float) -> Points:
    """Shift points by ``(x, y)``."""
    shifted: Points = points + np.array([x, y])
    return shifted


def inside(points: Points, x: float, y: float) -> bool:
    """Whether ``(x, y)`` lies inside the polygon ``points`` (ray casting)."""
    a, b = points, np.concatenate([points[1:], points[:1]])
    crosses = (a[:, 1] > y) != (b[:, 1] > y)
    rise = np.where(a[:, 1] == b[:, 1], 1e-12, b[:, 1] - a[:, 1])
    left = x < a[:, 0] + np.array([y - a[:, 1]]) * (b[:, 0] - a[:, 0]) / rise
    return bool(np.count_nonzero(crosses & left) % 2)


def scattered(
    rng: np.random.Generator, count: int, gap: float, reach: float = 1.2, tries: int = 12
) -> Iterator[tuple[float, float]]:
    """Up to ``count`` random places at least ``gap`` apart in [-reach, reach]^2."""
    taken: list[tuple[float, float]] = []
    for _ in range(count * tries):
        if len(taken) == count:
            return
        x, y = (float(value) for value in rng.uniform(-reach, reach, 2))
        if all((x - a) ** 2 + (y - b) ** 2 >= gap * gap for a, b in taken):
            taken.append((x, y))
            yield x, y
