"""Pictures in Parquet files: labels and captions are read without the pixels, pixels a row group at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from twinlens.config.datasets import ParquetColumns
from twinlens.core.errors import DataError
from twinlens.datasets.adapters.base import MISSING
from twinlens.datasets.annotations import Annotations, Drop, RawCaption, RawImage


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file whose end is whole.

    Raises:
        DataError: it is none.
    """
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a whole Parquet file ({str(error)[:120]}): fetch it again") from None


def read_annotations(
    parts: Mapping[str, Sequence[tuple[str, Path]]], columns: ParquetColumns, classes: Sequence[str] | None
) -> Annotations:
    """Read labels, captions and splits of the files' pictures.

    Args:
        parts: name and place of the files of each split.
        columns: which columns to read.
        classes: names of numbered labels; taken from the file's own description where absent.

    Raises:
        DataError: a file is damaged, or has no such column.
    """
    images: list[RawImage] = []
    captions: list[RawCaption] = []
    dropped: list[Drop] = []
    for split, files in parts.items():
        for name, path in files:
            file = open_parquet(path)
            table = _read(file, path, columns)
            names = classes if classes is not None else _class_names(file.schema_arrow, columns.label)
            for row, cells in enumerate(table):
                image_id = _image_id(cells, columns, name, row)
                labels, unknown = _labels(cells.get("label"), names)
                if unknown:
                    why = f"{name}, row {row}: label {unknown[0]!r} is not one of the {len(names or ())} classes"
                    dropped.append(("image", image_id, "unknown_label", why))
                    continue
                images.append(RawImage(image_id, f"{name}#{row}", split, labels))
                captions += [RawCaption(image_id, text) for text in _texts(cells.get("caption"))]
    return Annotations(images, captions, dropped, captioned=columns.caption is not None)


def read_pictures(places: Mapping[str, Path], files: Sequence[str], column: str) -> Iterator[bytes | str]:
    """Picture bytes of rows named `<file>#<row>`, one row group in memory at a time while rows are in order."""
    held: tuple[str, int] | None = None
    opened: pq.ParquetFile | None = None
    name, first, cells = "", 0, pa.chunked_array([], pa.binary())
    for place in files:
        wanted, _, number = place.rpartition("#")
        if wanted not in places:
            yield MISSING
            continue
        if wanted != name or opened is None:
            name, opened, held = wanted, open_parquet(places[wanted]), None
        group, start = _row_group(opened, int(number))
        if group is None:
            yield MISSING
            continue
        if held != (name, group):
            try:
                cells, first, held = opened.read_row_group(group, columns=[column])[column], start, (name, group)
            except (pa.ArrowInvalid, OSError) as error:
                held = None
                yield f"damaged in {name}: {str(error)[:120]}"
                continue
        yield _bytes(cells[int(number) - first].as_py())


def _row_group(file: pq.ParquetFile, row: int) -> tuple[int | None, int]:
    start = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if start <= row < start + rows:
            return group, start
        start += rows
    return None, 0


def _bytes(cell: Any) -> bytes | str:
    raw = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(raw, bytes):
        return raw
    return "the row holds no bytes" if raw is None else f"the row holds {type(raw).__name__}, no bytes"


def _read(file: pq.ParquetFile, path: Path, columns: ParquetColumns) -> list[dict[str, Any]]:
    """The wanted cells of every row, by what they are; never the pixels."""
    schema = file.schema_arrow
    wanted = {role: name for role, name in columns.model_dump().items() if name is not None}
    if missing := [name for name in wanted.values() if name not in schema.names]:
        raise DataError(f"{path}: no column {', '.join(missing)}; found {', '.join(schema.names)}")
    of_image = schema.field(columns.image).type
    has_path = pa.types.is_struct(of_image) and any(field.name == "path" for field in of_image)
    leaves = [name for role, name in wanted.items() if role != "image"] + (
        [f"{columns.image}.path"] if has_path else []
    )
    try:
        table = file.read(columns=leaves)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is damaged ({str(error)[:120]}): fetch it again") from None
    cells: dict[str, list[Any]] = {role: table[name].to_pylist() for role, name in wanted.items() if role != "image"}
    if has_path:
        cells["path"] = [cell and cell["path"] for cell in table[columns.image].to_pylist()]
    return [{role: values[row] for role, values in cells.items()} for row in range(file.metadata.num_rows)]


def _image_id(cells: dict[str, Any], columns: ParquetColumns, name: str, row: int) -> str:
    if columns.id is not None:
        return str(cells["id"])
    if cells.get("path"):
        return str(Path(cells["path"]).with_suffix(""))
    return f"{Path(name).stem}-{row:06d}"


def _labels(cell: Any, names: Sequence[str] | None) -> tuple[tuple[str, ...], list[Any]]:
    """The labels as names, and those that are none of the classes."""
    found: list[str] = []
    unknown: list[Any] = []
    for value in cell if isinstance(cell, list) else [cell]:
        if value is None or value == "":
            continue
        if names is None:
            found.append(str(value))
        elif isinstance(value, str):
            (found if value in names else unknown).append(value)
        elif 0 <= int(value) < len(names):
            found.append(names[int(value)])
        else:
            unknown.append(value)
    return tuple(dict.fromkeys(found)), unknown


def _texts(cell: Any) -> list[str]:
    if isinstance(cell, list):
        return [str(text) for text in cell if text is not None]
    return [] if cell is None else [str(cell)]


def _class_names(schema: pa.Schema, label: str | None) -> list[str] | None:
    """The names of a ClassLabel column, as the hub's `datasets` library notes them in the file."""
    noted = (schema.metadata or {}).get(b"huggingface")
    if label is None or noted is None:
        return None
    try:
        feature = json.loads(noted)["info"]["features"][label]
    except (KeyError, TypeError, ValueError):
        return None
    feature = feature.get("feature", feature) if isinstance(feature, dict) else {}
    names = feature.get("names") if isinstance(feature, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else None
