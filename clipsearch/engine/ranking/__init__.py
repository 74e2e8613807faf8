"""Rank profiles compiled to programs that score batches of candidates."""

from __future__ import annotations

from clipsearch.engine.ranking.program import RankProgram, compile_profile
from clipsearch.engine.ranking.source import BatchTensor, BatchValue, Feature, FeatureSource

__all__ = ["BatchTensor", "BatchValue", "Feature", "FeatureSource", "RankProgram", "compile_profile"]
