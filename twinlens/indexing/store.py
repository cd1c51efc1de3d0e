"""Row store of an index: files that are mapped into memory.

Ids, captions, thumbnails and vectors are read from here, each page when it is first touched, once for all
processes. Exact search needs nothing else; a table of LanceDB lies beside them where approximate candidates are
asked for. Vectors lie in the form that `index.precision` names, by the same code that `compress` measures it with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int

from twinlens.retrieval.compression import fit_int8_steps, round_to_steps
from twinlens.tasks.inputs import NEGATIVES

IMAGE_VECTOR, CAPTION_VECTOR = "image_vector", "caption_vector"
ROWS = "pictures.arrow"
BLOCK = 8_192  # vectors in memory at once while an index is written: 16 MB of 512 dimensions


class RowBlocks(Protocol):
    """Rows of vectors that need not be in memory: an array, a mapped file, or several files one after the other."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, and numbers of each."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, some: slice, /) -> np.ndarray:
        """A block of rows, start and stop given."""
        ...


@dataclass(frozen=True)
class Space:
    """The vectors of one column."""

    rows: np.ndarray  # (pictures, dim) mapped: float32, float16 or int8; zeros where there is no vector
    absent: Int[np.ndarray, " none"]  # rows of pictures without one
    steps: Float32[np.ndarray, " dim"] | None = None  # of int8: what a number is times

    def take(self, rows: Int[np.ndarray, " some"] | slice) -> Float32[np.ndarray, "some dim"]:
        """The vectors of some rows, in float32, as they are searched."""
        some = self.rows[rows].astype(np.float32, copy=False)
        return some if self.steps is None else some * self.steps


class RowStore:
    """Row store of one folder, opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock()

    def __len__(self) -> int:
        last = self._reader.num_record_batches - 1
        return last * self._per_batch + int(self._batch(last).num_rows) if last >= 0 else 0

    @cached_property
    def ids(self) -> list[str]:
        """Image ids, by row."""
        return self.column("image_id")

    @property
    def told(self) -> dict[str, str]:
        """Facts about the pool that `write_rows` was given."""
        return {name.decode(): value.decode() for name, value in (self._reader.schema.metadata or {}).items()}

    @cached_property
    def spaces(self) -> tuple[str, ...]:
        """The columns of vectors that there are."""
        return tuple(name for name in (IMAGE_VECTOR, CAPTION_VECTOR) if (self.folder / f"{name}.npy").exists())

    def space(self, name: str) -> Space:
        """The vectors of one column, mapped."""
        rows = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        # a plain view of the mapping: the subclass `memmap` runs Python code at every slice
        steps = self.folder / f"{name}.steps.npy"
        return Space(
            rows.view(np.ndarray),
            np.load(self.folder / f"{name}.absent.npy", allow_pickle=False),
            np.load(steps, allow_pickle=False) if steps.exists() else None,
        )

    @cached_property
    def negatives(self) -> Float32[np.ndarray, "negatives dim"] | None:
        """Vectors of pictures that are never found, in the space of IMAGE_VECTOR; None where there are none."""
        return self.space(NEGATIVES).take(slice(None)) if (self.folder / f"{NEGATIVES}.npy").exists() else None

    def column(self, name: str) -> list[Any]:
        """One column, by row; not of the vectors."""
        batches = (self._batch(number) for number in range(self._reader.num_record_batches))
        return [value for batch in batches for value in batch.column(name).to_pylist()]

    def find_rows(self, ids: Collection[str]) -> dict[str, int]:
        """Look up the rows of image ids, those that there are, in one pass over the mapped ids."""
        import pyarrow.compute as pc  # a search by words does without

        found: dict[str, int] = {}
        # what cannot be encoded (half of a pair of surrogates) is the id of no picture
        wanted = pa.array([one for one in ids if one == one.encode("utf-8", "replace").decode()], pa.string())
        for number in range(self._reader.num_record_batches):
            if len(found) == len(wanted):
                break
            named = self._batch(number).column("image_id")
            for place in np.flatnonzero(pc.is_in(named, wanted)):
                found.setdefault(named[int(place)].as_py(), number * self._per_batch + int(place))
        return found

    def take(self, rows: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Read all but the vectors of some rows, in the order given."""
        places = (divmod(int(row), self._per_batch) for row in rows)
        return [self._batch(number).slice(place, 1).to_pylist()[0] for number, place in places]

    @cached_property
    def _reader(self) -> pa.ipc.RecordBatchFileReader:
        """The mapped file. Only its list of batches is read: all batches of a million pictures would take a second."""
        return pa.ipc.open_file(pa.memory_map(str(self.folder / ROWS)))

    @cached_property
    def _per_batch(self) -> int:
        """Pictures of every batch but the last."""
        return int(self._batch(0).num_rows)

    def _batch(self, number: int) -> pa.RecordBatch:
        with self._lock:  # the reader is not said to be safe for several threads; this takes microseconds
            return self._reader.get_batch(number)


def write_rows(folder: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    """Write all columns but the vectors as they come; every batch but the last has as many rows as the first."""
    with pa.OSFile(str(folder / ROWS), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_space(
    folder: Path, name: str, rows: RowBlocks, absent: Int[np.ndarray, " none"], precision: str = "float32"
) -> None:
    """Write the vectors of one column in a form, and which rows have none; a block of rows is in memory at a time.

    The files are those that `numpy.save` makes of all rows at once. Rows are read once, and of int8 twice: the first
    time for the largest value of each dimension.

    Args:
        folder: takes `<name>.npy` and, of int8, `<name>.steps.npy`.
        name: of the column.
        rows: (pictures, dim), of which slices are taken.
        absent: rows of pictures without a vector.
        precision: `float32`, `float16` or `int8`.
    """
    if precision == "int8":
        steps = fit_int8_steps(iter_blocks(rows))
        numbers = (round_to_steps(block, steps) for block in iter_blocks(rows))
        _write_blocks(folder / f"{name}.npy", numbers, rows.shape, np.dtype(np.int8))
        np.save(folder / f"{name}.steps.npy", steps)
    elif precision in ("float32", "float16"):
        kept = np.dtype(precision)
        blocks = (block.astype(kept, copy=False) for block in iter_blocks(rows))
        _write_blocks(folder / f"{name}.npy", blocks, rows.shape, kept)
    else:
        raise ValueError(f"an index holds no vectors as {precision}")
    np.save(folder / f"{name}.absent.npy", absent)


def iter_blocks(rows: RowBlocks) -> Iterator[Float32[np.ndarray, "some dim"]]:
    """Take the rows in blocks of `BLOCK`, in float32."""
    for start in range(0, max(1, len(rows)), BLOCK):
        yield np.asarray(rows[start : min(start + BLOCK, len(rows))], dtype=np.float32)


def _write_blocks(path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Write a `.npy` file block by block. Written, not mapped: a full disk is then an error that can be told."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)
