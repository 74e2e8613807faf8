"""The whole path on one corpus: draw or read it, train, encode, start the engine, feed, query, serve the page.

Every step is the command that a user would type, run as a child process, so the demo can do nothing that the
command line cannot. Each step leaves its result in ``.demo/<corpus>/`` and is skipped when that result is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from clipsearch.errors import InputError, ServiceError, UnreachableError
from clipsearch.serving import check_port

QUERIES = {
    "sample": (
        "many storage tanks near a river",
        "white planes parked beside a terminal",
        "tennis courts and trees",
    ),
    "rsicd": ("storage tanks", "a river with a bridge", "many planes are parked next to a terminal"),
}
SCORES = {
    **{f"hits@{k}": f"hits@{k}" for k in (1, 3, 5, 10)},
    "text_to_image_mrr@10": "MRR@10 text to image",
    "image_to_text_mrr@10": "image to text",
}
PROFILES = ("lexical", "vector", "hybrid")
PATCHES = {"sample": "2x2"}
"""Parts of each image that are embedded too, so that the page can search for what is somewhere in an image."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What ``clipsearch demo`` takes. ``corpus``: "sample" or a folder; ``minutes`` bounds training."""

    corpus: str = "sample"
    home: Path = Path(".demo")
    app: Path = Path("vespa_app")
    engine_port: int = 8080
    deploy_port: int = 19071
    ui_port: int = 8000
    minutes: float | None = None
    serve: bool = True


