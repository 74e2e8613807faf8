"""The engine: one data folder, one deployed application, and the handlers of its two ports.

What a search or a document operation needs of the deployed application is in one immutable ``Application``, replaced
as a whole by a redeploy, so that every request sees one consistent application.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsearch.engine.deploy import Deployments
from clipsearch.engine.documents.handler import DocumentHandler
from clipsearch.engine.documents.store import Change, DocumentStore
from clipsearch.engine.embedding import check_embedders
from clipsearch.engine.http.container import Container
from clipsearch.engine.http.messages import Answer, Request, Response, json_response
from clipsearch.engine.index import Index
from clipsearch.engine.indexing import CHECKPOINT_CHANGES, Indexing, StoppedError
from clipsearch.engine.memory import bound_arenas
from clipsearch.engine.package import load_package, read_folder
from clipsearch.engine.package.model import ApplicationPackage, RankProfile, Schema
from clipsearch.engine.query import SearchHandler
from clipsearch.engine.ranking import RankProgram, compile_profile
from clipsearch.errors import EngineError, PackageError, StoreError

MAX_PACKAGE = 1 << 30
THREADS = 16


@dataclass(frozen=True, slots=True)
class Application:
    """A deployed package with what was made of it: an index and compiled rank profiles per document type."""

    package: ApplicationPackage
    indexes: Mapping[str, Index]
    programs: Mapping[str, Mapping[str, RankProgram]]


class Engine:
    """Opens ``data``; deploys the package folder ``app``, or serves what was deployed into ``data`` last.

    ``query_host`` and ``query_port`` are where clients find the container, as the deploy port tells them. ``load``
    False: documents are loaded by a later call of ``load``; until then nothing is served.
    Raises ``StoreError`` (folder in use or damaged) or ``PackageError`` (``app`` cannot be deployed).
    """

    def __init__(
        self,
        data: Path,
        app: Path | None = None,
        query_host: str = "localhost",
        query_port: int = 8080,
        load: bool = True,
    ) -> None:
        new = None if app is None else load_package(read_folder(app))
        self.store = DocumentStore(data)
        self._application: Application | None = None
        self._indexing = Indexing(self.store, data)
        try:
            self._pending = self._stored_package() if new is None else new
            if new is not None and new.files != self.store.catalog.files:
                self.check(new)
            if load:
                self.load()
        except BaseException:
            self.store.close()
            raise
        self.documents = DocumentHandler(self)
        container = Container(self.documents, SearchHandler(self).handle, lambda: self.package)
        self.container = ContainerPort(container, lambda: self.application)
        self.deploy = DeployPort(
            Deployments(
                lambda: self.package,
                self.activate,
                check=self.check,
                generation=lambda: self.store.catalog.generation,
                host=query_host,
                query_port=query_port,
            )
        )

    def _stored_package(self) -> ApplicationPackage | None:
        if not self.store.catalog.files:
            return None
        try:
            package = load_package(self.store.catalog.files)
            compile_programs(package)
            return package
        except PackageError as error:
            raise StoreError(
                f"the application stored in {self.store.path.parent} cannot be served: {error}. "
                "Deploy one that can with --app; documents are kept"
            ) from error

    def load(self) -> None:
        """Loads the documents of the package to serve into its indexes."""
        package, self.store.sink = self._pending, self
        if package is not None and package.files == self.store.catalog.files:
            self.store.exclusive(lambda: self._use(package))
        elif package is not None:
            self.activate(package)

    def stop_loading(self) -> None:
        """Makes a ``load`` under way raise ``StoppedError`` soon."""
        self._indexing.stop()

    # ---- what the handlers ask for

    @property
    def package(self) -> ApplicationPackage | None:
        """The deployed application package, None before the first deploy."""
        return None if self._application is None else self._application.package

    @property
    def application(self) -> Application | None:
        """The deployed application with its indexes and rank programs."""
        return self._application

    # ---- deploying

    def check(self, package: ApplicationPackage) -> None:
        """Raises ``PackageError`` for whatever ``activate`` would refuse, and for embedders that cannot be used."""
        self.store.catalog.check(package)
        compile_programs(package)
        for schema in package.schemas.values():
            Index(schema, package.snowball_english)
        check_embedders(package.embedders)

    def activate(self, package: ApplicationPackage) -> list[dict[str, Any]]:
        """Deploys ``package``; returns log lines for the deployer. Documents are kept.

        Raises ``PackageError``, with nothing changed: a rank profile does not compile, or documents would lose values
        (a field's type changed, a schema is gone) and no validation override allows it.
        """
        return self.store.exclusive(lambda: self._activate(package))

    def _activate(self, package: ApplicationPackage) -> list[dict[str, Any]]:
        """Reads the documents first and changes the store last, so that what fails leaves all as it was."""
        self.store.catalog.check(package)
        programs = compile_programs(package)
        before = self.package or self._package_before()
        if before is not None or not self.store.catalog.files:
            indexes = self._indexing.reopened(package, before, self._application.indexes if self._application else {})
            self.store.save_package(package)
        else:
            self.store.save_package(package)
            indexes = self._indexing.opened(package)
        self._application = Application(package, indexes, programs)
        self._indexing.checkpoint(package, indexes)
        return []

    def _use(self, package: ApplicationPackage) -> None:
        """Serves ``package``, which the store holds already."""
        self.store.catalog.use(package)
        indexes = self._indexing.opened(package)
        if self._indexing.checkpoint(package, indexes, CHECKPOINT_CHANGES):
            indexes = self._indexing.opened(package)  # the same from disk: vectors are mapped and need no memory
        self._application = Application(package, indexes, compile_programs(package))

    def _package_before(self) -> ApplicationPackage | None:
        """The stored package, its tables in use; None when there is none that this engine can read."""
        if not self.store.catalog.files:
            return None
        try:
            package = load_package(self.store.catalog.files)
        except PackageError:
            return None
        self.store.catalog.use(package)
        return package

    # ---- the store's sink: every committed change, on the writer's thread

    def show(self, schema: str, changes: Sequence[Change]) -> Mapping[int, Exception]:
        """Shows written and removed documents to their index."""
        if self._application is None:
            return {}
        return self._indexing.show(
            self._application.package.schemas[schema], self._application.indexes[schema], changes
        )

    def rest(self) -> None:
        """Writes the indexes to disk when enough was changed."""
        if self._application is not None:
            self._indexing.checkpoint(self._application.package, self._application.indexes, CHECKPOINT_CHANGES)

    def close(self) -> None:
        """Finishes the operations that wait, writes the indexes to disk and closes the folder."""
        self._indexing.stop()
        application = self._application
        if application is not None:
            with contextlib.suppress(StoreError):  # closed already
                self.store.exclusive(lambda: self._indexing.checkpoint(application.package, application.indexes, at=1))
        self.store.close()


class ContainerPort:
    """Port 8080: everything goes to ``Container``; what a redeploy trips up is asked again of the new application."""

    def __init__(self, container: Container, application: Callable[[], Application | None]) -> None:
        self._container = container
        self._application = application

    def feed(self, request: Request) -> Answer | None:
        """A document operation."""
        return self._container.feed(request)

    def handle(self, request: Request) -> Response:
        """Everything else."""
        while True:
            before = self._application()
            try:
                answer = self._container.handle(request)
            except Exception:
                if self._application() is before:
                    raise
                continue
            if answer.status < 500 or request.method != "GET" or self._application() is before:
                return answer


class DeployPort:
    """Port 19071: everything goes to ``Deployments``."""

    def __init__(self, deployments: Deployments) -> None:
        self._deployments = deployments

    def feed(self, request: Request) -> None:
        """Nothing is fed here."""
        return

    def handle(self, request: Request) -> Response:
        """The answer of the deploy API."""
        return self._deployments.handle(request)


class Starting:
    """Both ports while documents are loaded: 503, but ``health_status`` for health, which the deploy port answers."""

    def __init__(self, health_status: int) -> None:
        self._health_status = health_status

    def feed(self, request: Request) -> None:
        """Nothing is fed yet."""
        return

    def handle(self, request: Request) -> Response:
        """That the engine is starting."""
        health = request.path.rstrip("/") == "/state/v1/health"
        message = "the engine is loading its documents"
        status = {"code": "initializing", "message": message}
        return json_response(
            self._health_status if health else 503, {"status": status} if health else {"message": message}
        )


def compile_programs(package: ApplicationPackage) -> dict[str, dict[str, RankProgram]]:
    """Every rank profile of every schema, compiled. Raises ``PackageError`` that names the profile."""
    return {
        schema.name: {profile.name: _compile(profile, schema) for profile in schema.rank_profiles.values()}
        for schema in package.schemas.values()
    }


def _compile(profile: RankProfile, schema: Schema) -> RankProgram:
    try:
        return compile_profile(profile, schema)
    except PackageError:
        raise
    except EngineError as error:
        raise PackageError(
            f"schema '{schema.name}', rank profile '{profile.name}': {error}", file=profile.file, line=profile.line
        ) from error


def serve(data: Path, app: Path | None, host: str, port: int, deploy_port: int) -> None:
    """Runs an engine on its two ports until SIGINT or SIGTERM, and prints one line when it is ready.

    Both ports answer at once; documents are loaded meanwhile. Raises ``InputError`` (a port is in use),
    ``StoreError`` or ``PackageError``.
    """
    from clipsearch.engine.http.app import App, configure_logging
    from clipsearch.serving import Listener, check_port, exposure_warning, host_guard, run

    if port == deploy_port:
        raise StoreError(f"--port and --deploy-port are both {port}: choose two ports")
    check_port(host, port, "--port")
    check_port(host, deploy_port, "--deploy-port")
    configure_logging()
    bound_arenas()
    if warning := exposure_warning(host):
        print(warning, file=sys.stderr)
    engine = Engine(data, app, "localhost" if host in ("0.0.0.0", "::") else host, port, load=False)
    executor = ThreadPoolExecutor(THREADS, thread_name_prefix="engine")
    guard = host_guard(host)
    container = App(Starting(503), executor, host_allowed=guard)
    deploys = App(Starting(200), executor, MAX_PACKAGE, guard)
    listeners = [
        Listener(container, host, port, "--port", inline=True),
        Listener(deploys, host, deploy_port, "--deploy-port", inline=True),
    ]

    def start() -> None:
        engine.load()
        container.handler, deploys.handler = engine.container, engine.deploy
        _announce(engine, host, port, deploy_port)

    loading: list[Future[None]] = []

    def close() -> None:
        engine.stop_loading()
        executor.shutdown(cancel_futures=True)
        engine.close()
        for done in loading:
            with contextlib.suppress(StoppedError):
                done.result()

    run(listeners, lambda: loading.append(_load_in(executor, start)), close)


def _load_in(executor: ThreadPoolExecutor, start: Callable[[], None]) -> Future[None]:
    """Runs ``start`` in a thread; should it fail, the process is asked to stop, and ``close`` raises the reason."""

    def guarded() -> None:
        try:
            start()
        except StoppedError:
            raise
        except BaseException:
            os.kill(os.getpid(), signal.SIGTERM)
            raise

    return executor.submit(guarded)


def _announce(engine: Engine, host: str, port: int, deploy_port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    note = ", waiting for a deploy" if engine.package is None else ""
    print(f"serving on http://{shown}:{port}, deploy on http://{shown}:{deploy_port}{note}", flush=True)
