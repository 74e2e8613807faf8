"""The README's commands are the program's commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from clipsearch.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.S)
SHELL = [line for block in BLOCKS for line in block.splitlines()]
LINES = [re.split(r"  #| \| ", line)[0].strip() for line in SHELL if line.startswith("clipsearch ")]


@pytest.mark.parametrize("line", LINES)
def test_every_command_in_the_readme_parses(line: str) -> None:
    _, name, *words = shlex.split(line)
    command = cli.get_command(click.Context(cli), name)
    if isinstance(command, click.Group):
        group, name = command, words.pop(0)
        command = group.get_command(click.Context(group), name)
    assert command is not None, f"{line}: there is no {name}"
    options = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    used = {word for word in words if word.startswith("--")}
    assert used <= options, f"{name} has no {used - options}"


def test_the_readme_shows_every_command_but_the_demo_which_make_runs() -> None:
    shown = set(re.findall(r"clipsearch ([a-z]+)", README))
    assert set(COMMANDS) - shown <= {"demo"}


def test_the_two_commands_for_a_fresh_machine_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z]+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md"])
def test_every_file_that_the_documents_point_to_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
