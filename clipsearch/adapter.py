"""A residual adapter on stored embeddings: loaded and applied in numpy, at query and at feed time.

Each tower has a bottleneck ``r(v) = relu(f(v) @ down - bias) @ up``; an embedding ``v`` becomes ``(1 - alpha) v + alpha
norm(v + r(v))``, scaled to length 1 (the residual feature adapter of CLIP-Adapter, Gao et al. 2021, with the
interpolation of WiSE-FT, Wortsman et al. 2022, between outputs). ``f`` is the embedding itself, or the embedding
centred and whitened, where a ``bias`` makes the bottleneck's units answer to the images of one class only. Images that
were encoded once are adapted while they are fed, queries when they are asked; no image is opened again.
``clipsearch.training.adapting`` makes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.errors import CheckpointError
from clipsearch.records import Embedded

Vectors = NDArray[np.float32]
FORMAT = "clipsearch-adapter-2"
_PARTS = ("down", "up", "bias", "centre", "white")


@dataclass(frozen=True, slots=True)
class Tower:
    """One tower's bottleneck: ``down`` (D, R), ``up`` (R, D) and ``bias`` (R,), float32; None is no bias.

    ``centre`` (D,) and ``white`` (D, D): the bottleneck reads ``unit((v - centre) @ white)``; None reads ``v``.
    """

    down: Vectors
    up: Vectors
    bias: Vectors | None = None
    centre: Vectors | None = None
    white: Vectors | None = None

    @classmethod
    def empty(cls, dim: int) -> Tower:
        """The tower that changes nothing."""
        return cls(np.zeros((dim, 0), np.float32), np.zeros((0, dim), np.float32))

    def __call__(self, vectors: Any, alpha: float) -> Vectors:
        """(N, D) -> (N, D) float32, unit norm."""
        given = unit(np.asarray(vectors, np.float32))
        if not alpha or not self.up.size:
            return given
        adapted = unit(given + self.residual(given))
        return unit((1 - alpha) * given + alpha * adapted)

    def residual(self, given: Vectors) -> Vectors:
        """(N, D) unit norm -> (N, D): what the bottleneck adds."""
        read = given if self.white is None or self.centre is None else unit((given - self.centre) @ self.white)
        units = read @ self.down if self.bias is None else read @ self.down - self.bias
        added: Vectors = np.maximum(units, 0.0) @ self.up
        return added

    def arrays(self) -> dict[str, Vectors]:
        """Its arrays by name, those that are None left out."""
        return {name: part for name in _PARTS if (part := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True)
class Adapter:
    """What ``clipsearch adapt`` made for one model.

    ``base``: id of the model whose embeddings it adapts; ``alpha``: 0 leaves them as they are, 1 takes adapted ones;
    ``about``: how it was made, plain values.
    """

    base: str
    image: Tower
    text: Tower
    alpha: float
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        """Size of the embeddings."""
        return int(self.image.down.shape[0])

    @property
    def model_id(self) -> str:
        """The adapted model's own id, ``<base>+<8 hex digits>``: adapted and plain embeddings do not mix unnoticed."""
        digest = hashlib.sha256(np.float32(self.alpha).tobytes())
        for part in _arrays(self).values():
            digest.update(np.ascontiguousarray(part).tobytes())
        return f"{self.base}+{digest.hexdigest()[:8]}"

    def apply_images(self, vectors: Any) -> Vectors:
        """Image embeddings (N, D) -> (N, D) float32, unit norm."""
        return self.image(self._sized(vectors), self.alpha)

    def apply_texts(self, vectors: Any) -> Vectors:
        """Text embeddings (N, D) -> (N, D) float32, unit norm."""
        return self.text(self._sized(vectors), self.alpha)

    def apply_row(self, row: Embedded) -> Embedded:
        """One row of a shard, its embedding and model id adapted. Raises ``CheckpointError`` for another model's."""
        self.check(row.model_id, f"the embedding of {row.record.id}")
        patches = self.apply_images(row.patches) if row.patches is not None and len(row.patches) else row.patches
        texts = self.apply_texts(row.texts) if row.texts is not None and len(row.texts) else row.texts
        return replace(
            row,
            embedding=self.apply_images(row.embedding[None])[0],
            patches=patches,
            texts=texts,
            model_id=self.model_id,
        )

    def check(self, model_id: str, what: str = "the model") -> None:
        """Raise ``CheckpointError`` unless ``what``, which is ``model_id``'s, comes from the model adapted here."""
        if model_id == self.model_id:
            raise CheckpointError(f"{what} is adapted already ({model_id}): leave out --adapter")
        if model_id != self.base:
            raise CheckpointError(
                f"the adapter was made for the model {self.base}, and {what} is of {model_id}: use that model, "
                "or make an adapter for this one with 'clipsearch adapt'"
            )

    def _sized(self, vectors: Any) -> Vectors:
        array = np.asarray(vectors, np.float32)
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise CheckpointError(f"the adapter takes embeddings of {self.dim} numbers, not an array {array.shape}")
        return array


