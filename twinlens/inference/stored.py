"""Vectors that were made elsewhere as a job: checked as a whole before the first is taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from twinlens.config.models import VectorsTower
from twinlens.core.errors import DataError
from twinlens.core.tables import INDEX, NOTES, read_table
from twinlens.inference.lookup import LookupJob, Take
from twinlens.models.encoders.vectors import find_pictures, find_texts, find_useless, read_side
from twinlens.models.vector_files import Side, StoredVectors, name_some
from twinlens.tasks.inputs import CAPTIONS, IMAGES, Input

WHOLE = (IMAGES, CAPTIONS)  # inputs of which a part is a mistake: nearly all that is measured is about them


@dataclass(frozen=True)
class _Found:
    """What of an input is in the files."""

    side: Side
    rows: Int[np.ndarray, " inputs"]  # -1: not there
    by_id: bool


class StoredJob(LookupJob):
    """A tower whose vectors are in files."""

    tower: VectorsTower
    not_identity = frozenset({"vectors", "ids", "text_vectors", "text_ids", "unknown_ids"})  # the files' digests say it

    def find_unreadable(self, inputs: Iterable[Input], shards: Path) -> dict[str, str]:
        """See `TowerJob.find_unreadable`.

        Raises:
            DataError: ids are not the dataset's, stand twice or are missing, or vectors are NaN, infinite, zero, of
                other lengths than 1, or not as wide as those of the other side.
        """
        given = list(inputs)
        found = {one.name: self._find(one) for one in given}
        self._refuse_unknown(given, found, shards)
        left_out: dict[str, str] = {}
        for one in given:
            missing = np.flatnonzero(found[one.name].rows < 0)
            if missing.size and (one.name == IMAGES or (one.name in WHOLE and missing.size < len(one.rows))):
                raise DataError(self._tell_missing(one, found[one.name], missing))
            if missing.size:
                left_out[one.name] = self._tell_missing(one, found[one.name], missing)
        used = {one.name: found[one.name] for one in given if one.name not in left_out}
        widths = {one.side: self._side(one.side).dim for one in used.values()}
        if len(set(widths.values())) > 1:
            told = ", ".join(f"{self._side(side).path} {dim} ({side})" for side, dim in widths.items())
            raise DataError(f"pictures and texts of a joint pair have other numbers of dimensions: {told}")
        self._refuse_useless(used.values())
        return left_out

    def look_up_pictures(self, shards: Path, pool: pl.DataFrame) -> Take:
        """See `LookupJob.look_up_pictures`."""
        ids = pool["image_id"].to_list()
        return self._take("image", find_pictures(self._side("image"), ids)[0], ids)

    def look_up_texts(self, texts: pl.DataFrame) -> Take:
        """See `LookupJob.look_up_texts`."""
        rows, _ = find_texts(self._side("text"), _own_ids(texts), texts["text"].to_list())
        return self._take("text", rows, texts["id"].to_list())

    def _take(self, side: Side, rows: Int[np.ndarray, " rows"], ids: Sequence[str]) -> Take:
        stored = self._side(side)
        if lacking := [ids[int(place)] for place in np.flatnonzero(rows < 0)]:
            raise DataError(f"{stored.path} has no vector of {len(lacking):,} inputs: {name_some(lacking)}")
        if trouble := find_useless(stored, rows, self.tower.normalise):
            raise DataError(trouble)
        return lambda chosen: stored.take(rows[chosen])

    def _find(self, one: Input) -> _Found:
        if "image" in one.reads:
            return _Found("image", find_pictures(self._side("image"), one.rows["image_id"].to_list())[0], True)
        return _Found("text", *find_texts(self._side("text"), _own_ids(one.rows), one.rows["text"].to_list()))

    def _side(self, side: Side) -> StoredVectors:
        if side not in self._read:
            self._read[side] = read_side(self.tower, side)
        return self._read[side]

    @cached_property
    def _read(self) -> dict[Side, StoredVectors]:
        return {}

    def _refuse_useless(self, used: Iterable[_Found]) -> None:
        rows: dict[Side, list[Int[np.ndarray, " rows"]]] = {}
        for one in used:
            rows.setdefault(one.side, []).append(one.rows)
        for side, chosen in rows.items():
            if trouble := find_useless(self._side(side), np.unique(np.concatenate(chosen)), self.tower.normalise):
                raise DataError(trouble)

    def _refuse_unknown(self, inputs: Sequence[Input], found: dict[str, _Found], shards: Path) -> None:
        """Refuse ids that the dataset does not have: a file of another dataset, or of another version."""
        if self.tower.unknown_ids == "ignore":
            return
        known = _list_pictures(inputs, shards)
        pictures = [image_id for one in inputs if found[one.name].side == "image" for image_id in one.rows["image_id"]]
        if pictures:
            stored = self._side("image")
            _, names = find_pictures(stored, pictures)
            _refuse([name for name in names if name not in known], stored)
        if any(one.by_id for one in found.values() if one.side == "text"):
            stored = self._side("text")
            own = {name for one in inputs if found[one.name].side == "text" for name in one.rows["id"]}
            names = stored.ids or []
            _refuse([name for name in names if name not in own and name.rpartition("#")[0] not in known], stored)

    def _tell_missing(self, one: Input, found: _Found, missing: Int[np.ndarray, " missing"]) -> str:
        stored, count = self._side(found.side), len(one.rows)
        names = [one.rows["id"][int(row)] for row in missing]
        told = f"{stored.path} has no vector of {len(names):,} of the {count:,} {one.name}: {name_some(names)}"
        if len(names) == count:
            told += f"; what it has is called {name_some((stored.ids or stored.texts or [])[:2])}"
        return told


def _refuse(unknown: Sequence[str], stored: StoredVectors) -> None:
    if unknown:
        raise DataError(
            f"{stored.path}: {len(unknown):,} ids are not in the dataset: {name_some(unknown)}: is it this dataset's "
            "file? If they may be left aside, write `unknown_ids: ignore` on the card"
        )


def _own_ids(texts: pl.DataFrame) -> list[str | None]:
    """The ids of texts; None where it is that of a picture or a class, and says nothing of which text it is."""
    return [own if own != image_id else None for own, image_id in texts.select("id", "image_id").iter_rows()]


def _list_pictures(inputs: Iterable[Input], shards: Path) -> set[str]:
    """List all pictures of the dataset, those set aside as well; only the inputs' where `resize` left no list."""
    known = {image_id for one in inputs for image_id in one.rows["image_id"]}
    for name, schema in (("index", INDEX), ("notes", NOTES)):
        if (path := shards / f"{name}.parquet").exists():
            known |= set(read_table(path, schema)["image_id"])
    return known
