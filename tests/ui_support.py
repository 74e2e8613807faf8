"""What the browser tests stand on: a corpus with its truth, the engine and the page over it, as real processes.

In ``make test`` the corpus is the built-in sample, drawn and learned in seconds; under ``make soak`` it is all of
RSICD, with the model that CLIPSEARCH_RSICD_MODEL names or one trained here (minutes), and with the shards of
CLIPSEARCH_RSICD_SHARDS, encoded by that model with parts of images, or shards made here.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import engine_process
from PIL import Image

from clipsearch.appwriter import write_application
from clipsearch.corpora import open_corpus
from clipsearch.generations.filling import coverage, fill, from_rows
from clipsearch.generations.package import read_application, read_files
from clipsearch.records import Generation, Record
from clipsearch.search.endpoint import Endpoint
from clipsearch.search.query import SIZES
from clipsearch.shards import open_shards
from feeders.shards import feed_shards

ROOT = Path(__file__).resolve().parent.parent
DIM = 512
COPIES = 8  # images of the sample that are there again, larger and saved again
PLACES = {"lat": (50.0, 51.0), "lon": (4.0, 6.0)}


@dataclass
class World:
    """A corpus in an index: its truth, its models (checkpoint folders), and the processes that serve it."""

    home: Path
    records: tuple[Record, ...]
    models: tuple[Path, ...]
    roots: Mapping[str, Path]
    copies: Mapping[str, str]  # document id of a near-duplicate -> that of its original
    located: Mapping[str, tuple[float, float]]  # document id -> latitude, longitude
    judgments: Path
    engine: engine_process.Running
    url: str = ""
    shards: tuple[Path, ...] = ()  # what was fed: embeddings, and those of parts, by the first model
    sizes: Mapping[str, int] = field(default_factory=dict)  # documents by the name of their size

    @property
    def by_id(self) -> dict[str, Record]:
        """The records by document id."""
        return {record.id: record for record in self.records}

    def count(self, name: str, **fixed: str) -> dict[str, int]:
        """Documents for each value of the field ``name``, among those whose fields are as ``fixed`` says."""
        chosen = [r for r in self.records if all(getattr(r, key) == value for key, value in fixed.items())]
        return dict(Counter(value for record in chosen if (value := getattr(record, name))))

    def caption(self, seed: int = 0) -> str:
        """Some caption of the corpus, of four words at least."""
        captions = [c for record in self.records for c in record.captions if len(c.split()) > 3]
        return random.Random(seed).choice(captions)

    def picture(self, record: Record, path: Path) -> Path:
        """The record's image file, as the page gives it, written to ``path``."""
        with urllib.request.urlopen(f"{self.url}/image/{record.corpus}/{record.key}", timeout=20) as answer:
            path.write_bytes(answer.read())
        return path

    def stop_engine(self) -> None:
        """End the engine's process: from now on its port refuses."""
        self.engine.process.kill()
        self.engine.process.wait(20)

    def end(self) -> None:
        """End the engine that runs now."""
        self.engine.stop()

    def start_engine(self) -> None:
        """Start the engine again, on the same data and ports."""
        self.engine = engine_process.start(self.home / "data", self.engine.port, self.engine.deploy_port)

    def get(self, path: str) -> Any:
        """The parsed JSON of the page's server at ``path``."""
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return json.load(answer)


@dataclass(frozen=True)
class _Plan:
    """What a world is made of, before it is served."""

    corpora: tuple[tuple[str, Path], ...]
    models: tuple[Path, ...]
    shards: tuple[Path, ...]
    further: tuple[Path, ...] = ()  # shards of the second model
    copies: Mapping[str, str] = field(default_factory=dict)


def soak() -> bool:
    """Whether the long form runs."""
    return bool(os.environ.get("CLIPSEARCH_SOAK"))


@contextmanager
def open_world(home: Path, free_port: Callable[[], int], shared: Path | None) -> Iterator[World]:
    """The sample corpus, or RSICD below ``shared``, fed and served until the end."""
    plan = _rsicd(home, shared) if shared else _sample(home)
    app = read_application(read_files(ROOT / "vespa_app"))
    if plan.further:
        app = app.adding(DIM, _model_id(plan.models[1]))
    write_application(app, home / "app")
    with ExitStack() as stack:
        records = tuple(r for name, path in plan.corpora for r in _records(path, name))
        engine = engine_process.start(home / "data", free_port(), free_port(), "--app", str(home / "app"))
        judgments = home / "judgments.jsonl"
        roots = dict(plan.corpora)
        world = World(home, records, plan.models, roots, plan.copies, {}, judgments, engine, shards=plan.shards)
        world.sizes = _sizes(plan.shards)
        stack.callback(world.end)
        for shards in plan.shards:
            assert feed_shards(shards, engine.url, progress=False).complete
        if plan.further:
            _add_model(engine.url, plan.further, _model_id(plan.models[1]), home)
        world.located = locate(world)
        options = [part for model in plan.models for part in ("--model", str(model))]
        options += [part for name, path in plan.corpora for part in ("--corpus-root", f"{name}={path}")]
        world.url = stack.enter_context(running_ui(engine.url, free_port(), *options, "--judgments", str(judgments)))
        yield world


