"""Probes of queries: ARCHITECTURE.md's tables of YQL, user queries, parameters, sorting and grouping."""

from __future__ import annotations

import math
from typing import Any

from query_support import Served, make_schema
from support_world import Probe, Probes, World, answers, close, finds, ids, refuses

_ALL = "select * from song where true"
_NEAR = "nearestNeighbor(vector, v)"

CLAUSES: tuple[Probes, Probes] = (
    {
        "select": lambda world: _has_fields(world, "select title from song where year = 2000", ["title"]),
        "from": answers("select * from song where year = 2000", 0),
        "from sources": answers("select * from sources * where year = 2001", 1),
        "where": answers("select * from song where year = 2002", 2),
        "order by": answers(f"{_ALL} order by year desc", 3, 2, 1, 0),
        "limit": answers(f"{_ALL} order by year limit 2", 0, 1),
        "offset": answers(f"{_ALL} order by year limit 3 offset 1", 1, 2),
        "timeout": answers("select * from song where year = 2000 timeout 5000", 0),
        "@parameter": answers("select * from song where year = @when", 1, when="2001"),
        "comments": answers("select * from song where year = 2001 // the bridge", 1),
    },
    {"order by function": refuses("true order by {function: 'uca'}label", "'uca'")},
)


def _has_fields(world: World, yql: str, names: list[str]) -> None:
    status, root = world.search(yql)
    assert status == 200
    assert [sorted(hit["fields"]) for hit in root["children"]] == [names]


OPERATORS: tuple[Probes, Probes] = (
    {
        "and": finds("year > 2000 and live = true", 2),
        "or": finds("year = 2000 or year = 2003", 0, 3),
        "!": finds("true and !(title contains 'river')", 2, 3),
        "=": finds("year = 2001", 1),
        "<": finds("price < 1.5", 3),
        "<=": finds("price <= 1.5", 0, 3),
        ">": finds("price > 2.5", 2),
        ">=": finds("price >= 2.5", 1, 2),
        "contains": finds("title contains 'rivers'", 0, 1),
        "matches": finds("label matches '^air'", 0, 1),
        "in": finds("year in (2000, 2003)", 0, 3),
        "range": finds("range(year, 2001, 2002)", 1, 2),
        "phrase": finds("title contains phrase('red', 'river')", 0),
        "near": finds("title contains ({distance: 5}near('river', 'red'))", 0, 1),
        "onear": finds("title contains ({distance: 5}onear('river', 'red'))"),
        "equiv": finds("title contains equiv('sea', 'bridge')", 1, 2),
        "fuzzy": finds("label contains ({maxEditDistance: 1}fuzzy('airport'))", 0, 1),
        "text": finds("title contains text('sea bridge')", 1, 2),
        "nearestNeighbor": finds("{targetHits: 2}nearestNeighbor(vector, v)", 0, 1),
        "nearestNeighbor over mapped and indexed": finds("{targetHits: 2}nearestNeighbor(patches, v)", 0, 2),
        "nearestNeighbor by hamming": finds("{targetHits: 1}nearestNeighbor(bits, h)", 0),
        "userInput": finds("userInput('river')", 0, 1),
        "userQuery": finds("userQuery()", 2, query="sea"),
        "rank": finds("rank(year = 2000, title contains 'sea')", 0),
        "weakAnd": finds("weakAnd(title contains 'sea', title contains 'trees')", 2, 3),
        "wand": finds("{targetHits: 1}wand(tags, {'b': 1})", 0, 2),
        "dotProduct": finds("dotProduct(tags, {'a': 1})", 0, 1),
        "weightedSet": finds("weightedSet(tags, {'b': 1})", 0, 2),
        "nonEmpty": finds("nonEmpty(title contains 'sea')", 2),
        "true": finds("true", 0, 1, 2, 3),
        "false": finds("false"),
    },
    {
        "sameElement": refuses("tags contains sameElement('a', 'b')", "sameElement"),
        "labeled": refuses("labeled(true, 'x', 1)", "labeled"),
        "predicate": refuses("predicate(label, {'a': 'b'}, {'c': 1})", "predicate"),
        "geoLocation": refuses("geoLocation(label, 1, 2, '3 km')", "geoLocation"),
        "alternatives": refuses("title contains alternatives({'a': 1.0})", "alternatives"),
        "geoBoundingBox": refuses("geoBoundingBox(label, 1, 2, 3, 4)", "geoBoundingBox"),
        "uri": refuses("uri(label)", "uri"),
        "contains uri": refuses("label contains uri('a')", "uri"),
    },
)  # fmt: skip


