"""Data sets of the Hugging Face hub: ``hf:OWNER/NAME``, ``hf:OWNER/NAME:CONFIG``, ``hf:OWNER/NAME@REVISION``.

The data set is downloaded by the ``datasets`` library and saved once, images included, in its cache folder; from
then on it is opened from there like any saved data set, without the network. No code of a data set is run.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from clipsearch.errors import CorpusError

PREFIX = "hf:"
LOOKS_LIKE = "hf:OWNER/NAME, a data set of the Hugging Face hub"

_NAME = re.compile(r"hf:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?", re.ASCII)


def saved(address: str) -> tuple[Path, str]:
    """Return (folder of the saved data set, the data set's name) of ``hf:OWNER/NAME``; downloads it the first time.

    Raises ``CorpusError`` when the library is missing, the name is none, or the hub does not give the data set.
    """
    match = _NAME.fullmatch(address)
    if match is None:
        raise CorpusError(f"{address!r} is not the name of a data set: write {LOOKS_LIKE.partition(',')[0]}")
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(f"{address} needs the library datasets: pip install 'clipsearch[data]'") from error
    name = match["name"]
    parts = [part for part in (name, match["config"], match["revision"]) if part]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "clipsearch" / "--".join(parts).replace("/", "--")
    if not folder.is_dir():
        _download(address, name, match["config"], match["revision"], folder)
    return folder, name.rpartition("/")[2]


def _download(address: str, name: str, config: str | None, revision: str | None, folder: Path) -> None:
    import datasets

    try:
        found = datasets.load_dataset(name, config, revision=revision)
    except Exception as error:  # the library raises errors of a dozen kinds: network, names, formats
        reason = " ".join(str(error).split())[:300]
        raise CorpusError(f"{address} could not be loaded: {reason or type(error).__name__}") from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        found.save_to_disk(str(Path(temporary) / "saved"))
        shutil.move(str(Path(temporary) / "saved"), folder)
