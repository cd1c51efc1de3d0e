"""Tables of what a query takes, for the report page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from twinlens.evaluation.machines import describe_clocked


def build_serving_section(serving: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """Build the tables of what a query takes, by task, the fastest retriever first and the unknown last."""
    tasks: dict[str, dict[str, dict[str, Any]]] = serving.get("tasks", {})
    every = [row for rows in tasks.values() for row in rows.values()]
    return {
        "machine": describe_clocked(serving.get("machine", {})),
        "gpu": any("gpu_mb" in row for row in every),
        "priced": any(name.startswith("price_") for row in every for name in row),
        "rows": {
            task: [
                {"name": name} | row
                for name, row in sorted(tasks[task].items(), key=lambda one: one[1].get("ms_per_query", math.inf))
            ]
            for task in order
            if task in tasks
        },
    }
