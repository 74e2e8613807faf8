"""Partial updates over document/v1: what each operation changes, and which are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import FIELDS, ONE, State, music, opened, tensor


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with opened(tmp_path) as state:
        yield state


@pytest.mark.parametrize(
    ("update", "name", "expected"),
    [
        ({"year": {"assign": 7}}, "year", 7),
        ({"year": {"assign": None}}, "year", None),
        ({"year": {"increment": 2}}, "year", 1987),
        ({"year": {"decrement": 5}}, "year", 1980),
        ({"year": {"multiply": 2}}, "year", 3970),
        ({"score": {"divide": 2}}, "score", 0.05),
        ({"tags": {"add": ["night"]}}, "tags", ["rain", "dogs", "night"]),
        ({"tags": {"remove": ["rain"]}}, "tags", ["dogs"]),
        ({"genres": {"add": {"jazz": 2}}}, "genres", {"blues": 3, "jazz": 2}),
        ({"genres": {"add": ["jazz"]}}, "genres", {"blues": 3, "jazz": 1}),
        ({"genres": {"remove": {"blues": 0}}}, "genres", {}),
        ({"year": {"increment": "2"}}, "year", 1987),
        ({"tags": {"match": {"element": 1, "assign": "cats"}}}, "tags", ["rain", "cats"]),
        ({"tags": {"match": {"assign": None, "element": 0}}}, "tags", ["dogs"]),
        ({"tags": {"match": {"element": 7, "assign": "cats"}}}, "tags", ["rain", "dogs"]),
        ({"genres": {"match": {"element": "blues", "increment": 2}}}, "genres", {"blues": 5}),
        ({"genres": {"match": {"element": "jazz", "assign": 2}}}, "genres", {"blues": 3}),
        ({"tags[0]": {"assign": "sun"}}, "tags", ["sun", "dogs"]),
        ({"tags[0]": {"remove": 0}}, "tags", ["dogs"]),
        ({"tags[9]": {"assign": "sun"}}, "tags", ["rain", "dogs"]),
        ({"genres{blues}": {"multiply": 2.5}}, "genres", {"blues": 7}),
        ({"genres{jazz}": {"assign": 2}}, "genres", {"blues": 3, "jazz": 2}),
        ({'genres{"acid jazz"}': {"increment": 4}}, "genres", {"blues": 3, "acid jazz": 4}),
        ({"genres{blues}": {"remove": 0}}, "genres", {}),
        ({"genres{jazz}": {"remove": 0}}, "genres", {"blues": 3}),
        ({"genres{blues}": {"divide": 0}}, "genres", {"blues": 3}),
        ({"embedding": {"assign": [4, 5, 6]}}, "embedding", {"type": "tensor(x[3])", "values": [4.0, 5.0, 6.0]}),
    ],
)
def test_an_update_changes_its_field_and_no_other(state: State, update: Any, name: str, expected: Any) -> None:
    state.ask("POST", ONE, {"fields": FIELDS})
    assert state.ask("PUT", ONE, {"fields": update})[0] == 200
    fields = state.ask("GET", ONE)[1]["fields"]
    assert fields.get(name) == expected
    assert {n: v for n, v in fields.items() if n != name} == {n: v for n, v in FIELDS.items() if n != name}


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"rooms": {"assign": 1}}, "No field 'rooms'"),
        ({"year": 7}, "update operation"),
        ({"year": {"grow": 7}}, "Unknown update operation 'grow'"),
        ({"artist": {"increment": 7}}, "cannot increment a field of type string"),
        ({"artist": {"add": ["x"]}}, "cannot add in a field of type string"),
        ({"year": {"divide": 0}}, "division by zero"),
        ({"year": {"increment": "x"}}, "For input string"),
        ({"year": {"increment": True}}, "expects a number"),
        ({"genres": {"add": [["x"]]}}, "must be a plain value"),
        ({"score": {"multiply": 1e308}}, "score"),
        ({"plays": {"multiply": 1e308}}, "plays"),
        ({"tags[x]": {"assign": "x"}}, "is not supported by the local engine"),
        ({"tags{x}": {"assign": "x"}}, "is not supported by the local engine"),
        ({"genres.blues": {"assign": 1}}, "is not supported by the local engine"),
        ({"rooms[0]": {"assign": 1}}, "No field 'rooms'"),
        ({"year[0]": {"assign": 1}}, "not supported for match update"),
        ({"tags[0]": {"grow": 1}}, "Field path update type 'grow' not supported"),
        ({"tags[0]": {"add": ["x"]}}, "cannot add"),
        ({"tags[0]": {"increment": 1}}, "cannot increment a value of type string"),
        ({"tags[0]": {"assign": None}}, "got null"),
        ({"genres{blues}": {"assign": "much"}}, "For input string"),
        ({"tags[0]": {"remove": [1]}}, "scalar"),
        ({"tags": {"match": {}}}, "expects an 'element'"),
        ({"tags": {"match": [1]}}, "Expected object for match update"),
        ({"tags": {"match": {"element": "x", "assign": "y"}}}, "For input string"),
        ({"tags": {"match": {"element": 0, "add": "y"}}}, "Operation 'add' not implemented"),
        ({"year": {"match": {"element": 0, "assign": 1}}}, "not supported for match update"),
        ({"year": {"modify": {"operation": "add"}}}, "A modify update can only be applied to tensor fields"),
        ({"embedding": {"modify": {}}}, "Unknown operation 'None' in modify update"),
        ({"embedding": {"modify": {"operation": "add", "cell": []}}}, "Unknown JSON string 'cell'"),
        ({"embedding": {"modify": {"operation": ["add"], "cells": []}}}, "Unknown operation"),
        ({"embedding": {"modify": {"operation": "add", "cells": [{"address": {"x": "3"}, "value": 1}]}}}, "'3'"),
        ({"embedding": {"modify": {"operation": "add", "cells": [{"address": {"y": "0"}, "value": 1}]}}}, "'y'"),
        ({"embedding": {"add": {"cells": []}}}, "at least one sparse dimension"),
        ({"embedding": {"remove": {"addresses": [{"x": "0"}]}}}, "at least one sparse dimension"),
    ],
)
def test_an_update_that_cannot_be_applied_is_refused_by_name(state: State, update: Any, said: str) -> None:
    state.ask("POST", ONE, {"fields": FIELDS})
    status, body = state.ask("PUT", ONE, {"fields": update})
    assert status == 400
    assert said in body["message"]
    assert state.ask("GET", ONE)[1]["fields"] == FIELDS


def test_an_update_modifies_cells_of_a_dense_tensor(state: State) -> None:
    state.ask("POST", ONE, {"fields": FIELDS})
    for operation, value, expected in (("add", 0.5, 2.5), ("multiply", 4, 10.0), ("replace", -1, -1.0)):
        cells = [{"address": {"x": "1"}, "value": value}]
        update = {"embedding": {"modify": {"operation": operation, "cells": cells}}}
        assert state.ask("PUT", ONE, {"fields": update})[0] == 200
        assert state.ask("GET", ONE)[1]["fields"]["embedding"]["values"] == [1.0, expected, 3.0]


def test_an_update_adds_changes_and_removes_blocks_of_a_mixed_tensor(tmp_path: Path) -> None:
    with opened(tmp_path, music(embedding=tensor("tensor<float>(p{},x[2])"))) as state:
        state.ask("POST", ONE, {"fields": {"embedding": {"a": [1, 2], "b": [3, 4]}}})

        def update(**change: Any) -> Any:
            status, body = state.ask("PUT", ONE, {"fields": {"embedding": change}})
            assert status == 200, body
            return state.ask("GET", ONE)[1]["fields"]["embedding"]["blocks"]

        assert update(add={"blocks": {"c": [5, 6]}}) == {"a": [1, 2], "b": [3, 4], "c": [5, 6]}
        assert update(remove={"addresses": [{"p": "b"}]}) == {"a": [1, 2], "c": [5, 6]}
        assert update(modify={"operation": "add", "blocks": {"a": [1, 1], "z": [9, 9]}}) == {"a": [2, 3], "c": [5, 6]}
        cells = [{"address": {"p": "c", "x": "1"}, "value": 10}]
        assert update(modify={"operation": "multiply", "cells": cells}) == {"a": [2, 3], "c": [5, 60]}
        created = {"operation": "add", "create": True, "cells": [{"address": {"p": "n", "x": "0"}, "value": 7}]}
        assert update(modify=created) == {"a": [2, 3], "c": [5, 60], "n": [7, 0]}


def test_arithmetic_that_leaves_the_type_fails_only_its_own_operation(state: State) -> None:
    state.ask("POST", ONE, {"fields": FIELDS})
    status, body = state.ask("PUT", ONE, {"fields": {"year": {"multiply": 10_000_000}}})
    assert status == 400
    assert "year" in body["message"]
    assert state.ask("GET", ONE)[1]["fields"] == FIELDS
