"""Pictures in Parquet files: labels and captions are read without the pixels, pixels a row group at a time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from twinlens.config.columns import ParquetColumns
from twinlens.core.bucket_files import AnyFile
from twinlens.datasets.annotations import Annotations, Drop, RawCaption, RawImage, read_split
from twinlens.datasets.ids import make_unique
from twinlens.datasets.readers.delimited import refuse_missing
from twinlens.datasets.readers.parquet_cells import open_parquet, read_cells
from twinlens.datasets.readers.parquet_pictures import read_pictures
from twinlens.datasets.readers.texts import parse_json, read_text_cell, split_texts


@dataclass(frozen=True)
class Row:
    """A picture as one row lists it."""

    short_id: str
    long_id: str  # file and row, for pictures that share a short id
    file: str
    split: str
    labels: tuple[str, ...]
    captions: list[str]
    unknown: tuple[str, ...]  # labels that are none of the classes
    classes: int  # how many there are


def read_annotations(
    parts: Mapping[str, Sequence[tuple[str, AnyFile]]], columns: ParquetColumns, classes: Sequence[str] | None
) -> Annotations:
    """Read labels, captions and splits of the files' pictures.

    Args:
        parts: name and place of the files of each split.
        columns: which columns to read.
        classes: names of numbered labels; taken from the file's own description where absent.

    Raises:
        DataError: a file is damaged, or has no such column.
    """
    dropped: list[Drop] = []
    listed: list[Row] = []
    for split, files in parts.items():
        for name, path in files:
            file = open_parquet(path)
            table = _read(file, path, columns)
            names = classes if classes is not None else _class_names(file.schema_arrow, columns.label)
            listed += [_listed(cells, columns, names, (split, name, row)) for row, cells in enumerate(table)]
    places = {name: path for files in parts.values() for name, path in files}
    longs = _long_ids(listed, places, columns.image)
    ids = make_unique([(row.short_id, long) for row, long in zip(listed, longs, strict=True)])
    images: dict[str, RawImage] = {}
    captions: list[RawCaption] = []
    for image_id, row in zip(ids, listed, strict=True):
        captions += [RawCaption(image_id, text) for text in row.captions]
        if row.unknown:
            name, _, number = row.file.rpartition("#")
            why = f"{name}, row {number}: label {row.unknown[0]} is not one of the {row.classes} classes"
            dropped.append(("image", image_id, "unknown_label", why))
            continue
        known = images.get(image_id)
        labels = row.labels if known is None else tuple(dict.fromkeys((*known.labels, *row.labels)))
        images[image_id] = RawImage(image_id, known.file if known else row.file, row.split, labels)
    return Annotations(list(images.values()), captions, dropped, captioned=bool(columns.captions))


def _long_ids(listed: Sequence[Row], places: Mapping[str, AnyFile], column: str) -> list[str]:
    """File and row of every picture; of rows of one id, split and content, the first: they are one picture.

    A layout with a row for each caption has its pictures several times. Pixels are read for ids that repeat, no others.
    """
    counts = Counter(row.short_id for row in listed)
    repeated = [row for row in listed if counts[row.short_id] > 1]
    first: dict[tuple[str, str, bytes], str] = {}
    found: dict[str, str] = {}
    for row, raw in zip(repeated, read_pictures(places, [row.file for row in repeated], column), strict=True):
        content = hashlib.sha256(raw).digest() if isinstance(raw, bytes) else row.file.encode()
        found[row.file] = first.setdefault((row.short_id, row.split, content), row.long_id)
    return [found.get(row.file, row.long_id) for row in listed]


def _read(file: pq.ParquetFile, path: AnyFile, columns: ParquetColumns) -> list[dict[str, Any]]:
    """The wanted cells of every row, by their columns; never the pixels."""
    schema = file.schema_arrow
    named = (columns.label, columns.id, columns.split)
    wanted = [*columns.captions, *(name for name in named if name is not None)]
    refuse_missing(path, [columns.image, *wanted], schema.names)
    of_image = schema.field(columns.image).type
    if pa.types.is_struct(of_image) and any(field.name == "path" for field in of_image):
        wanted.append(f"{columns.image}.path")
    found = read_cells(path, list(dict.fromkeys(wanted)))
    return [{name: found[name][row] for name in found} for row in range(file.metadata.num_rows)]


def _listed(
    cells: dict[str, Any], columns: ParquetColumns, names: Sequence[str] | None, place: tuple[str, str, int]
) -> Row:
    split, name, number = place
    where = f"{name}, row {number}, column"
    labels, unknown = _labels(cells.get(columns.label or ""), names, f"{where} {columns.label}")
    own = read_text_cell(cells.get(columns.split or ""), f"{where} {columns.split}")
    return Row(
        _short_id(cells, columns, name, number),
        f"{PurePosixPath(name).with_suffix('')}-{number:06d}",
        f"{name}#{number}",
        split if own is None else read_split(own) or own,
        labels,
        [text for column in columns.captions for text in split_texts(cells[column], f"{where} {column}")],
        unknown,
        len(names or ()),
    )


def _short_id(cells: dict[str, Any], columns: ParquetColumns, name: str, number: int) -> str:
    """The id of its own, the picture's path, or file and row: the first that there is."""
    own = read_text_cell(cells.get(columns.id or ""), f"{name}, row {number}, column {columns.id}")
    if own is not None:
        return own
    path = PurePosixPath(cells.get(f"{columns.image}.path") or "")
    if path.name:
        return str(path.with_suffix(""))
    return f"{PurePosixPath(name).stem}-{number:06d}"


def _labels(cell: Any, names: Sequence[str] | None, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The labels as names, and those that are none of the classes."""
    found: list[str] = []
    unknown: list[str] = []
    for value in cell if isinstance(cell, list) else [cell]:
        texts = [text for text in split_texts(value, where) if text]
        if names is None or isinstance(value, str | bytes | list):
            for text in texts:
                (found if names is None or text in names else unknown).append(text)
        elif texts:
            number = int(texts[0]) if texts[0].isdigit() else -1
            if 0 <= number < len(names):
                found.append(names[number])
            else:
                unknown.append(texts[0])
    return tuple(dict.fromkeys(found)), tuple(unknown)


def _class_names(schema: pa.Schema, label: str | None) -> list[str] | None:
    """The names of a ClassLabel column, as the hub's `datasets` library notes them in the file."""
    noted = (schema.metadata or {}).get(b"huggingface")
    if label is None or noted is None:
        return None
    try:
        feature = parse_json(noted)["info"]["features"][label]
    except (KeyError, TypeError, ValueError):
        return None
    feature = feature.get("feature", feature) if isinstance(feature, dict) else {}
    names = feature.get("names") if isinstance(feature, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else None
