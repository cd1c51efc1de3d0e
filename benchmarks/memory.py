"""Peak memory of every stage on a dataset and on one several times as large."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.choice import change_card, copy_choice
from benchmarks.paired import Row

STAGES = {
    "download": ["--dataset", "scenes"],
    "filter": ["--dataset", "scenes"],
    "resize": ["--dataset", "scenes"],
    "group": ["--dataset", "scenes"],
    "caption": ["--dataset", "scenes", "--captioner", "blip-scenes"],
    "train": ["--dataset", "scenes", "--model", "clip-scenes"],
    "embed": ["--dataset", "scenes", "--model", "clip-scenes"],
    "rank": ["--dataset", "scenes", "--model", "clip-scenes"],
    "evaluate": ["--dataset", "scenes", "--model", "clip-scenes", "--captioner", "blip-scenes"],
}


def run(small: int, factor: int) -> list[Row]:
    """Pictures of the pool; training is kept to one epoch of as many pictures as the pool has."""
    peaks = {size: _peaks(size) for size in (small, small * factor)}
    few, many = peaks[small], peaks[small * factor]
    return [
        Row(
            f"peak memory of {stage}",
            f"{few[stage]:,.0f} MB at {small:,} pictures",
            f"{many[stage]:,.0f} MB at {small * factor:,}",
            f"{many[stage] / few[stage]:.2f} times",
            "flat but for vectors and tables of ids",
        )
        for stage in STAGES
    ]


def _peaks(pictures: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        copy_choice(Path(folder), "stages", "twinlens")
        change_card(Path(folder), "datasets/scenes", {"train": pictures, "val": 100, "test": pictures})
        change_card(Path(folder), "models/clip-scenes", {"train.epochs": 1})
        change_card(Path(folder), "captioners/blip-scenes", {"train.epochs": 1})
        environment = os.environ | {"TWINLENS_SCRATCH": f"{folder}/scratch"}
        for stage, names in STAGES.items():
            subprocess.run([sys.executable, "-m", f"stages.{stage}", *names], cwd=folder, env=environment, check=True)
        costs = json.loads((Path(folder) / "metrics/cost.json").read_text())
        return {stage: costs["stages"][stage]["peak_host_mb"] for stage in STAGES}
