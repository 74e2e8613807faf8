"""Applications that are not ours, used by unmodified clients: one that pyvespa writes, and music albums."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import log10
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import httpr
import pytest
from engine_process import ROOT, Running, running, vespa
from vespa.application import Vespa
from vespa.deployment import VespaDocker
from vespa.package import (
    HNSW,
    ApplicationConfiguration,
    ApplicationPackage,
    Document,
    DocumentSummary,
    Field,
    FieldSet,
    Function,
    GlobalPhaseRanking,
    QueryField,
    QueryProfile,
    RankProfile,
    Schema,
    SecondPhaseRanking,
    Summary,
)

# ---- written by pyvespa


class LocalEngine(VespaDocker):  # type: ignore[misc]
    """pyvespa's own deployment, whose container is an engine that runs already."""

    def _run_vespa_engine_container(self, **options: Any) -> None:
        """Nothing to start."""

    def _check_configuration_server(self) -> bool:
        with suppress(httpr.RequestError):
            return bool(httpr.get(f"http://localhost:{self.cfgsrv_port}/ApplicationStatus").status_code == 200)
        return False


def recipes() -> ApplicationPackage:
    """Recipes with a text, a number, a vector, and three rank profiles."""
    schema = Schema(
        name="recipe",
        document=Document(
            fields=[
                Field(name="id", type="string", indexing=["attribute", "summary"]),
                Field(name="language", type="string", indexing=['"en"', "set_language"]),
                Field(
                    name="title",
                    type="string",
                    indexing=["index", "summary"],
                    index="enable-bm25",
                ),
                Field(name="minutes", type="int", indexing=["attribute", "summary"], attribute=["fast-search"]),
                Field(name="tags", type="array<string>", indexing=["attribute", "summary"]),
                Field(
                    name="taste",
                    type="tensor<float>(x[3])",
                    indexing=["attribute", "index"],
                    ann=HNSW(distance_metric="euclidean", max_links_per_node=16, neighbors_to_explore_at_insert=100),
                ),
            ]
        ),
        fieldsets=[FieldSet(name="default", fields=["title"])],
        rank_profiles=[
            RankProfile(name="words", first_phase="bm25(title)"),
            RankProfile(
                name="quick",
                inherits="words",
                constants={"HOUR": 60},
                functions=[Function(name="slowness", expression="attribute(minutes) / HOUR")],
                first_phase="-slowness",
                summary_features=["slowness"],
            ),
            RankProfile(
                name="fused",
                inputs=[("query(taste)", "tensor<float>(x[3])"), ("query(weight)", "double", "2")],
                functions=[Function(name="near", expression="closeness(field, taste)")],
                first_phase="near",
                second_phase=SecondPhaseRanking(expression="firstPhase * query(weight)", rerank_count=10),
                global_phase=GlobalPhaseRanking(expression="reciprocal_rank(near, 1)", rerank_count=5),
                match_features=["distance(field,taste)", "firstPhase"],
            ),
        ],
        document_summaries=[
            DocumentSummary(name="short", summary_fields=[Summary("title", None)], from_disk=True),
        ],
    )
    return ApplicationPackage(
        name="kitchen",
        schema=[schema],
        query_profile=QueryProfile(fields=[QueryField(name="model.language", value="en")]),
        configurations=[
            ApplicationConfiguration(name="ai.vespa.opennlp.open-nlp", value={"snowballStemmingForEnglish": "true"})
        ],
    )


DISHES: list[dict[str, Any]] = [
    {"title": "Potato soup with dill", "minutes": 45, "tags": ["soup"], "taste": [0, 0, 0]},
    {"title": "Cold cucumber soup", "minutes": 15, "tags": ["soup", "summer"], "taste": [3, 4, 0]},
    {"title": "Potatoes from the oven", "minutes": 60, "tags": ["side"], "taste": [1, 0, 0]},
    {"title": "Lemonade", "minutes": 5, "tags": ["summer", "drink"], "taste": [0, 0, 2]},
]


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Vespa]:
    with running(tmp_path_factory.mktemp("engine"), free_port) as process:
        with Path(os.devnull).open("w") as quiet:
            local = LocalEngine(port=process.port, cfgsrv_port=process.deploy_port, output_file=quiet)
            application = local.deploy(recipes())
        documents = [{"id": str(n), "fields": dish | {"id": str(n)}} for n, dish in enumerate(DISHES)]
        refused: list[Any] = []
        application.feed_iterable(
            documents,
            schema="recipe",
            callback=lambda response, name: None if response.is_successful() else refused.append(response.json),
        )
        assert refused == []
        yield application


def ids(answer: Any) -> list[str]:
    return [hit["id"].rpartition(":")[2] for hit in answer.hits]


