"""How alike two rankings are, whose members need not be the same."""

from __future__ import annotations

from collections.abc import Sequence


def rank_biased_overlap(first: Sequence[str], second: Sequence[str], p: float = 0.9) -> float:
    """Rank-biased overlap of two lists of distinct items, in [0, 1]: 1 for equal lists, 0 for lists without a common
    item; ``p`` in (0, 1) says how far down it looks (with 0.9, the first ten ranks weigh 86 %).

    What the lists would share beyond their ends is taken to be what they share at the end: RBO_EXT for lists of uneven
    length, equation 32 of Webber, Moffat and Zobel, "A Similarity Measure for Indefinite Rankings" (TOIS 2010).
    Two empty lists are alike; an empty one is like no other.
    """
    short, long = sorted((first, second), key=len)
    if not short:
        return float(not long)
    s, ends = len(short), len(long)
    common, total = [0], 0.0
    seen_short, seen_long = set[str](), set[str]()
    for depth in range(1, ends + 1):
        item = long[depth - 1]
        seen_long.add(item)
        if depth <= s:
            seen_short.add(short[depth - 1])
            both = common[-1] + (item in seen_short)
            both += short[depth - 1] in seen_long and short[depth - 1] != item
        else:
            both = common[-1] + (item in seen_short)
        common.append(both)
        total += both / depth * p**depth
        if depth > s:
            total += common[s] * (depth - s) / (s * depth) * p**depth
    return (1 - p) / p * total + ((common[ends] - common[s]) / ends + common[s] / s) * p**ends
