"""What a page shows is what its URL says: the state of the page, parsed from a URL and written back to one."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import quote_plus, urlencode

from starlette.datastructures import QueryParams

from clipsearch.errors import InputError
from clipsearch.search import PROFILES, Filters
from clipsearch.search.endpoint import parse_id
from clipsearch.search.query import SIZES, SORTS
from clipsearch.search.terms import Term, number_within

PER_PAGE = 24
LAST_PAGE = 40  # 24 * 40 hits stay below Vespa's default maxOffset of 1000
_GAP = secrets.token_hex(8)  # stands for what differs; nobody can have typed it
VIEWS = ("", "list")
MOST_TERMS = 12
_TEXTS = ("q", "corpus", "label", "split", "size", "sort", "like", "img", "model")
_SWITCHES = ("parts", "dups", "judge")


@dataclass(frozen=True, slots=True)
class PageState:
    """One query and how to rank it.

    ``like`` is a document id and ``img`` the token of an upload: with ``q`` and ``terms`` they add up to one query
    vector. ``model``: a model id, "" for the first. ``parts``: search parts of images. ``dups``: show near-duplicates
    one by one. ``view``: "" for tiles, "list" for rows with more figures. ``judge``: hits can be judged.
    """

    q: str = ""
    ranking: str = ""
    alpha: float = 0.5
    corpus: str = ""
    label: str = ""
    split: str = ""
    size: str = ""
    sort: str = ""
    like: str = ""
    img: str = ""
    terms: tuple[Term, ...] = ()
    model: str = ""
    parts: bool = False
    dups: bool = False
    view: str = ""
    judge: bool = False
    page: int = 1

    @classmethod
    def parse(cls, params: Mapping[str, str]) -> PageState:
        """Read the state off query parameters; ``InputError`` names a value that makes no sense.

        Unknown parameters are ignored, so that a link with tracking parameters still works. ``add`` and ``weight``,
        which a small form sends, become a further term.
        """
        given = params if isinstance(params, QueryParams) else QueryParams(list(params.items()))
        texts: dict[str, Any] = {name: given.get(name, "") for name in _TEXTS}
        texts["q"] = texts["q"].strip()  # a filter compares whole values, so that nothing may be cut off the others
        switches: dict[str, Any] = {name: given.get(name, "") not in ("", "0") for name in _SWITCHES}
        ranking = one_of("ranking", given.get("ranking", ""), ("", *PROFILES))
        alpha = number_within("alpha", given.get("alpha") or "0.5", 0, 1)
        page = number_within("page", given.get("page") or "1", 1, LAST_PAGE)
        terms = [Term.parse(text) for text in given.getlist("with")]
        if added := given.get("add", "").strip():
            terms.append(Term.parse(f"{given.get('weight') or 1}:text:{added}"))
        if len(terms) > MOST_TERMS:
            raise InputError(f"{len(terms)} terms are added up: at most {MOST_TERMS} can be")
        for document_id in (texts["like"], *(term.value for term in terms if term.kind == "like")):
            if document_id:
                parse_id(document_id)
        one_of("size", texts["size"], ("", *SIZES))
        one_of("sort", texts["sort"], tuple(SORTS))
        view = one_of("view", given.get("view", ""), VIEWS)
        return cls(
            **texts, **switches, ranking=ranking, alpha=alpha, page=int(page), terms=tuple(terms), view=view
        )  # fmt: skip

    @property
    def filters(self) -> Filters:
        """The filters that are set."""
        return Filters(self.corpus, self.label, self.split, self.size)

    @property
    def offset(self) -> int:
        """Hits before this page."""
        return (self.page - 1) * PER_PAGE

    @property
    def by_image(self) -> bool:
        """Whether the query is an image, alone or with words."""
        return bool(self.like or self.img)

    @property
    def asks(self) -> bool:
        """Whether anything is searched for; without, the page shows what the index holds."""
        return bool(self.q or self.like or self.img or self.terms)

    def plus(self, weight: float, document_id: str) -> str:
        """The query string with an image added, or subtracted by a ``weight`` below 0, in place of what was."""
        others = tuple(term for term in self.terms if term.value != document_id)
        return self.query_string(terms=(*others, Term(weight, "like", document_id))[-MOST_TERMS:])

    def without(self, term: Term) -> str:
        """The query string without ``term``."""
        return self.query_string(terms=tuple(other for other in self.terms if other != term))

    def query_pairs(self, **changes: Any) -> list[tuple[str, str]]:
        """The state with ``changes`` as the parameters of a URL, or the hidden fields of a form.

        What has its default is left out; a change of anything but the page goes back to page one.
        """
        if "page" not in changes:
            changes["page"] = 1
        state = replace(self, **changes)
        pairs: list[tuple[str, str]] = []
        for field in fields(state):
            value = getattr(state, field.name)
            if value == field.default or (field.name == "alpha" and state.ranking != "hybrid_linear"):
                continue
            if field.name == "terms":
                pairs += [("with", str(term)) for term in value]
            else:
                pairs.append((field.name, f"{int(value) if isinstance(value, bool) else value}"))
        return pairs

    def query_string(self, **changes: Any) -> str:
        """The state with ``changes``, as ``?q=river&ranking=hybrid``, "" when nothing is set."""
        pairs = self.query_pairs(**changes)
        return "?" + urlencode(pairs) if pairs else ""


class CardLinks:
    """The links of cards and facets: they differ in one value only, so the rest of the URL is written once."""

    def __init__(self, state: PageState) -> None:
        self.state = state
        self._known = {term.value for term in state.terms}
        self._patterns: dict[tuple[str, float], str] = {}

    def similar(self, document_id: str) -> str:
        """Images like this one."""
        alone = {"q": "", "img": "", "terms": (), "sort": "", "parts": False}
        return self._filled("like", 0, document_id, lambda: self.state.query_string(like=_GAP, **alone))

    def plus(self, weight: float, document_id: str) -> str:
        """The query with this image added, or subtracted by a ``weight`` below 0."""
        if document_id in self._known:
            return self.state.plus(weight, document_id)
        return self._filled("plus", weight, document_id, lambda: self.state.plus(weight, _GAP))

    def choose(self, name: str, value: str) -> str:
        """Only images with this value of a filter, "" for any."""
        if not value:
            return self.state.query_string(**{name: ""})
        return self._filled(name, 0, value, lambda: self.state.query_string(**{name: _GAP}))

    def _filled(self, kind: str, number: float, value: str, write: Callable[[], str]) -> str:
        pattern = self._patterns.get((kind, number))
        if pattern is None:
            pattern = self._patterns[kind, number] = write()
        return quote_plus(value).join(pattern.rsplit(_GAP, 1))


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """``value`` when it is allowed; ``InputError`` names the parameter and the choices."""
    if value not in allowed:
        choices = ", ".join(choice for choice in allowed if choice)
        raise InputError(f"there is no {name} {value[:40]!r}: choose one of {choices}")
    return value
