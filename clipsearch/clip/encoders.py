"""A checkpoint made ready to embed very many images: in bf16, compiled, or as int8 in ONNX Runtime.

All give the model's own embeddings closely enough to be searched with its queries; how closely is measured on a sample
at the start and can be printed. An image's embedding does not depend on which images share its batch: int8 takes the
scales of its activations from its input, so there each image goes through alone, one in each thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipsearch.clip.model import Clip, Embeddings, load_clip
from clipsearch.clip.pixels import Pixels
from clipsearch.errors import CheckpointError, InputError

BACKENDS = ("torch", "onnx", "onnx-int8")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
LEAST_COSINE = 0.9995  # below it `auto` stays with float32
_ONNX_ROWS = 8  # images at once in float32; more is no faster
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Sample = Callable[[Callable[[Pixels], Pixels]], Pixels | None]


class Encoder:
    """What ``clipsearch.encoding`` asks of a model, and how close it comes to the float32 model.

    ``encoder``: how it runs, for people; ``quantised``: whether in 8 bits; ``cosine``: the least to the float32 model
    over the sample, 1.0 where nothing differs.
    """

    encoder = "torch fp32"
    quantised = False
    cosine = 1.0

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.model_id, self.dim, self.settings = clip.model_id, clip.dim, clip.settings

    def preprocess(self, image: Pixels) -> Pixels:
        """(H, W, 3) uint8 RGB -> (S, S, 3) uint8; can run in decode threads."""
        return self.clip.preprocess(image)

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """N texts -> (N, dim) float32 unit norm; by the checkpoint itself, whatever runs the images."""
        return self.clip.embed_texts(texts)

    def embed_pixels(self, pixels: Pixels) -> Embeddings:
        """(N, S, S, 3) uint8 -> (N, dim) float32 unit norm."""
        return self.clip.embed_pixels(pixels)


class TorchEncoder(Encoder):
    """The image tower in another number format, perhaps compiled; texts as the precision makes them.

    A compiled tower sees batches of one size (``rows``), the last one filled up. Where the device's memory does not
    hold a batch, it is halved until it does.
    """

    def __init__(self, clip: Clip, precision: str, compiled: bool, rows: int = 64) -> None:
        super().__init__(clip)
        self._dtype = _TYPES[precision]
        self._rows = rows
        self._compiled = compiled
        self._own = clip.model.config.model_type == "clip"  # other towers need not bear foreign weights: autocast
        if self._own:
            clip.model.to(self._dtype)
        self._features: Callable[[Tensor], Tensor] = (
            torch.compile(clip.image_features) if compiled else clip.image_features
        )
        self.encoder = f"torch {precision}{', compiled' if compiled else ''}"

    @torch.inference_mode()
    def embed_pixels(self, pixels: Pixels) -> Embeddings:
        """(N, S, S, 3) uint8 -> (N, dim) float32 unit norm."""
        parts, start = [np.zeros((0, self.dim), np.float32)], 0
        while start < len(pixels):
            try:
                parts.append(self._embed(pixels[start : start + self._rows]))
                start += self._rows
            except torch.OutOfMemoryError:
                if self._rows == 1:
                    raise CheckpointError("the device's memory does not hold one image: give --device cpu") from None
                self._rows //= 2
                torch.cuda.empty_cache()
        return np.concatenate(parts)

    def _embed(self, pixels: Pixels) -> Embeddings:
        count = len(pixels)
        if self._compiled and count < self._rows:
            pixels = np.concatenate([pixels, np.repeat(pixels[-1:], self._rows - count, axis=0)])
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.clip.device)
        values = self.clip.normalise(batch.permute(0, 3, 1, 2))
        if self._own:
            return self._features(values.to(self._dtype))[:count].float().cpu().numpy()
        with torch.autocast(self.clip.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            return self._features(values)[:count].float().cpu().numpy()


class OnnxEncoder(Encoder):
    """The image tower as ``clipsearch export`` writes it, run by ONNX Runtime on the CPU's cores."""

    def __init__(self, clip: Clip, file: Path, quantised: bool, threads: int = 0) -> None:
        super().__init__(clip)
        self.quantised = quantised
        self.encoder = f"onnx {'int8' if quantised else 'fp32'}"
        self._threads = threads or os.cpu_count() or 1
        self._session = _session(file)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="onnx")
        mean, std = np.array(clip.settings.mean, np.float32), np.array(clip.settings.std, np.float32)
        self._scale, self._shift = 1 / (255 * std), mean / std

    def embed_pixels(self, pixels: Pixels) -> Embeddings:
        """(N, S, S, 3) uint8 -> (N, dim) float32 unit norm."""
        rows = 1 if self.quantised else _ONNX_ROWS
        parts = self._pool.map(self._embed, [pixels[start : start + rows] for start in range(0, len(pixels), rows)])
        return np.concatenate([np.zeros((0, self.dim), np.float32), *parts])

    def _embed(self, pixels: Pixels) -> NDArray[np.float32]:
        values = (pixels.astype(np.float32) * self._scale - self._shift).transpose(0, 3, 1, 2)
        found: NDArray[np.float32] = self._session.run(None, {"pixel_values": np.ascontiguousarray(values)})[0]
        return found


