"""Your own pictures: a folder or zip of them, and a table that says what each shows and who described it how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from twinlens.config.datasets import FolderCard
from twinlens.core import paths
from twinlens.core.bucket_files import Place, fetch_object, open_place
from twinlens.core.buckets import is_bucket
from twinlens.core.id_rows import Hashes, IdRows
from twinlens.core.spool import Spool
from twinlens.datasets.annotations import Annotations, Drop, RawCaption, RawImage, read_split, take_split
from twinlens.datasets.ids import IdChoice
from twinlens.datasets.readers.archives import Tree, find_unlisted, list_passed_over, open_tree, read_each
from twinlens.datasets.readers.files import record_trees, refuse_change
from twinlens.datasets.readers.names import is_picture, normalise
from twinlens.datasets.readers.tabular import TableRow, iter_rows
from twinlens.datasets.spelling import strip_blanks


class Listed(NamedTuple):
    """A picture as one row of a table lists it."""

    short_id: str  # the id of its own, or its name
    long_id: str  # with its name as the folder spells it, for pictures that share a short id
    file: str
    split: str
    labels: tuple[str, ...]
    captions: list[str]


class Folder:
    """Adapter of your own folder."""

    def __init__(self, card: FolderCard) -> None:
        self.card = card

    def download(self, raw: Path) -> int:
        """Fetch nothing; record what the folder and the table hold, so that a change is seen."""
        return record_trees(raw, self._places())

    def annotations(self, raw: Path) -> Annotations:
        """Pictures with the captions and labels of the table; without a table, with their folder as label."""
        refuse_change(raw, self._places())
        return self.list_all()

    def list_all(self) -> Annotations:
        """The same of a folder as it is now, whatever was recorded."""
        table = self._find_table()
        tree = open_tree(self._images)
        try:
            return self._from_folders(tree) if table is None else self._from_table(tree, table)
        finally:
            tree.close()

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """Picture bytes, or why there are none."""
        tree = open_tree(self._images)
        try:
            yield from read_each(tree, files)
        finally:
            tree.close()

    def _places(self) -> dict[str, Place]:
        places = {"images": self._images}
        return places if (table := self._find_table()) is None else places | {"table": table}

    @cached_property
    def _images(self) -> Place:
        """Where the pictures are; of a bucket it is listed once, whichever are read."""
        return open_place(self.card.images)

    def _find_table(self) -> Path | None:
        if (table := self.card.table) is None:
            return None
        return fetch_object(table) if is_bucket(table) else paths.expand(table)

    def _from_folders(self, tree: Tree) -> Annotations:
        images, dropped = Spool(RawImage), Spool[Drop](tuple)
        for name in filter(is_picture, tree.names()):
            split, folders = take_split(PurePosixPath(name).parts[:-1])
            labels = tuple(map(strip_blanks, folders[-1:]))
            if outside := self._outside(name, labels):
                dropped += outside
            else:
                images.append(RawImage(name, name, split or "test", labels))
        dropped += list_passed_over(tree)
        return Annotations(images, [], dropped, captioned=False)

    def _from_table(self, tree: Tree, table: Path) -> Annotations:
        columns = self.card.columns
        assert columns is not None
        wanted = [columns.file, columns.id, *columns.captions, columns.label, columns.split]
        dropped = Spool[Drop](tuple)
        listed, choice = Spool(Listed), IdChoice()
        for row in iter_rows(table, [name for name in wanted if name is not None]):
            if (name := row.text(columns.file)) is None:
                dropped.append(("image", f"{row.table}:{row.place}", "no_file", "the row names no file"))
            else:
                listed.append(one := self._listed(tree, row, name))
                choice.add(one.short_id, one.long_id)
            if lacks := [column for column in columns.captions if column in row.lacks]:
                why = f"{row.table}, {row.place} ends before its column {lacks[0]}: does it lack a separator?"
                dropped.append(("caption", name or "", "short_row", why))
        long, hashes = choice.choose()
        first, merged = self._merge_rows(listed, hashes)
        images, captions = Spool(RawImage), Spool(RawCaption)
        for number, one in enumerate(listed):
            image_id = one.long_id if long[number] else one.short_id
            split = one.split if first[number] < 0 else listed[int(first[number])].split
            if outside := self._outside(image_id, one.labels):
                dropped += outside
            elif one.split != split:
                why = f"{one.file} is in the splits {split} and {one.split}; the first counts"
                dropped.append(("image", image_id, "two_splits", why))
            elif first[number] == number:
                file, labels = merged.get(number, (one.file, one.labels))
                images.append(RawImage(image_id, file, one.split, labels))
            captions += [RawCaption(image_id, text) for text in one.captions]
        strays = find_unlisted(tree, (one.file for one in listed))
        dropped += (("image", name, "unlisted", f"a picture that {table.name} does not list") for name in strays)
        return Annotations(images, captions, dropped, captioned=bool(columns.captions))

    def _merge_rows(
        self, listed: Spool[Listed], hashes: Hashes
    ) -> tuple[Int[np.ndarray, " rows"], dict[int, tuple[str, tuple[str, ...]]]]:
        """Of every row, the first of its id that has no strange label; and what the rows of several say together.

        A further row of a picture is a further caption of it, and may name further labels; one of another split says
        nothing.
        """
        known = np.fromiter((not self._outside("", one.labels) for one in listed), dtype=bool, count=len(listed))
        rows = np.flatnonzero(known)
        first = np.full(len(listed), -1)
        first[rows] = rows[IdRows.of_hashes([hashes[rows]]).find_firsts()]
        merged: dict[int, tuple[str, tuple[str, ...]]] = {}
        several = np.bincount(first[rows], minlength=len(listed)) > 1
        if not several.any():
            return first, merged
        for number, one in enumerate(listed):
            own = int(first[number])
            if own >= 0 and several[own] and one.split == listed[own].split:
                labels = merged[own][1] if own in merged else ()
                merged[own] = one.file, tuple(dict.fromkeys((*labels, *one.labels)))
        return first, merged

    def _listed(self, tree: Tree, row: TableRow, name: str) -> Listed:
        columns = self.card.columns
        assert columns is not None
        there = tree.find(name)
        own = normalise(there or name)
        long = there or own  # two files may differ in what `normalise` makes one
        short = row.text(columns.id) or own
        split = (row.text(columns.split) or "") if columns.split else "test"
        return Listed(
            short,
            long if short == own else f"{short}@{long}",
            there or name,
            read_split(split) or split,
            tuple(dict.fromkeys(name for name in row.texts(columns.label, self.card.separator) if name)),
            [text for column in columns.captions for text in row.texts(column)],
        )

    def _outside(self, image_id: str, labels: Sequence[str]) -> list[Drop]:
        """A picture with a label that is none of the card's classes."""
        classes = self.card.classes
        unknown = next((name for name in labels if classes is not None and name not in classes), None)
        if classes is None or unknown is None:
            return []
        return [("image", image_id, "unknown_label", f"label {unknown!r} is not one of the {len(classes)} classes")]
