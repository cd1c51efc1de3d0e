"""Row store of an index: files that are mapped into memory.

Ids, captions, thumbnails and vectors are read from here, each page when it is first touched, once for all
processes. Exact search needs nothing else; a table of LanceDB lies beside them where approximate candidates are
asked for. Vectors lie in the form that `index.vectors` names, by the same code that `compress` measures it with.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int

from twinlens.config.vector_forms import VectorForm
from twinlens.core.row_sources import RowBlocks, iter_blocks
from twinlens.indexing.scans import Scans
from twinlens.retrieval.axes import Axes
from twinlens.retrieval.codes import Arrays, Codes, Floats, Int8Steps, Vector
from twinlens.retrieval.compression import BETTER_FORM, CODES, CompressedItems, FittedForm, score_exactly
from twinlens.retrieval.known import Known
from twinlens.retrieval.scores import bound_float32_error
from twinlens.tasks.inputs import NEGATIVES

IMAGE_VECTOR, CAPTION_VECTOR = "image_vector", "caption_vector"
ROWS = "pictures.arrow"
AGAIN = "again"  # of the files of the better vectors, by which the best get new scores


@dataclass(frozen=True)
class Space:
    """The vectors of one column, mapped; zeros where there is none."""

    items: CompressedItems
    absent: Int[np.ndarray, " none"]  # rows of pictures without one
    better: Space | None = None  # the same pictures by the vectors that give the best new scores

    @property
    def form(self) -> VectorForm:
        """How vectors are kept."""
        return self.items.form

    @property
    def rows(self) -> np.ndarray:
        """What stands for each vector: numbers, or bits in words or bytes."""
        codes = self.items.codes
        found: np.ndarray = getattr(codes, codes.ENCODED[0])
        return found

    @cached_property
    def _scans(self) -> Scans | None:
        codes = self.items.codes
        if isinstance(codes, Int8Steps):
            return Scans(codes.numbers, codes.steps)
        return Scans(codes.rows) if isinstance(codes, Floats) else None

    def products(self, query: Vector) -> Float32[np.ndarray, " pictures"]:
        """Score all rows for a query by their codes, but for an error of `bound_error`; a new array."""
        if (scans := self._scans) is None:
            return self.items.products(query)
        return scans.products(self.items.fitted.keep(query[None])[0])

    def bound_error(self, query: Vector) -> float:
        """Bound the error of `products`."""
        asked = self.items.prepare(query[None])[0]
        lengths = self.items.codes.longest * max(1.0, float(np.linalg.norm(asked)))
        return lengths * bound_float32_error(len(asked))

    def score(self, query: Vector, rows: Int[np.ndarray, " some"]) -> Float32[np.ndarray, " some"]:
        """Score some rows by their codes, exactly."""
        return score_exactly(query[None], self.items.codes, rows[None], self.items.fitted)[0]

    def take(self, rows: Int[np.ndarray, " some"] | slice) -> Float32[np.ndarray, "some dim"]:
        """The vectors of some rows, in float32 and all dimensions, as far as what is kept knows them."""
        return self.items.restore(rows)


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
        absent, items = np.load(self.folder / f"{name}.absent.npy", allow_pickle=False), self._items(name)
        better = None if items.better is None else Space(self._items(f"{name}.{AGAIN}"), absent)
        return Space(items, absent, better)

    def _items(self, name: str) -> CompressedItems:
        path, axes = self.folder / f"{name}.form.json", None
        if path.exists():
            told = json.loads(path.read_text())
            form, dim = VectorForm.read(told["form"]), int(told["dim"])
        else:  # an older index, of float32, float16 or int8
            rows = self._map(name)
            form, dim = VectorForm.read(str(rows.dtype)), rows.shape[1]
        if form.dimensions is not None:
            axes = Axes(self._map(f"{name}.axes") if form.axes == "principal" else None, form.dimensions)
        made = CODES[form.precision]
        encoded = {field: self._map(name_part(name, made, field)) for field in made.ENCODED}
        shared = {field: self._map(f"{name}.{field}") for field in made.SHARED}
        fitted = FittedForm(form, dim, axes, shared)
        better = None if form.rescored is None else self._items(f"{name}.{AGAIN}").codes
        return CompressedItems(fitted, fitted.make_codes(encoded), better)

    def _map(self, name: str) -> np.ndarray:
        """A plain view of a mapped file: the subclass `memmap` runs Python code at every slice."""
        return np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray))

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
    folder: Path,
    name: str,
    rows: RowBlocks,
    absent: Int[np.ndarray, " none"],
    form: VectorForm | None = None,
    known: Known | None = None,
) -> None:
    """Write the vectors of one column in a form, and which rows have none; a block of rows is in memory at a time.

    The files are those that `numpy.save` makes of all rows at once. Rows are read once, and again for what is fitted
    to all of them, such as the largest value of each dimension.

    Args:
        folder: takes `<name>.npy`, and beside it what else the form needs.
        name: of the column.
        rows: (pictures, dim), of which slices are taken.
        absent: rows of pictures without a vector.
        form: how vectors are kept; float32 if absent.
        known: what the form learns from beside the rows; the rows themselves if absent.
    """
    form, known = form or VectorForm(), known or Known(rows, False)
    _write_items(folder, name, rows, form, known)
    if form.rescored is not None:
        _write_items(folder, f"{name}.{AGAIN}", rows, BETTER_FORM, known)
    np.save(folder / f"{name}.absent.npy", absent)


def _write_items(folder: Path, name: str, rows: RowBlocks, form: VectorForm, known: Known) -> None:
    fitted, made = FittedForm.of(form, rows, known), CODES[form.precision]
    blocks = (fitted.encode(block) for block in iter_blocks(rows))
    _write_blocks({field: folder / f"{name_part(name, made, field)}.npy" for field in made.ENCODED}, blocks, len(rows))
    for field, value in fitted.shared.items():
        np.save(folder / f"{name}.{field}.npy", value)
    if fitted.axes is not None and fitted.axes.axes is not None:
        np.save(folder / f"{name}.axes.npy", fitted.axes.axes)
    told = {"form": form.name, "dim": rows.shape[1]}
    (folder / f"{name}.form.json").write_text(json.dumps(told) + "\n")


def name_part(name: str, made: type[Codes], field: str) -> str:
    """Name the file of a field with an entry for each row: the first has the column's own name."""
    return name if field == made.ENCODED[0] else f"{name}.{field}"


def _write_blocks(files: Mapping[str, Path], blocks: Iterable[Arrays], count: int) -> None:
    """Write `.npy` files block by block. Written, not mapped: a full disk is then an error that can be told."""
    with ExitStack() as stack:
        opened = {field: stack.enter_context(path.open("wb")) for field, path in files.items()}
        for number, block in enumerate(blocks):
            for field, file in opened.items():
                rows = np.ascontiguousarray(block[field])
                if not number:
                    shape = (count, *rows.shape[1:])
                    header = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(rows.data)