def load_encoder(
    checkpoint: str | Path, device: str = "auto", *,
    backend: str = "torch", precision: str = "auto", compiled: bool = False, sample: Sample | None = None,
) -> Encoder:  # fmt: skip
    """A checkpoint folder or hub name as an ``Encoder``.

    ``sample``: given ``preprocess``, gives pixels that a fast encoder is compared with the float32 model on; made-up
    pictures otherwise. ``precision`` ``auto``: bf16 where the device multiplies it natively and the sample agrees to
    .9995, else float32. Raises ``InputError`` for options that do not go together, and ``CheckpointError``.
    """
    if backend not in BACKENDS or precision not in PRECISIONS:
        raise InputError(
            f"there is no backend {backend!r} with precision {precision!r}: choose from {', '.join(BACKENDS)} and "
            f"{', '.join(PRECISIONS)}"
        )
    if backend != "torch" and (precision not in {"auto", "fp32"} or compiled):
        raise InputError(f"--backend {backend} has its own precision and compiler: leave out --precision and --compile")
    if backend != "torch" and device.startswith("cuda"):
        raise InputError(f"--backend {backend} runs on the CPU: leave out --device {device}")
    clip = load_clip(checkpoint, "cpu" if backend != "torch" else device)
    if backend == "torch":
        wanted = _native(clip) if precision == "auto" else precision
        if wanted == "fp32" and not compiled:
            return Encoder(clip)
    pixels = _sample(clip, sample)
    expected = clip.embed_pixels(pixels)
    if backend != "torch":
        return _measured(
            OnnxEncoder(clip, _exported(clip, backend == "onnx-int8"), backend == "onnx-int8"), pixels, expected
        )
    fast = _measured(_torch_encoder(clip, wanted, compiled, pixels), pixels, expected)
    if precision == "auto" and wanted != "fp32" and fast.cosine < LEAST_COSINE:  # an odd model: exactness first
        return Encoder(load_clip(checkpoint, device))
    return fast


def _torch_encoder(clip: Clip, precision: str, compiled: bool, pixels: Pixels) -> TorchEncoder:
    encoder = TorchEncoder(clip, precision, compiled)
    if compiled:
        try:
            encoder.embed_pixels(pixels)
        except Exception as error:  # torch's compiler raises its own and its tools' errors
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise CheckpointError(
                f"torch cannot compile the image tower here ({reason}): leave out --compile"
            ) from error
    return encoder


def _native(clip: Clip) -> str:
    """bf16 where the device has instructions for it; on a CPU it pays for towers of matrix products only."""
    if clip.device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    useful = clip.device.type == "cpu" and clip.model.config.model_type == "clip"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace") if useful else ""
    except OSError:
        return "fp32"
    return "bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "fp32"


def _sample(clip: Clip, sample: Sample | None) -> Pixels:
    pixels = sample(clip.preprocess) if sample else None
    if pixels is None:
        from clipsearch.clip.export import made_up_samples

        pixels = made_up_samples(clip).pixels
    return pixels


def _measured(encoder: Encoder, pixels: Pixels, expected: Embeddings) -> Encoder:
    """Write down how close an encoder comes. ``CheckpointError`` when it gives something else altogether."""
    found = encoder.embed_pixels(pixels)
    encoder.cosine = float((found * expected).sum(axis=1).min())
    if not encoder.cosine > 0.9:  # also when it is not a number
        raise CheckpointError(
            f"{encoder.encoder} does not give this model's embeddings (cosine {encoder.cosine:.4f}): use "
            "--backend torch --precision fp32"
        )
    return encoder


def _exported(clip: Clip, int8: bool) -> Path:
    """The image tower's ONNX file, out of the user's cache or written to it; its name has the weights' hash."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    cache = (Path(home) if home else Path.home() / ".cache") / "clipsearch" / "onnx"
    folder = cache / f"{clip.model_id}{'-int8' if int8 else ''}"
    file = folder / ("image.int8.onnx" if int8 else "image.onnx")
    if not file.is_file():
        from clipsearch.clip.export import export_onnx

        try:
            cache.mkdir(parents=True, exist_ok=True)
            export_onnx(clip, folder, int8=int8, towers=("image",))
        except CheckpointError:
            if not file.is_file():  # else another process was faster
                raise
        except OSError as error:
            raise CheckpointError(
                f"the exported model cannot be kept in {cache} ({error.strerror}): "
                "set XDG_CACHE_HOME to a folder with room"
            ) from error
    return file


def _session(file: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError(
            "onnxruntime is missing: `pip install 'clipsearch[convert]'`, or --backend torch"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # threads work on different images instead
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class but Exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{file} cannot be run ({reason}): remove it, and it is written again") from error
