"""Costs of the stages, and the rows of the plots."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twinlens.core import paths
from twinlens.core.absence import advise
from twinlens.core.errors import DataError
from twinlens.core.scratch import write_whole_file, write_whole_text
from twinlens.evaluation.measures import drawn

# By whose names each stage's record is kept.
STAGES = {
    **dict.fromkeys(("download", "filter", "resize", "group"), ("dataset",)),
    **dict.fromkeys(("caption", "tasks"), ("dataset", "captioner")),
    **dict.fromkeys(("train", "embed", "rank", "evaluate"), ("dataset", "model")),
}
TRAINING = ("trained", "epoch", "figure", "value")


def build_curve_rows(task: str, retriever: str, curves: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Build the rows of the plot of measures against k."""
    return [
        {"task": task, "retriever": retriever, "measure": name, "k": k, "value": value}
        for name, curve in curves.items()
        for k, value in enumerate(curve, start=1)
    ]


def summarise_costs(dataset: str, model: str, captioner: str) -> dict[str, Any]:
    """Gather the cost of each stage and each tower from the stages' own records."""
    names = {"dataset": dataset, "model": model, "captioner": captioner}
    stages: dict[str, Any] = {}
    towers: dict[str, Any] = {}
    for stage, kinds in STAGES.items():
        record = json.loads(paths.cost(stage, *(names[kind] for kind in kinds)).read_text())
        towers |= {f"{stage}_{part}": figures for part, figures in record.pop("parts", {}).items()}
        stages[stage] = record
    return {"stages": stages, "parts": towers}


def build_quality_cost_rows(
    retrieval: dict[str, Any], made_of: Mapping[tuple[str, str], Sequence[str]], costs: dict[str, Any], k: int
) -> list[dict[str, Any]]:
    """Build the rows of the plot of quality against cost: the cost of indexing one more picture.

    Args:
        retrieval: content of `metrics/retrieval.json`.
        made_of: by task and retriever, the parts of `costs` that a picture takes.
        costs: of `summarise_costs`.
        k: the cut of the measures.

    Raises:
        DataError: no stage has recorded such a part.
    """
    parts = costs["parts"]

    def ms(part: str) -> float:
        if part not in parts:
            raise DataError(f"no stage has recorded what {part} takes; there are {', '.join(parts)}")
        rate = parts[part]["items_per_s"]
        return 1000.0 / rate if rate else 0.0

    return [
        {
            "task": task,
            "retriever": retriever,
            "ms_per_picture": round(sum(map(ms, made_of[task, retriever])), 4),
        }
        | {measure.name: values[measure.at(k)] for measure in drawn()}
        for task, results in retrieval.items()
        for retriever, values in results.items()
        if retriever != "pool"
    ]


def build_training_rows(logs: dict[str, Path]) -> list[dict[str, Any]]:
    """Build the rows of the plot of training: one figure of one epoch each.

    Args:
        logs: by what was trained, its `training.csv`; one that is not there was not trained here.
    """
    rows: list[dict[str, Any]] = []
    for trained, path in logs.items():
        if not path.exists():
            continue
        with path.open(newline="", encoding="utf-8") as file:
            for epoch in csv.DictReader(file):
                figures = {name: float(value) for name, value in epoch.items() if name != "epoch" and value}
                rows += [
                    {"trained": trained, "epoch": int(epoch["epoch"]), "figure": name, "value": value}
                    for name, value in figures.items()
                ]
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """Read what a stage left.

    Raises:
        DataError: it is not there.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is not here: {advise('`dvc repro` makes it, `dvc pull` fetches it')}") from None
    return found


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a metrics file, stable in git."""
    write_whole_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(rows: list[dict[str, Any]], path: Path, columns: Sequence[str] = ()) -> None:
    """Write rows as CSV; `columns` are those of a table that may have no rows."""
    with write_whole_file(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
