"""Dataset statistics: counts found, dropped by rule, kept.

The file is small JSON that git keeps (`metrics/datasets/<dataset>.json`, an output of `group` with
`cache: false`). It is one file a dataset rather than one for the dataset in use, so that switching
datasets changes none of them and a change of the data is a line in `git diff`; and it is written by
`group` because that is the first stage that knows what is left after filtering, resizing and copies.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from twinlens.config.datasets import BaseDatasetCard, ComposedCard
from twinlens.core.id_rows import Hashes, IdRows, hash_ids
from twinlens.core.scratch import write_whole_text
from twinlens.core.stored_tables import Table, iter_slices
from twinlens.images.duplicates import Duplicates

CATEGORIES = 100  # at most so many are listed, the commonest first


def describe_dataset(
    name: str,
    card: BaseDatasetCard,
    counts: dict[str, Any],
    images: Table,
    captions: Table,
    notes: Table,
    groups: Table,
    copies: Duplicates,
) -> dict[str, Any]:
    """Gather the statistics.

    Args:
        name: the dataset's name.
        card: its card.
        counts: `counts.json` of the `filter` stage.
        images: table IMAGES.
        captions: table CAPTIONS.
        notes: table NOTES.
        groups: table GROUPS.
        copies: what `find_duplicates` found.
    """
    used = IdRows.of(part["image_id"] for part in iter_slices(groups, ("image_id",)))
    splits, labels, words = Counter[str](), Counter[str](), Counter[int]()
    for part in iter_slices(images, ("image_id", "split", "labels")):
        mine = part.filter(pl.Series(used.find(part["image_id"]) >= 0))
        splits.update(mine["split"].to_list())
        labels.update(mine["labels"].explode().drop_nulls().to_list())
    for part in iter_slices(captions, ("image_id", "text")):
        mine = part.filter(pl.Series(used.find(part["image_id"]) >= 0))
        words.update(mine["text"].str.split(" ").list.len().to_list())
    aside, mended, ids_aside = Counter[str](), Counter[str](), set[str]()
    for part in iter_slices(notes, ("image_id", "kept", "note")):
        gone = part.filter(~pl.col("kept"))
        aside.update(gone["note"].str.replace_all(r"[0-9]+", "N").to_list())
        ids_aside.update(gone["image_id"])
        mended.update(part.filter("kept")["note"].to_list())
    in_pool = 0
    sets: list[Hashes] = [np.zeros((0, 2), dtype=np.int64)]
    for part in iter_slices(groups, ("in_pool", "object_set")):
        in_pool += int(part["in_pool"].sum())
        sets.append(np.unique(hash_ids(part["object_set"].drop_nulls()), axis=0))
    described = {
        "dataset": name,
        "adapter": getattr(card, "adapter", ""),
        "licence": card.about.licence,
        "selection": card.selection,
        "sources": _sources(card),
        "pictures": {
            "found": counts["images"]["found"],
            "after_filter": counts["images"]["kept"],
            "after_resize": counts["images"]["kept"] - len(ids_aside),
            "after_duplicates": len(groups),
            "in_pool": in_pool,
        },
        "captions": counts["captions"] | {"median_words": _median(words)},
        "dropped": counts["dropped"],
        "set_aside": _counted(aside),
        "mended": _counted(mended),
        "duplicates": copies.counts(),
        "splits": _counted(splits),
        "object_sets": len(np.unique(np.concatenate(sets), axis=0)),
        "categories": {"number": len(labels), "pictures_each": _counted(labels, CATEGORIES)},
    }
    return described | ({"keep": counts["keep"]} if "keep" in counts else {})


def _sources(card: BaseDatasetCard) -> list[str]:
    """Origin of the pictures, without paths of this machine: variables of the environment stay unexpanded."""
    if isinstance(card, ComposedCard):
        return [*_sources(card.queries), *_sources(card.distractors)]
    found = [getattr(card, key) for key in ("source", "images", "table") if getattr(card, key, None)]
    if not found and getattr(card, "repository", None):
        return [f"https://huggingface.co/datasets/{getattr(card, 'repository')}@{getattr(card, 'revision')}"]  # noqa: B009
    return found or [f"the publishers of {getattr(card, 'adapter', 'the dataset')}"]


def _median(counts: Counter[int]) -> float | None:
    """The median of values, of which is said how often each is there."""
    values = sorted(counts)
    if not values:
        return None
    total, ends = counts.total(), list(accumulate(counts[value] for value in values))
    low, high = (values[bisect_right(ends, place)] for place in ((total - 1) // 2, total // 2))
    return (low + high) / 2


def _counted(counts: Counter[str], most: int | None = None) -> dict[str, int]:
    """Commonest first, ties by name, so that the same data gives the same file."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most])


def write_card(described: dict[str, Any], path: Path) -> None:
    """Write the file, stable in git."""
    write_whole_text(path, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