def _changes(where: str, without: str, *expected: int, **parameters: Any) -> Probe:
    """``where`` finds these documents, and what it says makes the difference: ``without`` it others are found."""

    def probe(world: World) -> None:
        finds(where, *expected, **parameters)(world)
        _, root = world.search(f"select * from song where {without}", **parameters)
        assert sorted(ids(root)) != sorted(expected), without

    return probe


def _rejects(where: str, name: str, **parameters: Any) -> Probe:
    """The query is one that Vespa rejects too, by ``name``."""

    def probe(world: World) -> None:
        status, root = world.search(f"select * from song where {where}", **parameters)
        assert status == 400, root
        assert name in root["errors"][0]["message"]

    return probe


def _both(*probes: Probe) -> Probe:
    def probe(world: World) -> None:
        for each in probes:
            each(world)

    return probe


def _first_score(where: str, expected: float, **parameters: Any) -> Probe:
    """The best hit of ``where`` by bm25 has ``expected`` times its usual score."""

    def probe(world: World) -> None:
        scores = []
        for part in (where, "title contains 'sea'"):
            status, root = world.search(f"select * from song where {part}", ranking="words", **parameters)
            assert status == 200, root
            scores.append(root["children"][0]["relevance"])
        assert close(scores[0], expected * scores[1]), scores

    return probe


def _has_feature(world: World, where: str, name: str, expected: float) -> None:
    assert [found[name] for found in world.features(where)] == [expected]


