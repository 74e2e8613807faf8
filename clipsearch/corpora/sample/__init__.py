"""The built-in sample corpus: procedurally drawn aerial scenes with captions, for machines that have no
images.

``texture`` (noise, materials, seasons) and ``shapes`` (outlines) serve ``pen`` (draws one picture); the
``scenes_*`` modules draw the classes listed in ``scenes``; ``grammar`` writes the captions; ``writing``
makes the folder.
"""

from __future__ import annotations

from clipsearch.corpora.sample.writing import SampleSummary, write_sample

__all__ = ["SampleSummary", "write_sample"]
