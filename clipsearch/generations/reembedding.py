"""``clipsearch reembed``: a further generation of embeddings in a running index, and the switch to it.

The steps, each of which a later run finds done: deploy the application with a further embedding field; fill it; judge
old and new on held-out captions; deploy it with the new one active. The old one answers until it is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipsearch.adapter import Adapter
from clipsearch.appwriter import QUERY_PROFILE, SCHEMA, Application, Embeddings
from clipsearch.corpora import Corpus
from clipsearch.encoding import encode
from clipsearch.errors import CheckpointError, InputError, ServiceError
from clipsearch.generations.deploying import ConfigServer
from clipsearch.generations.filling import coverage, fill, from_index, from_rows
from clipsearch.generations.judging import Scores, TextModel, difference, held_out, judge
from clipsearch.generations.package import changed_files, read_application, read_files, write_files
from clipsearch.keys import make_key
from clipsearch.records import Embedded, Generation
from clipsearch.search.client import SearchClient
from clipsearch.search.endpoint import Endpoint
from clipsearch.shards import Shards, open_shards

Say = Callable[[str], None]
OVERRIDES = "validation-overrides.xml"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the index is: its endpoint, its config server, and the folder of its application package."""

    url: str
    deploy_url: str
    app: Path
    patience: float = 300.0  # seconds that a deployment may take


@dataclass(frozen=True, slots=True)
class Sources:
    """Where new embeddings come from: images of ``corpora``, finished ``shards``, or an ``adapter`` for stored ones.

    ``base``: the model that the adapter is for. ``work``: folder for the shards that are encoded here.
    """

    corpora: Sequence[Corpus] = ()
    shards: Sequence[Path] = ()
    adapter: Adapter | None = None
    base: Any = None
    work: Path = Path("reembed")
    batch: int = 64


@dataclass(frozen=True, slots=True)
class Judging:
    """How to decide: ``queries`` captions of ``split``; ``old`` loads the model of the active generation.

    ``switch`` False leaves the old one active in any case, ``force`` makes the new one active in any case.
    """

    old: Callable[[], Any] | None = None
    split: str = "test"
    queries: int = 1000
    force: bool = False
    switch: bool = True


