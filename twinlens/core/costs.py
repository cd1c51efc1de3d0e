"""Costs of a stage: seconds, items, memory, parameters, bytes, and the machine that they were measured on.

A stage writes its record beside its output (`paths.cost`), never into it: the same work gives the
same bytes but not the same time. `evaluate` gathers the records into `metrics/cost.json`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

from twinlens.core.scratch import write_whole_text

MB = 1_000_000


class Cost:
    """A stage's record; made when the work starts."""

    def __init__(self, device: str = "cpu") -> None:
        self.started = time.perf_counter()
        self.device = device
        self.parts: dict[str, dict[str, Any]] = {}

    def add(self, part: str, *, seconds: float, items: int, **figures: float | str) -> None:
        """Record one part of the work, a tower's pictures for instance."""
        self.parts[part] = {"seconds": _round(seconds), "items": items, "items_per_s": _rate(items, seconds)}
        self.parts[part] |= {name: _round(value) for name, value in figures.items()}

    def seconds_of_parts(self) -> float:
        """Seconds of the recorded parts together."""
        return float(sum(part["seconds"] for part in self.parts.values()))

    def write(self, path: Path, items: int, seconds: float | None = None) -> None:
        """Write the record.

        Args:
            path: a JSON file.
            items: what the stage worked on.
            seconds: of the work; taken from the clock if absent. Give it where part of the work was
                done by an earlier run.
        """
        seconds = time.perf_counter() - self.started if seconds is None else seconds
        record: dict[str, Any] = {
            "seconds": _round(seconds),
            "items": items,
            "items_per_s": _rate(items, seconds),
            "peak_host_mb": _round(peak_host_bytes() / MB),
            "device": self.device,
            "machine": name_machine(),
        }
        if (gpu := _peak_gpu_bytes()) is not None:
            record["peak_gpu_mb"] = _round(gpu / MB)
        if self.parts:
            record["parts"] = self.parts
        write_whole_text(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


def name_machine() -> str:
    """Name the kind of machine that this is, so that times of different ones are not taken for each other's."""
    info, processor = Path("/proc/cpuinfo"), platform.processor()
    if info.exists() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8"))):
        processor = found[1].strip()
    cores = os.cpu_count() or 1
    return f"{processor or platform.machine()}, {cores} {'core' if cores == 1 else 'cores'}"


def peak_host_bytes() -> int:
    """The most memory this process has held so far.

    Linux counts into `ru_maxrss` what the parent held when it started this process, so the kernel's
    figure of this program alone is taken where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))):
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes, but for macOS


def _peak_gpu_bytes() -> int | None:
    torch = sys.modules.get("torch")  # a stage that never imported torch used no GPU
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())


def _rate(items: int, seconds: float) -> float:
    return _round(items / seconds) if seconds > 0 else 0.0


def _round(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
