"""How good a model is on a corpus: zero-shot classification and retrieval."""

from __future__ import annotations

from clipsearch.evaluation.embedding import EmbeddedSplit, embed_split
from clipsearch.evaluation.scoring import Evaluation, evaluate, retrieval, table, zero_shot

__all__ = ["EmbeddedSplit", "Evaluation", "embed_split", "evaluate", "retrieval", "table", "zero_shot"]