@contextmanager
def running_ui(engine_url: str, port: int, *options: str, program: Sequence[str] = ()) -> Iterator[str]:
    """``clipsearch ui`` (or another ``program`` with its arguments) as a process; yields its address."""
    command = [*(program or ("-m", "clipsearch", "ui", "--url", engine_url, "--port", str(port))), *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-u", *command], env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as ui:
        assert ui.stdout is not None
        line = ui.stdout.readline()
        assert f"http://127.0.0.1:{port}/" in line, line
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            ui.terminate()
            code = ui.wait(20)
        assert code == 0


def locate(world: World) -> dict[str, tuple[float, float]]:
    """Give every third document coordinates, by partial updates; where they lie follows from their number."""
    generator = random.Random(7)
    chosen = world.records[: 3 * 60 : 3]
    places = {}
    for record in chosen:
        where = generator.uniform(*PLACES["lat"]), generator.uniform(*PLACES["lon"])
        fields = {"latitude": {"assign": where[0]}, "longitude": {"assign": where[1]}}
        path = f"/document/v1/{record.corpus}/image/docid/{record.key}"
        request = urllib.request.Request(
            world.engine.url + path, json.dumps({"fields": fields}).encode(), method="PUT",
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        with suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=20):
            places[record.id] = where
    return places


def _sizes(folders: Sequence[Path]) -> dict[str, int]:
    widths = [row.width for folder in folders for row in open_shards(folder)]
    return dict(Counter(name for name, (low, high) in SIZES.items() for width in widths if low <= width <= high))


def _add_model(url: str, folders: Sequence[Path], model_id: str, work: Path) -> None:
    """The second model's embeddings, into the second generation."""
    generation = Generation(2)
    for folder in folders:
        rows = list(open_shards(folder))
        endpoint = Endpoint(url)
        missing = coverage(endpoint, generation, model_id)
        endpoint.close()
        assert fill(from_rows(rows, generation, missing), url, work, len(rows), progress=False).complete


def _model_id(folder: Path) -> str:
    from clipsearch.clip import checkpoint_info

    return checkpoint_info(folder)[0]


def _records(path: Path, name: str) -> list[Record]:
    with open_corpus(path) as corpus:
        return [replace(record, corpus=name) for record in corpus.records]


def _sample(home: Path) -> _Plan:
    """120 drawn images, eight of them again at another size as a corpus of its own, and two small models."""
    import torch

    from clipsearch.corpora.sample import write_sample
    from clipsearch.training import finetune, tiny_options

    corpus, again = home / "sample", home / "again"
    write_sample(corpus, images=120, size=96, processes=1, progress=False)
    _split(corpus / "captions.jsonl")
    copies = _copies(corpus, again)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    models = home / "model-a", home / "model-b"
    for seed, model in enumerate(models):
        options = tiny_options(
            epochs=6 - 4 * seed,
            batch_size=32,
            image_size=32,
            augment="none",
            device="cpu",
            learning_rate=2e-3,
            seed=seed,
        )
        with open_corpus(corpus) as opened:
            finetune(opened, model, options, command="the browser tests", quiet=True)
    shards = [_encode(path, models[0], home / f"shards-{path.name}", path.name, "2x2") for path in (corpus, again)]
    further = [_encode(path, models[1], home / f"further-{path.name}", path.name) for path in (corpus, again)]
    torch.set_num_threads(threads)
    return _Plan((("sample", corpus), ("again", again)), models, tuple(shards), tuple(further), copies)


def _split(table: Path) -> None:
    """Give a small corpus all three splits."""
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["split"] = {0: "test", 1: "validation"}.get(number % 5, "train")
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _copies(corpus: Path, again: Path) -> dict[str, str]:
    (again / "images").mkdir(parents=True)
    rows = [json.loads(line) for line in (corpus / "captions.jsonl").read_text().splitlines()][:COPIES]
    for row in rows:
        Image.open(corpus / row["file"]).resize((640, 640)).save(again / row["file"], quality=85)
    (again / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    originals, others = (sorted(_records(path, path.name), key=lambda r: r.uri) for path in (corpus, again))
    by_uri = {record.uri: record.id for record in originals}
    return {record.id: by_uri[record.uri] for record in others}


def _encode(corpus: Path, model: Path, out: Path, name: str, patches: str = "") -> Path:
    from clipsearch.encoding import Encoder, encode_corpus

    encode_corpus(corpus, model, out, name=name, encoder=Encoder("cpu"), patches=patches, progress=False)
    return out


def _rsicd(home: Path, shared: Path) -> _Plan:
    corpus = shared / "data" / "rsicd"
    model, shards = (os.environ.get(f"CLIPSEARCH_RSICD_{name}", "") for name in ("MODEL", "SHARDS"))
    if not model:
        model = str(home / "model")
        command = ["finetune", str(corpus), "--preset", "tiny", "--max-minutes", "11", "--out", model]
        subprocess.run([sys.executable, "-m", "clipsearch", *command], check=True, cwd=ROOT)
    folder = Path(shards) if shards else _encode(corpus, Path(model), home / "shards", "rsicd", "3x3")
    return _Plan((("rsicd", corpus),), (Path(model),), (folder,))
