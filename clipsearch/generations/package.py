"""An application package's folder: which generations of embeddings it has, and the files that change with them.

What people change by hand stays: services.xml and hosts.xml (other nodes), rank profiles, other values of the query
profile. Only the schema must be as ``clipsearch app`` wrote it, because fields are added to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from clipsearch.appwriter import (
    QUERY_PROFILE,
    SCHEMA,
    Application,
    EmbeddingField,
    Embeddings,
    render,
    with_generations,
)
from clipsearch.errors import InputError
from clipsearch.records import Generation

Files = dict[str, bytes]

_FIELD = re.compile(r"^ +field (\w+) type tensor<(bfloat16|int8)>\((patch\{\},)?x\[(\d+)\]\)", re.MULTILINE)
_GENERATION = re.compile(r"embedding(?:_g(\d+))?")


def read_files(folder: Path) -> Files:
    """Every file of the package but hidden ones, by its path there. Raises ``InputError`` when there is no package."""
    if not (folder / SCHEMA).is_file() or not (folder / "services.xml").is_file():
        raise InputError(f"{folder} is no application package: name the folder that 'clipsearch app' wrote (--app)")
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path.relative_to(folder): path for path in paths}
    return {
        name.as_posix(): path.read_bytes()
        for name, path in names.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def read_application(files: Mapping[str, bytes], what: object = "the package") -> Application:
    """What the package was rendered from. Raises ``InputError`` when its schema is not as we write it."""
    schema = files.get(SCHEMA, b"").decode("utf-8", "replace")
    values = _query_profile(files)
    active = _number(values.get("generations.active", "g1"))
    generations: list[Embeddings] = []
    extra: list[EmbeddingField] = []
    for name, cells, patches, size in _FIELD.findall(schema):
        match = _GENERATION.fullmatch(name)
        if match:
            number = Generation(int(match[1] or 1))
            generations.append(Embeddings(number, int(size), values.get(f"generations.{number.name}", "")))
        elif cells == "int8":
            extra.append(EmbeddingField(name, 8 * int(size), "bits"))
        else:
            extra.append(EmbeddingField(name, int(size), "patches" if patches else "image"))
    extra.sort(key=lambda field: schema.find(f"query(q_{field.name}) "))
    last = _number(values.get("generations.last", "g1")).number
    application = Application(tuple(generations), tuple(extra), active, last)
    if not generations or render(application)[SCHEMA].encode() != files[SCHEMA]:
        raise InputError(
            f"{SCHEMA} of {what} is not as 'clipsearch app' writes it: a field cannot be added without losing what was "
            "changed there. Write the package again ('clipsearch app --force') and keep changes in other files"
        )
    return application


def changed_files(files: Mapping[str, bytes], old: Application, new: Application) -> Files:
    """``files`` of ``old`` as those of ``new``. A rank profile that was changed by hand is kept while it is needed."""
    before, after = _rendered(old), _rendered(new)
    result = {path: content for path, content in files.items() if path not in before or path in after}
    for path, content in after.items():
        if path == QUERY_PROFILE and path in files and new.last > 1:
            result[path] = with_generations(files[path].decode("utf-8"), new).encode()
        elif path not in files or (files[path] == before.get(path) and before[path] != content):
            result[path] = content
    return result


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder hold ``files``: the schema last, which tells what was done when this is interrupted."""
    present = read_files(folder)
    for path in sorted(present.keys() - files.keys()):
        (folder / path).unlink()
    for path in sorted(files, key=lambda name: (name == SCHEMA, name)):
        if present.get(path) != files[path]:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.tmp")
            temporary.write_bytes(files[path])
            temporary.replace(target)


def _rendered(application: Application) -> Files:
    return {path: text.encode() for path, text in render(application).items()}


def _query_profile(files: Mapping[str, bytes]) -> dict[str, str]:
    try:
        root = ElementTree.fromstring(files.get(QUERY_PROFILE, b"<query-profile/>"))
    except ElementTree.ParseError as error:
        raise InputError(f"{QUERY_PROFILE} is no XML: {error}") from error
    return {field.get("name", ""): (field.text or "").strip() for field in root.iter("field")}


def _number(name: str) -> Generation:
    return parse_generation(name)


def parse_generation(name: str) -> Generation:
    """``g2`` -> generation 2. Raises ``InputError``."""
    if not re.fullmatch(r"g[1-9]\d{0,5}", name):
        raise InputError(f"{name!r} is not a generation: they are called g1, g2 and so on")
    return Generation(int(name[1:]))