def test_a_pyvespa_package_is_deployed_by_pyvespas_own_code_and_searched(kitchen: Vespa) -> None:
    found = kitchen.query({"yql": "select * from recipe where userQuery()", "query": "potato", "ranking": "words"})
    assert ids(found) == ["2", "0"] or ids(found) == ["0", "2"], "snowball joins potato and potatoes"
    assert found.hits[0]["relevance"] == pytest.approx(found.hits[1]["relevance"]), "four words each"
    assert found.hits[0]["fields"]["documentid"] == f"id:recipe:recipe::{ids(found)[0]}"
    everything = {"yql": "select * from recipe where true", "ranking": "unranked"}
    short = kitchen.query({**everything, "presentation.summary": "short", "hits": 1})
    assert set(short.hits[0]["fields"]) - {"documentid", "sddocname"} == {"title"}


def test_a_pyvespa_packages_functions_constants_and_phases_rank(kitchen: Vespa) -> None:
    quick = kitchen.query({"yql": "select * from recipe where minutes > 10", "ranking": "quick"})
    assert ids(quick) == ["1", "0", "2"]
    assert [hit["relevance"] for hit in quick.hits] == [-0.25, -0.75, -1.0]
    assert [hit["fields"]["summaryfeatures"]["slowness"] for hit in quick.hits] == [0.25, 0.75, 1.0]
    near = "select * from recipe where {targetHits:4}nearestNeighbor(taste,taste)"
    fused = kitchen.query({"yql": near, "ranking": "fused", "input.query(taste)": [0, 0, 0]})
    assert ids(fused) == ["0", "2", "3", "1"]
    assert [hit["relevance"] for hit in fused.hits] == pytest.approx([1 / 2, 1 / 3, 1 / 4, 1 / 5])
    features = [hit["fields"]["matchfeatures"] for hit in fused.hits]
    assert [one["distance(field,taste)"] for one in features] == [0, 1, 2, 5]
    assert [one["firstPhase"] for one in features] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 6])


def test_a_pyvespa_package_groups_and_sorts(kitchen: Vespa) -> None:
    yql = "select * from recipe where true limit 0 | all(group(tags) order(-count()) each(output(count())))"
    (root,) = kitchen.query({"yql": yql}).json["root"]["children"]
    groups = [(group["value"], group["fields"]["count()"]) for group in root["children"][0]["children"]]
    assert sorted(groups) == [("drink", 1), ("side", 1), ("soup", 2), ("summer", 2)]
    assert {count for _, count in groups[:2]} == {2}
    assert ids(kitchen.query({"yql": "select * from recipe where true order by minutes desc"})) == ["2", "0", "1", "3"]


def test_to_zip_deploys_over_plain_http(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with running(tmp_path, free_port) as process:
        request = Request(
            f"{process.deploy_url}/application/v2/tenant/default/prepareandactivate",
            data=recipes().to_zip().getvalue(),
            headers={"Content-Type": "application/zip"},
        )
        with urlopen(request, timeout=20) as answer:
            assert json.load(answer)["activated"] is True
        application = Vespa(process.url)
        found = application.query({"yql": "select * from recipe where true", "ranking": "unranked"})
        assert found.json["root"]["fields"] == {"totalCount": 0}


# ---- music albums

ALBUMS: dict[str, dict[str, Any]] = {
    "B1": {
        "title": "Blue Harbour",
        "artist": "The Lighthouses",
        "tracks": ["Morning boats", "Blue", "Stars over the pier"],
        "year": 1975,
        "rating": 4.0,
        "price": 10.5,
        "live": False,
        "popularity": 99,
        "catalogue_number": "B1",
        "formats": ["vinyl", "cd"],
        "genres": {"folk": 80, "jazz": 20},
        "cover": [0, 0, 0, 0],
        "mood": {"calm": 0.9, "sad": 0.2},
        "sounds": {"0": [1, 0, 0, 0, 0, 0, 0, 0], "1": [0, 1, 0, 0, 0, 0, 0, 0]},
    },
    "R2": {
        "title": "Red Desert",
        "artist": "Dune Riders",
        "tracks": ["Sand", "Blue night"],
        "year": 1985,
        "rating": 3.0,
        "price": 8.0,
        "live": True,
        "popularity": 9,
        "catalogue_number": "R2",
        "formats": ["cd"],
        "genres": {"rock": 100},
        "cover": [3, 4, 0, 0],
        "mood": {"wild": 1.0},
        "sounds": {"0": [0, 0, 1, 0, 0, 0, 0, 0]},
    },
    "G3": {
        "title": "Green Hills",
        "artist": "The Lighthouses",
        "tracks": ["Meadow"],
        "year": 2005,
        "rating": 5.0,
        "price": 12.25,
        "live": False,
        "popularity": 999,
        "catalogue_number": "G3",
        "formats": ["stream", "cd"],
        "genres": {"folk": 60},
        "cover": [0, 0, 0, 2],
        "mood": {"calm": 0.5},
        "sounds": {"0": [0, 2, 0, 0, 0, 0, 0, 0]},
    },
}
ARTIST = {"title": "The Lighthouses", "members": ["Ann Keeper", "Bo Keeper"], "born": 1970, "popularity": 99}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Running]:
    """Deployed and fed by the vespa command line."""
    folder = tmp_path_factory.mktemp("engine")
    with running(folder, free_port) as process:
        app = str(ROOT / "tests" / "apps" / "albums")
        assert "Success: Deployed" in vespa(folder, "deploy", "--target", process.deploy_url, "--wait", "0", app)
        puts = [{"put": f"id:music:album::{name}", "fields": fields} for name, fields in ALBUMS.items()]
        puts.append({"put": "id:music:artist::the lighthouses", "fields": ARTIST})
        printed = vespa(folder, "feed", "-", "--target", process.url, stdin="\n".join(map(json.dumps, puts)))
        assert json.loads(printed[: printed.index("}\n}") + 3])["feeder.ok.count"] == 4
        yield process


