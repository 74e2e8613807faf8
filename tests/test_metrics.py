"""hits@k, recall@k and MRR@k against numbers worked out by hand, by brute force, and of a published model."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from clipsearch.metrics import (
    first_ranks,
    hits_at,
    mrr_at,
    position_probabilities,
    recall_at,
    retrieval_ranks,
    retrieval_scores,
    zero_shot_scores,
)

SCORES = np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.3], [0.7, 0.6, 0.5]])
OWN = np.eye(3, dtype=bool)


def test_hits_and_mrr_of_three_queries_are_what_a_hand_counts() -> None:
    ranks = first_ranks(SCORES, OWN)  # the right items stand at 1, 1 and 3
    assert [hits_at(ranks, k) for k in (1, 2, 3)] == pytest.approx([2 / 3, 2 / 3, 1.0])
    assert mrr_at(ranks, 10) == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert mrr_at(ranks, 2) == pytest.approx(2 / 3)


def test_the_best_of_several_relevant_items_counts() -> None:
    ranks = first_ranks(np.array([[0.9, 0.8, 0.7, 0.6]]), np.array([[False, True, False, True]]))
    assert hits_at(ranks, 1) == 0
    assert hits_at(ranks, 2) == 1
    assert mrr_at(ranks, 10) == 0.5


def test_recall_is_the_share_of_all_relevant_items() -> None:
    scores, relevant = np.array([[0.9, 0.8, 0.7, 0.6]]), np.array([[False, True, False, True]])
    assert [recall_at(scores, relevant, k) for k in (1, 2, 3, 4)] == [0, 0.5, 0.5, 1]


def test_a_model_that_gives_one_score_to_everything_is_worth_chance() -> None:
    ranks = first_ranks(np.zeros((4, 10)), np.eye(10, dtype=bool)[:4])
    assert hits_at(ranks, 1) == pytest.approx(0.1)
    assert hits_at(ranks, 5) == pytest.approx(0.5)
    assert mrr_at(ranks, 10) == pytest.approx(sum(1 / r for r in range(1, 11)) / 10)
    assert recall_at(np.zeros((4, 10)), np.eye(10, dtype=bool)[:4], 3) == pytest.approx(0.3)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_ties_count_as_the_mean_over_all_orders(k: int) -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.1])
    relevant = np.array([False, True, False, True, False, True])
    hits, reciprocal, found = [], [], []
    for tied in itertools.permutations([1, 2, 3, 4]):
        order = [0, *tied, 5]
        first = next(place for place, item in enumerate(order, 1) if relevant[item])
        hits.append(first <= k)
        reciprocal.append(1 / first if first <= k else 0)
        found.append(sum(relevant[order[:k]]) / 3)
    ranks = first_ranks(scores[None], relevant[None])
    assert hits_at(ranks, k) == pytest.approx(np.mean(hits))
    assert mrr_at(ranks, k) == pytest.approx(np.mean(reciprocal))
    assert recall_at(scores[None], relevant[None], k) == pytest.approx(np.mean(found))


def test_a_query_without_a_relevant_item_never_hits() -> None:
    ranks = first_ranks(np.array([[0.3, 0.2]]), np.array([[False, False]]))
    assert position_probabilities(ranks, 2).sum() == 0
    assert mrr_at(ranks, 2) == 0


def test_no_queries_score_nothing_and_nan_is_refused() -> None:
    empty = retrieval_ranks(np.zeros((0, 2)), np.ones((3, 2)), np.zeros(0, int), np.arange(3))
    assert hits_at(empty, 1) == 0
    assert mrr_at(empty, 1) == 0
    assert recall_at(np.zeros((0, 3)), np.zeros((0, 3), bool), 1) == 0
    with pytest.raises(ValueError, match="NaN"):
        first_ranks(np.array([[np.nan]]), np.array([[True]]))
    with pytest.raises(ValueError, match="shape"):
        first_ranks(np.zeros((2, 3)), np.zeros((3, 2), bool))


def test_chunks_do_not_change_the_ranks() -> None:
    generator = np.random.default_rng(0)
    queries, items = generator.normal(size=(23, 4)), generator.normal(size=(17, 4))
    groups, owners = generator.integers(0, 5, 23), generator.integers(0, 5, 17)
    whole = retrieval_ranks(queries, items, groups, owners, chunk=100)
    parts = retrieval_ranks(queries, items, groups, owners, chunk=4)
    assert (whole.above == parts.above).all()
    assert mrr_at(whole, 10) == mrr_at(parts, 10)


def test_retrieval_is_measured_both_ways() -> None:
    images = np.eye(2)
    captions = np.array([[1.0, 0.0], [0.9, 0.1], [1.0, 0.2]])  # the third belongs to image 1, and looks like image 0
    scores = retrieval_scores(images, captions, np.array([0, 0, 1]), ks=(1, 2))
    assert scores.text_to_image_hits == {1: pytest.approx(2 / 3), 2: 1.0}
    assert scores.text_to_image_mrr10 == pytest.approx((1 + 1 + 0.5) / 3)
    # image 0 prefers its caption, tied with the third: half a hit; image 1 prefers its own
    assert scores.image_to_text_hits[1] == pytest.approx((0.5 + 1) / 2)
    assert (scores.images, scores.captions) == (2, 3)
    assert scores.mean_mrr10 == (scores.text_to_image_mrr10 + scores.image_to_text_mrr10) / 2


def test_zero_shot_takes_the_nearest_prompt() -> None:
    scores = zero_shot_scores(np.eye(3), np.eye(3)[[1, 0, 2]], np.array([1, 0, 0]), ks=(1, 3))
    assert scores.hits == {1: pytest.approx(2 / 3), 3: 1.0}
    assert (scores.images, scores.classes) == (3, 3)


def test_the_published_baseline_of_clip_on_rsicd_is_reproduced(shared: Path) -> None:
    hits = []
    for line in (shared / "data/reference/clip_rsicd_baseline.tsv").read_text().splitlines():
        _, label, *rest = line.split("\t")
        classes, scores = rest[::2], np.array(rest[1::2], dtype=float)[None]
        relevant = np.array([[name == label for name in classes]])
        # the file's own order settles its ties: it lists only the ten best, rounded to five digits
        ordered = scores - np.arange(scores.shape[1])[None] * 1e-9
        ranks = first_ranks(ordered, relevant)
        hits.append([hits_at(ranks, k) for k in (1, 3, 5, 10)])
    assert len(hits) == 1027
    assert np.mean(hits, axis=0).round(4).tolist() == [0.5755, 0.7429, 0.8218, 0.9309]