_TUNING = (
    "hnsw.approximateThreshold", "hnsw.explorationSlack", "hnsw.filterFirstExploration", "hnsw.filterFirstThreshold",
    "hnsw.postFilterThreshold", "hnsw.targetHitsMaxAdjustmentFactor",
)  # fmt: skip
ANNOTATIONS: tuple[Probes, Probes] = (
    {
        "targetHits": finds(f"{{targetHits: 1}}{_NEAR}", 0),
        "targetNumHits": finds(f"{{targetNumHits: 1}}{_NEAR}", 0),
        "totalTargetHits": finds(f"{{totalTargetHits: 9}}{_NEAR}", 0, 1, 2, 3),
        "approximate": finds(f"{{targetHits: 1, approximate: false}}{_NEAR}", 0),
        "distanceThreshold": finds(f"{{targetHits: 9, distanceThreshold: 2}}{_NEAR}", 0, 1),
        "label": finds(f"{{targetHits: 1, label: 'l'}}{_NEAR}", 0),
        "hnsw.exploreAdditionalHits": finds(f"{{targetHits: 1, hnsw.exploreAdditionalHits: 9}}{_NEAR}", 0),
        **{name: finds(f"{{targetHits: 1, {name}: 0.5}}{_NEAR}", 0) for name in _TUNING},
        "weight": lambda world: _has_feature(world, "title contains ({weight: 250}'sea')", "term(0).weight", 250),
        "significance": _first_score("title contains ({significance: 0.0}'sea')", 0),
        "ranked": _first_score("title contains ({ranked: false}'sea')", 0),
        "filter": _first_score("title contains ({filter: true}'sea')", 0),
        "stem": finds("title contains ({stem: false}'rivers')"),
        "implicitTransforms": finds("label contains ({implicitTransforms: false}'air port')"),
        "prefix": finds("label contains ({prefix: true}'air')", 0, 1),
        "suffix": finds("label contains ({suffix: true}'ports')", 1),
        "substring": finds("label contains ({substring: true}'por')", 0, 1),
        "nfkc": finds("title contains ({nfkc: true}'\uff53ea')", 2),
        "distance": finds("title contains ({distance: 1}near('river', 'red'))", 0),
        "bounds": finds("{bounds: 'leftOpen'}range(year, 2001, 2002)", 2),
        "maxEditDistance": finds("label contains ({maxEditDistance: 1}fuzzy('se'))", 3),
        "prefixLength": finds("label contains ({maxEditDistance: 1, prefixLength: 1}fuzzy('xea'))"),
        "scoreThreshold": finds("{targetHits: 9, scoreThreshold: 5}wand(tags, {'b': 1})", 2),
        "grammar": finds("{grammar: 'all'}userInput('red bridge')", 1),
        "grammar.syntax: none": _changes("{grammar.syntax: 'none'}userInput('-sea')", "userInput('-sea')", 2),
        **{f"grammar.syntax: {syntax}": _changes(
            f"{{grammar: '{grammar}', grammar.syntax: '{syntax}'}}userInput('{text}')",
            f"{{grammar: '{grammar}'}}userInput('{text}')", *expected,
        ) for syntax, grammar, text, *expected in (
            ("simple", "tokenize", "red -bridge", 0), ("web", "all", "sea OR trees", 2, 3),
            ("advanced", "all", "red andnot bridge", 0))},
        "grammar.tokenization": _changes(
            "{defaultIndex: 'label', grammar: 'tokenize', grammar.tokenization: 'linguistics'}"
            "userInput('h\u00e1rbour')",
            "{defaultIndex: 'label', grammar: 'tokenize'}userInput('h\u00e1rbour')", 2,
        ),
        "grammar.composite": finds("title contains ({grammar.composite: 'and'}text('red bridge'))", 1),
        "defaultIndex": finds("{defaultIndex: 'label'}userInput('harbour')", 2),
        "allowEmpty": finds("{allowEmpty: true}userInput('')"),
        "language": finds("{language: 'en'}userInput('rivers')", 0, 1),
        "documentFrequency": _first_score(
            "title contains ({documentFrequency: {frequency: 3, count: 4}}'sea')",
            math.log(1 + (4 - 3 + 0.5) / (3 + 0.5)) / math.log(1 + (4 - 1 + 0.5) / (1 + 0.5)),
        ),
        "connectivity": _both(
            finds("title contains ({connectivity: {id: 2, weight: 3}}'red') and title contains ({id: 2}'river')", 0, 1),
            _rejects("title contains ({connectivity: {id: 2, weight: 3}}'red') and title contains 'river'", "ID 2"),
        ),
        "origin": _changes(
            "title contains ({origin: {original: 'a red river', offset: 2, length: 9}}phrase('other', 'words'))",
            "title contains phrase('other', 'words')", 0,
        ),
    },
    {
        **{name: refuses(f"title contains ({{{name}: 1}}'a')", f"'{name}'")
           for name in ("thresholdBoostFactor", "minTargetHits", "elementFilter", "grammar.profile")},
        "origin of another word": refuses(
            "title contains ({origin: {original: 'sea', offset: 0, length: 3}}'red')", "'origin'"),
        "exclusionDistance": refuses(
            "title contains ({distance: 5, exclusionDistance: 1}near('red', !'sea'))", "negative words in near"
        ),
        "hitLimit": refuses("{hitLimit: 3}range(year, 0, 9)", "hitLimit"),
        **{name: refuses(f"{{hitLimit: 3, {name}: true}}range(year, 0, 9)", "hitLimit")
           for name in ("ascending", "descending")},
        "language, not English": refuses("{language: 'fr'}userInput('a')", "'fr'"),
        **{f"grammar.syntax: {name}": refuses(f"{{grammar.syntax: '{name}'}}userInput('a')", "grammar.syntax")
           for name in ("json", "programmatic", "yql")},
    },
)  # fmt: skip


def _grammar(name: str, text: str, *expected: int) -> Probe:
    return finds("userQuery()", *expected, query=text, type=name)


