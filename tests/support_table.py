"""ARCHITECTURE.md's tables of what is supported and what is refused, and the probes of each of their rows."""

from __future__ import annotations

import re
from pathlib import Path

import support_documents as documents
import support_packages as packages
import support_queries as queries
import support_ranking as ranking
from support_world import Probes

FILE = Path(__file__).resolve().parent.parent / "ARCHITECTURE.md"
HEADER = "| area | supported | refused by name |"
AREAS: dict[str, tuple[Probes, Probes]] = {
    "schemas": packages.SCHEMAS,
    "field types": packages.TYPES,
    "field settings": packages.SETTINGS,
    "indexing statements": packages.INDEXING,
    "rank profiles": packages.PROFILES,
    "services.xml and components": packages.SERVICE_ELEMENTS,
    "embedders": documents.EMBEDDERS,
    "query profiles": packages.QUERY_PROFILES,
    "YQL clauses": queries.CLAUSES,
    "YQL operators": queries.OPERATORS,
    "YQL annotations": queries.ANNOTATIONS,
    "user-query grammars": queries.GRAMMARS,
    "request parameters": queries.PARAMETERS,
    "sorting": queries.SORTING,
    "grouping": queries.GROUPING,
    "grouping functions": queries.GROUPING_FUNCTIONS,
    "rank features": ranking.FEATURES,
    "expression operators": ranking.OPERATORS,
    "expression functions": ranking.FUNCTIONS,
    "global-phase functions": ranking.NORMALIZERS,
    "document/v1 operations": documents.OPERATIONS,
    "document updates": documents.UPDATES,
    "visit parameters": documents.VISITS,
    "document selections": documents.SELECTIONS,
    "container paths": documents.PAGES,
    "deploy paths": documents.DEPLOYS,
}


def read_tables() -> dict[str, tuple[list[str], list[str]]]:
    """Every row of the document's tables: area to the items of its two columns, in order."""
    rows: dict[str, tuple[list[str], list[str]]] = {}
    inside = False
    for line in FILE.read_text(encoding="utf-8").splitlines():
        inside = line == HEADER or (inside and line.startswith("|"))
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not inside or line == HEADER or set(line) <= set("|-: "):
            continue
        area, supported, refused = cells
        assert area not in rows, f"'{area}' has two rows"
        rows[area] = items(supported), items(refused)
    return rows


def items(cell: str) -> list[str]:
    """What stands in backticks in a cell; nothing else but commas may."""
    found = re.findall(r"`([^`]+)`", cell)
    rest = re.sub(r"`[^`]+`", "", cell)
    assert set(rest) <= set(", "), f"'{rest}' stands outside of backticks"
    return [item.replace("\\|", "|") for item in found]


def written(area: str) -> str:
    """The row of ``area`` as it should stand in the document."""
    cells = [", ".join(f"`{item}`" for item in column).replace("|", "\\|") for column in AREAS[area]]
    return f"| {area} | {cells[0]} | {cells[1]} |"
