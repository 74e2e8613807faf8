"""YQL's operators over fields that the local engine refuses at deploy: predicates, positions, word alternatives.

They are parsed and checked, so that a query is refused for what it asks, not for its spelling. Sources: Vespa's
``PredicateQueryItem``, ``GeoLocationItem`` and ``Location``, ``WordAlternativesItem``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lark import Tree

from clipsearch.engine.query import tree as q
from clipsearch.engine.query.literals import constant
from clipsearch.errors import QueryError

Ast = Tree[Any]
_ALL_SUBQUERIES = (1 << 64) - 1
_POLAR_RADIUS = 6_356_752.0  # of the earth in m
_METRES = {"km": 1000.0, "m": 1.0, "miles": 1609.344}
_DEGREES = {unit: metres * 180.0 / (math.pi * _POLAR_RADIUS) for unit, metres in _METRES.items()}
_DEGREES |= {"deg": 1.0, "d": 1.0}


def predicate(arguments: Sequence[Ast], parameters: Mapping[str, str]) -> q.Node:
    """``predicate(field, {attribute: value}, {attribute: number})``; keys may name subqueries first."""
    if len(arguments) != 3:
        raise QueryError(f"predicate: Expected 3 arguments, got {len(arguments)}.")
    features = [f"{key}={value}{of}" for key, value, of in _features(arguments[1], parameters)]
    ranges = [f"{key}:{value}{of}" for key, value, of in _features(arguments[2], parameters)]
    return q.Foreign("predicate", f"PREDICATE_QUERY_ITEM {', '.join(features + ranges)}")


def _features(node: Ast, parameters: Mapping[str, str], of: str = "") -> Iterator[tuple[str, str, str]]:
    if node.data != "map":  # Vespa reads anything else as no features
        constant(node, parameters)
        return
    for pair in (child for child in node.children if child is not None):
        token: Any = pair.children[0]
        value: Any = pair.children[1]
        key = str(token)[1:-1] if token.type == "STRING" else str(token)
        if value.data == "map":
            yield from _features(value, parameters, _subqueries(key))
            continue
        found = constant(value, parameters)
        for each in found if isinstance(found, list) else [found]:
            yield key, str(each), of


def _subqueries(key: str) -> str:
    """``0x3`` or ``[0, 1]`` as Vespa prints it."""
    if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", key):
        bits = int(key, 16)
    elif re.fullmatch(r"0x[0-9a-fA-F]+", key):
        raise QueryError(f"Too long subquery string: {key}")
    elif re.fullmatch(r"\[\s*\d+(\s*,\s*\d+)*\s*\]", key):
        bits = sum(1 << number for number in {int(text) for text in re.findall(r"\d+", key)} if number < 64)
    else:
        raise QueryError(f"predicate: '{key}' is not a subquery bitmap such as 0x3 or [0,1]")
    return "" if bits == _ALL_SUBQUERIES else f"[0x{bits:x}]"


def geo_location(arguments: Sequence[Ast], parameters: Mapping[str, str]) -> q.Node:
    """``geoLocation(field, latitude, longitude, "10 km")``."""
    if len(arguments) != 4:
        raise QueryError(f"geoLocation: Expected 4 arguments, got {len(arguments)}.")
    name, *rest = (constant(argument, parameters) for argument in arguments)
    sides = [_degrees(str(text), sides) for text, sides in zip(rest, ("NS", "EW"), strict=False)]
    if sides[0][0] == sides[1][0]:
        shown = [f"{'Latitude' if is_north else 'Longitude'}: {degrees} degrees" for is_north, degrees in sides]
        raise QueryError(f"Invalid geoLocation coordinates '{shown[0]}' and '{shown[1]}'")
    latitude, longitude = (degrees for _, degrees in sorted(sides, reverse=True))
    found = re.fullmatch(r"\s*(-?[\d.]+(?:[eE][-+]?\d+)?)\s*([a-z]+)\s*", str(rest[2]))
    if found is None or found[2] not in _DEGREES:
        raise QueryError(f"geoLocation: '{rest[2]}' is not a radius such as '10 km' or '0.5 deg'")
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise QueryError("geoLocation: expected a latitude in -90 to 90 and a longitude in -180 to 180")
    degrees = float(found[1]) * _DEGREES[found[2]]
    if not math.isfinite(degrees * 1e6):
        raise QueryError(f"geoLocation: the radius '{rest[2]}' is not a finite number")
    radius = -1 if degrees < 0 else int(degrees * 1e6)
    aspect = int(math.cos(math.radians(latitude)) * (2**32 - 1))
    place = f"{round(longitude * 1e6)},{round(latitude * 1e6)}"
    return q.Foreign("geoLocation", f"GEO_LOCATION {name}:(2,{place},{radius},0,1,0,{aspect})")


def geo_bounding_box(arguments: Sequence[Ast], parameters: Mapping[str, str]) -> q.Node:
    """``geoBoundingBox(field, south, west, north, east)``."""
    if len(arguments) != 5:
        raise QueryError(f"Expected 5 arguments, got {len(arguments)}.")
    name, *rest = (constant(argument, parameters) for argument in arguments)
    south, west, north, east = (
        _degrees(str(text), sides)[1] for text, sides in zip(rest, ("NS", "EW", "NS", "EW"), strict=True)
    )
    if not (-90 <= min(south, north) <= max(south, north) <= 90 and -180 <= min(west, east) <= max(west, east) <= 180):
        raise QueryError("geoBoundingBox: expected latitudes in -90 to 90 and longitudes in -180 to 180")
    box = ",".join(str(round(degrees * 1e6)) for degrees in (west, south, east, north))
    return q.Foreign("geoBoundingBox", f"GEO_LOCATION {name}:[2,{box}]")


def _degrees(text: str, sides: str) -> tuple[bool, float]:
    """Whether ``text`` is a latitude, and its degrees; a number alone is one of ``sides``."""
    found = re.fullmatch(r"\s*([NSEWnsew]?)\s*(-?\d+(?:\.\d*)?)\s*([NSEWnsew]?)\s*", text)
    if found is None or (found[1] and found[3]):
        raise QueryError(f"geoLocation: the coordinate '{text}' is not supported by the local engine: use degrees")
    side = (found[1] or found[3]).upper()
    return (side or sides[0]) in "NS", float(found[2]) * (-1 if side and side in "SW" else 1)


def word_alternatives(name: str, arguments: Sequence[Ast], parameters: Mapping[str, str]) -> q.Node:
    """``field contains alternatives({"trees": 1.0, "tree": 0.7})``."""
    words = constant(arguments[0], parameters) if len(arguments) == 1 else None
    if not isinstance(words, dict):
        raise QueryError("alternatives: expected a map of words to their exactness")
    inside = " ".join(f"{word}({float(exactness)})" for word, exactness in sorted(words.items()))
    return q.Foreign("alternatives", f"WORD_ALTERNATIVES {name}:[ {inside} ]")
