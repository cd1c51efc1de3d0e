"""Drawn pictures by the hundred thousand through filter, resize and group: time per core and peak memory.

python -m benchmarks.run --only scale                       # 100,000 pictures, half an hour on two cores
python -m benchmarks.run --only scale --pictures 20000
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.choice import change_card, copy_choice
from benchmarks.paired import Row

STAGES = ("download", "filter", "resize", "group")


def run(pictures: int) -> list[Row]:
    """Two datasets, one five times the other, through the stages that read every picture or every row."""
    few, many = (_measured(size) for size in (pictures // 5, pictures))
    rows = [
        Row(
            f"{stage}, {pictures:,} drawn pictures",
            f"{pictures / many[stage][0]:,.0f} pictures per CPU-second",
            f"peak memory {few[stage][1]:,.0f} MB at {pictures // 5:,}, {many[stage][1]:,.0f} MB at {pictures:,}",
            f"{many[stage][1] / few[stage][1]:.2f} times",
            "flat but for tables of ids",
        )
        for stage in STAGES
    ]
    return [*rows, Row("files of those stages together", f"{many['files'][0]:,.0f}", "shards of 1,000", "", "few")]


def _measured(pictures: int) -> dict[str, tuple[float, float]]:
    """CPU-seconds (of all threads, imports included) and peak MB by stage."""
    with tempfile.TemporaryDirectory() as folder:
        copy_choice(Path(folder), "stages", "twinlens")
        change_card(Path(folder), "datasets/scenes", {"train": pictures - 2, "val": 1, "test": 1})
        environment = os.environ | {"TWINLENS_SCRATCH": f"{folder}/scratch"}
        found: dict[str, tuple[float, float]] = {}
        for stage in STAGES:
            before = _children_cpu_s()
            command = [sys.executable, "-m", f"stages.{stage}", "--dataset", "scenes"]
            subprocess.run(command, cwd=folder, env=environment, check=True)
            cost = json.loads((Path(folder) / f"data/costs/{stage}/scenes.json").read_text())
            found[stage] = (_children_cpu_s() - before, cost["peak_host_mb"])
        found["files"] = (sum(path.is_file() for path in (Path(folder) / "data").rglob("*")), 0.0)
        return found


def _children_cpu_s() -> float:
    times = os.times()
    return times.children_user + times.children_system
