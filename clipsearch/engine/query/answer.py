"""The root of a search result: count, coverage, groups, and the hits of the page with their fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.index.documents import DocumentReader
from clipsearch.engine.package.model import ApplicationPackage
from clipsearch.engine.package.synthetic import stored_for
from clipsearch.engine.query import rendering
from clipsearch.engine.query.execution import Found
from clipsearch.engine.query.features import Batch
from clipsearch.engine.query.grouping_results import Grouper
from clipsearch.engine.query.grouping_values import Share, Table
from clipsearch.engine.query.merging import merged
from clipsearch.engine.query.page import Page
from clipsearch.engine.query.phases import first_phase
from clipsearch.engine.query.yql import Sort, Statement
from clipsearch.errors import QueryError

Json = dict[str, Any]


def _scores(part: Found) -> NDArray[np.float64]:
    """The content node's score of all matching rows: of the second phase where it reranked."""
    assert part.rows is not None
    profile = part.program.profile
    scores = first_phase(part.features, part.program, part.rows)
    if profile.second_phase is not None and profile.global_phase is None and len(part.ranked.rows):
        place = np.searchsorted(part.rows, part.ranked.rows)
        scores[place] = part.ranked.scores
    return scores


def error_json(error: QueryError) -> Json:
    """An error as it stands in a result."""
    return {"code": error.code, "summary": error.summary, "message": str(error)}


def error_root(errors: list[Json]) -> Json:
    """The root of a result that has nothing but errors."""
    return {"id": "toplevel", "relevance": 1.0, "fields": {"totalCount": 0}, "errors": errors}


@dataclass
class Answer:
    """Renders one result."""

    package: ApplicationPackage
    store: DocumentReader
    statement: Statement
    page: Page
    order: Sequence[Sort] = ()
    errors: list[Json] = field(default_factory=list)

    def root(self, found: Sequence[Found]) -> Json:
        """The whole result."""
        documents = sum(part.matcher.snapshot.documents for part in found)
        root: Json = {
            "id": "toplevel",
            "relevance": 1.0,
            "fields": {"totalCount": sum(part.ranked.total for part in found)},
            "coverage": {
                "coverage": 100, "documents": documents, "full": True, "nodes": 1, "results": 1, "resultsFull": 1
            },
        }  # fmt: skip
        children: list[Json] = []
        if self.statement.groupings:
            children += self._groups(found)
        children += self._hits(found)
        if self.errors:
            root["errors"] = self.errors
        if children:
            root["children"] = children
        return root

    def _groups(self, found: Sequence[Found]) -> list[Json]:
        """The root group of each grouping."""
        shares = [Share(part.matcher, part.rows) for part in found if part.rows is not None]
        table = Table(shares, lambda: np.concatenate([np.empty(0), *(_scores(part) for part in found)]))
        ends = np.cumsum([len(share.rows) for share in shares])

        def render(hits: NDArray[np.int64], summary: str) -> list[Json]:
            shown: dict[int, Json] = {}
            for number, part in enumerate(found):
                inside = np.flatnonzero(ends.searchsorted(hits, "right") == number)
                if part.rows is not None and len(inside):
                    rows = part.rows[hits[inside] - (ends[number] - len(part.rows))]
                    made = self._plain_hits(part, rows, table.scores[hits[inside]].tolist(), summary)
                    shown |= dict(zip(inside.tolist(), made, strict=True))
            return [shown[place] for place in range(len(hits))]

        grouper = Grouper(table, render, self.page.limits)
        return [grouper.root(operation, number) for number, operation in enumerate(self.statement.groupings)]

    def _plain_hits(self, part: Found, rows: NDArray[np.int64], scores: list[float], summary: str) -> list[Json]:
        """Hits in a group: their fields without features."""
        fields = rendering.summary_fields(part.schema, summary or self.page.summary, ())
        if fields is None:
            raise QueryError(f"grouping: Summary '{summary}' does not exist", code=4)
        lids: list[int] = part.matcher.snapshot.lids[rows].tolist()
        documents = self.store.read(part.schema.name, lids, stored_for(part.schema, rendering.stored_fields(fields)))
        cluster = self.package.content_cluster
        hits: list[Json] = []
        for lid, document, score in zip(lids, documents, scores, strict=True):
            if document is None:
                hits.append({"id": f"index:{cluster}/0/{lid}", "relevance": rendering.number(score), "source": cluster})
            else:
                hits.append(rendering.hit(document, part.schema, cluster, fields, score, self.page.form))
        return hits

    def _hits(self, found: Sequence[Found]) -> list[Json]:
        chosen = merged(found, self.order)
        chosen = chosen[self.page.offset : self.page.offset + self.page.hits]
        rendered: dict[tuple[int, int], Json] = {}
        for part in found:
            positions = [position for owner, position in chosen if owner is part]
            if positions:
                for position, hit in zip(positions, self._part(part, positions), strict=True):
                    rendered[id(part), position] = hit
        return [rendered[id(part), position] for part, position in chosen]

    def _part(self, part: Found, positions: list[int]) -> list[Json]:
        rows = part.ranked.rows[positions]
        scores: list[float] = part.ranked.scores[positions].tolist()
        fields = rendering.summary_fields(part.schema, self.page.summary, self.statement.fields)
        if fields is None:
            self.errors.append(error_json(QueryError(f"Summary '{self.page.summary}' does not exist", code=4)))
            fields = {}
        lids: list[int] = part.matcher.snapshot.lids[rows].tolist()
        documents = self.store.read(part.schema.name, lids, stored_for(part.schema, rendering.stored_fields(fields)))
        blocks = self._features(part, positions)
        hits: list[Json] = []
        cluster = self.package.content_cluster
        for place, (document, score) in enumerate(zip(documents, scores, strict=True)):
            if document is None:  # removed since the search: Vespa gives such a hit without its fields
                shown_id = f"index:{cluster}/0/{lids[place]}"
                hits.append({"id": shown_id, "relevance": rendering.number(score), "source": cluster})
                continue
            hit = rendering.hit(document, part.schema, cluster, fields, score, self.page.form)
            if blocks:
                shown = {name: rendering.features(values, place, self.page.form) for name, values in blocks.items()}
                hit["fields"] = {**shown, **hit["fields"]}
            if not hit["fields"]:
                del hit["fields"]
            hits.append(hit)
        return hits

    def _features(self, part: Found, positions: list[int]) -> dict[str, dict[str, Any]]:
        """The feature blocks that are shown, by the name that they have in a hit."""
        rows, selected = part.ranked.rows[positions], self.statement.fields
        batch = Batch(part.features, rows, part.ranked.first_phase[positions])
        blocks: dict[str, dict[str, Any]] = {}
        if not selected or "matchfeatures" in selected:
            blocks["matchfeatures"] = dict(part.program.match_values(batch, len(rows)))
        if not selected or "summaryfeatures" in selected:
            blocks["summaryfeatures"] = dict(part.program.summary_values(batch, len(rows)))
        return {name: values for name, values in blocks.items() if values or selected}
