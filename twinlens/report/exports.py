"""Results in the formats of other tools: TREC runs and qrels, MTEB's JSON, CLIP_benchmark's CSV.

trec_eval orders a run by score and breaks ties by item id, not by rank. So that it sees the order that
was measured, a tied score is lowered by the smallest float32 step; it differs from the cosine by a few
units in the last place.

CLIP_benchmark's `image_retrieval_recall@k` finds pictures by captions and `text_retrieval_recall@k`
captions by pictures; both count a query as 1 if any of the first k is relevant: our `hit_at_k`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
from jaxtyping import Float32

from twinlens import __version__
from twinlens.core.absence import advise
from twinlens.core.errors import DataError
from twinlens.core.scratch import write_whole_file, write_whole_text
from twinlens.evaluation.cost import write_csv
from twinlens.evaluation.draws import read_draws
from twinlens.evaluation.measures import MAIN, parsed
from twinlens.evaluation.pool import Pool
from twinlens.retrieval.runs import read_run
from twinlens.tasks.base import Task

QUERIES_AT_ONCE = 2_000  # of a file of judgements, which holds a line for each relevant pair
DIRECTIONS = {"caption_to_image": "image_retrieval", "image_to_caption": "text_retrieval"}  # what it measures


def export(ranked: Path, retrieval: dict[str, Any], model: str, seconds: float, out: Path) -> list[Path]:
    """Write everything below `out`; returns the files.

    Args:
        ranked: folder of the `rank` stage.
        retrieval: content of `metrics/retrieval.json`.
        model: name of the model's card.
        seconds: what the stages that make the results took, for MTEB.
        out: a folder.

    Raises:
        DataError: there are no runs.
    """
    pools = [pool for pool in Pool.read_all(ranked) if not pool.as_published] if ranked.is_dir() else []
    if not pools:
        raise DataError(
            f"{ranked} holds no runs: {advise('`dvc repro rank` makes them, `dvc pull rank` fetches them')}"
        )
    written: list[Path] = []
    for pool in pools:
        written.append(write_qrels(pool, out / "trec" / f"{pool.name}.qrels"))
        for retriever in pool.retrievers:
            for n, draw in enumerate(read_draws(pool, retriever), start=1):  # our values are means over draws
                name = retriever if n == 1 else f"{retriever}.draw-{n}"
                written.append(write_trec_run(draw, retriever, model, out / "trec" / f"{pool.name}.{name}.run"))
            path = out / "mteb" / f"{model}.{retriever}" / f"{pool.name}.json"
            content = convert_to_mteb(pool.task, retrieval[pool.name], retriever, seconds)
            write_whole_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
            written.append(path)
    if rows := build_clip_benchmark_rows(retrieval, model):
        write_csv(rows, out / "clip_benchmark.csv")
        written.append(out / "clip_benchmark.csv")
    return written


def write_trec_run(pool: Pool, retriever: str, tag: str, path: Path) -> Path:
    """Write a run as `query Q0 item rank score tag`, one line per item."""
    queries, items = pool.queries["query_id"].to_list(), pool.items["item_id"].to_list()
    names, ids = _plain(queries), pl.Series(_plain(items))
    with write_whole_file(path) as draft, draft.open("wb") as file:
        for first, rows, scores in read_run(pool.folder / "runs" / f"{retriever}.parquet", queries, items):
            count, depth = rows.shape
            lines = pl.DataFrame(
                {
                    "query": np.repeat(np.array(names[first : first + count], dtype=object), depth).tolist(),
                    "q0": "Q0",
                    "item": ids.gather(rows.ravel()),
                    "rank": np.tile(np.arange(1, depth + 1), count),
                    "score": lower_ties(scores).ravel(),
                    "tag": f"{tag}.{retriever}",
                }
            )
            lines = lines.filter(pl.Series(pool.found(retriever, scores).ravel()))
            lines.write_csv(file, include_header=False, separator=" ", quote_style="never", float_precision=9)
    return path


def lower_ties(scores: Float32[np.ndarray, "queries depth"]) -> Float32[np.ndarray, "queries depth"]:
    """Lower each score, where it must be, to the next float32 below the one before it.

    Scores are rounded to 9 decimals first, so that what is written in decimals reads back as it was.
    """
    falling = np.array(scores, dtype=np.float32)
    step = np.float32(2.0**-23)  # of numbers from 1 to 2: shows where cosines are written; BM25's scores are larger
    for rank in range(1, falling.shape[1]):
        above = falling[:, rank - 1]
        limit = np.minimum(above - step, np.nextafter(above, np.float32(-np.inf)))
        np.minimum(falling[:, rank], limit, out=falling[:, rank])
    return falling


def write_qrels(pool: Pool, path: Path) -> Path:
    """Write judgements as `query 0 item gain`, a line for each relevant pair; what no line lists is not relevant.

    Raises:
        DataError: a gain is no whole number, which this format has no place for.
    """
    queries, items = pl.Series(_plain(pool.task.query_ids)), pl.Series(_plain(pool.task.item_ids))
    with write_whole_file(path) as draft, draft.open("wb") as file:
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            pairs = pool.task.qrels.pairs(start, min(start + QUERIES_AT_ONCE, len(queries)))
            if (pairs["gain"] != pairs["gain"].round()).any():
                raise DataError(f"{pool.name}: gains that are no whole numbers cannot be written as TREC judgements")
            lines = pl.DataFrame(
                {
                    "query": queries.gather(pairs["query"]),
                    "iteration": pl.Series([0], dtype=pl.Int64).new_from_index(0, len(pairs)),
                    "item": items.gather(pairs["item"]),
                    "gain": pairs["gain"].cast(pl.Int64),
                }
            )
            lines.write_csv(file, include_header=False, separator=" ", quote_style="never")
    return path


def convert_to_mteb(task: Task, results: dict[str, Any], retriever: str, seconds: float) -> dict[str, Any]:
    """Convert one run to the format in which mteb writes a task's result."""
    values, pool = results[retriever], results["pool"]
    scores: dict[str, Any] = {}
    for name, value in values.items():
        if found := parsed(name):
            measure, k = found
            scores[f"{measure.mteb}_at_{k}"] = value
    deepest = max(int(name.rpartition("_at_")[2]) for name in scores)
    scores |= {"main_score": values[MAIN.at(deepest)], "hf_subset": "default", "languages": ["eng-Latn"]}
    return {
        "dataset_revision": pool["dataset"],
        "task_name": f"TwinLens.{pool['dataset']}.{task.name}.{task.about.category}",
        "mteb_version": f"twinlens {__version__}",
        "scores": {pool["split"]: [scores]},
        "evaluation_time": seconds,
        "kg_co2_emissions": None,
    }


