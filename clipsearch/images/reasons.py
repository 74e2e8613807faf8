"""What is wrong with a file that is no picture, in words for a person."""

from __future__ import annotations


def unidentified(data: bytes) -> str:
    """What a file is that no reader knows."""
    start = data[:256].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "this is a web page, not an image (a failed download?)"
    if start.startswith((b"<svg", b"<?xml")):
        return "this is XML or SVG, not a pixel image"
    if start.startswith((b"%pdf", b"%!ps")):
        return "this is a PDF or PostScript document, not an image"
    if start.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the image; run `git lfs pull`"
    if start.startswith((b"pk\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf")):
        return "this is an archive, not an image"
    if data[4:12] in {b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"}:
        return "this is an HEIC picture, which is not supported; convert it to JPEG"
    if not any(data[:64]):
        return "the file contains only zero bytes"
    return "not a known image format, or its header is damaged"


def damaged(error: Exception) -> str:
    """What a decoder's error means."""
    text = (str(error).strip().splitlines() or [""])[0]
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "the file is truncated: it ends before the picture does"
    if isinstance(error, MemoryError):
        return "the picture does not fit in memory"
    return f"the file is damaged: {text or type(error).__name__}"
