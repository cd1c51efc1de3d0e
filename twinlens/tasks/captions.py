"""Captions search pictures, and pictures captions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from twinlens.tasks.base import Task


def caption_to_image(caption_ids: Iterable[str], image_ids: Iterable[str], pool_ids: list[str]) -> Task:
    """The task of that name, without retrievers.

    Args:
        caption_ids: the queries.
        image_ids: the picture that each describes.
        pool_ids: the items.
    """
    described = list(image_ids)
    return Task(
        "caption_to_image",
        query_ids=list(caption_ids),
        query_images=described,
        query_groups=_codes(described, pool_ids),
        item_ids=pool_ids,
        item_groups=np.arange(len(pool_ids)),
        group_names=pool_ids,
        own_rows=None,
    )


def _codes(image_ids: Iterable[str], pool_ids: list[str]) -> Int[np.ndarray, " ids"]:
    code_of = {image_id: code for code, image_id in enumerate(pool_ids)}
    return np.array([code_of[image_id] for image_id in image_ids])
