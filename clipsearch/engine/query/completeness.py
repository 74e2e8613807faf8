"""The rank feature elementCompleteness: how much of the query, and of the field's best element, the matched words are.

Source: Vespa's ``searchlib/features/element_completeness_feature.cpp``. Positions are looked at only in rows whose
several elements share several terms: in all others, how often each term occurs says it all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipsearch.engine.query.matching import TermMatch
from clipsearch.engine.query.places import Places, check_places

if TYPE_CHECKING:
    from clipsearch.engine.query.term_features import TermFeatures

Numbers = NDArray[np.float64]


def element_completeness(features: TermFeatures, field: str, terms: list[TermMatch], output: str) -> Numbers:
    """One output (n,) of elementCompleteness, of the element that scores best, the first of equals; "": completeness.

    Raises ``QueryError`` for a term whose positions are not known.
    """
    output = output or "completeness"
    share = features.number_property(f"elementCompleteness({field}).fieldCompletenessImportance", 0.5)
    searching = [term for term in terms if field in term.found]
    for term in searching:
        check_places(field, term)  # in whatever rows
    weighty = [term for term in searching if term.node.options.weight != 0]
    weights = np.array([term.node.options.weight for term in weighty], np.float64)
    present = np.zeros((len(weighty), len(features.rows)), np.bool_)
    for place, term in enumerate(weighty):
        found = features.query.frequencies(field, term, features.batch) > 0
        present[place] = found if term.scope is None else found & term.scope[features.rows]
    matched = present.sum(axis=0, dtype=np.float64)
    index = features.snapshot.generation.texts[field]
    lengths = index.lengths.view()[features.rows].astype(np.float64)
    best = _outputs(matched, weights @ present, weights.sum(), lengths, share)
    values: Numbers = np.where(best["completeness"] > 0, best.get(output, np.float64(1)), 0.0)
    simple = index.single(features.rows)
    if share == 0 and output in ("completeness", "queryCompleteness") and bool((weights > 0).all()):
        simple |= matched <= 1  # whichever element has the word, it is all that can be had
    else:
        simple |= matched == 0
    others = np.flatnonzero(~simple)
    if len(others):
        values[others] = _by_elements(features.of(features.rows[others]), field, weighty, output, share)
    return values


def _outputs(matched: Numbers, weight: Numbers, total: float, lengths: Numbers, share: float) -> dict[str, Numbers]:
    """The outputs for elements of ``lengths`` words, by how many terms each has and what these weigh of ``total``."""
    with np.errstate(all="ignore"):
        of_query = weight / total
        of_field = np.minimum(lengths, matched) / lengths
    score = np.where(matched > 0, of_field * share + of_query * (1 - share), 0.0)
    score[np.isnan(score)] = 0.0  # 0 / 0, of weights that cancel: to Vespa too such an element is no best one
    return {"completeness": score, "fieldCompleteness": of_field, "queryCompleteness": of_query}


def _by_elements(features: TermFeatures, field: str, terms: list[TermMatch], output: str, share: float) -> Numbers:
    places = Places(features, field)
    weighty = places.all(terms)
    matched, weight = np.zeros(len(places.lengths)), np.zeros(len(places.lengths))
    for hits in weighty:
        elements = places.element(hits.at)
        elements = elements[np.diff(elements, prepend=-1) > 0]  # ascending: each once
        matched[elements] += 1
        weight[elements] += hits.weight
    outputs = _outputs(matched, weight, sum(hits.weight for hits in weighty), places.lengths, share)
    score = outputs["completeness"]
    found = np.zeros(len(features.rows))
    np.maximum.at(found, places.element_owner, score)
    best = np.flatnonzero((score == found[places.element_owner]) & (score > 0))[::-1]
    if output in outputs:
        found[places.element_owner[best]] = outputs[output][best]  # the last that is written is the row's first best
        return found
    return (found > 0).astype(np.float64)
