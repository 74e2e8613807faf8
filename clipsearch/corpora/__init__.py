"""Corpora: images with captions, in the layouts that the field uses, read as one list of records.

``open_corpus`` detects the layout; each layout has its own module. ``open_corpora`` opens several as one. ``sample``
draws a corpus for machines that have none.
"""

from __future__ import annotations

from clipsearch.corpora.corpus import Corpus
from clipsearch.corpora.opening import LAYOUTS, open_corpus
from clipsearch.corpora.several import Corpora, open_corpora
from clipsearch.corpora.store import ImageStore

__all__ = ["LAYOUTS", "Corpora", "Corpus", "ImageStore", "open_corpora", "open_corpus"]
