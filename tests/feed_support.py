"""What the tests of ``clipsearch feed`` share: a corpus, a model without torch, an engine of its size."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from small_index import Running, running_engine

from clipsearch.appwriter import EmbeddingField, write_app
from clipsearch.cli import cli
from clipsearch.search.endpoint import Endpoint
from feeders.images import Source

SIDE = 4
DIM = SIDE * SIDE * 3


class PixelModel:
    """Embeds a picture as its own pixels at 4 x 4; ``embedded`` counts pictures over all models of the test."""

    dim = DIM
    embedded = 0

    def __init__(self, model_id: str = "pixels-1") -> None:
        self.model_id = model_id

    def preprocess(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(Image.fromarray(image).resize((SIDE, SIDE)))

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        PixelModel.embedded += len(pixels)
        flat = pixels.reshape(len(pixels), -1).astype(np.float32) + 1
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@pytest.fixture
def pixels(monkeypatch: pytest.MonkeyPatch) -> type[PixelModel]:
    """``--model NAME`` means a ``PixelModel`` of that name."""
    monkeypatch.setattr(Source, "load", lambda source, corpus: PixelModel(source.model))
    monkeypatch.setattr(Source, "model_id", lambda source: source.model)
    PixelModel.embedded = 0
    return PixelModel


@contextmanager
def engine_of(folder: Path, free_port: Callable[[], int], dim: int = DIM) -> Iterator[Running]:
    """An engine whose embeddings have ``dim`` cells."""
    write_app([EmbeddingField("embedding", dim)], folder / "app")
    with running_engine(folder / "data", free_port, folder / "app") as running:
        yield running


def picture(path: Path, seed: int) -> None:
    """A small picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_corpus(root: Path, count: int = 12) -> Path:
    """``count`` pictures in the JSONL layout; ``rewrite`` changes what is said of them."""
    shutil.rmtree(root, ignore_errors=True)
    (root / "images").mkdir(parents=True)
    for number in range(count):
        picture(root / "images" / f"{number}.png", number)
    rewrite(root, {f"images/{number}.png": {} for number in range(count)})
    return root


def rewrite(root: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Write ``captions.jsonl``: one row a file, with what differs from the usual."""
    usual = {"captions": ["a river and a bridge", "water"], "split": "test", "label": "river"}
    lines = [json.dumps({"file": file, **usual, **row}) for file, row in rows.items()]
    (root / "captions.jsonl").write_text("\n".join(lines) + "\n")


def feed(*arguments: Any, stdin: str | bytes | None = None) -> Result:
    """``clipsearch feed ARGUMENTS`` in this process."""
    return CliRunner().invoke(cli, ["feed", *map(str, arguments)], input=stdin)


def fed(*arguments: Any, code: int = 0, stdin: str | bytes | None = None) -> dict[str, Any]:
    """The JSON summary of ``clipsearch feed ARGUMENTS --json``, which must end with ``code``."""
    done = feed(*arguments, "--json", stdin=stdin)
    assert done.exit_code == code, (done.output, done.exception)
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def index(url: str, corpus: str) -> dict[str, dict[str, Any]]:
    """Every document of a corpus, by key."""
    endpoint = Endpoint(url)
    try:
        return {str(one["id"]).split("::", 1)[1]: one["fields"] for one in endpoint.visit(corpus)}
    finally:
        endpoint.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[str]:
    with engine_of(tmp_path_factory.mktemp("engine"), free_port) as running:
        yield running.url


@pytest.fixture
def at(url: str, tmp_path: Path) -> list[Any]:
    """The options that every command here takes."""
    return ["--url", url, "--work", tmp_path / "work", "--model", "pixels-1"]
