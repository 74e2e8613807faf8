"""The command line as a user meets it: help everywhere, one sentence for each error, exit codes that mean it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from clipsearch.cli import COMMANDS, cli, main


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clipsearch", *arguments],
        capture_output=True, text=True, timeout=60, env={**os.environ, **environment}, check=False,
    )  # fmt: skip


def test_help_lists_every_command() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    assert all(f"  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"clipsearch {name}" in result.output
    assert command.get_short_help_str(200).rstrip(".") == COMMANDS[name].rstrip(".")


def test_an_unknown_command_exits_with_2_and_says_so() -> None:
    done = run("fedd")
    assert done.returncode == 2
    assert "fedd" in done.stderr


def test_an_engine_that_is_not_running_is_one_sentence_and_exit_1() -> None:
    done = run("search", "a river", "--profile", "lexical", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_corpus_is_one_sentence_and_exit_1(tmp_path: Path) -> None:
    done = run("encode", str(tmp_path), "--model", str(tmp_path), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert str(tmp_path) in done.stderr


def test_a_command_that_ends_with_ctx_exit_keeps_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("sample")
    @click.pass_context
    def failing(context: click.Context) -> None:
        context.exit(3)

    monkeypatch.setattr("clipsearch.commands.sample.command", failing)
    monkeypatch.setattr(sys, "argv", ["clipsearch", "sample"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 3
