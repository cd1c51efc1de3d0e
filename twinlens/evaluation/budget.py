"""What vectors in fewer bytes lose: measures of each setting, paired with float32, and the one to take.

Differences are those of `compare`: the same queries, pictures drawn anew on both sides, the jackknife of the lists of
both. Nothing here is approximate search: each setting is searched exactly, so that what is lost is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from scipy import stats

from twinlens.config.budget import BudgetParams
from twinlens.config.vector_forms import BETTER, VectorForm
from twinlens.evaluation.deletions import Deletions
from twinlens.evaluation.intervals import LEAST_CLUSTERS, bound_estimate, encode_clusters, find_alike
from twinlens.evaluation.jackknife import Measured, Sampling, estimate
from twinlens.evaluation.measures import MAIN
from twinlens.evaluation.recommendation import LEAST_TO_RECOMMEND, choose_setting
from twinlens.retrieval.budget import Searchable, list_settings, measure_recall, time_searches
from twinlens.retrieval.codes import Rows
from twinlens.retrieval.compression import encode
from twinlens.retrieval.exact import find_nearest
from twinlens.retrieval.known import Known
from twinlens.tasks.base import Task
from twinlens.tasks.qrels import Groups

HIT = "hit"
COLUMNS = (
    *("setting", "precision", "dimensions", "axes", "rescored", "bytes", "ms_per_query", "recall"),
    *(f"{name}{part}" for name in (HIT, MAIN.name) for part in ("", "_difference", "_low", "_high")),
    *("hit_least", "recommended", "k", "tolerance"),
)


@dataclass(frozen=True)
class Loss:
    """Measures of one setting, and what is lost of them."""

    means: list[float]  # hit and the main measure
    differences: list[float]
    bounds: list[tuple[float | None, float | None]]  # of each difference, 95 %; None: not defined
    least: float | None  # of the difference in hit, so that 95 % hold for all settings together; None: not defined


def measure_budget(
    task: Task, queries: Rows, items: Rows, params: BudgetParams, known: Known, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Measure every setting, one row each with the keys of `COLUMNS`, float32 first.

    Args:
        task: who searches what; its items are pictures or what a picture is fed as.
        queries: unit vectors, in the task's order.
        items: unit vectors, in the task's order.
        params: what is tried, and how much may be lost.
        known: what the settings learn from.
        device: where all queries are searched at once; single ones are timed on the CPU, as a search is.

    Raises:
        DataError: there are too few items to measure at k.
    """
    queries, items = (np.ascontiguousarray(side, dtype=np.float32) for side in (queries, items))
    left_out = 0 if task.exclude is None else int((task.exclude >= 0).any())
    depth = min(params.k + _count_most(task), len(items) - left_out)
    better = encode(items, BETTER)  # once for all that need it
    kept = [Searchable.of(one, items, known, better) for one in list_settings(items.shape[1], params, known)]
    asked = np.unique(np.linspace(0, len(queries) - 1, min(params.queries, len(queries))).astype(int))
    times = time_searches(kept, queries[asked], min(params.k, len(items)))
    k = min(params.k, depth)
    exact = find_nearest(queries, items, k, own_rows=task.exclude, device=device)
    worst = np.concatenate([found.scores[:, -1] for found in exact])
    lists = [one.rank(queries, depth, task.exclude, device) for one in kept]
    losses = compare_with_first(task, lists, params.k)
    rows = [
        {
            "setting": one.form.name,
            "precision": one.form.precision,
            "dimensions": one.form.dimensions or items.shape[1],
            "axes": _say_axes(one.form, known),
            "rescored": one.form.rescored,
            "bytes": one.item_bytes,
            "ms_per_query": round(milliseconds, 4),
            "recall": round(measure_recall(found[:, :k], queries, items, worst), 4),
            **_tell(loss),
        }
        for one, milliseconds, found, loss in zip(kept, times, lists, losses, strict=True)
    ]
    chosen = choose_setting(rows, params.tolerance)
    return [row | {"recommended": row is chosen, "k": params.k, "tolerance": params.tolerance} for row in rows]


def compare_with_first(task: Task, lists: Sequence[Int[np.ndarray, "queries depth"]], k: int) -> Iterator[Loss]:
    """Measure lists, and their paired differences from the first ones.

    Args:
        task: whose queries found them.
        lists: rows of items, best first, each as deep as the jackknife needs.
        k: of the measures.
    """
    first = _measure(task, lists[0], k, -1.0)
    sampling = _choose_sampling(first.deletions)
    for rows in lists:
        second = _measure(task, rows, k, 1.0)
        values = second.values
        means = [float(mean) for mean in values.now.mean(axis=0)]
        moved = values.now - first.values.now
        found = estimate([first, second], sampling)
        differences = [float(difference) for difference in moved.mean(axis=0)]
        if found.clusters < LEAST_CLUSTERS:
            yield Loss(means, differences, [(None, None)] * len(means), None)
            continue
        bounds = bound_estimate(found, find_alike(moved, sampling.clusters), (-1.0, 1.0))
        same = ~moved.any(axis=0)  # nothing to estimate a spread from; that no query changed is said by the difference
        told = [(0.0, 0.0) if none else (one.low, one.high) for none, one in zip(same, bounds, strict=True)]
        # Bonferroni over the settings: the one that is taken is chosen by these bounds
        t = stats.t.ppf(1.0 - 0.05 / max(1, len(lists) - 1), found.df[0])
        least = 0.0 if same[0] else float(found.mean[0] - t * np.sqrt(found.variance[0]))
        yield Loss(means, differences, told, least if found.clusters >= LEAST_TO_RECOMMEND else None)


def _measure(task: Task, rows: Int[np.ndarray, "queries depth"], k: int, share: float) -> Measured:
    deletions = Deletions.of(task, rows, task.qrels.gains(0, rows), k)
    return Measured(deletions, deletions.measure([k], [HIT, MAIN.name]), share)


def _count_most(task: Task) -> int:
    """Items of one picture, at most: so many more places than k the jackknife asks for."""
    if task.item_images is None:
        return 1
    return int(np.bincount(encode_clusters(task.item_images)).max(initial=1))


def _choose_sampling(deletions: Deletions) -> Sampling:
    task = deletions.task
    if task.about.cluster_by == "image_id":
        return Sampling.by_picture(deletions)
    groups = task.qrels.query_groups if isinstance(task.qrels, Groups) else deletions.units.of_queries
    return Sampling.by_cluster(np.unique(groups, return_inverse=True)[1])


def _say_axes(form: VectorForm, known: Known) -> str:
    if form.axes != "principal":
        return form.axes
    return f"principal, of {'other pictures' if known.other_pictures else 'the pool'}"


def _tell(loss: Loss) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, mean, difference, (low, high) in zip(
        (HIT, MAIN.name), loss.means, loss.differences, loss.bounds, strict=True
    ):
        own = {"": mean, "_difference": difference, "_low": low, "_high": high}
        told |= {f"{name}{part}": None if value is None else round(value, 4) + 0.0 for part, value in own.items()}
    return told | {"hit_least": None if loss.least is None else round(loss.least, 4)}
