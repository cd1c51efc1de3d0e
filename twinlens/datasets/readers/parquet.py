"""Pictures in Parquet files: labels and captions are read without the pixels, pixels a row group at a time."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from twinlens.config.columns import ParquetColumns
from twinlens.core.bucket_files import AnyFile
from twinlens.core.id_rows import Hashes, IdRows, hash_id
from twinlens.core.spool import Spool
from twinlens.datasets.annotations import Annotations, Drop, RawCaption, RawImage, read_split
from twinlens.datasets.ids import IdChoice
from twinlens.datasets.readers.delimited import refuse_missing
from twinlens.datasets.readers.parquet_cells import iter_cells, open_parquet
from twinlens.datasets.readers.parquet_pictures import read_pictures
from twinlens.datasets.readers.texts import parse_json, read_text_cell, split_texts


class Row(NamedTuple):
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
    dropped = Spool[Drop](tuple)
    listed = Spool(Row)
    choice, known = IdChoice(), bytearray()
    for split, files in parts.items():
        for name, path in files:
            file = open_parquet(path)
            names = classes if classes is not None else _class_names(file.schema_arrow, columns.label)
            for number, cells in enumerate(_read(file, path, columns)):
                row = _listed(cells, columns, names, (split, name, number))
                listed.append(row)
                known.append(not row.unknown)
                choice.add(row.short_id, row.long_id)
    places = {name: path for files in parts.values() for name, path in files}
    same = _find_same(listed, choice.shorts, places, columns.image)
    long, hashes = choice.choose(same)
    first, labels_of = _merge_labels(listed, np.frombuffer(known, dtype=bool), hashes)
    images, captions = Spool(RawImage), Spool(RawCaption)
    for number, row in enumerate(listed):
        image_id = row.short_id
        if long[number]:
            image_id = row.long_id if same[number] == number else listed[int(same[number])].long_id
        captions += [RawCaption(image_id, text) for text in row.captions]
        if row.unknown:
            name, _, place = row.file.rpartition("#")
            why = f"{name}, row {place}: label {row.unknown[0]} is not one of the {row.classes} classes"
            dropped.append(("image", image_id, "unknown_label", why))
        elif first[number] == number:
            images.append(RawImage(image_id, row.file, row.split, labels_of.get(number, row.labels)))
    return Annotations(images, captions, dropped, captioned=bool(columns.captions))


def _find_same(
    listed: Spool[Row], shorts: Hashes, places: Mapping[str, AnyFile], column: str
) -> Int[np.ndarray, " rows"]:
    """Of every row, the first of the same picture: of rows of one id, split and content.

    A layout with a row for each caption has its pictures several times. Pixels are read for ids that repeat, no others.
    """
    same = np.arange(len(listed))
    repeated = np.flatnonzero(IdRows.of_hashes([shorts]).find_repeated())
    if len(repeated):
        is_repeated = np.zeros(len(listed), dtype=bool)
        is_repeated[repeated] = True
        rows = [row for row, again in zip(listed, is_repeated.tolist(), strict=True) if again]
        contents = array("q")
        for row, raw in zip(rows, read_pictures(places, [row.file for row in rows], column), strict=True):
            content = hashlib.sha256(raw).hexdigest() if isinstance(raw, bytes) else row.file
            contents.extend(hash_id(f"{row.short_id}\0{row.split}\0{content}"))
        hashes = np.frombuffer(contents, dtype=np.int64).reshape(-1, 2)
        same[repeated] = repeated[IdRows.of_hashes([hashes]).find_firsts()]
    return same


def _merge_labels(
    listed: Spool[Row], known: Bool[np.ndarray, " rows"], hashes: Hashes
) -> tuple[Int[np.ndarray, " rows"], dict[int, tuple[str, ...]]]:
    """Of every row, the first that has its id and known labels; and what labels all of them have."""
    rows = np.flatnonzero(known)
    first = np.full(len(listed), -1)
    first[rows] = rows[IdRows.of_hashes([hashes[rows]]).find_firsts()]
    labels_of: dict[int, tuple[str, ...]] = {}
    several = np.bincount(first[rows], minlength=len(listed)) > 1
    if several.any():
        held: dict[tuple[str, ...], tuple[str, ...]] = {}  # most pictures share their labels with others
        for number, row in enumerate(listed):
            if known[number] and several[first[number]] and row.labels:
                labels = tuple(dict.fromkeys((*labels_of.get(int(first[number]), ()), *row.labels)))
                labels_of[int(first[number])] = held.setdefault(labels, labels)
    return first, labels_of


def _read(file: pq.ParquetFile, path: AnyFile, columns: ParquetColumns) -> Iterator[dict[str, Any]]:
    """The wanted cells of every row, by their columns; never the pixels."""
    schema = file.schema_arrow
    named = (columns.label, columns.id, columns.split)
    wanted = [*columns.captions, *(name for name in named if name is not None)]
    refuse_missing(path, [columns.image, *wanted], schema.names)
    of_image = schema.field(columns.image).type
    if pa.types.is_struct(of_image) and any(field.name == "path" for field in of_image):
        wanted.append(f"{columns.image}.path")
    wanted = list(dict.fromkeys(wanted))
    if not wanted:
        yield from ({} for _ in range(file.metadata.num_rows))
    for part in iter_cells(path, wanted) if wanted else ():
        for row in zip(*(part[name] for name in wanted), strict=True):
            yield dict(zip(wanted, row, strict=True))


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
