"""Costs of a stage: seconds, items, memory, parameters, bytes, and the machine that they were measured on.

A stage writes its record beside its output (`paths.cost`), never into it: the same work gives the
same bytes but not the same time. `evaluate` gathers the records into `metrics/cost.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from twinlens.core.cores import count_cores
from twinlens.core.scratch import write_whole_text

MB = 1_000_000
NO_GPU = "none"


class Cost:
    """A stage's record; made when the work starts."""

    def __init__(self, device: str = "cpu") -> None:
        self.started = time.perf_counter()
        self.device = device
        self.machine: str | None = None  # where the work was done, if not in this process
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
            "machine": self.machine or name_machine(),
        }
        if (gpu := peak_gpu_bytes()) is not None:
            record["peak_gpu_mb"] = _round(gpu / MB)
        if self.parts:
            record["parts"] = self.parts
        write_whole_text(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


def name_machine() -> str:
    """Name the kind of machine that this is, so that times of different ones are not taken for each other's."""
    return name_machine_of({"processor": _name_processor(), "cores": os.cpu_count() or 1, "gpu": _name_gpu()})


def name_machine_of(described: Mapping[str, Any]) -> str:
    """Name a machine that `describe_machine` described as `name_machine` does on it."""
    cores = described["cores"]
    gpu = "" if described["gpu"] == NO_GPU else f", {described['gpu']}"
    return f"{described['processor']}, {cores} {'core' if cores == 1 else 'cores'}{gpu}"


def describe_machine(device: str) -> dict[str, str | int]:
    """Describe what times were measured on, with a digest of all of it: times of two digests are not compared.

    Args:
        device: where the model runs.
    """
    try:
        library = version("torch")
    except PackageNotFoundError:
        library = "none"
    torch = sys.modules.get("torch")
    told: dict[str, str | int] = {
        "processor": _name_processor(),
        "cores": os.cpu_count() or 1,
        "usable_cores": count_cores(),
        "gpu": _name_gpu(),
        "torch": library,
        "device": device,
        "threads": torch.get_num_threads() if torch is not None else count_cores(),  # that compute at once
    }
    return told | {"digest": hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]}


def _name_gpu() -> str:
    """The GPU that this process has made use of."""
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_initialized() else NO_GPU


def _name_processor() -> str:
    info, processor = Path("/proc/cpuinfo"), platform.processor()
    if info.exists() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8"))):
        processor = found[1].strip()
    return processor or platform.machine()


def seconds_since_start() -> float:
    """Seconds since this process was started, its interpreter and libraries included.

    Elsewhere than on Linux, the seconds of a processor that it has used, which is about as much while it waits for
    nothing.
    """
    try:
        began = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return time.process_time()


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


def peak_gpu_bytes() -> int | None:
    """The most memory that torch's tensors have taken of the GPU so far; None where no GPU was used."""
    torch = sys.modules.get("torch")  # a stage that never imported torch used no GPU
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())


def _rate(items: int, seconds: float) -> float:
    return _round(items / seconds) if seconds > 0 else 0.0


def _round(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
