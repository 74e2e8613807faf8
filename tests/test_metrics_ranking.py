"""Ranking measures with ties against the mean over all orders, class scores and intervals by hand, and memory."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from clipsearch.metrics import (
    Relevance,
    bootstrap_intervals,
    class_scores,
    confusion,
    hits_at,
    mrr_at,
    rank_all,
    recall_at,
    retrieval_ranks,
)
from clipsearch.metrics.ranking import _lists

KS = (1, 2, 3, 5)


def measured(order: tuple[int, ...], relevant: np.ndarray, ks: tuple[int, ...] = KS) -> dict[str, float]:
    """The textbook measures of one order of all items."""
    wanted = [bool(relevant[item]) for item in order]
    total = sum(wanted)
    values = {}
    for k in ks:
        head = wanted[:k]
        values[f"recall@{k}"] = float(any(head))
        values[f"precision@{k}"] = sum(head) / k
        values[f"mrr@{k}"] = next((1 / place for place, hit in enumerate(head, 1) if hit), 0.0)
        gain = sum(1 / math.log2(place + 1) for place, hit in enumerate(head, 1) if hit)
        values[f"ndcg@{k}"] = gain / sum(1 / math.log2(place + 1) for place in range(1, min(total, k) + 1))
    precisions = [sum(wanted[:place]) / place for place, hit in enumerate(wanted, 1) if hit]
    values["map"] = sum(precisions) / total
    return values


def mean_over_all_orders(scores: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    levels = [np.flatnonzero(scores == value) for value in sorted(set(scores), reverse=True)]
    orders = itertools.product(*(itertools.permutations(level) for level in levels))
    found = [measured(tuple(itertools.chain(*order)), relevant) for order in orders]
    return {name: float(np.mean([each[name] for each in found])) for name in found[0]}


def ranked(scores: np.ndarray, relevant: np.ndarray) -> dict[str, np.ndarray]:
    """``rank_all`` of given scores: the queries are unit vectors, the items columns of scores."""
    queries, items = np.nonzero(relevant)
    keys = np.arange(len(queries))  # one key for each pair
    relevance = Relevance(_lists(queries, keys, len(scores)), _lists(keys, items, len(keys)))
    return rank_all(np.eye(len(scores)), scores.T, relevance, KS)


def test_every_measure_is_its_mean_over_all_orders_of_the_ties(rounds: Callable[[int, int], int]) -> None:
    generator = np.random.default_rng(7)
    for _ in range(rounds(40, 400)):
        size = int(generator.integers(2, 7))
        scores = generator.integers(0, 3, size).astype(float)
        relevant = generator.random(size) < 0.5
        relevant[generator.integers(size)] = True
        expected = mean_over_all_orders(scores, relevant)
        found = ranked(scores[None], relevant[None])
        assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(expected), (scores, relevant)


def test_the_measures_agree_with_those_that_training_uses() -> None:
    generator = np.random.default_rng(1)
    queries, items = generator.integers(-1, 2, (30, 3)).astype(float), generator.integers(-1, 2, (25, 3)).astype(float)
    groups, owners = generator.integers(0, 6, 30), generator.integers(0, 6, 25)
    owners[:6] = range(6)
    ranks = retrieval_ranks(queries, items, groups, owners)
    found = rank_all(queries, items, Relevance.by_group(groups, owners), KS, chunk=7)
    for k in KS:
        assert found[f"recall@{k}"].mean() == pytest.approx(hits_at(ranks, k))
        assert found[f"mrr@{k}"].mean() == pytest.approx(mrr_at(ranks, k))
    relevant = groups[:, None] == owners[None]
    share = recall_at(queries @ items.T, relevant, 5)
    assert (found["precision@5"] * 5 / relevant.sum(axis=1)).mean() == pytest.approx(share)


def test_chunks_do_not_change_a_measure() -> None:
    generator = np.random.default_rng(2)
    queries, items = generator.normal(size=(23, 4)), generator.normal(size=(17, 4))
    relevance = Relevance.by_group(np.arange(23) % 17, np.arange(17))
    whole, parts = rank_all(queries, items, relevance), rank_all(queries, items, relevance, chunk=3)
    for name, values in whole.items():
        assert values == pytest.approx(parts[name])


def test_an_image_or_caption_with_the_same_text_is_relevant_too() -> None:
    texts, owners = np.array([0, 1, 0, 2, 2]), np.array([0, 0, 1, 2, 2])  # images 0 and 1 share text 0
    to_image = Relevance.captions_to_images(texts, owners)
    pairs = [to_image.pairs(np.array([query]))[1].tolist() for query in range(5)]
    assert pairs == [[0, 1], [0], [0, 1], [2], [2]]
    to_text = Relevance.images_to_captions(texts, owners, images=4)
    pairs = [sorted(to_text.pairs(np.array([query]))[1].tolist()) for query in range(4)]
    assert pairs == [[0, 1, 2], [0, 2], [3, 4], []]


def test_a_query_without_relevant_items_has_no_value_and_counts_nowhere() -> None:
    found = rank_all(np.eye(2), np.eye(2), Relevance.by_group(np.array([0, 5]), np.array([0, 1])))
    assert found["recall@1"].tolist()[0] == 1
    assert all(np.isnan(values[1]) for values in found.values())
    low, high = bootstrap_intervals({"recall@1": found["recall@1"]})["recall@1"]
    assert (low, high) == (1, 1)


def test_nan_and_lengths_that_do_not_fit_are_refused() -> None:
    one = Relevance.by_group(np.array([0]), np.array([0]))
    with pytest.raises(ValueError, match="NaN"):
        rank_all(np.array([[np.nan]]), np.array([[1.0]]), one)
    with pytest.raises(ValueError, match="2 queries"):
        rank_all(np.eye(2), np.eye(2), one)


def test_a_confusion_shares_an_image_among_tied_classes() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.5, 0.5, 0.1], [0.0, 0.9, 0.1], [0.2, 0.2, 0.2]])
    matrix = confusion(scores, np.array([0, 0, 1, 1]))
    assert matrix == pytest.approx(np.array([[1.5, 0.5, 0], [1 / 3, 1 + 1 / 3, 1 / 3], [0, 0, 0]]))
    first, second, third = class_scores(matrix, ["a", "b", "never"])
    assert (first.support, first.recall) == (2, 0.75)
    assert first.precision == pytest.approx(1.5 / (1.5 + 1 / 3))
    assert first.f1 == pytest.approx(2 * first.precision * 0.75 / (first.precision + 0.75))
    assert second.recall == pytest.approx(2 / 3)
    assert (third.support, third.recall, third.f1, third.precision) == (0, None, None, 0.0)


def test_class_scores_are_scikit_learns() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    generator = np.random.default_rng(3)
    scores, labels = generator.normal(size=(200, 5)), generator.integers(0, 5, 200)
    ours = class_scores(confusion(scores, labels), list("abcde"))
    theirs = precision_recall_fscore_support(labels, scores.argmax(axis=1))
    assert [[each.precision, each.recall, each.f1] for each in ours] == pytest.approx(np.array(theirs[:3]).T)


def test_ndcg_and_average_precision_are_scikit_learns() -> None:
    from sklearn.metrics import average_precision_score, ndcg_score

    generator = np.random.default_rng(4)
    scores = generator.integers(0, 4, (20, 12)).astype(float)
    relevant = generator.random((20, 12)) < 0.3
    relevant[:, 0] = True
    found = ranked(scores, relevant)
    assert found["ndcg@5"].mean() == pytest.approx(ndcg_score(relevant, scores, k=5))  # tie-aware in the same way
    untied = generator.normal(size=(20, 12))
    precision = [average_precision_score(*pair) for pair in zip(relevant, untied, strict=True)]
    assert ranked(untied, relevant)["map"] == pytest.approx(np.array(precision))


def test_an_interval_covers_the_mean_as_often_as_it_says(rounds: Callable[[int, int], int]) -> None:
    generator = np.random.default_rng(5)
    trials, covered = rounds(200, 1000), 0
    for trial in range(trials):
        low, high = bootstrap_intervals({"x": generator.normal(1.0, 2.0, 80)}, resamples=300, seed=trial)["x"]
        covered += low <= 1.0 <= high
    assert 0.89 <= covered / trials <= 0.985


def test_captions_of_one_image_are_drawn_together() -> None:
    values = np.repeat(np.random.default_rng(6).random(60), 5)  # five captions that always agree
    clusters = np.repeat(np.arange(60), 5)
    naive = bootstrap_intervals({"x": values})["x"]
    honest = bootstrap_intervals({"x": values}, clusters)["x"]
    assert honest == bootstrap_intervals({"x": values}, clusters)["x"], "the seed decides"
    assert (honest[1] - honest[0]) / (naive[1] - naive[0]) == pytest.approx(math.sqrt(5), rel=0.15)


def test_no_values_have_no_interval() -> None:
    assert all(math.isnan(bound) for bound in bootstrap_intervals({"x": np.array([np.nan])})["x"])


MEMORY = """
import resource, sys
import numpy as np
from clipsearch.metrics import Relevance, rank_all
images, captions = int(sys.argv[1]), int(sys.argv[2])
generator = np.random.default_rng(0)
queries = generator.normal(size=(images, 64)).astype(np.float32)
items = generator.normal(size=(captions, 64)).astype(np.float32)
texts, owners = np.zeros(captions, int), np.arange(captions) % images  # the worst: all captions are equal
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if len(sys.argv) > 3:
    texts = np.arange(captions)
rank_all(queries, items, Relevance.images_to_captions(texts, owners, images))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.soak
def test_ten_thousand_images_and_fifty_thousand_captions_fit_in_a_gigabyte(rounds: Callable[[int, int], int]) -> None:
    size = rounds(60, 10_000)
    for kind in ([], ["distinct"]):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(size), "50000", *kind], capture_output=True, text=True, check=True
        )
        assert float(done.stdout) < 900
