"""Licences of models, as far as their names say: which allow any use, and which forbid commercial use."""

from __future__ import annotations

import re
from typing import Literal

PERMISSIVE = {"mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "cc-by-3.0"}
RESEARCH_ONLY = {"apple-amlr", "apple-ascl", "fair", "fair-noncommercial-research-license"}
NON_COMMERCIAL = re.compile(r"(^|[^a-z])nc([^a-z]|$)|non-?commercial|research[- ]only", re.IGNORECASE)

Use = Literal["permissive", "non-commercial", "other"]


def classify_licence(licence: str) -> Use:
    """Classify a licence by its name; `other` has terms that are to be read."""
    name = licence.strip().lower()
    if name in RESEARCH_ONLY or NON_COMMERCIAL.search(name):
        return "non-commercial"
    return "permissive" if name in PERMISSIVE else "other"


def classify_all(licences: list[str | None]) -> Use:
    """Classify what several parts allow together: the strictest of them; where one says nothing, `other`."""
    found = {"other" if licence is None else classify_licence(licence) for licence in licences}
    return "non-commercial" if "non-commercial" in found else "other" if "other" in found or not found else "permissive"
