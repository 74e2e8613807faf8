"""Everything on port 19071: deploying packages as Vespa's config server takes them, and saying what is deployed.

Source: the config server's ``http/v2`` handlers and the requests that ``vespa`` and pyvespa send. There is one tenant
and one application, both "default"; a session is kept in memory until ``MAX_SESSIONS`` newer ones exist.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import unquote

from clipsearch.engine.http.messages import Request, Response, json_response
from clipsearch.engine.package import deploy_warnings, load_package, read_tar_gz, read_zip
from clipsearch.engine.package.model import ApplicationPackage
from clipsearch.errors import EngineError, PackageError

APPLICATION = "/application/v2/tenant/default/application/default"
INSTANCE = f"{APPLICATION}/environment/prod/region/default/instance/default"
ZIP, GZIP, MULTIPART = "application/zip", "application/x-gzip", "multipart/form-data"
MAX_SESSIONS = 10
_NO_ACTIONS: Mapping[str, list[Any]] = {"restart": [], "refeed": [], "reindex": []}

Log = list[dict[str, Any]]


class _HttpError(Exception):
    """An answer of the config server that is not 200."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Session:
    """One uploaded package, and how far it has come."""

    def __init__(self, number: int, package: ApplicationPackage) -> None:
        self.number = number
        self.package = package
        self.prepared = False