GRAMMARS: tuple[Probes, Probes] = (
    {
        "weakAnd": _grammar("weakAnd", "red sea", 0, 1, 2),
        "all": _grammar("all", "red -bridge river", 0),
        "any": _grammar("any", "+red bridge", 0, 1),
        "web": _grammar("web", "sea OR trees", 2, 3),
        "phrase": _grammar("phrase", "red river", 0),
        "tokenize": _grammar("tokenize", "sea!", 2),
        "linguistics": _grammar("linguistics", "trees", 3),
        "raw": _grammar("raw", "sea", 2),
        "segment": _grammar("segment", "red river", 0),
        "near": _grammar("near", "red river", 0),
        "onear": _grammar("onear", "red river", 0),
        "adv": _grammar("adv", "red andnot bridge", 0),
        "advanced": _grammar("advanced", "red and bridge", 1),
    },
    {
        "yql": refuses("userQuery()", "'yql'", query="a", type="yql"),
        "programmatic": refuses("userQuery()", "'programmatic'", query="a", type="prog"),
        "select": refuses("userQuery()", "'select'", query="a", type="select"),
    },
)


def _timing(world: World) -> None:
    _, body = world.ask("POST", "/search/", {"yql": _ALL, "ranking": "plain", "presentation.timing": True})
    assert set(body["timing"]) == {"querytime", "summaryfetchtime", "searchtime"}


def _trace(world: World) -> None:
    _, body = world.ask("POST", "/search/", {"yql": _ALL, "ranking": "plain", "tracelevel": 1})
    assert any("match" in step["message"] for step in body["trace"]["children"])


def _tensors(world: World) -> None:
    _, root = world.search("select vector from song where year = 2001", presentation__format__tensors="short-value")
    assert root["children"][0]["fields"]["vector"] == [1.0, 0.0]


def _summary(world: World) -> None:
    _, root = world.search("select * from song where year = 2001", presentation__summary="short")
    assert "title" not in root["children"][0]["fields"]


def _unlimited_groups(_: World) -> None:
    served = Served(make_schema(), query_profiles={"default": {"grouping.globalMaxGroups": "-1"}})
    served.put(0, {"label": "sea"})
    status, root = served.get(
        yql="select * from image where true limit 0 | all(group(label) max(inf) each(output(count())))"
    )
    assert (status, len(root["children"][0]["children"][0]["children"])) == (200, 1)


