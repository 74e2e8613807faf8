"""Grouping over a small index: groups, buckets, order, aggregates, hits and nesting, in Vespa's JSON."""

from __future__ import annotations

from typing import Any

import pytest
from query_support import Served, attribute, make_schema

from clipsearch.engine.package.model import Field, FieldType, Phase, RankProfile
from clipsearch.engine.query.grouping import parse_grouping
from clipsearch.engine.query.grouping_values import text_of

# customer, price, tax, day (seconds since 1970), tags, captions
SALES = [
    ("Smith", 6, 0.5, 86_400, {"x": 1}, ["river"]),
    ("Smith", 8, 0.25, 86_401, {"y": 1}, ["river river"]),
    ("Jones", 12, 0.5, 90_000_000, {"x": 1, "y": 2}, ["road"]),
    ("Brown", 20, 1.0, 90_000_001, {}, ["river road"]),
    ("Jones", -3, 0.0, 1_700_000_000, {"z": 1}, ["sea"]),
]


@pytest.fixture(scope="module")
def served() -> Served:
    plain = RankProfile("plain", first_phase=Phase("attribute(price)"))
    extra = {
        "customer": attribute("customer", "string"),
        "price": attribute("price", "int"),
        "tax": attribute("tax", "double"),
        "day": attribute("day", "long"),
        "sizes": Field("sizes", FieldType("array", FieldType("int")), attribute=True, summary=True),
    }
    served = Served(make_schema(profiles=[plain], **extra))
    for lid, (customer, price, tax, day, tags, captions) in enumerate(SALES):
        served.put(
            lid,
            {
                "customer": customer,
                "price": price,
                "tax": tax,
                "day": day,
                "tags": tags,
                "captions": captions,
                "flag": price > 7,
                "sizes": [price, price, 1],
            },
        )
    return served


def root_of(served: Served, grouping: str, where: str = "true", **parameters: str) -> dict[str, Any]:
    options = {"ranking": "plain", "hits": "0", **parameters}
    status, root = served.get(yql=f"select * from image where {where} | {grouping}", **options)
    assert status == 200, root
    group: dict[str, Any] = root["children"][0]
    return group


def groups(served: Served, grouping: str, **parameters: str) -> dict[str, Any]:
    """Value or limits of each group of the first list to its fields, in order."""
    found = {}
    for group in root_of(served, grouping, **parameters)["children"][0]["children"]:
        limits = group.get("limits")
        key = group.get("value", group["id"]) if limits is None else f"{limits['from']}..{limits['to']}"
        (found[key],) = group.get("fields", {"": None}).values()
    return found


@pytest.mark.parametrize(
    ("grouping", "expected"),
    [
        ("all(group(customer) each(output(count())))", {"Brown": 1, "Jones": 2, "Smith": 2}),
        ("all(group(customer) order(sum(price)) each(output(sum(price))))", {"Jones": 9, "Smith": 14, "Brown": 20}),
        (
            "all(group(customer) order(-count(), max(price)) each(output(max(price))))",
            {"Smith": 8, "Jones": 12, "Brown": 20},
        ),
        ("all(group(customer) max(2) order(-avg(price)) each(output(avg(price))))", {"Brown": 20.0, "Smith": 7.0}),
        (
            "all(group(customer) order(-sum(tax)*count()) each(output(sum(tax))))",
            {"Smith": 0.75, "Brown": 1.0, "Jones": 0.5},
        ),
        (
            "all(group(customer) order(-max(relevance())) each(output(min(tax))))",
            {"Brown": 1.0, "Jones": 0.0, "Smith": 0.25},
        ),
        (
            "all(group(fixedwidth(price, 10)) order(min(price)) each(output(count())))",
            {"-10..0": 1, "0..10": 2, "10..20": 1, "20..30": 1},
        ),
        (
            "all(group(fixedwidth(tax, 0.5)) order(min(tax)) each(output(count())))",
            {"0.0..0.5": 2, "0.5..1.0": 2, "1.0..1.5": 1},
        ),
        (
            "all(group(predefined(price, bucket(-inf, 0), bucket[6, 8], bucket<8, inf>)) order(min(price)) "
            "each(output(count())))",
            {"-9223372036854775808..0": 1, "6..9": 2, "9..9223372036854775807": 2},
        ),
        ("all(group(predefined(price, bucket(6))) order(count()) each(output(count())))", {"6..7": 1, "group:null": 4}),
        (
            "all(group(predefined(customer, bucket('A','K'))) order(count()) each(output(count())))",
            {"group:null": 2, "A..K": 3},
        ),
        ("all(group(tags) order(-count()) each(output(count())))", {"x": 2, "y": 2, "z": 1}),
        ("all(group(sizes) max(1) order(-count()) each(output(count())))", {"1": 5}),
        ("all(group(flag) each(output(count())))", {"true": 3, "false": 2}),
        ("all(group(price % 4) order(count()) each(output(count())))", {"2": 1, "-3": 1, "0": 3}),
        ("all(group(price * 2 + 1) max(1) order(-max(price)) each(output(count())))", {"41": 1}),
        ("all(group(math.floor(tax * 3)) order(min(tax)) each(output(count())))", {"0.0": 2, "1.0": 2, "3.0": 1}),
        ("all(group(time.year(day)) order(min(day)) each(output(count())))", {"1970": 2, "1972": 2, "2023": 1}),
        ("all(group(time.date(day)) max(1) order(min(day)) each(output(count())))", {"1970-1-2": 2}),
        ("all(group(strlen(customer)) each(output(count())))", {"5": 5}),
        ("all(group('all') each(output(stddev(price))))", {"all": 7.525954}),
        ("all(group(customer) each(output(sum(sizes))))", {"Brown": 41, "Jones": 20, "Smith": 30}),
        ("all(max(2) all(group(customer) each(output(count()))))", {"Brown": 1, "Jones": 1}),
        ("all(alias(c, customer) group($c) each(output(count() as(n))))", {"Brown": 1, "Jones": 2, "Smith": 2}),
    ],
)
def test_groups_have_the_values_and_the_order_of_vespa(served: Served, grouping: str, expected: dict[str, Any]) -> None:
    found = groups(served, grouping)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected)


