"""Layouts of a folder of one's own: which adapter reads it, and the content of a card for it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from twinlens.apps.commands.dataset_columns import CAPTION, LABEL, SPLIT, Columns, Pictures, find_alike, find_columns
from twinlens.apps.commands.dataset_neighbours import explain_others
from twinlens.core.errors import DataError
from twinlens.datasets.annotations import SPLITS, find_split, read_split, take_split
from twinlens.datasets.readers.archives import open_tree
from twinlens.datasets.readers.names import PICTURES
from twinlens.datasets.readers.parquet_cells import open_parquet, read_cells
from twinlens.datasets.readers.tabular import ENDINGS
from twinlens.datasets.readers.texts import decode, read_text_cell

SHARDS = (".tar", ".tar.gz", ".tgz")
DEPTH = 2  # folders down to which a table is looked for
# Files by which publishers' own layouts are known, and the card that reads them.
PUBLISHED: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("flickr_annotations_30k.csv", "flickr30k-images.zip"), {"adapter": "flickr30k", "pool": "test"}),
    (("Flickr8k_text.zip", "Flickr8k_Dataset.zip"), {"adapter": "flickr8k", "pool": "test"}),
    (("Flickr8k.token.txt",), {"adapter": "flickr8k", "pool": "test"}),
    (("mappings/folder_to_objectnet_label.json",), {"adapter": "objectnet", "selection": "never"}),
)


@dataclass
class Layout:
    """A layout that was recognised."""

    card: dict[str, Any]  # without `about`
    told: str  # what it is, in a phrase
    remarks: dict[str, str] = field(default_factory=dict)  # beside keys of the card, by key
    notes: list[str] = field(default_factory=list)  # what was not understood, or is not used


def find_layout(folder: Path, table: Path | None, name: str) -> Layout:
    """Find how a folder's pictures are read.

    Args:
        folder: or a zip or tar of pictures.
        table: that lists them; looked for in the folder if absent.
        name: of the card.

    Raises:
        FetchError: the folder or the table is not there, or is a damaged archive.
        DataError: there is no picture in any layout that is read; the message says what there is.
    """
    tree = open_tree(folder)
    names = tree.names()
    try:
        pictures = Pictures(tree)
        if table is not None:
            own = table.relative_to(folder).as_posix() if table.is_relative_to(folder) else table.name
            return _of_table(folder, table, find_columns(table, pictures, own))
        if (published := _find_published(folder, names)) is not None:
            return published
        if pictures.names:
            return _of_pictures(folder, names, pictures)
    finally:
        tree.close()
    if (packed := _find_packed(folder, names)) is not None:
        return find_layout(packed, table or _find_table_beside(packed, names), name)
    for kind, read in ((SHARDS, _of_shards), ((".parquet",), _of_parquet)):
        if found := [own for own in names if own.lower().endswith(kind)]:
            return read(folder, found, name)
    raise DataError(_explain_nothing(folder, names))


def _find_packed(folder: Path, names: Sequence[str]) -> Path | None:
    """The one zip in a folder that holds no picture itself."""
    zips = [own for own in names if own.lower().endswith(".zip")]
    return folder / zips[0] if len(zips) == 1 and folder.is_dir() else None


def _find_table_beside(packed: Path, names: Sequence[str]) -> Path | None:
    """The one table in the folder of a zip."""
    tables = [own for own in names if own.lower().endswith(ENDINGS) and "/" not in own]
    return packed.parent / tables[0] if len(tables) == 1 else None


def _explain_nothing(folder: Path, names: Sequence[str]) -> str:
    endings = Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in names).most_common(6)
    found = ", ".join(f"{count:,} x {ending}" for ending, count in endings) or "nothing"
    return (
        f"{folder} holds no pictures: found {found}; wanted files that end in {', '.join(PICTURES[:8])} and so on, tar "
        "shards (.tar), or Parquet files with a column of pictures. Files of other names are not looked into"
    )


def _find_published(folder: Path, names: Sequence[str]) -> Layout | None:
    parts = [part for part in ("train2017", "val2017") if f"{part}.zip" in names]
    if "annotations_trainval2017.zip" in names and parts:
        pool = "val" if len(parts) > 1 else "all"
        card = {"adapter": "coco", "parts": parts, "source": str(folder), "verify": False, "pool": pool}
        return Layout(card, "COCO 2017 in its publishers' archives", {"verify": "a part of the photos is enough"})
    for files, card in PUBLISHED:
        if all(file in names for file in files):
            adapter = {"adapter": card["adapter"], "source": str(folder)}
            return Layout(adapter | card, f"{card['adapter']} in its publishers' layout")
    return None


# ---------------------------------------------------------------- pictures as files


def _of_pictures(folder: Path, names: Sequence[str], pictures: Pictures) -> Layout:
    notes: list[str] = []
    found: list[tuple[Path, Columns]] = []
    stems = {str(PurePosixPath(own).with_suffix("")) for own in pictures.names}
    beside = [own for own in names if own.lower().endswith(".txt") and str(PurePosixPath(own).with_suffix("")) in stems]
    may_be = [own for own in names if own.lower().endswith(ENDINGS) and len(PurePosixPath(own).parts) <= DEPTH]
    may_be = [own for own in may_be if own not in set(beside)]
    for own in may_be if folder.is_dir() else ():
        try:
            found.append((folder / own, find_columns(folder / own, pictures, own)))
        except DataError as error:
            if not own.lower().endswith(".txt"):  # most of these are no tables at all
                notes.append(str(error))
    if not found:
        return _of_folders(folder, pictures, [*notes, *explain_others(folder, names, beside)])
    if (parts := _of_split_tables(folder, found)) is not None:
        parts.notes += notes
        return parts
    table, columns = max(found, key=lambda one: (bool(one[1].captions), one[1].named))
    others = [path.name for path, _ in found if path != table]
    if others:
        notes.append(
            f"{table.name} is read; {', '.join(others)} list pictures too. A card reads one table: put their rows into "
            "one (with a column `split`, where they are splits), or choose with --table"
        )
    layout = _of_table(folder, table, columns)
    layout.notes += notes
    return layout


def _of_split_tables(folder: Path, found: Sequence[tuple[Path, Columns]]) -> Layout | None:
    """A table in each split's folder, as the hub's `imagefolder` has it; None where the tables lie otherwise."""
    parts: dict[str, tuple[Path, Columns]] = {}
    for table, columns in found:
        split, _ = take_split(PurePosixPath(columns.root).parts)
        if split is None or split in parts or not columns.captions:
            return None
        parts[split] = table, columns
    if len(parts) < 2 or len({(columns.file, columns.captions[0]) for _, columns in parts.values()}) > 1:
        return None
    first = next(iter(parts.values()))[1]
    named = {
        split: {"images": columns.root, "captions": table.relative_to(folder).as_posix()}
        for split in SPLITS
        if split in parts
        for table, columns in [parts[split]]
    }
    card = {
        "adapter": "imageclef",
        "source": str(folder),
        "parts": named,
        "id": first.file,
        "caption": first.captions[0],
    }
    notes = [note for _, columns in parts.values() for note in columns.notes]
    labels = [columns.label for _, columns in parts.values() if columns.label]
    if labels or len(first.captions) > 1:
        notes.append(f"of each table {first.file} and {first.captions[0]} are used, nothing else")
    return Layout(card, f"a table of captions in each split's folder ({', '.join(named)})", notes=notes)


def _of_table(folder: Path, table: Path, columns: Columns) -> Layout:
    if columns.root and folder.is_file():
        raise DataError(
            f"{table}: its column {columns.file} names pictures below {columns.root}/ in {folder}: unpack the archive, "
            "and name the folder"
        )
    captions: str | list[str] | None = columns.captions or None
    if captions is not None and len(captions) == 1:
        captions = captions[0]
    named = {"file": columns.file, "caption": captions, "label": columns.label, "split": columns.split}
    card: dict[str, Any] = {"adapter": "folder", "images": str(folder / columns.root), "table": str(table)}
    card["columns"] = {key: value for key, value in named.items() if value is not None}
    if columns.separator is not None:
        card["separator"] = columns.separator
    remarks = {"columns.file": "its values name the pictures, below `images`"}
    remarks |= {"columns.label": "what a picture shows", "separator": "between several labels of one cell"}
    return Layout(card, f"a folder of pictures and the table {table.name}", remarks, list(columns.notes))


def _of_folders(folder: Path, pictures: Pictures, notes: list[str]) -> Layout:
    """Without a table: the folder that a picture lies in is its label, unless all lie in one."""
    root = folder
    if folder.is_dir():
        shared = os.path.commonpath([str(PurePosixPath(name).parent) for name in pictures.names])
        parts: list[str] = []
        for part in PurePosixPath(shared).parts:
            if read_split(part):
                break
            parts.append(part)
        root = folder.joinpath(*parts)
        inside = [PurePosixPath(name).parts[len(parts) : -1] for name in pictures.names]
    else:
        inside = [PurePosixPath(name).parts[:-1] for name in pictures.names]
    labels = {folders[-1] for own in inside if (folders := take_split(own)[1])}
    card: dict[str, Any] = {"adapter": "folder", "images": str(root)}
    if not labels:
        return Layout(card, "pictures, of which nothing says what they show", notes=notes)
    remarks = {"images": f"without a table a picture's label is its folder: {', '.join(sorted(labels)[:4])} ..."}
    return Layout(card, f"pictures in folders, whose names are their labels ({len(labels):,})", remarks, notes)


# ------------------------------------------------------------------ shards and Parquet


def _of_shards(folder: Path, names: Sequence[str], name: str) -> Layout:
    shards, notes = _group_by_split(names)
    tree = open_tree(folder / names[0])
    try:
        members = tree.names()
        endings = Counter(PurePosixPath(member).name.partition(".")[2].lower() for member in members)
        if not any(f".{ending}".endswith(PICTURES) for ending in endings):
            raise DataError(f"{folder / names[0]} holds no pictures: found {', '.join(list(endings)[:8]) or 'nothing'}")
        caption = _find_ending(endings, ("txt", "caption", "cap", "text"))
        card: dict[str, Any] = {"adapter": "webdataset", "source": str(folder), "shards": shards, "caption": caption}
        if not any(f".{ending}" in PICTURES for ending in endings):  # all are like `input.jpg`
            card["image"] = [ending for ending in endings if f".{ending}".endswith(PICTURES)][:1]
        if (label := _find_ending(endings, ("cls", "label"))) is not None:
            card["label"] = label
        if "json" in endings:
            keys = _read_keys(tree.read(next(own for own in members if own.lower().endswith(".json"))))
            said = [key for key in keys if CAPTION.fullmatch(key)] if caption is None else []
            labels = [key for key in keys if LABEL.fullmatch(key)] if label is None else []
            if said or labels:
                keyed = {"caption_key": next(iter(said), None), "label_key": next(iter(labels), None)}
                card |= {"metadata": "json"} | {key: value for key, value in keyed.items() if value is not None}
            notes += [f"keys {', '.join(keys)} of the JSON members are not used"] if not said + labels else []
    finally:
        tree.close()
    remarks = {"caption": "the ending of the captions' members, one a line", "label_key": "of the JSON members"}
    return Layout(card, f"{len(names):,} tar shards", remarks, notes)


def _find_ending(endings: Iterable[str], kinds: Sequence[str]) -> str | None:
    """The ending that is one of some kinds, or ends in one (`output.txt`)."""
    found = [ending for kind in kinds for ending in endings if ending == kind]
    return next(iter(found or [own for kind in kinds for own in endings if own.endswith(f".{kind}")]), None)


def _read_keys(content: bytes | str) -> list[str]:
    try:
        found = json.loads(decode(content)) if isinstance(content, bytes) else None
    except ValueError:
        return []
    return list(found) if isinstance(found, dict) else []


def _of_parquet(folder: Path, names: Sequence[str], name: str) -> Layout:
    files, notes = _group_by_split(names)
    schema = open_parquet(folder / names[0]).schema_arrow
    pictured = [own for own in schema.names if _holds_pictures(schema.field(own).type)]
    if not pictured:
        raise DataError(
            f"{folder / names[0]} has no column of pictures; found {', '.join(schema.names)}. Wanted bytes, or a "
            "struct of bytes and path as the hub writes it"
        )
    texts = [own for own in schema.names if own not in pictured]
    captions = [own for own in texts if CAPTION.fullmatch(own)]
    labels = [own for own in texts if LABEL.fullmatch(own)]
    splits = [own for own in texts if SPLIT.fullmatch(own) and _names_splits(folder / names[0], own)]
    alike = find_alike(captions[0], captions) if captions else []
    named = {"image": pictured[0], "caption": alike if len(alike) > 1 else next(iter(alike), None)}
    named |= {"label": next(iter(labels), None), "split": next(iter(splits), None)}
    columns = {key: value for key, value in named.items() if value is not None}
    if unused := [own for own in (*pictured[1:], *texts) if own not in (*columns.values(), *alike)]:
        notes.append(f"columns {', '.join(unused[:12])} are not used")
    card = {"adapter": "hub", "repository": f"own/{name}", "source": str(folder), "files": files, "columns": columns}
    remarks = {"repository": "a name only: `source` is where the files are"}
    return Layout(card, f"{len(names):,} Parquet files with pictures", remarks, notes)


def _names_splits(file: Path, column: str) -> bool:
    try:
        return all(read_split(read_text_cell(cell, column) or "") for cell in read_cells(file, [column])[column])
    except DataError:
        return False


def _holds_pictures(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(place).name == "bytes" for place in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _group_by_split(names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """A pattern for the files of each split, by the words in their names; all are `test` where none says which."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(find_split(name) or "", []).append(name)
    unknown = groups.pop("", [])
    if not groups:
        groups, unknown = {"test": unknown}, []
    notes = []
    if unknown:
        notes.append(f"{len(unknown):,} files whose names say no split are not read, {unknown[0]} for instance")
    return {split: _make_pattern(groups[split]) for split in SPLITS if split in groups}, notes


def _common_start(texts: Sequence[str]) -> str:
    return "".join(signs[0] for signs in takewhile(lambda signs: len(set(signs)) == 1, zip(*texts, strict=False)))


def _make_pattern(mine: Sequence[str]) -> str:
    """A pattern that means these names."""
    if len(mine) == 1:
        return mine[0]
    start = _common_start(mine)
    end = _common_start([name[::-1] for name in mine])[::-1]
    if "/" in "".join(name[len(start) : len(name) - len(end)] for name in mine):
        end = PurePosixPath(mine[0]).suffix
        folder = start.rpartition("/")[0]
        return f"{folder}/**/*{end}" if folder else f"**/*{end}"
    return (
        f"{start}*{end}" if len(start) + len(end) < min(map(len, mine)) else f"{start}*{PurePosixPath(mine[0]).suffix}"
    )
