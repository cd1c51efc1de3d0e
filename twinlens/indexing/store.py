"""Row store of an index: files that are mapped into memory.

Ids, captions, thumbnails and vectors are read from here, each page when it is first touched, once for all
processes. Exact search needs nothing else; a table of LanceDB lies beside them where approximate candidates are
asked for. Vectors lie in the form that `index.precision` names, by the same code that `compress` measures it with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int

from twinlens.retrieval.compression import Floats, Int8Steps, encode
from twinlens.tasks.inputs import NEGATIVES

IMAGE_VECTOR, CAPTION_VECTOR = "image_vector", "caption_vector"
ROWS = "pictures.arrow"


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

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @cached_property
    def ids(self) -> list[str]:
        """Image ids, by row."""
        return self.column("image_id")

    @property
    def told(self) -> dict[str, str]:
        """Facts about the pool that `write_rows` was given."""
        return {name.decode(): value.decode() for name, value in (self._table.schema.metadata or {}).items()}

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
        return list(self._table[name].to_pylist())

    def take(self, rows: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Read all but the vectors of some rows, in the order given."""
        return [self._table.slice(int(row), 1).to_pylist()[0] for row in rows]

    @cached_property
    def _table(self) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(self.folder / ROWS))).read_all()


def write_rows(folder: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    """Write all columns but the vectors, row by row as they come."""
    with pa.OSFile(str(folder / ROWS), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_space(folder: Path, name: str, rows: np.ndarray, absent: np.ndarray, precision: str = "float32") -> None:
    """Write the vectors of one column in a form, `float32`, `float16` or `int8`, and which rows have none."""
    codes = encode(np.asarray(rows, dtype=np.float32), precision)
    if isinstance(codes, Int8Steps):
        np.save(folder / f"{name}.npy", codes.numbers)
        np.save(folder / f"{name}.steps.npy", codes.steps)
    elif isinstance(codes, Floats):
        np.save(folder / f"{name}.npy", codes.rows)
    else:
        raise ValueError(f"an index holds no vectors as {precision}")
    np.save(folder / f"{name}.absent.npy", absent)