def test_groups_without_order_come_by_their_best_hit_and_carry_its_relevance(served: Served) -> None:
    (groups,) = root_of(served, "all(group(customer) each(output(count())))")["children"]
    assert [(group["value"], group["relevance"]) for group in groups["children"]] == [
        ("Brown", 20.0), ("Jones", 12.0), ("Smith", 8.0),
    ]  # fmt: skip


def test_totals_and_numbers_of_groups_stand_at_the_root(served: Served) -> None:
    root = root_of(served, "all(output(count(), sum(price), avg(price) as(mean)))")
    assert root == {
        "id": "group:root:0",
        "relevance": 1.0,
        "continuation": {"this": ""},
        "fields": {"count()": 5, "sum(price)": 43, "mean": 8.6},
    }
    assert root_of(served, "all(group(customer) output(count()))")["fields"] == {"count()": 3}
    both = root_of(served, "all(group(customer) output(count() as(n)) max(1) each(output(count())))")
    assert both["fields"] == {"n": 3}
    assert len(both["children"][0]["children"]) == 1


def test_groups_nest_and_hold_their_best_hits(served: Served) -> None:
    root = root_of(
        served,
        "all(group(customer) max(1) order(-count()) each(output(count()) all(group(flag) each(output(count()))) "
        "each(output(summary(short)))))",
    )
    (jones,) = root["children"][0]["children"]
    assert (jones["id"], jones["value"], jones["fields"]) == ("group:string:Jones", "Jones", {"count()": 2})
    flags, hits = jones["children"]
    assert (flags["id"], len(flags["children"])) == ("grouplist:flag", 2)
    assert [hit["relevance"] for hit in hits["children"]] == [12.0, -3.0]


def test_a_group_has_lists_of_groups_and_of_hits(served: Served) -> None:
    root = root_of(served, "all(group(customer) max(1) order(-count()) each(max(1) each(output(summary(short)))))")
    (jones,) = root["children"][0]["children"]
    (hits,) = jones["children"]
    assert (hits["id"], hits["label"]) == ("hitlist:hits", "hits")
    (hit,) = hits["children"]
    assert hit["relevance"] == 12.0
    assert hit["fields"]["sddocname"] == "image"
    nested = root_of(served, "all(group(customer) each(group(flag) each(output(count()))))")
    inner = [group["children"][0]["children"] for group in nested["children"][0]["children"]]
    assert [[(g["id"], g["fields"]["count()"]) for g in each] for each in inner] == [
        [("group:bool:true", 1)], [("group:bool:true", 1), ("group:bool:false", 1)],
        [("group:bool:true", 1), ("group:bool:false", 1)],
    ]  # fmt: skip


def test_a_list_without_max_is_cut_to_ten_unless_the_request_says_otherwise() -> None:
    served = Served(make_schema())
    for lid in range(30):
        served.put(lid, {"width": lid})
    grouping = "all(group(width) each(output(count())))"
    assert len(root_of(served, grouping, ranking="default")["children"][0]["children"]) == 10
    more = root_of(served, grouping, ranking="default", **{"grouping.defaultMaxGroups": "25"})
    assert len(more["children"][0]["children"]) == 25
    asked = root_of(served, "all(group(width) max(29) each(output(count())))", ranking="default")
    assert len(asked["children"][0]["children"]) == 29
    hits = root_of(served, "all(group(1) each(each(output(summary()))))", ranking="default")
    assert len(hits["children"][0]["children"][0]["children"][0]["children"]) == 10


def test_several_groupings_and_labels_stand_beside_each_other(served: Served) -> None:
    _, root = served.get(
        yql="select * from image where true | all(group(customer) each(output(count())) as(a) "
        "each(output(sum(price))) as(b)) | all(output(count())); all(group(flag) each(output(count())))",
        ranking="plain", hits="0",
    )  # fmt: skip
    first, second, third = root["children"]
    assert [part["id"] for part in first["children"]] == ["grouplist:a", "grouplist:b"]
    assert [first["id"], second["id"], third["id"]] == ["group:root:0", "group:root:1", "group:root:2"]
    assert second["fields"] == {"count()": 5}


