"""One ONNX file: made smaller, and compared with the embeddings that it should give."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clipsearch.errors import CheckpointError

Array = NDArray[Any]
SECONDS = 0.3  # of CPU time for each measurement of speed


@dataclass(frozen=True, slots=True)
class Feed:
    """Inputs by name, and what the model makes of them: (N, dim) float32 unit norm. ``unit``: what a row is."""

    inputs: Mapping[str, Array]
    expected: NDArray[np.float32]
    unit: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """How close a file comes to the model, on ``rows`` samples, and how fast it is: samples per second of one core.

    ``torch_per_core_second``: the model's own speed on the same samples, 0 where it was not measured.
    """

    name: str
    megabytes: float
    cosine_min: float
    cosine_mean: float
    rows: int
    unit: str
    per_core_second: float
    torch_per_core_second: float

    def as_json(self) -> dict[str, Any]:
        """All figures, rounded to what they are worth."""
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()}


def compare(path: Path, feeds: Sequence[Feed], tower: nn.Module | None) -> Agreement:
    """Run a file on the feeds, with one thread. ``tower``: also measures the speed of the module it came from.

    Raises ``CheckpointError`` when onnxruntime is missing or cannot run the file.
    """
    session = _session(path)
    try:
        outputs = [session.run(None, dict(feed.inputs))[0] for feed in feeds]
    except Exception as error:  # onnxruntime's errors share no class but Exception
        raise CheckpointError(f"onnxruntime cannot run {path.name}: {_first_line(error)}") from error
    found, expected = np.concatenate(outputs), np.concatenate([feed.expected for feed in feeds])
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    same = (found == expected).all(axis=1)  # also where a dead tower gives zeros, which have no direction
    cosines = np.where(same, 1, (found * expected).sum(axis=1) / np.maximum(lengths, 1e-12))
    return Agreement(
        name=path.name,
        megabytes=path.stat().st_size / 1e6,
        cosine_min=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
        rows=len(found),
        unit=feeds[0].unit,
        per_core_second=_speed(lambda feed: session.run(None, dict(feed.inputs)), feeds),
        torch_per_core_second=_torch_speed(tower, feeds) if tower is not None else 0.0,
    )


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError(
            "onnxruntime is missing, and every export is checked with it: `pip install 'clipsearch[convert]'`"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CheckpointError(f"onnxruntime cannot load {path.name}: {_first_line(error)}") from error


def _torch_speed(tower: nn.Module, feeds: Sequence[Feed]) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return _speed(lambda feed: tower(*(torch.from_numpy(value) for value in feed.inputs.values())), feeds)
    finally:
        torch.set_num_threads(threads)


def _speed(run: Any, feeds: Sequence[Feed]) -> float:
    """Rows per second of CPU time, which other programs on the machine change little."""
    run(feeds[0])
    rows, start = 0, time.process_time()
    while True:
        for feed in feeds:
            run(feed)
            rows += len(feed.expected)
            spent = time.process_time() - start
            if spent > SECONDS:
                return rows / spent


def quantise(path: Path, target: Path) -> Path:
    """Write a twin whose matrix products have int8 weights, one scale per output channel, and int8 activations.

    Scales of activations are found at run time (dynamic quantisation), so that no calibration data are needed.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    del model.graph.value_info[:]  # torch's exporter leaves shapes there that contradict onnx's own inference
    kinds = ["MatMul", "Gemm"]
    try:
        with silent():
            quantize_dynamic(model, target, op_types_to_quantize=kinds, per_channel=True, weight_type=QuantType.QInt8)
    except Exception as error:  # onnxruntime's errors share no class but Exception
        raise CheckpointError(f"{path.name} cannot be quantised: {_first_line(error)}") from error
    return target


@contextmanager
def silent() -> Iterator[None]:
    """Without the exporters' advice and their warnings about libraries that are not needed."""
    loggers = [logging.getLogger(name) for name in ("", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