@dataclass
class Outcome:
    """What a run did. ``lacking``: documents without the new embedding, as those whose image cannot be read."""

    generation: Generation
    model_id: str
    filled: int = 0
    had: int = 0
    lacking: int = 0
    failed: int = 0
    old: Scores | None = None
    new: Scores | None = None
    queries: int = 0
    switched: bool = False
    reason: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every document has the new embedding."""
        return not (self.failed or self.lacking)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        result: dict[str, Any] = {
            "generation": self.generation.name, "model_id": self.model_id, "filled": self.filled, "had": self.had,
            "lacking": self.lacking, "failed": self.failed, "queries": self.queries, "switched": self.switched,
            "reason": self.reason, "warnings": self.warnings,
        }  # fmt: skip
        if self.old and self.new:
            result |= {
                "old": self.old.as_json(),
                "new": self.new.as_json(),
                "difference": difference(self.old, self.new),
            }
        return result


def reembed(model: Any, place: Place, sources: Sources, judging: Judging, say: Say = print) -> Outcome:
    """Give the index at ``place`` the embeddings of ``model`` (behind its adapter, where there is one), and switch to
    them when they are better; the same call again goes on where an earlier one stopped.

    Raises ``InputError`` where something is missing to do so, and whatever deploying and feeding raise.
    """
    _check(judging, sources)
    with ConfigServer(place.deploy_url) as server, SearchClient(place.url) as client:
        client.check()
        package = _Package(place, server)
        application = _with_known_model(package.application, client)
        new = application.of_model(model.model_id)
        if new is None:
            application = application.adding(model.dim, model.model_id)
            new = application.generations[-1]
            say(f"deploying {new.generation.name}: {new.field.name} {new.field.tensor} for {model.model_id}")
            warnings = package.deploy(application)
        elif new.generation == application.active:
            raise InputError(f"{new.generation.name} is of {model.model_id} and active already: there is nothing to do")
        else:
            say(f"going on with {new.generation.name}, which is of {model.model_id}")
            warnings = []
        outcome = Outcome(new.generation, model.model_id, warnings=warnings)
        _fill(client.url, model, sources, application, new, outcome, say)
        _judge(client, model, sources, judging, application, outcome, say)
        if outcome.switched:
            outcome.warnings += package.deploy(replace(application, active=new.generation))
        return outcome


def activate(place: Place, generation: Generation) -> Application:
    """Make another generation the active one, or the old one again."""
    with ConfigServer(place.deploy_url) as server:
        package = _Package(place, server)
        package.application.of(generation)
        package.deploy(replace(package.application, active=generation))
        return package.application


def drop(place: Place, generation: Generation, allow: Sequence[str] = ()) -> Application:
    """Take a generation, its field and its rank profiles out of the application.

    ``allow``: ids of Vespa's validations that this deployment may fail, where its refusal names some; removing a field
    needs none by Vespa's documentation. Raises ``InputError`` for the active generation.
    """
    with ConfigServer(place.deploy_url) as server:
        package = _Package(place, server)
        package.deploy(package.application.dropping(generation), allow)
        return package.application


class _Package:
    """The package's folder, beside what is deployed: the deployed one tells which generations there are."""

    def __init__(self, place: Place, server: ConfigServer) -> None:
        self._place = place
        self._server = server
        self._files = read_files(place.app)
        self._written = read_application(self._files, place.app)
        schema, profile = server.deployed(SCHEMA), server.deployed(QUERY_PROFILE)
        self.application = self._written
        if schema is not None:
            self.application = read_application({SCHEMA: schema, QUERY_PROFILE: profile or b""}, server.url)
        if not _alike(self._written, self.application):
            raise InputError(
                f"what is deployed at {server.url} was not made of {place.app}: it has the fields "
                f"{_names(self.application)}, and the folder {_names(self._written)}: name the right folder (--app)"
            )

    def deploy(self, application: Application, allow: Sequence[str] = ()) -> list[str]:
        """Deploy first and write the folder then: a kill between the two is healed by the next run."""
        files = changed_files(self._files, self._written, application)
        overrides = {OVERRIDES: _overrides(allow)} if allow else {}
        warnings = self._server.deploy(files | overrides, patience=self._place.patience)
        write_files(self._place.app, files)
        self._files, self._written, self.application = files, application, application
        return warnings


def _alike(folder: Application, deployed: Application) -> bool:
    """Whether one came from the other by adding or dropping generations."""
    sizes = {each.generation: each.dimension for each in deployed.generations}
    common = [each for each in folder.generations if each.generation in sizes]
    same = all(sizes[each.generation] == each.dimension for each in common)
    return bool(common) and same and folder.extra == deployed.extra


def _names(application: Application) -> str:
    return ", ".join(f"{each.name} {each.tensor}" for each in application.fields)


def _overrides(allow: Sequence[str]) -> bytes:
    from datetime import UTC, datetime, timedelta

    until = (datetime.now(tz=UTC) + timedelta(days=1)).date().isoformat()
    lines = [f"  <allow until='{until}'>{name}</allow>\n" for name in allow]
    return f"<validation-overrides>\n{''.join(lines)}</validation-overrides>\n".encode()


def _with_known_model(application: Application, client: SearchClient) -> Application:
    """A package that never had a second generation does not say which model the first is of; its documents do."""
    for generation, model_id in client.generations().items():
        if model_id and not application.of(generation).model_id:
            application = application.with_model(generation, model_id)
    return application


def _check(judging: Judging, sources: Sources) -> None:
    if not (sources.corpora or sources.shards or sources.adapter):
        raise InputError("name what to embed: images with --corpus, or what 'clipsearch encode' wrote with --shards")
    if judging.switch and not judging.force and (judging.old is None or not sources.corpora):
        raise InputError(
            "to see whether the new model is better, the captions (--corpus) and the model that is active now (--old) "
            "are needed; or fill only (--no-switch), or switch in any case (--force)"
        )


