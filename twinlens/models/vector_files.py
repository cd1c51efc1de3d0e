"""Files of vectors that were made elsewhere.

| `vectors` on the card | rows | names of the rows |
|---|---|---|
| `x.npy` with `ids` | rows of the matrix | lines of a text file, a `.npy` of strings, or a column of Parquet |
| `x.parquet` | the column of lists of numbers | the columns of ids and of texts |
| `x.npz` | the array of numbers | the arrays of strings: `ids`, `texts` |
| a folder of clip-retrieval | `img_emb/*.npy`, `text_emb/*.npy` | `image_path`, `caption` of `metadata/*.parquet` |
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float32, Int

from twinlens.core.arrays import DAMAGED
from twinlens.core.errors import DataError

Side = Literal["image", "text"]

IDS = ("id", "image_id", "caption_id", "query_id", "key", "image_path", "path", "file_name", "filename", "file")
TEXTS = ("text", "caption", "texts", "captions")
FOLDERS = {"image": "img_emb", "text": "text_emb"}  # of clip-retrieval
METADATA = "metadata"
MOST = 5  # names that are told one by one


@dataclass(frozen=True)
class StoredVectors:
    """Vectors of one side: one a row, and what the rows are called."""

    path: Path  # for messages
    rows: np.ndarray  # (rows, dim), of any kind of numbers; may be mapped
    ids: list[str] | None
    texts: list[str] | None

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return int(self.rows.shape[1])

    def take(self, chosen: Int[np.ndarray, " chosen"]) -> Float32[np.ndarray, "chosen dim"]:
        """Take some rows as float32."""
        return np.asarray(self.rows[chosen], dtype=np.float32)


def read_vector_file(path: Path, ids: Path | None) -> StoredVectors:
    """Read a file of vectors, and the file of their ids where there is one.

    Raises:
        DataError: a file holds something else, or rows and names are not as many.
    """
    read = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path}: vectors are read from .npy, .npz or .parquet, or from a folder of clip-retrieval")
    found = read(path)
    if ids is not None:
        found = StoredVectors(path, found.rows, *_read_names(ids))
    if found.ids is None and found.texts is None:
        raise DataError(
            f"{path} does not say what its rows are of: name a file of ids on the card (`ids: ...`), in the order of "
            "the rows"
        )
    for names in (found.ids, found.texts):
        if names is not None and len(names) != len(found.rows):
            raise DataError(f"{path} has {len(found.rows):,} rows, {ids or path} {len(names):,} names: give one a row")
    return found


def read_vector_folder(folder: Path, side: Side) -> StoredVectors:
    """Read what clip-retrieval wrote: parts of vectors, each with a table of its rows.

    Raises:
        DataError: a part is missing or of another width, or rows and names are not as many.
    """
    parts = sorted((folder / FOLDERS[side]).glob("*.npy"))
    tables = sorted((folder / METADATA).glob("*.parquet"))
    if not parts or len(parts) != len(tables):
        raise DataError(
            f"{folder} has {len(parts)} files {FOLDERS[side]}/*.npy and {len(tables)} {METADATA}/*.parquet: a folder "
            "that clip-retrieval wrote has one table a part"
        )
    rows: list[np.ndarray] = []
    ids: list[str] = []
    texts: list[str] = []
    for part, named in zip(parts, tables, strict=True):
        matrix, (own, said) = _matrix(_load(part), part), _name_columns(_table(named), named)
        for names, whole in ((own, ids), (said, texts)):
            whole.extend(names or ())
            if names is not None and len(names) != len(matrix):
                raise DataError(f"{part} has {len(matrix):,} rows, {named.name} {len(names):,}")
        if rows and matrix.shape[1] != rows[0].shape[1]:
            raise DataError(f"{part} has {matrix.shape[1]} dimensions, {parts[0].name} {rows[0].shape[1]}")
        rows.append(matrix)
    matrices = np.concatenate(rows)
    lacking = not texts if side == "text" else not ids
    if lacking or any(names and len(names) != len(matrices) for names in (ids, texts)):
        column = "caption" if side == "text" else "image_path"
        raise DataError(f"{folder}: not every table of {METADATA} has the column `{column}`")
    # rows of texts are found by their words: the path beside them is a picture's
    return StoredVectors(folder, matrices, None if side == "text" else ids, texts or None)


def name_some(names: Sequence[str]) -> str:
    """Name the first of many."""
    more = f" and {len(names) - MOST:,} more" if len(names) > MOST else ""
    return f"{', '.join(repr(name) for name in names[:MOST])}{more}"


def _read_npy(path: Path) -> StoredVectors:
    return StoredVectors(path, _matrix(_load(path), path), None, None)


def _read_npz(path: Path) -> StoredVectors:
    with _load(path) as arrays:
        found = {name: _array(arrays, name, path) for name in arrays.files}
    numbers = {name: array for name, array in found.items() if array.ndim == 2 and array.dtype.kind in "fiu"}
    if len(numbers) != 1:
        raise DataError(
            f"{path} has {len(numbers)} matrices of numbers among {', '.join(found)}: keep one, (rows, dim)"
        )
    names = {name: array for name, array in found.items() if array.ndim == 1}
    ids = next((names[name] for name in (*IDS, "ids", "names", "keys") if name in names), None)
    texts = next((names[name] for name in TEXTS if name in names), None)
    return StoredVectors(path, next(iter(numbers.values())), _strings(ids, path), _strings(texts, path))


def _read_parquet(path: Path) -> StoredVectors:
    table = _table(path)
    lists = [field.name for field in table.schema if _holds_numbers(field.type)]
    if len(lists) != 1:
        raise DataError(
            f"{path} has {len(lists)} columns of lists of numbers among {', '.join(table.column_names)}: keep one"
        )
    column = table[lists[0]].combine_chunks()
    if column.null_count:
        raise DataError(f"{path}: {column.null_count:,} of {len(column):,} vectors are null")
    widths = np.asarray(pc.list_value_length(column))
    dim = int(np.bincount(widths).argmax()) if len(widths) else 0
    ids, texts = _name_columns(table, path)
    if other := np.flatnonzero(widths != dim).tolist():
        names = ids or texts or [f"row {row}" for row in range(len(widths))]
        raise DataError(
            f"{path}: {len(other):,} of {len(widths):,} vectors have not {dim} numbers as the others, the first has "
            f"{widths[other[0]]}: {name_some([names[row] for row in other])}"
        )
    flat = column.flatten()
    if flat.null_count:
        raise DataError(f"{path}: {flat.null_count:,} numbers are null")
    return StoredVectors(path, flat.to_numpy(zero_copy_only=False).reshape(len(column), dim), ids, texts)


def _read_names(path: Path) -> tuple[list[str] | None, list[str] | None]:
    if path.suffix.lower() == ".npy":
        return _strings(_load(path), path), None
    if path.suffix.lower() == ".parquet":
        table = _table(path)
        ids, texts = _name_columns(table, path)
        if ids is None and texts is None and len(table.column_names) == 1:
            ids = [str(value) for value in table.column(0).to_pylist()]
        return ids, texts
    try:
        return path.read_text(encoding="utf-8-sig").splitlines(), None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no UTF-8 text: give ids as text, a line a row, as .npy or as .parquet") from None


def _name_columns(table: pa.Table, path: Path) -> tuple[list[str] | None, list[str] | None]:
    def column(known: Sequence[str]) -> list[str] | None:
        name = next((name for name in known if name in table.column_names), None)
        if name is None:
            return None
        values = table[name].to_pylist()
        if empty := sum(value is None for value in values):
            raise DataError(f"{path}: column {name} holds {empty:,} nulls")
        return [str(value) for value in values]

    return column(IDS), column(TEXTS)


def _holds_numbers(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is no Parquet that can be read ({str(error)[:200]})") from None


def _load(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r" if path.suffix.lower() == ".npy" else None)
    except DAMAGED as error:
        raise _explain(error, path) from None


def _array(arrays: Any, name: str, path: Path) -> np.ndarray:
    try:
        return np.asarray(arrays[name])
    except DAMAGED as error:
        raise _explain(error, path) from None


def _explain(error: Exception, path: Path) -> DataError:
    if "allow_pickle" in str(error) or "Python objects" in str(error):
        return DataError(
            f"{path} holds Python objects, which are not read: save names with `np.array(names, dtype=str)`"
        )
    return DataError(f"{path} is no NumPy file that can be read, or is cut short ({str(error)[:200]})")


def _matrix(found: np.ndarray, path: Path) -> np.ndarray:
    if found.ndim != 2 or found.dtype.kind not in "fiu" or not found.size:
        raise DataError(f"{path} holds {found.dtype} of shape {found.shape}: vectors are numbers of shape (rows, dim)")
    return found


def _strings(found: np.ndarray | None, path: Path) -> list[str] | None:
    if found is None:
        return None
    if found.ndim != 1 or found.dtype.kind not in "Uiu":
        raise DataError(f"{path}: ids should be strings or whole numbers, one a row, found {found.dtype} {found.shape}")
    if found.dtype.kind == "U" and found.dtype.itemsize and found.size:
        codes = np.ascontiguousarray(found, dtype=found.dtype.newbyteorder("=")).view(np.uint32)
        if codes.max() > sys.maxunicode:
            raise DataError(f"{path} is damaged: names hold numbers that are no characters")
    return [str(name) for name in found]
