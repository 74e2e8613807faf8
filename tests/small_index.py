"""A dozen drawn images as embedding shards, a model that knows colours only, and an engine run as users run it."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from small_corpus import COLOURS, PLACES, draw

from clipsearch.errors import ServiceError
from clipsearch.records import Embedded, Record
from clipsearch.search import SearchClient
from clipsearch.shards import Manifest, ShardWriter, write_manifest

ROOT = Path(__file__).resolve().parent.parent
DIM = 512
NAMES = [f"{colour}_{place}.png" for colour in COLOURS for place in PLACES[:3]]


class ColourModel:
    """Embeds an image as the colours of its four edges, and a text as the picture that it describes."""

    model_id, dim = "colours-1", DIM

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(N, 512) float32 of unit norm."""
        return np.stack([self._embed(image) for image in images])

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, 512) float32 of unit norm."""
        return np.stack([self._embed(np.asarray(self._picture(text))) for text in texts])

    def _embed(self, image: np.ndarray) -> np.ndarray:
        half = len(image) // 2
        edges = [image[:, :half], image[:, half:], image[:half], image[half:]]
        vector = np.zeros(DIM, dtype=np.float32)
        vector[:12] = np.concatenate([edge.mean(axis=(0, 1)) for edge in edges]) - 115  # the grey of small_corpus
        return vector / np.linalg.norm(vector)

    def _picture(self, text: str) -> object:
        words = text.lower().split()
        colour = next((word for word in words if word in COLOURS), "red")
        return draw(colour, next((word for word in words if word in PLACES), "left"), 0)


def write_shards(folder: Path, dim: int = DIM) -> Path:
    """Shards as ``clipsearch encode`` leaves them; with another ``dim``, the embeddings are cut to it."""
    folder.mkdir(parents=True)
    model = ColourModel()
    with ShardWriter(folder, dim) as writer:
        for number, name in enumerate(NAMES):
            colour, place = name.removesuffix(".png").split("_")
            image = draw(colour, place, number)
            vector = model.embed_images([np.asarray(image)])[0][:dim]
            jpeg = io.BytesIO()
            image.save(jpeg, "JPEG")
            record = Record("blocks", name, f"images/{name}", (f"a {colour} block at the {place}",), "test", colour)
            row = Embedded(record, vector, jpeg.getvalue(), 40, 40, f"{number:064x}", model.model_id)
            writer.add(row)
    write_manifest(folder, Manifest("blocks", model.model_id, dim, len(NAMES), complete=True))
    return folder


@dataclass(frozen=True)
class Running:
    """A running engine: its ports and data folder."""

    port: int
    deploy_port: int
    data: Path

    @property
    def url(self) -> str:
        """Where it answers queries and takes documents."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running_engine(data: Path, free_port: Callable[[], int], app: Path = ROOT / "vespa_app") -> Iterator[Running]:
    """``clipsearch engine`` in a process of its own, ended at the end."""
    engine = Running(free_port(), free_port(), data)
    options = ["--data", data, "--app", app, "--port", engine.port, "--deploy-port", engine.deploy_port]
    process = subprocess.Popen([sys.executable, "-m", "clipsearch", "engine", *map(str, options)])
    try:
        with SearchClient(engine.url) as client:
            _wait_for(client, process)
        yield engine
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(client: SearchClient, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            return client.check()
        except ServiceError:
            assert process.poll() is None, "the engine ended"
            time.sleep(0.05)
    raise AssertionError("the engine did not start within 30 s")
