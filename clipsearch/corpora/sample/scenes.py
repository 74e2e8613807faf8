"""The table of scene classes: label -> prompt words and the function that draws it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clipsearch.corpora.sample import scenes_built, scenes_leisure, scenes_nature, scenes_transport
from clipsearch.corpora.sample.grammar import Facts, captions
from clipsearch.corpora.sample.pen import Pen


@dataclass(frozen=True, slots=True)
class SceneClass:
    """A class of scenes: its label, its words in a prompt, and what draws one."""

    label: str
    words: str
    draw: Callable[[Pen], Facts]


CLASSES = (
    SceneClass("airport", "airport", scenes_transport.airport),
    SceneClass("beach", "beach", scenes_nature.beach),
    SceneClass("bridge", "bridge", scenes_transport.bridge),
    SceneClass("church", "church", scenes_built.church),
    SceneClass("denseresidential", "dense residential area", scenes_built.dense_residential),
    SceneClass("desert", "desert", scenes_nature.desert),
    SceneClass("farmland", "farmland", scenes_nature.farmland),
    SceneClass("forest", "forest", scenes_nature.forest),
    SceneClass("golfcourse", "golf course", scenes_leisure.golf_course),
    SceneClass("harbour", "harbour", scenes_transport.harbour),
    SceneClass("industrial", "industrial area", scenes_built.industrial),
    SceneClass("interchange", "highway interchange", scenes_transport.interchange),
    SceneClass("mountain", "mountain", scenes_nature.mountain),
    SceneClass("parkinglot", "parking lot", scenes_transport.parking_lot),
    SceneClass("playground", "playground", scenes_leisure.playground),
    SceneClass("pond", "pond", scenes_nature.pond),
    SceneClass("railwaystation", "railway station", scenes_transport.railway_station),
    SceneClass("river", "river", scenes_nature.river_scene),
    SceneClass("roundabout", "roundabout", scenes_transport.roundabout),
    SceneClass("solarfarm", "solar farm", scenes_built.solar_farm),
    SceneClass("sparseresidential", "sparse residential area", scenes_built.sparse_residential),
    SceneClass("stadium", "stadium", scenes_built.stadium),
    SceneClass("storagetanks", "storage tanks", scenes_built.storage_tanks),
    SceneClass("tenniscourts", "tennis courts", scenes_leisure.tennis_courts),
)


def draw_scene(index: int, size: int, seed: int) -> tuple[Image.Image, list[str], str]:
    """Draw image ``index`` of the corpus with ``seed``: the picture (``size`` px square), captions and label.

    Classes take turns, and each image has its own random stream: the same arguments always give the same
    pixels.
    """
    scene = CLASSES[index % len(CLASSES)]
    rng = np.random.default_rng([seed, index])
    pen = Pen(rng, size)
    facts = scene.draw(pen)
    return pen.finish(), captions(facts, rng), scene.label


def split_of(index: int) -> str:
    """The split of image ``index``: of each ten images of a class one is for validation and one for
    testing."""
    return {8: "validation", 9: "test"}.get(index // len(CLASSES) % 10, "train")
