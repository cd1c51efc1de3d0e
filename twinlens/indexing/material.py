"""Content of the index, gathered from the outputs of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32

from twinlens.core import paths, tables
from twinlens.core.errors import DataError
from twinlens.core.vectors import has_vectors, read_vectors
from twinlens.tasks.inputs import CAPTIONS, GENERATED, IMAGES, NEGATIVES

Rows = Float32[np.ndarray, "pictures dim"]


@dataclass(frozen=True)
class IndexContent:
    """Content of an index: the pool's pictures, in its order."""

    pool: pl.DataFrame  # image_id, shard, row, sha256
    captions: list[list[str]]  # human
    generated: list[str | None]
    labels: list[list[str]]
    image_vectors: Rows | None  # unit; None: the model has no image tower
    caption_vectors: Rows | None  # unit; None: no text tower, or no captions
    described: Bool[np.ndarray, " pictures"]  # whether a picture has a caption vector; its row is zero otherwise
    negatives: Float32[np.ndarray, "negatives dim"] | None  # unit, of pictures outside the pool; None: there are none

    def __len__(self) -> int:
        return len(self.pool)


def gather(dataset: str, model: str, captioner: str) -> IndexContent:
    """Read the pool's words and vectors.

    A picture's caption vector is the mean of the unit vectors of its human captions, at unit length; the
    generated caption's vector where there is no human one.

    Raises:
        DataError: an output of the pipeline is not here, or the vectors are not those of the pool.
    """
    groups = tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS)
    pool = groups.filter("in_pool").select("image_id", "shard", "row", "sha256")
    ids = pool["image_id"].to_list()
    images = tables.read_table(paths.filtered(dataset) / "images.parquet", tables.IMAGES)
    captions = tables.read_table(paths.filtered(dataset) / "captions.parquet", tables.CAPTIONS)
    generated = tables.read_table(paths.captioned(dataset, captioner) / "captions.parquet", tables.GENERATED)
    labels = dict(images.select("image_id", "labels").iter_rows())
    human: dict[str, list[str]] = {image_id: [] for image_id in ids}
    for image_id, text in captions.select("image_id", "text").iter_rows():
        if image_id in human:
            human[image_id].append(text)
    machine = dict(generated.select("image_id", "text").iter_rows())
    folder = paths.embedded(dataset, model)
    image_vectors = _read(folder, IMAGES)
    if image_vectors is not None and image_vectors[0] != ids:
        raise DataError(f"{folder}: the vectors' ids are not the pool's pictures: `dvc repro -f embed`")
    caption_vectors, described = _caption_vectors(folder, ids)
    return IndexContent(
        pool,
        [human[image_id] for image_id in ids],
        [machine.get(image_id) for image_id in ids],
        [labels[image_id] for image_id in ids],
        None if image_vectors is None else image_vectors[1],
        caption_vectors,
        described,
        _negatives(folder, set(ids)),
    )


def _negatives(folder: Path, pool: set[str]) -> Float32[np.ndarray, "negatives dim"] | None:
    """Those of category search that lie outside the pool: with one split only, some of them are of it."""
    source = _read(folder, NEGATIVES)
    if source is None:
        return None
    apart = [row for row, image_id in enumerate(source[0]) if image_id not in pool]
    return np.asarray(source[1][apart], dtype=np.float32) if apart else None


def _read(folder: Path, name: str) -> tuple[list[str], Rows] | None:
    """The picture that each vector of an input is of, and the vectors, mapped; None where the model made none."""
    if not has_vectors(folder, name):
        return None
    found = read_vectors(folder, name)
    return found.image_ids, np.asarray(found.unit)


def _caption_vectors(folder: Path, ids: list[str]) -> tuple[Rows | None, Bool[np.ndarray, " pictures"]]:
    human, machine = _read(folder, CAPTIONS), _read(folder, GENERATED)
    described = np.zeros(len(ids), dtype=bool)
    some = human or machine
    if some is None:
        return None, described
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    vectors = np.zeros((len(ids), some[1].shape[1]), dtype=np.float32)
    for source in (machine, human):  # the later one stays
        if source is None:
            continue
        places = np.array([row_of.get(image_id, -1) for image_id in source[0]])
        if (places < 0).any() or (np.diff(places) < 0).any():
            raise DataError(f"{folder}: the vectors' ids are not the pool's pictures: `dvc repro -f embed`")
        starts = np.flatnonzero(np.diff(places, prepend=-1))  # captions of one picture stand side by side
        mean = np.add.reduceat(np.asarray(source[1]), starts, axis=0, dtype=np.float64)
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        usable = length[:, 0] > 1e-6  # captions that cancel say nothing
        vectors[places[starts[usable]]] = mean[usable] / length[usable]
        described[places[starts[usable]]] = True
    return vectors, described
