"""elementCompleteness of random documents is what its definition gives, element by element, however it is computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from query_support import Served, make_schema

from clipsearch.engine.package.model import Function, Phase, RankProfile
from clipsearch.engine.query import execution

WORDS = ["river", "bridge", "church", "tank", "sea"]
OUTPUTS = ("completeness", "fieldCompleteness", "queryCompleteness")
Terms = Sequence[tuple[str, int]]


def profile(share: float) -> RankProfile:
    return RankProfile(
        "f",
        functions={"lexical": Function("lexical", (), "bm25(captions)")},
        first_phase=Phase("lexical"),
        match_features=tuple(f"elementCompleteness(captions).{output}" for output in OUTPUTS),
        properties={"elementCompleteness(captions).fieldCompletenessImportance": str(share)},
    )


def defined(captions: Sequence[str], terms: Terms, share: float) -> tuple[float, ...]:
    """The outputs for the element that scores best, the first of equals, by Vespa's documentation."""
    best = (0.0, 0.0, 0.0)
    total = sum(weight for _, weight in terms)
    for caption in captions:
        words = f" {caption} "
        held = [weight for text, weight in terms if f" {text} " in words and weight != 0]
        if not held or total == 0:
            continue
        of_field = min(len(caption.split()), len(held)) / len(caption.split())
        of_query = sum(held) / total
        score = of_field * share + of_query * (1 - share)
        if score > best[0]:
            best = (score, of_field, of_query)
    return best


@pytest.mark.parametrize("pruning", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_completeness_is_that_of_the_best_element(share: float, pruning: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "PRUNING", pruning)
    random = np.random.default_rng(7)
    served = Served(make_schema(profiles=[profile(share)]))
    documents = {}
    for lid in range(120):
        some = random.integers(1, 4)
        documents[lid] = [" ".join(random.choice(WORDS, random.integers(1, 6))) for _ in range(some)]
        served.put(lid, {"captions": documents[lid]})
    for weights in ((100, 100, 100), (100, 300, 0), (100, 200, -50)):
        texts = [*random.choice(WORDS, 2, replace=False).tolist(), " ".join(random.choice(WORDS, 2))]
        terms = [(str(text), weight) for text, weight in zip(texts, weights, strict=True)]
        words = [f"captions contains ({{weight:{weight}}}'{text}')" for text, weight in terms[:2]]
        phrase = "','".join(terms[2][0].split())
        where = " or ".join([*words, f"captions contains ({{weight:{terms[2][1]}}}phrase('{phrase}'))"])
        status, root = served.get(yql=f"select * from image where {where}", ranking="f", hits="200")
        assert status == 200, root
        hits = {int(hit["id"].rpartition(":")[2]): hit["fields"]["matchfeatures"] for hit in root["children"]}
        assert len(hits) > 60
        for lid, shown in hits.items():
            found = tuple(shown[f"elementCompleteness(captions).{output}"] for output in OUTPUTS)
            assert found == pytest.approx(defined(documents[lid], terms, share)), (documents[lid], terms)
