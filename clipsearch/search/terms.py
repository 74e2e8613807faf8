"""What a query vector is the sum of: words, indexed images and uploads, each with a weight.

The page and the measurement of its rankings (``clipsearch relevance``) both ask with what is made here, so that what is
measured is what was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.errors import InputError
from clipsearch.search.client import SearchClient
from clipsearch.search.encoders import QueryEncoder
from clipsearch.search.query import Vector

KINDS = ("text", "like", "img")
MOST_WEIGHT = 5.0
CANCELLED = 1e-6  # norm of a sum below which only rounding is left


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of a query vector: ``weight`` in [-5, 5] but 0, of a "text", a "like" (document id) or an "img".

    Its form in a URL is ``weight:kind:value``, as in ``with=-0.5:text:snow``.
    """

    weight: float
    kind: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Term:
        """Read ``weight:kind:value``; ``InputError`` names what makes no sense."""
        weight, _, rest = text.partition(":")
        kind, _, value = rest.partition(":")
        if kind not in KINDS or not value.strip():
            raise InputError(f"“{text[:40]}” makes no sense as with, which is like -0.5:text:snow or 1:like:ID")
        number = number_within("the weight of with", weight, -MOST_WEIGHT, MOST_WEIGHT)
        if not number:
            raise InputError(f"“{text[:40]}” makes no sense as with: its weight is 0")
        return cls(number, kind, value.strip())

    def __str__(self) -> str:
        return f"{repr(self.weight).removesuffix('.0')}:{self.kind}:{self.value}"


def terms_of(q: str, like: str, img: str, further: Sequence[Term]) -> tuple[Term, ...]:
    """All summands of a query: its words, its indexed image and its upload with weight 1, then the ``further`` ones."""
    own = [Term(1.0, kind, value) for kind, value in (("text", q), ("like", like), ("img", img)) if value]
    return (*own, *further)


def summed(terms: Sequence[Term], embedded: Callable[[Term], Vector]) -> Vector:
    """(D,) float32: the weighted sum of ``embedded(term)``, each (D,) of unit length, itself of unit length.

    Raises ``InputError`` for terms that cancel out.
    """
    total = np.sum([term.weight * embedded(term) for term in terms], axis=0)
    length = float(np.linalg.norm(total))
    if length < CANCELLED:
        raise InputError("the terms cancel out: there is nothing left to search for")
    return np.asarray(total / length, dtype=np.float32)


def embedded_term(term: Term, client: SearchClient, encoder: QueryEncoder | None) -> Vector:
    """(D,) float32 of unit length: a "text" by the model, a "like" as it is stored, of the same model's generation.

    Without an encoder, a "like" is of the generation that is active. Raises ``InputError`` for a document that is not
    there, for a text without an encoder, and for an "img": uploads are known to the page alone; ``CheckpointError``
    when the index holds nothing of the model.
    """
    if term.kind == "like":
        generation = client.generation_of(encoder.model.model_id) if encoder else client.active()
        vector = client.embedding(term.value, generation)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)
    if term.kind != "text" or encoder is None:
        raise InputError(f"the term {str(term)[:80]} needs {'a model' if term.kind == 'text' else 'its upload'}")
    return encoder.text(term.value)


def number_within(name: str, text: str, low: float, high: float) -> float:
    """``text`` as a number from ``low`` to ``high``; ``InputError`` says of what ``name`` it is none."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise InputError(f"“{text[:20]}” makes no sense as {name}, which goes from {low:g} to {high:g}")
    return value
