"""Measures of vectors that somebody else made: arrays in, measures with 95 % intervals out; no file is read or written.

>>> import twinlens                                                          # doctest: +SKIP
>>> print(twinlens.evaluate(image_vectors, text_vectors, right_picture))     # doctest: +SKIP

The ranking, the measures and the intervals are those of the pipeline: a number here can be put beside one there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float32

from twinlens.config.params import EvaluateParams
from twinlens.core.errors import DataError
from twinlens.core.vectors import UNIT, measure_lengths, normalise_rows
from twinlens.evaluation.evaluate import compute_intervals, tied_at
from twinlens.evaluation.intervals import Interval
from twinlens.evaluation.judgements import Judgements, read_judgements
from twinlens.evaluation.measures import Judged, measure_all, median_rank
from twinlens.evaluation.pool import DIGITS, Lists
from twinlens.retrieval.base import Dense
from twinlens.retrieval.block_ranking import rank_blocks
from twinlens.tasks.base import Task, TaskMetadata

DEPTH = 50  # items of a list, as in the pipeline's runs
RESAMPLES, SEED = 1000, 0  # of the bootstrap, as in params.yaml

Direction = Literal["t2i", "i2t"]
SIDES: dict[Direction, tuple[str, str]] = {"t2i": ("texts", "images"), "i2t": ("images", "texts")}
Matrix = Float32[np.ndarray, "rows dim"]


@dataclass(frozen=True)
class Evaluation:
    """Measures of one set of vectors: means, their 95 % intervals, and the value of every query.

    Attributes:
        measures: `<measure>_at_<k>` and `median_rank`: means over queries, rounded to six digits.
        intervals: of the same keys; bounds are None where no interval is defined, and `why` says so.
        per_query: a row a query: its row in the vectors (`query`), its `cluster`, the rank of its first relevant item
            in the whole pool (`first_hit`), whether equal scores stand on both sides of the last cut (`tied`), and the
            value of every measure.
        notes: what was done to the input, and what to know of it.
        direction: `t2i` or `i2t`.
        queries: how many.
        items: how many.
        clusters: how many.
    """

    measures: dict[str, float]
    intervals: dict[str, Interval]
    per_query: pl.DataFrame = field(repr=False)
    notes: tuple[str, ...]
    direction: Direction
    queries: int
    items: int
    clusters: int

    def __str__(self) -> str:
        """Format a table: a line a measure, its interval beside it."""
        asking, found = SIDES[self.direction]
        head = f"{self.queries:,} {asking} search {self.items:,} {found}; {self.clusters:,} clusters of queries"
        wide = max(map(len, self.measures))
        lines = [head, "", f"{'measure':<{wide}}   value   95 % interval"]
        for name, value in self.measures.items():
            bound = self.intervals[name]
            if bound.low is None or bound.high is None:
                told = f"not defined: {bound.why}"
            else:
                told = f"{_number(name, bound.low)} to {_number(name, bound.high)}"
            lines.append(f"{name:<{wide}}  {_number(name, value):>6}   {told}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def evaluate(
    image_vectors: Any,
    text_vectors: Any,
    relevance: Any,
    *,
    direction: Direction = "t2i",
    clusters: Sequence[Any] | np.ndarray | None = None,
    ks: Sequence[int] = (1, 5, 10),
) -> Evaluation:
    """Measure how well texts find their pictures, or pictures their texts, by cosine.

    Args:
        image_vectors: (images, dim); anything that NumPy makes an array of.
        text_vectors: (texts, dim).
        relevance: which pictures are right for each text: an array (texts,) of the row of the one right picture; or a
            list of lists of rows; or a matrix (texts, images), dense or of scipy.sparse, of booleans or of gains, where
            0 is not relevant. It says the same whichever side asks.
        direction: `t2i`, texts search pictures; or `i2t`, pictures search texts.
        clusters: a label a query; queries that share one are not independent, and intervals take them together. If
            absent, texts that have one right picture each belong together by it; otherwise every query is by itself.
        ks: the cuts.

    Raises:
        DataError: the arrays do not fit one another, a vector is useless, a row is out of range, or a text has no right
            picture. (A picture without a text is left out of the queries, which `notes` says.)
    """
    if direction not in SIDES:
        raise DataError(f"direction is {direction!r}: write 't2i' (texts search pictures) or 'i2t'")
    params = EvaluateParams(ks=_read_cuts(ks), referee_queries=1, resamples=RESAMPLES, seed=SEED)
    notes: list[str] = []
    images = _read_vectors(image_vectors, "image_vectors", notes)
    texts = _read_vectors(text_vectors, "text_vectors", notes)
    if images.shape[1] != texts.shape[1]:
        raise DataError(
            f"image_vectors have {images.shape[1]} dimensions and text_vectors {texts.shape[1]}: both have to be of "
            "one model, whose pictures and texts share a space"
        )
    by_text = read_judgements(relevance, len(texts), len(images))
    judged = by_text if direction == "t2i" else by_text.turned()
    asking, items = (texts, images) if direction == "t2i" else (images, texts)
    labels = _read_clusters(clusters, judged, len(asking), direction, notes)
    rows = judged.answerable()
    if len(rows) < len(asking):
        notes.append(f"{len(asking) - len(rows):,} of {len(asking):,} pictures have no text and do not ask")
    names = [labels[row] for row in rows]
    task = _build_task(by_text, judged.of_queries(rows), rows, names, direction)
    return _measure(task, names, asking[rows], items, np.asarray(rows), params, tuple(notes))


def _build_task(
    by_text: Judgements, judged: Judgements, rows: np.ndarray, clusters: list[str], direction: Direction
) -> Task:
    """Build the task, whose units are the pictures; a text of several pictures is one by itself.

    Intervals delete pictures, as those of the pipeline do, unless `clusters` divides the queries in another way.
    """
    pictures = [f"picture {row}" for row in range(by_text.items)]
    if by_text.one_each():
        of_texts = [pictures[row] for row in by_text.item]
    else:
        of_texts = [f"text {row}" for row in range(by_text.queries)]
    of_queries, of_items = (of_texts, pictures) if direction == "t2i" else (pictures, of_texts)
    own = [of_queries[row] for row in rows]
    alike = len(set(zip(own, clusters, strict=True))) == len(set(own)) == len(set(clusters))
    about = TaskMetadata(title="Vectors", category=direction, place=0, cluster_by="image_id" if alike else "group")
    ids, items = [str(row) for row in rows], [str(row) for row in range(judged.items)]
    return Task("vectors", about, ids, own, items, judged.qrels(), item_images=of_items)


def _measure(
    task: Task,
    clusters: list[str],
    queries: Matrix,
    items: Matrix,
    rows: np.ndarray,
    params: EvaluateParams,
    notes: tuple[str, ...],
) -> Evaluation:
    most = max(Counter(task.item_images or task.item_ids).values())  # move up at once where a picture is deleted
    depth = max(DEPTH, params.ks[-1] + most)
    found = list(rank_blocks(Dense(queries, items), task, depth, "cpu"))
    lists, scores = np.concatenate([one.rows for one in found]), np.concatenate([one.scores for one in found])
    first_hits = np.concatenate([one.first_hit for one in found if one.first_hit is not None])
    gains, ideal = task.qrels.gains(0, lists), task.qrels.ideal(lists.shape[1])
    if ideal is not None and np.isin(ideal, (0.0, 1.0)).all():  # as the pipeline measures what is right or not
        ideal = None
    values = measure_all(Judged(gains, task.qrels.counts(), ideal), params.ks)
    per_query = pl.DataFrame({"query": rows, "cluster": clusters, "first_hit": first_hits}).with_columns(
        pl.Series("tied", tied_at(scores, params.ks[-1])), *(pl.Series(name, value) for name, value in values.items())
    )
    means = {name: round(float(value.mean()), DIGITS) for name, value in values.items()}
    found_intervals = compute_intervals(per_query, Lists(lists, gains, scores), task, params)
    intervals = {name: both.main for name, both in found_intervals.items()}
    return Evaluation(
        means | {"median_rank": median_rank(first_hits)},
        intervals,
        per_query,
        notes,
        "t2i" if task.about.category == "t2i" else "i2t",
        len(rows),
        len(items),
        per_query["cluster"].n_unique(),
    )


def _read_vectors(given: Any, name: str, notes: list[str]) -> Matrix:
    """Read one side as float32 rows of unit length.

    Raises:
        DataError: it is no matrix of numbers, or a row is NaN, infinite or zero.
    """
    try:
        found = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} cannot be read as an array ({error}): give numbers of shape (rows, dim)") from None
    if found.ndim != 2 or found.dtype.kind not in "fiu" or not found.size:
        raise DataError(f"{name} has shape {found.shape} and type {found.dtype}: give numbers of shape (rows, dim)")
    with np.errstate(over="ignore"):
        rows: Matrix = found.astype(np.float32)
    if np.isfinite(found).all() and not np.isfinite(rows).all():
        raise DataError(f"{name} holds numbers beyond what float32 can: bring the rows to unit length first")
    try:
        unit = normalise_rows(rows)
    except DataError as error:
        raise DataError(f"{name}: {error}; leave these rows out, with their judgements") from None
    lengths = measure_lengths(rows)
    other = int((np.abs(lengths - 1.0) >= UNIT).sum())
    if not other:
        return rows
    notes.append(
        f"{name}: {other:,} of {len(rows):,} rows were not of unit length ({lengths.min():.4g} to {lengths.max():.4g}) "
        "and were brought to it"
    )
    return unit


def _read_clusters(
    given: Sequence[Any] | np.ndarray | None, judged: Judgements, queries: int, direction: Direction, notes: list[str]
) -> list[str]:
    if given is not None:
        labels = [str(label) for label in given]
        if len(labels) != queries:
            asking = SIDES[direction][0]
            raise DataError(f"clusters has {len(labels):,} labels for {queries:,} {asking} that ask: give one for each")
        return labels
    if direction == "t2i" and judged.one_each():
        return [str(row) for row in judged.item]
    if direction == "t2i":
        notes.append("texts have several right pictures: each counts as independent; `clusters` says which are not")
    return [str(row) for row in range(queries)]


def _read_cuts(ks: Sequence[int]) -> list[int]:
    cuts = sorted({int(k) for k in ks if isinstance(k, (int, np.integer)) and not isinstance(k, bool) and k > 0})
    if len(cuts) != len(list(ks)) or not cuts:
        raise DataError(f"ks is {list(ks)}: give whole numbers above 0, each once, such as (1, 5, 10)")
    return cuts


def _number(name: str, value: float) -> str:
    return f"{value:g}" if name == "median_rank" else f"{value:.3f}"
