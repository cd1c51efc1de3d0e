"""What a pool allows: the best that any model could reach on it, and how near to that chance is.

Two queries of the same text (and the same picture, where a query shows one) get the same list from every model that
gives the same answer to the same question. Where different items are right for them they cannot all be first, so the
best possible value of a measure may be far below 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from twinlens.evaluation.measures import Judged, headline, measure_all
from twinlens.evaluation.pool import DIGITS, Pool
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import Input
from twinlens.tasks.qrels import Groups

ITEMS_TIE = ("mrr", "hit")  # what is exact where items of equal text tie: it asks for the first relevant item only


def describe_ceiling(pool: Pool, inputs: Mapping[str, Input], ks: Sequence[int]) -> dict[str, Any]:
    """Describe how many of a pool's queries and items are distinct, and what a perfect model would reach.

    Args:
        pool: of a task.
        inputs: of the `tasks` stage, where the texts are that queries and items refer to.
        ks: the cuts.

    Returns:
        `distinct_queries` and `distinct_items`, where these are texts, and `ceiling`: by measure and cut the mean over
        queries of the best possible ranking, exact; empty where it is not known (`compute_ceiling`).
    """
    task = pool.task
    asked, items = gather_queries(task, inputs), gather_item_texts(task, inputs)
    found: dict[str, Any] = {}
    if asked is not None:
        found["distinct_queries"] = len(set(asked))
    if items is not None:
        found["distinct_items"] = len(set(items))
    ceiling = compute_ceiling(task, asked, items, ks)
    return found | {"ceiling": {name: round(value, DIGITS) for name, value in ceiling.items()}}


def gather_queries(task: Task, inputs: Mapping[str, Input]) -> list[Hashable] | None:
    """Gather what each query asks, its text with the pictures that it shows; None where queries are pictures alone."""
    name = task.about.query_text
    if task.texts is not None:
        texts = task.texts
    elif name is not None and name in inputs:
        texts = _texts(inputs[name], task.query_ids)
    else:
        return None
    if task.about.query_picture is None:
        return list(texts)
    shown = task.shown or [[image_id] for image_id in task.query_images]
    return [(text, *pictures) for text, pictures in zip(texts, shown, strict=True)]


def gather_item_texts(task: Task, inputs: Mapping[str, Input]) -> list[str] | None:
    """Gather the text of each item; None where items are pictures."""
    name = task.about.item_text
    return _texts(inputs[name], task.item_ids) if name is not None and name in inputs else None


def _texts(source: Input, ids: Sequence[str]) -> list[str]:
    text_of = dict(zip(source.rows["id"], source.rows["text"], strict=True))
    return [text_of[own] for own in ids]


def compute_ceiling(
    task: Task, asked: Sequence[Hashable] | None, items: Sequence[str] | None, ks: Sequence[int]
) -> dict[str, float]:
    """Compute the largest mean over queries that one answer to each question allows, as `<measure>_at_<k>`.

    * Queries that nobody else asks, or for which the same items are right, get the ideal list.
    * Queries of one question with one relevant item each share a list. A measure is then a falling function of the rank
      of that item, so the sum is largest when items stand in the order of how many of the queries they answer.
    * Items of equal text have equal scores and stand in the order of the pool, so the first relevant one is at best
      where it stands among its equals. Only MRR and hit are known then.

    Args:
        task: queries and judgements.
        asked: what each query asks; None: all differ.
        items: the text of each item; None: all differ.
        ks: the cuts.

    Returns:
        Nothing where several items are right for queries that ask the same and are not the same for all: the best list
        is then a search over orders.
    """
    depth, counts = max(ks), task.qrels.counts()
    names = [measure.name for measure in headline()]
    gains = np.zeros((len(counts), depth), dtype=np.float32)
    ideal = task.qrels.ideal(depth)
    if items is not None and len(set(items)) < len(items):
        if asked is not None and len(set(asked)) < len(asked):
            return {}
        names = [name for name in names if name in ITEMS_TIE]
        _put(gains, np.arange(len(counts)), _place_among_equals(task, items))
    else:
        if ideal is None:
            gains[:] = np.arange(depth) < counts[:, None]
        else:
            gains[:] = ideal
        for rows in _sets(asked or []):
            if _same_judgements(task, rows):
                continue
            if (counts[rows] != 1).any():
                return {}
            gains[rows] = 0
            right = [int(task.qrels.relevant_rows(int(row))[0]) for row in rows]
            place = {item: rank for rank, (item, _) in enumerate(Counter(right).most_common(), start=1)}
            _put(gains, rows, np.array([place[item] for item in right]), ideal)
    values = measure_all(Judged(gains, counts, ideal), ks, names)
    return {name: float(own.mean()) for name, own in values.items()}


def _put(
    gains: np.ndarray, rows: Int[np.ndarray, " rows"], ranks: Int[np.ndarray, " rows"], ideal: np.ndarray | None = None
) -> None:
    """Put the one relevant item of each row at its rank, where the list is as long."""
    inside = ranks <= gains.shape[1]
    gains[rows[inside], ranks[inside] - 1] = 1 if ideal is None else ideal[rows[inside], 0]


def _sets(asked: Sequence[Hashable]) -> list[Int[np.ndarray, " rows"]]:
    """The rows of queries that ask the same, where several do."""
    rows_of: dict[Hashable, list[int]] = {}
    for row, question in enumerate(asked):
        rows_of.setdefault(question, []).append(row)
    return [np.array(rows) for rows in rows_of.values() if len(rows) > 1]


def _same_judgements(task: Task, rows: Int[np.ndarray, " rows"]) -> bool:
    qrels = task.qrels
    if isinstance(qrels, Groups):
        return len(set(qrels.query_groups[rows].tolist())) == 1
    pairs = [qrels.pairs(int(row), int(row) + 1).select("item", "gain").rows() for row in rows]
    return all(own == pairs[0] for own in pairs)


def _place_among_equals(task: Task, items: Sequence[str]) -> Int[np.ndarray, " queries"]:
    """The place of each query's first relevant item among the items of equal text, in the order of the pool."""
    seen: Counter[str] = Counter()
    places = np.empty(len(items), dtype=np.int64)
    for row, text in enumerate(items):
        seen[text] += 1
        places[row] = seen[text]
    return np.array([places[task.qrels.relevant_rows(query)].min() for query in range(len(task.query_ids))])