@pytest.fixture
def ask(shop: Running) -> Callable[..., Any]:
    """A query by pyvespa: ``ask(where, profile, **parameters)``."""

    def query(where: str, profile: str = "default", **parameters: Any) -> Any:
        body = {"yql": f"select * from album where {where}", "ranking": profile}
        return Vespa(shop.url).query(body | {key.replace("__", "."): value for key, value in parameters.items()})

    return query


def inputs(**values: Any) -> dict[str, Any]:
    return {f"input.query({name})": value for name, value in values.items()}


def test_albums_words_weigh_the_title_above_the_tracks(ask: Callable[..., Any]) -> None:
    """B1 has 'blue' in its title and a track, R2 in a track only."""
    found = ask("userInput('blue')")
    assert ids(found) == ["B1", "R2"]
    for hit in found.hits:
        features = hit["fields"]["matchfeatures"]
        words = 2 * features["bm25(title)"] + features["bm25(artist)"] + 0.5 * features["bm25(tracks)"]
        assert hit["relevance"] == pytest.approx(words)
    assert found.hits[1]["fields"]["matchfeatures"]["bm25(title)"] == 0
    assert ids(ask("userInput('lighthouse')")) != [], "stemmed: lighthouses"
    assert ids(ask("tracks contains phrase('stars', 'over')")) == ["B1"]


def test_albums_second_phase_mixes_popularity_rating_and_age(ask: Callable[..., Any]) -> None:
    first = {hit["id"]: hit["relevance"] for hit in ask("userInput('blue')").hits}
    found = ask("userInput('blue')", "popular")
    expected = {
        f"id:music:album::{name}": (first[f"id:music:album::{name}"] + 0.001) * (1 + log10(1 + plays))
        + rating / 5
        + 0.5 ** ((2025 - year) / 20)
        for name, plays, rating, year in (("B1", 99, 4.0, 1975), ("R2", 9, 3.0, 1985))
    }
    assert {hit["id"]: hit["relevance"] for hit in found.hits} == pytest.approx(expected)
    fame = {hit["id"]: hit["fields"]["summaryfeatures"]["fame"] for hit in found.hits}
    assert fame == {"id:music:album::B1": 2.0, "id:music:album::R2": 1.0}


def test_albums_covers_are_near_by_euclidean_distance(ask: Callable[..., Any]) -> None:
    near = "{targetHits:3}nearestNeighbor(cover,picture)"
    found = ask(near, "look_alike", **inputs(picture=[0, 0, 0, 0]))
    assert ids(found) == ["B1", "G3", "R2"]
    assert [hit["relevance"] for hit in found.hits] == pytest.approx([1, 1 / 3, 1 / 6])
    assert [hit["fields"]["matchfeatures"]["distance(field,cover)"] for hit in found.hits] == [0, 2, 5]
    assert ids(ask(f"{near} and year > 1980", "look_alike", **inputs(picture=[0, 0, 0, 0]))) == ["G3", "R2"]


