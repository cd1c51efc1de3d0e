"""Caption tasks: captions search pictures, and pictures captions.

A picture stands for itself by its pixels, by its generated caption, or by both; its human captions are the other side.
On pictures outside the pool the weight of pixels beside words is chosen; they are inputs too.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from twinlens.config.params import Params
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.collection import Collection, build_text_inputs
from twinlens.tasks.inputs import (
    CAPTIONS,
    GENERATED,
    IMAGES,
    VALIDATION_CAPTIONS,
    VALIDATION_GENERATED,
    VALIDATION_IMAGES,
    Input,
    build_picture_input,
)
from twinlens.tasks.qrels import Groups
from twinlens.tasks.validation import draw_validation

CAPTION_TO_IMAGE, IMAGE_TO_CAPTION = "caption_to_image", "image_to_caption"


def build(collection: Collection, params: Params) -> tuple[list[Task], list[Input]]:
    """Build both tasks, where pictures of the pool have human captions."""
    if CAPTIONS not in collection.texts:
        return [], []
    captions, pool_ids = collection.texts[CAPTIONS], collection.pool_ids
    caption_ids, described_by = captions["id"].to_list(), captions["image_id"].to_list()
    groups = _codes(described_by, pool_ids)
    pictures = np.arange(len(pool_ids))
    there = Task(
        CAPTION_TO_IMAGE,
        TaskMetadata(
            title="Caption to image: the picture that a human caption describes",
            category="t2i",
            place=1,
            published="labels",
            query_text=CAPTIONS,
            item_picture=IMAGES,
        ),
        caption_ids,
        described_by,
        pool_ids,
        Groups(groups, pictures),
        group_names=pool_ids,
    )
    described, first = np.unique(groups, return_index=True)  # a picture without a caption can be found, not search
    described_ids = [pool_ids[code] for code in described]
    back = Task(
        IMAGE_TO_CAPTION,
        TaskMetadata(
            title="Image to caption: the human captions that describe a picture",
            category="i2t",
            place=2,
            published="labels",
            query_picture=IMAGES,
            item_text=CAPTIONS,
        ),
        described_ids,
        described_ids,
        caption_ids,
        Groups(described, groups),
        group_names=pool_ids,
        partners=first,
        item_images=described_by,
    )
    return [there, back], [*collection.inputs(), *_validation(collection, params)]


def _validation(collection: Collection, params: Params) -> list[Input]:
    """Select what weights are chosen on; nothing where no validation split lies outside the pool."""
    drawn = draw_validation(collection.groups, collection.captions, params.hybrid)
    if drawn.is_empty():
        return []
    texts = build_text_inputs(drawn, collection.captions, collection.generated_of_validation)
    inputs = [
        build_picture_input(VALIDATION_IMAGES, drawn, shared=True),
        Input(VALIDATION_CAPTIONS, texts[CAPTIONS], shared=True),
    ]
    if GENERATED in texts:
        inputs.append(Input(VALIDATION_GENERATED, texts[GENERATED], embedded=False))
    return inputs


def _codes(image_ids: Iterable[str], pool_ids: list[str]) -> Int[np.ndarray, " ids"]:
    code_of = {image_id: code for code, image_id in enumerate(pool_ids)}
    return np.array([code_of[image_id] for image_id in image_ids])
