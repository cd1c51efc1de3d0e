"""Vectors on disk: unit rows, their ids, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32

from twinlens.core import tables
from twinlens.core.errors import DataError, remake

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
    rows = _load(folder / f"{name}.npy", mmap_mode="r")
    if rows.ndim != 2 or len(rows) != len(ids):
        raise DataError(f"{name}: {len(rows)} vectors for {len(ids)} ids: {remake('embed')}")
    lengths = folder / f"{name}.length.npy"
    long = _load(lengths) if lengths.exists() else None
    return Vectors(ids["id"].to_list(), ids["image_id"].to_list(), rows, long)


def _load(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} is not here: `dvc repro embed` makes it, `dvc pull embed` fetches it") from None
    except (ValueError, EOFError) as error:  # cut short, or no longer such a file
        raise DataError(f"{path} is damaged ({' '.join(str(error).split())[:120]}): {remake('embed')}") from None
    return found