class Deployments:
    """The config server of one application.

    ``current`` gives the package that is served (None: none yet); ``activate`` puts a new one in its place, returns
    lines for the deploy log (``level``, ``message``) and raises ``PackageError`` when it cannot; ``check`` raises the
    same without doing it. ``generation`` gives the number of the session that was activated last, over restarts.
    ``host`` and ``query_port`` are where the container answers, as ``serviceconverge`` tells clients.
    """

    def __init__(
        self,
        current: Callable[[], ApplicationPackage | None],
        activate: Callable[[ApplicationPackage], Sequence[Mapping[str, Any]]],
        *,
        check: Callable[[ApplicationPackage], None] = lambda package: None,
        generation: Callable[[], int] = lambda: 1,
        host: str = "localhost",
        query_port: int = 8080,
    ) -> None:
        self.current = current
        self.activate = activate
        self.check = check
        self.host = host
        self.query_port = query_port
        self._stored_generation = generation
        self._activated = self._last = 1
        self._sessions: OrderedDict[int, _Session] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def generation(self) -> int:
        """The number of the session that is active; 1 before any is."""
        return max(self._activated, self._stored_generation())

    def handle(self, request: Request) -> Response:
        """Answer any request to the port; errors are Vespa's ``{"error-code", "message"}``."""
        try:
            return self._route(request)
        except PackageError as error:
            return _error(400, "INVALID_APPLICATION_PACKAGE", str(error))
        except _HttpError as error:
            return _error(error.status, error.code, str(error))
        except EngineError as error:  # the disk is full or fails: nothing was deployed
            return _error(getattr(error, "status", 500), "INTERNAL_SERVER_ERROR", str(error))

    def _route(self, request: Request) -> Response:
        path = unquote(request.path).rstrip("/") or "/"
        if path.startswith("/application/v2/"):
            return self._application_api(request, path)
        match path:
            case "/" | "/status.html":
                self._method(request, "GET", "HEAD")
                return Response(200, b"OK\n", "text/plain")
            case "/state/v1":
                names = ("health", "version", "metrics")
                links = [{"url": f"{self._base(request)}/state/v1/{name}"} for name in names]
                return json_response(200, {"resources": links})
            case "/state/v1/health" | "/state/v1/metrics":
                return json_response(200, {"time": _now(), "status": {"code": "up"}, "metrics": {}})
            case "/state/v1/version":
                return json_response(200, {"version": "8.0.0"})
            case "/ApplicationStatus":
                return json_response(200, self._status())
        raise _HttpError(404, "NOT_FOUND", f"Nothing at {path}")

    def _application_api(self, request: Request, path: str) -> Response:
        tenant = re.match(r"/application/v2/tenant(?:/([^/]+))?", path)
        if tenant is None:
            raise _HttpError(404, "NOT_FOUND", f"Nothing at {path}")
        if tenant[1] not in (None, "default"):
            raise _HttpError(404, "NOT_FOUND", f"Tenant '{tenant[1]}' was not found.")
        for pattern, methods, handler in self._routes():
            match = re.fullmatch(pattern, path)
            if match is not None:
                self._method(request, *methods)
                return handler(request, *match.groups())
        if path.startswith(APPLICATION.rsplit("/", 1)[0]):
            raise _HttpError(
                404, "NOT_FOUND", f"There is no application at {path}: the only one is default.default.default"
            )
        raise _HttpError(404, "NOT_FOUND", f"Nothing at {path}")

    def _routes(self) -> tuple[tuple[str, tuple[str, ...], Callable[..., Response]], ...]:
        tenant, session = "/application/v2/tenant/default", r"/application/v2/tenant/default/session/(\d{1,18})"
        return (
            ("/application/v2/tenant", ("GET",), lambda r: json_response(200, {"tenants": ["default"]})),
            (tenant, ("GET",), lambda r: json_response(200, {"message": "Tenant 'default' exists."})),
            (f"{tenant}/prepareandactivate", ("POST",), self._prepare_and_activate),
            (f"{tenant}/session", ("POST",), self._create),
            (f"{session}/prepared", ("PUT", "GET"), self._prepare),
            (f"{session}/active", ("PUT", "GET"), self._activate_session),
            (rf"{session}/content(?:/(.*))?", ("GET",), self._session_content),
            (f"{tenant}/application", ("GET",), self._list),
            (APPLICATION, ("GET",), self._describe),
            (INSTANCE, ("GET",), self._describe),
            (f"{INSTANCE}/serviceconverge", ("GET",), self._converge),
            (rf"{INSTANCE}/serviceconverge/([^/]+):(\d{{1,5}})", ("GET",), self._converge_one),
            (rf"(?:{INSTANCE}|{APPLICATION})/content(?:/(.*))?", ("GET",), self._content),
        )

    # ---- deploying

    def _prepare_and_activate(self, request: Request) -> Response:
        session = self._upload(request)
        self.check(session.package)
        log = self._put_active(session)
        message = f"Session {session.number} for tenant 'default' prepared and activated."
        answer = {"log": log, "tenant": "default", "session-id": str(session.number), "activated": True}
        url = f"{self._base(request)}{INSTANCE}"
        return json_response(200, {**answer, "url": url, "message": message, "configChangeActions": _NO_ACTIONS})

    def _create(self, request: Request) -> Response:
        if request.param("from"):
            raise _HttpError(400, "BAD_REQUEST", "Sessions from an application are not supported by the local engine")
        session = self._upload(request)
        url = f"{self._base(request)}/application/v2/tenant/default/session/{session.number}"
        message = f"Session {session.number} for tenant 'default' created."
        answer = {"log": [], "tenant": "default", "session-id": str(session.number), "message": message}
        return json_response(200, {**answer, "prepared": f"{url}/prepared", "content": f"{url}/content/"})

    def _prepare(self, request: Request, number: str) -> Response:
        session = self._session(number)
        if request.method == "GET" and not session.prepared:
            raise _HttpError(400, "BAD_REQUEST", f"Session {number} is not prepared.")
        if not session.prepared:
            self.check(session.package)
        session.prepared = True
        url = f"{self._base(request)}/application/v2/tenant/default/session/{number}/active"
        message = f"Session {number} for tenant 'default' prepared."
        answer = {"log": _log(deploy_warnings(session.package)), "tenant": "default", "session-id": number}
        return json_response(200, {**answer, "activate": url, "message": message, "configChangeActions": _NO_ACTIONS})

    def _activate_session(self, request: Request, number: str) -> Response:
        session = self._session(number)
        if not session.prepared:
            raise _HttpError(409, "ACTIVATION_CONFLICT", f"Session {number} is not prepared: prepare it first")
        if request.method == "PUT":
            self._put_active(session)
        elif self.generation != session.number:
            raise _HttpError(404, "NOT_FOUND", f"Session {number} is not active.")
        message = f"Session {number} for tenant 'default' activated."
        url = f"{self._base(request)}{INSTANCE}"
        return json_response(200, {"tenant": "default", "session-id": number, "message": message, "url": url})

    def _upload(self, request: Request) -> _Session:
        """The request's package, checked, as a new session."""
        package = load_package(_unpack(request))
        with self._lock:
            self._last = max(self._last, self.generation) + 1
            session = _Session(self._last, replace(package, generation=self._last))
            self._sessions[self._last] = session
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return session

    def _session(self, number: str) -> _Session:
        session = self._sessions.get(int(number))
        if session is None:
            raise _HttpError(404, "NOT_FOUND", f"Session {number} was not found")
        return session

    def _put_active(self, session: _Session) -> Log:
        """One activation at a time, so that the generation is always that of what is served."""
        with self._lock:
            if session.number < self.generation:
                message = f"Session {session.number} is older than the active one, {self.generation}: deploy it again"
                raise _HttpError(409, "ACTIVATION_CONFLICT", message)
            log = [{"time": _now(), "level": "INFO", **line} for line in self.activate(session.package)]
            self._activated = session.number
        return [*_log(deploy_warnings(session.package)), *log]

    # ---- what is deployed

    def _deployed(self) -> ApplicationPackage:
        package = self.current()
        if package is None:
            raise _HttpError(404, "NOT_FOUND", "Unknown application id 'default.default': nothing is deployed yet")
        return package

    def _list(self, request: Request) -> Response:
        return json_response(200, [] if self.current() is None else [f"{self._base(request)}{INSTANCE}"])

    def _describe(self, _: Request) -> Response:
        self._deployed()
        return json_response(200, {"generation": self.generation, "modelVersions": ["8.0.0"]})

    def _converge(self, request: Request) -> Response:
        package = self._deployed()
        url = f"{self._base(request)}{INSTANCE}/serviceconverge"
        service = {
            "clusterName": package.container_cluster,
            "host": self.host,
            "port": self.query_port,
            "type": "container",
            "url": f"{url}/{self.host}:{self.query_port}",
            "currentGeneration": self.generation,
        }
        generations = {"currentGeneration": self.generation, "wantedGeneration": self.generation, "converged": True}
        return json_response(200, {"services": [service], "url": url, **generations})

    def _converge_one(self, request: Request, host: str, port: str) -> Response:
        self._deployed()
        if int(port) != self.query_port:
            raise _HttpError(410, "NOT_FOUND", f"No service at {host}:{port}")
        generations = {"currentGeneration": self.generation, "wantedGeneration": self.generation, "converged": True}
        url = f"{self._base(request)}{INSTANCE}/serviceconverge/{host}:{port}"
        return json_response(200, {"url": url, "host": {"hostname": host, "port": port}, **generations})

    def _content(self, request: Request, name: str | None) -> Response:
        return self._file(request, self._deployed().files, name or "")

    def _session_content(self, request: Request, number: str, name: str | None) -> Response:
        return self._file(request, self._session(number).package.files, name or "")

    def _file(self, request: Request, files: Mapping[str, bytes], name: str) -> Response:
        """A file's bytes, or the addresses of what lies in a folder."""
        if name in files:
            return Response(200, files[name], "application/octet-stream")
        prefix = f"{name}/" if name else ""
        below = [each[len(prefix) :].partition("/") for each in files if each.startswith(prefix)]
        inside = {first + slash for first, slash, _ in below}  # a folder ends with "/": so the client knows it
        if not inside:
            raise _HttpError(404, "NOT_FOUND", f"No such file in the application package: {name}")
        url = f"{self._base(request)}{unquote(request.path).rstrip('/')}"
        return json_response(200, [f"{url}/{each}" for each in sorted(inside)])

    def _status(self) -> dict[str, Any]:
        package = self.current()
        schemas = [] if package is None else sorted(package.schemas)
        meta = {"name": "default", "generation": self.generation, "schemas": schemas}
        return {"application": {"vespa": {"version": "8.0.0"}, "meta": meta}}

    def _base(self, request: Request) -> str:
        return f"http://{request.headers.get('host', 'localhost:19071')}"

    def _method(self, request: Request, *allowed: str) -> None:
        if request.method not in allowed:
            raise _HttpError(405, "METHOD_NOT_ALLOWED", f"Method '{request.method}' is not supported")


