"""Sanity gates: implausible results that a table would not show, caught where they can be seen.

Each gate is an error or a loud warning, as `gates` in params.yaml says. A warning is logged, kept in
`metrics/gates.json` and shown in the report. The functions here decide nothing but whether there is
trouble, and say which: text where there is, `None` where there is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Int

from twinlens.evaluation.intervals import Interval

NO_CHANCE = 0.9  # beyond this a random ranking is so good that a measure can hardly be better


def detect_chance_level(hits: Mapping[int, tuple[Interval, float]], run: str) -> str | None:
    """Detect a run that is no better than a ranking at random at any cut.

    Args:
        hits: by k, the interval of `hit_at_k` and the value of a random ranking.
        run: task and retriever, for the message.
    """
    told = {k: (i, c) for k, (i, c) in hits.items() if i.low is not None and i.high is not None and c < NO_CHANCE}
    if not told or any(i.low > c for i, c in told.values() if i.low is not None):
        return None
    k = max(told)
    interval, chance = told[k]
    return (
        f"{run}: hit_at_{k} lies between {interval.low:.4f} and {interval.high:.4f}, a random ranking at {chance:.4f}"
    )


def detect_own_found(own: Int[np.ndarray, " queries"], items: Int[np.ndarray, "queries depth"], run: str) -> str | None:
    """Detect queries that found themselves.

    Args:
        own: the row of the item that is the query itself, by id; -1 where there is none.
        items: rows of the ranked items.
        run: task and retriever, for the message.
    """
    found = ((items == own[:, None]) & (own[:, None] >= 0)).any(axis=1)
    if not found.any():
        return None
    return (
        f"{run}: {found.sum():,} of {len(found):,} queries found themselves in the pool: leave each out of its own list"
    )


def detect_overlap(groups: pl.DataFrame, learners: Sequence[str]) -> str | None:
    """Detect pictures that were trained on and are searched for, by id or by their bytes.

    Args:
        groups: table GROUPS.
        learners: names of the model and captioner that the pipeline trained; their training split is `train`.
    """
    if not learners:
        return None
    train = groups.filter(pl.col("split") == "train")
    both = groups.filter("in_pool").join(train, on="sha256", how="inner", suffix="_train", maintain_order="left")
    if both.is_empty():
        return None
    ids = both["image_id"].unique(maintain_order=True)
    return (
        f"{len(ids):,} of {groups['in_pool'].sum():,} pictures of the pool taught {' and '.join(learners)}, "
        f"the first {ids[0]} (the bytes of {both['image_id_train'][0]}): choose another `pool` on the dataset's card"
    )


def detect_wrong_size(groups: pl.DataFrame, promised: int | None) -> str | None:
    """Detect a pool that is not as large as the dataset's card says."""
    found = int(groups["in_pool"].sum())
    if promised is None or found == promised:
        return None
    return (
        f"the pool holds {found:,} pictures, the dataset's card promises {promised:,}: "
        "`dropped.parquet` of `filter` and `notes.parquet` of `resize` list those left out, with reasons"
    )
