"""The settings of the vector budget: which there are, and how each is searched, all queries at once or one by one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from twinlens.config.budget import BudgetParams
from twinlens.config.vector_forms import BETTER, BY_BITS, LEAST_DIMENSIONS, Axes, VectorForm
from twinlens.core.vectors import Vectors
from twinlens.retrieval.codes import Rows, Vector
from twinlens.retrieval.compression import CompressedItems, score_exactly
from twinlens.retrieval.dense import take_rows
from twinlens.retrieval.exact import find_nearest
from twinlens.retrieval.known import Known, learn
from twinlens.retrieval.scores import compute_exact_scores, order_by_score, scale_down
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import CAPTIONS, IMAGES, JOINED

WARM_UP = 2  # queries before the clock runs

Found = Int[np.ndarray, "queries k"]


@dataclass(frozen=True)
class MeasuredSearch:
    """What the settings are measured on: the search that the model is mainly for."""

    task: Task
    queries: Rows
    items: Rows
    known: Known


def choose_search(
    tasks: Sequence[Task], vectors: Mapping[str, Vectors], joint: bool, matryoshka: Sequence[int] = ()
) -> MeasuredSearch | None:
    """Choose what is measured: captions that search pictures, where a model puts both into one space, else object sets.

    Args:
        tasks: of the dataset.
        vectors: of the model, by the names of inputs.
        joint: whether pictures and words share a space.
        matryoshka: of the model's card.

    Returns:
        None where there is no such task, or no vectors for it.
    """
    source = IMAGES if IMAGES in vectors else JOINED
    for category, asks in (("t2i", CAPTIONS), ("i2i", source)):
        for task in tasks:
            right = task.about.category == category and task.item_images is None and task.about.published_of is None
            if not right or asks not in vectors or source not in vectors or (category == "t2i" and not joint):
                continue
            items = np.asarray(take_rows(vectors[source], task.item_ids))
            queries = np.asarray(take_rows(vectors[asks], task.query_ids))
            known = learn(
                vectors,
                items,
                task.item_ids,
                pictures=source == IMAGES,
                captions_ask=category == "t2i",
                matryoshka=matryoshka,
            )
            return MeasuredSearch(task, queries, items, known)
    return None


def list_settings(dim: int, params: BudgetParams, known: Known) -> list[VectorForm]:
    """List what is tried of vectors of some dimension, float32 as it is first; everything else is compared with it."""
    found = [VectorForm(), *(VectorForm(one) for one in params.precisions if one != "float32")]
    counts = sorted({round(dim * share) for share in params.dimension_shares}, reverse=True)
    kept: list[tuple[Axes, int]] = [("principal", count) for count in counts]
    kept += [("first", count) for count in sorted(set(known.matryoshka), reverse=True)]
    for axes, count in kept:
        fewer = [VectorForm("float32", axes, count), VectorForm(BETTER, axes, count)]
        found += [one for one in fewer if LEAST_DIMENSIONS <= count < dim and known.can_fit(one)]
    found += [VectorForm(one, rescored=best) for one in params.precisions if one in BY_BITS for best in params.rescored]
    return found


class Searchable(CompressedItems):
    """Items as one setting keeps them, searched."""

    def rank(
        self, queries: Rows, k: int, own_rows: Int[np.ndarray, " queries"] | None = None, device: str = "cpu"
    ) -> Found:
        """Find the `k` best items of all queries, exactly by this setting's scores; equal scores by item row."""
        asked, items = self.prepare(queries), self.codes.decode()
        # exact search allows for the error of products of unit vectors. A power of two is divided by without rounding
        # anything: scores that are equal stay so, and those that are not
        items = items / scale_down(items, asked)
        blocks = find_nearest(asked, items, self.count_candidates(k), own_rows=own_rows, device=device)
        rows = np.concatenate([block.rows for block in blocks])
        if self.better is None:
            return rows
        return order_by_score(rows, score_exactly(queries, self.better, rows))[0][:, :k]

    def search(self, query: Vector, k: int) -> Int[np.ndarray, " k"]:
        """Find the `k` best items of one query, as a search does that keeps nothing but the codes."""
        scores = self.products(query)
        depth = min(self.count_candidates(k), len(scores))
        best = np.argpartition(scores, len(scores) - depth)[len(scores) - depth :]
        again = scores[best] if self.better is None else self.better.decode(best) @ query
        return best[np.argsort(-again)[:k]]


def time_searches(kept: Sequence[Searchable], queries: Rows, k: int) -> list[float]:
    """Time one query, in milliseconds: the median of each, taken in turn, so that a busy machine slows all alike."""
    seconds: list[list[float]] = [[] for _ in kept]
    for number, query in enumerate([*queries[:WARM_UP], *queries]):
        for one, taken in zip(kept, seconds, strict=True):
            started = time.perf_counter()
            one.search(query, k)
            if number >= WARM_UP:
                taken.append(time.perf_counter() - started)
    return [1000.0 * statistics.median(taken) for taken in seconds]


def measure_recall(found: Found, queries: Rows, items: Rows, worst: Float32[np.ndarray, " queries"]) -> float:
    """Measure the share of the true best that was found: items that score at least as much as the k-th best.

    Args:
        found: rows of items.
        queries: unit vectors.
        items: unit vectors, as they were before.
        worst: the true score of each query's k-th best.
    """
    return float((compute_exact_scores(queries, items, found) >= worst[:, None]).mean())
