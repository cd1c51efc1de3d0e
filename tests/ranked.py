"""Folders as the `rank` stage leaves them, made by hand: a task, and runs with what is told of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32, Int

from twinlens.core import tables
from twinlens.evaluation.pool import Pool
from twinlens.retrieval.base import Dense, Retriever
from twinlens.retrieval.runs import RunWriter
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.inputs import IMAGES
from twinlens.tasks.qrels import Groups, Pairs

ABOUT = {
    "object_sets": TaskMetadata("Object sets: pictures alike", "i2i", 0, macro=True, published="object_sets"),
    "caption_to_image": TaskMetadata("Caption to image: the picture", "t2i", 1, published="labels"),
    "image_to_caption": TaskMetadata("Image to caption: its captions", "i2t", 2, published="labels"),
}
NOTHING = Dense(np.zeros((0, 1), np.float32), np.zeros((0, 1), np.float32))


def grouped(
    name: str,
    queries: Mapping[str, str],
    items: Mapping[str, str],
    *,
    about: TaskMetadata | None = None,
    images: Sequence[str] | None = None,
    themselves: bool = False,
    **others: Any,
) -> Task:
    """A task in which queries find the items of their group; both are given by id, with their groups.

    Args:
        name: of the task; what is told of it is that of `ABOUT`, if it is not given.
        queries: by id.
        items: by id.
        about: what is told of it.
        images: the pictures that the queries are, describe or begin with; their ids if absent.
        themselves: whether a query is an item too, which it must not find.
        others: fields of `Task`.
    """
    names = list(dict.fromkeys([*queries.values(), *items.values()]))
    of_queries, of_items = (np.array([names.index(group) for group in of.values()]) for of in (queries, items))
    ids, item_ids = list(queries), list(items)
    own = np.array([item_ids.index(query) for query in ids]) if themselves else None
    qrels = Groups(of_queries, of_items, own)
    shown = ids if images is None else list(images)
    return Task(name, about or ABOUT[name], ids, shown, item_ids, qrels, own, names, **others)


def listed(
    name: str, about: TaskMetadata, gains: Mapping[str, Mapping[str, float]], item_ids: Sequence[str], **others: Any
) -> Task:
    """A task whose relevant pairs are listed: by query, the items with their gains."""
    rows = [(query, item, gain) for query, own in gains.items() for item, gain in own.items()]
    schema = {"query_id": pl.String, "item_id": pl.String, "gain": pl.Float32}
    ids = list(gains)
    qrels = Pairs.of(pl.DataFrame(rows, schema=schema, orient="row"), ids, item_ids)
    return Task(name, about, ids, others.pop("query_images", ids), list(item_ids), qrels, **others)


def write_run(
    folder: Path,
    task: Task,
    rows: Int[np.ndarray, "queries depth"],
    scores: Float32[np.ndarray, "queries depth"],
    retriever: str = "image",
    *,
    ranks: tuple[Sequence[int], Sequence[int]] | None = None,
    inputs: tuple[str, ...] = (IMAGES,),
    chosen: Mapping[str, float] | None = None,
    **told: Any,
) -> Pool:
    """Write the task, and a run of it.

    Args:
        folder: of the task.
        task: who searches what.
        rows: of the items, best first.
        scores: theirs.
        retriever: whose run.
        ranks: of the first hits, in the pool and without distractors; those of the lists if absent, the last
            rank where a list has no hit.
        inputs: what an item is fed as.
        chosen: what the retriever chose.
        told: what else `Retriever` tells of a run.
    """
    task.write(folder)
    with RunWriter(folder / f"runs/{retriever}.parquet", task.query_ids, task.item_ids) as run:
        run.add(0, rows, scores.astype(np.float32))
    judged = task.qrels.judged()
    found = ranks or (
        [_first_hit(task, query, list(own), len(task.item_ids)) for query, own in enumerate(rows)],
        [_first_hit(task, q, [row for row in own if judged[row]], int(judged.sum())) for q, own in enumerate(rows)],
    )
    hits = {"query_id": task.query_ids, "rank": found[0], "rank_among_judged": found[1]}
    tables.write_table(pl.DataFrame(hits), folder / f"first_hits/{retriever}.parquet", tables.FIRST_HITS)
    costs = told.pop("costs", tuple(f"embed_{name}" for name in inputs))
    one = Retriever(retriever, lambda: NOTHING, inputs, costs, **told)
    said = one.told(NOTHING) | {"chosen": dict(chosen or {})}
    (folder / f"runs/{retriever}.json").write_text(json.dumps(said), encoding="utf-8")
    return Pool.read(folder)


def write_pool(folder: Path) -> Path:
    """What stands beside the tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pool.json").write_text('{"split": "test", "duplicates": 0}', encoding="utf-8")
    return folder


def _first_hit(task: Task, query: int, rows: list[int], last: int) -> int:
    relevant = set(task.qrels.relevant_rows(query).tolist())
    return next((rank for rank, row in enumerate(rows, start=1) if row in relevant), last)
