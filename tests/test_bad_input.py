"""Bad input, each through the command line: a sentence that names it, an exit code above 0, and nothing else lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_vespa import serve_fake
from small_corpus import write_corpus
from small_index import DIM, NAMES, ROOT, Running, running_engine, write_shards

from clipsearch.cli import main
from clipsearch.search import SearchClient
from clipsearch.shards import Manifest, open_shards, write_manifest

SIZE = 32  # of the small model's embeddings; the engine's application stores 512


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str


class Shell:
    """Runs ``clipsearch`` as the console script does, in this process, so that torch is imported once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Done:
        self._monkeypatch.setattr(sys, "argv", ["clipsearch", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = self._capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    def refused(self, *arguments: object) -> str:
        """The sentence of a command that must fail with exit code 1."""
        done = self(*arguments)
        assert done.code == 1
        assert "Traceback" not in done.err
        sentences = [line for line in done.err.splitlines() if line.startswith("Error: ")]
        assert len(sentences) == 1, done.err
        return sentences[0]


@pytest.fixture
def clipsearch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint."""
    from clipsearch.clip import PixelSettings, TinyOptions, build_tiny, save_clip

    options = TinyOptions(
        dim=SIZE, image_size=32, channels=(8, 16), strides=(2, 2), text_width=32, text_layers=1, text_heads=2
    )
    network, tokenizer = build_tiny(["a red block at the left", "a green block"], options)
    folder = tmp_path_factory.mktemp("models") / "untrained"
    return save_clip(folder, network, tokenizer, PixelSettings(32).to_processor())


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("encoded") / "shards")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int], shards: Path) -> Iterator[Running]:
    """An engine that holds a dozen images."""
    with running_engine(tmp_path_factory.mktemp("engine") / "data", free_port) as running:
        fed = subprocess.run(
            [sys.executable, "-m", "clipsearch", "feed", str(shards), "--url", running.url],
            capture_output=True, check=True,
        )  # fmt: skip
        assert b"12 documents fed" in fed.stdout
        yield running


def documents(engine: Running) -> int:
    with SearchClient(engine.url) as client:
        return client.document_count()


# --- a corrupt image, a caption file that names a missing image -----------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Eight good images, one that is none, and a caption for one that is not there."""
    corpus = write_corpus(tmp_path / "damaged", per_class=2, corrupt=1)
    with (corpus / "captions.jsonl").open("a") as file:
        file.write('{"file": "images/gone.png", "captions": ["gone"]}\n')
    return corpus


def test_encode_names_corrupt_and_missing_images_and_keeps_the_others(
    clipsearch: Shell, damaged: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = clipsearch("encode", damaged, "--model", model, "--out", out)
    assert done.code == 1
    assert "Left out: images/broken_0.png: not a known image format" in done.err
    assert "Left out: images/gone.png: the image is missing (captions.jsonl, line 10)" in done.err
    assert "8 images encoded" in done.out
    assert len(open_shards(out)) == 8
    assert len((out / "ledger.jsonl").read_text().splitlines()) == 2
    again = clipsearch("encode", damaged, "--model", model, "--out", out, "--json")
    summary = json.loads(again.out)
    assert (again.code, summary["encoded"], summary["reused"], summary["failed"]) == (1, 0, 8, 2)
    assert len(summary["examples"]) == 2


def test_a_query_image_that_is_none_is_named(clipsearch: Shell, model: Path, engine: Running, tmp_path: Path) -> None:
    broken = tmp_path / "photo.jpg"
    broken.write_bytes(b"\xff\xd8\xff not really")
    for path, reason in ((broken, "not a known image format"), (tmp_path / "gone.jpg", "there is no file")):
        sentence = clipsearch.refused("search", "--image", path, "--model", model, "--url", engine.url)
        assert str(path) in sentence
        assert reason in sentence


# --- an empty corpus -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("encode", "CORPUS", "--model", "nothing", "--out", "OUT"),
        ("finetune", "CORPUS", "--preset", "tiny", "--out", "OUT"),
        ("evaluate", "nothing", "--corpus", "CORPUS"),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("kind", ["no image", "no folder", "only a caption file"])
def test_an_empty_corpus_is_named_and_nothing_is_written(
    clipsearch: Shell, tmp_path: Path, command: tuple[str, ...], kind: str
) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    if kind != "no folder":
        corpus.mkdir()
    if kind == "only a caption file":
        (corpus / "captions.jsonl").write_text('{"file": "a.jpg", "caption": "a"}\n')
    places = {"CORPUS": corpus, "OUT": out}
    sentence = clipsearch.refused(*(places.get(word, word) for word in command))
    assert str(corpus) in sentence
    reasons = {
        "no image": "no images below it",
        "no folder": "no such file or folder",
        "only a caption file": "has 0 images, but none of its 1 entries could be used",
    }
    assert reasons[kind] in sentence
    assert not out.exists()


def test_shards_without_an_image_are_not_fed_as_a_success(clipsearch: Shell, tmp_path: Path, engine: Running) -> None:
    write_manifest(tmp_path, Manifest("blocks", "colours-1", DIM, 0, complete=True))
    assert f"{tmp_path} holds no embedded image" in clipsearch.refused("feed", tmp_path, "--url", engine.url)


# --- a checkpoint of another size than the application package's ------------------------------------------------


def test_embeddings_of_another_size_are_not_fed(clipsearch: Shell, tmp_path: Path, engine: Running) -> None:
    other = write_shards(tmp_path / "other", SIZE)
    sentence = clipsearch.refused("feed", other, "--url", engine.url)
    assert f"vectors of {SIZE} numbers" in sentence
    assert "stores vectors of 512" in sentence
    assert f"clipsearch app --dim {SIZE}" in sentence
    assert documents(engine) == len(NAMES)


def test_a_query_by_another_model_is_refused(clipsearch: Shell, model: Path, engine: Running) -> None:
    for profile in ("vector", "hybrid", "hybrid_linear"):
        sentence = clipsearch.refused(
            "search", "a red block", "--model", model, "--profile", profile, "--url", engine.url
        )
        assert "holds embeddings of colours-1 (g1), and none of the model untrained-" in sentence


def test_shards_of_another_model_are_not_mixed_in(
    clipsearch: Shell, model: Path, damaged: Path, shards: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(shards, tmp_path / "out"))
    sentence = clipsearch.refused("encode", damaged, "--model", model, "--out", out)
    assert "colours-1 (512 dimensions)" in sentence
    assert "--overwrite" in sentence
    assert len(open_shards(out)) == len(NAMES)


def test_a_folder_that_is_no_checkpoint_is_named(clipsearch: Shell, damaged: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert str(tmp_path / "model") in clipsearch.refused(
        "encode", damaged, "--model", tmp_path / "model", "--out", tmp_path / "out"
    )


# --- an engine that is not running, or something else in its place ----------------------------------------------


def test_an_engine_that_is_not_running_is_said_before_any_work(
    clipsearch: Shell, shards: Path, model: Path, free_port: Callable[[], int]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for command in (("feed", shards), ("search", "red", "--profile", "lexical"), ("search", "red", "--model", model)):
        sentence = clipsearch.refused(*command, "--url", url)
        assert f"nobody answers at {url} (connection refused)" in sentence
        assert "clipsearch engine" in sentence
    assert not (shards / "dead-letters.jsonl").exists()


def test_another_port_of_ours_is_not_taken_for_the_index(clipsearch: Shell, shards: Path, engine: Running) -> None:
    """The deploy port answers /ApplicationStatus too, and pyvespa takes its 404 for a document that was fed."""
    url = f"http://127.0.0.1:{engine.deploy_port}"
    for command in (("feed", shards, "--json"), ("search", "red", "--profile", "lexical", "--json")):
        sentence = clipsearch.refused(*command, "--url", url)
        assert f"what answers at {url} is not a Vespa container" in sentence
        assert "--url" in sentence


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "http://[::1", "http://127.0.0.1:80800", "http://x:port", "file:///"]
)
def test_what_is_no_url_is_named(clipsearch: Shell, shards: Path, url: str) -> None:
    for command in (("feed", shards), ("search", "red", "--profile", "lexical")):
        assert f"'{url}' is not the URL of an endpoint" in clipsearch.refused(*command, "--url", url)


# --- a port in use, a data folder in use -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("engine", "--data", "NEW", "--port", "USED", "--deploy-port", "FREE"), "--port"),
        (("engine", "--data", "NEW", "--port", "FREE", "--deploy-port", "USED"), "--deploy-port"),
        (("ui", "--port", "USED"), "--port"),
        (("demo", "--home", "NEW", "--engine-port", "USED"), "ENGINE_PORT=..."),
        (("demo", "--home", "NEW", "--engine-port", "FREE", "--deploy-port", "USED"), "DEPLOY_PORT=..."),
    ],
)
def test_a_port_in_use_is_named_with_its_option(
    clipsearch: Shell, tmp_path: Path, free_port: Callable[[], int], command: tuple[str, ...], option: str
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        used = other.getsockname()[1]
        words: dict[str, Any] = {"USED": used, "FREE": free_port(), "NEW": tmp_path / "new"}
        sentence = clipsearch.refused(*(words.get(word, word) for word in command))
    assert f"cannot listen on 127.0.0.1:{used}" in sentence
    assert option in sentence
    assert not (tmp_path / "new").exists()


def test_a_data_folder_in_use_is_named_with_who_uses_it(engine: Running, free_port: Callable[[], int]) -> None:
    options = ["--data", engine.data, "--app", ROOT / "vespa_app", "--port", free_port(), "--deploy-port", free_port()]
    done = subprocess.run(
        [sys.executable, "-m", "clipsearch", "engine", *map(str, options)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"uses {engine.data}: stop it, or choose another folder with --data" in done.stderr
    assert documents(engine) == len(NAMES)


# --- options that make no sense ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--profile", "bm25"), "'--profile': 'bm25' is not one of 'lexical', 'vector', 'hybrid', 'hybrid_linear'"),
        (("--alpha", "1.5"), "'--alpha': 1.5"),
        (("--hits", "0"), "'--hits': 0"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(clipsearch: Shell, options: tuple[str, ...], named: str) -> None:
    done = clipsearch("search", "red", *options)
    assert done.code == 2
    assert named in done.err


def test_a_search_for_nothing_is_refused(clipsearch: Shell, model: Path, engine: Running) -> None:
    for text in ((), ("",), ("  ",)):
        done = clipsearch("search", *text, "--model", model, "--url", engine.url)
        assert done.code == 2
        assert "give some words" in done.err
        assert not done.out


def test_a_folder_that_cannot_be_written_is_a_sentence(clipsearch: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sentence = clipsearch.refused("sample", "--out", tmp_path / "file" / "corpus", "--images", 24)
    assert str(tmp_path / "file") in sentence


# --- a user who changes their mind ------------------------------------------------------------------------------


def test_a_reader_that_has_read_enough_is_no_error(engine: Running) -> None:
    program = [sys.executable, "-m", "clipsearch", "search", "block", "--profile", "lexical", "--url", engine.url]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        said = child.stderr.read().decode()
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


def test_ctrl_c_in_a_feed_ends_it_at_once_and_the_same_command_completes_it(shards: Path) -> None:
    def slowly(method: str, path: str, body: dict[str, Any]) -> None:
        time.sleep(0.1 * (method == "POST"))

    with serve_fake(dim=DIM) as fake:
        fake.answer = slowly
        program = [sys.executable, "-m", "clipsearch", "feed", str(shards), "--url", fake.url, "--workers", "1"]
        with subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env={**os.environ}) as child:
            while not fake.documents:
                assert child.poll() is None
                time.sleep(0.01)
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=20)
        assert child.returncode == 130
        assert said.rstrip().endswith("Interrupted.")
        assert "Traceback" not in said
        assert 0 < len(fake.documents) < len(NAMES)
        fake.answer = lambda method, path, body: None
        done = subprocess.run([*program, "--json"], capture_output=True, text=True, check=True)
        summary = json.loads(done.stdout)
        assert summary["fed"] + summary["skipped"] == len(NAMES) == len(fake.documents)
        assert summary["skipped"] > 0
