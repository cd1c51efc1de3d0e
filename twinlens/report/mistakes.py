"""Where errors come from: of the queries whose first item is wrong, what that item was."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from twinlens.evaluation import Pool
from twinlens.report.galleries import Album
from twinlens.runs import read_run

NEAR = 0.01  # scores this close to the first item's count as nearly equal

CAUSES = (
    "shows exactly the same kinds of objects",
    "shows some of the same kinds of objects",
    "shows none of them",
    "is the same file as the query's picture",
    "was found by a caption that also stands under another picture",
    "has a relevant item within 0.01 of its score",
    "stands in a list that ties across the cut",
)


@dataclass(frozen=True)
class Mistakes:
    """Counts over one run; a wrong query may count under several causes."""

    task: str
    retriever: str
    queries: int
    wrong: int  # the first item is not relevant
    causes: dict[str, int]


def of_run(pool: Pool, retriever: str, values: pl.DataFrame, album: Album, sha256: dict[str, str]) -> Mistakes:
    """Sort out the wrong first items of a run.

    Args:
        pool: of the task.
        retriever: whose run.
        values: measures of its queries, with `tied`.
        album: captions and labels.
        sha256: of the pictures' bytes, by image id.
    """
    first, close = _first_items(pool, retriever)
    wrong = np.flatnonzero(pool.item_groups[first] != pool.query_groups)
    queries, items = pool.queries["query_id"].to_list(), pool.items["item_id"].to_list()
    own = pool.queries["image_id"].to_list()
    shared = _texts_of_several(album)
    tied = values["tied"].to_numpy()
    causes: Counter[str] = Counter()
    for row in wrong:
        asked, got = album.pictures[own[row]], album.picture(items[first[row]])
        wanted, shown = set(asked.labels.split(", ")), set(got.labels.split(", "))
        true = (
            wanted == shown,
            wanted != shown and bool(wanted & shown),
            not wanted & shown,
            sha256.get(asked.image_id) == sha256.get(got.image_id),
            album.texts.get(queries[row]) in shared,
            bool(close[row]),
            bool(tied[row]),
        )
        causes.update(cause for cause, holds in zip(CAUSES, true, strict=True) if holds)
    return Mistakes(pool.name, retriever, len(queries), len(wrong), dict(causes))


def _first_items(pool: Pool, retriever: str) -> tuple[Int[np.ndarray, " queries"], Bool[np.ndarray, " queries"]]:
    """The first item of every query, and whether a relevant one stands close behind it."""
    queries, items = pool.queries["query_id"].to_list(), pool.items["item_id"].to_list()
    firsts, close = [], []
    for start, rows, scores in read_run(pool.folder / "runs" / f"{retriever}.parquet", queries, items):
        relevant = pool.item_groups[rows] == pool.query_groups[start : start + len(rows), None]
        firsts.append(rows[:, 0])
        close.append((relevant & (scores >= scores[:, :1] - NEAR)).any(axis=1))
    return np.concatenate(firsts), np.concatenate(close)


def _texts_of_several(album: Album) -> set[str]:
    """Captions that stand under more than one picture: generic ones."""
    images: dict[str, set[str]] = {}
    for caption_id, text in album.texts.items():
        images.setdefault(text, set()).add(album.image_of[caption_id])
    return {text for text, of in images.items() if len(of) > 1}
