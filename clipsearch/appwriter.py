"""``clipsearch app``: the only writer of application packages; ``vespa_app/`` is what it writes for one 512-d field.

A package is rendered from the templates in ``clipsearch.application`` and an ``Application``: the generations of the
image embedding, each with its profiles ``vector``, ``hybrid`` and ``hybrid_linear`` and its query tensor (``q``,
``vector_g2`` and ``q_g2``...), and further fields, each with a profile ``vector_<field>`` and a query tensor
``q_<field>``. Every package has one of these, ``patches``: the embeddings of parts of the image. Which model each
generation is of, and which is active, stands in the query profile.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from string import Template
from xml.sax.saxutils import escape

from clipsearch.errors import InputError
from clipsearch.records import COMPLETE, Generation

FIRST = Generation()
PATCHES = "patches"
KINDS = ("image", "patches", "bits")
MAX_DIMENSION = 65_536

_FILES = {
    "services.xml": "services.xml.txt",
    "hosts.xml": "hosts.xml.txt",
    "search/query-profiles/default.xml": "default.xml.txt",
    "schemas/image.sd": "image.sd.txt",
    "schemas/image/lexical.profile": "lexical.profile.txt",
}
_GENERATION_FILES = {name: f"{name}.profile.txt" for name in ("vector", "hybrid", "hybrid_linear")}
_PROFILES = "schemas/image"
QUERY_PROFILE = "search/query-profiles/default.xml"
SCHEMA = "schemas/image.sd"
_BEGIN = "  <!-- The generations of embeddings, their models, and the active one: clipsearch reembed. -->\n"
_END = "  <!-- End of the generations. -->\n"
_LAST = "</query-profile>"
_TAKEN = frozenset(
    ["language", "captions", "label", "split", "corpus", "image_uri", "width", "height", "content_hash", "model_id"]
) | {
    "thumbnail", "documentid", "sddocname", "default", "embedding", "patches_model", "latitude", "longitude"
}  # fmt: skip
_COMPLETE = "elementCompleteness(captions).queryCompleteness"
_OURS = re.compile(r"vector_.*|(?:default|hybrid|hybrid_linear)_g\d+|vector|hybrid|hybrid_linear")
_HNSW = """index {
    hnsw {
        max-links-per-node: 16
        neighbors-to-explore-at-insert: 200
    }
}"""
_COMMENTS = {
    "image": "# Of the whole image, unit length. bfloat16: half the memory of float.",
    "patches": (
        "# Of parts of the image, unit length: a document is found by its closest part. A patch's label is its box:\n"
        "# left, top, right and bottom in thousandths of the image's width and height (0-0-333-333). No patches,\n"
        "# no cost."
    ),
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


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One generation of the image embedding: ``dimension`` values of the model ``model_id`` ("" where unknown)."""

    generation: Generation
    dimension: int
    model_id: str = ""

    @property
    def field(self) -> EmbeddingField:
        """The field that holds them."""
        return EmbeddingField(self.generation.field, self.dimension)


@dataclass(frozen=True, slots=True)
class Application:
    """What a package is rendered from.

    ``generations``: those that the index holds, by number; ``active``: the one that queries and pages get which name
    none; ``last``: the highest number that was ever given. A number is not used twice: Vespa says of a field that
    comes back that old content may or may not reappear.
    """

    generations: tuple[Embeddings, ...]
    extra: tuple[EmbeddingField, ...] = ()
    active: Generation = FIRST
    last: int = 1

    @property
    def fields(self) -> tuple[EmbeddingField, ...]:
        """All embedding fields."""
        return (*(each.field for each in self.generations), *self.extra)

    def of_model(self, model_id: str) -> Embeddings | None:
        """The generation of a model."""
        return next((each for each in self.generations if each.model_id == model_id), None)

    def of(self, generation: Generation) -> Embeddings:
        """One generation. Raises ``InputError``."""
        for each in self.generations:
            if each.generation == generation:
                return each
        names = ", ".join(each.generation.name for each in self.generations)
        raise InputError(f"the application has no generation {generation.name}: it has {names}")

    def with_model(self, generation: Generation, model_id: str) -> Application:
        """The same, with a generation's model known."""
        known = replace(self.of(generation), model_id=model_id)
        return replace(self, generations=tuple(known if e.generation == generation else e for e in self.generations))

    def adding(self, dimension: int, model_id: str) -> Application:
        """With a further generation, which is not active."""
        new = Embeddings(Generation(self.last + 1), dimension, model_id)
        return replace(self, generations=(*self.generations, new), last=self.last + 1)

    def dropping(self, generation: Generation) -> Application:
        """Without a generation. Raises ``InputError`` for the active one, and when other fields are made of it."""
        gone = self.of(generation)
        if generation == self.active:
            raise InputError(f"{generation.name} is active: make another generation active first (--activate)")
        for each in self.extra:
            if each.kind == "bits" and _source(each, self.fields) == gone.field:
                raise InputError(
                    f"the field {each.name} is made of {gone.field.name}: take it out of the package first"
                )
        return replace(self, generations=tuple(each for each in self.generations if each != gone))


