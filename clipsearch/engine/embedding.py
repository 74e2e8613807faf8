"""Text to tensors inside the engine, as Vespa's ``hugging-face-embedder``: onnxruntime and tokenizers.

Source: Vespa's ``HuggingFaceEmbedder``, ``PoolingStrategy``, ``EmbedExpression`` (feeding) and ``TensorConverter``
(``input.query(q)=embed(@text)``). Model and tokenizer are bytes of the application package; a model cannot read any
other file. A model is loaded when it is first used, or when ``check_embedders`` tries it at deploy.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.tensors.types import Dimension, TensorType
from clipsearch.engine.tensors.value import Tensor, cast
from clipsearch.errors import EngineError, ExpressionError, PackageError

if TYPE_CHECKING:
    import onnxruntime
    import tokenizers

Vector = NDArray[np.float32]
CACHE_BYTES = 16 * 1024 * 1024
_WITH_ID = re.compile(r"([A-Za-z0-9_\-.]+),\s*([\"'].*[\"']|@.*)", re.DOTALL)
_KINDS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}


@dataclass(frozen=True, slots=True)
class EmbedderConfig:
    """One ``<component type="hugging-face-embedder">``; names and defaults are Vespa's.

    ``model``, ``tokenizer``: paths in the application package. ``prepend_*``: put before the text, with a space.
    ``threads``: of one evaluation; 0: one.
    """

    id: str
    model: str
    tokenizer: str
    max_tokens: int = 512
    input_ids: str = "input_ids"
    attention_mask: str = "attention_mask"
    token_type_ids: str = "token_type_ids"
    output: str = "last_hidden_state"
    pooling: str = "mean"
    normalize: bool = False
    prepend_query: str = ""
    prepend_document: str = ""
    threads: int = 0


class Embedder:
    """One embedder; safe to use from many threads. ``embed`` raises ``ExpressionError``.

    ``model`` and ``tokenizer`` are the files' contents.
    """

    def __init__(self, config: EmbedderConfig, model: bytes, tokenizer: bytes) -> None:
        self.config = config
        self._files = (model, tokenizer)
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None
        self._cache: OrderedDict[str, Vector] = OrderedDict()
        self._cached_bytes = 0

    def embed(self, text: str, target: TensorType, *, query: bool = False) -> Tensor:
        """``text`` as a tensor of type ``target``, which has one indexed dimension.

        A smaller target takes the first values, then normalises; int8 takes eight values to one cell, a positive
        value's bit is 1, the first is the highest. Blank text is all zeros. ``query``: which prefix to prepend.
        """
        if len(target.dimensions) != 1:
            raise ExpressionError(f"Error in embedding to type '{target}': should only have one dimension.")
        if target.mapped:
            raise ExpressionError(f"Error in embedding to type '{target}': dimension should be indexed.")
        (size,) = target.shape
        if not text.strip():
            return Tensor(target, cast(np.zeros(size, np.float32), target.cell))
        wanted = size * 8 if target.cell == "int8" else size
        vector = self._vector(self._prepended(text, query))
        if wanted > len(vector):
            packed = f"Cannot pack {len(vector)} values into {size} int8's"
            short = f"Cannot embed to {size} values: the model gives {len(vector)}"
            raise ExpressionError(
                f"Error in embedding to type '{target}' by '{self.config.id}': "
                f"{packed if target.cell == 'int8' else short}"
            )
        vector = vector[:wanted]
        if target.cell == "int8":
            return Tensor(target, np.packbits(vector > 0).view(np.int8))
        if self.config.normalize:
            length = float(np.sqrt(np.sum(vector.astype(np.float64) ** 2)))
            vector = (vector / length).astype(np.float32) if length > 0 else vector
        return Tensor(target, cast(vector, target.cell))

    def open(self) -> None:
        """Loads model and tokenizer. Raises ``ExpressionError`` that says what is wrong with them."""
        self._load()

    def _prepended(self, text: str, query: bool) -> str:
        prefix = (query and self.config.prepend_query) or self.config.prepend_document  # Vespa's own fallback
        return f"{prefix} {text}" if prefix else text

    def _vector(self, text: str) -> Vector:
        """The pooled output for ``text``, from the cache when it is there."""
        with self._lock:
            found = self._cache.get(text)
            if found is not None:
                self._cache.move_to_end(text)
                return found
        vector = self._load().evaluate(text)
        with self._lock:
            if text not in self._cache:
                self._cache[text] = vector
                self._cached_bytes += vector.nbytes + 4 * len(text)
            while self._cached_bytes > CACHE_BYTES:
                old, gone = self._cache.popitem(last=False)
                self._cached_bytes -= gone.nbytes + 4 * len(old)
        return vector

    def _load(self) -> _Loaded:
        loaded = self._loaded
        if loaded is None:
            with self._lock:
                if self._loaded is None:
                    try:
                        self._loaded = _Loaded(self.config, *self._files)
                    except ExpressionError as error:
                        raise ExpressionError(f"embedder '{self.config.id}': {error}") from error
                loaded = self._loaded
        return loaded


class _Loaded:
    """A model and its tokenizer, ready to run."""

    def __init__(self, config: EmbedderConfig, model: bytes, tokenizer: bytes) -> None:
        self.config = config
        self.session = _session(config, model)
        self.tokenizer = _tokenizer(config, tokenizer)
        self.inputs = {each.name: each.type for each in self.session.get_inputs()}
        names = (config.input_ids, config.attention_mask, config.token_type_ids)[: len(self.inputs)]
        if len(self.inputs) > 3:
            raise ExpressionError(f"Model needs more than 3 inputs: [{', '.join(self.inputs)}]")
        for name in names:
            _require(name, self.inputs, "input")
            if self.inputs[name] not in _KINDS:
                raise ExpressionError(f"Model input '{name}' is a {self.inputs[name]}: int64, int32 or float is needed")
        outputs = {each.name: each.shape for each in self.session.get_outputs()}
        _require(config.output, outputs, "output")
        self.names, self.rank = names, len(outputs[config.output])
        if self.rank == 2 and config.pooling != "none":
            raise ExpressionError("Expected pooling-strategy 'none' with 2 output dimensions")
        if self.rank == 3 and config.pooling == "none":
            raise ExpressionError("Unexpected pooling-strategy 'none' with 3 output dimensions")
        if self.rank not in (2, 3):
            raise ExpressionError(f"Expected 2 or 3 output dimensions for '{config.output}', but got {self.rank}")

    def evaluate(self, text: str) -> Vector:
        """The pooled output for one text, as long as the model's last dimension."""
        try:
            encoding = self.tokenizer.encode(text)
        except Exception as error:  # tokenizers' errors are of no class of their own either
            raise ExpressionError(f"embedder '{self.config.id}': the tokenizer fails: {_first_line(error)}") from error
        rows = (encoding.ids, encoding.attention_mask, encoding.type_ids)
        if not encoding.ids:
            raise ExpressionError(f"embedder '{self.config.id}': the tokenizer gives no token for '{text[:60]}'")
        feed = {name: np.asarray([row], _KINDS[self.inputs[name]]) for name, row in zip(self.names, rows, strict=False)}
        try:
            (output,) = self.session.run([self.config.output], feed)
        except Exception as error:  # onnxruntime's errors share no class but Exception
            raise ExpressionError(f"embedder '{self.config.id}': the model fails: {_first_line(error)}") from error
        if output.ndim != self.rank or not output.shape[-1]:
            raise ExpressionError(
                f"Expected {self.rank} output dimensions for output name '{self.config.output}', got {output.ndim}"
            )
        if self.rank == 2:
            pooled = output[0]
        elif self.config.pooling == "cls":
            pooled = output[0, 0]
        else:
            pooled = output[0].astype(np.float64).sum(axis=0) / max(sum(encoding.attention_mask), 1)
        return np.ascontiguousarray(pooled, np.float32)


