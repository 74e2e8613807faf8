"""Every request that the vespa command line and pyvespa were recorded to send, against a whole engine in process."""

from __future__ import annotations

import asyncio
import gzip
import io
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from serving_asgi import call

from clipsearch.engine.engine import MAX_PACKAGE, Engine
from clipsearch.engine.http.app import App
from clipsearch.serving import host_guard

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = """
schema image { document image {
    field a type int { indexing: attribute | summary }
    field v type tensor<float>(x[3]) { indexing: attribute | summary }
}
    rank-profile default { first-phase { expression: 1 } }
}
"""
SERVICES = """<services version="1.0">
<container id="default" version="1.0"><search/><document-api/></container>
<content id="images" version="1.0"><redundancy>1</redundancy>
<documents><document type="image" mode="index"/></documents>
<nodes><node distribution-key="0" hostalias="node1"/></nodes></content></services>
"""
V3 = '{"fields":{"v":[0.1,0.1,0.1]}}'
SEARCH = '{"yql":"select * from image where true"}'


def package() -> bytes:
    """A package with the fields that the recorded documents have, zipped."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("schemas/image.sd", SCHEMA)
        archive.writestr("services.xml", SERVICES)
    return buffer.getvalue()


def wanted_status(request: dict[str, Any]) -> int:
    """What the client needs to go on; the cluster discovery of ``vespa visit`` needs the refusal."""
    return 400 if "cluster=%2A" in request["query"] else 200


def body_of(request: dict[str, Any]) -> bytes:
    """The recorded body; recordings of long ones were cut, and of packages were decoded as text."""
    if ["content-type", "application/zip"] in request["headers"]:
        return package()
    text = request["body"]
    if '"v": [' in text:
        text = V3
    elif text.startswith('{"yql"') and not text.endswith("}"):
        text = SEARCH
    data = text.encode()
    return gzip.compress(data) if ["content-encoding", "gzip"] in request["headers"] else data


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[dict[int, App]]:
    """Both ports of an engine with the package deployed, as ``serve`` makes them."""
    app = tmp_path / "app"
    with zipfile.ZipFile(io.BytesIO(package())) as archive:
        archive.extractall(app)
    engine = Engine(tmp_path / "data", app)
    guard = host_guard("127.0.0.1")
    with ThreadPoolExecutor(4) as pool:
        container = App(engine.container, pool, host_allowed=guard)
        yield {8080: container, 19071: App(engine.deploy, pool, MAX_PACKAGE, guard)}
        engine.close()


def test_every_recorded_request_of_the_clients_gets_the_status_that_they_need(
    shared: Path, ports: dict[int, App]
) -> None:
    recorded = (shared / "vespa/cases/client_requests.jsonl").read_bytes().splitlines()
    requests = [orjson.loads(line) for line in recorded]
    wrong, counts = [], Counter[int]()

    async def replay() -> None:
        session = b"2"  # what the recorded server called the session that the client goes on with
        for request in requests:
            body = body_of(request)
            path = request["path"].replace("/session/2/", f"/session/{session.decode()}/")
            headers = dict(request["headers"])
            if "content-length" in headers:
                headers["content-length"] = str(len(body))
            app = ports[request["port"]]
            status, _, answer = await call(app, request["method"], path, body, headers, query=request["query"])
            if path.endswith("/session"):
                session = orjson.loads(answer)["session-id"].encode()
            counts[status] += 1
            if status != wanted_status(request):
                wrong.append((request["method"], request["path"], request["query"], status, answer[:300]))

    asyncio.run(replay())
    print(f"client_requests: {len(requests) - len(wrong)} of {len(requests)} with the status needed, {dict(counts)}")
    assert wrong == []
    assert len(requests) >= 75


def test_the_pages_that_clients_and_monitors_read_count_what_was_done(ports: dict[int, App]) -> None:
    async def get(path: str, query: str = "", method: str = "GET", body: bytes = b"") -> Any:
        status, _, answer = await call(ports[8080], method, path, body, {"host": "localhost"}, query)
        return status, orjson.loads(answer) if answer[:1] in (b"{", b"[") else answer

    async def check() -> None:
        put = "/document/v1/image/image/docid/1"
        assert (await get(put, method="POST", body=b'{"fields":{"a":1}}'))[0] == 200
        assert (await get(put, method="POST", body=b"x"))[0] == 400
        assert (await get(put, "condition=false", method="DELETE"))[0] == 412
        assert (await get("/search/", "yql=select * from image where true"))[0] == 200
        metrics = (await get("/state/v1/metrics"))[1]["metrics"]
        values = {each["name"]: each["values"] for each in metrics["values"]}
        assert values["queries"]["count"] == 1
        assert values["query_latency"]["max"] > 0
        counted = {name: values[f"httpapi_{name}"]["count"] for name in ("num_operations", "num_puts", "num_removes")}
        assert counted == {"num_operations": 3, "num_puts": 2, "num_removes": 1}
        outcomes = [values[f"httpapi_{name}"]["count"] for name in ("succeeded", "parse_error", "condition_not_met")]
        assert outcomes == [1, 1, 1]
        (node,) = (await get("/metrics/v2/values"))[1]["nodes"]
        container, content = node["services"]
        assert container["metrics"][0]["values"]["queries.count"] == 1
        assert content["metrics"][0]["values"]["content.proton.documentdb.documents.total.last"] == 1
        assert content["metrics"][0]["dimensions"] == {"documenttype": "image", "clustername": "images"}
        for page in ("/", "/state/v1", "/state/v1/config", "/state/v1/version", "/state/v1/health", "/status.html"):
            assert (await get(page))[0] == 200

    asyncio.run(check())


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("evil.example:8080", 403),
        ("127.0.0.1.evil", 403),
    ],
)
def test_a_page_of_another_name_cannot_reach_an_engine_on_loopback(
    ports: dict[int, App], host: str, status: int
) -> None:
    got, _, body = asyncio.run(call(ports[8080], "GET", "/state/v1/version", headers={"Host": host}))
    assert got == status
    assert status == 200 or b"does not name this machine" in body
