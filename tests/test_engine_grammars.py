"""Parsers whose tables are kept: the same trees, whatever the cache folder holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lark import Lark

from clipsearch.engine import grammars
from clipsearch.engine.grammars import lalr

GRAMMAR = """
start: pair ("," pair)*
pair: NAME [":" NAME]
NAME: /[a-z]+/
%ignore " "
"""


@pytest.fixture
def grammar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "pairs.lark"
    path.write_text(GRAMMAR)
    return path


def test_a_kept_parser_gives_the_trees_of_a_new_one(grammar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Lark(GRAMMAR, parser="lalr").parse("a: b, c")
    assert lalr(grammar).parse("a: b, c") == expected
    monkeypatch.setattr(grammars, "Lark", type("Kept", (), {"load": Lark.load}))  # making one anew would fail
    assert lalr(grammar).parse("a: b, c") == expected


def test_another_grammar_or_start_is_another_parser(grammar: Path) -> None:
    lalr(grammar)
    assert lalr(grammar, start=["pair"]).parse("a: b").data == "pair"
    grammar.write_text(GRAMMAR.replace('":"', '"="'))
    assert str(lalr(grammar).parse("a = b").data) == "start"


def test_a_damaged_or_forbidden_cache_is_no_hindrance(grammar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lalr(grammar)
    (kept,) = (grammar.parent / "cache" / "clipsearch").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert str(lalr(grammar).parse("a").data) == "start"
    monkeypatch.setenv("XDG_CACHE_HOME", str(grammar))  # a file
    assert str(lalr(grammar).parse("a").data) == "start"


def test_a_user_without_a_home_gets_a_parser(grammar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", none)
    assert str(lalr(grammar).parse("a").data) == "start"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no modes here")
@pytest.mark.parametrize("which", ["file", "folder"])
def test_tables_that_another_user_may_have_written_are_not_loaded(
    grammar: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    lalr(grammar)
    (kept,) = (grammar.parent / "cache" / "clipsearch").iterdir()
    (kept if which == "file" else kept.parent).chmod(0o777)
    monkeypatch.setattr(Lark, "load", lambda file: pytest.fail("it was loaded"))
    assert str(lalr(grammar).parse("a").data) == "start"
