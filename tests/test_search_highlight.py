"""Which words of a caption are marked: the same as the index finds, and never a cut through what people read as one."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.engine.index import linguistics
from clipsearch.search.highlight import best_caption, query_terms, segments, terms


def marked(caption: str, query: str) -> list[str]:
    return [text for text, found in segments(caption, query) if found]


def test_words_are_marked_when_their_stems_are_equal() -> None:
    assert marked("Many bridges cross two Rivers, and a bridged river.", "river bridge") == [
        "bridges", "Rivers", "bridged", "river",
    ]  # fmt: skip
    assert segments("a river", "sea") == (("a river", False),)
    assert segments("river", "rivers") == (("river", True),)


def test_parts_of_words_are_not_marked() -> None:
    assert marked("carport near a port", "port") == ["port"]


@pytest.mark.parametrize(
    "caption", ["", " ", "no match", "a<b>river</b>&amp;\"'", "שלום river עולם", "river\u202erevir"]
)
def test_the_segments_joined_are_the_caption(caption: str) -> None:
    assert "".join(text for text, _ in segments(caption, "river b")) == caption


def test_markup_and_direction_marks_stay_outside_of_what_is_marked() -> None:
    assert segments("<b>river</b>", "river") == (("<b>", False), ("river", True), ("</b>", False))
    assert marked("نهر طويل river \u2067נהר\u2069", "river נהר") == ["river", "נהר"]


@pytest.mark.parametrize(
    ("caption", "query", "expected"),
    [
        ("cafe\u0301 noir", "cafe", ["cafe\u0301"]),
        ("café noir", "CAFÉ", ["café"]),
        ("thumbs 👍🏽 up", "👍", ["👍🏽"]),
        ("a 👩‍🌾 there", "👩", ["👩‍🌾"]),
        ("I ❤️ it", "❤", ["❤️"]),
        ("flags 🇩🇪🇫🇷", "🇫🇷", ["🇫🇷"]),
        ("a 1️⃣ here", "1️⃣", ["1️⃣"]),
        ("river-bank", "bank", ["bank"]),
        ("Ⅻ tanks ½", "½", ["½"]),
    ],
)
def test_what_is_read_as_one_character_is_marked_as_one(caption: str, query: str, expected: list[str]) -> None:
    assert marked(caption, query) == expected


@pytest.mark.parametrize("caption", ["🇩🇪" * 1500, "🇩" * 3001, "👩\u200d" * 3000, "a" + "\u0301" * 5000, "👍🏽" * 2000])
def test_a_hostile_caption_takes_no_longer_than_any_other(caption: str) -> None:
    start = time.thread_time()
    assert "".join(text for text, _ in segments(caption, f"{caption[:2]} 🇪 👩")) == caption
    assert time.thread_time() - start < 0.3


def test_words_that_the_query_excludes_are_not_marked() -> None:
    assert query_terms('river -bridge -"big boat" well-known') == {"river", "well", "known"}
    assert marked("a river with a bridge", "river -bridge") == ["river"]


def test_the_best_caption_holds_most_of_the_query() -> None:
    captions = ["many trees", "a bridge over a river", "a river", "river bridge"]
    assert best_caption(captions, "bridges over rivers") == 1
    assert best_caption(captions, "river bridge") == 1, "the first of equals"
    assert best_caption(captions, "the unknown") == 0
    assert best_caption([], "river") == 0
    assert best_caption(captions, "") == 0
    assert best_caption(["a of the", "stadium of"], "a of the stadium") == 0
    assert best_caption(["of", "stadium"], "of stadium") == 1, "a long word says more than a short one"


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40), st.text(max_size=20))
def test_any_text_is_cut_as_the_index_cuts_it_and_comes_back_whole(caption: str, query: str) -> None:
    cut = segments(caption, query)
    assert "".join(text for text, _ in cut) == caption
    assert terms(caption) == [term for term in linguistics.terms(caption) if term]
    assert all(text for text, _ in cut) or caption == ""
    assert all(one[1] != other[1] or one[1] for one, other in itertools.pairwise(cut)), "plain texts are joined"


def test_all_words_of_rsicd_have_the_stems_that_the_engine_gives_them(shared: Path) -> None:
    data = json.loads((shared / "data" / "rsicd" / "dataset_rsicd.json").read_bytes())
    captions = {sentence["raw"] for image in data["images"] for sentence in image["sentences"]}
    words = sorted({word for caption in captions for word in caption.split()})
    assert len(words) > 2000
    assert [terms(word) for word in words] == [linguistics.terms(word) for word in words]
    for caption in sorted(captions)[:200]:
        assert all(found for text, found in segments(caption, caption) if linguistics.terms(text))
