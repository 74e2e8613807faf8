"""``clipsearch app``: the only writer of application packages; ``vespa_app/`` is what it writes for one 512-d field.

A package is rendered from the templates in ``clipsearch.application`` and a list of (field, dimension, kind). The
first field is the image embedding that the profiles ``vector``, ``hybrid`` and ``hybrid_linear`` search, with query
tensor ``q``; each further one gets a profile ``vector_<field>`` and a query tensor ``q_<field>``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from clipsearch.errors import InputError

KINDS = ("image", "patches", "bits")
MAX_DIMENSION = 65_536

_FILES = {
    "services.xml": "services.xml.txt",
    "hosts.xml": "hosts.xml.txt",
    "search/query-profiles/default.xml": "default.xml.txt",
    "schemas/image.sd": "image.sd.txt",
    "schemas/image/lexical.profile": "lexical.profile.txt",
    "schemas/image/vector.profile": "vector.profile.txt",
    "schemas/image/hybrid.profile": "hybrid.profile.txt",
    "schemas/image/hybrid_linear.profile": "hybrid_linear.profile.txt",
}
_TAKEN = frozenset(
    ["language", "captions", "label", "split", "corpus", "image_uri", "width", "height", "content_hash", "model_id"]
) | {"thumbnail", "documentid", "sddocname", "default"}
_HNSW = """index {
    hnsw {
        max-links-per-node: 16
        neighbors-to-explore-at-insert: 200
    }
}"""
_COMMENTS = {
    "image": "# Of the whole image, unit length. bfloat16: half the memory of float.",
    "patches": "# Of parts of the image, unit length: a document is found by its closest patch.",
    "bits": "# The signs of {source}, packed by Vespa while feeding: a sixteenth of its memory, compared by hamming.",
}


@dataclass(frozen=True, slots=True)
class EmbeddingField:
    """One embedding of a document.

    ``dimension`` counts the model's values, also for ``bits`` (which stores an eighth as many bytes). Kinds:
    ``image`` is one bfloat16 vector, ``patches`` one for each label of dimension ``patch``, ``bits`` an int8 field
    that Vespa computes from the first image field of the same dimension.
    """

    name: str
    dimension: int
    kind: str = "image"

    @property
    def tensor(self) -> str:
        """The field's tensor type."""
        if self.kind == "bits":
            return f"tensor<int8>(x[{self.dimension // 8}])"
        return f"tensor<bfloat16>({'patch{},' if self.kind == 'patches' else ''}x[{self.dimension}])"

    @property
    def query_tensor(self) -> str:
        """The type of the query tensor that the field is searched with: one vector."""
        return self.tensor if self.kind == "bits" else f"tensor<float>(x[{self.dimension}])"


def parse_field(text: str) -> EmbeddingField:
    """``NAME:DIMENSION:KIND`` (KIND may be left out: image) as a field. Raises ``InputError``."""
    match = re.fullmatch(r"([^:]+):(\d+)(?::(\w+))?", text)
    if match is None:
        raise InputError(f"'{text}' is not a field: expected NAME:DIMENSION:KIND, e.g. patches:512:patches")
    return EmbeddingField(match[1], int(match[2]), match[3] or "image")


def render_package(fields: Sequence[EmbeddingField]) -> dict[str, str]:
    """The application package for ``fields``, path to text. Raises ``InputError`` that names the field."""
    _check(fields)
    text = {path: _template(name) for path, name in _FILES.items()}
    text["schemas/image.sd"] = Template(text["schemas/image.sd"]).substitute(
        document_fields=_indent("\n\n".join(_field(f, fields) for f in fields if f.kind != "bits"), 8),
        synthetic_fields="".join("\n" + _indent(_field(f, fields), 4) + "\n" for f in fields if f.kind == "bits"),
        inputs=_indent(_inputs(fields), 12),
    )
    for field in fields[1:]:
        text[f"schemas/image/vector_{field.name}.profile"] = _profile(field, fields)
    return text


