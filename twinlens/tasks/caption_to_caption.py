"""Caption to caption: each caption searches for the others of its picture, by words alone.

It measures a text tower by itself, and so what two separate towers can be measured by where pictures have captions and
no labels. A query's own row is left out of what it finds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from twinlens.config.params import Params
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.collection import Collection
from twinlens.tasks.inputs import CAPTIONS, Input
from twinlens.tasks.qrels import Groups

NAME = "caption_to_caption"
MOST_QUERIES = 5_000  # of COCO's 600,000 captions, each would be compared with each; so many tell models apart to .01


def build(collection: Collection, params: Params) -> tuple[list[Task], list[Input]]:
    """Build the task, where pictures of the pool have several human captions."""
    if CAPTIONS not in collection.texts:
        return [], []
    captions = collection.texts[CAPTIONS]
    caption_ids, described = captions["id"].to_list(), captions["image_id"].to_list()
    names, groups = np.unique(np.array(described, dtype=str), return_inverse=True)
    asking = choose_queries(names.tolist(), groups, MOST_QUERIES)
    if not len(asking):
        return [], []
    about = TaskMetadata(
        title="Caption to caption: the other human captions of the picture that a caption describes",
        category="t2t",
        place=3,
        query_text=CAPTIONS,
        item_text=CAPTIONS,
    )
    task = Task(
        NAME,
        about,
        [caption_ids[row] for row in asking],
        [described[row] for row in asking],
        caption_ids,
        Groups(groups[asking], groups, asking),
        asking,
        names.tolist(),
    )
    return [task], collection.inputs()


def choose_queries(
    names: Sequence[str], groups: Int[np.ndarray, " captions"], most: int
) -> Int[np.ndarray, " queries"]:
    """Choose the captions that search: all of pictures with several, or of as many pictures as make `most` of them.

    Which pictures these are is decided by digests of their ids, so that the draw needs no seed and hardly moves when
    pictures come or go.

    Args:
        names: ids of the pictures.
        groups: the picture of each caption, as a place in `names`.
        most: captions.

    Returns:
        Rows of captions, rising; all captions of a picture, or none.
    """
    counts = np.bincount(groups, minlength=len(names))
    several = np.flatnonzero(counts > 1).tolist()
    lots = sorted(several, key=lambda code: hashlib.sha256(names[code].encode()).digest())
    taken = np.zeros(len(names), dtype=bool)
    if lots:
        taken[lots[: max(1, int((np.cumsum(counts[lots]) <= most).sum()))]] = True
    return np.flatnonzero(taken[groups])
