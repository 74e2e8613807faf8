"""The unmodified vespa command line against a running engine: every verb.

One engine runs as a process of its own for the whole module; the tests keep to namespaces of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from zipfile import ZipFile

import pytest
from engine_process import ROOT, Running, fields, get, running, vespa, write_jsonl

APP = str(ROOT / "vespa_app")
Run = Callable[..., str]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("engine")
    with running(folder, free_port) as process:
        assert "ready" in vespa(folder, "status", "deploy", "--target", process.deploy_url)
        assert "not ready" in vespa(folder, "status", "--target", process.url, fails=True)
        deployed = vespa(folder, "deploy", "--target", process.deploy_url, "--wait", "0", APP)
        assert "Success: Deployed" in deployed
        yield process


@pytest.fixture
def cli(engine: Running, tmp_path: Path) -> Run:
    """Runs ``vespa ARGUMENTS`` against the container."""

    def run(*arguments: str, **options: Any) -> str:
        return vespa(tmp_path, *arguments, "--target", engine.url, **options)

    return run


def lines(printed: str) -> list[Any]:
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


# ---- deploying


@pytest.mark.parametrize("service", ["", "query", "document"])
def test_status_sees_the_container(cli: Run, service: str) -> None:
    assert "is ready" in cli("status", *([service] if service else []))


def test_prepare_then_activate_deploys_in_two_steps(engine: Running, tmp_path: Path) -> None:
    prepared = vespa(tmp_path, "prepare", "--target", engine.deploy_url, APP)
    assert "Success: Prepared" in prepared
    session = prepared.rsplit("session ", 1)[1].split()[0]
    activated = vespa(tmp_path, "activate", "--target", engine.deploy_url, APP)
    assert f"Success: Activated application with session {session}" in activated


def test_fetch_gives_the_deployed_package_back(engine: Running, tmp_path: Path) -> None:
    vespa(tmp_path, "fetch", "--target", engine.deploy_url, str(tmp_path / "fetched.zip"))
    with ZipFile(tmp_path / "fetched.zip") as fetched:
        assert fetched.read("schemas/image.sd") == Path(APP, "schemas", "image.sd").read_bytes()


def test_a_package_with_an_error_is_refused_with_the_line(engine: Running, tmp_path: Path) -> None:
    package = tmp_path / "broken"
    (package / "schemas").mkdir(parents=True)
    (package / "services.xml").write_text((ROOT / "vespa_app" / "services.xml").read_text())
    (package / "schemas" / "image.sd").write_text("schema image {\n  document image {\n    field a type nothing { }\n")
    said = vespa(tmp_path, "deploy", "--target", engine.deploy_url, str(package), fails=True)
    assert "Error: invalid application package" in said
    assert "image.sd" in said
    assert get(engine.url + "/ApplicationStatus")["application"]


def test_local_target_finds_the_container_through_the_deploy_port(engine: Running) -> None:
    """``vespa`` with target local asks serviceconverge for the container's port; here the ports are not the default."""
    services = get(
        f"{engine.deploy_url}/application/v2/tenant/default/application/default/environment/prod"
        "/region/default/instance/default/serviceconverge"
    )
    assert [service["port"] for service in services["services"]] == [engine.port]
    assert services["converged"] is True


# ---- one document


def test_document_put_get_update_and_remove(cli: Run, tmp_path: Path) -> None:
    put = tmp_path / "put.json"
    put.write_text(json.dumps({"put": "id:one:image::1", "fields": {"captions": ["a lighthouse"], "width": 5}}))
    assert "Success: put id:one:image::1" in cli("document", "put", str(put))
    assert "Success: put id:one:image::2" in cli("document", "put", "id:one:image::2", str(put))
    assert "Success: put" in cli("document", "put", "id:one:image::3", "--data", '{"fields": {"width": 7}}')
    update = {"update": "id:one:image::1", "fields": {"width": {"increment": 5}}}
    assert "Success: update" in cli("document", "update", "--data", json.dumps(update))
    assert "Success: update" in cli("document", "update", "id:one:image::2", "-d", '{"fields":{"width":{"assign":9}}}')
    first = json.loads(cli("document", "get", "id:one:image::1"))
    assert first == {
        "pathId": "/document/v1/one/image/docid/1",
        "id": "id:one:image::1",
        "fields": {"captions": ["a lighthouse"], "width": 10},
    }
    both = cli("document", "get", "id:one:image::2", "id:one:image::3")
    assert '"width": 9' in both
    assert '"width": 7' in both
    only = json.loads(cli("document", "get", "--field-set", "image:width", "id:one:image::1"))
    assert only["fields"] == {"width": 10}
    assert "Success: remove" in cli("document", "remove", "id:one:image::1")
    assert "Success: remove" in cli("document", "--data", '{"remove": "id:one:image::3"}')
    assert "Status 404" in cli("document", "get", "id:one:image::1", fails=True)


def test_document_with_a_file_does_what_the_file_says(cli: Run, tmp_path: Path) -> None:
    for operation in (
        {"put": "id:file:image::1", "fields": {"width": 1}},
        {"update": "id:file:image::1", "fields": {"width": {"increment": 1000}}},
    ):
        path = tmp_path / "operation.json"
        path.write_text(json.dumps(operation))
        cli("document", str(path))
    assert json.loads(cli("document", "get", "id:file:image::1"))["fields"]["width"] == 1001


def test_a_document_that_does_not_fit_is_refused_with_the_field(cli: Run) -> None:
    said = cli("document", "put", "id:one:image::9", "--data", '{"fields": {"nonsense": 1}}', fails=True)
    assert "Status 400" in said
    assert "No field 'nonsense'" in said


