"""Runs of a trained model against the same runs by the model before training: what did the training give?

A checkpoint that was never loaded, a training that learned nothing, and a task for which random weights do as well all
look the same in a table of results: a plausible row. Random weights of a text tower tell texts of other words apart, so
that they do well wherever words are compared with words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from twinlens.evaluation.intervals import encode_clusters

DEVIATIONS = 2.0  # standard errors by which a mean difference must be above zero


def find_no_better(ranked: Path, evaluated: Path, measure: str) -> Iterator[str]:
    """Find the runs that are not above those of the model before training, in words, one by one.

    Args:
        ranked: folder of the `rank` stage, where beside each run stands which one it is before training.
        evaluated: folder with the values of every query, `<task>/<retriever>.parquet`.
        measure: a column of those, `ndcg_at_10` for instance.
    """
    for path in sorted(evaluated.glob("*/*.parquet")):
        told = json.loads((ranked / path.parent.name / "runs" / f"{path.stem}.json").read_text(encoding="utf-8"))
        trained = path.with_stem(str(told.get("untrained_of")))
        if trained.exists():
            both = pl.read_parquet(trained), pl.read_parquet(path)
            trouble = detect_no_better(*both, measure, f"{path.parent.name}, {trained.stem}")
            if trouble is not None:
                yield trouble


def detect_no_better(trained: pl.DataFrame, before: pl.DataFrame, measure: str, run: str) -> str | None:
    """Detect a run whose mean is not above that of the same run before training.

    The difference is paired by query; its standard error counts the queries of a cluster together (the sandwich
    estimate of Liang and Zeger 1986, with G / (G - 1) for G clusters).

    Args:
        trained: `query_id`, `cluster` and the measure, of every query.
        before: the same of the model before training.
        measure: the column.
        run: task and retriever, for the message.
    """
    assert trained["query_id"].to_list() == before["query_id"].to_list()
    apart = (trained[measure] - before[measure]).to_numpy().astype(np.float64)
    clusters = encode_clusters(trained["cluster"].to_list())
    count = len(np.unique(clusters))
    if count < 2:
        return None
    sums = np.bincount(clusters, weights=apart - apart.mean())
    error = np.sqrt(count / (count - 1) * (sums**2).sum()) / len(apart)
    if apart.mean() > DEVIATIONS * error and apart.mean() > 0:
        return None
    after, first = (float(table[measure].to_numpy().mean()) for table in (trained, before))
    return (
        f"{run}: {measure} is {after:.4f}, and {first:.4f} by the same model before training (random weights, or those "
        f"that it began with), which is no gain beyond chance ({DEVIATIONS:g} standard errors): training made nothing "
        "better here, or it is not these weights that were used"
    )
