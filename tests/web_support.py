"""What the tests of the search page share: a stand-in model and index, and a reader of pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any

import numpy as np
from fake_vespa import DIM, FakeVespa, serve_fake, unit

TANKS = sum(map(ord, "storage tanks")) % 1000  # the stand-in model's seed for this text
HOSTILE = "<script>alert(1)</script>\"' onerror=x"


class Model:
    """Texts and images to fixed unit vectors."""

    model_id, dim = "stand-in", DIM

    def __init__(self, name: str = "") -> None:
        self.model_id = name or self.model_id

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.stack([unit(sum(map(ord, text)) % 1000) for text in texts])

    def embed_images(self, images: list[np.ndarray]) -> np.ndarray:
        return np.stack([unit(int(image.mean())) for image in images])


class Elements(HTMLParser):
    """Every element of a page, with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str, css_class: str = "") -> list[dict[str, str | None]]:
        return [a for name, a in self.found if name == tag and css_class in ["", *(a.get("class") or "").split()]]


@contextmanager
def small_index() -> Iterator[FakeVespa]:
    """An endpoint with 32 images, one of them in another corpus and one with a hostile caption."""
    with serve_fake() as server:
        for number in range(30):
            server.add(f"bridge_{number}.jpg", ["a river with a bridge", "a bridge"], number, label="bridge")
        server.add("tanks.jpg", ["storage tanks"], TANKS, corpus="other", label="tanks", content_hash="ab" * 32)
        server.add("bad.jpg", [HOSTILE], 78, label=HOSTILE, image_uri="../../etc/passwd")
        yield server


def asked(fake: FakeVespa) -> dict[str, Any]:
    """The last request for the hits of a page: beside it go requests for facets, ranks and single documents."""
    return next(
        query for query in reversed(fake.queries) if query["hits"] >= 24 and query["presentation.summary"] != "id"
    )


def hits_of(text: str) -> list[str]:
    """Ranks of the cards of a page."""
    return [str(a["id"]).removeprefix("hit-") for a in Elements(text).all("li", "card")]