# ---- many documents


def test_feed_query_and_visit_agree(cli: Run, tmp_path: Path) -> None:
    summary = json.loads(cli("feed", str(write_jsonl(tmp_path / "docs.jsonl", "cli", 40))))
    assert summary["feeder.ok.count"] == 40
    assert summary["feeder.error.count"] == 0
    yql = "select documentid, captions from image where userInput('boats harbour') and label contains 'class2'"
    answer = json.loads(cli("query", f"yql={yql}", "ranking=lexical", "hits=3"))
    assert answer["root"]["fields"]["totalCount"] >= 10
    assert "boats in a harbour" in answer["root"]["children"][0]["fields"]["captions"]
    selection = ("--selection", "id.namespace == 'cli'")
    ids = [document["id"] for document in lines(cli("visit", "--field-set", "[id]", *selection))]
    assert sorted(ids) == sorted(f"id:cli:image::k{number}" for number in range(40))


def test_feed_reads_puts_updates_and_removes_from_standard_input(cli: Run) -> None:
    operations: list[dict[str, Any]] = [
        {"put": "id:stdin:image::1", "fields": {"width": 1}},
        {"put": "id:stdin:image::2", "fields": {"width": 2}},
        {"update": "id:stdin:image::1", "fields": {"width": {"assign": 11}}},
        {"update": "id:stdin:image::3", "create": True, "fields": {"width": {"assign": 3}}},
        {"remove": "id:stdin:image::2"},
        {"put": "id:stdin:image::1", "condition": "image.width == 5", "fields": {"width": 4}},
    ]
    summary = json.loads(cli("feed", "-", stdin="\n".join(json.dumps(one) for one in operations)).split("\n}")[0] + "}")
    assert summary["feeder.operation.count"] == 6
    assert summary["feeder.ok.count"] == 5
    assert summary["http.response.code.counts"] == {"200": 5, "412": 1}
    documents = lines(cli("visit", "--selection", "id.namespace == 'stdin'"))
    assert {document["id"]: document["fields"]["width"] for document in documents} == {
        "id:stdin:image::1": 11,
        "id:stdin:image::3": 3,
    }


def test_visit_selects_slices_and_writes_a_feed_that_can_be_fed_again(cli: Run, tmp_path: Path) -> None:
    cli("feed", str(write_jsonl(tmp_path / "docs.jsonl", "visit", 30)))
    selection = "id.namespace == 'visit' and image.width < 110"
    few = lines(cli("visit", "--selection", selection, "--field-set", "image:width", "--chunk-count", "3"))
    assert sorted(document["fields"]["width"] for document in few) == list(range(100, 110))
    parts = [
        {document["id"] for document in lines(cli("visit", "--selection", selection, *stream, *part))}
        for stream in ((), ("--stream",))
        for part in (("--slices", "2", "--slice-id", "0"), ("--slices", "2", "--slice-id", "1"))
    ]
    assert parts[0] & parts[1] == set()
    assert parts[0] | parts[1] == parts[2] | parts[3] == {f"id:visit:image::k{number}" for number in range(10)}
    feed = tmp_path / "again.json"
    feed.write_text(cli("visit", "--selection", selection, "--make-feed"))
    summary = json.loads(cli("feed", str(feed)))
    assert summary["feeder.ok.count"] == 10
    assert json.loads(cli("document", "get", "id:visit:image::k3"))["fields"]["captions"] == fields(3)["captions"]


# ---- queries


def test_query_takes_parameters_a_file_and_a_timeout(cli: Run, tmp_path: Path) -> None:
    cli("document", "put", "id:query:image::1", "--data", '{"fields": {"captions": ["one windmill"], "width": 5}}')
    yql = "select documentid from image where userInput(@words)"
    told = ("query", f"yql={yql}", "words=windmill", "ranking=lexical", "timeout=3s", "trace.level=1")
    answer = json.loads(cli(*told, "presentation.timing=true"))
    assert [hit["fields"]["documentid"] for hit in answer["root"]["children"]] == ["id:query:image::1"]
    assert set(answer["timing"]) == {"querytime", "summaryfetchtime", "searchtime"}
    assert 0 < answer["timing"]["searchtime"] < 3
    body = tmp_path / "query.json"
    body.write_text(json.dumps({"yql": yql, "words": "windmill", "ranking": {"profile": "lexical"}, "hits": 10}))
    plain = cli("query", "--file", str(body), "hits=0", "--format", "plain", "--timeout", "3")
    assert json.loads(plain)["root"]["fields"] == {"totalCount": 1}
    assert "children" not in json.loads(plain)["root"]
    assert "curl -H 'Accept: application/cbor" in cli("query", "--verbose", f"yql={yql}", "words=x")


def test_a_bad_query_ends_with_vespas_error(cli: Run) -> None:
    said = cli("query", "yql=select * from image where captions contains", fails=True)
    assert "invalid query: 400 Bad Request" in said
    assert '"summary": "Invalid query parameter"' in said
    assert "Error" in cli("query", "yql=select * from image where true", "timeout=soon", fails=True)


def test_what_is_not_a_package_is_refused_and_the_old_one_goes_on(engine: Running) -> None:
    request = Request(
        f"{engine.deploy_url}/application/v2/tenant/default/prepareandactivate",
        data=b"not a zip",
        headers={"Content-Type": "application/zip"},
    )
    with pytest.raises(HTTPError, match="400") as caught:
        urlopen(request, timeout=10)
    caught.value.close()
    assert get(engine.url + "/ApplicationStatus")["application"]
