"""Which pictures and captions of a dataset are kept: pure rules on rows, every drop with its reason.

Rows are gone through some thousands at a time, and pass from spool to spool. In memory are, for each picture, its id as
two hashes and what is known of it (about 30 bytes), and the same for each caption where repeated ones are dropped.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Bool, Int

from twinlens.config.params import FilterParams
from twinlens.core import tables
from twinlens.core.errors import DataError
from twinlens.core.id_rows import Hashes, IdRows, hash_ids
from twinlens.core.spool import Spool, iter_parts, number_parts
from twinlens.datasets.annotations import SPLITS, Annotations, Drop, RawComposedQuery, RawImage
from twinlens.datasets.captions import choose_captions
from twinlens.datasets.spelling import is_unicode, printable


def resplit(annotations: Annotations, val: float, test: float, seed: int) -> Annotations:
    """The same pictures in splits drawn anew: `val` and `test` are shares of all, `train` the rest.

    A picture's split depends on its id and the seed alone, so it stays when others come or go. All
    captions of a picture are on its side.
    """

    def drawn(image: RawImage) -> str:
        number = int.from_bytes(hashlib.sha256(f"{seed}/{image.image_id}".encode()).digest()[:8], "big") / 2**64
        return "test" if number < test else "val" if number < test + val else "train"

    images = Spool(RawImage, (replace(image, split=drawn(image)) for image in annotations.images))
    return replace(annotations, images=images)


@dataclass
class Kept:
    """What the `filter` stage keeps and drops, as rows of its tables."""

    image_rows: Spool[tuple[Any, ...]]
    caption_rows: Spool[tuple[Any, ...]]
    query_rows: Spool[tuple[Any, ...]]
    drops: Spool[Drop]
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the tables, a row group in memory at a time."""
        for name, (rows, schema) in self._tables().items():
            with tables.TableWriter(folder / f"{name}.parquet", schema) as table:
                for part in rows.parts():
                    table.add(_as_table(part, schema))

    def _tables(self) -> dict[str, tuple[Spool[tuple[Any, ...]], pa.Schema]]:
        return {
            "images": (self.image_rows, tables.IMAGES),
            "captions": (self.caption_rows, tables.CAPTIONS),
            "composed_queries": (self.query_rows, tables.COMPOSED_QUERIES),
            "dropped": (self.drops, tables.DROPPED),
        }

    def read(self, name: str) -> pl.DataFrame:
        """Read one of the tables as a whole."""
        rows, schema = self._tables()[name]
        found = pl.from_arrow(pa.concat_tables([schema.empty_table(), *(_as_table(p, schema) for p in rows.parts())]))
        assert isinstance(found, pl.DataFrame)
        return found

    @property
    def images(self) -> pl.DataFrame:
        """Table IMAGES as a whole."""
        return self.read("images")

    @property
    def captions(self) -> pl.DataFrame:
        """Table CAPTIONS as a whole."""
        return self.read("captions")

    @property
    def composed_queries(self) -> pl.DataFrame:
        """Table COMPOSED_QUERIES as a whole."""
        return self.read("composed_queries")

    @property
    def dropped(self) -> pl.DataFrame:
        """Table DROPPED as a whole."""
        return self.read("dropped")


def _as_table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)], schema=schema)


def apply_rules(annotations: Annotations, params: FilterParams) -> Kept:
    """Keep what can be used; list the rest with the rule that dropped it.

    `require_caption` is not asked of a dataset that has no captions at all, nor of distractors; what
    needs captions is left out later, task by task.

    Raises:
        DataError: nothing is left, or a split has an unknown name.
    """
    dropped = Spool[Drop](tuple, map(_readable, annotations.dropped))
    pictures = _find_unique(annotations.images, dropped)
    found = Counter(kind for kind, *_ in annotations.dropped)
    found.update(image=len(annotations.images), caption=len(annotations.captions))
    captions = choose_captions(annotations, pictures.ids, pictures.ambiguous, dropped)
    described = np.zeros(len(annotations.images), dtype=bool)
    for part in captions.parts():
        described[[row for row, *_ in part]] = True
    images = _keep_images(annotations, params, pictures, described, dropped)
    if not images:
        raise DataError(f"no picture of {found['image']} is left after filtering; the first drops: {dropped[:3]}")
    numbered = Spool[tuple[Any, ...]](tuple)
    numbers = np.zeros(len(annotations.images), dtype=np.int32)
    for row, image_id, text in captions:
        if pictures.kept[row]:
            numbered.append((f"{image_id}#{numbers[row]}", image_id, text))
            numbers[row] += 1
        else:
            dropped.append(("caption", image_id, "dropped_image", "its picture was dropped"))
    queries = _keep_queries(annotations.composed_queries, pictures, dropped)
    counts = {
        "images": {"found": found["image"], "kept": len(images)},
        "captions": {"found": found["caption"], "kept": len(numbered)},
    }
    return Kept(images, numbered, queries, dropped, counts)


