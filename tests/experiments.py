"""Experiments and candidates of a comparison made in memory, from vectors or from lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64, Int

from tests.ranked import ABOUT
from twinlens.evaluation.candidates import Candidate
from twinlens.evaluation.deletions import Deletions
from twinlens.evaluation.experiments import Experiment
from twinlens.evaluation.measures import Judged, measure_all
from twinlens.evaluation.pool import Lists
from twinlens.tasks.base import Task
from twinlens.tasks.qrels import Groups

Rows = Int[np.ndarray, "queries depth"]
Vectors = Float64[np.ndarray, "rows dim"]
KS = (1, 5, 10)


def rank(queries: Vectors, items: Vectors, depth: int, own: Int[np.ndarray, " queries"] | None = None) -> Rows:
    """The items nearest to each query by cosine, best first, without its own."""
    scores = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        items / np.linalg.norm(items, axis=1, keepdims=True)
    ).T
    if own is not None:
        scores[np.arange(len(scores)), own] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, : min(depth, len(items) - (own is not None))]


def object_sets(sets: Int[np.ndarray, " pictures"]) -> Task:
    """A task of pictures by the number of their set, each of two pictures or more."""
    codes = np.unique(sets, return_inverse=True)[1]
    ids = [f"p{n:04d}" for n in range(len(sets))]
    own = np.arange(len(sets))
    names = [f"set {n}" for n in range(codes.max() + 1)]
    return Task("object_sets", ABOUT["object_sets"], ids, ids, ids, Groups(codes, codes, own), own, names)


def caption_to_image(pictures: int, captions: int) -> Task:
    """A task of so many pictures with so many captions each."""
    ids = [f"p{n:04d}" for n in range(pictures)]
    of = [image_id for image_id in ids for _ in range(captions)]
    names = [f"{image_id}#{n % captions}" for n, image_id in enumerate(of)]
    groups = Groups(np.repeat(np.arange(pictures), captions), np.arange(pictures))
    return Task("caption_to_image", ABOUT["caption_to_image"], names, of, ids, groups, group_names=ids)


def image_to_caption(pictures: int, captions: int) -> Task:
    """The task the other way round: a picture's captions are items of one picture."""
    there = caption_to_image(pictures, captions)
    groups = Groups(np.arange(pictures), np.repeat(np.arange(pictures), captions))
    about, ids = ABOUT["image_to_caption"], there.item_ids
    return Task(about.title, about, ids, ids, there.query_ids, groups, group_names=ids, item_images=there.query_images)


def judge(task: Task, rows: Rows, k: int = 10) -> Deletions:
    """What deleting each picture does to the lists of a run."""
    return Deletions.of(task, rows, task.qrels.gains(0, rows), k)


def experiment(name: str, task: Task, runs: Mapping[str, Rows], *, k: int = 10, **pool: Any) -> Experiment:
    """An experiment of some runs of one task; `pool` changes what is told of it."""
    lists = {
        retriever: Lists(rows, task.qrels.gains(0, rows), np.zeros(rows.shape, np.float32))
        for retriever, rows in runs.items()
    }
    groups = task.qrels.query_groups if isinstance(task.qrels, Groups) else np.zeros(len(task.query_ids), int)
    tables = {}
    for retriever, own in lists.items():
        judged = Judged(own.gains, task.qrels.counts(), task.qrels.ideal(own.gains.shape[1]))
        hits = np.where(judged.relevance.any(axis=1), 1 + judged.relevance.argmax(axis=1), len(task.item_ids))
        of_queries = {
            "query_id": task.query_ids,
            "group": [f"g{group}" for group in groups],
            "cluster": task.query_images if task.about.cluster_by == "image_id" else [f"g{g}" for g in groups],
            "first_hit": hits,
        }
        ks = [at for at in KS if at <= k]
        tables[f"{task.name}/{retriever}.parquet"] = pl.DataFrame(of_queries | measure_all(judged, ks))
    told = {
        "dataset": "d",
        "split": "test",
        "queries": len(task.query_ids),
        "items": len(task.item_ids),
        "queries_digest": "q",
        "items_digest": "i",
        "retrievers": list(runs),
        "k": k,
    }
    return Experiment(
        name,
        {},
        {task.name: told | pool},
        [(task.name, retriever) for retriever in runs],
        tables.__getitem__,
        lambda _, retriever: (task, lists[retriever]),
    )


def alone(*experiments: Experiment) -> list[Candidate]:
    """Each as a candidate of its own."""
    return [Candidate(each.name, (each,)) for each in experiments]
