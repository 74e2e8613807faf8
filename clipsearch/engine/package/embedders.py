"""``<component>`` elements of services.xml: hugging-face-embedder is read, every other kind is refused by its name.

Source: Vespa's embedding reference, and ``HuggingFaceEmbedder`` of its config model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from clipsearch.engine.embedding import Embedder, EmbedderConfig
from clipsearch.errors import PackageError

KIND = "hugging-face-embedder"
_FILE = "services.xml"
_EXECUTION = frozenset(["onnx-execution-mode", "onnx-interop-threads", "onnx-gpu-device"])  # speed only


LINE = " line"  # an attribute that no XML has: where the element begins


def line_of(element: Element) -> int:
    """The line of ``element``; 0 when it is not known."""
    return int(element.get(LINE, "0"))


def parse_embedder(component: Element, files: Mapping[str, bytes]) -> Embedder:
    """The embedder of one component. Raises ``PackageError``: another kind, or what it cannot be."""
    name, kind = component.get("id", ""), component.get("type")
    if kind != KIND:
        shown = " ".join(filter(None, (name, kind or component.get("class"))))
        message = f"<component> {shown}: not supported by the local engine, only type='{KIND}' is"
        raise PackageError(message, file=_FILE, line=line_of(component))
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        raise _refused(component, name, "needs an id of letters, digits, '_', '-' and '.'")
    config = EmbedderConfig(name, **_settings(component, name, files))
    return Embedder(config, files[config.model], files[config.tokenizer])


def _settings(component: Element, name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in component:
        tag = re.sub(r"^\{.*\}", "", each.tag)
        text = (each.text or "").strip()
        if tag in ("transformer-model", "tokenizer-model"):
            found[tag.split("-")[0].replace("transformer", "model")] = _path(each, name, files)
        elif tag == "prepend":
            found |= {f"prepend_{inner.tag}": (inner.text or "").strip() for inner in each if inner.tag in _PREPEND}
        elif tag in _READ:
            key, read = _READ[tag]
            try:
                found[key] = read(text)
            except ValueError as error:
                raise _refused(each, name, f"<{tag}>: {error}") from error
        elif tag not in _EXECUTION:
            raise _refused(each, name, f"<{tag}> is not supported by the local engine")
    for key, tag in (("model", "transformer-model"), ("tokenizer", "tokenizer-model")):
        if key not in found:
            raise _refused(component, name, f"needs <{tag} path='...'>")
    return found


def _path(element: Element, name: str, files: Mapping[str, bytes]) -> str:
    """The model's path in the package, which holds it."""
    path = element.get("path")
    if path is None:
        given = next((key for key in ("url", "model-id", "secret-ref") if element.get(key)), "no path")
        message = f"a model by {given} is not supported by the local engine: put the file into the package, by path"
        raise _refused(element, name, f"<{element.tag}>: {message}")
    normal = PurePosixPath(path).as_posix()
    if normal not in files:
        raise _refused(element, name, f"<{element.tag}>: the application package has no file '{path}'")
    return normal


def _refused(element: Element, name: str, message: str) -> PackageError:
    return PackageError(f"component '{name}': {message}", file=_FILE, line=line_of(element))


def _positive(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise ValueError(f"'{text}' is not a number of tokens")
    return int(text)


def _threads(text: str) -> int:
    """A negative number is a share of the machine's cores in Vespa; here that is one."""
    if not re.fullmatch(r"-?[0-9]{1,3}", text):
        raise ValueError(f"'{text}' is not a number of threads")
    return min(max(int(text), 0), 16)


def _truth(text: str) -> bool:
    return text.lower() == "true"


def _pooling(text: str) -> str:
    if text not in ("mean", "cls", "none"):
        raise ValueError(f"'{text}' is not a pooling strategy: expected mean, cls or none")
    return text


_PREPEND = frozenset(["query", "document"])
_READ: dict[str, tuple[str, Callable[[str], Any]]] = {
    "max-tokens": ("max_tokens", _positive),
    "transformer-input-ids": ("input_ids", str),
    "transformer-attention-mask": ("attention_mask", str),
    "transformer-token-type-ids": ("token_type_ids", str),
    "transformer-output": ("output", str),
    "pooling-strategy": ("pooling", _pooling),
    "normalize": ("normalize", _truth),
    "onnx-intraop-threads": ("threads", _threads),
}
