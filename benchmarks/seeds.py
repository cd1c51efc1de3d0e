"""Measure how far the default's results move from seed to seed, and keep it for the README's table.

python -m benchmarks.seeds                              # eight seeds of the default, a few minutes each
python -m benchmarks.seeds --seeds 4 --model siglip-scenes --out docs/results/seeds-siglip.json
python -m benchmarks.seeds --at-once 2                  # with one thread each, in less time

Each seed is a run of the pipeline in a copy of its own, in which the model and the captioner are trained with it: what
is told is the mean over seeds of every measure and the standard deviation of one seed. The pictures are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.choice import ROOT, change_card, copy_choice
from twinlens.report.summary import format_markdown

STAGES = ("caption", "tasks", "train", "embed", "rank", "clock", "evaluate")
SHARED = ("download", "filter", "resize", "group")  # the pictures, which no seed changes
DIGITS = 4


def main() -> None:
    """Run the seeds and print the spread; `--out` keeps it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--dataset", default="scenes")
    parser.add_argument("--model", default="clip-scenes")
    parser.add_argument("--captioner", default="blip-scenes")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/seeds.json")
    options = parser.parse_args()
    names = {key: str(getattr(options, key)) for key in ("dataset", "model", "captioner")}
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        prepare(pictures, names)
        for stage in SHARED:
            run(pictures, stage, names, threads=None)
        with ThreadPoolExecutor(options.at_once) as pool:
            threads = None if options.at_once == 1 else 1
            found = list(
                pool.map(
                    lambda seed: measure_seed(Path(folder) / str(seed), pictures, names, seed, threads),
                    range(options.first, options.first + options.seeds),
                )
            )
    spread = summarise(found)
    options.out.write_text(json.dumps(names | {"seeds": options.seeds, "spread": spread}, indent=2) + "\n")
    rows = [
        [task, name, f"{values['hit_at_10']['mean']:.3f}", f"{values['hit_at_10']['sd']:.3f}"]
        for task, retrievers in spread.items()
        for name, values in retrievers.items()
    ]
    print(format_markdown(["task", "a picture is fed as", "mean hit@10", "sd of one seed"], rows))


def prepare(folder: Path, names: dict[str, str]) -> None:
    """Copy the settings and cards, and choose."""
    folder.mkdir()
    copy_choice(folder)
    text = (folder / "params.yaml").read_text(encoding="utf-8").splitlines()
    chosen = [f"{key}: {names[key]}" if (key := line.split(":")[0]) in names else line for line in text]
    (folder / "params.yaml").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    (folder / "data").mkdir()
    run(folder, "validate", names, threads=None)


def run(folder: Path, stage: str, names: dict[str, str], threads: int | None) -> None:
    """Run a stage in a folder."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    told = [part for key in re.findall(r"--(\w+)", pipeline[stage]["cmd"]) for part in (f"--{key}", names[key])]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    subprocess.run([sys.executable, "-m", f"stages.{stage}", *told], cwd=folder, env=environment, check=True)


def measure_seed(folder: Path, pictures: Path, names: dict[str, str], seed: int, threads: int | None) -> dict[str, Any]:
    """Train, embed, rank and evaluate with one seed; returns `metrics/retrieval.json`."""
    prepare(folder, names)
    change_card(folder, f"models/{names['model']}", {"train.seed": seed})
    change_card(folder, f"captioners/{names['captioner']}", {"train.seed": seed})
    run(folder, "validate", names, threads)
    for part in ("raw", "filtered", "resized", "grouped"):
        (folder / "data" / part).symlink_to(pictures / "data" / part)
    shutil.copytree(pictures / "data/costs", folder / "data/costs")
    (folder / "metrics").mkdir(exist_ok=True)
    for stage in STAGES:
        run(folder, stage, names, threads)
    found: dict[str, Any] = json.loads((folder / "metrics/retrieval.json").read_text(encoding="utf-8"))
    return found


def summarise(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the seeds: by task, retriever and measure the mean and the standard deviation."""
    return {
        task: {
            retriever: {
                measure: describe([one[task][retriever][measure] for one in found])
                for measure, value in values.items()
                if "_at_" in measure and isinstance(value, float)
            }
            for retriever, values in retrievers.items()
            if retriever != "pool"
        }
        for task, retrievers in found[0].items()
    }


def describe(values: list[float]) -> dict[str, float]:
    """The mean of some values, their standard deviation, and the least and the greatest."""
    return {
        "mean": round(float(np.mean(values)), DIGITS),
        "sd": round(float(np.std(values, ddof=1)), DIGITS),
        "least": round(min(values), DIGITS),
        "greatest": round(max(values), DIGITS),
    }


if __name__ == "__main__":
    main()
