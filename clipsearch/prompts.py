"""Prompt templates for zero-shot classification: the published ones as presets, a file of them, or one given as text.

The presets are data (``prompts.json``), each with its source and licence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from clipsearch.errors import InputError

SLOT = "{}"
"""Where the words of a class go in a template."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """``templates``, each with ``{}``; ``classes``: squeezed label -> words that the source uses for it instead."""

    name: str
    templates: tuple[str, ...]
    classes: Mapping[str, str] = field(default_factory=dict)

    def words(self, classes: Mapping[str, str]) -> dict[str, str]:
        """Label -> words of each of a corpus's ``classes``, rewritten where the source of the templates does so."""
        return {label: self.classes.get(_squeezed(label), words) for label, words in classes.items()}

    def texts(self, classes: Mapping[str, str]) -> list[list[str]]:
        """For each template, the prompts of all ``classes`` (label -> words), in their order."""
        words = self.words(classes).values()
        return [[template.replace(SLOT, word) for word in words] for template in self.templates]


def template_names() -> list[str]:
    """The names of the presets, sorted."""
    return sorted(_presets())


def templates(name: str) -> tuple[str, ...]:
    """The templates of a preset. Raises ``InputError`` with the names that there are."""
    return preset(name).templates


def preset(name: str) -> Prompts:
    """One preset with its class words. Raises ``InputError`` with the names that there are."""
    if name not in _presets():
        raise InputError(f"there are no prompts {name!r}: choose one of {', '.join(template_names())}")
    entry = _presets()[name]
    rewritten = {_squeezed(label): words for label, words in entry.get("classes", {}).items()}
    return Prompts(name, tuple(entry["templates"]), rewritten)


def about(name: str) -> str:
    """What a preset is, where it was published and under which licence, as one sentence."""
    entry = _presets()[preset(name).name]
    return f"{entry['about']} ({entry['source']}; {entry['licence']})"


def read_prompts(value: str) -> Prompts:
    """The prompts that an option names: a preset, a file with one template a line, or one template with ``{}``.

    In a file, empty lines and lines that begin with ``#`` are passed over. Raises ``InputError`` that names the file
    and line, or says what can be given.
    """
    if value in _presets():
        return preset(value)
    if SLOT in value:
        return Prompts(value, (_checked(value, "the prompt"),))
    path = Path(value)
    if path.is_file():
        return Prompts(path.name, _from_file(path))
    raise InputError(
        f"{value!r} is neither a preset ({', '.join(template_names())}), nor a file of templates, nor a template: "
        f'a template has {SLOT} where the words of the class go, as in "a photo of {SLOT}"'
    )


def _from_file(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the prompts in {path} cannot be read: {error}") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    found = tuple(
        _checked(line, f"line {number} of {path}") for number, line in numbered if line and not line.startswith("#")
    )
    if not found:
        raise InputError(f"{path} has no prompt templates: write one a line, with {SLOT} where the class's words go")
    return found


def _checked(template: str, where: str) -> str:
    if template.count(SLOT) != 1:
        raise InputError(f"{where} ({template!r}) must have {SLOT} once, where the words of the class go")
    return template


def _squeezed(label: str) -> str:
    """A label as it is compared: ``Sea_Lake`` and ``SeaLake`` are one."""
    return re.sub(r"[\W_]+", "", label).casefold()


@cache
def _presets() -> dict[str, dict[str, Any]]:
    text = resources.files("clipsearch").joinpath("prompts.json").read_text(encoding="utf-8")
    presets: dict[str, dict[str, Any]] = json.loads(text)["presets"]
    return presets