_HARBOUR = {"query": "h\u00e1rbour", "type": "tokenize", "model.defaultIndex": "label"}
_BY_YEAR = f"{_ALL} order by year"
_ONE = "all(group(year) each(output(count())))"
PARAMETERS: tuple[Probes, Probes] = (
    {
        "yql": answers("select * from song where year = 2000", 0),
        "query": _grammar("weakAnd", "sea", 2),
        "model.type": finds("userQuery()", 1, query="red bridge", **{"model.type": "all"}),
        "model.type.composite": finds("userQuery()", 1, query="red bridge", **{"model.type.composite": "and"}),
        "model.type.tokenization": _both(
            finds("userQuery()", 2, **_HARBOUR, **{"model.type.tokenization": "linguistics"}),
            finds("userQuery()", **_HARBOUR),
        ),
        "model.type.syntax": finds("userQuery()", 2, query="-sea", **{"model.type.syntax": "none"}),
        "model.defaultIndex": finds("userQuery()", 2, query="harbour", **{"model.defaultIndex": "label"}),
        "model.filter": finds("userQuery()", 1, query="river", filter="+bridge"),
        "model.sources": answers(_BY_YEAR, 0, 1, 2, 3, **{"model.sources": "song"}),
        "model.restrict": answers(_BY_YEAR, 0, 1, 2, 3, **{"model.restrict": "song"}),
        "model.language": finds("userInput('rivers')", 0, 1, **{"model.language": "en"}),
        "model.locale": finds("userInput('rivers')", 0, 1, **{"model.locale": "en-US"}),
        "hits": answers(_BY_YEAR, 0, hits=1),
        "offset": answers(_BY_YEAR, 3, offset=3),
        "maxHits": answers(_BY_YEAR, 0, hits=1, maxHits=1),
        "maxOffset": answers(_BY_YEAR, 3, offset=3, maxOffset=3),
        "queryProfile": answers(_BY_YEAR, 0, 1, 2, 3, queryProfile="default"),
        "searchChain": _both(
            answers(_BY_YEAR, 0, 1, 2, 3, searchChain="default"), _rejects("true", "'other'", searchChain="other")),
        "ranking.profile": _first_score("title contains 'sea'", 1, **{"ranking.profile": "words"}),
        "ranking.features.*": finds(f"{{targetHits: 1}}{_NEAR}", 3, **{"ranking.features.query(v)": "[9,0]"}),
        "input.query(...)": finds(f"{{targetHits: 1}}{_NEAR}", 2, **{"input.query(v)": "[3,0]"}),
        "ranking.properties.vespa.matching.*": answers(
            _BY_YEAR, 0, 1, 2, 3, **{"ranking.properties.vespa.matching.numthreadspersearch": "1"}
        ),
        "ranking.sorting": answers(_ALL, 3, 2, 1, 0, **{"ranking.sorting": "-year"}),
        "ranking.rerankCount": answers(_BY_YEAR, 0, 1, 2, 3, **{"ranking.rerankCount": 2}),
        "ranking.secondPhase.rerankCount": answers(_BY_YEAR, 0, 1, 2, 3, **{"ranking.secondPhase.rerankCount": 2}),
        "ranking.globalPhase.rerankCount": answers(_BY_YEAR, 0, 1, 2, 3, **{"ranking.globalPhase.rerankCount": 2}),
        "select": lambda world: _groups(world, "", {"1": 1}, query="sea", select="all(group(1) each(output(count())))"),
        "timeout": answers(_BY_YEAR, 0, 1, 2, 3, timeout="5s"),
        "presentation.summary": _summary,
        "presentation.format.tensors": _tensors,
        "presentation.format": answers(_BY_YEAR, 0, 1, 2, 3, **{"presentation.format": "json"}),
        "presentation.timing": _timing,
        "tracelevel": _trace,
        "grouping.defaultMaxGroups": lambda world: _groups(
            world, _ONE, {"2000": 1, "2001": 1}, **{"grouping.defaultMaxGroups": 2}
        ),
        "grouping.globalMaxGroups=-1 in a query profile": _unlimited_groups,
        "grouping.defaultMaxHits": lambda world: _groups(world, _ONE, dict.fromkeys(
            ("2000", "2001", "2002", "2003"), 1), **{"grouping.defaultMaxHits": 2}),
    },
    {
        **{name: refuses("true", f"'{name}'", **{name: "1"}) for name in (
            "recall", "select.where", "select.grouping", "model.searchPath", "model.type.isYqlDefault",
            "model.type.profile", "collapsefield",
            "ranking.matching.termwiseLimit", "ranking.matchPhase.attribute", "ranking.matchPhase.maxHits",
            "weakAnd.replace", "wand.hits", "pos.ll", "pos.radius", "pos.bb", "streaming.selection", "ranking.location",
            "ranking.keepRankCount", "ranking.totalKeepRankCount", "ranking.rankScoreDropLimit",
            "ranking.secondPhase.totalRerankCount", "ranking.secondPhase.rankScoreDropLimit",
            "ranking.globalPhase.rankScoreDropLimit", "hitcountestimate", "ranking.listFeatures",
            "ranking.freshness", "ranking.significance.useModel", "ranking.matching.filterThreshold",
            "ranking.matching.weakand.stopwordLimit", "ranking.matching.weakand.adjustTarget",
            "ranking.matching.weakand.allowDropAll", "timezone", "continue")},
        "grouping.globalMaxGroups in a request": refuses("true", "'grouping.globalMaxGroups'", **{
            "grouping.globalMaxGroups": "-1"}),
        "ranking.properties of a feature": refuses("true", "'bm25(title).k1'", **{
            "ranking.properties.bm25(title).k1": "0"}),
        "model.language, not English": refuses("true", "'de'", **{"model.language": "de"}),
        "presentation.format, not json": refuses("true", "'xml'", **{"presentation.format": "xml"}),
        "model.filter without userQuery()": refuses("true", "model.filter", filter="a"),
    },
)  # fmt: skip