@dataclass
class Demo:
    """One run: where things lie, which children run, how long each step took (s)."""

    options: DemoOptions
    folder: Path = field(init=False)
    children: list[subprocess.Popen[Any]] = field(default_factory=list)
    times: list[tuple[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Give each corpus its own folder: two corpora of one name differ in their path's hash."""
        name = self.options.corpus
        if name != "sample":
            path = Path(name).resolve()
            name = f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"
        self.folder = self.options.home / name

    @property
    def url(self) -> str:
        """The engine's query and document endpoint."""
        return f"http://127.0.0.1:{self.options.engine_port}"

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step and keep its wall time."""
        print(f"\n== {title}", flush=True)
        start = time.monotonic()
        yield
        self.times.append((title, time.monotonic() - start))

    def command(self, *arguments: object) -> None:
        """Run one clipsearch command to its end; ``InputError`` when it fails (it has said why itself)."""
        if code := self.attempt(*arguments):
            raise InputError(f"the demo stopped: 'clipsearch {arguments[0]}' ended with exit code {code}")

    def attempt(self, *arguments: object) -> int:
        """Run one clipsearch command to its end; its exit code."""
        words = [str(argument) for argument in arguments]
        print("$ clipsearch " + " ".join(words), flush=True)
        child = subprocess.Popen([sys.executable, "-m", "clipsearch", *words])
        self.children.append(child)
        code = child.wait()
        self.children.remove(child)
        return code

    def service(self, health: str, *arguments: object) -> None:
        """Start a command that stays, with its output in a log file, and wait until ``health`` answers."""
        words = [str(argument) for argument in arguments]
        print("$ clipsearch " + " ".join(words) + " &", flush=True)
        log = self.folder / f"{words[0]}.log"
        with log.open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "clipsearch", *words], stdout=output, stderr=subprocess.STDOUT
            )
        self.children.append(child)
        deadline = time.monotonic() + 120
        while not _healthy(health):
            if child.poll() is not None:
                raise ServiceError(f"'clipsearch {words[0]}' ended: {log.read_text(errors='replace')[-2000:].strip()}")
            if time.monotonic() > deadline:
                raise UnreachableError(f"'clipsearch {words[0]}' does not answer at {health}; its log is {log}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop everything that this run started: politely, then by force after 10 s."""
        for child in self.children:
            if child.poll() is None:
                child.terminate()
        for child in reversed(self.children):
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def run_demo(options: DemoOptions) -> None:
    """Run the whole path; returns after the queries with ``serve=False``, else when the user presses Ctrl-C.

    Raises ``InputError`` or ``ServiceError`` with the reason; whatever was started is stopped either way.
    """
    ports = [(options.engine_port, "ENGINE_PORT=..."), (options.deploy_port, "DEPLOY_PORT=...")]
    if options.serve:
        ports.append((options.ui_port, "UI_PORT=..."))
    for port, option in ports:
        check_port("127.0.0.1", port, option)
    before = signal.signal(signal.SIGTERM, _interrupt)
    demo = Demo(options)
    demo.folder.mkdir(parents=True, exist_ok=True)
    try:
        _prepare(demo)
        _serve(demo)
    finally:
        demo.stop()
        signal.signal(signal.SIGTERM, before)


def _prepare(demo: Demo) -> None:
    """Corpus, model, shards: everything that needs no server."""
    corpus = _corpus(demo)
    model, shards = demo.folder / "model", demo.folder / "shards"
    with demo.step("training"):
        if (model / "metrics.json").exists():
            print(f"{model} is there already")
        else:
            minutes = demo.options.minutes or (2.5 if demo.options.corpus == "sample" else 11)
            demo.command("finetune", corpus, "--preset", "tiny", "--out", model, "--max-minutes", minutes)
        _print_training(model)
    with demo.step("encode"):
        done = demo.folder / "encoded.json"
        model_id = _read_json(model / "metrics.json")["model_id"]
        patches = PATCHES.get(demo.options.corpus, "")
        stamp = {"model": model_id, "corpus": str(corpus), "files": _fingerprint(corpus), "patches": patches}
        if done.exists() and _read_json(done) == stamp:
            print(f"{shards} is there already")
        else:
            _encode(demo, corpus, model, shards, model_id, patches)
            done.write_text(json.dumps(stamp))


def _fingerprint(corpus: Path) -> str:
    """Changes when a caption table, a zip file or the list of an image folder does; reads no file."""
    entries = sorted([corpus, *corpus.iterdir()]) if corpus.is_dir() else [corpus]
    stats = [(entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def _encode(demo: Demo, corpus: Path, model: Path, shards: Path, model_id: str, patches: str) -> None:
    """Encode; images that cannot be read make its exit code 1, and the demo goes on with the others."""
    manifest = shards / "manifest.json"
    before = _read_json(manifest) if manifest.exists() else {}
    outdated = before and (before.get("model_id"), before.get("patches", "")) != (model_id, patches)
    options = [*(["--patches", patches] if patches else []), *(["--overwrite"] if outdated else [])]
    code = demo.attempt("encode", corpus, "--model", model, "--out", shards, *options)
    if not code:
        return
    made = _read_json(manifest) if manifest.exists() else {}
    if code != 1 or made.get("model_id") != model_id or not (made.get("complete") and made.get("count")):
        raise InputError(f"the demo stopped: 'clipsearch encode' ended with exit code {code}")
    print(f"The demo goes on with the {made['count']} images that can be read.")


def _corpus(demo: Demo) -> Path:
    if demo.options.corpus != "sample":
        return Path(demo.options.corpus)
    corpus = demo.folder / "corpus"
    with demo.step("corpus"):
        demo.command("sample", "--out", corpus)
    return corpus


def _serve(demo: Demo) -> None:
    """Engine, feed, queries, page."""
    options, model, shards = demo.options, demo.folder / "model", demo.folder / "shards"
    with demo.step("engine"):
        demo.service(
            f"{demo.url}/ApplicationStatus", "engine", "--data", demo.folder / "index", "--app", options.app,
            "--port", options.engine_port, "--deploy-port", options.deploy_port,
        )  # fmt: skip
    with demo.step("feed"):
        _feed(demo, shards)
    root = _corpus_root(options, demo.folder)
    page = f"http://127.0.0.1:{options.ui_port}"
    with demo.step("queries"):
        _queries(demo, model)
    if options.serve:
        with demo.step("page"):
            demo.service(
                f"{page}/health", "ui", "--url", demo.url, "--model", model, "--port", options.ui_port,
                "--corpus-root", root,
            )  # fmt: skip
    _print_times(demo)
    if options.serve:
        print(
            f"\nThe search page: {page}   (Vespa's query API: {demo.url}/search/)\nCtrl-C stops everything.",
            flush=True,
        )
        if code := demo.children[-1].wait():
            raise ServiceError(f"the search page ended with exit code {code}; its log is {demo.folder / 'ui.log'}")


def _feed(demo: Demo, shards: Path) -> None:
    from clipsearch.search.client import SearchClient

    manifest = _read_json(shards / "manifest.json")
    stamp = demo.folder / "index" / "fed.json"
    count = SearchClient(demo.url).document_count(manifest["corpus"])
    if count == manifest["count"] and stamp.exists() and _read_json(stamp) == manifest:
        print(f"{count} documents are there already")
        return
    demo.command("feed", "shards", shards, "--url", demo.url)
    stamp.write_text(json.dumps(manifest))


def _queries(demo: Demo, model: Path) -> None:
    """Three queries in each ranking, top five hits each."""
    from clipsearch.clip import load_clip
    from clipsearch.search import query
    from clipsearch.search.client import SearchClient

    client, clip = SearchClient(demo.url), load_clip(str(model))
    for text in _texts(demo):
        vector = clip.embed_texts([text])[0]
        requests = {
            "lexical": query.lexical(text, hits=5),
            "vector": query.vector(vector, hits=5),
            "hybrid": query.hybrid(text, vector, hits=5),
        }
        for profile in PROFILES:
            results = client.search(requests[profile])
            print(f'\n"{text}", {profile}: {results.total} matches in {results.seconds * 1000:.0f} ms')
            for rank, hit in enumerate(results.hits, 1):
                caption = _best_caption(hit.fields.get("captions", []), text)
                print(f"  {rank}. {hit.relevance:8.4f}  {hit.id.split('::')[-1]:28.28} {caption[:70]}")


def _best_caption(captions: Sequence[str], text: str) -> str:
    """The caption that shares most words with the query: the first of them when none does."""
    words = set(text.split())
    return max(captions, key=lambda caption: len(words & set(caption.split())), default="")


def _texts(demo: Demo) -> Sequence[str]:
    name = _read_json(demo.folder / "shards" / "manifest.json")["corpus"]
    if name in QUERIES:
        return QUERIES[name]
    from clipsearch.corpora import open_corpus

    corpus = open_corpus(demo.options.corpus)
    captions = [r.captions[0] for r in (corpus.split("test") or corpus.records) if r.captions]
    return tuple(dict.fromkeys(captions[:: max(1, len(captions) // 3)]))[:3]


def _print_training(model: Path) -> None:
    metrics = _read_json(model / "metrics.json")
    print(f"{metrics['model_id']}: best of {metrics['epochs']} epochs, {metrics['seconds']:.0f} s")
    for moment in ("before", "after"):
        numbers = metrics[moment]
        shown = "   ".join(f"{title} {numbers[name]:.3f}" for name, title in SCORES.items() if name in numbers)
        print(f"  {moment:>6}, on images held out as '{metrics['measured_on']}': {shown}")


def _print_times(demo: Demo) -> None:
    installed = Path(sys.prefix) / ".installed"
    print("\n== times")
    if installed.exists():
        print(installed.read_text().strip() + " (when it was installed)")
    for title, seconds in demo.times:
        print(f"{title}: {seconds:.1f} s")


def _corpus_root(options: DemoOptions, folder: Path) -> str:
    manifest = _read_json(folder / "shards" / "manifest.json")
    given = manifest.get("root") or options.corpus  # the corpus may be a file in its folder, or on the hub
    root = folder / "corpus" if options.corpus == "sample" else Path(given)
    return f"{manifest['corpus']}={root}"


def _read_json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
