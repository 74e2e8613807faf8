"""One query on one schema: matching and ranking, pruned where that gives the same answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.index import Snapshot
from clipsearch.engine.package.model import RankProfile, Schema
from clipsearch.engine.query import tree as q
from clipsearch.engine.query.clock import Clock
from clipsearch.engine.query.features import QueryFeatures
from clipsearch.engine.query.matching import Matcher
from clipsearch.engine.query.phases import Ranked, rank, sort
from clipsearch.engine.query.pruned import Pruned
from clipsearch.engine.query.yql import Sort
from clipsearch.engine.ranking import RankProgram
from clipsearch.engine.tensors.value import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is asked of one schema.

    ``inputs``: query tensors by name; ``wanted``: hits up to the end of the page; ``rerank_counts``: those that the
    query sets; ``all_rows``: every matching row is needed, for grouping.
    """

    schema: Schema
    snapshot: Snapshot
    program: RankProgram
    root: q.Node
    inputs: Mapping[str, Tensor]
    properties: dict[str, str]
    wanted: int
    hits: int
    order: Sequence[Sort]
    rerank_counts: Mapping[str, int]
    all_rows: bool
    clock: Clock


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One schema's share of the result. ``rows``: all that match, where ``Task.all_rows`` asked for them."""

    schema: Schema
    program: RankProgram
    matcher: Matcher
    features: QueryFeatures
    rows: NDArray[np.int64] | None
    ranked: Ranked


PRUNING = True  # a test turns it off


def execute(task: Task) -> Found:
    """The hits of ``task``. Raises ``QueryError``, also when its time is over."""
    if PRUNING and not task.all_rows and not task.order:
        pruned = Pruned(_matcher(task), task.program, task.properties, task.clock)
        ranked = pruned.rank(task.root, task.wanted if task.hits else 0, task.rerank_counts)
        if ranked is not None:
            return Found(task.schema, task.program, pruned.matcher, pruned.features, None, ranked)
    matcher = _matcher(task)
    with task.clock.step("match"):
        rows = matcher.run(task.root)
    features = QueryFeatures(matcher, task.properties)
    return Found(task.schema, task.program, matcher, features, rows, _ranked(task, features, rows))


def _matcher(task: Task) -> Matcher:
    return Matcher(task.schema, task.snapshot, task.inputs, task.root, task.clock.check)


def _ranked(task: Task, features: QueryFeatures, rows: NDArray[np.int64]) -> Ranked:
    profile = task.program.profile
    if task.order:
        with task.clock.step("sort"):
            return sort(features, task.program, rows, task.wanted, task.order)
    reranked = task.all_rows and profile.second_phase is not None and profile.global_phase is None
    wanted = max(task.wanted, len(rows)) if reranked else task.wanted  # groups rank by what the second phase gave
    if task.hits == 0 and not reranked and profile.global_phase is None and not _drops(profile):
        nothing = np.empty(0)
        return Ranked(np.empty(0, np.int64), nothing, nothing, len(rows))
    return rank(features, task.program, rows, wanted, task.rerank_counts, task.clock)


def _drops(profile: RankProfile) -> bool:
    return any(p is not None and p.drop_limit is not None for p in (profile.first_phase, profile.second_phase))