class AdaptedModel:
    """A model with an adapter behind its towers; an ``Encoder`` as ``QueryEncoder`` and the evaluation take it."""

    def __init__(self, model: Any, adapter: Adapter) -> None:
        adapter.check(model.model_id)
        self._model = model
        self._adapter = adapter
        self.model_id = adapter.model_id
        self.dim = adapter.dim

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)  # preprocess, image_size and the like are the model's own

    def embed_texts(self, texts: Sequence[str], **more: Any) -> Vectors:
        """(N, D) float32, unit norm, adapted, for N texts."""
        return self._adapter.apply_texts(self._model.embed_texts(texts, **more))

    def embed_images(self, images: Sequence[Any]) -> Vectors:
        """(N, D) float32, unit norm, adapted, for N images of (H, W, 3) uint8."""
        return self._adapter.apply_images(self._model.embed_images(images))

    def embed_pixels(self, pixels: Any, **more: Any) -> Vectors:
        """(N, D) float32, unit norm, adapted, for (N, S, S, 3) uint8."""
        return self._adapter.apply_images(self._model.embed_pixels(pixels, **more))


def adapted(model: Any, path: str | Path | None) -> Any:
    """``model`` behind the adapter in the file ``path``; the model itself where ``path`` is None."""
    return AdaptedModel(model, load_adapter(path)) if path else model


def save_adapter(path: str | Path, adapter: Adapter) -> Path:
    """Write the adapter as one safetensors file, in one step; its folder is made."""
    from safetensors.numpy import save

    path = Path(path)
    about = {"format": FORMAT, "base": adapter.base, "alpha": repr(adapter.alpha), "about": json.dumps(adapter.about)}
    arrays = {name: np.ascontiguousarray(part, np.float32) for name, part in _arrays(adapter).items()}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(save(arrays, about))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def load_adapter(path: str | Path) -> Adapter:
    """Read what ``save_adapter`` wrote. Raises ``CheckpointError`` for a file that is missing, damaged or another's."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no adapter file {path}: make one with 'clipsearch adapt SHARDS --out {path}'")
    try:
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if about.get("format") != FORMAT:
            raise CheckpointError(f"{path} is no adapter that 'clipsearch adapt' wrote")
        image, text = _tower(parts, "image"), _tower(parts, "text")
        adapter = Adapter(about["base"], image, text, float(about["alpha"]), json.loads(about["about"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): make it again with 'clipsearch adapt'") from error
    _whole(path, adapter)
    return adapter


def unit(vectors: Any) -> Vectors:
    """(..., D) scaled to length 1; a vector of zeros stays zero."""
    array = np.asarray(vectors, np.float32)
    length = np.linalg.norm(array, axis=-1, keepdims=True)
    scaled: Vectors = np.divide(array, length, out=np.zeros_like(array), where=length > 0)
    return scaled


def _arrays(adapter: Adapter) -> dict[str, Vectors]:
    towers = {"image": adapter.image, "text": adapter.text}
    return {f"{side}.{name}": part for side, tower in towers.items() for name, part in tower.arrays().items()}


def _tower(parts: Mapping[str, Vectors], side: str) -> Tower:
    """The tower among ``parts``. Raises ``KeyError`` where one of the two matrices is missing."""
    more = {name: parts.get(f"{side}.{name}") for name in _PARTS[2:]}
    return Tower(parts[f"{side}.down"], parts[f"{side}.up"], **more)


def _whole(path: Path, adapter: Adapter) -> None:
    """Raise ``CheckpointError`` for arrays that do not fit each other, or numbers that are not finite."""
    towers = adapter.image, adapter.text
    fit = all(_fits(tower, adapter.dim) for tower in towers)
    finite = all(np.isfinite(part).all() for tower in towers for part in tower.arrays().values())
    if not fit or not finite or not 0 <= adapter.alpha <= 1:
        raise CheckpointError(f"{path} is damaged (its matrices do not fit): make it again with 'clipsearch adapt'")


def _fits(tower: Tower, dim: int) -> bool:
    if tower.down.ndim != 2 or (tower.centre is None) != (tower.white is None):
        return False
    rank = tower.down.shape[1]
    shapes = {"down": (dim, rank), "up": (rank, dim), "bias": (rank,), "centre": (dim,), "white": (dim, dim)}
    return all(part.shape == shapes[name] for name, part in tower.arrays().items())