def write_app(fields: Sequence[EmbeddingField], out: str | Path, *, force: bool = False) -> list[Path]:
    """Write the package for ``fields`` into folder ``out``; returns the files' paths, sorted.

    Raises ``InputError`` when the fields do not fit together, and when ``out`` holds something else than a package
    written here (``force`` overwrites it); a rank profile that no longer belongs is removed.
    """
    rendered = render_package(fields)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder to write the application package into")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "schemas" / "image.sd").is_file() and not force:
        raise InputError(f"{folder} is not empty and is no application package: name another folder, or use --force")
    for stale in (folder / "schemas" / "image").glob("vector_*.profile"):
        if stale.relative_to(folder).as_posix() not in rendered:
            stale.unlink()
    for path, text in rendered.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")
    return sorted(folder / path for path in rendered)


def _template(name: str) -> str:
    return resources.files("clipsearch.application").joinpath(name).read_text(encoding="utf-8")


def _check(fields: Sequence[EmbeddingField]) -> None:
    if not fields or fields[0].kind != "image" or fields[0].name != "embedding":
        raise InputError("the first field must be 'embedding' of kind image: the rank profiles search it")
    names: set[str] = set()
    for field in fields:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", field.name):
            raise InputError(f"'{field.name}' cannot name a field: use small letters, digits and _")
        if field.name in _TAKEN or field.name in names:
            raise InputError(f"field '{field.name}' exists already: choose another name")
        if field.kind not in KINDS:
            raise InputError(f"field '{field.name}': unknown kind '{field.kind}', expected {', '.join(KINDS)}")
        if not 1 <= field.dimension <= MAX_DIMENSION:
            raise InputError(f"field '{field.name}': dimension {field.dimension} is not in 1..{MAX_DIMENSION}")
        if field.kind == "bits" and field.dimension % 8:
            raise InputError(f"field '{field.name}': bits need a dimension that 8 divides, not {field.dimension}")
        names.add(field.name)
        if field.kind == "bits":
            _source(field, fields)


def _source(field: EmbeddingField, fields: Sequence[EmbeddingField]) -> EmbeddingField:
    for other in fields:
        if other.kind == "image" and other.dimension == field.dimension:
            return other
    raise InputError(f"field '{field.name}': no image field of dimension {field.dimension} to take the bits of")


def _field(field: EmbeddingField, fields: Sequence[EmbeddingField]) -> str:
    bits = field.kind == "bits"
    source = _source(field, fields).name if bits else ""
    indexing = f"input {source} | binarize | pack_bits | attribute | index" if bits else "attribute | index | summary"
    metric = "hamming" if bits else "prenormalized-angular"
    return "\n".join(
        (
            _COMMENTS[field.kind].format(source=source),
            f"field {field.name} type {field.tensor} {{",
            f"    indexing: {indexing}",
            "    attribute {",
            f"        distance-metric: {metric}",
            "    }",
            _indent(_HNSW, 4),
            "}",
        )
    )


def _inputs(fields: Sequence[EmbeddingField]) -> str:
    lines = [f"query(q) {fields[0].query_tensor}"]
    return "\n".join(lines + [f"query(q_{field.name}) {field.query_tensor}" for field in fields[1:]])


def _profile(field: EmbeddingField, fields: Sequence[EmbeddingField]) -> str:
    """Nearest neighbours in ``field``; for bits, the best 1000 are put in the order of the full vectors."""
    rerank = ""
    if field.kind == "bits":
        source = _source(field, fields)
        query = "q" if source is fields[0] else f"q_{source.name}"
        rerank = (
            "\n    # Cosine of the full vectors, read only for the best hits.\n"
            "    second-phase {\n"
            "        rerank-count: 1000\n"
            f"        expression: sum(query({query}) * attribute({source.name}))\n"
            "    }\n"
        )
    return (
        f"rank-profile vector_{field.name} inherits default {{\n\n"
        "    first-phase {\n"
        f"        expression: closeness(field, {field.name})\n"
        "    }\n"
        f"{rerank}\n"
        "    match-features {\n"
        "        bm25(captions)\n"
        f"        closeness(field,{field.name})\n"
        "    }\n"
        "}\n"
    )


def _indent(text: str, width: int) -> str:
    return "\n".join(" " * width + line if line else line for line in text.split("\n"))
