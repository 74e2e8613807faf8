"""What a page shows is what its URL says: the state of the page, parsed from a URL and written back to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlencode

from clipsearch.errors import InputError
from clipsearch.search import PROFILES, Filters

PER_PAGE = 24
LAST_PAGE = 40  # 24 * 40 hits stay below Vespa's default maxOffset of 1000


@dataclass(frozen=True, slots=True)
class PageState:
    """One query and how to rank it. ``like`` is a document id, ``img`` the token of an upload; both go before ``q``."""

    q: str = ""
    ranking: str = ""
    alpha: float = 0.5
    corpus: str = ""
    label: str = ""
    split: str = ""
    like: str = ""
    img: str = ""
    page: int = 1

    @classmethod
    def parse(cls, params: Mapping[str, str]) -> PageState:
        """Read the state off query parameters; ``InputError`` names a value that makes no sense.

        Unknown parameters are ignored, so that a link with tracking parameters still works.
        """
        ranking = params.get("ranking", "")
        if ranking and ranking not in PROFILES:
            raise InputError(f"there is no ranking {ranking!r}: choose one of {', '.join(PROFILES)}")
        texts = {name: params.get(name, "").strip() for name in ("q", "corpus", "label", "split", "like", "img")}
        alpha = _number("alpha", params.get("alpha") or "0.5", 0, 1)
        page = _number("page", params.get("page") or "1", 1, LAST_PAGE)
        return cls(**texts, ranking=ranking, alpha=alpha, page=int(page))

    @property
    def filters(self) -> Filters:
        """The filters that are set."""
        return Filters(self.corpus, self.label, self.split)

    @property
    def offset(self) -> int:
        """Hits before this page."""
        return (self.page - 1) * PER_PAGE

    @property
    def by_image(self) -> bool:
        """Whether the query is an image."""
        return bool(self.like or self.img)

    def query_string(self, **changes: Any) -> str:
        """The state with ``changes``, as ``?q=river&ranking=hybrid``, "" when nothing is set.

        What has its default is left out; a change of anything but the page goes back to page one.
        """
        if "page" not in changes:
            changes["page"] = 1
        state = replace(self, **changes)
        default = asdict(PageState())
        if state.ranking != "hybrid_linear":
            default["alpha"] = state.alpha
        pairs = {name: value for name, value in asdict(state).items() if value != default[name]}
        return "?" + urlencode(pairs) if pairs else ""


def _number(name: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise InputError(f"“{text[:20]}” makes no sense as {name}, which goes from {low} to {high}")
    return value
