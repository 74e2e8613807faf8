"""Trees of user queries, put together and simplified as Vespa's parsers do.

The rules of ``combine_any`` and ``combine_all`` look arbitrary, and are Vespa's: they decide which items of a query
that mixes plain, ``+``, ``-`` and grouped items only rank. Sources: Vespa's ``AnyParser``, ``AllParser`` and
``QueryCanonicalizer``.
"""

from __future__ import annotations

from dataclasses import replace

from clipsearch.engine.query import tree as q


def add_positive(node: q.Not, item: q.Node) -> None:
    """Makes ``item`` another of the items that must match in ``node``."""
    if node.positive is None:
        node.positive = item
    elif type(node.positive) is q.And:
        node.positive.items.append(item)
    else:
        node.positive = q.And([node.positive, item])


def without_not(top: q.Node, negated: q.Not) -> q.Node:
    """``top`` without ``negated``, as an item that must match: alternatives of what only ranked before."""
    if not isinstance(top, q.Composite):
        return top
    top.items = [item for item in top.items if item is not negated]
    if not isinstance(top, q.Rank):
        return top
    return top.items[0] if len(top.items) == 1 else q.Or(top.items)


def _ranked(top: q.Node, item: q.Node) -> q.Node:
    """``top`` and ``item`` under one rank item, that which decides first."""
    if not isinstance(top, q.Rank):
        return q.Rank([top, item] if isinstance(top, q.Not) else [item, top])
    if isinstance(item, q.Rank) and isinstance(item.items[0], q.Or):
        alternatives = item.items[0]
        for other in item.items[1:]:
            alternatives.items.insert(0, other)
        item = alternatives
    top.items.insert(0, item)
    return top


def combine_any(top: q.Node | None, item: q.Node) -> q.Node:
    """``top`` and ``item`` in the grammar ``any``."""
    if top is None:
        return item
    if isinstance(top, q.Or) and isinstance(item, q.Or):
        return q.Or([top, item])
    return _ranked(top, item)


def combine_all(top: q.Node | None, item: q.Node) -> q.Node:
    """``top`` and ``item`` inside parentheses of the grammars ``all``, ``weakAnd`` and ``web``."""
    if top is None:
        return item
    if isinstance(item, q.Or):
        if isinstance(top, (q.Or, q.Phrase)):
            return q.Or([top, item])
        if isinstance(top, q.Rank):
            for other in top.items:
                item.items.insert(0, other)
            return item
    return _ranked(top, item)


def simplified(node: q.Node) -> q.Node | None:
    """``node`` without composites of one item or none, and without equal composites in one another."""
    if isinstance(node, q.Not):
        node.positive = None if node.positive is None else simplified(node.positive)
        node.negatives = [item for item in map(simplified, node.negatives) if item is not None]
        if isinstance(node.positive, q.Not):
            inner = node.positive
            node.positive, node.negatives = inner.positive, inner.negatives + node.negatives
        return node if node.negatives else node.positive
    if not isinstance(node, q.Composite):
        return node
    node.items = [item for item in map(simplified, node.items) if item is not None]
    if isinstance(node, q.Rank) or type(node) in (q.And, q.Or, q.WeakAnd):
        node.items = _levelled(node)
    if not node.items:
        return None
    return node.items[0] if len(node.items) == 1 and not isinstance(node, q.WeakAnd) else node


def _levelled(node: q.Composite) -> list[q.Node]:
    """The items of ``node`` with those of items of its own kind in their place; of rank only the first is one."""
    found: list[q.Node] = []
    for place, item in enumerate(node.items):
        same = type(item) is type(node) and (place == 0 or not isinstance(node, q.Rank))
        if same and isinstance(item, q.WeakAnd) and isinstance(node, q.WeakAnd):
            same = item.target_hits == node.target_hits
        found += item.parts() if same else [item]
    return found


def as_filter(node: q.Node) -> q.Node:
    """``node`` with all its terms marked as filters, which match and do not rank."""
    for part in node.walk():
        if isinstance(part, q.Term):
            part.options = replace(part.options, filter=True, ranked=False)
    return node


def add_filter(root: q.Node, item: q.Node, sign: str) -> q.Node:
    """``root`` that also must match ``item`` (sign "+"), must not ("-"), or ranks by it ("")."""
    first = root.items[0] if isinstance(root, q.Rank) else None
    if not sign:
        return q.Rank([root, item]) if not isinstance(root, q.Rank) else _appended(root, item)
    if sign == "+":
        if type(root) is q.And:
            return _appended(root, item)
        if type(first) is q.And:
            first.items.append(item)
            return root
        if isinstance(first, q.Not):
            add_positive(first, item)
            return root
        return q.And([root, item])
    if isinstance(root, q.Not):
        root.negatives.append(item)
        return root
    if isinstance(first, q.Not):
        first.negatives.append(item)
        return root
    if isinstance(root, q.Rank) and first is not None:
        root.items[0] = q.Not(first, [item])
        return root.items[0] if len(root.items) == 1 else root
    return q.Not(root, [item])


def _appended(node: q.Composite, item: q.Node) -> q.Node:
    node.items.append(item)
    return node
