"""Row sources: vectors that stand in several files, or are made of such, and are read a block at a time.

A row source is to be read like a matrix of numpy (`len`, `shape`, slices, arrays of rows) and is never in memory as a
whole, unless somebody asks numpy for it, and there is room. It holds paths and numbers only, so that a process can hand
it to another.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32, Int

from twinlens.core.arrays import DAMAGED
from twinlens.core.errors import DataError, remake
from twinlens.core.resources import ensure_memory

ROWS_PER_FILE = 2**20  # of the largest file; sources of up to so many rows are one `.npy`
MANIFEST = "manifest.json"
BLOCK = 8_192  # rows in memory at once where many are gone through in order: 16 MB of 512 dimensions
CELLS = 2**22  # numbers in memory at once where rows are gone through: 16 MB

Matrix = Float32[np.ndarray, "rows dim"]


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


def iter_blocks(rows: RowBlocks) -> Iterator[Matrix]:
    """Take the rows in blocks of `BLOCK`, in float32; of no rows one empty block."""
    for start in range(0, max(1, len(rows)), BLOCK):
        yield np.asarray(rows[start : min(start + BLOCK, len(rows))], dtype=np.float32)


class RowSource(ABC):
    """Rows of float32 that are read when they are asked for: a slice, some rows or a row, as numpy has them."""

    shape: tuple[int, int]
    dtype = np.dtype(np.float32)
    ndim = 2

    @abstractmethod
    def read(self, start: int, stop: int) -> Matrix:
        """Read the rows from `start` to before `stop`."""

    @abstractmethod
    def take(self, rows: Int[np.ndarray, " chosen"]) -> Matrix:
        """Read some rows, none of them negative, in the order given."""

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __getitem__(self, asked: Any) -> np.ndarray:
        """Read rows by a slice, by an array or list of rows or of truths, or one row by its number."""
        if isinstance(asked, slice):
            start, stop, step = asked.indices(len(self))
            return self.read(start, max(start, stop)) if step == 1 else self.take(np.arange(start, stop, step))
        rows = np.asarray(asked)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        elif not rows.size:
            rows = rows.astype(np.int64)
        if rows.size and (rows.min() < -len(self) or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} are asked for of {len(self)}")
        flat = np.where(rows < 0, rows + len(self), rows).reshape(-1).astype(np.int64)
        return self.take(flat).reshape(*rows.shape, self.shape[1])

    def __iter__(self) -> Iterator[np.ndarray]:
        for start, stop in split_rows(self):
            yield from self.read(start, stop)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory.

        Raises:
            ResourceError: there is no room for them.
        """
        if copy is False:
            raise ValueError("rows that are read from files cannot be had without a copy")
        wanted = np.dtype(dtype or self.dtype)
        ensure_memory(self.shape[0] * self.shape[1] * wanted.itemsize, f"{self.shape[0]:,} vectors at once")
        found = np.empty(self.shape, dtype=wanted)
        for start, stop in split_rows(self):
            found[start:stop] = self.read(start, stop)
        return found


Rows = Float32[np.ndarray | RowSource, "rows dim"]  # of which slices and chosen rows are arrays