def test_albums_moods_match_by_a_sparse_tensor_with_a_default(ask: Callable[..., Any]) -> None:
    calm = ask("true", "mood")
    assert [(name, hit["relevance"]) for name, hit in zip(ids(calm), calm.hits, strict=True)] == [
        ("B1", pytest.approx(0.9)),
        ("G3", pytest.approx(0.5)),
        ("R2", 0),
    ]
    wild = ask("true", "mood", **inputs(wanted={"wild": 2.0, "sad": 1.0}))
    assert [(name, hit["relevance"]) for name, hit in zip(ids(wild), wild.hits, strict=True)] == [
        ("R2", 2),
        ("B1", pytest.approx(0.2)),
        ("G3", 0),
    ]


def test_albums_sounds_are_fused_over_all_tracks(ask: Callable[..., Any]) -> None:
    """Best tracks: B1 max(1, 0.5) = 1, G3 1, R2 0, normalised 1, 1, 0; by calm: B1, G3, R2 at ranks 1, 2, 3 of k 60."""
    found = ask("true", "sound", **inputs(sound=[1, 0.5, 0, 0, 0, 0, 0, 0]))
    assert ids(found) == ["B1", "G3", "R2"]
    assert [hit["relevance"] for hit in found.hits] == pytest.approx([1 + 1 / 61, 1 + 1 / 62, 1 / 63])
    assert [hit["fields"]["matchfeatures"]["best_track"] for hit in found.hits] == [1, 1, 0]


def test_albums_are_filtered_sorted_and_grouped(ask: Callable[..., Any]) -> None:
    assert ids(ask("true order by price desc")) == ["G3", "B1", "R2"]
    assert ids(ask("live = false and formats contains 'cd' order by year")) == ["B1", "G3"]
    assert ids(ask("catalogue_number contains 'B1'")) == ["B1"]
    assert ids(ask("catalogue_number contains 'b1'")) == [], "cased"
    assert ids(ask("genres contains 'folk' and range(year, 2000, 2010)")) == ["G3"]
    assert ids(ask("year in (1985, 2005) order by year")) == ["R2", "G3"]
    grouped = ask("true limit 0 | all(group(formats) order(-count()) each(output(count())))")
    groups = grouped.json["root"]["children"][0]["children"][0]["children"]
    assert groups[0]["value"] == "cd"
    assert {group["value"]: group["fields"]["count()"] for group in groups} == {"cd": 3, "vinyl": 1, "stream": 1}


def test_albums_hybrid_takes_words_or_covers(ask: Callable[..., Any]) -> None:
    where = "({targetHits:1}nearestNeighbor(cover,picture)) or userInput('desert')"
    found = ask(where, "look_alike", **inputs(picture=[0, 0, 0, 2]))
    assert ids(found)[0] == "G3"
    assert "R2" in ids(found)


def test_albums_query_profile_asks_for_the_shop(shop: Running, tmp_path: Path) -> None:
    answer = json.loads(vespa(tmp_path, "query", "queryProfile=shop", "text=blue", "--target", shop.url))
    hits = answer["root"]["children"]
    assert [hit["fields"]["title"] for hit in hits] == ["Blue Harbour", "Red Desert"]
    assert hits[0]["fields"]["released"] == 1975
    assert "price" not in hits[0]["fields"]


def test_albums_and_artists_are_searched_apart_and_together(shop: Running) -> None:
    application = Vespa(shop.url)
    artists = application.query({"yql": "select * from artist where userInput('keeper')"})
    assert ids(artists) == ["the lighthouses"]
    both = application.query({"yql": "select * from sources * where popularity > 90"})
    assert sorted(ids(both)) == ["B1", "G3", "the lighthouses"]


def test_albums_updates_reach_every_kind_of_field(shop: Running) -> None:
    application = Vespa(shop.url)
    fields = ALBUMS["R2"] | {"title": "Draft", "catalogue_number": "D9"}
    assert application.feed_data_point("album", "D9", fields, namespace="music").status_code == 200
    path = f"{shop.url}/document/v1/music/album/docid/D9"
    updates = {
        "popularity": {"increment": 1},
        "price": {"multiply": 2},
        "formats": {"add": ["tape"]},
        "genres": {"add": {"rock": 7, "pop": 3}},
        "mood": {"modify": {"operation": "add", "cells": {"wild": 0.5}}},
        "title": {"assign": "Final"},
    }
    body = json.dumps({"fields": updates}).encode()
    with urlopen(Request(path, body, {"Content-Type": "application/json"}, method="PUT"), timeout=10) as answer:
        assert answer.status == 200
    changed = application.get_data("album", "D9", namespace="music").json["fields"]
    assert (changed["popularity"], changed["price"], changed["title"]) == (10, 16.0, "Final")
    assert changed["formats"] == ["cd", "tape"]
    assert changed["genres"] == {"rock": 7, "pop": 3}
    assert changed["mood"]["cells"] == {"wild": 1.5}
    assert application.delete_data("album", "D9", namespace="music").status_code == 200
