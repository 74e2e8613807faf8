"""How many vectors a search measures: the rule holds what it promises, and says when it cannot tell."""

from __future__ import annotations

import numpy as np
import pytest

from clipsearch.engine.index.vector_depth import Near, Numbers, needed

SPREAD = 0.01


def crowd(seed: int, scale: float, count: int = 50_000) -> tuple[Numbers, Numbers]:
    """Ascending estimates of vectors that grow denser with the distance, by e in each ``scale``; and distances."""
    random = np.random.default_rng(seed)
    estimates = np.sort(1 - random.exponential(scale, count))
    return estimates, estimates + SPREAD * random.normal(size=count)


@pytest.mark.parametrize("scale", [0.01, 0.03])
@pytest.mark.parametrize("wanted", [10, 100])
def test_no_more_hits_are_missed_than_were_allowed(wanted: int, scale: float) -> None:
    allowed, missed, measured = 0.01 * wanted, 0, []
    for seed in range(40):
        estimates, distances = crowd(seed, scale)
        first, seen = max(100, 2 * wanted), len(estimates) // 2
        worst = np.sort(distances[:first])[wanted - 1]
        near = Near(float(worst), distances[:first] - estimates[:first], SPREAD)
        count = needed(estimates[:seen], near, allowed, float(estimates[seen - 1]), len(estimates) - seen)
        assert count is not None
        hits = set(np.argsort(distances)[:wanted].tolist())
        missed += sum(hit >= max(count, first) for hit in hits)
        measured.append(count)
    assert missed <= 2 * allowed * 40
    assert np.median(measured) < len(estimates) / 4, "most vectors need no measuring"


def test_the_rest_is_expected_from_the_growth_of_what_is_seen() -> None:
    estimates, distances = crowd(1, 0.02)
    near = Near(float(np.sort(distances[:400])[9]), distances[:400] - estimates[:400], SPREAD)
    answers = [
        needed(estimates[:seen], near, 0.05, float(estimates[seen - 1]), len(estimates) - seen)
        for seen in (12, 25, 50, 100, 400, 1600, 6400, 25600)
    ]
    told = [answer for answer in answers if answer is not None]
    assert answers[0] is None, "a dozen estimates end where hits may well follow"
    assert answers == [None] * (len(answers) - len(told)) + told, "more estimates never tell less"
    assert len(told) >= 4
    assert max(told) < 1.5 * min(told)


def test_vectors_that_estimates_do_not_tell_apart_are_all_measured() -> None:
    same, errors = np.full(500, 0.5), SPREAD * np.random.default_rng(2).normal(size=100)
    assert needed(same, Near(0.5, errors, SPREAD), 0.1, 0.5, 9000) is None
    assert needed(same, Near(0.5, errors, SPREAD), 0.1, 0.5, 0) == 500


def test_nothing_is_told_without_enough_hits_or_errors() -> None:
    estimates = np.linspace(0, 1, 300)
    errors = SPREAD * np.random.default_rng(3).normal(size=100)
    assert needed(estimates, Near(float("inf"), errors, SPREAD), 0.1, 1.0, 1000) is None
    assert needed(estimates, Near(0.1, errors[:20], SPREAD), 0.1, 1.0, 1000) is None
    broken = np.concatenate([errors, [np.nan, np.inf]])
    assert needed(estimates, Near(0.1, broken, SPREAD), 0.1, 1.0, 1000) == needed(
        estimates, Near(0.1, errors, SPREAD), 0.1, 1.0, 1000
    )


def test_an_error_that_all_estimates_share_moves_the_limit() -> None:
    estimates = np.linspace(0, 1, 1000)
    errors = SPREAD * np.random.default_rng(4).normal(size=200)
    counts = [needed(estimates, Near(0.3, errors + shift, SPREAD), 0.1, 1.0, 0) for shift in (0.1, 0.0, -0.1)]
    assert np.diff(np.array(counts, float)) == pytest.approx([100, 100], abs=3)
