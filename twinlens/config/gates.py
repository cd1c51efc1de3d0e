"""Sanity gates: what is done about trouble, and the warnings so far.

The functions that find trouble lie beside what they look at; each says in words what is wrong, or `None`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinlens.config.params import GateParams
from twinlens.core.errors import DataError
from twinlens.core.scratch import write_whole_text

log = logging.getLogger("twinlens")


@dataclass
class Gates:
    """Warnings so far; `check` raises or warns as the parameters say."""

    params: GateParams
    found: list[dict[str, str]] = field(default_factory=list)

    def check(self, gate: str, trouble: str | None) -> None:
        """Pass, warn or stop.

        Raises:
            DataError: there is trouble, and the gate is an error.
        """
        if trouble is None:
            return
        if getattr(self.params, gate) == "error":
            raise DataError(f"{trouble}. If that is as it should be: `-S gates.{gate}=warn`")
        self.found.append({"gate": gate, "trouble": trouble})
        log.warning("WARNING, gate %s: %s", gate, trouble)

    def write(self, path: Path) -> None:
        """Keep the warnings for the report."""
        by_gate: dict[str, list[str]] = {}
        for one in self.found:
            by_gate.setdefault(one["gate"], []).append(one["trouble"])
        write_whole_text(path, json.dumps({"warnings": len(self.found), "found": by_gate}, indent=2) + "\n")

    def add(self, path: Path) -> None:
        """Take over the warnings of an earlier stage."""
        self.found += read_warnings(json.loads(path.read_text(encoding="utf-8")))


def read_warnings(written: dict[str, Any]) -> list[dict[str, str]]:
    """Read the warnings of a file, one by one."""
    return [{"gate": gate, "trouble": trouble} for gate, troubles in written["found"].items() for trouble in troubles]
