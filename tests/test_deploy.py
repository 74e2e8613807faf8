"""Port 19071 as clients see it: deploys, sessions, convergence, health, and errors in Vespa's JSON."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import orjson
import pytest

from clipsearch.engine.deploy import APPLICATION, INSTANCE, Deployments
from clipsearch.engine.http.messages import Request, Response
from clipsearch.engine.package import read_folder, write_zip
from clipsearch.engine.package.model import ApplicationPackage
from clipsearch.errors import PackageError

FILES = read_folder(Path(__file__).parent.parent / "vespa_app")
TENANT = "/application/v2/tenant/default"
DEPLOY = f"{TENANT}/prepareandactivate"


class Served:
    """Stands where the engine stands: holds what is served, and refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.package: ApplicationPackage | None = None
        self.refuse = ""
        self.deployments = Deployments(lambda: self.package, self.activate, host="box", query_port=1234)

    def activate(self, package: ApplicationPackage) -> list[dict[str, Any]]:
        if self.refuse:
            raise PackageError(self.refuse, file="schemas/image.sd", line=3)
        self.package = package
        return [{"level": "INFO", "message": "three profiles compiled"}]

    def call(self, method: str, path: str, body: bytes = b"", kind: str = "application/zip") -> Response:
        path, _, query = path.partition("?")
        pairs = tuple((k, v) for k, _, v in (each.partition("=") for each in query.split("&") if each))
        headers = {"content-type": kind, "host": "localhost:19071"}
        return self.deployments.handle(Request(method, path, pairs, headers, body))

    def answer(self, method: str, path: str, body: bytes = b"", kind: str = "application/zip") -> tuple[int, Any]:
        response = self.call(method, path, body, kind)
        assert isinstance(response.body, bytes)
        return response.status, orjson.loads(response.body)


@pytest.fixture
def served() -> Served:
    return Served()


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"app/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def multipart(content: bytes) -> tuple[bytes, str]:
    parts = (
        b'--xyz\r\nContent-Disposition: form-data; name="prepareParams"\r\n\r\n{}\r\n',
        b'--xyz\r\nContent-Disposition: form-data; name="applicationPackage"; filename="a.zip"\r\n',
        b"Content-Type: application/zip\r\n\r\n" + content + b"\r\n--xyz--\r\n",
    )
    return b"".join(parts), 'multipart/form-data; boundary="xyz"'


def test_a_zip_is_deployed_and_answered_as_vespa_answers(served: Served) -> None:
    status, answer = served.answer("POST", DEPLOY, write_zip(FILES))
    assert status == 200
    assert answer["message"] == "Session 2 for tenant 'default' prepared and activated."
    assert (answer["session-id"], answer["activated"], answer["tenant"]) == ("2", True, "default")
    assert answer["url"] == f"http://localhost:19071{INSTANCE}"
    assert answer["configChangeActions"] == {"restart": [], "refeed": [], "reindex": []}
    assert [line["message"] for line in answer["log"]] == ["three profiles compiled"]
    assert served.package is not None
    assert served.package.files == FILES


def test_a_gzipped_tar_and_a_multipart_form_are_deployed_too(served: Served) -> None:
    assert served.answer("POST", DEPLOY, tar_gz(FILES), "application/x-gzip")[0] == 200
    body, kind = multipart(write_zip(FILES))
    status, answer = served.answer("POST", DEPLOY, body, kind)
    assert (status, answer["session-id"]) == (200, "3")


def test_sessions_go_from_created_over_prepared_to_active(served: Served) -> None:
    status, created = served.answer("POST", f"{TENANT}/session", write_zip(FILES))
    assert (status, created["session-id"]) == (200, "2")
    assert created["prepared"].endswith("/session/2/prepared")
    assert served.answer("PUT", f"{TENANT}/session/2/active")[0] == 409
    status, prepared = served.answer("PUT", f"{TENANT}/session/2/prepared")
    assert (status, prepared["message"]) == (200, "Session 2 for tenant 'default' prepared.")
    assert prepared["activate"].endswith("/session/2/active")
    assert served.package is None
    status, active = served.answer("PUT", f"{TENANT}/session/2/active")
    assert (status, active["message"]) == (200, "Session 2 for tenant 'default' activated.")
    assert served.package is not None