SORTING: tuple[Probes, Probes] = (
    {
        "an attribute": answers(f"{_ALL} order by price", 3, 0, 1, 2),
        "[rank]": answers("select * from song where title contains 'red' order by [rank]", 1, 0, ranking="words"),
        "lowercase": answers(_ALL, 0, 1, 2, 3, **{"ranking.sorting": "+lowercase(label)"}),
        "raw": answers(_ALL, 0, 1, 2, 3, **{"ranking.sorting": "+raw(label)"}),
    },
    {"uca": refuses("true", "uca", **{"ranking.sorting": "uca(label,en)"}),
     "missing": refuses("true", "missing", **{"ranking.sorting": "missing(label,last)"})},
)  # fmt: skip


def _groups(world: World, grouping: str, expected: dict[str, Any], **parameters: Any) -> None:
    """The (first) groups have these values of their one output."""
    if grouping:
        status, root = world.search(f"{_ALL} limit 0 | {grouping}", **parameters)
    else:
        status, body = world.ask("POST", "/search/", {"ranking": "plain", "hits": 0, **parameters})
        root = body["root"]
    assert status == 200, root
    made = root["children"][0]["children"][0]["children"]
    found = {group["value"]: next(iter(group["fields"].values())) for group in made}
    assert found.keys() == expected.keys(), found
    assert all(close(found[key], value) for key, value in expected.items()), found


def _grouped(expression: str, *keys: str) -> Probe:
    """Grouping the bridge alone by ``expression`` gives one group with this key, or these two bounds."""

    def probe(world: World) -> None:
        yql = f"select * from song where year = 2001 limit 0 | all(group({expression}) each(output(count())))"
        status, root = world.search(yql)
        assert status == 200, root
        (group,) = root["children"][0]["children"][0]["children"]
        shown = tuple(group["limits"].values()) if "limits" in group else (group["value"],)
        assert shown == keys

    return probe


def _total(output: str, expected: Any) -> Probe:
    def probe(world: World) -> None:
        status, root = world.search(f"{_ALL} limit 0 | all(output({output}))")
        assert status == 200, root
        assert close(next(iter(root["children"][0]["fields"].values())), expected), root

    return probe


def _list(grouping: str, **expected: Any) -> Probe:
    return lambda world: _groups(world, grouping, {key.lstrip("_"): value for key, value in expected.items()})


def _not_grouped(grouping: str, name: str) -> Probe:
    return refuses(f"true | {grouping}", name)


def _hits_in_groups(world: World) -> None:
    _, root = world.search(f"{_ALL} limit 0 | all(group(live) max(1) each(max(1) each(output(summary(short)))))")
    (group,) = root["children"][0]["children"][0]["children"]
    assert group["children"][0]["id"] == "hitlist:hits"


_EACH = "each(output(count()))"
GROUPING: tuple[Probes, Probes] = (
    {
        "all": _list(f"all(group(live) {_EACH})", true=2, false=2),
        "each": _list("all(group(live) each(output(count())))", true=2, false=2),
        "group": _list(f"all(group(year) {_EACH})", _2000=1, _2001=1, _2002=1, _2003=1),
        "max": _list(f"all(group(year) max(1) order(-max(price)) {_EACH})", _2002=1),
        "order": _list("all(group(live) order(sum(price)) max(1) each(output(sum(price))))", false=1.5),
        "output": _list("all(group(live) each(output(avg(price))))", true=4.75, false=0.75),
        "as": _total("count() as(n)", 4),
        "alias": _list(f"all(alias(y, year) group($y) max(1) order(max($y)) {_EACH})", _2000=1),
        "filter(regex(...))": _list(f'all(group(label) filter(regex("air.*", label)) {_EACH})', airports=1),
        "where($query)": _list(f"all(group(live) {_EACH}) where($query)", true=2, false=2),
        **{clause.partition("(")[0]: _list(f"all(group(live) {clause} {_EACH})", true=2, false=2)
           for clause in ("precision(100)", "accuracy(0.9)", "hint(x)")},
        **{f"{name}()": _total(f"{name}({field})", value) for name, field, value in (
            ("count", "", 4), ("sum", "year", 8006), ("avg", "price", 2.75), ("min", "price", -1.0),
            ("max", "year", 2003), ("stddev", "price", 3.288236609))},
        "summary()": _hits_in_groups,
    },
    {
        "continuations": _not_grouped("{'continuations': ['BCB']} all(output(count()))", "continuations"),
        "where(true)": _not_grouped("all(output(count())) where(true)", "where(true)"),
        "filter, not regex": _not_grouped(f"all(group(label) filter(istrue(live)) {_EACH})", "istrue"),
        "xor()": _not_grouped("all(output(xor(year)))", "xor"),
        "quantile()": _not_grouped("all(output(quantile([0.5], year)))", "quantile"),
    },
)  # fmt: skip


