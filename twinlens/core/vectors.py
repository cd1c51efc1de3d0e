"""Vectors: on disk, with their ids, and their length. All that is joined or compared has unit length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from twinlens.core import tables
from twinlens.core.errors import DataError

Rows = Float32[np.ndarray, "rows dim"]
VectorPair = tuple[Rows, Rows]  # vectors of the queries and of the items


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of one source, in the order of their ids."""

    ids: list[str]
    image_ids: list[str]  # the picture each one is of
    rows: Rows
    lengths: Float32[np.ndarray, " rows"] | None = None  # before unit length, where those mattered in training


def read_vectors(folder: Path, name: str) -> Vectors:
    """Open the vectors of one source, mapped rather than read.

    Raises:
        DataError: they are not there, or there are not as many as ids.
    """
    ids = tables.read_table(folder / f"{name}.parquet", tables.VECTORS)
    rows = np.load(folder / f"{name}.npy", mmap_mode="r")
    if len(rows) != len(ids):
        raise DataError(f"{name}: {len(rows)} vectors for {len(ids)} ids: `dvc repro -f embed`")
    lengths = folder / f"{name}.length.npy"
    long = np.load(lengths) if lengths.exists() else None
    return Vectors(ids["id"].to_list(), ids["image_id"].to_list(), rows, long)


def compute_lengths(vectors: Float32[np.ndarray, "rows dim"], ids: Sequence[str] = ()) -> Float64[np.ndarray, " rows"]:
    """Compute the Euclidean length of every row.

    Args:
        vectors: one a row.
        ids: their names, for messages; their numbers if not given.

    Raises:
        DataError: a row is NaN, infinite or zero.
    """
    found = np.linalg.norm(vectors.astype(np.float64), axis=1)
    bad = np.flatnonzero(~np.isfinite(found) | (found == 0))
    if bad.size:
        named = ", ".join(ids[row] if ids else f"row {row}" for row in bad[:5])
        what = "zero" if np.isfinite(found[bad[0]]) else "NaN or infinite"
        raise DataError(f"{bad.size} of {len(vectors)} vectors are useless, the first is {what}: {named}")
    return found


def normalise_rows(
    vectors: Float32[np.ndarray, "rows dim"], ids: Sequence[str] = ()
) -> Float32[np.ndarray, "rows dim"]:
    """Scale every row to length one.

    Raises:
        DataError: a row is NaN, infinite or zero.
    """
    return (vectors / compute_lengths(vectors, ids)[:, None]).astype(np.float32)
