"""Object sets: a picture searches for the others that show exactly the same kinds of objects (source 001)."""

from __future__ import annotations

import numpy as np

from twinlens.config.params import Params
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.collection import Collection
from twinlens.tasks.inputs import IMAGES, Input
from twinlens.tasks.qrels import Groups


def build(collection: Collection, params: Params) -> tuple[list[Task], list[Input]]:
    """Build the task, where pictures share their object set; `group` has decided who does."""
    pool = collection.pool
    chosen = np.flatnonzero(pool["object_set"].is_not_null().to_numpy())
    if not len(chosen):
        return [], []
    ids = pool["image_id"].gather(chosen).to_list()
    names, codes = np.unique(pool["object_set"].gather(chosen).to_numpy().astype(str), return_inverse=True)
    own = np.arange(len(ids))
    about = TaskMetadata(
        title="Object sets: pictures that show exactly the same kinds of objects",
        category="i2i",
        place=0,
        macro=True,
        published="object_sets",
        query_picture=IMAGES,
        item_picture=IMAGES,
    )
    task = Task("object_sets", about, ids, ids, ids, Groups(codes, codes, own), own, names.tolist())
    return [task], collection.inputs()
