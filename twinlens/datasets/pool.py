"""The pool and its object sets: every usable picture's set of objects, and whether it is in the pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np
import polars as pl
from jaxtyping import Int

from twinlens.core.errors import DataError
from twinlens.core.id_rows import Hashes, IdRows, hash_ids
from twinlens.core.stored_tables import Table, iter_slices

PLACE = ("image_id", "shard", "row", "sha256")  # of table INDEX


def group_images(
    images: Table, captions: Table, index: Table, pool: str, min_group_size: int, gone: Collection[str] = ()
) -> pl.DataFrame:
    """Group the pictures, see `iter_groups`, as one table."""
    return pl.concat(iter_groups(images, captions, index, pool, min_group_size, gone))


def iter_groups(
    images: Table, captions: Table, index: Table, pool: str, min_group_size: int, gone: Collection[str] = ()
) -> Iterator[pl.DataFrame]:
    """Join labels with the pictures that survived resizing and group the pool by object set: table GROUPS, in slices.

    An object set is the set of kinds of objects in a picture, written as sorted names joined by
    commas. Pictures of the pool without a label, or without a caption where others have one, or whose
    set is shared by fewer than `min_group_size` such pictures, have none: they are neither query nor
    item of the object-set task, whichever model is measured, but stay in the other tasks.

    In memory are about 60 bytes a picture: two hashes of its id and of its object set.

    Args:
        images: `image_id`, `split`, `labels` (table IMAGES).
        captions: `image_id` (table CAPTIONS).
        index: `image_id`, `shard`, `row`, ... of the pixels (table INDEX); decides the order.
        pool: the split whose pictures are queries and items, or `all`.
        min_group_size: see above.
        gone: ids of pictures that are left out.

    Raises:
        DataError: the pool is empty.
    """
    ids = IdRows.of(part["image_id"] for part in iter_slices(images, ("image_id",)))
    found_in = np.concatenate([np.zeros(0, np.int32), *(_find(ids, p, gone) for p in iter_slices(index, PLACE[:1]))])
    rows = found_in[found_in >= 0]
    ordered = bool((np.diff(rows) > 0).all())
    described = np.zeros(len(ids), dtype=bool)
    for part in iter_slices(captions, ("image_id",)):
        found = ids.find(part["image_id"])
        described[found[found >= 0]] = True
    in_pool = np.ones(len(ids), dtype=bool)
    sets: list[Hashes] = []
    empty = np.zeros(len(ids), dtype=bool)
    start = 0
    for part in iter_slices(images, ("split", "labels")):
        here = slice(start, start + len(part))
        in_pool[here] = (part["split"] == pool).to_numpy() if pool != "all" else True
        names = part["labels"].list.join(",")
        empty[here] = (names == "").to_numpy()
        sets.append(hash_ids(names))
        start += len(part)
    if not in_pool[rows].any():
        there = Counter(split for part in _join(index, images, found_in, ordered) for split in part["split"])
        raise DataError(f"no usable picture in split '{pool}'; found {dict(there)}. Choose another `pool` on the card")
    searched = (in_pool & ~empty)[rows]
    if (described & in_pool)[rows].any():
        searched &= described[rows]
    members = IdRows.of_hashes([np.concatenate(sets)[rows[searched]]]).find_firsts()
    shared = np.zeros(len(rows), dtype=bool)
    shared[searched] = np.bincount(members, minlength=len(members))[members] >= min_group_size
    start = 0
    for part in _join(index, images, found_in, ordered):
        here = slice(start, start + len(part))
        start += len(part)
        yield part.select(
            "image_id",
            "split",
            pl.Series("in_pool", in_pool[rows[here]]),
            pl.when(pl.Series(shared[here])).then(pl.col("labels").list.join(",")).otherwise(None).alias("object_set"),
            "shard",
            "row",
            "sha256",
        )


def _find(ids: IdRows, index: pl.DataFrame, gone: Collection[str]) -> Int[np.ndarray, " index"]:
    """The row of `images` that each row of a slice of the index is about; -1 where it is left out."""
    found = ids.find(index["image_id"]).astype(ids.rows.dtype)
    if gone:
        found[index["image_id"].is_in(list(gone)).to_numpy()] = -1
    return found


def _join(index: Table, images: Table, found_in: Int[np.ndarray, " index"], ordered: bool) -> Iterator[pl.DataFrame]:
    """The index with `split` and `labels` of its pictures; all labels are in memory where it has another order."""
    slices = iter_slices(images, ("split", "labels"))
    held, first = next(slices), 0  # rows of `images` in memory, and the number of the first
    if not ordered:
        held = pl.concat([held, *slices])
    start = 0
    for part in iter_slices(index, PLACE):
        found = found_in[start : start + len(part)]
        start += len(part)
        chosen = found >= 0
        rows = found[chosen]
        if not len(rows):
            continue
        while first + len(held) <= rows.max():
            held = pl.concat([held, next(slices)])
        yield part.filter(pl.Series(chosen)).hstack(held[rows - first])
        if ordered:
            held, first = held[rows[-1] - first :], int(rows[-1])
