"""The store through redeploys: fields that come and go, and what only an override allows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from serving import STRING, State, music, opened, put, tensor

from clipsearch.engine.documents.ids import parse_id
from clipsearch.engine.documents.operations import Remove
from clipsearch.engine.package.model import ApplicationPackage, FieldType
from clipsearch.engine.tensors import parse_feed, parse_type
from clipsearch.errors import PackageError


def redeploy(state: State, package: ApplicationPackage) -> None:
    state.store.catalog.check(package)
    state.store.exclusive(lambda: state.store.save_package(package))
    state.package = package


def with_override(package: ApplicationPackage, name: str, until: str = "2999-01-01") -> ApplicationPackage:
    text = f"<validation-overrides><allow until='{until}'>{name}</allow></validation-overrides>"
    files = {**package.files, "validation-overrides.xml": text.encode()}
    return ApplicationPackage(package.schemas, {}, package.content_cluster, "default", True, files)


def test_an_index_of_before_a_deploy_that_dropped_values_is_of_no_use(tmp_path: Path) -> None:
    """Its field may have its type again by the time that the index is looked at."""
    with opened(tmp_path) as state:
        state.store.submit(put(1, year=1)).result(10)
        position = state.store.position
        redeploy(state, music(more=STRING))
        assert state.store.exclusive(lambda: state.store.changed_since(position)) == {"music": []}
        redeploy(state, with_override(music(year=FieldType("long")), "field-type-change"))
        redeploy(state, with_override(music(), "field-type-change"))
        assert state.store.exclusive(lambda: state.store.changed_since(position)) is None


def test_a_redeploy_keeps_documents_and_gives_them_new_fields(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        state.store.submit(put(1, year=1, artist="x")).result(10)
        redeploy(state, music(mood=STRING, vector=tensor("tensor<float>(y[2])")))
        assert next(state.store.scan("music")).fields == {"year": 1, "artist": "x"}
        vector = parse_feed([1, 2], parse_type("tensor<float>(y[2])"))
        state.store.submit(put(2, mood="blue", vector=vector)).result(10)
        assert [row.fields for row in state.store.scan("music")][1] == {"mood": "blue", "vector": vector}


def test_a_field_that_is_gone_is_unseen_until_it_comes_back_with_its_type(tmp_path: Path) -> None:
    whole = {"year": 1, "artist": "x", "cover": b"1"}
    with opened(tmp_path) as state:
        for number in range(3):
            state.store.submit(put(number, **whole)).result(10)
        redeploy(state, music(artist=None, cover=None))
        assert next(state.store.scan("music")).fields == {"year": 1}
        state.store.submit(put(1, year=2)).result(10)
        state.store.submit(Remove(parse_id("id:space:music::2"))).result(10)
        redeploy(state, music(artist=None, cover=None, mood=STRING))
        redeploy(state, music())
        assert [row.fields for row in state.store.scan("music")] == [whole, {"year": 2}]
        state.store.submit(put(9, year=9)).result(10)
        assert state.store.get(parse_id("id:space:music::9")).fields == {"year": 9}  # type: ignore[union-attr]


def test_a_field_that_comes_back_with_another_type_is_empty_and_needs_no_override(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        state.store.submit(put(1, year=1, artist="x", cover=b"1")).result(10)
        redeploy(state, music(artist=None, cover=None))
        redeploy(state, music(artist=FieldType("int"), cover=STRING))
        assert next(state.store.scan("music")).fields == {"year": 1}
        redeploy(state, music(artist=None, cover=None))
        redeploy(state, music())
        assert next(state.store.scan("music")).fields == {"year": 1}


@pytest.mark.parametrize("changed", [{"year": FieldType("long")}, {"embedding": tensor("tensor(x[4])")}])
def test_a_changed_field_type_is_refused_unless_an_override_allows_it(
    tmp_path: Path, changed: dict[str, FieldType]
) -> None:
    with opened(tmp_path) as state:
        embedding = parse_feed([1, 2, 3], parse_type("tensor(x[3])"))
        state.store.submit(put(1, year=1, artist="x", embedding=embedding)).result(10)
        new = music(**changed)
        (name,) = changed
        with pytest.raises(PackageError, match=rf"field-type-change.*'{name}' changed.*validation-overrides.xml"):
            redeploy(state, new)
        with pytest.raises(PackageError):
            redeploy(state, with_override(new, "field-type-change", "2020-01-01"))
        redeploy(state, with_override(new, "field-type-change"))
        fields = next(state.store.scan("music")).fields
        assert name not in fields
        assert fields["artist"] == "x"


def test_a_schema_with_its_documents_goes_only_with_an_override(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        state.store.submit(put(1, year=1, cover=b"1")).result(10)
        without = ApplicationPackage({}, {}, "content", "default", True, {"services.xml": b""})
        with pytest.raises(PackageError, match=re.escape("schema-removal")):
            redeploy(state, without)
        redeploy(state, with_override(without, "schema-removal"))
        redeploy(state, music())
        assert state.store.count("music") == 0
