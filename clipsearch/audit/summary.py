"""An audit in words and as plain data: what the terminal, ``--json`` and the page's tables are made from."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from clipsearch.audit.audit import Audit
from clipsearch.audit.leakage import Leak
from clipsearch.audit.twins import Twin, families
from clipsearch.records import SPLITS

KIND_WORDS = {
    "file": "the same file",
    "pixels": "the same pixels",
    "near": "nearly the same picture",
    "turned": "the same picture, turned",
    "embedding": "alike to the model",
}
_SHOWN = 5


def to_json(found: Audit) -> dict[str, Any]:
    """The whole audit as plain data; long lists (duplicates, leaks) as counts, with all of them in the report."""
    return {
        "corpora": list(found.names),
        "images": len(found.records),
        "seconds": round(found.seconds, 2),
        "warnings": found.warnings,
        "splits": split_table(found),
        "classes": {label: dict(splits) for label, splits in found.classes.items()},
        "left_out": [asdict(issue) for issue in found.issues],
        "broken": [
            {"id": found.records[position].id, "uri": found.records[position].uri, "reason": reason}
            for position in found.broken
            if (reason := found.pictures[position].error)
        ],
        "odd": {odd: len(positions) for odd, positions in odd_images(found).items()},
        "formats": dict(Counter(picture.format for picture in found.pictures if not picture.error).most_common()),
        "grey": sum(picture.grey for picture in found.pictures),
        "duplicates": duplicate_counts(found),
        "leakage": leak_counts(found),
        "embedded_by": found.embedded_by,
        "search_was_whole": found.whole,
        "captions": asdict(found.captions),
        "options": asdict(found.options),
    }


def summary_lines(found: Audit) -> list[str]:
    """The audit for a terminal: one fact a line, warnings last."""
    lines = [f"{' + '.join(found.names)}: {len(found.records):,} images, looked at in {found.seconds:.1f} s"]
    lines += [
        f"  {split}: {row['images']:,} images, {row['captions']:,} captions, {row['labelled']:,} with a label"
        for split, row in split_table(found).items()
    ]
    if found.classes:
        sizes = sorted((splits.total(), label) for label, splits in found.classes.items())
        lines.append(f"classes: {len(sizes)}, from {_size(sizes[0])} to {_size(sizes[-1])}")
    lines += _image_lines(found) + _caption_lines(found)
    for leak in [leak for leak in found.leaks if leak.sure][:_SHOWN]:
        lines.append(f"leak: {leak_words(found, leak)}")
    return [*lines, *(f"Warning: {warning}" for warning in found.warnings)]


def split_table(found: Audit) -> dict[str, dict[str, int]]:
    """Split -> images, captions, uncaptioned and labelled images, in the order train, validation, test."""
    table = {}
    for split in SPLITS:
        records = [record for record in found.records if record.split == split]
        if records:
            table[split] = {
                "images": len(records),
                "captions": sum(len(record.captions) for record in records),
                "uncaptioned": sum(not record.captions for record in records),
                "labelled": sum(bool(record.label) for record in records),
            }
    return table


def odd_images(found: Audit) -> dict[str, list[int]]:
    """What is odd -> positions of the images that are, the commonest first."""
    table: dict[str, list[int]] = {}
    for position, picture in enumerate(found.pictures):
        for odd in picture.odd:
            table.setdefault(odd, []).append(position)
    return dict(sorted(table.items(), key=lambda entry: (-len(entry[1]), entry[0])))


def duplicate_counts(found: Audit) -> dict[str, int]:
    """Kind -> pairs of that kind; ``groups`` and ``images``: connected groups, look-alikes apart, and their images."""
    pairs = Counter(twin.kind for twin in found.twins)
    groups = families(twin for twin in found.twins if twin.kind != "embedding")
    return {kind: pairs[kind] for kind in KIND_WORDS} | {"groups": len(groups), "images": sum(map(len, groups))}


def leak_counts(found: Audit) -> dict[str, dict[str, int]]:
    """``test in train`` -> kind -> held-out images whose closest twin there is of that kind."""
    table: dict[str, Counter[str]] = {}
    for leak in found.leaks:
        where = f"{found.records[leak.held].split} in {found.records[leak.source].split}"
        table.setdefault(where, Counter())[leak.twin.kind] += 1
    return {where: dict(kinds) for where, kinds in table.items()}


def leak_words(found: Audit, leak: Leak) -> str:
    """One leak as a sentence."""
    held, source = found.records[leak.held], found.records[leak.source]
    more = f", and {leak.others} more there" if leak.others else ""
    return f"{held.key} of {held.split} is {twin_words(leak.twin)} as {source.key} of {source.split}{more}"


def twin_words(twin: Twin) -> str:
    """How alike two images are: ``nearly the same picture (8 bits, .93)``."""
    words = KIND_WORDS[twin.kind] + (f": {twin.turn}" if twin.turn else "")
    if twin.kind in {"near", "turned"}:
        return f"{words} ({twin.distance} bits apart, details {twin.likeness:.2f})"
    return f"{words} (cosine {twin.likeness:.3f})" if twin.kind == "embedding" else words


def _size(entry: tuple[int, str]) -> str:
    return f"{entry[0]:,} images ({entry[1]})"


def _image_lines(found: Audit) -> list[str]:
    odd = ", ".join(f"{len(positions):,} {name}" for name, positions in odd_images(found).items()) or "none"
    counts = duplicate_counts(found)
    pairs = ", ".join(f"{counts[kind]:,} pairs of {words}" for kind, words in KIND_WORDS.items() if counts[kind])
    lines = [f"broken images: {len(found.broken):,}; odd images: {odd}", f"duplicates: {pairs or 'none'}"]
    for position in found.broken[:_SHOWN]:
        lines.append(f"  {found.records[position].uri}: {found.pictures[position].error}")
    for where, kinds in leak_counts(found).items():
        lines.append(f"leakage, {where}: " + ", ".join(f"{n:,} {KIND_WORDS[kind]}" for kind, n in kinds.items()))
    return lines


def _caption_lines(found: Audit) -> list[str]:
    words, lengths, languages = found.captions, found.captions.lengths, found.captions.languages
    if not words.total:
        return ["captions: none"]
    lines = [
        f"captions: {words.total:,}, {words.distinct:,} distinct, {words.distinct_normalised:,} without case and "
        "punctuation",
        f"lengths: mean {lengths.mean:.1f} tokens, 95 % up to {lengths.p95:.0f}, longest {lengths.longest}; "
        f"{lengths.cut:,} are over {lengths.limit} and would be cut (tokens: {lengths.counted_with})",
    ]
    splits = split_table(found)
    for split, images in words.sharing.items():
        share = images / splits[split]["images"]
        lines.append(f"  {images:,} {split} images ({share:.0%}) share a caption with another image")
    for where, (distinct, shared) in words.across.items():
        lines.append(f"  distinct captions of {where}: {shared:,} of {distinct:,} ({shared / distinct:.0%})")
    if languages.checked:
        not_english = f"{languages.other / languages.checked:.1%}"
        most = ", ".join(f"{count} {language}" for language, count in list(languages.by_language.items())[:_SHOWN])
        lines.append(
            f"languages: {languages.other:,} of {languages.checked:,} ({not_english}) are not English ({most or '-'})"
        )
    return [*lines, *([f"  {languages.note}"] if languages.note else [])]
