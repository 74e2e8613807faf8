"""Class folders: ``CLASS/NAME.jpg`` (EuroSAT and most classification sets), and plain folders of images.

No captions; the label is the folder's name. A first level of ``train``, ``val``, ``test`` folders gives the
splits; otherwise each image's split follows from its key.
"""

from __future__ import annotations

from clipsearch.corpora.building import RecordBuilder, split_name
from clipsearch.corpora.corpus import Listing
from clipsearch.corpora.source import Source

NAME = "folders"
LOOKS_LIKE = "folders of images named after their class (CLASS/NAME.jpg)"


def find(source: Source) -> bool:
    """Whether there is any image."""
    return bool(source.index.uris)


def read(source: Source) -> Listing:
    """Read every image below the root as one record."""
    builder = RecordBuilder(source)
    for uri in source.index.uris:
        split, label = _split_and_label(uri)
        builder.add_uri(uri, uri, (), split, label)
    return builder.finish()


def _split_and_label(uri: str) -> tuple[str | None, str]:
    folders = uri.rpartition("!/")[2].split("/")[:-1]
    split = split_name(folders[0]) if folders else None
    if split is not None:
        folders = folders[1:]
    # Archives often hold everything below one folder of their own: the class is the folder next to the file.
    label = folders[-1] if folders else ""
    return split, "" if label == "images" else label