def _readable(drop: Drop) -> Drop:
    kind, name, rule, reason = drop
    return kind, printable(name), rule, printable(reason)


@dataclass
class Pictures:
    """The first picture of each id; rows are those of the annotations."""

    ids: IdRows
    kept: Bool[np.ndarray, " images"]  # so far
    ambiguous: Bool[np.ndarray, " images"]  # whose id another picture has, too


def _find_unique(images: Sequence[RawImage], dropped: Spool[Drop]) -> Pictures:
    """Find the first picture of each id, and the ids that another picture has too."""
    whole = np.ones(len(images), dtype=bool)  # whose names are all UTF-8
    hashes: list[Hashes] = []
    for start, part in number_parts(images):
        for row, image in enumerate(part, start):
            if image.split not in SPLITS:
                raise DataError(
                    f"image {image.image_id} is in split '{image.split}'; known splits: {', '.join(SPLITS)}"
                )
            whole[row] = all(map(is_unicode, (image.image_id, image.file, *image.labels)))
        hashes.append(hash_ids([image.image_id for row, image in enumerate(part, start) if whole[row]]))
    ids = IdRows.of_hashes(hashes)
    rows = np.flatnonzero(whole).astype(ids.rows.dtype)  # of the ids
    first = np.full(len(images), -1, dtype=rows.dtype)
    first[rows] = rows[ids.find_firsts()]
    ids = replace(ids, rows=rows[ids.rows])
    return Pictures(ids, first == np.arange(len(images)), _list_copies(images, first, dropped))


def _list_copies(
    images: Sequence[RawImage], first: Int[np.ndarray, " images"], dropped: Spool[Drop]
) -> Bool[np.ndarray, " images"]:
    """List the pictures whose id is an earlier one's or no text; returns which ids are of two files."""
    ambiguous = np.zeros(len(images), dtype=bool)
    later = (first >= 0) & (first != np.arange(len(images)))
    if not later.any() and (first >= 0).all():
        return ambiguous
    has_copy = np.zeros(len(images), dtype=bool)
    has_copy[first[later]] = True
    file_of: dict[int, str] = {}
    for start, part in number_parts(images):
        for row, image in enumerate(part, start):
            if has_copy[row]:
                file_of[row] = image.file
            if first[row] < 0:
                names = ", ".join((image.image_id, image.file, *image.labels))
                dropped.append(
                    ("image", printable(image.image_id), "not_utf8", f"not UTF-8: {printable(names)[:80]!r}")
                )
            elif later[row]:
                earlier = file_of[int(first[row])]
                dropped.append(("image", image.image_id, "duplicate_id", f"{image.file} has the id of {earlier}"))
                ambiguous[first[row]] |= image.file != earlier
    return ambiguous


def _keep_images(
    annotations: Annotations,
    params: FilterParams,
    pictures: Pictures,
    described: Bool[np.ndarray, " images"],
    dropped: Spool[Drop],
) -> Spool[tuple[Any, ...]]:
    """Table IMAGES of those that the settings keep; `pictures.kept` is told."""
    rows = Spool[tuple[Any, ...]](tuple)
    captioned = params.require_caption and annotations.captioned
    for start, part in number_parts(annotations.images):
        for row, image in enumerate(part, start):
            if not pictures.kept[row]:
                continue
            if not image.distractor and captioned and not described[row]:
                dropped.append(("image", image.image_id, "require_caption", "no usable caption"))
                pictures.kept[row] = False
            elif not image.distractor and params.require_label and not image.labels:
                dropped.append(("image", image.image_id, "require_label", "no labelled object"))
                pictures.kept[row] = False
            else:
                rows.append((image.image_id, image.file, image.split, tuple(sorted(set(image.labels)))))
    return rows


def _keep_queries(
    queries: Sequence[RawComposedQuery], pictures: Pictures, dropped: Spool[Drop]
) -> Spool[tuple[Any, ...]]:
    """Table COMPOSED_QUERIES of the pairs whose pictures are both there."""
    usable = Spool[tuple[Any, ...]](tuple)
    for part in iter_parts(queries):
        named = [query.image_id for query in part], [query.target_id for query in part]
        there = [(rows >= 0) & pictures.kept[rows] for rows in map(pictures.ids.find, named)]
        for query, *both in zip(part, *there, strict=True):
            text = " ".join(query.text.split())
            gone = sorted(i for i, here in zip((query.image_id, query.target_id), both, strict=True) if not here)
            if gone:
                reason = f"picture {printable(gone[0])!r} was dropped, or is not there"
                dropped.append(("query", printable(query.query_id), "dropped_image", reason))
            elif not is_unicode(query.query_id):
                dropped.append(("query", printable(query.query_id), "not_utf8", "its id is not UTF-8"))
            elif not text or not is_unicode(text):
                why = f"unusable text: {printable(text)[:80]!r}"
                dropped.append(("query", printable(query.query_id), "no_text", why))
            else:
                usable.append((query.query_id, query.image_id, text, query.target_id, query.gain))
    return usable
