"""Results as tables: what the terminal, the README and the plots show."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twinlens import paths

STAGES = ("download", "filter", "resize", "group", "caption", "train", "embed", "rank", "evaluate")
TRAINING = ("trained", "epoch", "figure", "value")
APART = ("image", "captions_joined", "caption_generated")  # what is fed by itself; the others are sums of these
TASKS = ("object_sets", "caption_to_image", "image_to_caption", "category_search")


def results_table(retrieval: dict[str, Any], k: int) -> str:
    """The headline measures of every task and retriever, as a Markdown table."""
    measures = [f"hit_at_{k}", f"recall_at_{k}", f"precision_at_{k}", f"mrr_at_{k}", f"ndcg_at_{k}", f"map_at_{k}"]
    rows = []
    for task in (name for name in TASKS if name in retrieval):
        for retriever, values in retrieval[task].items():
            if retriever != "pool":
                rows.append([task, retriever, *(f"{values[m]:.3f}" for m in measures), f"{values['median_rank']:g}"])
    return markdown(["task", "searched by", *measures, "median_rank"], rows)


def summary(retrieval: dict[str, Any], rows: list[dict[str, Any]], k: int) -> dict[str, Any]:
    """The numbers to look at first: nDCG by task and retriever, and what the three kinds of vectors cost.

    `dvc metrics diff` prints a line for each and `dvc exp show` a column: names are short, and all lines fit a screen.
    Every other measure is in metrics/retrieval.json.
    """
    quality = {
        task: {name: values[f"ndcg_at_{k}"] for name, values in retrieval[task].items() if name != "pool"}
        for task in TASKS
        if task in retrieval
    }
    cost = {row["retriever"]: row["ms_per_picture"] for row in rows if row["retriever"] in APART}
    return {"ndcg": quality, "ms_per_picture": cost}


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns line up in a terminal too; numbers stand at the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        padded = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (w - 1) + ":") if n else "-" * w for w, n in zip(widths, numeric, strict=True)]
    return "\n".join([line(header), line(rule), *(line(row) for row in rows)])


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True


def curve_rows(task: str, retriever: str, curves: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Rows of the plot of measures against k."""
    depth = len(next(iter(curves.values())))
    return [
        {"task": task, "retriever": retriever, "k": k, **{name: curve[k - 1] for name, curve in curves.items()}}
        for k in range(1, depth + 1)
    ]


def cost_summary(dataset: str, model: str, captioner: str) -> dict[str, Any]:
    """What each stage and each tower took, gathered from the stages' own records."""
    names = {"caption": [dataset, captioner]} | {stage: [dataset, model] for stage in STAGES[5:]}
    stages: dict[str, Any] = {}
    towers: dict[str, Any] = {}
    for stage in STAGES:
        record = json.loads(paths.cost(stage, *names.get(stage, [dataset])).read_text())
        towers |= {f"{stage}_{part}": figures for part, figures in record.pop("parts", {}).items()}
        stages[stage] = record
    return {"stages": stages, "parts": towers}


def quality_cost_rows(retrieval: dict[str, Any], costs: dict[str, Any], k: int) -> list[dict[str, Any]]:
    """Rows of the plot of quality against cost: what it takes to put one more picture into the index."""
    parts = costs["parts"]

    def ms(part: str) -> float:
        rate = parts.get(part, {}).get("items_per_s", 0.0)
        return 1000.0 / rate if rate else 0.0

    made_of = {
        "image": ["embed_images"],
        "captions_joined": ["embed_captions_joined"],
        "caption_random": ["embed_captions"],
        "caption_generated": ["caption_caption", "embed_captions_generated"],
        "image_and_captions_joined": ["embed_images", "embed_captions_joined"],
        "image_and_caption_generated": ["embed_images", "caption_caption", "embed_captions_generated"],
        "bm25_captions": ["rank_bm25_captions"],
        "bm25_generated": ["caption_caption", "rank_bm25_generated"],
        "hybrid_captions_rrf": ["embed_images", "rank_bm25_captions"],
        "hybrid_captions_weighted": ["embed_images", "rank_bm25_captions"],
        "hybrid_generated_rrf": ["embed_images", "caption_caption", "rank_bm25_generated"],
        "hybrid_generated_weighted": ["embed_images", "caption_caption", "rank_bm25_generated"],
    }
    rows = []
    for task in (name for name in TASKS if name in retrieval):
        for retriever, values in retrieval[task].items():
            if retriever != "pool":
                rows.append(
                    {
                        "task": task,
                        "retriever": retriever,
                        "ms_per_picture": round(sum(ms(part) for part in made_of.get(retriever, ["embed_images"])), 4),
                        "hit": values[f"hit_at_{k}"],
                        "ndcg": values[f"ndcg_at_{k}"],
                    }
                )
    return rows


def training_rows(logs: dict[str, Path]) -> list[dict[str, Any]]:
    """Rows of the plot of training: a figure of an epoch each.

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


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a metrics file, stable in git."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(rows: list[dict[str, Any]], path: Path, columns: Sequence[str] = ()) -> None:
    """Write rows as CSV; `columns` are those of a table that may have no rows."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
