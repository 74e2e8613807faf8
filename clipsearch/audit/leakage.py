"""Images of a held-out split that have a twin in a split that was trained or selected on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from clipsearch.audit.pictures import Picture
from clipsearch.audit.twins import Twin
from clipsearch.records import SPLITS, Record

_KINDS = ("file", "pixels", "near", "turned", "embedding")  # the surest first


@dataclass(frozen=True, slots=True)
class Leak:
    """The image at position ``held`` (of test or validation) has its twin ``source`` in an earlier split.

    ``twin`` says how alike they are; ``others``: further twins that it has in that split.
    """

    held: int
    source: int
    twin: Twin
    others: int = 0

    @property
    def sure(self) -> bool:
        """Whether the pictures themselves were compared, not only what a model makes of them."""
        return self.twin.kind != "embedding"


def find_leaks(
    records: Sequence[Record], pictures: Sequence[Picture], groups: Iterable[Sequence[int]], twins: Iterable[Twin]
) -> list[Leak]:
    """For each held-out image and each earlier split its closest twin there; test before validation, surest first.

    ``groups``: images with equal pixels; ``twins``: pairs of near ones, where the first image of a group stands for
    all of it.
    """
    found: dict[tuple[int, str], list[Leak]] = defaultdict(list)
    members = {}
    for group in groups:
        members[group[0]] = list(group)
        for leak in _between(records, group, group, Twin(group[0], group[0], "pixels")):
            found[leak.held, records[leak.source].split].append(_exact(leak, pictures))
    for twin in twins:
        left, right = members.get(twin.left, [twin.left]), members.get(twin.right, [twin.right])
        for leak in (*_between(records, left, right, twin), *_between(records, right, left, twin)):
            found[leak.held, records[leak.source].split].append(leak)
    leaks = [
        replace(min(several, key=_order), others=sum(leak.others + 1 for leak in several) - 1)
        for several in found.values()
    ]
    return sorted(leaks, key=lambda leak: (-SPLITS.index(records[leak.held].split), _order(leak)))


def _between(records: Sequence[Record], held: Sequence[int], sources: Sequence[int], twin: Twin) -> Iterator[Leak]:
    """Each image of ``held`` with the first image of each earlier split among ``sources``."""
    by_split: dict[str, list[int]] = defaultdict(list)
    for position in sources:
        by_split[records[position].split].append(position)
    for position in held:
        for split, there in by_split.items():
            if SPLITS.index(split) < SPLITS.index(records[position].split):
                yield Leak(position, there[0], twin, len(there) - 1)


def _exact(leak: Leak, pictures: Sequence[Picture]) -> Leak:
    same = pictures[leak.held].data_hash == pictures[leak.source].data_hash
    return replace(leak, twin=Twin(leak.held, leak.source, "file" if same else "pixels"))


def _order(leak: Leak) -> tuple[int, float, int, int]:
    return _KINDS.index(leak.twin.kind), -leak.twin.likeness, leak.held, leak.source