def _require(name: str, found: Mapping[str, Any], kind: str) -> None:
    if name not in found:
        raise ExpressionError(f"Model does not contain required {kind}: '{name}'. Model contains: {','.join(found)}")


def _session(config: EmbedderConfig, model: bytes) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(config.threads, 1)
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as nothing:
        # Weights outside the model file are looked for here, and nowhere else: a package reads no other files.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", nothing)
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no class but Exception
            raise ExpressionError(f"{config.model} cannot be loaded as an ONNX model: {_first_line(error)}") from error


def _tokenizer(config: EmbedderConfig, content: bytes) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        text = content.decode("utf-8")
        json.loads(text)
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises plain Exception
        raise ExpressionError(f"{config.tokenizer} cannot be loaded as a tokenizer: {_first_line(error)}") from error
    tokenizer.no_padding()
    own = tokenizer.truncation or {}
    length = int(own.get("max_length", -1))
    if own.get("strategy") != "longest_first" or length < 0:
        limit = length if 0 < length <= config.max_tokens else config.max_tokens
        tokenizer.enable_truncation(max_length=limit)
    return tokenizer


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


def embed_array(embedder: Embedder, texts: Sequence[str], target: TensorType) -> Tensor:
    """One block for each text, labelled by its place: ``target`` has one mapped and one indexed dimension."""
    inner = TensorType(target.indexed, target.cell)
    blocks = [embedder.embed(text, inner).cells for text in texts]
    empty = np.zeros((0, *target.shape), np.int8 if target.cell == "int8" else np.float32)
    cells = np.stack(blocks) if blocks else cast(empty, target.cell)
    return Tensor(target, cells, tuple((str(place),) for place in range(len(texts))))


