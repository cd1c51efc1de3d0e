"""Effect of distractors: hit@k against their number in the pool.

A distractor is an item that no query is about. With n of the D distractors drawn at random, the
first relevant item of a query keeps the rivals above it that are no distractors, and of the b
distractors above it a hypergeometric number. So the expected hit@k over all draws is exact, from two
ranks a query: no draw is made, and no seed is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from scipy.stats import hypergeom

from twinlens.core import tables
from twinlens.tasks.base import read_tasks

DIGITS = 6
STEPS = (1, 2, 3, 6)  # 10, 20, 30, 60, 100, ...: holds the 2,000, 10,000 and 60,000 of source 004


def choose_sizes(distractors: int) -> list[int]:
    """Choose the numbers of distractors at which the curve is drawn: none, a ladder, all."""
    ladder = [step * 10**power for power in range(len(str(distractors))) for step in STEPS]
    return sorted({0, distractors, *(size for size in ladder if size < distractors)})


def compute_expected_hit(
    rank: Int[np.ndarray, " queries"],
    rank_among_judged: Int[np.ndarray, " queries"],
    distractors: int,
    size: int,
    k: int,
) -> float:
    """Compute the mean over queries of the chance of a hit within k with `size` of the distractors drawn.

    Args:
        rank: of the first relevant item among all items, from 1.
        rank_among_judged: the same without distractors.
        distractors: how many there are.
        size: how many are drawn.
        k: the cut.
    """
    rivals, above = rank_among_judged - 1, (rank - rank_among_judged).clip(0, distractors)
    if not size:
        return float((rivals < k).mean())
    pairs, counts = np.unique(np.stack([rivals, above]), axis=1, return_counts=True)
    chances = hypergeom.cdf(k - 1 - pairs[0], distractors, pairs[1], size)
    return float((chances * counts).sum() / counts.sum())


def build_curve(ranked: Path, k: int) -> list[dict[str, Any]]:
    """Build the rows of the plot: task, retriever, number of distractors, expected hit@k.

    Args:
        ranked: folder of the `rank` stage; a task without distractors has one row.
        k: the cut.
    """
    rows = []
    for task in read_tasks(ranked):
        if task.about.published_of is not None:
            continue
        distractors = int((~task.qrels.judged()).sum())
        for path in sorted((ranked / task.name / "first_hits").glob("*.parquet")):
            ranks = tables.read_table(path, tables.FIRST_HITS)
            rank, among = ranks["rank"].to_numpy(), ranks["rank_among_judged"].to_numpy()
            for size in choose_sizes(distractors):
                hit = round(compute_expected_hit(rank, among, distractors, size, k), DIGITS)
                rows.append({"task": task.name, "retriever": path.stem, "distractors": size, "hit": hit})
    return rows
