"""Checkpoint folders: find them on disk or on the hub, name them by their weights, write them in one move."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from clipsearch.errors import CheckpointError

MODEL_TYPES = ("clip", "vision-text-dual-encoder")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_HUB_FILES = ["*.json", "merges.txt", "*.safetensors"]
_FETCH_ADVICE = (
    "download it on a machine with a connection (`hf download {name} --local-dir FOLDER`) and give FOLDER, "
    "or train without weights: `clipsearch finetune CORPUS --preset tiny`"
)


def resolve(name: str | Path) -> tuple[Path, str]:
    """The local folder, and the slug, of a checkpoint folder or hub name (``owner/name`` or ``owner/name@revision``).

    Raises ``CheckpointError`` when it is neither, or when the hub cannot be reached and has not been cached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder, slug(folder.resolve().name)
    text = str(name)
    if not _HUB_NAME.fullmatch(text) or folder.exists():
        raise CheckpointError(
            f"there is no checkpoint folder {text}, and it is no hub name such as openai/clip-vit-base-patch32"
        )
    return _from_hub(text), slug(text.partition("@")[0].split("/")[1])


def _from_hub(name: str) -> Path:
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    try:
        return _download(repository, revision)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise CheckpointError(f"the hub has no model {name} (or it needs a login)") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        advice = _FETCH_ADVICE.format(name=repository)
        raise CheckpointError(f"{name} is not on this machine and the hub cannot be reached: {advice}") from error


def _download(repository: str, revision: str) -> Path:
    """The snapshot's folder. Old models have pickled weights only: their safetensors are in the hub's conversion pull
    request, which transformers itself would use too."""
    from huggingface_hub import HfApi, snapshot_download

    folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=_HUB_FILES))
    if not revision and not any(folder.glob("*.safetensors")):
        requests = HfApi().get_repo_discussions(repository, author="SFconvertbot", discussion_type="pull_request")
        converted = next((request.git_reference for request in requests if request.status != "closed"), None)
        if converted:
            return Path(snapshot_download(repository, revision=converted, allow_patterns=_HUB_FILES))
    return folder


def slug(name: str) -> str:
    """A folder or hub name as the first half of a model id: letters, digits, dot, dash and underscore only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a checkpoint folder. Raises ``CheckpointError`` when it is missing, damaged or no CLIP's."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is no checkpoint folder: it has no config.json")
    try:
        config = json.loads(path.read_text())
        kind = config.get("model_type", "")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if kind not in MODEL_TYPES:
        raise CheckpointError(
            f"{folder} holds a {kind or 'nameless'} model; CLIP models ({' or '.join(MODEL_TYPES)}) can be loaded"
        )
    assert isinstance(config, dict)
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, sorted by name. Raises ``CheckpointError`` when there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = [path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.ckpt"))]
        hint = (
            f" (only {pickled[0]}, which could run code when it is read: convert it to safetensors)" if pickled else ""
        )
        raise CheckpointError(f"{folder} has no safetensors weights{hint}")
    return files


def weights_hash(folder: Path) -> str:
    """The first 12 hex digits of the SHA-256 over the folder's safetensors files."""
    digest = hashlib.sha256()
    for path in weight_files(folder):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12]


def checkpoint_info(name: str | Path) -> tuple[str, int]:
    """(model id, embedding size) of a checkpoint folder or hub name, without loading the model."""
    folder, label = resolve(name)
    dim = int(read_config(folder).get("projection_dim", 512))
    return f"{label}-{weights_hash(folder)}", dim


def save_clip(
    folder: Path,
    model: Any,
    tokenizer: Any,
    processor: Any,
    extra: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a standard checkpoint folder in one move: a folder under its final name is always complete.

    ``processor``: an image processor; ``extra``: file name -> text, put beside the weights. An existing folder is
    replaced only with ``overwrite``. Raises ``CheckpointError`` when it cannot be written.
    """
    with fresh_folder(folder, overwrite) as fresh:
        _write(fresh, model, tokenizer, processor, extra or {})
    return folder


@contextmanager
def fresh_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder to fill, which gets the name ``folder`` when the block ends well, and is removed otherwise.

    An existing folder is replaced only with ``overwrite``. Raises ``CheckpointError`` when it cannot be written.
    """
    if folder.exists() and not overwrite:
        raise CheckpointError(f"{folder} exists: choose another folder, or remove it first")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}") from error
    try:
        yield fresh
        for path in fresh.iterdir():  # on disk before the folder gets its name
            with path.open("rb") as file:
                os.fsync(file.fileno())
        fresh.chmod(0o755)  # mkdtemp's folders are private
        move_into_place(fresh, folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{folder} cannot be written: {reason}; make room and repeat the command") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def move_into_place(fresh: Path, folder: Path) -> None:
    """Rename ``fresh`` to ``folder``; an old folder of that name steps aside first and is then removed."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write(folder: Path, model: Any, tokenizer: Any, processor: Any, extra: Mapping[str, str]) -> None:
    from transformers import CLIPProcessor, VisionTextDualEncoderProcessor

    kind = CLIPProcessor if model.config.model_type == "clip" else VisionTextDualEncoderProcessor
    with quiet():
        model.save_pretrained(folder)
        kind(processor, tokenizer).save_pretrained(folder)
    for name, text in extra.items():
        (folder / name).write_text(text)


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars: ours are enough."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
