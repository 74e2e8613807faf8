"""From judgments to the answer: every ranking measured, which is best, and how far that can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipsearch.errors import InputError
from clipsearch.metrics.bootstrap import bootstrap_intervals
from clipsearch.relevance.asking import Asker
from clipsearch.relevance.measuring import MEASURES, K, Run, Scores, check_ids, check_indexed, measure
from clipsearch.relevance.topics import Topic
from clipsearch.search import QueryEncoder, SearchClient
from clipsearch.search.endpoint import Endpoint
from clipsearch.search.query import PATCHES, SEMANTIC_PROFILES

BY_VECTOR = ("vector", PATCHES)
"""The rankings that an image alone can be asked with."""

EQUAL = 1e-9  # what sums of rounded numbers may differ by

FEWEST = 10
"""Queries that a lead needs before it is believed."""


@dataclass(frozen=True, slots=True)
class Lead:
    """The best run of a measure. ``over``: the next one, "" without; ``ahead``: the mean of the difference over the
    ``queries``, with the 95 % interval of a paired bootstrap.
    """

    best: str
    mean: float
    over: str = ""
    ahead: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    queries: int = 0

    @property
    def certain(self) -> bool:
        """Whether the interval leaves 0 out; never with fewer than ten queries, of which resamples say too little."""
        return bool(self.over) and self.interval[0] > 0 and self.queries >= FEWEST

    def __str__(self) -> str:
        if not self.over:
            return self.best
        if abs(self.ahead) < EQUAL:
            return f"{self.best}, and {self.over} is as good"
        low, high = self.interval
        doubt = "" if self.certain else ", which may be chance"
        if self.queries < FEWEST:
            doubt = f", over too few queries ({self.queries}) to trust"
        return f"{self.best}, {self.ahead:.4f} ahead of {self.over} (95 % of resamples: {low:.4f} to {high:.4f}){doubt}"


@dataclass(frozen=True, slots=True)
class Section:
    """Runs over the same queries. ``kind``: "words" or "images", what the queries are made of."""

    kind: str
    topics: tuple[Topic, ...]
    scores: tuple[Scores, ...]

    @property
    def leads(self) -> dict[str, Lead]:
        """The best run of each measure."""
        return {name: _lead(name, self.scores, names_of(self.scores)) for name in MEASURES}


@dataclass(frozen=True, slots=True)
class Report:
    """All sections, and what was left out with the reason."""

    sections: tuple[Section, ...]
    left_out: Mapping[str, int]


def evaluate(
    url: str, topics: Sequence[Topic], encoders: Sequence[QueryEncoder], profiles: Sequence[str], alpha: float = 0.5
) -> Report:
    """Measure ``profiles`` over ``topics`` with each of ``encoders``; without one, "lexical" only.

    Queries by an image have no words to rank by: they are a section of their own, under ``BY_VECTOR``. The ranking by
    parts of images is left out where the index has no parts by the model. Raises
    ``InputError`` when nothing is judged that could be measured or a judged image is not in the index,
    ``CheckpointError`` for a model that the index has no embeddings of.
    """
    check_ids(topics)
    usable, left_out = _usable(topics, bool(encoders))
    sections = []
    with SearchClient(url) as client:
        client.check()
        askers = [(encoder.model.model_id, Asker(client, encoder)) for encoder in encoders]
        endpoint = Endpoint(url)
        try:
            for kind in ("words", "images"):
                chosen = tuple(topic for topic in usable if topic.by_words == (kind == "words"))
                runs = _runs(kind, profiles, askers, Asker(client, None), alpha)
                if chosen and not runs:
                    left_out["by an image, which only the ranking vector answers"] = len(chosen)
                elif chosen:
                    scores = tuple(measure(endpoint, run, chosen) for run in runs)
                    sections.append(Section(kind, chosen, scores))
        finally:
            endpoint.close()
        found = {document for section in sections for scores in section.scores for document in scores.found}
        check_indexed(client, usable, found)
    if not sections:
        raise InputError(f"none of the judged queries can be measured: {_reasons(left_out)}")
    return Report(tuple(sections), left_out)


def names_of(scores: Sequence[Scores]) -> list[str]:
    """What to call each run: its ranking, with the model where there are several."""
    several = len({each.model for each in scores if each.model}) > 1
    return [f"{each.profile} ({each.model})" if several and each.model else each.profile for each in scores]


def as_json(report: Report) -> dict[str, Any]:
    """The report for machines; ``judged`` is the share of judged hits among the first ten."""
    return {
        "left_out": dict(report.left_out),
        "sections": [
            {
                "queries_by": section.kind,
                "queries": len(section.topics),
                "judgments": sum(len(topic.grades) for topic in section.topics),
                "relevant": sum(len(topic.relevant) for topic in section.topics),
                "runs": [
                    {"profile": each.profile, "model": each.model, **_rounded(each.means), "judged": judged_share(each)}
                    for each in section.scores
                ],
                "best": {name: _lead_json(lead) for name, lead in section.leads.items()},
            }
            for section in report.sections
        ],
    }


def table(report: Report) -> str:
    """The report for a terminal."""
    parts = []
    for section in report.sections:
        parts.append("\n".join([_title(section), "", *_rows(section), "", *_verdicts(section)]))
    if report.left_out:
        parts.append(f"Left out: {_reasons(report.left_out)}.")
    return "\n\n".join(parts)


def judged_share(scores: Scores) -> float | None:
    """The share of the first ten hits that was judged, over all queries that have hits; None when none has."""
    known = scores.judged[~np.isnan(scores.judged)]
    return round(float(known.mean()), 4) if len(known) else None


def _usable(topics: Sequence[Topic], has_model: bool) -> tuple[list[Topic], dict[str, int]]:
    usable, left_out = [], dict[str, int]()
    for topic in topics:
        reason = ""
        if not topic.relevant:
            reason = "no image judged relevant"
        elif not topic.replayable:
            reason = "by an uploaded image, which only the page knew"
        elif not topic.by_words and not has_model:
            reason = "by an image, which needs --model"
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            usable.append(topic)
    if not topics:
        raise InputError("nothing is judged yet: mark some hits as relevant or not on the search page")
    if not usable:
        raise InputError(f"none of the judged queries can be measured: {_reasons(left_out)}")
    return usable, left_out


def _runs(
    kind: str, profiles: Sequence[str], askers: Sequence[tuple[str, Asker]], words: Asker, alpha: float
) -> list[Run]:
    runs = []
    if kind == "words" and "lexical" in profiles:
        runs.append(Run("lexical", "", lambda topic, hits: words.request(topic.query, "lexical", hits)))
    for model, asker in askers:
        for profile in profiles:
            if profile in BY_VECTOR or (profile in SEMANTIC_PROFILES and kind == "words"):
                runs += [_semantic(profile, model, asker, alpha)] * asker.answers(profile)
    return runs


def _semantic(profile: str, model: str, asker: Asker, alpha: float) -> Run:
    return Run(profile, model, lambda topic, hits: asker.request(topic.query, profile, hits, alpha))


def _lead(measure: str, scores: Sequence[Scores], names: Sequence[str]) -> Lead:
    order = sorted(range(len(scores)), key=lambda at: -scores[at].means[measure])
    best = order[0]
    mean = scores[best].means[measure]
    if len(order) == 1:
        return Lead(names[best], mean)
    ahead = scores[best].values[measure] - scores[order[1]].values[measure]
    interval = bootstrap_intervals({"ahead": ahead})["ahead"]
    return Lead(names[best], mean, names[order[1]], float(ahead.mean()), interval, len(ahead))


def _lead_json(lead: Lead) -> dict[str, Any]:
    low, high = lead.interval
    return {
        "profile": lead.best, "mean": round(lead.mean, 6), "over": lead.over or None, "ahead": round(lead.ahead, 6),
        "interval": [round(low, 6), round(high, 6)], "certain": lead.certain,
    }  # fmt: skip


def _rounded(means: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in means.items()}


def _title(section: Section) -> str:
    judged = sum(len(topic.grades) for topic in section.topics)
    relevant = sum(len(topic.relevant) for topic in section.topics)
    kind = "by words" if section.kind == "words" else "by images"
    count = len(section.topics)
    return f"{count} {'query' if count == 1 else 'queries'} {kind}, {judged} judgments, {relevant} relevant"


def _rows(section: Section) -> list[str]:
    leads = section.leads
    names = names_of(section.scores)
    head = ["ranking", *(_heading(name) for name in MEASURES), f"judged of {K}"]
    rows = [head]
    for name, scores in zip(names, section.scores, strict=True):
        share = judged_share(scores)
        cells = [f"{scores.means[m]:.4f}{'*' if leads[m].mean - scores.means[m] < EQUAL else ' '}" for m in MEASURES]
        rows.append([name, *cells, "-" if share is None else f"{100 * share:.0f} %"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]


def _verdicts(section: Section) -> list[str]:
    lines = [f"best {_heading(name)}: {lead}" for name, lead in section.leads.items()]
    shares = [share for share in map(judged_share, section.scores) if share is not None]
    if shares and min(shares) < 1:
        lines.append(
            f"{100 * min(shares):.0f} to {100 * max(shares):.0f} % of the first {K} hits were judged. The others count "
            "as not relevant, which favours the rankings that were judged; the last measure looks at judged hits only."
            + (" Judge more hits of each ranking before you trust this." if min(shares) < 0.5 else "")
        )
    return lines


def _heading(measure: str) -> str:
    name, _, k = measure.partition("@")
    return f"{ {'mrr': 'MRR', 'ndcg': 'nDCG', 'precision': 'P', 'map': 'MAP'}.get(name, name) }@{k}"


def _reasons(left_out: Mapping[str, int]) -> str:
    return "; ".join(f"{count} {'query' if count == 1 else 'queries'} {why}" for why, count in left_out.items())
