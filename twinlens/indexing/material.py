"""Content of the index, gathered from the outputs of the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Int

from twinlens.config.models import ModelCard
from twinlens.core import paths, tables
from twinlens.core.errors import DataError
from twinlens.core.row_sources import RowBlocks, iter_blocks
from twinlens.core.vectors import has_vectors, read_vectors
from twinlens.indexing.store import IMAGE_VECTOR
from twinlens.retrieval.known import LEARNED_FROM, Known, learn
from twinlens.tasks.inputs import CAPTIONS, GENERATED, IMAGES, NEGATIVES


@dataclass(frozen=True)
class IndexContent:
    """Content of an index: the pool's pictures, in its order. Vectors are read a block at a time."""

    pool: pl.DataFrame  # image_id, shard, row, sha256
    texts: pl.DataFrame  # captions (human), caption_generated (null: none) and labels, of each picture
    image_vectors: RowBlocks | None  # unit, float32 (pictures, dim); None: the model has no image tower
    caption_vectors: RowBlocks | None  # the same; None: no text tower, or no captions
    described: Bool[np.ndarray, " pictures"]  # whether a picture has a caption vector; its row is zero otherwise
    negatives: Float32[np.ndarray, "negatives dim"] | None  # unit, of pictures outside the pool; None: there are none
    # What a form learns from, by the name of the column and its vectors; these themselves if absent.
    learn: Callable[[str, RowBlocks], Known] = lambda _, rows: Known(rows, False)

    def __len__(self) -> int:
        return len(self.pool)


def gather(dataset: str, model: str, captioner: str, card: ModelCard) -> IndexContent:
    """Read the pool's words, and open its vectors.

    A picture's caption vector is the mean of the unit vectors of its human captions, at unit length; the
    generated caption's vector where there is no human one.

    Args:
        dataset: a name, as the others.
        model: see `dataset`.
        captioner: see `dataset`.
        card: of the model.

    Raises:
        DataError: an output of the pipeline is not here, or the vectors are not those of the pool.
    """
    groups = tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS)
    pool = groups.filter("in_pool").select("image_id", "shard", "row", "sha256")
    ids = pool["image_id"].to_list()
    folder = paths.embedded(dataset, model)
    texts = _texts(pool, dataset, captioner)
    image_vectors = _read(folder, IMAGES)
    if image_vectors is not None and image_vectors[0] != ids:
        raise DataError(f"{folder}: the vectors' ids are not the pool's pictures: `dvc repro -f embed`")
    captions = _caption_vectors(folder, ids)
    return IndexContent(
        pool,
        texts,
        None if image_vectors is None else image_vectors[1],
        captions,
        np.zeros(len(ids), dtype=bool) if captions is None else captions.described,
        _negatives(folder, set(ids)),
        lambda name, rows: _learn(folder, name, rows, ids, card),
    )


def _learn(folder: Path, name: str, rows: RowBlocks, ids: list[str], card: ModelCard) -> Known:
    """What `compress` learns of pictures; it measures nothing of captions' own space: they learn from themselves."""
    pictures = name == IMAGE_VECTOR
    vectors = {one: read_vectors(folder, one) for one in LEARNED_FROM if has_vectors(folder, one)}
    captions_ask = pictures and card.shares_a_space and has_vectors(folder, CAPTIONS)
    return learn(vectors, rows, ids, pictures=pictures, captions_ask=captions_ask, matryoshka=card.matryoshka)


