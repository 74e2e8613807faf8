"""The pruned search gives what the general path gives: hits, scores, order, count and features, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from query_support import VECTOR, Served, make_schema

from clipsearch.engine.index import postings
from clipsearch.engine.index import text as text_module
from clipsearch.engine.package.model import Function, Input, Phase, RankProfile
from clipsearch.engine.query import execution, occurrences, pruned
from clipsearch.engine.query.pruned import Pruned
from clipsearch.engine.ranking.monotone import rises
from clipsearch.engine.ranking.source import Feature
from clipsearch.engine.tensors import Tensor, parse_type

WORDS = ["a", "river", "bridge", "airport", "green", "running", "storage", "tanks", "church", "sea"]
SHARES = np.array([0.4, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05, 0.04, 0.03, 0.03])
INPUTS = {"q": Input("q", parse_type("tensor<float>(x[4])")), "alpha": Input("alpha", parse_type("double"), "0.5")}
FUNCTIONS = {
    "lexical": Function("lexical", (), "bm25(captions)"),
    "near": Function("near", (), "rawScore(embedding)"),
    "squeezed": Function("squeezed", ("x",), "x / (1 + x)"),
}
FEATURES = ("bm25(captions)", "rawScore(embedding)", "matches(label)", "matchCount(captions)")
FIRST = {
    "plain": "lexical",
    "hybrid": "if (near > 0, 1 + near, squeezed(lexical))",
    "blend": "query(alpha) * lexical + (1 - query(alpha)) * near",
    "against": "lexical - 10 * near",
    "flat": "min(lexical, 1.5)",
    "flatter": "min(lexical, 0.0005)",
    "logarithm": "log(lexical)",
}
PROFILES = [
    RankProfile(name, INPUTS, FUNCTIONS, first_phase=Phase(expression), match_features=FEATURES)
    for name, expression in FIRST.items()
] + [
    RankProfile(
        "phases", INPUTS, FUNCTIONS, first_phase=Phase("if (near > 0, 1 + near, squeezed(lexical))"),
        second_phase=Phase("attribute(width)", rerank_count=7), match_features=FEATURES,
        global_phase=Phase("reciprocal_rank(lexical) + if (near > 0, reciprocal_rank(near), 0)", rerank_count=15),
    ),
]  # fmt: skip
NEAR = "{targetHits:6}nearestNeighbor(embedding,q)"
WHERE = [
    "userInput(@text)",
    f"({NEAR}) or userInput(@text)",
    "userInput(@text) and label contains 'even'",
    f"(({NEAR}) or userInput(@text)) and width > 3 and label in ('even', 'odd')",
    f"(({NEAR}) or userInput(@text)) and !(label contains 'even')",
    f"({NEAR}) or ({{distanceThreshold:0.4,label:'b',targetHits:3}}nearestNeighbor(embedding,q)) or userInput(@text)",
    "captions contains 'river' or captions contains phrase('a','bridge')",
    "captions contains 'a'",
]


def served(seed: int) -> Served:
    """Up to 500 short documents, many of them alike, after updates and removals."""
    random = np.random.default_rng(seed)
    engine = Served(make_schema(profiles=PROFILES))
    size = int(random.integers(3, 500))
    for lid in [*range(size), *random.integers(0, size, size // 3).tolist()]:
        captions = [
            " ".join(random.choice(WORDS, random.integers(1, 6), p=SHARES)) for _ in range(random.integers(1, 3))
        ]
        vector = (random.integers(-4, 5, 4) / 8).astype(np.float32)
        fields: dict[str, Any] = {"captions": captions, "label": "even" if lid % 2 else "odd", "width": lid % 9}
        engine.put(lid, {**fields, "embedding": Tensor(VECTOR, vector)})
    for lid in np.unique(random.integers(0, size, size // 4)).tolist():
        engine.remove(lid)
    return engine


@pytest.fixture(params=["one segment", "columns", "many segments", "no segment"])
def segments(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {
        "one segment": (0, 1 << 18),
        "columns": (0, 1 << 18),
        "many segments": (40, 64),
        "no segment": (1 << 30, 1 << 18),
    }
    tail, rows = sizes[request.param]
    monkeypatch.setattr(text_module, "TAIL_TOKENS", tail)
    monkeypatch.setattr(text_module, "MAX_ROWS", rows)
    if request.param != "one segment":  # frequencies of many rows, not of a few
        monkeypatch.setattr(occurrences, "FEW", 2)
        monkeypatch.setattr(postings, "FEW", 4 if request.param == "columns" else 1 << 30)


def answers(engine: Served, query: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found = []
    for pruning in (True, False):
        monkeypatch.setattr(execution, "PRUNING", pruning)
        found.append(engine.post(query))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_pruned_and_general_answers_are_equal(seed: int, segments: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Pruned.rank
    given: list[bool] = []

    def counted(self: Pruned, *arguments: Any) -> Any:
        ranked = ranks(self, *arguments)
        given.append(ranked is not None)
        return ranked

    monkeypatch.setattr(Pruned, "rank", counted)
    random = np.random.default_rng(seed)
    engine = served(seed)
    for _ in range(60):  # "zebra" is in no document
        query = {
            "yql": f"select * from image where {random.choice(WHERE)}",
            "text": " ".join(random.choice([*WORDS, "zebra"], random.integers(1, 5))),
            "ranking": str(random.choice([profile.name for profile in PROFILES])),
            "hits": int(random.choice([0, 1, 5, 20])),
            "offset": int(random.choice([0, 3])),
            "input.query(q)": random.normal(size=4).tolist(),
        }
        one, other = answers(engine, query, monkeypatch)
        assert one[0] == 200, one
        assert one == other, query
    assert sum(given) > len(given) / 2


def test_answers_stay_equal_while_kept_impacts_grow_old(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = served(1)
    query = {"yql": "select * from image where userInput(@text)", "text": "a river bridge", "hits": 20}
    for lid in range(1000, 1100):
        one, other = answers(engine, query, monkeypatch)
        assert one == other
        engine.put(lid, {"captions": ["a river " * (lid % 7 + 1)], "width": 1})


def test_equal_scores_beyond_the_last_hit_leave_the_answer_to_the_general_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Served(make_schema(profiles=PROFILES))
    for lid in range(300):
        engine.put(299 - lid, {"captions": ["river " * (lid % 3 + 1)]})
    query = {"yql": "select * from image where userInput('river')", "ranking": "flatter", "hits": 10}
    one, other = answers(engine, query, monkeypatch)
    assert one == other
    assert [hit["id"].rpartition("::")[2] for hit in one[1]["children"]] == [str(n) for n in range(10)]


@pytest.mark.parametrize("count", [1, 3, 10, 100])
def test_what_is_selected_has_the_highest_scores_whatever_the_errors_are(count: int) -> None:
    random = np.random.default_rng(count)
    for size in (64, 128, 640, 6400):
        true = np.where(random.random(size) < 0.7, random.integers(1, 60, size) / 7, 0.0)
        terms = random.integers(1, 4)
        off = true * random.uniform(0.99, 1.01, size) / postings.STEP + random.uniform(0, terms, size)
        steps = np.where(true > 0, np.ceil(off), 0).astype(random.choice([np.uint16, np.uint32]))
        rows, bound = pruned._select(steps, int((true > 0).sum()), count, 0.0111, int(terms) + 1)
        outside = np.delete(true, rows)
        assert len(outside) == 0 or outside.max(initial=0) <= max(bound, 0)
        assert (true[rows] >= bound).sum() >= min(count, (true > 0).sum())


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("bm25(captions)", True), ("lexical", True), ("squeezed(lexical)", True),
        ("if (near > 0, 1 + near, lexical / (1 + lexical))", True), ("2 * lexical - 3", True), ("-lexical", False),
        ("1 / (1 + lexical)", False), ("1 - 1 / (2 + lexical)", True), ("log(1 + lexical)", True),
        ("query(alpha) * lexical", True), ("query(unknown) * lexical", False), ("0 * lexical", False),
        ("lexical * lexical", True), ("lexical * (1 - lexical)", False), ("lexical / (lexical - 5)", False),
        ("if (lexical > 0, lexical, -1)", True), ("if (lexical > 3, lexical, -1)", False), ("3", False),
        ("lexical - lexical", False), ("attribute(width) + lexical", False), ("lexical + bm25(title)", False),
        ("closeness(field,embedding) + lexical", False), ("cos(lexical)", False), ("max(2, lexical)", True),
        ("sqrt(lexical) + lexical / (2 + lexical)", True), ("sqrt(lexical) - lexical", False), ("10 / lexical", False),
    ],
)  # fmt: skip
def test_rising_expressions_are_recognised_and_no_others(expression: str, expected: bool) -> None:
    profile = RankProfile("p", INPUTS, FUNCTIONS, first_phase=Phase(expression))
    known = {Feature("rawScore", ("embedding",)): 0.0, Feature("query", ("alpha",)): 0.5}
    assert rises(profile, make_schema(), "captions", known) == expected


@pytest.mark.parametrize("weight", [50.0, 57.0, 58.0, 59.0, 61.0, 110.0, 1e6])
def test_terms_of_any_weight_are_ranked_alike_by_both_paths(weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "TAIL_TOKENS", 0)
    engine, random = Served(make_schema(profiles=PROFILES)), np.random.default_rng(3)
    for lid in range(400):
        words = ["river"] * int(random.integers(1, 30)) + ["a"] * int(random.integers(0, 60)) * (lid % 4 > 0)
        engine.put(lid, {"captions": [" ".join(words)]})
    where = " or ".join(f"(captions contains ({{significance:{weight}}}'{word}'))" for word in ("river", "a"))
    one, other = answers(
        engine, {"yql": f"select * from image where {where}", "ranking": "plain", "hits": 8}, monkeypatch
    )
    assert one[0] == 200
    assert one == other


def test_sums_of_kept_impacts_that_were_larger_still_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept may be larger than today's weight says, by ``MAX_DRIFT`` at most."""
    assert postings.most_steps(postings.MAX_WEIGHT) + 1 <= np.iinfo(np.uint16).max
    held = postings.in_steps(np.array([postings.MAX_WEIGHT * (1 + postings.MAX_DRIFT) * 2.2]))
    assert 0 < int(held[0]) <= postings.most_steps(postings.MAX_WEIGHT) + 1