_MATHS = {
    "exp": "2.718281828459045", "log": "0.0", "log1p": "0.6931471805599453", "log10": "0.0", "sin":
    "0.8414709848078965", "asin": "1.5707963267948966", "cos": "0.5403023058681398", "acos": "0.0", "tan":
    "1.5574077246549023", "atan": "0.7853981633974483", "sqrt": "1.0", "sinh": "1.1752011936438014", "asinh":
    "0.881373587019543", "cosh": "1.5430806348152437", "acosh": "0.0", "tanh": "0.7615941559557649", "floor": "1.0",
    "cbrt": "1.0",
}  # fmt: skip
_TIMES = {
    "date": "1970-1-2", "dayofmonth": "2", "dayofweek": "5", "dayofyear": "1", "hourofday": "1", "minuteofhour": "1",
    "monthofyear": "1", "secondofminute": "1", "year": "1970",
}  # fmt: skip
GROUPING_FUNCTIONS: tuple[Probes, Probes] = (
    {
        "+": _grouped("year + 1", "2002"), "-": _grouped("year - 1", "2000"), "*": _grouped("year * 2", "4002"),
        "/": _grouped("year / 2", "1000"), "%": _grouped("year % 2", "1"),
        **{name: _grouped(f"{name}(year, 2)", value) for name, value in {
            "add": "2003", "sub": "1999", "mul": "4002", "div": "1000", "mod": "1", "min": "2", "max": "2001",
            "avg": "1001.5", "and": "0", "or": "2003"}.items()},
        "neg": _grouped("neg(year)", "-2001"),
        "tolong": _grouped("tolong(price)", "2"), "todouble": _grouped("todouble(year)", "2001.0"),
        "tostring": _grouped("tostring(year)", "2001"), "strlen": _grouped("strlen(label)", "8"),
        "strcat": _grouped("strcat(label, 'x')", "airportsx"), "cat": _grouped("cat(label, 'x')", "airportsx"),
        "size": _grouped("size(sizes)", "1"), "fixedwidth": _grouped("fixedwidth(year, 10)", "2000", "2010"),
        "predefined": _grouped("predefined(year, bucket(0, 2001), bucket(2001, inf))", "2001", str(2**63 - 1)),
        "attribute": _grouped("attribute(year)", "2001"),
        **{f"math.{name}": _grouped(f"math.{name}(live + 1)", value) for name, value in _MATHS.items()},
        "math.atanh": _grouped("math.atanh(live + 0)", "0.0"),
        "math.pow": _grouped("math.pow(price, 2)", "6.25"), "math.hypot": _grouped("math.hypot(sizes + 2, 4)", "5.0"),
        **{f"time.{name}": _grouped(f"time.{name}(day)", value) for name, value in _TIMES.items()},
    },
    {
        name: _not_grouped(f"all(group({name}(year, 2)) {_EACH})", f"'{name}'") for name in (
            "first", "argmin", "argmax", "uca", "zcurve.x", "zcurve.y", "interpolatedlookup", "array.at", "md5",
            "xorbit", "debugwait", "docidnsspecific", "normalizesubject", "sort", "reverse", "toraw", "xor",
            "geo.distance", "quantile")
    },
)  # fmt: skip
