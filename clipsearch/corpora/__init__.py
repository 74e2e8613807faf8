"""Corpora: folders of images with captions, in the layouts that the field uses, read as one list of records.

``open_corpus`` detects the layout; each layout has its own module. ``sample`` draws a corpus for machines
that have none.
"""

from __future__ import annotations

from clipsearch.corpora.corpus import Corpus
from clipsearch.corpora.opening import open_corpus
from clipsearch.corpora.store import ImageStore

__all__ = ["Corpus", "ImageStore", "open_corpus"]
