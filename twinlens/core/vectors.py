"""Vectors: on disk, with their ids, and their length. All that is joined or compared has unit length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64

from twinlens.core.errors import DataError, remake

Rows = Float32[np.ndarray, "rows dim"]
UNIT = 1e-3  # how far a length may be from one
BLOCK = 65_536  # rows in memory at once, as the vectors may be a memory map


@dataclass(frozen=True)
class Vectors:
    """Vectors of one source, in the order of their ids: as stored (`rows`), and as they are compared (`unit`)."""

    ids: list[str]
    image_ids: list[str]  # the picture each one is of
    rows: Rows
    lengths: Float32[np.ndarray, " rows"] | None = None  # before unit length, where those mattered in training

    @cached_property
    def unit(self) -> Rows:
        """The rows at unit length; those stored, where they have it.

        Raises:
            DataError: a row is NaN, infinite or zero.
        """
        return bring_to_unit(self.rows, self.ids)


def read_vectors(folder: Path, name: str) -> Vectors:
    """Open the vectors of one source, mapped rather than read.

    Raises:
        DataError: they are not there, or there are not as many as ids.
    """
    from twinlens.core import tables  # polars takes a tenth of a second, and a search by words needs neither

    ids = tables.read_table(folder / f"{name}.parquet", tables.VECTORS)
    rows = _load(folder / f"{name}.npy", mmap_mode="r")
    if rows.ndim != 2 or len(rows) != len(ids):
        raise DataError(f"{name}: {len(rows)} vectors for {len(ids)} ids: {remake('embed')}")
    lengths = folder / f"{name}.length.npy"
    long = _load(lengths) if lengths.exists() else None
    return Vectors(ids["id"].to_list(), ids["image_id"].to_list(), rows, long)


def compute_lengths(vectors: Float32[np.ndarray, "rows dim"], ids: Sequence[str] = ()) -> Float64[np.ndarray, " rows"]:
    """Compute the Euclidean length of every row.

    Args:
        vectors: one a row.
        ids: their names, for messages; their numbers if not given.

    Raises:
        DataError: a row is NaN, infinite or zero.
    """
    found = measure_lengths(vectors)
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


def measure_lengths(rows: Float[np.ndarray, "rows dim"]) -> Float64[np.ndarray, " rows"]:
    """Measure the Euclidean length of every row, whatever it is, a block of rows at a time."""
    blocks = (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
    found = [np.linalg.norm(np.asarray(block, dtype=np.float64), axis=1) for block in blocks]
    return np.concatenate(found or [np.zeros(0)])


def bring_to_unit(rows: Rows, ids: Sequence[str] = ()) -> Rows:
    """Bring the rows that are joined or compared to unit length; those that have it stay the very same array.

    Rows of another length would let the longer of two that are joined drown the other, and make inner products other
    than cosines, whether the gate `unit_length` stops them or only warns.

    Args:
        rows: one vector a row.
        ids: their names, for messages; their numbers if not given.

    Raises:
        DataError: a row is NaN, infinite or zero.
    """
    if (np.abs(measure_lengths(rows) - 1.0) < UNIT).all():
        return rows
    return normalise_rows(np.asarray(rows), ids)


def _load(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} is not here: `dvc repro embed` makes it, `dvc pull embed` fetches it") from None
    except (ValueError, EOFError) as error:  # cut short, or no longer such a file
        raise DataError(f"{path} is damaged ({' '.join(str(error).split())[:120]}): {remake('embed')}") from None
    return found
