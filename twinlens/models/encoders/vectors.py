"""Vectors that were made elsewhere, in files: a family that reads them and embeds nothing.

A picture's row is found by its id; a text's by its own id (a caption's, a query's) or by what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from twinlens.config.models import VectorsTower
from twinlens.core import paths
from twinlens.core.errors import DataError, FetchError
from twinlens.core.hashing import recall_digest
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.models.vector_files import (
    FOLDERS,
    METADATA,
    Side,
    StoredVectors,
    name_some,
    read_vector_file,
    read_vector_folder,
)

if TYPE_CHECKING:
    from twinlens.core.device import Placement

UNIT = 1e-3  # how far a length may be from one: float16 rounds by less


def locate(card: VectorsTower) -> Path:
    """Locate the file or folder of vectors.

    Raises:
        FetchError: it, or another file that the card names, is not there.
    """
    return _named_files(card)["vectors"]


def identify(card: VectorsTower, path: Path) -> dict[str, Any]:
    """Identify the vectors and their ids: the SHA-256 of every file."""
    found: dict[str, Any] = {}
    for key, named in _named_files(card).items():
        files = sorted(file for file in named.rglob("*") if _is_used(file, named)) if named.is_dir() else [named]
        root = named if named.is_dir() else named.parent
        found[key] = {file.relative_to(root).as_posix(): recall_digest(file) for file in files}
    return {"sha256": found}


def load(card: VectorsTower, path: Path, placement: Placement, random_weights: bool = False) -> LoadedEncoders:
    """Refuse to embed anything new.

    Raises:
        DataError: always.
    """
    raise DataError(f"{card.vectors} holds vectors that were made elsewhere: nothing new can be embedded by it")


def read_side(card: VectorsTower, side: Side) -> StoredVectors:
    """Read the vectors of pictures, or of texts.

    Raises:
        FetchError: a file is not there.
        DataError: a file holds something else, or rows and names are not as many.
    """
    files = _named_files(card)
    if files["vectors"].is_dir():
        return read_vector_folder(files["vectors"], side)
    if side == "text" and "text_vectors" in files:
        return read_vector_file(files["text_vectors"], files.get("text_ids"))
    return read_vector_file(files["vectors"], files.get("ids"))


def find_useless(found: StoredVectors, chosen: Int[np.ndarray, " chosen"], normalise: bool) -> str | None:
    """Find rows that cannot be compared, in words; None where all can.

    Args:
        found: the vectors.
        chosen: the rows that are wanted.
        normalise: whether rows of any length but zero are wanted.
    """
    rows = found.take(chosen).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    names = found.ids or found.texts or []
    told = {
        "are NaN or infinite": ~np.isfinite(lengths),
        "are zero, which has no direction": lengths == 0,
    }
    if not normalise:
        with np.errstate(invalid="ignore"):
            told["are not of unit length; if that is as it should be, write `normalise: true`"] = ~(
                np.abs(lengths - 1.0) < UNIT
            )
    for what, bad in told.items():
        if bad.any():
            named = name_some([names[row] for row in chosen[bad].tolist()])
            return f"{found.path}: {int(bad.sum()):,} of {len(chosen):,} vectors {what}: {named}"
    return None


def find_pictures(found: StoredVectors, wanted: Sequence[str]) -> tuple[Int[np.ndarray, " wanted"], list[str]]:
    """Find the rows of pictures by their ids: as they are written or, where none is, as the names of files.

    Args:
        found: the pictures' vectors.
        wanted: ids of pictures.

    Returns:
        Rows, -1 where there is none, and all names of the file in the form that was compared.

    Raises:
        DataError: the rows have no ids, or one that is wanted stands twice.
    """
    if found.ids is None:
        raise DataError(f"{found.path} has texts but no ids, so that no picture can be found in it")
    names = found.ids
    for form in (str, _without_ending, _file_name, _stem):
        shaped = [form(name) for name in found.ids]
        if not set(wanted).isdisjoint(shaped):
            names = shaped
            break
    return _look_up(found, names, wanted), names


def find_texts(
    found: StoredVectors, ids: Sequence[str | None], texts: Sequence[str]
) -> tuple[Int[np.ndarray, " texts"], bool]:
    """Find the rows of texts, each by its own id or else by what it says.

    Args:
        found: the texts' vectors.
        ids: of the texts; None where a text has no id of its own (a picture's joined captions, a class's prompt).
        texts: what they say.

    Returns:
        Rows, -1 where there is none, and whether any was found by its id.

    Raises:
        DataError: an id that is wanted stands twice, one text has vectors that differ, or a row has the id of one text
            and the words of another.
    """
    rows = np.full(len(texts), -1, dtype=np.int64)
    by_id = np.zeros(len(texts), dtype=bool)
    if found.ids is not None:
        own = [name or "" for name in ids]
        rows = _look_up(found, found.ids, own)
        by_id = rows >= 0
        if found.texts is not None:
            _refuse_other_words(found, rows, ids, texts)
    said = found.texts if found.texts is not None else found.ids
    assert said is not None
    missing = np.flatnonzero(rows < 0)
    if missing.size:
        rows[missing] = _look_up_words(found, said, [texts[row] for row in missing.tolist()])
    return rows, bool(by_id.any())


# ------------------------------------------------------------------ finding


def _look_up(found: StoredVectors, names: Sequence[str], wanted: Sequence[str]) -> Int[np.ndarray, " wanted"]:
    row_of: dict[str, int] = {}
    asked, twice = {name for name in wanted if name}, []
    for row, name in enumerate(names):
        if name in asked and row_of.setdefault(name, row) != row:
            twice.append(name)
    if twice:
        raise DataError(
            f"{found.path}: {len(set(twice)):,} ids stand twice: {name_some(sorted(set(twice)))}: keep one row of each"
        )
    return np.array([row_of.get(name, -1) for name in wanted], dtype=np.int64)


def _look_up_words(found: StoredVectors, said: Sequence[str], wanted: Sequence[str]) -> Int[np.ndarray, " wanted"]:
    """Rows by words; a text that stands several times has one vector, as its words are all that a tower reads."""
    row_of: dict[str, int] = {}
    asked, again = set(wanted), []
    for row, text in enumerate(said):
        if text in asked and row_of.setdefault(text, row) != row:
            again.append((row_of[text], row))
    if again:
        first, second = (found.take(np.array(rows)).astype(np.float64) for rows in zip(*again, strict=True))
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        apart = (first * second).sum(axis=1) < (1.0 - UNIT) * lengths
        if apart.any():
            texts = sorted({said[again[pair][0]] for pair in np.flatnonzero(apart).tolist()})
            raise DataError(
                f"{found.path}: {len(texts):,} texts stand twice, with vectors that differ: {name_some(texts)}: "
                "which is right? Give the rows ids of captions"
            )
    return np.array([row_of.get(text, -1) for text in wanted], dtype=np.int64)


def _refuse_other_words(
    found: StoredVectors, rows: Int[np.ndarray, " texts"], ids: Sequence[str | None], texts: Sequence[str]
) -> None:
    assert found.texts is not None
    there = np.flatnonzero(rows >= 0).tolist()
    other = [place for place in there if found.texts[rows[place]] != texts[place]]
    if other:
        first = other[0]
        raise DataError(
            f"{found.path}: {len(other):,} texts are not those of the dataset under the same ids, the first is "
            f"{ids[first]!r}: {found.texts[rows[first]]!r} there, {texts[first]!r} here"
        )


def _without_ending(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if name else name


def _file_name(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


def _stem(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).stem


# ------------------------------------------------------------------- files


def _named_files(card: VectorsTower) -> dict[str, Path]:
    named = {key: getattr(card, key) for key in ("vectors", "ids", "text_vectors", "text_ids")}
    found = {key: paths.expand(value) for key, value in named.items() if value is not None}
    for key, path in found.items():
        if not path.exists():
            raise FetchError(f"`{key}: {named[key]}` is not there (looked for {path})")
    return found


def _is_used(file: Path, folder: Path) -> bool:
    return file.is_file() and file.parent.parent == folder and file.parent.name in (*FOLDERS.values(), METADATA)
