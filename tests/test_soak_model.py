"""The engine against a model of it: a dictionary of documents, bm25 by its formula, nearest neighbours by sorting."""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import soak_app
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from clipsearch.engine.engine import Engine
from clipsearch.engine.http.messages import Request

pytestmark = pytest.mark.soak
SIZE, STEPS = 3, 25
VOCABULARY = ("bridge", "river", "harbour", "stadium", "forest")
NUMBERS = st.integers(0, 11)
WORD = st.sampled_from(VOCABULARY)
CELLS = st.lists(st.integers(-3, 3), min_size=SIZE, max_size=SIZE)
LABELS = st.sampled_from(("a", "b", "c"))
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "number": NUMBERS,
        "caption": st.lists(WORD, min_size=1, max_size=6).map(" ".join),
        "tags": st.lists(WORD, min_size=1, max_size=3),
        "total": st.integers(-5, 5),
        "parts": st.dictionaries(LABELS, st.integers(-3, 3), min_size=1, max_size=3),
        "vector": CELLS,
    },
)
CHANGES = st.one_of(
    st.tuples(st.just("total"), st.just("increment"), st.integers(-3, 3)),
    st.tuples(st.just("total"), st.just("multiply"), st.integers(-2, 2)),
    st.tuples(st.just("tags"), st.just("add"), st.lists(WORD, min_size=1, max_size=2)),
    st.tuples(st.just("parts"), st.just("add"), st.dictionaries(LABELS, st.integers(-3, 3), min_size=1, max_size=2)),
    st.tuples(st.just("parts"), st.just("remove"), LABELS),
    st.tuples(st.just("parts"), st.sampled_from(("replace", "add_to", "multiply")), st.tuples(LABELS, CELLS)),
    st.tuples(st.just("vector"), st.sampled_from(("replace", "add_to")), st.tuples(st.integers(0, SIZE - 1), CELLS)),
    st.tuples(st.sampled_from(("caption", "tags", "total", "vector", "parts")), st.just("assign"), st.none()),
    FIELDS.filter(bool).map(lambda fields: (*next(iter(fields.items())), "assign")).map(lambda t: (t[0], t[2], t[1])),
)
ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "replace": lambda old, new: new,
    "add_to": lambda old, new: old + new,
    "multiply": lambda old, new: old * new,
}
Fields = dict[str, Any]
counts = {"sequences": 0, "steps": 0, "queries": 0}


def changed(fields: Fields, name: str, change: str, operand: Any) -> Fields:
    """``fields`` after one change, as Vespa documents it."""
    old = fields.get(name)
    new: Any = old
    if change == "assign":
        new = operand
    elif name == "total" and old is not None:
        new = old + operand if change == "increment" else old * operand
    elif name == "tags":
        new = [*(old or []), *operand]
    elif name == "parts" and change == "add":
        new = {**(old or {}), **operand}
    elif name == "parts" and change == "remove" and old is not None:
        new = {label: value for label, value in old.items() if label != operand}
    elif name == "parts" and old is not None and operand[0] in old:
        new = old | {operand[0]: ARITHMETIC[change](old[operand[0]], operand[1][0])}
    elif name == "vector" and old is not None:
        new = [*old]
        new[operand[0]] = ARITHMETIC[change](old[operand[0]], operand[1][0])
    return {key: value for key, value in (fields | {name: new}).items() if value is not None}


def as_json(name: str, change: str, operand: Any) -> Fields:
    """One change as document/v1 takes it."""
    if name == "parts" and change in ("add", "assign") and operand is not None:
        return {change: {"cells": operand}}
    if name == "parts" and change == "remove":
        return {"remove": {"addresses": [{"label": operand}]}}
    if change in ARITHMETIC and name in ("parts", "vector"):
        dimension, (place, values) = {"parts": "label", "vector": "x"}[name], operand
        cell = {"address": {dimension: str(place)}, "value": values[0]}
        return {"modify": {"operation": change.removesuffix("_to"), "cells": [cell]}}
    return {change: operand}


def rendered(fields: Fields) -> Fields:
    """``fields`` as answers show them with short-value tensors."""
    shown = dict(fields)
    if "parts" in shown:
        shown["parts"] = {label: float(value) for label, value in shown["parts"].items()}
    if "vector" in shown:
        shown["vector"] = [float(value) for value in shown["vector"]]
    return shown


