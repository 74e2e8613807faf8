"""hits@k, recall@k, MRR@k, nDCG@k, mAP, confusion and bootstrap intervals in plain numpy, exact under ties.

Where scores tie, the order of the tied items is arbitrary; every figure of this room is its expectation over all such
orders, in closed form, so that a model that gives one score to everything is worth chance and not whatever the sort
happens to do.

``ranks``: the first relevant item of each query; ``scores``: the figures that training selects by; ``ranking``: all
relevant items, several measures at once, in bounded memory; ``confusion``: per class; ``bootstrap``: intervals.
"""

from __future__ import annotations

from clipsearch.metrics.bootstrap import bootstrap_intervals
from clipsearch.metrics.confusion import ClassScores, class_scores, confusion
from clipsearch.metrics.ranking import Relevance, measure_names, rank_all
from clipsearch.metrics.ranks import (
    FirstRanks,
    first_ranks,
    hits_at,
    mrr_at,
    position_probabilities,
    recall_at,
    retrieval_ranks,
)
from clipsearch.metrics.scores import (
    RetrievalScores,
    ZeroShotScores,
    retrieval_scores,
    zero_shot_scores,
)

__all__ = [
    "ClassScores",
    "FirstRanks",
    "Relevance",
    "RetrievalScores",
    "ZeroShotScores",
    "bootstrap_intervals",
    "class_scores",
    "confusion",
    "first_ranks",
    "hits_at",
    "measure_names",
    "mrr_at",
    "position_probabilities",
    "rank_all",
    "recall_at",
    "retrieval_ranks",
    "retrieval_scores",
    "zero_shot_scores",
]
