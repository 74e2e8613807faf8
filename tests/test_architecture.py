"""The house's laws: who imports whom, how long files and functions may be, what the README promises to exist."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("clipsearch", "feeders")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FLOOR = {"errors", "records", "keys"}

# room -> our rooms that it may import, beside FLOOR. A room is the first name below clipsearch, or "feeders".
LAW: dict[str, set[str]] = {
    "errors": set(),
    "records": set(),
    "keys": set(),
    "images": set(),
    "captions": set(),
    "lookahead": set(),
    "metrics": set(),
    "prompts": set(),
    "adapter": set(),
    "transduction": set(),
    "serving": set(),
    "planning": set(),
    "application": set(),
    "appwriter": set(),
    "corpora": {"images", "captions"},
    "audit": {"captions", "corpora", "images", "lookahead"},
    "clip": {"images"},
    "shards": set(),
    "training": {"adapter", "captions", "clip", "corpora", "images", "lookahead", "metrics"},
    "encoding": {"clip", "corpora", "images", "lookahead", "shards"},
    "search": set(),
    "evaluation": {
        "adapter",
        "captions",
        "clip",
        "corpora",
        "images",
        "lookahead",
        "metrics",
        "prompts",
        "transduction",
    },
    "feeders": {"adapter", "captions", "clip", "corpora", "encoding", "images", "lookahead", "search", "shards"},
    "generations": {"adapter", "appwriter", "corpora", "encoding", "feeders", "metrics", "search", "shards"},
    "relevance": {"metrics", "search"},
    "web": {"corpora", "images", "metrics", "relevance", "search", "serving"},
    "engine": {"serving"},
    "demo": {"clip", "corpora", "search", "serving"},
}
LIBRARIES = {
    "torch": {"clip", "training"},
    "transformers": {"clip", "training"},
    "vespa": {"relevance", "search"},
    "pyarrow": {"corpora", "shards"},
    "datasets": {"corpora"},
    "granian": {"serving"},
    "lark": {"engine"},
    "faiss": {"engine"},
    "onnxruntime": {"clip", "engine"},
    "starlette": {"web"},
    "matplotlib": {"training"},
    "numba": {"images"},
    "simplejpeg": {"images"},
    "pydicom": {"images"},
    "tifffile": {"images"},
    "sklearn": {"evaluation"},
    "snowballstemmer": {"engine", "search"},
}
LIGHT = {"cli", "commands", "__init__", "__main__"}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "feeders" if parts[0] == "feeders" else parts[1]


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "clipsearch":
                yield from (f"clipsearch.{alias.name}" for alias in node.names)
            else:
                yield node.module


def breaches(room: str, names: Iterator[str]) -> list[str]:
    found = []
    for name in names:
        parts = name.split(".")
        target = "feeders" if parts[0] == "feeders" else parts[1] if parts[0] == "clipsearch" and parts[1:] else ""
        if target and target != room and target not in FLOOR | LAW[room]:
            found.append(f"{room} imports {name}")
        if room not in LIBRARIES.get(parts[0], {room}):
            found.append(f"{room} imports {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(path)
    tree = ast.parse(path.read_text())
    if room in LIGHT:
        return  # commands import everything, lazily: the next test holds that
    assert room in LAW, f"{room} is a new room: give it a line in LAW"
    assert breaches(room, imports(tree)) == []


def test_the_law_notices_a_breach() -> None:
    tree = ast.parse("import torch\nfrom clipsearch.engine.engine import Engine\nfrom clipsearch import web")
    assert len(breaches("search", imports(tree))) == 3


def test_commands_import_their_rooms_only_when_called() -> None:
    for path in FILES:
        if room_of(path) in LIGHT and path.name != "__main__.py":
            top = ast.Module(
                [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)],
                [],
            )
            ours = {name for name in imports(top) if name.split(".")[0] in PACKAGES}
            allowed = {"clipsearch", "clipsearch.__version__", "clipsearch.errors", "clipsearch.records"}
            allowed |= {name for name in ours if name.startswith("clipsearch.commands")}
            assert ours <= allowed, f"{path}: {ours - allowed}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small_and_documented(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= 500
    if text.strip():
        assert ast.get_docstring(tree), "every module says what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno + 1 <= 60, node.name


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from clipsearch.cli import cli;"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0;"
        "heavy = ('torch', 'transformers', 'vespa', 'pyarrow', 'granian', 'starlette', 'numpy', 'PIL');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_law_allows_nothing_that_nobody_uses() -> None:
    used: dict[str, set[str]] = {room: set() for room in LAW}
    for path in FILES:
        if room_of(path) not in LIGHT:
            for parts in (name.split(".") for name in imports(ast.parse(path.read_text()))):
                used[room_of(path)] |= {parts[1] if parts[0] == "clipsearch" and parts[1:] else parts[0]}
    assert {room: allowed - used[room] for room, allowed in LAW.items() if allowed - used[room]} == {}
