"""Searches against oracles in plain Python and numpy: matching, BM25, neighbours, order."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from query_support import VECTOR, Served, make_schema

from clipsearch.engine.index.linguistics import terms
from clipsearch.engine.package.model import Input, Phase, RankProfile
from clipsearch.engine.query import tree as q
from clipsearch.engine.query.matching import Matcher
from clipsearch.engine.tensors import Tensor, parse_type

WORDS = ["river", "bridge", "bridges", "airport", "a", "green", "running", "storage", "tanks", "church"]
INPUTS = {"q": Input("q", parse_type("tensor<float>(x[4])"))}
FEATURES = ("bm25(captions)", "closeness(field,embedding)", "rawScore(embedding)", "matches(label)")
PROFILES = [
    RankProfile("near", INPUTS, first_phase=Phase("closeness(field,embedding)"), match_features=FEATURES),
    RankProfile("both", INPUTS, first_phase=Phase("bm25(captions) + bm25(title)"), match_features=FEATURES),
    RankProfile(
        "flat", {}, first_phase=Phase("bm25(captions)"), properties={"bm25(captions).b": "0", "bm25(captions).k1": "0"}
    ),
    RankProfile("wide", {}, first_phase=Phase("attribute(width)", drop_limit=2.0)),
    RankProfile("keep", {}, first_phase=Phase("attribute(width)"), keep_rank_count=2),
    RankProfile(
        "two", {}, first_phase=Phase("attribute(width)"), second_phase=Phase("-attribute(width)", rerank_count=3)
    ),
    RankProfile(
        "three", {}, first_phase=Phase("attribute(width)"),
        global_phase=Phase("reciprocal_rank(attribute(score), 0)", rerank_count=4),
    ),
]  # fmt: skip
NN = "{targetHits:5}nearestNeighbor(embedding,q)"


def vector(values: Any) -> Tensor:
    return Tensor(VECTOR, np.asarray(values, np.float32))


@pytest.fixture(scope="module")
def served() -> Served:
    """200 documents after updates and removals; unit vectors exact in bfloat16."""
    random = np.random.default_rng(3)
    engine = Served(make_schema(profiles=PROFILES))
    units = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], [0, 0, 1, 0], [0.5, -0.5, 0.5, -0.5]], np.float32)
    for lid in [*range(240), *range(0, 120, 3), *range(5, 200, 7)]:
        fields: dict[str, Any] = {
            "captions": [" ".join(random.choice(WORDS, random.integers(1, 8))) for _ in range(random.integers(1, 4))],
            "title": str(random.choice(WORDS)),
            "label": str(random.choice(["Airport", "church", "River Side"])),
            "width": int(random.integers(0, 9)),
            "score": float(random.random()),
            "flag": bool(random.integers(0, 2)),
            "tags": {str(random.choice(WORDS)): 2},
        }
        if lid % 10:
            mixed = units[random.integers(0, 4)] * random.choice([0.5, -0.5]) + random.integers(-2, 3, 4) / 64
            fields["embedding"] = vector(mixed)
        engine.put(lid, fields)
    for lid in range(200, 240):
        engine.remove(lid)
    return engine


def documents(served: Served) -> dict[int, dict[str, Any]]:
    return {lid: dict(document.fields) for (_, lid), document in served.store.documents.items()}


def oracle_bm25(served: Served, field: str, query: str, df_fields: tuple[str, ...]) -> dict[int, float]:
    """BM25 by the formula, over the documents that are there now."""
    everything = documents(served)

    def words(fields: dict[str, Any], name: str) -> Counter[str]:
        value = fields[name]
        return Counter(t for text in (value if isinstance(value, list) else [value]) for t in terms(text))

    held = {name: {lid: words(fields, name) for lid, fields in everything.items()} for name in df_fields}
    lengths = {lid: sum(counts.values()) for lid, counts in held[field].items()}
    average, total = sum(lengths.values()) / len(lengths), len(lengths)
    scores = dict.fromkeys(everything, 0.0)
    for term in terms(query):
        df = min(sum(term in counts for name in df_fields for counts in held[name].values()), total)
        idf = math.log(1 + (total - max(df, 1) + 0.5) / (max(df, 1) + 0.5))
        for lid, counts in held[field].items():
            tf = counts[term]
            scores[lid] += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * lengths[lid] / average)) if tf else 0
    return scores


@pytest.mark.parametrize("query", ["river", "a bridge", "green running churches", "storage storage tanks", "nothing"])
def test_bm25_is_the_formula_over_the_documents_that_are_there(served: Served, query: str) -> None:
    expected = oracle_bm25(served, "captions", query, ("captions",))
    _, root = served.post({"yql": "select * from image where userInput(@text)", "text": query, "hits": 400})
    got = {int(hit["id"].rpartition("::")[2]): hit["relevance"] for hit in root.get("children", [])}
    assert got == pytest.approx({lid: score for lid, score in expected.items() if score > 0})
    assert root["fields"]["totalCount"] == len(got)
    assert list(got) == sorted(got, key=lambda lid: (-got[lid], lid))


def test_a_term_of_a_fieldset_has_one_document_frequency_summed_over_its_fields(served: Served) -> None:
    fields = ("captions", "title")
    captions, title = (oracle_bm25(served, field, "river bridge", fields) for field in fields)
    query = {"yql": "select * from image where {defaultIndex:'both'}userInput('river bridge')", "ranking": "both"}
    _, root = served.post({**query, "hits": 400})
    for hit in root["children"]:
        lid = int(hit["id"].rpartition("::")[2])
        assert hit["relevance"] == pytest.approx(captions[lid] + title[lid])


def has(fields: dict[str, Any], word: str) -> bool:
    return terms(word)[0] in [t for caption in fields["captions"] for t in terms(caption)]


def has_phrase(fields: dict[str, Any], *words: str) -> bool:
    wanted = [terms(word)[0] for word in words]
    cut = [terms(caption) for caption in fields["captions"]]
    return any(c[i : i + len(wanted)] == wanted for c in cut for i in range(len(c)))


@pytest.mark.parametrize(
    ("where", "test"),
    [
        ("true", lambda d: True),
        ("false", lambda d: False),
        ("captions contains 'bridge'", lambda d: has(d, "bridge")),
        ("captions contains 'Bridges' and captions contains 'river'", lambda d: has(d, "bridge") and has(d, "river")),
        ("captions contains 'river' and !(label contains 'church')",
         lambda d: has(d, "river") and d["label"] != "church"),
        ("!(captions contains 'river')", lambda d: not has(d, "river")),
        ("captions contains phrase('storage','tank')", lambda d: has_phrase(d, "storage", "tanks")),
        ("captions contains 'storage-tanks'", lambda d: has_phrase(d, "storage", "tanks")),
        ("captions contains phrase('a','green','a')", lambda d: has_phrase(d, "a", "green", "a")),
        ("captions contains ({distance:1}onear('a','green'))", lambda d: has_phrase(d, "a", "green")),
        ("label contains 'airport'", lambda d: d["label"] == "Airport"),
        ("label contains 'river side'", lambda d: d["label"] == "River Side"),
        ("label contains ({prefix:true}'riv')", lambda d: d["label"] == "River Side"),
        ("label matches '^(air|ch).*r'", lambda d: d["label"] in ("Airport", "church")),
        ("label in ('airport', 'CHURCH')", lambda d: d["label"] != "River Side"),
        ("width in (1, 3, 77)", lambda d: d["width"] in (1, 3)),
        ("width = 3", lambda d: d["width"] == 3),
        ("width contains '3'", lambda d: d["width"] == 3),
        ("4 < width and width <= 7", lambda d: 4 < d["width"] <= 7),
        ("range(width, 2, 5)", lambda d: 2 <= d["width"] <= 5),
        ("{bounds:'open'}range(width, 2, 5)", lambda d: 2 < d["width"] < 5),
        ("range(score, 0.25, Infinity)", lambda d: d["score"] >= 0.25),
        ("flag = true", lambda d: d["flag"]),
        ("tags contains 'river'", lambda d: "river" in d["tags"]),
        ("weightedSet(label, {'church':1, 'airport':2})", lambda d: d["label"] != "River Side"),
        ("rank(label contains 'church', captions contains 'river')", lambda d: d["label"] == "church"),
        ("{grammar:'all'}userInput('river bridges')", lambda d: has(d, "river") and has(d, "bridge")),
        ("userInput('river -bridge')", lambda d: has(d, "river") and not has(d, "bridge")),
        ("weakAnd(captions contains 'river', label contains 'church')",
         lambda d: has(d, "river") or d["label"] == "church"),
    ],
)  # fmt: skip
def test_conditions_match_what_they_say(served: Served, where: str, test: Any) -> None:
    expected = {lid for lid, fields in documents(served).items() if test(fields)}
    assert set(served.ids(f"select * from image where {where}")) == expected


def cosines(served: Served, query: list[float]) -> dict[int, float]:
    everything = documents(served)
    return {
        lid: float(np.dot(np.float64(query), fields["embedding"].cells.astype(np.float64)))
        for lid, fields in everything.items()
        if "embedding" in fields
    }


QUERY = [0.5, 0.5, 0.5, 0.5]


def best(found: dict[int, float], count: int) -> list[int]:
    return sorted(found, key=lambda lid: (-found[lid], lid))[:count]


def test_the_nearest_neighbours_are_the_nearest(served: Served) -> None:
    expected = best(cosines(served, QUERY), 5)
    _, root = served.post({"yql": f"select * from image where {NN}", "ranking": "near", "input.query(q)": QUERY})
    got = [(int(hit["id"].rpartition("::")[2]), hit["relevance"]) for hit in root["children"]]
    assert [lid for lid, _ in got] == expected
    for lid, closeness in got:
        assert closeness == pytest.approx(1 / (2 - cosines(served, QUERY)[lid]))
    assert root["fields"]["totalCount"] == 5


def test_a_filter_beside_the_operator_is_applied_before_the_neighbours_are_taken(served: Served) -> None:
    churches = {lid: c for lid, c in cosines(served, QUERY).items() if documents(served)[lid]["label"] == "church"}
    yql = f"select * from image where ({NN}) and label contains 'church'"
    assert served.ids(yql, ranking="near", **{"input.query(q)": QUERY}) == best(churches, 5)


def test_alternatives_beside_the_operator_do_not_filter_it_and_get_their_own_closeness(served: Served) -> None:
    near = set(best(cosines(served, QUERY), 5))
    yql = f"select * from image where ({NN}) or captions contains 'airport'"
    _, root = served.post({"yql": yql, "hits": 400, "ranking": "near", "input.query(q)": QUERY})
    words = {lid for lid, fields in documents(served).items() if has(fields, "airport")}
    found = {int(hit["id"].rpartition("::")[2]): hit["fields"]["matchfeatures"] for hit in root["children"]}
    assert set(found) == near | words
    for lid, features in found.items():
        cosine = cosines(served, QUERY).get(lid)
        closeness = 0.0 if cosine is None else 1 / (2 - cosine)
        assert features["closeness(field,embedding)"] == pytest.approx(closeness)
        assert features["rawScore(embedding)"] == pytest.approx(closeness if lid in near else 0.0)
        assert (features["bm25(captions)"] > 0) == (lid in words)


def test_exact_search_produces_every_document_that_was_among_the_best_so_far(served: Served) -> None:
    found, threshold, kept, expected = cosines(served, QUERY), -math.inf, [], []
    for lid in sorted(found):
        if found[lid] >= threshold:
            expected.append(lid)
            kept = sorted([*kept, found[lid]])[-5:]
            threshold = kept[0] if len(kept) == 5 else -math.inf
    yql = "select * from image where {targetHits:5, approximate:false}nearestNeighbor(embedding,q)"
    assert sorted(served.ids(yql, ranking="near", **{"input.query(q)": QUERY})) == expected
    assert len(expected) > 5


def test_a_distance_threshold_leaves_out_what_is_too_far(served: Served) -> None:
    yql = "select * from image where {targetHits:300, distanceThreshold:0.9}nearestNeighbor(embedding,q)"
    expected = {lid for lid, cosine in cosines(served, QUERY).items() if 1 - cosine <= 0.9}
    assert set(served.ids(yql, ranking="near", **{"input.query(q)": QUERY})) == expected
    assert 0 < len(expected) < len(documents(served))


def test_terms_inside_an_and_that_does_not_match_give_no_rank_features(served: Served) -> None:
    yql = "select * from image where (captions contains 'river' and width = 3) or label contains 'church'"
    _, root = served.post({"yql": yql, "hits": 400})
    for hit in root["children"]:
        fields = documents(served)[int(hit["id"].rpartition("::")[2])]
        assert (hit["relevance"] > 0) == (has(fields, "river") and fields["width"] == 3)


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("captions contains sameElement('river','bridge')", "sameElement"),
        ("labeled(captions contains 'river', 'r', 1.0)", "labeled"),
        ("captions contains ({prefix:true}'riv')", "prefix"),
        ("captions matches 'riv'", "REGEXP"),
        ("label contains phrase('a','b')", "phrase"),
        ("label matches '(a+)+$'", "repetitions"),
        ("label matches '((a|b)*)*'", "repetitions"),
        ("label matches '('", "regular expression"),
        ("label matches 'a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?b'", "too many repetitions"),
        ("label matches '.*.*.*.*.*.*.*.*.*.*.*.*.*.*.*.*.*.*.*.*x'", "too many repetitions"),
    ],
)
def test_what_would_be_answered_differently_is_refused_by_name(served: Served, where: str, name: str) -> None:
    status, root = served.post({"yql": f"select * from image where {where}"})
    assert status == 400
    assert name in root["errors"][0]["message"]


def test_a_number_without_a_value_is_not_a_number_to_ranking() -> None:
    repaired = Phase("if(isNan(attribute(width)) == 1, 5, attribute(width)) + attribute(flag)")
    held = RankProfile("held", {}, first_phase=Phase("attribute(width)"), match_features=("attribute(width)",))
    served = Served(make_schema(profiles=[held, RankProfile("filled", {}, first_phase=repaired)]))
    served.put(0, {"label": "a"})
    served.put(1, {"label": "a", "width": -3})
    everything = {"yql": "select * from image where true"}
    assert [hit["relevance"] for hit in served.post(everything | {"ranking": "filled"})[1]["children"]] == [5.0, -3.0]
    hits = served.post(everything | {"ranking": "held"})[1]["children"]
    assert [hit["relevance"] for hit in hits] == [-3.0, "-Infinity"]
    assert [hit["fields"]["matchfeatures"] for hit in hits] == [{"attribute(width)": -3.0}, {"attribute(width)": None}]


def test_near_words_rank_as_terms_of_their_own(served: Served) -> None:
    near = {"yql": "select * from image where captions contains ({distance:3}near('river','bridge'))", "hits": 400}
    words = {"yql": "select * from image where userInput('river bridge')", "hits": 400}
    scores = {hit["id"]: hit["relevance"] for hit in served.post(words)[1]["children"]}
    found = {hit["id"]: hit["relevance"] for hit in served.post(near)[1]["children"]}
    assert 0 < len(found) < len(scores)
    assert found == pytest.approx({key: scores[key] for key in found})


def test_filters_give_no_rank_features(served: Served) -> None:
    _, root = served.post({"yql": "select * from image where captions contains ({filter:true}'river')"})
    assert {hit["relevance"] for hit in root["children"]} == {0.0}


def test_hits_not_above_the_drop_limit_are_dropped_and_not_counted(served: Served) -> None:
    expected = [lid for lid, fields in documents(served).items() if fields["width"] > 2]
    status, root = served.post({"yql": "select * from image where true", "ranking": "wide", "hits": 0})
    assert (status, root["fields"]["totalCount"]) == (200, len(expected))
    assert sorted(served.ids("select * from image where true", ranking="wide")) == sorted(expected)


def by_width(served: Served) -> list[tuple[int, int]]:
    return sorted(((fields["width"], lid) for lid, fields in documents(served).items()), key=lambda p: (-p[0], p[1]))


def test_the_second_phase_reorders_its_best_and_keeps_the_rest_below(served: Served) -> None:
    first = by_width(served)
    _, root = served.post({"yql": "select * from image where true", "ranking": "two", "hits": 6})
    assert [int(hit["id"].rpartition("::")[2]) for hit in root["children"]] == [lid for _, lid in first[:6]]
    assert [hit["relevance"] for hit in root["children"]][:3] == [-8.0] * 3
    assert all(hit["relevance"] <= -8 for hit in root["children"][3:])


def test_the_global_phase_ranks_its_best_and_keeps_the_rest_below(served: Served) -> None:
    first = [lid for _, lid in by_width(served)]
    reranked = sorted(first[:4], key=lambda lid: -documents(served)[lid]["score"])
    _, root = served.post({"yql": "select * from image where true", "ranking": "three", "hits": 3, "offset": 2})
    assert [int(hit["id"].rpartition("::")[2]) for hit in root["children"]] == [*reranked, *first[4:]][2:5]
    assert [hit["relevance"] for hit in root["children"][:2]] == pytest.approx([1 / 3, 1 / 4])
    assert root["fields"]["totalCount"] == len(first)


def test_hits_beyond_the_keep_rank_count_lose_their_score_and_stand_in_document_order(served: Served) -> None:
    first = [lid for _, lid in by_width(served)]
    _, root = served.post({"yql": "select * from image where true", "ranking": "keep", "hits": 6})
    rest = sorted(set(first) - set(first[:2]))
    assert [int(hit["id"].rpartition("::")[2]) for hit in root["children"]] == [*first[:2], *rest[:4]]
    assert [hit["relevance"] for hit in root["children"]] == [8.0, 8.0, *["-Infinity"] * 4]


def test_rank_properties_of_features_are_the_profiles_and_are_refused_in_a_request(served: Served) -> None:
    query = {"yql": "select * from image where userInput('river')", "hits": 400}
    _, plain = served.post(query)
    _, flat = served.post({**query, "ranking": "flat"})
    assert len({hit["relevance"] for hit in plain["children"]}) > 5
    assert len({round(hit["relevance"], 9) for hit in flat["children"]}) == 1
    status, root = served.post({**query, "ranking.properties.bm25(captions).b": 0})
    assert (status, root["errors"][0]["code"]) == (400, 3)
    assert "Write it into the rank-properties" in root["errors"][0]["message"]
    assert served.post({**query, "ranking.properties.vespa.matching.numthreadspersearch": 2})[0] == 200
    status, root = served.post({**query, "rankproperty.vespa.term.1.significance": "0.5"})
    assert (status, root["errors"][0]["code"]) == (400, 3)
    assert "'vespa.term.1.significance' is not supported" in root["errors"][0]["message"]


def test_order_by_sorts_by_attributes_and_ties_by_document_order(served: Served) -> None:
    everything = documents(served)
    expected = sorted(everything, key=lambda lid: (-everything[lid]["width"], everything[lid]["label"].lower(), lid))
    assert served.ids("select * from image where true order by width desc, label") == expected
    status, root = served.post({"yql": "select * from image where true order by width", "ranking": "three"})
    assert status == 400
    assert "Sorting is not supported with global phase" in root["errors"][0]["message"]


def test_a_number_without_a_value_sorts_below_every_value() -> None:
    served = Served(make_schema())
    for lid, fields in enumerate([{"width": 5}, {}, {"width": -5, "score": -1e300}, {"score": 2.0}]):
        served.put(lid, fields)
    everything = "select * from image where true order by "
    assert served.ids(everything + "width") == [1, 3, 2, 0]
    assert served.ids(everything + "width desc") == [0, 2, 1, 3]
    assert served.ids(everything + "score asc") == [0, 1, 2, 3]
    assert served.ids(everything + "score desc") == [3, 2, 0, 1]
    assert served.ids(everything + "flag desc") == [0, 1, 2, 3]


def test_pages_follow_each_other_without_gaps(served: Served) -> None:
    yql = "select * from image where userInput('river bridge')"
    pages = [served.ids(yql, hits=7, offset=start) for start in range(0, 28, 7)]
    assert [lid for page in pages for lid in page] == served.ids(yql)[:28]


def test_words_of_a_text_field_keep_no_mask_of_all_rows(served: Served) -> None:
    schema = make_schema()
    assert served.application is not None
    matcher = Matcher(schema, served.application.indexes["image"].snapshot(), {})
    matcher.run(q.And([q.Word("captions", "river"), q.Word("label", "church")]))
    assert [term.mask is None for term in matcher.terms] == [True, False]
