"""The pen that draws a scene from above: textured ground first, then raised things with their shadows.

The picture is drawn at twice its size with Pillow and reduced at the end, which gives smooth edges. World
coordinates show about [-1, 1] x [-1, 1], turned and zoomed differently for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from clipsearch.corpora.sample.shapes import Points, ellipse, rectangle, turned
from clipsearch.corpora.sample.texture import Colour, Material, Textures, jitter, pick_season, shade

SUPERSAMPLING = 2


class Pen:
    """Draws one image of ``size`` px; every random choice comes from ``rng``."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.size = size
        self.n = size * SUPERSAMPLING
        self.angle = float(rng.uniform(0, 2 * np.pi))
        self.zoom = float(rng.uniform(0.85, 1.2))
        self.season = pick_season(rng)
        self.textures = Textures(rng, self.n)
        turn = rng.uniform(0, 2 * np.pi)
        self.sun = np.array([np.cos(turn), np.sin(turn)]) * rng.uniform(0.5, 1.1)
        self.image = self.textures.render(self.season.grass, (0, 0, self.n, self.n))
        self._draw = ImageDraw.Draw(self.image)
        self._shadow = Image.new("L", (self.n, self.n), 0)
        self._shadow_draw = ImageDraw.Draw(self._shadow)
        self._raised: list[Callable[[], None]] = []

    # --- ground
    # -------------------------------------------------------------------------------------------------

    def fill(self, material: Material) -> None:
        """Cover the whole ground."""
        self.image.paste(self.textures.render(material, (0, 0, self.n, self.n)))

    def paste(self, pixels: NDArray[np.floating[Any]]) -> None:
        """Cover the whole ground with ``(n, n, 3)`` values from 0 to 255."""
        self.image.paste(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))

    def area(self, points: Points, material: Material) -> None:
        """Fill an outline with a textured surface."""
        mask = Image.new("L", (self.n, self.n), 0)
        ImageDraw.Draw(mask).polygon(_flat(self._px(points)), fill=255)
        box = mask.getbbox()
        if box is not None:
            self.image.paste(self.textures.render(material, box), box, mask.crop(box))

    def flat(self, points: Points, colour: Colour) -> None:
        """Fill an outline with one colour."""
        self._draw.polygon(_flat(self._px(points)), fill=colour)

    def outline(self, points: Points, width: float, colour: Colour) -> None:
        """Draw a closed line ``width`` world units wide."""
        self.stroke(np.concatenate([points, points[:2]]), width, colour)

    def stroke(self, path: Points, width: float, colour: Colour) -> None:
        """Draw a line along ``path``, ``width`` world units wide."""
        width_px = max(1, round(self._length(width)))
        self._draw.line(_flat(self._px(path)), fill=colour, width=width_px, joint="curve")

    def dashes(self, path: Points, width: float, colour: Colour, every: int = 2) -> None:
        """Draw every other piece of a line."""
        for start in range(0, len(path) - 1, every):
            self.stroke(path[start : start + 2], width, colour)

    def road(self, path: Points, width: float, colour: Colour | None = None, marks: bool = True) -> None:
        """Draw a paved road with edges and a broken centre line."""
        base = colour or jitter(self.rng, (128, 126, 124), 12)
        self.stroke(path, width * 1.2, shade(base, 1.18))
        self.stroke(path, width, base)
        if marks and width > 0.04:
            self.dashes(path, width * 0.08, shade(base, 1.55))

    # --- raised things
    # ------------------------------------------------------------------------------------------

    def raised(self, outline: Points, height: float, draw: Callable[[], None]) -> None:
        """Add a thing of ``height`` world units: its shadow falls on the ground, and ``draw`` runs on top
        of it."""
        for step in np.linspace(0.0, 1.0, 3 if height < 0.1 else 5):
            shifted = self._px(outline) + self.sun * (height * step * self.n / 2 * self.zoom)
            self._shadow_draw.polygon(_flat(shifted), fill=255)
        self._raised.append(draw)

    def block(
        self, x: float, y: float, width: float, depth: float, *,
        angle: float = 0.0, height: float = 0.08, colour: Colour, roof: str = "flat",
    ) -> None:  # fmt: skip
        """Add a building: roof ``flat`` (with a parapet and vents), ``gable`` (two slopes) or ``hip``
        (four)."""
        base = rectangle(x, y, width, depth, angle)
        colour = jitter(self.rng, colour, 5)
        vents = self.rng.uniform(-0.32, 0.32, (3, 2)) if roof == "flat" else None

        def draw() -> None:
            if roof == "flat":
                self.flat(base, shade(colour, 0.8))
                self.flat(rectangle(x, y, width * 0.9, depth * 0.9, angle), colour)
                for dx, dy in turned(np.asarray(vents) * (width, depth), angle):
                    vent = rectangle(x + dx, y + dy, width * 0.1, depth * 0.1, angle)
                    self.flat(vent, shade(colour, 0.72))
            else:
                self._slopes(base, colour, hip=roof == "hip")

        self.raised(base, height, draw)

    def disc(self, x: float, y: float, radius: float, *, height: float, colour: Colour) -> None:
        """Add a round thing with a lit and a dark side: a tank or a dome."""
        outline = ellipse(x, y, radius, radius, steps=28)

        def draw() -> None:
            self.flat(outline, shade(colour, 0.72))
            away = turned(-self.sun[None, :], -self.angle)[0] * radius * 0.14
            self.flat(ellipse(x + away[0], y + away[1], radius * 0.86, radius * 0.86, steps=28), colour)
            self.flat(ellipse(x, y, radius * 0.14, radius * 0.14, steps=8), shade(colour, 0.8))

        self.raised(outline, height, draw)

    def tree(self, x: float, y: float, radius: float, colour: Colour | None = None) -> None:
        """Add a tree: a round crown with a lit side."""
        trees = self.season.trees
        colour = jitter(self.rng, colour or trees[self.rng.integers(len(trees))], 7)
        centre = self._px(np.array([[x, y]]))[0]
        r = max(1.5, self._length(radius))
        self._ellipse(self._shadow_draw, centre + self.sun * r * 0.7, r, 255)

        def draw() -> None:
            self._ellipse(self._draw, centre, r, shade(colour, 0.78))
            self._ellipse(self._draw, centre - self.sun * r * 0.25, r * 0.68, shade(colour, 1.08))
            self._ellipse(self._draw, centre - self.sun * r * 0.4, r * 0.32, shade(colour, 1.3))

        self._raised.append(draw)

    def car(self, x: float, y: float, angle: float, length: float = 0.05) -> None:
        """Add a car in a random paint."""
        paints: Sequence[Colour] = ((225, 225, 225), (60, 62, 66), (160, 164, 168), (150, 52, 46), (52, 76, 122))
        paint = jitter(self.rng, paints[int(self.rng.integers(len(paints)))], 8)
        body = rectangle(x, y, length, length * 0.48, angle)

        def draw() -> None:
            self.flat(body, paint)
            self.flat(rectangle(x, y, length * 0.45, length * 0.38, angle), shade(paint, 0.55))

        self.raised(body, length * 0.3, draw)

    # --- the end
    # ------------------------------------------------------------------------------------------------

    def finish(self) -> Image.Image:
        """Cast the shadows, draw the raised things, and develop the picture: haze, tint, blur, sensor
        noise."""
        shadow = self._shadow.filter(ImageFilter.GaussianBlur(0.8)).point([round(v * 0.52) for v in range(256)])
        dark = ImageChops.multiply(self.image, Image.new("RGB", self.image.size, (70, 76, 96)))
        self.image.paste(dark, (0, 0), shadow)
        for draw in self._raised:
            draw()
        small = self.image.reduce(SUPERSAMPLING)
        pixels: NDArray[np.floating[Any]] = np.asarray(small, dtype=np.float32)
        rng = self.rng
        gain = rng.uniform(0.86, 1.14) * (1 + rng.normal(0, 0.025, 3))
        haze = rng.uniform(0, 0.16)
        pixels = pixels * gain * (1 - haze) + haze * np.array([186, 194, 204])
        grain = rng.standard_normal((*pixels.shape[:2], 1), dtype=np.float32) * rng.uniform(1.0, 3.5)
        return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))

    # --- inside
    # -------------------------------------------------------------------------------------------------

    def _slopes(self, base: Points, colour: Colour, *, hip: bool) -> None:
        a, b, c, d = base
        if np.linalg.norm(b - a) < np.linalg.norm(d - a):
            a, b, c, d = b, c, d, a
        left, right = (a + d) / 2, (b + c) / 2
        if hip:
            inset = (right - left) * 0.25
            left, right = left + inset, right - inset
        faces = [(a, b, right, left), (d, c, right, left), (a, d, left), (b, c, right)]
        centre = base.mean(axis=0)
        for face in faces:
            corners = np.array(face)
            facing = turned((corners[:2].mean(axis=0) - centre)[None, :], self.angle)[0]
            lit = -float(facing @ self.sun) / max(float(np.linalg.norm(facing)), 1e-9)
            self.flat(corners, shade(colour, 1.0 + 0.22 * lit))

    def _px(self, points: Points) -> Points:
        return turned(points, self.angle) * (self.zoom * self.n / 2) + self.n / 2

    def _length(self, world: float) -> float:
        return world * self.zoom * self.n / 2

    @staticmethod
    def _ellipse(draw: ImageDraw.ImageDraw, centre: Points, r: float, fill: Colour | int) -> None:
        x, y = float(centre[0]), float(centre[1])
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _flat(points: Points) -> list[float]:
    flat: list[float] = points.ravel().tolist()  # x0, y0, x1, ...: what Pillow takes fastest
    return flat
