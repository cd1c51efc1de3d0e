"""Coverage: which of the tasks' inputs a tower has vectors of, and whether those are fit for use.

A model reads whatever is of its kind. Files hold what somebody put into them, so all of it is looked at before the
first vector is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from twinlens.core.errors import DataError
from twinlens.core.tables import INDEX, NOTES, read_table
from twinlens.inference.stored import StoredJob, get_own_ids
from twinlens.inference.tower import TowerJob
from twinlens.models.encoders.vectors import find_pictures, find_texts, find_useless
from twinlens.models.vector_files import Side, StoredVectors, name_some
from twinlens.tasks.inputs import CAPTIONS, IMAGES, Input

WHOLE = (IMAGES, CAPTIONS)  # inputs of which a part is a mistake: nearly all that is measured is about them


@dataclass(frozen=True)
class _Found:
    """What of an input is in the files."""

    side: Side
    rows: Int[np.ndarray, " inputs"]  # -1: not there
    by_id: bool


def find_unreadable(job: TowerJob, inputs: Sequence[Input], shards: Path) -> dict[str, str]:
    """Find the inputs that have no vectors by a tower, by name with the reason.

    Args:
        job: of the tower.
        inputs: what it is to embed.
        shards: folder of the `resize` stage, whose lists say which pictures the dataset has.

    Raises:
        DataError: ids are not the dataset's, stand twice or are missing, or vectors are NaN, infinite, zero, of other
            lengths than 1, or not as wide as those of the other side.
    """
    if not isinstance(job, StoredJob):
        return {}
    found = {one.name: _find(job, one) for one in inputs}
    if job.tower.unknown_ids == "refuse":
        _refuse_unknown(job, inputs, found, _list_pictures(inputs, shards))
    left_out: dict[str, str] = {}
    for one in inputs:
        missing = np.flatnonzero(found[one.name].rows < 0)
        if missing.size and (one.name == IMAGES or (one.name in WHOLE and missing.size < len(one.rows))):
            raise DataError(_tell_missing(job, one, found[one.name], missing))
        if missing.size:
            left_out[one.name] = _tell_missing(job, one, found[one.name], missing)
    used = [found[one.name] for one in inputs if one.name not in left_out]
    widths = {one.side: job.side(one.side).dim for one in used}
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{job.side(side).path} {dim} ({side})" for side, dim in widths.items())
        raise DataError(f"pictures and texts of a joint pair have other numbers of dimensions: {told}")
    _refuse_useless(job, used)
    return left_out


def _find(job: StoredJob, one: Input) -> _Found:
    if "image" in one.reads:
        return _Found("image", find_pictures(job.side("image"), one.rows["image_id"].to_list())[0], True)
    return _Found("text", *find_texts(job.side("text"), get_own_ids(one.rows), one.rows["text"].to_list()))


def _refuse_useless(job: StoredJob, used: Iterable[_Found]) -> None:
    rows: dict[Side, list[Int[np.ndarray, " rows"]]] = {}
    for one in used:
        rows.setdefault(one.side, []).append(one.rows)
    for side, chosen in rows.items():
        if trouble := find_useless(job.side(side), np.unique(np.concatenate(chosen)), job.tower.normalise):
            raise DataError(trouble)


def _refuse_unknown(job: StoredJob, inputs: Sequence[Input], found: Mapping[str, _Found], known: set[str]) -> None:
    """Refuse ids that the dataset does not have: a file of another dataset, or of another version."""
    pictures = [image_id for one in inputs if found[one.name].side == "image" for image_id in one.rows["image_id"]]
    if pictures:
        stored = job.side("image")
        _, names = find_pictures(stored, pictures)
        _refuse([name for name in names if name not in known], stored)
    if any(one.by_id for one in found.values() if one.side == "text"):
        stored = job.side("text")
        own = {name for one in inputs if found[one.name].side == "text" for name in one.rows["id"]}
        _refuse([n for n in stored.ids or [] if n not in own and n.rpartition("#")[0] not in known], stored)


def _refuse(unknown: Sequence[str], stored: StoredVectors) -> None:
    if unknown:
        raise DataError(
            f"{stored.path}: {len(unknown):,} ids are not in the dataset: {name_some(unknown)}: is it this dataset's "
            "file? If they may be left aside, write `unknown_ids: ignore` on the card"
        )


def _tell_missing(job: StoredJob, one: Input, found: _Found, missing: Int[np.ndarray, " missing"]) -> str:
    stored, count = job.side(found.side), len(one.rows)
    names = [one.rows["id"][int(row)] for row in missing]
    told = f"{stored.path} has no vector of {len(names):,} of the {count:,} {one.name}: {name_some(names)}"
    if len(names) == count:
        told += f"; what it has is called {name_some((stored.ids or stored.texts or [])[:2])}"
    return told


def _list_pictures(inputs: Iterable[Input], shards: Path) -> set[str]:
    """List all pictures of the dataset, those set aside as well; only the inputs' where `resize` left no list."""
    known = {image_id for one in inputs for image_id in one.rows["image_id"]}
    for name, schema in (("index", INDEX), ("notes", NOTES)):
        if (path := shards / f"{name}.parquet").exists():
            known |= set(read_table(path, schema, ["image_id"])["image_id"])
    return known
