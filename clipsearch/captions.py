"""Caption cleaning: what every corpus does to its captions before anybody sees them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_DETACHED_STOP = re.compile(r"(?:\s+\.)+$")
_BETWEEN_WORDS = re.compile(r"[\W_]+")
# Vespa refuses these code points in text fields (com.yahoo.text.Text.isTextCharacter): control characters
# other than white space, surrogates, and the non-characters.
_NOT_TEXT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr((plane << 16) | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)


def vespa_text(text: str) -> str:
    """``text`` with a space for each code point that Vespa refuses in a string field."""
    return _NOT_TEXT.sub(" ", text)


def clean_caption(text: str) -> str:
    """Return ``text`` in Unicode form NFC, on one line, single-spaced, without a detached final stop.

    RSICD writes ``"many planes are parked ."``; the stop is a token of its annotation, not of the sentence.
    A stop that is glued to its word stays, as captions of several sentences need it. May return "".
    """
    text = vespa_text(unicodedata.normalize("NFC", text))
    text = " ".join(text.split())
    return "" if text == "." else _DETACHED_STOP.sub("", text)


def clean_captions(texts: Iterable[str]) -> tuple[str, ...]:
    """Clean each caption and drop the empty ones; repeated captions stay, as benchmarks count them."""
    return tuple(caption for caption in map(clean_caption, texts) if caption)


def normalise_caption(text: str) -> str:
    """What makes two captions the same sentence: small letters in Unicode form NFKC, words and digits only.

    ``"Many planes are parked ."`` and ``"many planes are parked"`` become one; so do back-translations that change
    case and punctuation only. May return "".
    """
    return " ".join(_BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split())