def test_preparing_a_session_checks_what_deploying_checks(served: Served) -> None:
    def check(package: ApplicationPackage) -> None:
        raise PackageError("field 'year' changes its type", file="schemas/image.sd", line=9)

    served.deployments.check = check
    assert served.answer("POST", f"{TENANT}/session", write_zip(FILES))[0] == 200
    for method, path in (("PUT", f"{TENANT}/session/2/prepared"), ("POST", DEPLOY)):
        status, answer = served.answer(method, path, write_zip(FILES))
        assert (status, answer["error-code"]) == (400, "INVALID_APPLICATION_PACKAGE")
        assert answer["message"] == "schemas/image.sd, line 9: field 'year' changes its type"
    assert served.answer("PUT", f"{TENANT}/session/2/active")[0] == 409
    assert served.package is None


def test_sessions_go_on_from_the_generation_that_is_stored() -> None:
    deployments = Deployments(lambda: None, lambda package: [], generation=lambda: 41)
    request = Request("POST", f"{TENANT}/session", (), {"content-type": "application/zip"}, write_zip(FILES))
    body = deployments.handle(request).body
    assert isinstance(body, bytes)
    assert orjson.loads(body)["session-id"] == "42"


def test_an_older_session_cannot_replace_a_newer_one(served: Served) -> None:
    served.answer("POST", f"{TENANT}/session", write_zip(FILES))
    served.answer("PUT", f"{TENANT}/session/2/prepared")
    served.answer("POST", DEPLOY, write_zip(FILES))
    status, answer = served.answer("PUT", f"{TENANT}/session/2/active")
    assert (status, answer["error-code"]) == (409, "ACTIVATION_CONFLICT")


def test_a_session_number_of_any_length_is_not_found(served: Served) -> None:
    assert served.answer("PUT", f"{TENANT}/session/{'9' * 5000}/prepared")[0] == 404
    assert served.answer("GET", f"{INSTANCE}/serviceconverge/box:{'9' * 5000}")[0] == 404


def test_only_the_newest_sessions_are_kept(served: Served) -> None:
    for _ in range(11):
        served.answer("POST", f"{TENANT}/session", write_zip(FILES))
    assert served.answer("PUT", f"{TENANT}/session/2/prepared")[0] == 404
    assert served.answer("PUT", f"{TENANT}/session/12/prepared")[0] == 200


def test_a_package_that_cannot_be_read_changes_nothing_and_says_why(served: Served) -> None:
    served.answer("POST", DEPLOY, write_zip(FILES))
    before = served.package
    broken = write_zip(FILES | {"schemas/image.sd": b"schema image {\n document image {\n struct s {\n"})
    status, answer = served.answer("POST", DEPLOY, broken)
    assert (status, answer["error-code"]) == (400, "INVALID_APPLICATION_PACKAGE")
    assert answer["message"] == "schemas/image.sd, line 3: 'struct' is not supported by the local engine"
    assert served.package is before


def test_a_package_that_the_engine_cannot_take_is_refused(served: Served) -> None:
    served.refuse = "field 'embedding' changes its type"
    status, answer = served.answer("POST", DEPLOY, write_zip(FILES))
    assert (status, answer["error-code"]) == (400, "INVALID_APPLICATION_PACKAGE")
    assert answer["message"] == "schemas/image.sd, line 3: field 'embedding' changes its type"
    assert served.deployments.generation == 1


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"", "application/zip", "Request contains no data"),
        (b"x", "text/plain", "invalid Content-Type header (text/plain)"),
        (b"x", "", "invalid Content-Type header ()"),
        (b"x", "multipart/form-data; boundary=xyz", "no part 'applicationPackage'"),
    ],
)
def test_a_body_that_is_no_archive_is_refused(served: Served, body: bytes, kind: str, message: str) -> None:
    status, answer = served.answer("POST", DEPLOY, body, kind)
    assert (status, answer["error-code"]) == (400, "BAD_REQUEST")
    assert message in answer["message"]