def _texts(pool: pl.DataFrame, dataset: str, captioner: str) -> pl.DataFrame:
    images = tables.read_table(paths.filtered(dataset) / "images.parquet", tables.IMAGES)
    captions = tables.read_table(paths.filtered(dataset) / "captions.parquet", tables.CAPTIONS)
    generated = tables.read_table(paths.captioned(dataset, captioner) / "captions.parquet", tables.GENERATED)
    human = captions.group_by("image_id", maintain_order=True).agg(captions="text")
    machine = generated.select("image_id", caption_generated="text").unique("image_id", keep="last")
    found = pool.select("image_id")
    for other in (human, machine, images.select("image_id", "labels")):
        found = found.join(other, on="image_id", how="left", maintain_order="left")
    none = pl.lit([], dtype=pl.List(pl.String))
    return found.select(pl.col("captions").fill_null(none), "caption_generated", "labels")


def _negatives(folder: Path, pool: set[str]) -> Float32[np.ndarray, "negatives dim"] | None:
    """Those of category search that lie outside the pool: with one split only, some of them are of it."""
    source = _read(folder, NEGATIVES)
    if source is None:
        return None
    found: Any = source[1]  # mapped, or of several files: either gives chosen rows
    apart = [row for row, image_id in enumerate(source[0]) if image_id not in pool]
    return np.asarray(found[apart], dtype=np.float32) if apart else None


def _read(folder: Path, name: str) -> tuple[list[str], RowBlocks] | None:
    """The picture that each vector of an input is of, and the vectors, mapped; None where the model made none."""
    if not has_vectors(folder, name):
        return None
    found = read_vectors(folder, name)
    return found.image_ids, found.unit


@dataclass(frozen=True)
class _Described:
    """Vectors of captions, those of one picture side by side."""

    rows: RowBlocks  # unit
    pictures: Int[np.ndarray, " described"]  # rows in the pool, rising
    starts: Int[np.ndarray, " described"]  # the first caption of each

    @classmethod
    def of(cls, source: tuple[list[str], RowBlocks], row_of: dict[str, int], folder: Path) -> Self:
        places = np.fromiter((row_of.get(image_id, -1) for image_id in source[0]), dtype=np.int64)
        if (places < 0).any() or (np.diff(places) < 0).any():
            raise DataError(f"{folder}: the vectors' ids are not the pool's pictures: `dvc repro -f embed`")
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        return cls(source[1], places[starts], starts)

    def fill(self, vectors: Float32[np.ndarray, "some dim"], start: int) -> None:
        """Write the mean of each picture's captions, at unit length, over the vectors of the pool from `start` on."""
        first, last = np.searchsorted(self.pictures, [start, start + len(vectors)])
        if first == last:
            return
        begin = int(self.starts[first])
        end = int(self.starts[last]) if last < len(self.starts) else len(self.rows)
        mean = np.add.reduceat(self.rows[begin:end], self.starts[first:last] - begin, axis=0, dtype=np.float64)
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        usable = length[:, 0] > 1e-6  # captions that cancel say nothing
        vectors[self.pictures[first:last][usable] - start] = mean[usable] / length[usable]


class CaptionMeans:
    """Caption vectors of the pool's pictures, made of those of their captions when a slice is asked for."""

    def __init__(self, sources: Sequence[_Described], pictures: int) -> None:
        """Take over sources; where two describe a picture the later one does."""
        self._sources = sources
        self.shape = (pictures, sources[0].rows.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, some: slice) -> Float32[np.ndarray, "some dim"]:
        """A block of pictures; zeros where nothing describes one."""
        start, stop, _ = some.indices(len(self))
        vectors = np.zeros((stop - start, self.shape[1]), dtype=np.float32)
        for source in self._sources:
            source.fill(vectors, start)
        return vectors

    @cached_property
    def described(self) -> Bool[np.ndarray, " pictures"]:
        """Whether a picture has a vector; all are looked at."""
        return np.concatenate([block.any(axis=1) for block in iter_blocks(self)])


def _caption_vectors(folder: Path, ids: list[str]) -> CaptionMeans | None:
    found = [source for source in (_read(folder, GENERATED), _read(folder, CAPTIONS)) if source is not None]
    if not found:
        return None
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    return CaptionMeans([_Described.of(source, row_of, folder) for source in found], len(ids))