def _unpack(request: Request) -> dict[str, bytes]:
    """The files of the uploaded archive; multipart requests have it in part "applicationPackage"."""
    content, header = request.body, request.headers.get("content-type", "")
    if not content:
        raise _HttpError(400, "BAD_REQUEST", "Request contains no data")
    kind = header.partition(";")[0].strip().lower()
    if kind == MULTIPART:
        content, kind = _package_part(content, header)
    if kind == ZIP:
        return read_zip(content)
    if kind == GZIP:
        return read_tar_gz(content)
    accepted = ", ".join((GZIP, ZIP, MULTIPART))
    message = f"Request contains invalid Content-Type header ({header}), only '[{accepted}]' are supported"
    raise _HttpError(400, "BAD_REQUEST", message)


def _package_part(body: bytes, header: str) -> tuple[bytes, str]:
    message = BytesParser(policy=HTTP).parsebytes(
        b"Content-Type: " + header.encode("latin-1", "replace") + b"\r\n\r\n" + body
    )
    for part in message.iter_parts() if message.is_multipart() else ():
        if part.get_param("name", header="content-disposition") == "applicationPackage":
            payload = part.get_payload(decode=True)
            if isinstance(payload, bytes):
                return payload, part.get_content_type()
    raise _HttpError(
        400, "BAD_REQUEST", "Deploy request from 'default' contains invalid data: no part 'applicationPackage'"
    )


def _log(warnings: Sequence[str]) -> Log:
    line = {"time": _now(), "level": "WARNING", "applicationPackage": True}
    return [{**line, "message": message} for message in warnings]


def _error(status: int, code: str, message: str) -> Response:
    return json_response(status, {"error-code": code, "message": message})


def _now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
