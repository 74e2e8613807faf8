"""Class folders: ``CLASS/NAME.jpg`` (EuroSAT and most classification sets), and plain folders of images.

No captions; the label is the folder's name. A first level of ``train``, ``val``, ``test`` folders gives the
splits; otherwise each image's split follows from its key.
"""

from __future__ import annotations

from clipsearch.corpora.building import RecordBuilder, split_name, words_of
from clipsearch.corpora.corpus import Listing
from clipsearch.corpora.index import ImageIndex

NAME = "folders"


def read(corpus: str, index: ImageIndex) -> Listing:
    """Read every image of ``index`` as one record."""
    builder = RecordBuilder(corpus, index)
    for uri in index.uris:
        split, label = _split_and_label(uri)
        builder.add_uri(uri, uri, (), split, label)
    listing = builder.listing
    listing.classes = {record.label: words_of(record.label) for record in listing.records if record.label}
    return listing


def _split_and_label(uri: str) -> tuple[str | None, str]:
    folders = uri.rpartition("!/")[2].split("/")[:-1]
    split = split_name(folders[0]) if folders else None
    if split is not None:
        folders = folders[1:]
    # Archives often hold everything below one folder of their own: the class is the folder next to the file.
    label = folders[-1] if folders else ""
    return split, "" if label == "images" else label