@dataclass(frozen=True)
class FileRows(RowSource):
    """Rows of a folder that `write_rows` made: files of equally many rows each, but for the last."""

    folder: Path
    shape: tuple[int, int]
    rows_per_file: int
    offset: int  # where the numbers of a file begin, in bytes

    @classmethod
    def open(cls, folder: Path) -> FileRows:
        """Read the manifest, and look whether every file is there and whole.

        Raises:
            DataError: they are not.
        """
        try:
            told = json.loads((folder / MANIFEST).read_text())
            count, dim, each = (int(told[key]) for key in ("rows", "dim", "rows_per_file"))
            if told["dtype"] != "float32" or min(count, dim, each) < 1:
                raise ValueError(f"{count} rows of {dim} {told['dtype']}, {each} a file")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / MANIFEST} is damaged or gone ({error}): {remake('embed')}") from None
        offset = 0
        for number, start in enumerate(range(0, count, each)):
            path, wanted = folder / name_file(number), (min(each, count - start), dim)
            rows = load_array(path, mmap_mode="r")
            if rows.shape != wanted or rows.dtype != np.float32:
                raise DataError(f"{path} has {rows.shape} {rows.dtype} and not {wanted} float32: {remake('embed')}")
            offset = int(getattr(rows, "offset", 0))
        return cls(folder, (count, dim), each, offset)

    def read(self, start: int, stop: int) -> Matrix:
        """See `RowSource.read`; read rather than mapped, so that what was looked at does not stay in memory."""
        found, at = np.empty((stop - start, self.shape[1]), dtype=np.float32), start
        while at < stop:
            number, first = divmod(at, self.rows_per_file)
            count = min(stop - at, self.rows_per_file - first)
            with (self.folder / name_file(number)).open("rb", buffering=0) as file:
                file.seek(self.offset + first * self.shape[1] * 4)
                part = found[at - start : at - start + count].reshape(-1).view(np.uint8)
                while len(part) and (got := file.readinto(part.data)):
                    part = part[got:]
            if len(part):
                raise DataError(f"{self.folder / name_file(number)} was cut short: {remake('embed')}")
            at += count
        return found

    def take(self, rows: Int[np.ndarray, " chosen"]) -> Matrix:
        """See `RowSource.take`; one file is mapped at a time."""
        found = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        numbers = rows // self.rows_per_file
        for number in np.unique(numbers):
            mine = np.flatnonzero(numbers == number)
            stored = load_array(self.folder / name_file(int(number)), mmap_mode="r")
            found[mine] = stored[rows[mine] - number * self.rows_per_file]
        return found


@dataclass(frozen=True, eq=False)
class DerivedRows(RowSource):
    """Rows that a function makes of the rows of other sources, each of those in the same place."""

    sources: tuple[Rows, ...]
    change: Callable[..., Matrix]  # takes a block of each source
    shape: tuple[int, int]

    def read(self, start: int, stop: int) -> Matrix:
        """See `RowSource.read`."""
        return self.change(*(np.asarray(source[start:stop]) for source in self.sources))

    def take(self, rows: Int[np.ndarray, " chosen"]) -> Matrix:
        """See `RowSource.take`."""
        return self.change(*(np.asarray(source[rows]) for source in self.sources))


@dataclass(frozen=True, eq=False)
class TakenRows(RowSource):
    """Some rows of another source, in the order given."""

    source: RowSource
    rows: Int[np.ndarray, " chosen"]

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """Rows, and numbers of each."""
        return len(self.rows), self.source.shape[1]

    def read(self, start: int, stop: int) -> Matrix:
        """See `RowSource.read`."""
        return self.source.take(self.rows[start:stop])

    def take(self, rows: Int[np.ndarray, " chosen"]) -> Matrix:
        """See `RowSource.take`."""
        return self.source.take(self.rows[rows])


def choose_rows(rows: Rows, chosen: Int[np.ndarray, " chosen"]) -> Rows:
    """Choose some rows: of a row source as another one, else as an array."""
    return TakenRows(rows, chosen) if isinstance(rows, RowSource) else np.asarray(rows[chosen])


def split_rows(rows: Rows, cells: int = CELLS) -> Iterator[tuple[int, int]]:
    """Split rows into blocks of about so many numbers, as (start, stop)."""
    step = max(1, cells // max(1, rows.shape[1]))
    return ((start, min(start + step, len(rows))) for start in range(0, len(rows), step))


def name_file(number: int) -> str:
    """Name one file of a row source."""
    return f"part-{number:05d}.npy"


def load_array(path: Path, mmap_mode: Any = None) -> np.ndarray:
    """Load a `.npy` that `embed` wrote.

    Raises:
        DataError: it is not there, or damaged.
    """
    try:
        # mapped at first in any case: what a damaged header promises is then compared with the file's size
        found: np.ndarray = np.load(path, mmap_mode=mmap_mode or "r", allow_pickle=False)
        found = found if mmap_mode else np.array(found)
    except FileNotFoundError:
        raise DataError(f"{path} is not here: `dvc repro embed` makes it, `dvc pull embed` fetches it") from None
    except DAMAGED as error:  # cut short, or no longer such a file
        raise DataError(f"{path} is damaged ({' '.join(str(error).split())[:120]}): {remake('embed')}") from None
    return found
