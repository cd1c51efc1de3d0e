"""The settings of the vector budget: which there are, and how each is searched, all queries at once or one by one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from twinlens.config.budget import BudgetParams
from twinlens.core.vectors import Vectors
from twinlens.retrieval.compression import Axes, Codes, Int8Steps, Rows, Vector, encode
from twinlens.retrieval.dense import take_rows
from twinlens.retrieval.exact import find_nearest
from twinlens.retrieval.scores import compute_exact_scores, order_by_score
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import CAPTIONS, IMAGES, JOINED, NEGATIVES, VALIDATION_CAPTIONS, VALIDATION_IMAGES

LEAST_DIMENSIONS = 8  # fewer are not tried
BETTER = "int8"  # by `Int8Steps`, the best by bits get new scores
WARM_UP = 2  # queries before the clock runs
BY_BITS = ("binary", "rotated_bits")

Found = Int[np.ndarray, "queries k"]


@dataclass(frozen=True)
class Known:
    """What the settings learn from, beside the items."""

    fitted_on: Rows  # pictures whose principal axes are taken
    other_pictures: bool  # whether these are others than the items
    mean_query: Vector | None = None  # of queries that are not measured; None: there are none
    matryoshka: Sequence[int] = ()  # so many first dimensions stand alone, by the model's card


@dataclass(frozen=True)
class BudgetSetting:
    """One way to keep and search vectors."""

    precision: str
    axes: Axes | None = None  # None: all dimensions
    rescored: int | None = None  # so many of the best get new scores by int8

    @property
    def name(self) -> str:
        """For tables: `256 principal dimensions, int8`."""
        first = [] if self.axes is None else [f"{self.axes.kept} {self.kind} dimensions"]
        last = [] if self.rescored is None else [f"the best {self.rescored} again by {BETTER}"]
        return ", ".join([*first, self.precision.replace("_", " "), *last])

    @property
    def kind(self) -> str:
        """Which dimensions are kept."""
        return "all" if self.axes is None else "first" if self.axes.axes is None else "principal"


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

    Principal axes are those of pictures outside the pool (validation's, the negatives of category search) where there
    are twice as many as dimensions; else of the items themselves, of which nothing but the vectors is looked at.

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
            others = _take_others(vectors, set(task.item_ids)) if source == IMAGES else items[:0]
            enough = len(others) >= 2 * items.shape[1]
            mean: Vector | None = None
            if category == "i2i":
                mean = items.mean(axis=0)
            elif VALIDATION_CAPTIONS in vectors:
                mean = np.asarray(vectors[VALIDATION_CAPTIONS].unit).mean(axis=0)
            return MeasuredSearch(task, queries, items, Known(others if enough else items, enough, mean, matryoshka))
    return None


def _take_others(vectors: Mapping[str, Vectors], pool: set[str]) -> Rows:
    seen, found = set(pool), [np.zeros((0, vectors[IMAGES].rows.shape[1]), np.float32)]
    for name in (VALIDATION_IMAGES, NEGATIVES):
        if name in vectors:
            rows = [row for row, image_id in enumerate(vectors[name].image_ids) if image_id not in seen]
            seen |= set(vectors[name].image_ids)
            found.append(np.asarray(vectors[name].unit[rows]))
    return np.vstack(found)


def list_settings(dim: int, params: BudgetParams, known: Known) -> list[BudgetSetting]:
    """List what is tried of vectors of some dimension, float32 as it is first; everything else is compared with it."""
    found = [BudgetSetting("float32"), *(BudgetSetting(one) for one in params.precisions if one != "float32")]
    shares = {round(dim * share) for share in params.dimension_shares}
    kept = [Axes.principal(known.fitted_on, count) for count in sorted(shares, reverse=True) if count < dim]
    kept += [Axes.first(count) for count in sorted(set(known.matryoshka), reverse=True) if count < dim]
    for axes in kept:
        if axes.kept >= LEAST_DIMENSIONS:
            found += [BudgetSetting("float32", axes), BudgetSetting(BETTER, axes)]
    found += [BudgetSetting(one, None, best) for one in params.precisions if one in BY_BITS for best in params.rescored]
    return found


class Searchable:
    """Items as one setting keeps them."""

    def __init__(self, setting: BudgetSetting, items: Rows, known: Known, better: Int8Steps | None = None) -> None:
        """Encode.

        Args:
            setting: how.
            items: unit vectors.
            known: what is learned from beside them.
            better: the items in int8, where several settings share them.
        """
        self.setting = setting
        keep = setting.axes
        self.codes: Codes = encode(items if keep is None else keep.keep(items), setting.precision, known.mean_query)
        self.better = None if setting.rescored is None else better or Int8Steps.of(items)

    @property
    def item_bytes(self) -> float:
        """Bytes of one item, those of the vectors for new scores among them."""
        return self.codes.item_bytes + (0.0 if self.better is None else self.better.item_bytes)

    def rank(
        self, queries: Rows, k: int, own_rows: Int[np.ndarray, " queries"] | None = None, device: str = "cpu"
    ) -> Found:
        """Find the `k` best items of all queries, exactly by this setting's scores; equal scores by item row."""
        axes, depth = self.setting.axes, max(k, self.setting.rescored or 0)
        asked = self.codes.prepare(queries if axes is None else axes.keep(queries))
        items = self.codes.decode()
        longest = float(np.linalg.norm(items, axis=1).max(initial=0.0)) * float(np.linalg.norm(asked, axis=1).max())
        # exact search allows for the error of products of unit vectors; a common factor moves nothing
        items = items / np.float32(max(1.0, longest))
        blocks = find_nearest(asked, items, depth, own_rows=own_rows, device=device)
        rows = np.concatenate([block.rows for block in blocks])
        if self.better is None:
            return rows
        scores = compute_exact_scores(queries, self.better.decode(), rows)
        return order_by_score(rows, scores)[0][:, :k]

    def search(self, query: Vector, k: int) -> Int[np.ndarray, " k"]:
        """Find the `k` best items of one query, as a search does that keeps nothing but the codes."""
        axes, depth = self.setting.axes, max(k, self.setting.rescored or 0)
        asked = query if axes is None else axes.keep(query[None])[0]
        scores = self.codes.products(asked)
        depth = min(depth, len(scores))
        best = np.argpartition(scores, len(scores) - depth)[len(scores) - depth :]
        again = scores[best] if self.better is None else self.better.products_of(best, query)
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
