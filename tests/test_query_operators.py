"""equiv, dotProduct, wand, fuzzy, text and filters over a small index, and their raw scores."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from query_support import Served, make_schema

from clipsearch.engine.package.model import Field, FieldType, Phase, RankProfile
from clipsearch.engine.query.operators import is_within

TAGS = [{"river": 3, "bridge": 1}, {"river": 1}, {"bridge": 10, "road": 2}, {}, {"road": 5, "river": 1}, {"sea": 9}]
LABELS = ["Airport", "airports", "air", "seaport", "harbour", ""]
CAPTIONS = [["a river"], ["a bridge over a river"], ["many bridges"], ["nothing"], ["river river"], ["the sea"]]


@pytest.fixture(scope="module")
def served() -> Served:
    raw = RankProfile(
        "raw", first_phase=Phase("rawScore(tags)"), match_features=("rawScore(tags)", "itemRawScore(mine)")
    )
    ids = Field("ids", FieldType("array", FieldType("long")), attribute=True, summary=True)
    served = Served(make_schema(profiles=[raw], ids=ids))
    for lid, (tags, label, captions) in enumerate(zip(TAGS, LABELS, CAPTIONS, strict=True)):
        served.put(lid, {"tags": tags, "label": label, "captions": captions, "ids": [lid, 7], "width": lid})
    return served


def found(served: Served, where: str, **parameters: str) -> list[int]:
    status, root = served.get(yql=f"select * from image where {where}", hits="50", **parameters)
    assert status == 200, root
    return sorted(int(hit["id"].rpartition(":")[2]) for hit in root.get("children", []))


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("captions contains equiv('river', 'bridge')", [0, 1, 2, 4]),
        ("label contains equiv('air', 'harbour')", [2, 4]),
        ("dotProduct(tags, {'river': 1, 'road': 2})", [0, 1, 2, 4]),
        ("dotProduct(ids, {'7': 1})", [0, 1, 2, 3, 4, 5]),
        ("dotProduct(width, {'3': 1, '5': 2})", [3, 5]),
        ("dotProduct(label, {'AIR': 1})", [2]),
        ("weightedSet(tags, {'sea': 1, 'road': 1})", [2, 4, 5]),
        ("{targetHits: 1}wand(tags, {'river': 1, 'bridge': 1})", [0, 2]),
        ("{targetHits: 2}wand(tags, {'river': 1, 'bridge': 1})", [0, 1, 2]),
        ("{targetHits: 9, scoreThreshold: 3}wand(tags, {'river': 1, 'bridge': 1})", [0, 2]),
        ("label contains fuzzy('airport')", [0, 1]),
        ("label contains ({maxEditDistance: 1}fuzzy('airport'))", [0, 1]),
        ("label contains ({maxEditDistance: 1, prefixLength: 1}fuzzy('eaport'))", []),
        ("label contains ({maxEditDistance: 1}fuzzy('eaport'))", [3]),
        ("label contains ({maxEditDistance: 1, prefix: true}fuzzy('airx'))", [0, 1, 2]),
        ("captions contains text('bridge, river!')", [0, 1, 2, 4]),
        ("captions contains ({grammar.composite: 'and'}text('bridge river'))", [1]),
        ("captions contains ({grammar.composite: 'phrase'}text('over a river'))", [1]),
        ("captions contains ({allowEmpty: true}text(''))", []),
        ("nonEmpty(captions contains 'sea')", [5]),
        ("userInput('label:fuzzy OR label:air river')", [0, 1, 2, 4]),
    ],
)
def test_an_operator_matches_what_vespa_matches(served: Served, where: str, rows: list[int]) -> None:
    assert found(served, where) == rows


def scores(served: Served, where: str) -> dict[int, tuple[float, float, float]]:
    _, root = served.get(yql=f"select * from image where {where}", ranking="raw")
    return {
        int(hit["id"].rpartition(":")[2]): (hit["relevance"], *hit["fields"]["matchfeatures"].values())
        for hit in root["children"]
    }


def test_weighted_operators_score_by_the_product_of_the_weights(served: Served) -> None:
    got = scores(served, "{label: 'mine'}dotProduct(tags, {'river': 2, 'bridge': 5})")
    assert got == {2: (50, 50, 50), 0: (11, 11, 11), 1: (2, 2, 2), 4: (2, 2, 2)}
    got = scores(served, "({label: 'mine'}wand(tags, {'river': 1})) or dotProduct(tags, {'river': 1, 'sea': 2})")
    assert got == {0: (6, 6, 3), 1: (2, 2, 1), 4: (2, 2, 1), 5: (18, 18, 0)}


def test_equiv_ranks_as_one_word_with_the_frequencies_of_all(served: Served) -> None:
    _, one = served.get(yql="select * from image where captions contains equiv('river', 'sea')")
    _, two = served.get(yql="select * from image where captions contains 'river' or captions contains 'sea'")
    first, second = ({hit["id"]: hit["relevance"] for hit in root["children"]} for root in (one, two))
    assert first.keys() == second.keys()
    assert all(first[key] < second[key] for key in first)  # four documents have the one word: it is less significant


def test_a_filter_matches_without_ranking(served: Served) -> None:
    yql = "select * from image where userQuery()"
    plain = served.get(query="river", yql=yql, **{"default-index": "captions"})[1]
    got = served.get(query="river", yql=yql, filter="+bridge", **{"default-index": "captions"})[1]
    (hit,) = got["children"]
    assert hit in plain["children"]
    (without,) = served.get(query="river", filter="+bridge -road", type="all", **{"default-index": "captions"})[1][
        "children"
    ]
    assert without["id"] == hit["id"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("wand(captions, {'river': 1})", "needs an attribute"),
        ("label contains ({maxEditDistance: 0}fuzzy('a'))", "maxEditDistance must be 1 to 10"),
        ("label contains fuzzy('a', 'b')", "fuzzy: Expected 1 argument"),
        ("width contains fuzzy('a')", "not a string"),
        ("captions contains fuzzy('a')", "needs an attribute"),
        ("{thresholdBoostFactor: 1.5}wand(tags, {'a': 1})", "'thresholdBoostFactor' is not supported"),
        ("nonEmpty(captions contains text(''))", "only resulted in NullItem"),
        ("captions contains ({grammar.composite: 'wild'}text('a'))", "'wild' is none of and, or"),
        ("{language: 'fr'}userInput('captions:a')", "language 'fr' is not supported"),
        ("label contains uri('a')", "not supported"),
    ],
)
def test_what_an_operator_cannot_do_is_said(served: Served, where: str, message: str) -> None:
    status, root = served.get(yql=f"select * from image where {where}")
    assert status == 400
    assert message in root["errors"][0]["message"]


def _distance(a: Sequence[str], b: Sequence[str]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(_distance(a[1:], b[1:]) + (a[0] != b[0]), _distance(a[1:], b) + 1, _distance(a, b[1:]) + 1)


def test_edits_are_levenshteins() -> None:
    chance = random.Random(7)
    for _ in range(300):
        a, b = ("".join(chance.choice("abc") for _ in range(chance.randrange(5))) for _ in range(2))
        for edits in (1, 2, 3):
            assert is_within(a, b, edits) == (_distance(a, b) <= edits), (a, b, edits)
            nearest = min(_distance(a, b[:end]) for end in range(len(b) + 1))
            assert is_within(a, b, edits, prefix=True) == (nearest <= edits), (a, b, edits)