def test_clients_learn_where_the_container_answers_only_after_a_deploy(served: Served) -> None:
    status, answer = served.answer("GET", f"{INSTANCE}/serviceconverge")
    assert (status, answer["error-code"]) == (404, "NOT_FOUND")
    served.answer("POST", DEPLOY, write_zip(FILES))
    status, answer = served.answer("GET", f"{INSTANCE}/serviceconverge")
    assert status == 200
    assert (answer["converged"], answer["currentGeneration"], answer["wantedGeneration"]) == (True, 2, 2)
    service = answer["services"][0]
    assert (service["clusterName"], service["type"], service["host"], service["port"]) == (
        "default",
        "container",
        "box",
        1234,
    )
    assert served.answer("GET", f"{INSTANCE}/serviceconverge/box:1234")[1]["converged"] is True
    assert served.answer("GET", f"{INSTANCE}/serviceconverge/box:99")[0] == 410


def test_health_is_up_before_anything_is_deployed(served: Served) -> None:
    assert served.answer("GET", "/state/v1/health")[1]["status"] == {"code": "up"}
    assert served.call("GET", "/status.html").status == 200
    assert served.answer("GET", "/ApplicationStatus")[0] == 200
    assert served.answer("GET", "/state/v1/")[0] == 200


def test_the_deployed_application_can_be_listed_and_read(served: Served) -> None:
    assert served.answer("GET", f"{TENANT}/application/") == (200, [])
    served.answer("POST", DEPLOY, write_zip(FILES))
    assert served.answer("GET", f"{TENANT}/application/") == (200, [f"http://localhost:19071{INSTANCE}"])
    assert served.answer("GET", APPLICATION)[1]["generation"] == 2
    assert served.answer("GET", f"{INSTANCE}/content/schemas/")[1] == [
        f"http://localhost:19071{INSTANCE}/content/schemas/image.sd",
        f"http://localhost:19071{INSTANCE}/content/schemas/image/",
    ]
    content = served.call("GET", f"{INSTANCE}/content/schemas/image.sd")
    assert (content.status, content.body) == (200, FILES["schemas/image.sd"])
    assert served.answer("GET", f"{TENANT}/session/2/content/../../etc/passwd")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "NOT_FOUND"),
        ("GET", "/application/v2/nothing", 404, "NOT_FOUND"),
        ("GET", "/application/v2/tenant/other/application/", 404, "NOT_FOUND"),
        ("GET", f"{TENANT}/application/other", 404, "NOT_FOUND"),
        ("GET", DEPLOY, 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", APPLICATION, 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/status.html", 405, "METHOD_NOT_ALLOWED"),
        ("PUT", f"{TENANT}/session/7/prepared", 404, "NOT_FOUND"),
        ("POST", f"{TENANT}/session?from=x", 400, "BAD_REQUEST"),
    ],
)
def test_other_requests_get_an_error_in_json(served: Served, method: str, path: str, status: int, code: str) -> None:
    found, answer = served.answer(method, path)
    assert (found, answer["error-code"]) == (status, code)
    assert answer["message"]


def test_every_recorded_request_of_a_client_to_this_port_is_understood(served: Served, shared: Path) -> None:
    """Recorded deploys carry a package without services.xml, so what is posted is vespa_app instead."""
    lines = (shared / "vespa" / "cases" / "client_requests.jsonl").read_text().splitlines()
    requests = [each for each in map(json.loads, lines) if each["port"] == 19071]
    assert len(requests) > 30
    served.answer("POST", DEPLOY, write_zip(FILES))
    number = served.deployments.generation
    for each in requests:
        path = each["path"].replace("/session/2/", f"/session/{number + 1}/")
        if each["method"] == "POST":
            number = served.deployments.generation
        body = write_zip(FILES) if each["method"] == "POST" else b""
        kind = dict(each["headers"]).get("content-type", "")
        assert served.call(each["method"], path, body, kind).status == 200, path
