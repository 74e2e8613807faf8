"""Port 8080: queries, documents and the status pages that clients look at.

Before the first deploy a real container does not listen at all; this one answers 503 to everything, in JSON, so that
a client that waits goes on waiting and a person sees why. Source for the pages: Vespa's "Health checks" and what
``vespa`` and pyvespa were seen to ask for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from clipsearch.engine.http.messages import Answer, Request, Response, json_response
from clipsearch.engine.http.metrics import Metrics, flat_values, state_values
from clipsearch.engine.package.model import ApplicationPackage

VERSION = "8.763.13"
_DOCUMENTS = "com.yahoo.document.restapi.resource.DocumentV1ApiHandler"
_COUNTED = ("total", "ready", "active")
_SEARCH = "com.yahoo.search.handler.SearchHandler"
NOT_DEPLOYED = "No application is deployed: run 'vespa deploy', or start the engine with --app"


class Documents(Protocol):
    """The document/v1 handler."""

    def handle(self, request: Request) -> Response:
        """Any request."""

    def feed(self, request: Request) -> Answer | None:
        """A document operation."""

    @property
    def metrics(self) -> Metrics:
        """What it has counted."""

    def counts(self) -> dict[str, int]:
        """How many documents there are of each type."""


class Container:
    """Routes port 8080. ``search`` answers a query; ``package`` gives the deployed application, or None."""

    def __init__(
        self,
        documents: Documents,
        search: Callable[[Request], Response],
        package: Callable[[], ApplicationPackage | None],
    ) -> None:
        self._documents = documents
        self._searches = Metrics()
        self._search = search
        self._package = package
        self._pages: dict[str, Callable[[ApplicationPackage], Response]] = {
            "/": _root,
            "/ApplicationStatus": _application_status,
            "/status.html": _status_page,
            "/state/v1": _resources,
            "/state/v1/health": _health,
            "/state/v1/metrics": self._state_metrics,
            "/state/v1/config": _config,
            "/state/v1/version": _version,
            "/metrics/v2/values": self._values,
        }

    def feed(self, request: Request) -> Answer | None:
        """A put, update or remove of one document, answered by the store's next commit."""
        if not request.path.startswith("/document/v1/"):
            return None
        return self._documents.feed(request)

    def handle(self, request: Request) -> Response:
        """Everything else."""
        package = self._package()
        path = request.path.rstrip("/") or "/"
        if package is None:
            return _not_deployed(request.path)
        if path == "/search":
            return self._query(request)
        if path == "/document/v1" or path.startswith("/document/v1/"):
            return self._documents.handle(request)
        page = self._pages.get(path)
        if page is None:
            return json_response(404, {"message": f"Nothing at '{request.path}' on the local engine"})
        if request.method == "OPTIONS":
            return Response(204, headers=(("Allow", "GET,HEAD,OPTIONS"),))
        if request.method != "GET":
            return json_response(405, {"message": f"'{request.method}' not allowed at '{request.path}'"})
        return page(package)

    def _query(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(204, headers=(("Allow", "GET,HEAD,POST,OPTIONS"),))
        if request.method not in ("GET", "POST"):
            return json_response(405, {"message": f"'{request.method}' not allowed at '{request.path}'"})
        started = time.monotonic()
        answer = self._search(request)
        self._searches.add("queries" if answer.status < 500 else "failed_queries")
        self._searches.add("query_latency", 1000 * (time.monotonic() - started))  # ms, as Vespa's
        return answer

    def _state_metrics(self, package: ApplicationPackage) -> Response:
        first, last, _ = self._searches.snapshot()
        values = state_values(self._searches, {"chain": "vespa"})
        values += state_values(self._documents.metrics, {"handler": _DOCUMENTS})
        snapshot = {"from": first, "to": last}
        status = {"code": "up"}
        return json_response(
            200, {"time": _now(), "status": status, "metrics": {"snapshot": snapshot, "values": values}}
        )

    def _values(self, package: ApplicationPackage) -> Response:
        """As Vespa's metrics proxy, for one node with one container and the documents of each type."""
        now = _now() // 1000
        container = [
            {"values": flat_values(self._searches), "dimensions": {"chain": "vespa"}},
            {"values": flat_values(self._documents.metrics), "dimensions": {"handler": _DOCUMENTS}},
        ]
        content = [
            {
                "values": {f"content.proton.documentdb.documents.{kind}.last": count for kind in _COUNTED},
                "dimensions": {"documenttype": name, "clustername": package.content_cluster},
            }
            for name, count in self._documents.counts().items()
        ]
        services = [
            {"name": f"vespa.{name}", "timestamp": now, "status": {"code": "up"}, "metrics": metrics}
            for name, metrics in (("container", container), ("searchnode", content))
        ]
        node = {"hostname": "localhost", "role": "hosts/localhost", "services": services}
        return json_response(200, {"nodes": [node]})


def _not_deployed(path: str) -> Response:
    if path.rstrip("/") == "/state/v1/health":
        return json_response(503, {"time": _now(), "status": {"code": "initializing", "message": NOT_DEPLOYED}})
    if path.rstrip("/") == "/search":
        error = {"code": 10, "summary": "Backend communication error", "message": NOT_DEPLOYED}
        root: dict[str, Any] = {"id": "toplevel", "relevance": 1.0, "fields": {"totalCount": 0}, "errors": [error]}
        return json_response(503, {"root": root})
    return json_response(503, {"pathId": path, "message": NOT_DEPLOYED})


def _now() -> int:
    return int(time.time() * 1000)


def _root(package: ApplicationPackage) -> Response:
    handlers = [
        {"id": name, "class": name, "serverBindings": [f"http://*{path}", f"http://*{path}*"]}
        for name, path in ((_DOCUMENTS, "/document/v1/"), (_SEARCH, "/search/"))
    ]
    return json_response(200, {"handlers": handlers})


def _application_status(package: ApplicationPackage) -> Response:
    application = {"vespa": {"version": VERSION}, "meta": {"name": "default", "server": "clipsearch local engine"}}
    schemas = {"schemas": sorted(package.schemas), "cluster": package.content_cluster}
    return json_response(200, {"application": application, "content": schemas})


def _status_page(package: ApplicationPackage) -> Response:
    return Response(200, b"<title>OK</title>OK\n", "text/html; charset=utf-8")


def _resources(package: ApplicationPackage) -> Response:
    names = ("config", "health", "metrics", "version")
    return json_response(200, {"resources": [{"url": f"/state/v1/{name}"} for name in names]})


def _config(package: ApplicationPackage) -> Response:
    return json_response(200, {"config": {"generation": 0, "container": {"generation": 0}}})


def _health(package: ApplicationPackage) -> Response:
    return json_response(200, {"time": _now(), "status": {"code": "up"}})


def _version(package: ApplicationPackage) -> Response:
    return json_response(200, {"version": VERSION})
