"""How good a model is on a corpus: zero-shot classification, retrieval, linear probe, and the domain's outside."""

from __future__ import annotations

from clipsearch.evaluation.classification import Classification, average, ensemble
from clipsearch.evaluation.embedding import ALL, EmbeddedSplit, embed_split
from clipsearch.evaluation.probe import FewShot, Labelled, LinearProbe, few_shot, linear_probe
from clipsearch.evaluation.retrieval import Retrieval, measure_retrieval
from clipsearch.evaluation.scoring import Evaluation, evaluate, retrieval, zero_shot
from clipsearch.evaluation.tables import comparison, table

__all__ = [
    "ALL",
    "Classification",
    "EmbeddedSplit",
    "Evaluation",
    "FewShot",
    "Labelled",
    "LinearProbe",
    "Retrieval",
    "average",
    "comparison",
    "embed_split",
    "ensemble",
    "evaluate",
    "few_shot",
    "linear_probe",
    "measure_retrieval",
    "retrieval",
    "table",
    "zero_shot",
]