def choose(embedders: Mapping[str, Embedder], name: str) -> Embedder:
    """The embedder ``name``, or the only one when it is "". Raises ``ExpressionError`` in Vespa's words."""
    known = ",".join(sorted(embedders))
    if not embedders:
        raise ExpressionError(
            "No embedders are configured: services.xml has no component of type hugging-face-embedder"
        )
    if name and name not in embedders:
        raise ExpressionError(f"Can't find embedder '{name}'. Available embedder ids are '{known}'.")
    if not name and len(embedders) > 1:
        raise ExpressionError(
            "Multiple embedders are provided but no embedder id is given. "
            f"Usage: embed(embedder-id, 'text'). Available embedder ids are '{known}'."
        )
    return embedders[name or known]


def is_embed(value: object) -> bool:
    """Whether a query input is to be embedded."""
    return isinstance(value, str) and value.startswith("embed(")


def embed_input(
    value: str, target: TensorType, embedders: Mapping[str, Embedder], parameters: Mapping[str, Any]
) -> Tensor:
    """A query input ``embed(text)``, ``embed('text')``, ``embed(id, 'text')`` or with ``@parameter`` for the text.

    ``parameters``: the query's own. Raises ``ExpressionError``.
    """
    if not value.endswith(")"):
        raise ExpressionError("Expected any string enclosed in embed(), but the argument does not end by ')'")
    argument, name = value[len("embed(") : -1], ""
    match = _WITH_ID.fullmatch(argument)
    if match is not None:
        name, argument = match[1], match[2]
    embedder = choose(embedders, name)
    if argument.startswith("@"):
        found = parameters.get(argument[1:])
        if found is None:
            raise ExpressionError(
                f"Could not resolve query parameter reference '{argument[1:]}' used in an embed() argument"
            )
        argument = str(found)
    elif len(argument) > 1 and argument[0] == argument[-1] and argument[0] in "'\"":
        argument = argument[1:-1]
    return embedder.embed(argument, target, query=True)


def unpacked(target: TensorType) -> TensorType:
    """The float type that packs into int8 ``target``: eight values for each cell."""
    (dimension,) = target.indexed
    return TensorType(
        tuple(d if d.mapped else Dimension(d.name, 8 * (dimension.size or 0)) for d in target.dimensions), "float"
    )


def check_embedders(embedders: Mapping[str, Embedder]) -> None:
    """Loads every embedder and embeds one word. Raises ``PackageError`` that names the embedder and what is wrong."""
    for embedder in embedders.values():
        try:
            embedder.open()
            embedder.embed("a", TensorType((Dimension("x", 1),), "float"))
        except (EngineError, MemoryError) as error:
            raise PackageError(str(error) or "not enough memory for the model", file="services.xml") from error
