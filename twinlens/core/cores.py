"""Processor cores that this process may use, and how many threads read pictures where the settings leave that open."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOST = 256  # threads that the settings allow
CGROUPS = Path("/sys/fs/cgroup")
OF_THIS_PROCESS = Path("/proc/self/cgroup")


def count_cores() -> int:
    """Count the cores that this process may use: those it is bound to, and no more than its container's quota.

    `os.cpu_count` counts the machine's, of which a container often has a few: threads beyond them only fight.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = read_quota()
    return max(1, bound if quota is None else min(bound, round(quota)))


def read_quota(groups: Path = CGROUPS, own: Path = OF_THIS_PROCESS) -> float | None:
    """Read the container's quota of processor time, in cores; None where there is none.

    The smallest of this process's control group and of those above it counts: `cpu.max` holds microseconds of work
    allowed in a period and the period (cgroup v2), `cpu.cfs_quota_us` and `cpu.cfs_period_us` the same (v1).
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [quota for line in lines for quota in _quotas(line, groups)]
    return min(found, default=None)


def _quotas(line: str, groups: Path) -> list[float]:
    """The quotas on the way from a group, as a line of /proc/self/cgroup names it, up to the root."""
    _, controllers, path = [*line.split(":", 2), "", ""][:3]
    if controllers and "cpu" not in controllers.split(","):
        return []
    root = groups / "cpu" if controllers else groups
    names = [name for name in path.split("/") if name not in ("", "..")]
    folders = [root.joinpath(*names[:end]) for end in range(len(names) + 1)]
    return [quota for folder in folders if (quota := _read_group(folder)) is not None]


def _read_group(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            told = (folder / "cpu.max").read_text(encoding="utf-8")
        else:
            told = " ".join((folder / name).read_text() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    except OSError:
        return None
    numbers = re.fullmatch(r"\s*(\d+)\s+(\d+)\s*", told)  # "max" and -1 stand for no limit
    return int(numbers[1]) / int(numbers[2]) if numbers and int(numbers[1]) and int(numbers[2]) else None


def choose_threads() -> int:
    """Choose how many threads decode pictures where the settings leave it open: one for each core.

    Decoding waits for nothing, so that more would only take turns; the thread that feeds the model needs little.
    """
    return min(MOST, count_cores())