def parse_field(text: str) -> EmbeddingField:
    """``NAME:DIMENSION:KIND`` (KIND may be left out: image) as a field. Raises ``InputError``."""
    match = re.fullmatch(r"([^:]+):(\d+)(?::(\w+))?", text)
    if match is None:
        raise InputError(f"'{text}' is not a field: expected NAME:DIMENSION:KIND, e.g. second:512:image")
    return EmbeddingField(match[1], int(match[2]), match[3] or "image")


def render_package(fields: Sequence[EmbeddingField]) -> dict[str, str]:
    """The application package of one generation, whose field comes first; path to text.

    Raises ``InputError`` that names the field.
    """
    return render(application_of(fields))


def application_of(fields: Sequence[EmbeddingField]) -> Application:
    """An application of one generation, whose field comes first, and of patches of the same size unless they are named.

    Raises ``InputError`` for another first field.
    """
    if not fields or fields[0].kind != "image" or fields[0].name != "embedding":
        raise InputError("the first field must be 'embedding' of kind image: the rank profiles search it")
    extra = tuple(fields[1:])
    if all(field.name != PATCHES for field in extra):
        extra = (EmbeddingField(PATCHES, fields[0].dimension, "patches"), *extra)
    return Application((Embeddings(FIRST, fields[0].dimension),), extra)


def render(application: Application) -> dict[str, str]:
    """The application package, path to text. Raises ``InputError`` that names the field."""
    _check(application)
    fields, first = application.fields, application.generations[0].generation
    models = [each.generation.model_field for each in application.generations]
    text = {path: _template(name) for path, name in _FILES.items()}
    text[SCHEMA] = Template(text[SCHEMA]).substitute(
        model_fields="\n".join(_indent(_model_field(name), 8) for name in models),
        model_summaries="\n".join(f"        summary {name} {{}}" for name in models),
        vector_summaries=_indent("\n".join(_vector_summary(each.generation) for each in application.generations), 4),
        document_fields=_indent("\n\n".join(_field(f, fields) for f in fields if f.kind != "bits"), 8),
        synthetic_fields="".join("\n" + _indent(_field(f, fields), 4) + "\n" for f in fields if f.kind == "bits"),
        inputs=_indent(_inputs(application), 12),
        field=first.field,
    )
    if application.last > 1:
        text[QUERY_PROFILE] = with_generations(text[QUERY_PROFILE], application)
        text[f"{_PROFILES}/lexical.profile"] = _listing(text[f"{_PROFILES}/lexical.profile"], application)
    for each in application.generations:
        text |= _generation_profiles(each.generation, is_base=each.generation == first)
    for field in application.extra:
        text[f"{_PROFILES}/vector_{field.name}.profile"] = _profile(field, application)
    return text


def with_generations(query_profile: str, application: Application) -> str:
    """The query profile with what it says of generations brought up to date, and all else as it is.

    Raises ``InputError`` when it is no query profile.
    """
    start, end = query_profile.find(_BEGIN), query_profile.find(_END)
    if start >= 0 and end > start:
        query_profile = query_profile[:start] + query_profile[end + len(_END) :]
    before, last, after = query_profile.rpartition(_LAST)
    if not last:
        raise InputError(f"{QUERY_PROFILE} does not end with {_LAST}: write the package again with 'clipsearch app'")
    first = application.generations[0].generation
    base = "default" if application.active == first else application.active.profile("default")
    block = [f'  <field name="ranking.profile">{base}</field>\n']
    block += [
        f'  <field name="generations.{each.generation.name}">{escape(each.model_id)}</field>\n'
        for each in application.generations
    ]
    block += [
        f'  <field name="generations.active">{application.active.name}</field>\n',
        f'  <field name="generations.last">g{application.last}</field>\n',
    ]
    return before + _BEGIN + "".join(block) + _END + last + after


