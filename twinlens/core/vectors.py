"""Vectors: on disk, with their ids, and their length. All that is joined or compared has unit length."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64

from twinlens.core import row_sources
from twinlens.core.errors import DataError, remake
from twinlens.core.resources import name_disk_fault, reserve_room
from twinlens.core.row_sources import MANIFEST, DerivedRows, FileRows, RowSource, load_array, name_file

Matrix = Float32[np.ndarray, "rows dim"]
Rows = row_sources.Rows
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
    """Open the vectors of one source, mapped rather than read; those in several files as a `RowSource`.

    Raises:
        DataError: they are not there, or there are not as many as ids.
    """
    from twinlens.core import tables  # polars takes a tenth of a second, and a search by words needs neither

    ids = tables.read_table(folder / f"{name}.parquet", tables.VECTORS)
    files = folder / name
    rows = FileRows.open(files) if files.is_dir() else load_array(folder / f"{name}.npy", mmap_mode="r")
    if rows.ndim != 2 or len(rows) != len(ids):
        raise DataError(f"{name}: {len(rows)} vectors for {len(ids)} ids: {remake('embed')}")
    lengths = folder / f"{name}.length.npy"
    long = load_array(lengths) if lengths.exists() else None
    return Vectors(ids["id"].to_list(), ids["image_id"].to_list(), rows, long)


def has_vectors(folder: Path, name: str) -> bool:
    """Whether `embed` left vectors of a source in a folder."""
    return (folder / f"{name}.npy").exists() or (folder / name / MANIFEST).exists()


def list_files(folder: Path, name: str) -> list[Path]:
    """List the files that hold the vectors of a source; none where there are no vectors."""
    together = [folder / name / MANIFEST, *sorted((folder / name).glob("part-*.npy"))]
    return [path for path in (folder / f"{name}.npy", *together) if path.exists()]


def write_rows(path: Path, blocks: Iterable[Matrix], count: int) -> int:
    """Write vectors as one `.npy` of float32, or as a folder of several where there are many; returns their dimensions.

    Written rather than mapped: where a disk is full, a mapped file ends the process without a word.

    Args:
        path: of the `.npy`. Of more than `row_sources.ROWS_PER_FILE` rows the folder of the same name without the
            ending is made: `part-00000.npy` and so on, and `manifest.json`, which says how many rows there are of how
            many numbers, and how many stand in each file.
        blocks: the rows, in order, some at a time.
        count: of all rows.

    Raises:
        ResourceError: the disk is full; the message has the bytes that are needed and free.
    """
    each = row_sources.ROWS_PER_FILE
    folder = path.with_suffix("") if count > each else None
    if folder is not None:
        folder.mkdir()
    waiting, dim = iter(blocks), 0
    left: Matrix = np.zeros((0, 0), dtype=np.float32)
    for number, start in enumerate(range(0, count, each)):
        file_path, wanted = path if folder is None else folder / name_file(number), min(each, count - start)
        written = 0
        with name_disk_fault(file_path), file_path.open("wb") as file:
            while written < wanted:
                block = left if len(left) else next(waiting, left)
                assert len(block), f"what is to be {path} holds {start + written} rows of {count}"
                if not written:
                    dim = int(block.shape[1])
                    described = {"descr": "<f4", "fortran_order": False, "shape": (wanted, dim)}
                    np.lib.format.write_array_header_1_0(file, described)
                    reserve_room(file, file_path, file.tell() + 4 * wanted * dim)
                some, left = block[: wanted - written], block[wanted - written :]
                file.write(np.ascontiguousarray(some, dtype="<f4").data)
                written += len(some)
    assert dim and not len(left) and next(waiting, None) is None, f"what is to be {path} holds more rows than {count}"
    if folder is not None:
        told = {"rows": count, "dim": dim, "dtype": "float32", "rows_per_file": each}
        (folder / MANIFEST).write_text(json.dumps(told) + "\n")
    return dim


def compute_lengths(vectors: Rows, ids: Sequence[str] = ()) -> Float64[np.ndarray, " rows"]:
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


def measure_lengths(rows: Float[np.ndarray, "rows dim"] | RowSource) -> Float64[np.ndarray, " rows"]:
    """Measure the Euclidean length of every row, whatever it is, a block of rows at a time."""
    blocks = (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
    found = [np.linalg.norm(np.asarray(block, dtype=np.float64), axis=1) for block in blocks]
    return np.concatenate(found or [np.zeros(0)])


def bring_to_unit(rows: Rows, ids: Sequence[str] = ()) -> Rows:
    """Bring the rows that are joined or compared to unit length; those that have it stay the very same object.

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
    if isinstance(rows, RowSource):
        compute_lengths(rows, ids)
        return DerivedRows((rows,), normalise_rows, rows.shape)
    return normalise_rows(np.asarray(rows), ids)
