"""Looking at a corpus before training on it: broken and odd images, duplicates, leakage between splits, captions.

``audit`` finds, ``summary_lines`` says it on a terminal, ``write_report`` writes the page and the lists.
"""

from __future__ import annotations

from clipsearch.audit.audit import Audit, AuditOptions, audit
from clipsearch.audit.report import write_report
from clipsearch.audit.summary import summary_lines, to_json

__all__ = ["Audit", "AuditOptions", "audit", "summary_lines", "to_json", "write_report"]
