"""Parsers from grammar files; their tables are kept between runs, because making them is a third of an engine's start.

The tables lie in the user's own cache folder (``$XDG_CACHE_HOME/clipsearch``, else ``~/.cache/clipsearch``) under a
digest of all that they depend on. Where that cannot be written, nothing is kept, and nobody is told. Loading them runs
what they say (pickle), so a file or folder that another user owns or may write is not read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import lark
from lark import Lark


def lalr(path: Path, start: Sequence[str] = ("start",), maybe_placeholders: bool = True) -> Lark:
    """The LALR parser of the grammar file ``path``, which imports no other file."""
    grammar = path.read_text(encoding="utf-8")
    key = repr((grammar, tuple(start), maybe_placeholders, lark.__version__, sys.version))
    name = f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.lark"
    with contextlib.suppress(Exception), (_folder() / name).open("rb") as file:  # missing, cut short: it is made again
        if _ours(_folder().stat()) and _ours(os.fstat(file.fileno())):
            return Lark.load(file)
    parser = Lark(grammar, parser="lalr", start=list(start), maybe_placeholders=maybe_placeholders)
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: the user has no home
        _keep(parser, _folder() / name)
    return parser


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipsearch"


def _ours(status: os.stat_result) -> bool:
    """Whether nobody but this user (and root) can have written it."""
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


def _keep(parser: Lark, path: Path) -> None:
    """Writes the tables whole or not at all: other engines may start at this moment."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            parser.save(file)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