def write_app(fields: Sequence[EmbeddingField], out: str | Path, *, force: bool = False) -> list[Path]:
    """Write the package for ``fields`` into folder ``out``; returns the files' paths, sorted.

    Raises ``InputError`` when the fields do not fit together, and when ``out`` holds something else than a package
    written here (``force`` overwrites it); a rank profile that no longer belongs is removed.
    """
    return write_application(application_of(fields), out, force=force)


def write_application(application: Application, out: str | Path, *, force: bool = False) -> list[Path]:
    """``write_app`` for an application that may have several generations."""
    rendered = render(application)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder to write the application package into")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "schemas" / "image.sd").is_file() and not force:
        raise InputError(f"{folder} is not empty and is no application package: name another folder, or use --force")
    for stale in (folder / _PROFILES).glob("*.profile"):
        if _OURS.fullmatch(stale.stem) and stale.relative_to(folder).as_posix() not in rendered:
            stale.unlink()
    for path, text in rendered.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")
    return sorted(folder / path for path in rendered)


def _template(name: str) -> str:
    return resources.files("clipsearch.application").joinpath(name).read_text(encoding="utf-8")


def _check(application: Application) -> None:
    names: set[str] = set()
    for each in application.generations:
        _check_dimension(each.field)
    for field in application.extra:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", field.name):
            raise InputError(f"'{field.name}' cannot name a field: use small letters, digits and _")
        if field.name in _TAKEN | names or re.fullmatch(r"((embedding|model_id)_)?g\d+", field.name):
            raise InputError(f"field '{field.name}' exists already: choose another name")
        if field.name == PATCHES and field.kind != "patches":
            raise InputError("field 'patches' holds the embeddings of parts of an image: its kind must be patches")
        if field.kind not in KINDS:
            raise InputError(f"field '{field.name}': unknown kind '{field.kind}', expected {', '.join(KINDS)}")
        _check_dimension(field)
        if field.kind == "bits" and field.dimension % 8:
            raise InputError(f"field '{field.name}': bits need a dimension that 8 divides, not {field.dimension}")
        names.add(field.name)
        if field.kind == "bits":
            _source(field, application.fields)


def _check_dimension(field: EmbeddingField) -> None:
    if not 1 <= field.dimension <= MAX_DIMENSION:
        raise InputError(f"field '{field.name}': dimension {field.dimension} is not in 1..{MAX_DIMENSION}")


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


def _model_field(name: str) -> str:
    return f"field {name} type string {{\n    indexing: attribute | summary\n    match: word\n}}"


def _vector_summary(generation: Generation) -> str:
    name = generation.summary("hit_vector")
    return f"document-summary {name} inherits hit {{\n    from-disk\n    summary {generation.field} {{}}\n}}\n"


def _inputs(application: Application) -> str:
    lines = [f"query({each.generation.tensor}) {each.field.query_tensor}" for each in application.generations]
    return "\n".join(lines + [f"query(q_{field.name}) {field.query_tensor}" for field in application.extra])


def _generation_profiles(generation: Generation, *, is_base: bool) -> dict[str, str]:
    """Profiles of one generation; the base of the first one's is ``default`` itself."""
    templates = _GENERATION_FILES if is_base else {"default": "default_generation.profile.txt", **_GENERATION_FILES}
    values = {
        "name": generation.name, "suffix": generation.suffix, "field": generation.field, "tensor": generation.tensor,
        "base": "default" if is_base else generation.profile("default"), "complete": COMPLETE,
    }  # fmt: skip
    return {
        f"{_PROFILES}/{generation.profile(ranking)}.profile": Template(_template(name)).substitute(values)
        for ranking, name in templates.items()
    }


def _listing(lexical: str, application: Application) -> str:
    """The profile ``lexical`` with every generation's closeness: from one hit, clients learn which there are."""
    features = "".join(f"        closeness(field,{each.field.name})\n" for each in application.generations)
    body = lexical.rstrip().removesuffix("}").rstrip()
    return f"{body}\n\n    match-features {{\n        bm25(captions)\n{features}        {_COMPLETE}\n    }}\n}}\n"


def _profile(field: EmbeddingField, application: Application) -> str:
    """Nearest neighbours in ``field``; for bits, the best 1000 are put in the order of the full vectors."""
    rerank = ""
    winner = f"        closest({field.name})\n" if field.kind == "patches" else ""
    if field.kind == "bits":
        source = _source(field, application.fields)
        tensors = {each.field: each.generation.tensor for each in application.generations}
        query = tensors.get(source, f"q_{source.name}")
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
        f"{winner}"
        "    }\n"
        "}\n"
    )


def _indent(text: str, width: int) -> str:
    return "\n".join(" " * width + line if line else line for line in text.split("\n"))