@pytest.mark.parametrize(
    ("grouping", "message"),
    [
        ("{'continuations': ['BCB']} all(group(customer) each(output(count())))", "continuations are not supported"),
        ("all(group(gone) each(output(count())))", "'gone' is not an attribute"),
        ("all(group(captions) each(output(count())))", "'captions' is not an attribute"),
        ("all(group(customer) each(output(sum(customer))))", "sum() of strings"),
        ("all(group(customer) each(output(price)))", "the output 'price' is not supported"),
        ("all(group(count()) each(output(count())))", "cannot group by 'count()'"),
        ("all(group(customer) order(price) each(output(count())))", "cannot order groups by 'price'"),
        ("all(order(count()) each(output(count())))", "order needs group"),
        ("all(group(md5(customer, 8)) each(output(count())))", "'md5' is not supported"),
        ("all(group(customer) filter(istrue(customer)) each(output(count())))", "istrue(customer)) is not supported"),
        ("all(group(customer) each(output(count())) each(output(sum(price))))", "for multiple siblings"),
        ("all(group(customer) max(inf) each(output(count())))", "Cannot return unbounded number of groups"),
        ("all(group(customer) each(output(count())", "syntax error"),
        ("all(group(fixedwidth(price, 0)) each(output(count())))", "must be positive"),
        ("all(group(customer) each(output(count() as(a), sum(price) as(a))))", "output label 'a'"),
        ("each(output(count()))", "not supported"),
        ("all(group(price + customer) each(output(count())))", "takes numbers"),
        ("all(group(customer) each(output(summary(gone))))", "not supported"),
        ("all(group(customer) each(each(output(summary(gone)))))", "Summary 'gone' does not exist"),
        ("all(output(count())) where(true)", "where(true) is not supported"),
        ("all(group(customer) each(output(quantile([0.5], price))))", "syntax error"),
    ],
)
def test_what_grouping_cannot_do_is_said(served: Served, grouping: str, message: str) -> None:
    status, root = served.get(yql=f"select * from image where true | {grouping}", ranking="plain")
    assert status == 400
    assert message in root["errors"][0]["message"]


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("a+b*c-d/e", "add(a, sub(mul(b, c), div(d, e)))"),
        ("-a", "neg(a)"),
        ("fixedwidth( a ,10 )", "fixedwidth(a, 10)"),
        ("predefined(a, bucket(1,2), bucket<2,inf>)", "predefined(a, bucket[1, 2>, bucket<2, inf>)"),
        ("strcat(a, 'b')", 'strcat(a, "b")'),
        ("attribute(a.b)", "a.b"),
        ("max(max, 2.5)", "max(max, 2.5)"),
    ],
)
def test_expressions_are_labelled_as_vespa_labels_them(text: str, printed: str) -> None:
    (operation,) = parse_grouping(f"all(group({text}) each(output(count())))")
    assert str(operation.group) == printed


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1.0"), (0.1, "0.1"), (1e7, "1.0E7"), (123456.5, "123456.5"), (1.5e-5, "1.5E-5"), (-0.0, "-0.0"),
     (float("nan"), "NaN"), (float("-inf"), "-Infinity"), (True, "true"), (7, "7")],
)  # fmt: skip
def test_numbers_are_written_as_java_writes_them(value: float, text: str) -> None:
    assert text_of(value) == text


def test_a_plain_query_takes_its_grouping_from_select(served: Served) -> None:
    options = {"query": "river", "default-index": "captions", "ranking": "plain", "hits": "0"}
    _, root = served.get(select="all(group(customer) each(output(count())))", **options)
    (groups,) = root["children"][0]["children"]
    assert [(group["value"], group["fields"]["count()"]) for group in groups["children"]] == [
        ("Brown", 1),
        ("Smith", 2),
    ]
    for more, message in (
        ({"yql": "select * from image where true", "select": "all(output(count()))"}, "both yql and select"),
        ({**options, "select": '{"where": {"contains": ["a", "b"]}}'}, "JSON in 'select' is not supported"),
    ):
        status, root = served.get(**more)
        assert status == 400
        assert message in root["errors"][0]["message"]


def test_hits_are_sorted_by_the_functions_that_do_not_need_a_locale(served: Served) -> None:
    yql = "select * from image where true"
    for sorting, expected in (
        ("-lowercase(customer) +price", [6, 8, -3, 12, 20]),
        ("raw(customer) -price", [20, 12, -3, 8, 6]),
    ):
        _, root = served.get(yql=yql, **{"ranking.sorting": sorting})
        assert [hit["fields"]["price"] for hit in root["children"]] == expected
    status, root = served.get(yql=yql, **{"ranking.sorting": "uca(customer,en)"})
    assert (status, root["errors"][0]["code"]) == (400, 3)
