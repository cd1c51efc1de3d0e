"""Dataset statistics: counts found, dropped by rule, kept.

The file is small JSON that git keeps (`metrics/datasets/<dataset>.json`, an output of `group` with
`cache: false`). It is one file a dataset rather than one for the dataset in use, so that switching
datasets changes none of them and a change of the data is a line in `git diff`; and it is written by
`group` because that is the first stage that knows what is left after filtering, resizing and copies.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from twinlens.config.datasets import BaseDatasetCard, ComposedCard
from twinlens.core.scratch import write_whole_text
from twinlens.images.duplicates import Duplicates

CATEGORIES = 100  # at most so many are listed, the commonest first


def describe_dataset(
    name: str,
    card: BaseDatasetCard,
    counts: dict[str, Any],
    images: pl.DataFrame,
    captions: pl.DataFrame,
    notes: pl.DataFrame,
    groups: pl.DataFrame,
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
    used = groups.select("image_id").join(images, on="image_id", maintain_order="left")
    words = captions.filter(pl.col("image_id").is_in(used["image_id"].implode()))["text"].str.split(" ").list.len()
    aside = notes.filter(~pl.col("kept"))
    labels = used.explode("labels")["labels"].drop_nulls()
    described = {
        "dataset": name,
        "adapter": getattr(card, "adapter", ""),
        "licence": card.about.licence,
        "selection": card.selection,
        "sources": _sources(card),
        "pictures": {
            "found": counts["images"]["found"],
            "after_filter": counts["images"]["kept"],
            "after_resize": counts["images"]["kept"] - aside["image_id"].n_unique(),
            "after_duplicates": len(groups),
            "in_pool": int(groups["in_pool"].sum()),
        },
        "captions": counts["captions"] | {"median_words": _median(words)},
        "dropped": counts["dropped"],
        "set_aside": _counted(aside["note"].str.replace_all(r"[0-9]+", "N").to_list()),
        "mended": _counted(notes.filter(pl.col("kept"))["note"].to_list()),
        "duplicates": copies.counts(),
        "splits": _counted(used["split"].to_list()),
        "object_sets": groups["object_set"].drop_nulls().n_unique(),
        "categories": {"number": labels.n_unique(), "pictures_each": _counted(labels.to_list(), CATEGORIES)},
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


def _median(values: pl.Series) -> float | None:
    found = values.median()
    return float(found) if isinstance(found, int | float) else None


def _counted(values: list[str], most: int | None = None) -> dict[str, int]:
    """Commonest first, ties by name, so that the same data gives the same file."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))[:most])


def write_card(described: dict[str, Any], path: Path) -> None:
    """Write the file, stable in git."""
    write_whole_text(path, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
