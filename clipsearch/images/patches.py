"""Where the patches of an image lie: a grid, or windows that slide over it, so that a search finds small things.

``3x3`` is a grid of three rows and three columns, each cell embedded as an image of its own; ``3x3+0.5`` lets
neighbours share half of their length. ``224/112`` are square windows of 224 px, one every 112 px, whose number grows
with the image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipsearch.errors import ImageError, InputError

MOST = 256  # patches of one image
Boxes = NDArray[np.int32]
_GRID = re.compile(r"(\d{1,3})x(\d{1,3})(?:\+(0?\.\d+|0))?")
_WINDOWS = re.compile(r"(\d{1,5})/(\d{1,5})")


@dataclass(frozen=True, slots=True)
class PatchPlan:
    """A grid of ``rows`` x ``columns`` with ``overlap`` in [0, 1), or windows of ``window`` px every ``step`` px.

    ``str()`` is what ``parse_patches`` reads; the empty plan has no patches.
    """

    rows: int = 0
    columns: int = 0
    overlap: float = 0.0
    window: int = 0
    step: int = 0

    def __bool__(self) -> bool:
        return bool(self.rows or self.window)

    def __str__(self) -> str:
        if self.window:
            return f"{self.window}/{self.step}"
        share = f"+{self.overlap:g}" if self.overlap else ""
        return f"{self.rows}x{self.columns}{share}" if self.rows else ""

    @property
    def usual(self) -> int:
        """Patches of one image: exact for a grid, a guess for windows."""
        return self.rows * self.columns or (16 if self.window else 0)

    def boxes(self, width: int, height: int) -> Boxes:
        """(P, 4) int32: left, top, right, bottom of each patch in px, row by row, none empty, all within the image.

        Raises ``ImageError`` when windows of this size would be more than ``MOST``.
        """
        if self.window:
            across, down = self._windows(width), self._windows(height)
        else:
            across, down = _cells(width, self.columns, self.overlap), _cells(height, self.rows, self.overlap)
        if len(across) * len(down) > MOST:
            raise ImageError(
                f"the picture of {width} x {height} px has {len(across) * len(down)} windows of {self.window} px every "
                f"{self.step} px; the limit is {MOST}: choose larger windows or steps (--patches)"
            )
        found = [(left, top, right, bottom) for top, bottom in down for left, right in across]
        return np.array(found, np.int32).reshape(-1, 4)

    def _windows(self, length: int) -> list[tuple[int, int]]:
        """Starts every ``step`` px, the last one flush with the end, so that nothing stays unseen."""
        if length <= self.window:
            return [(0, length)]
        starts = [*range(0, length - self.window, self.step), length - self.window]
        return [(start, start + self.window) for start in starts]


def _cells(length: int, count: int, overlap: float) -> list[tuple[int, int]]:
    size = length / (count - (count - 1) * overlap)
    cells = []
    for number in range(count):
        start = min(round(number * size * (1 - overlap)), length - 1)
        cells.append((start, max(min(round(number * size * (1 - overlap) + size), length), start + 1)))
    return cells


def parse_patches(text: str) -> PatchPlan:
    """``"3x3"``, ``"3x3+0.5"``, ``"224/112"`` or ``""`` (none). ``InputError`` says what can be given."""
    text = text.strip().lower()
    if not text:
        return PatchPlan()
    grid, windows = _GRID.fullmatch(text), _WINDOWS.fullmatch(text)
    if grid:
        plan = PatchPlan(rows=int(grid[1]), columns=int(grid[2]), overlap=float(grid[3] or 0))
        good = 1 <= plan.rows * plan.columns <= MOST
    elif windows:
        plan = PatchPlan(window=int(windows[1]), step=int(windows[2]))
        good = plan.window >= 8 and 1 <= plan.step <= plan.window
    else:
        plan, good = PatchPlan(), False
    if not good:
        raise InputError(
            f"--patches {text!r}: give a grid such as 3x3 (at most {MOST} cells), 3x3+0.5 for cells that share half of "
            "their length, or 224/112 for windows of 224 px (8 or more) every 112 px (no more than the window)"
        )
    return plan