def build_clip_benchmark_rows(retrieval: dict[str, Any], model: str) -> list[dict[str, Any]]:
    """Build a row for each retriever of both caption tasks, under CLIP_benchmark's names."""
    tasks = [task for task in DIRECTIONS if task in retrieval]
    if len(tasks) < len(DIRECTIONS):
        return []
    rows = []
    for retriever in (name for name in retrieval[tasks[0]] if name != "pool" and name in retrieval[tasks[1]]):
        pool = retrieval[tasks[0]]["pool"]
        row: dict[str, Any] = {
            "dataset": pool["dataset"],
            "model": model,
            "pretrained": "",
            "task": "zeroshot_retrieval",
            "language": "en",
            "retriever": retriever,
        }
        for task, direction in DIRECTIONS.items():
            for name, value in retrieval[task][retriever].items():
                found = parsed(name)
                if found and found[0].clip_benchmark:
                    row[f"{direction}_{found[0].clip_benchmark}@{found[1]}"] = value
        rows.append(row)
    return rows


def _plain(ids: list[str]) -> list[str]:
    """Ids without white space, which separates the columns of TREC files, and without NUL, at which C's strings end.

    They are written as in addresses (`%20`), and so is the percent sign itself: else `a b` and `a%20b` were one id.
    """
    return [re.sub(r"[\s%\0]", lambda found: quote(found[0]), name) for name in ids]