class Model(RuleBasedStateMachine):
    """One engine in process and the dictionary ``documents`` that it must agree with."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        counts["sequences"] += 1
        self.folder = Path(tempfile.mkdtemp(dir=self.template.parent))
        shutil.copytree(self.template, self.folder / "data")
        self.engine = Engine(self.folder / "data")
        self.documents: dict[int, Fields] = {}

    def teardown(self) -> None:
        self.engine.close()
        shutil.rmtree(self.folder)

    def ask(self, method: str, number: int | str, body: Any = None, **parameters: str) -> tuple[int, Any]:
        """One document/v1 request."""
        data = b"" if body is None else orjson.dumps(body)
        path = f"/document/v1/m/note/docid/{number}"
        answer = self.engine.container.handle(Request(method, path, tuple(parameters.items()), {}, data))
        raw = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
        return answer.status, orjson.loads(raw)

    def search(self, where: str, **body: Any) -> Any:
        """The root of a query's answer."""
        counts["queries"] += 1
        data = orjson.dumps({"yql": f"select * from note where {where}", "hits": 100} | body)
        answer = self.engine.container.handle(Request("POST", "/search/", (), {}, data))
        assert isinstance(answer.body, bytes)
        assert answer.status == 200, answer.body
        return orjson.loads(answer.body)["root"]

    @invariant()
    def _count(self) -> None:
        counts["steps"] += 1

    @rule(number=NUMBERS, fields=FIELDS)
    def put(self, number: int, fields: Fields) -> None:
        sent = fields | ({"parts": {"cells": fields["parts"]}} if "parts" in fields else {})
        assert self.ask("POST", number, {"fields": sent})[0] == 200
        self.documents[number] = fields

    @rule(number=NUMBERS, changes=st.lists(CHANGES, min_size=1, max_size=3), create=st.booleans())
    def update(self, number: int, changes: list[tuple[str, str, Any]], create: bool) -> None:
        changes = list({name: (name, change, operand) for name, change, operand in changes}.values())
        body = {name: as_json(name, change, operand) for name, change, operand in changes}
        assert self.ask("PUT", number, {"fields": body}, create=str(create).lower())[0] == 200
        if create or number in self.documents:
            fields = self.documents.get(number, {})
            for change in changes:
                fields = changed(fields, *change)
            self.documents[number] = fields

    @rule(number=NUMBERS)
    def remove(self, number: int) -> None:
        assert self.ask("DELETE", number)[0] == 200
        self.documents.pop(number, None)

    @rule(number=NUMBERS, total=st.integers(-5, 5), fields=FIELDS)
    def put_on_a_condition(self, number: int, total: int, fields: Fields) -> None:
        holds = number in self.documents and self.documents[number].get("total") == total
        sent = {name: value for name, value in fields.items() if name != "parts"}
        status, _ = self.ask("POST", number, {"fields": sent}, condition=f"note.total == {total}")
        assert status == (200 if holds else 412)
        if holds:
            self.documents[number] = sent

    @rule(number=NUMBERS)
    def get(self, number: int) -> None:
        status, body = self.ask("GET", number, **{"format.tensors": "short-value"})
        assert status == (200 if number in self.documents else 404)
        if status == 200:
            assert body["fields"] == rendered(self.documents[number])

    @rule(count=st.integers(1, 5), slices=st.integers(1, 3), low=st.one_of(st.none(), st.integers(-5, 5)))
    def visit(self, count: int, slices: int, low: int | None) -> None:
        wanted = {n: f for n, f in self.documents.items() if low is None or f.get("total", -99) >= low}
        selection = {} if low is None else {"selection": f"note.total >= {low}"}
        found: dict[str, Fields] = {}
        for part in range(slices):
            token: dict[str, str] = {}
            for _ in range(20):
                options = {"wantedDocumentCount": str(count), "slices": str(slices), "sliceId": str(part)}
                parameters = options | selection | token | {"format.tensors": "short-value"}
                status, page = self.ask("GET", "", **parameters)
                assert status == 200, page
                for document in page["documents"]:
                    assert document["id"] not in found
                    found[document["id"]] = document["fields"]
                if "continuation" not in page:
                    break
                token = {"continuation": page["continuation"]}
        assert found == {f"id:m:note::{n}": rendered(fields) for n, fields in wanted.items()}

    @rule(words=st.lists(WORD, min_size=1, max_size=3, unique=True), every=st.booleans())
    def search_words(self, words: list[str], every: bool) -> None:
        where = (" and " if every else " or ").join(f'caption contains "{word}"' for word in words)
        root = self.search(where)
        scores = self.bm25(words)
        held = {n: [w in f.get("caption", "").split() for w in words] for n, f in self.documents.items()}
        wanted = {n: scores[n] for n, has in held.items() if (all(has) if every else any(has))}
        self.check_hits(root, wanted)

    def bm25(self, words: list[str]) -> dict[int, float]:
        """Every document's score by the formula: k1 1.2, b 0.75, natural logarithm."""
        texts = {number: fields.get("caption", "").split() for number, fields in self.documents.items()}
        average = sum(map(len, texts.values())) / max(1, len(texts))
        scores = dict.fromkeys(texts, 0.0)
        for word in words:
            n = sum(word in text for text in texts.values())
            idf = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
            for number, text in texts.items():
                if f := text.count(word):
                    scores[number] += idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * len(text) / average))
        return scores

    @rule(q=CELLS, k=st.integers(1, 6), low=st.one_of(st.none(), NUMBERS), exact=st.booleans())
    def search_nearest(self, q: list[int], k: int, low: int | None, exact: bool) -> None:
        approximate = "" if not exact else ", approximate:false"
        where = f"{{targetHits:{k}{approximate}}}nearestNeighbor(vector,q)"
        where += "" if low is None else f" and number >= {low}"
        root = self.search(where, **{"ranking": "near", "input.query(q)": q})
        within = {n: f for n, f in self.documents.items() if low is None or f.get("number", -1) >= low}
        distances = {n: math.dist(f["vector"], q) for n, f in within.items() if "vector" in f}
        nearest = sorted(distances.values())[:k]
        hits = root.get("children", [])
        # An exact search may show more than targetHits, as Vespa's does: hits that were among the best for a while.
        assert len(nearest) <= root["fields"]["totalCount"] == len(hits) <= len(distances), (root, distances)
        found = [int(hit["id"].rsplit(":", 1)[1]) for hit in hits]
        assert len(set(found)) == len(found)
        shown = [hit["relevance"] for hit in hits]
        np.testing.assert_allclose(shown, [1 / (1 + distances[n]) for n in found], rtol=1e-6)
        np.testing.assert_allclose(shown[: len(nearest)], [1 / (1 + d) for d in nearest], rtol=1e-6)

    @rule(low=st.integers(-5, 5), span=st.integers(0, 5), tag=st.one_of(st.none(), WORD), negated=st.booleans())
    def filter(self, low: int, span: int, tag: str | None, negated: bool) -> None:
        where = f"total >= {low} and total <= {low + span}"
        where += "" if tag is None else f' and {"!" if negated else ""}(tags contains "{tag}")'
        wanted = {
            n: 0.0
            for n, f in self.documents.items()
            if low <= f.get("total", -(1 << 60)) <= low + span
            and (tag is None or (tag in f.get("tags", [])) != negated)
        }
        self.check_hits(self.search(where), wanted)

    @rule(descending=st.booleans())
    def order(self, descending: bool) -> None:
        root = self.search(f"total >= -1000 order by total {'desc' if descending else 'asc'}")
        totals = [hit["fields"]["total"] for hit in root.get("children", [])]
        assert totals == sorted((f["total"] for f in self.documents.values() if "total" in f), reverse=descending)

    @rule()
    def count_by_number(self) -> None:
        root = self.search("true | all(group(number) max(1000) each(output(count())))", hits=0)
        wanted: dict[int, int] = {}
        for fields in self.documents.values():
            if "number" in fields:
                wanted[fields["number"]] = wanted.get(fields["number"], 0) + 1
        groups = list(groups_of(root))
        found = {int(g["value"]): g["fields"]["count()"] for g in groups if int(g["value"]) >= 0}
        assert found == wanted
        assert root["fields"]["totalCount"] == len(self.documents)

    def check_hits(self, root: Any, wanted: dict[int, float]) -> None:
        hits = {int(hit["id"].rsplit(":", 1)[1]): hit for hit in root.get("children", [])}
        assert hits.keys() == wanted.keys()
        assert root["fields"]["totalCount"] == len(wanted)
        assert root["coverage"]["documents"] == len(self.documents)
        for number, score in wanted.items():
            assert hits[number]["relevance"] == pytest.approx(score, rel=1e-9, abs=1e-12)
            self.check_fields(hits[number]["fields"], number)
        order = [hit["relevance"] for hit in root.get("children", [])]
        assert order == sorted(order, reverse=True)

    def check_fields(self, fields: Fields, number: int) -> None:
        shown = {name: value for name, value in fields.items() if name not in ("documentid", "sddocname")}
        for name in ("parts", "vector"):
            if name in shown:
                shown[name] = shown[name].get("cells", shown[name].get("values"))
        assert shown == rendered(self.documents[number])

    @rule()
    def restart(self) -> None:
        self.engine.close()
        self.engine = Engine(self.folder / "data")


def groups_of(root: Any) -> Iterator[Any]:
    """The groups of a result's only group list."""
    lists = [child for child in root.get("children", []) if child["id"].startswith("group:root")]
    found = itertools.chain.from_iterable(child.get("children", []) for child in lists)
    return itertools.chain.from_iterable(one.get("children", []) for one in found)


def test_the_engine_agrees_with_the_model(tmp_path: Path, rounds: Callable[[int, int], int]) -> None:
    app = soak_app.write_app(tmp_path / "app", soak_app.app_files(SIZE))
    Model.template = tmp_path / "template"
    Engine(Model.template, app).close()
    counts.update(dict.fromkeys(counts, 0))
    chosen = settings(
        max_examples=rounds(25, 2000),
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),
    )
    run_state_machine_as_test(Model, settings=chosen)
    print(f"{counts['sequences']} sequences, {counts['steps']} steps, {counts['queries']} queries: no divergence")