def _fill(
    url: str, model: Any, sources: Sources, application: Application, new: Embeddings, outcome: Outcome, say: Say
) -> None:
    endpoint = Endpoint(url, timeout=60.0)
    try:
        found = coverage(endpoint, new.generation, model.model_id)
        outcome.had, total = found.done, len(found.lacking)
        say(f"{found.done} documents have the new embedding, {total} lack it")
        if total:
            stored = application.of_model(sources.adapter.base) if sources.adapter else None
            if stored and sources.adapter and not sources.shards:
                updates = from_index(endpoint, stored.generation, new.generation, sources.adapter)
            else:
                every = _shards(model, sources, say)  # before the feed, whose patience with silence is short
                updates = from_rows(_rows(every, model, sources.adapter), new.generation, found)
            fed = fill(updates, url, sources.work, total)
            if fed.gave_up or fed.interrupted:
                raise ServiceError(f"{fed}. What is filled stays: run the same command again to go on")
            outcome.filled, outcome.failed = fed.fed, fed.failed
        outcome.lacking = len(coverage(endpoint, new.generation, model.model_id).lacking) if total else 0
    finally:
        endpoint.close()
    if outcome.lacking:
        say(
            f"{outcome.lacking} documents still lack it: their images could not be read, are not in the corpus, or "
            "changed since they were fed ('clipsearch feed sync')"
        )


def _shards(model: Any, sources: Sources, say: Say) -> list[Shards]:
    """Shards by the new model, or by the one that its adapter is for: those that are there, else encoded now."""
    if sources.shards:
        return [open_shards(path) for path in sources.shards]
    base, every = sources.base or model, []
    for corpus in sources.corpora:
        out = sources.work / f"{corpus.name}-{make_key(base.model_id)}"
        say(f"encoding {corpus.name} into {out}")
        encode(corpus, base, out, batch=sources.batch)
        every.append(open_shards(out))
    return every


def _rows(every: Iterable[Shards], model: Any, adapter: Adapter | None) -> Iterator[Embedded]:
    for shards in every:
        given = shards.manifest.model_id
        if adapter and given == adapter.base:
            yield from map(adapter.apply_row, shards)
        elif given == model.model_id:
            yield from shards
        else:
            raise CheckpointError(f"{shards.folder} was encoded with {given}, and the new model is {model.model_id}")


def _judge(
    client: SearchClient, model: TextModel, sources: Sources, judging: Judging, application: Application,
    outcome: Outcome, say: Say,
) -> None:  # fmt: skip
    """Measure both where that is possible, and decide."""
    if judging.old is not None and sources.corpora:
        records = [record for corpus in sources.corpora for record in corpus.records]
        captions = held_out(records, judging.split, judging.queries)
        old = judging.old()
        known = application.of(application.active).model_id
        if known and old.model_id != known:
            raise CheckpointError(
                f"--old is {old.model_id}, and {application.active.name} is of {known}: name that one"
            )
        outcome.queries = len(captions)
        outcome.old = judge(client, captions, old, application.active, judging.split)
        outcome.new = judge(client, captions, model, outcome.generation, judging.split)
    if not judging.switch:
        outcome.reason = "as --no-switch asks"
    elif judging.force:
        outcome.switched, outcome.reason = True, "as --force asks"
    elif not outcome.complete:
        outcome.reason = f"{outcome.lacking} documents lack the new embedding and would not be found by it"
    elif outcome.old and outcome.new:
        gain = difference(outcome.old, outcome.new)["mrr@10"][0]
        outcome.switched = gain > 0
        outcome.reason = "it is better" if gain > 0 else "it is not better"
    say(f"{'switching' if outcome.switched else 'not switching'} to {outcome.generation.name}: {outcome.reason}")
