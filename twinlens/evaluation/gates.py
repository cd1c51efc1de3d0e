"""Sanity gates: implausible results that a table would not show, caught where they can be seen.

Each gate is an error or a loud warning, as `gates` in params.yaml says. A warning is logged, kept in
`metrics/gates.json` and shown in the report. The functions here decide nothing but whether there is
trouble, and say which: text where there is, `None` where there is not.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from twinlens.evaluation.intervals import Interval

COPIED_SHARE = 0.01  # of the pool: fewer pictures move no mean by more than that
MORE_TO_COME = 0.01  # of MRR, or of a loss in nats, that more epochs would still bring
LIKELY = 0.5  # a random ranking's hits beyond which the measure tells models hardly apart
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


def find_near_copies(groups: pl.DataFrame, duplicates: pl.DataFrame) -> list[str]:
    """Find the pictures of the pool that are copies, exact or near, of pictures of the training split, or of copies.

    Args:
        groups: table GROUPS: pictures that were dropped as copies are not there.
        duplicates: table DUPLICATES.
    """
    leaks = duplicates.filter("leak")
    there = groups.filter(pl.col("image_id").is_in([*leaks["image_id"], *leaks["other_id"]]))
    if not (there["split"] == "train").any():
        return []
    return there.filter(pl.col("in_pool") & (pl.col("split") != "train"))["image_id"].to_list()


def measure_apart(evaluated: Path, copied: Sequence[str], measure: str) -> str:
    """Measure the pixels on queries about some pictures and on all others, in words; empty where there are none.

    Args:
        evaluated: folder of the `evaluate` stage: `<task>/image.parquet`.
        copied: ids of pictures.
        measure: a column of these tables.
    """
    told = []
    for path in sorted(evaluated.glob("*/image.parquet")):
        rows = pl.read_parquet(path, columns=["image_id", measure])
        mine = rows["image_id"].is_in(list(copied)).to_numpy()
        values = rows[measure].to_numpy()
        if mine.any() and not mine.all():
            on, off = values[mine].mean(), values[~mine].mean()
            told.append(f"{on:.3f} on them and {off:.3f} on the others in {path.parent.name}")
    return f"; {measure} of `image` is {', '.join(told)}" if told else ""


def detect_near_copies(groups: pl.DataFrame, copied: Sequence[str], learners: Sequence[str], apart: str) -> str | None:
    """Detect a pool with more than one in a hundred pictures that have a copy among those that were trained on.

    Args:
        groups: table GROUPS.
        copied: these pictures' ids.
        learners: names of the model and captioner that the pipeline trained; their training split is `train`.
        apart: what they are worth, in words, see `measure_apart`.
    """
    pool = int(groups["in_pool"].sum())
    if not learners or len(copied) <= COPIED_SHARE * pool:
        return None
    return (
        f"{len(copied):,} of {pool:,} pictures of the pool are copies or near copies of pictures that taught "
        f"{' and '.join(learners)}, the first {copied[0]}{apart}. duplicates.parquet of `group` lists them; "
        "`-S group.drop_duplicates=leaks` takes the copies out of training"
    )


def detect_taught_on(origins: Sequence[str], taught: Mapping[str, Sequence[str]]) -> str | None:
    """Detect models whose cards say that they were trained on what the dataset is, or is a part of.

    Args:
        origins: where the dataset's pictures come from, as its card says.
        taught: by name of a model or captioner, what its card says that it was trained on.
    """
    known = {name: [origin for origin in origins if origin in families] for name, families in taught.items()}
    told = [f"{name} was trained on {' and '.join(seen)}" for name, seen in known.items() if seen]
    if not told:
        return None
    return (
        f"{'; '.join(told)}, where this dataset's pictures come from (`trained_on` and `origin` of the cards): it may "
        "remember what it is asked for, and does better here than on data of your own"
    )


def detect_still_learning(logs: Mapping[str, Path]) -> str | None:
    """Detect a training that ended while its validation still rose.

    The best epoch is the last, and the rise of the best value so far over the last quarter of the epochs is more than
    `MORE_TO_COME`. If each further quarter brought as much less as the last brought less than the one before, more than
    that is yet to come: r2^2 / (r1 - r2), the sum of the geometric series.

    Args:
        logs: by name of a model or captioner, its `training.csv`; one that is not there was not trained here.
    """
    told = [trouble for name, path in logs.items() if path.exists() and (trouble := _describe_rise(name, path))]
    return f"{'; '.join(told)}: raise `train.epochs`" if told else None


def _describe_rise(name: str, path: Path) -> str | None:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure, sign = next(((key, s) for key, s in (("val_mrr", 1), ("val_loss", -1)) if rows and key in rows[0]), ("", 1))
    if not figure or len(rows) < 2:
        return None
    merits = sign * np.array([float(row[figure]) for row in rows])
    epochs = int(rows[-1]["epoch"])
    quarter = min(max(1, round(epochs / 4)), len(rows) - 1)
    best = np.maximum.accumulate(merits)
    rise = float(best[-1] - best[-1 - quarter])
    if int(merits.argmax()) != len(merits) - 1 or rise <= MORE_TO_COME:
        return None
    before = float(best[-1 - quarter] - best[-1 - 2 * quarter]) if len(best) > 2 * quarter else 0.0
    if before > rise and rise**2 / (before - rise) <= MORE_TO_COME:
        return None
    return (
        f"the training of {name} ended while it still learnt: {figure} went from {sign * best[-1 - quarter]:.3f} to "
        f"{sign * best[-1]:.3f} over the last {quarter} of {epochs} epochs"
    )


def detect_easy_pool(task: str, items: int, chances: Mapping[int, float]) -> str | None:
    """Detect a pool in which a random ranking does so well that no cut tells models apart.

    Args:
        task: its name.
        items: of the pool.
        chances: by k, `hit_at_k` of a random ranking.
    """
    k = max(chances)
    if 2 * k > items:
        return (
            f"{task}: the {items:,} items are fewer than twice the cut k = {k}, so that a list holds most of them: "
            "search a larger pool, or lower `evaluate.ks`"
        )
    if min(chances.values()) > LIKELY:
        least = min(chances, key=lambda cut: chances[cut])
        return (
            f"{task}: a random ranking has hit@{least} {chances[least]:.3f}, as so many items are relevant: "
            "no hit@k tells models apart"
        )
    return None


def detect_wrong_size(groups: pl.DataFrame, promised: int | None) -> str | None:
    """Detect a pool that is not as large as the dataset's card says."""
    found = int(groups["in_pool"].sum())
    if promised is None or found == promised:
        return None
    return (
        f"the pool holds {found:,} pictures, the dataset's card promises {promised:,}: "
        "`dropped.parquet` of `filter` and `notes.parquet` of `resize` list those left out, with reasons"
    )
