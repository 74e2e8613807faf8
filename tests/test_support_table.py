"""ARCHITECTURE.md says what the local engine supports and what it refuses: each word of its tables is tried here."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from support_packages import INDEXING, PROFILES, SERVICE_ELEMENTS, SETTINGS, TYPES
from support_queries import ANNOTATIONS, GRAMMARS, GROUPING, GROUPING_FUNCTIONS, PARAMETERS
from support_queries import OPERATORS as YQL_OPERATORS
from support_ranking import FEATURES, FUNCTIONS, MATCH_FEATURES, NORMALIZERS
from support_ranking import OPERATORS as EXPRESSION_OPERATORS
from support_table import AREAS, read_tables, written
from support_world import World

from clipsearch.engine.documents import selection
from clipsearch.engine.package import fields, indexing, profiles, services
from clipsearch.engine.query import grouping, grouping_values, parameters, simple, where
from clipsearch.engine.ranking import calls, features, functions, resolver
from clipsearch.engine.tensors.encode import FORMS
from clipsearch.engine.tensors.types import CELL_TYPES

COLUMNS = ("supported", "refused")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    served = World(tmp_path_factory.mktemp("world"), MATCH_FEATURES)
    yield served
    served.engine.close()


def test_the_tables_list_what_is_tried_here_and_nothing_else() -> None:
    tables = read_tables()
    assert list(tables) == list(AREAS)
    for area, columns in AREAS.items():
        found = tables[area]
        assert [set(column) for column in found] == [set(probes) for probes in columns], written(area)
        assert [len(column) for column in found] == [len(probes) for probes in columns], area


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("area", AREAS)
def test_what_the_tables_say_is_so(world: World, area: str, column: str) -> None:
    wrong = {}
    for item, probe in AREAS[area][COLUMNS.index(column)].items():
        try:
            probe(world)
        except Exception as error:  # all that is wrong is told at once
            wrong[item] = f"{type(error).__name__}: {error}"
    assert not wrong


def _after(items: Collection[str], prefix: str) -> set[str]:
    return {item.removeprefix(prefix) for item in items if item.startswith(prefix)}


def test_the_tables_have_what_the_code_of_packages_lists() -> None:
    supported = TYPES[0]
    assert {item for item in supported if item.isalpha()} == fields.SCALARS
    assert {f"tensor<{cell}>" for cell in CELL_TYPES} <= supported.keys()
    assert _after(SETTINGS[0], "distance-metric: ") == fields.METRICS
    assert _after(SETTINGS[0], "stemming: ") == fields.STEMMING
    words = indexing.OUTPUTS | set(indexing._ARGUMENTS) - {"embed"}  # embed is among the embedders
    assert words <= INDEXING[0].keys()
    assert PROFILES[0].keys() >= profiles._HARMLESS
    assert profiles._COUNTS["first-phase"] | profiles._COUNTS["second-phase"] <= PROFILES[0].keys()
    assert SERVICE_ELEMENTS[1].keys() >= services._CONTAINER_REFUSED


def test_the_tables_have_what_the_code_of_queries_lists() -> None:
    supported, refused = YQL_OPERATORS
    assert where._Builder(where.Context())._calls.keys() <= supported.keys() | refused.keys()
    assert set(where._REFUSED_CALLS) <= refused.keys()
    assert {*where._REFUSED_ANNOTATIONS} <= ANNOTATIONS[1].keys()
    assert {*where._TUNING} <= ANNOTATIONS[0].keys()
    assert {item.lower() for item in GRAMMARS[0]} == {*simple._TYPES}
    assert GRAMMARS[1].keys() == {*simple._REFUSED_TYPES.values()}
    assert {*parameters.REFUSED} <= PARAMETERS[1].keys()
    read = _named_in(Path(where.__file__), r'annotation\("([\w.]+)"')
    assert read <= {item.partition(":")[0] for probes in ANNOTATIONS for item in probes}
    asked = set[str]()
    for path in Path(where.__file__).parent.glob("*.py"):
        asked |= _named_in(path, r'\bvalues(?:\.get\(|, |\[)"([\w.]+)"')
    assert asked - {"model.queryString"} <= PARAMETERS[0].keys()
    known = {name for name in parameters.ALIASES.values() if not name.startswith("presentation.format")}
    assert known - {"model.queryString"} - {*parameters.REFUSED} <= PARAMETERS[0].keys()


def test_the_tables_have_what_the_code_of_grouping_lists() -> None:
    supported, refused = GROUPING_FUNCTIONS
    named = {name for name in supported if name.isalpha() or name.startswith(("math.", "time."))}
    assert named == {
        *grouping_values._FUNCTIONS, *(f"math.{name}" for name in grouping_values._MATH),
        *(f"time.{name}" for name in grouping_values._TIME), "predefined", "attribute",
    }  # fmt: skip
    assert {*grouping._REFUSED} - {"attribute"} <= refused.keys()
    assert {f"{name}()" for name in grouping.AGGREGATORS} <= GROUPING[0].keys() | GROUPING[1].keys()


def test_the_tables_have_what_the_code_of_ranking_lists() -> None:
    supported, refused = FEATURES
    names = {name.split("(")[0].split(".")[0] for name in supported}
    special = {"query", "constant", "firstPhase", "secondPhase", "relevanceScore", "rankingExpression"}
    assert names == {*features._FEATURES} | special
    assert {name for name in refused if name.isalpha()} == {*features.REFUSED}
    words = {name for name in functions.UNARY if name.isidentifier()} | {"if", *functions.BINARY, *calls.AGGREGATORS}
    assert FUNCTIONS[0].keys() == words | calls._TENSOR_CALLS.keys()
    assert FUNCTIONS[1].keys() == calls.REFUSED.keys()
    assert functions.OPERATORS.keys() <= EXPRESSION_OPERATORS[0].keys()
    assert NORMALIZERS[0].keys() == {*resolver.NORMALIZERS}


def _named_in(path: Path, pattern: str) -> set[str]:
    return set(re.findall(pattern, path.read_text(encoding="utf-8")))


def test_the_tables_have_what_the_code_of_documents_lists(world: World) -> None:
    listed = {item for area in ("document/v1 operations", "visit parameters") for item in AREAS[area][0]}
    read = set[str]()
    for path in Path(selection.__file__).parent.glob("*.py"):
        read |= _named_in(path, r'arameters\.(?:text|flag|number|positive|unsigned|duration|require)\("([\w.]+)"')
    assert read - {"fromTimestamp", "toTimestamp", "includeRemoves"} <= listed
    assert {"fromTimestamp", "toTimestamp", "includeRemoves"} <= AREAS["visit parameters"][1].keys()
    assert world.engine.container._container._pages.keys() <= AREAS["container paths"][0].keys()
    assert _after(AREAS["document/v1 operations"][0], "format.tensors=") == {*FORMS}
    assert _after(AREAS["document selections"][0], "id.") == {*selection._ID_PARTS}
