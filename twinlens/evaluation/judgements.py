"""Judgements as somebody gives them to a function: rows of the right items, lists of rows, or a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int
from scipy import sparse

from twinlens.core.errors import DataError
from twinlens.tasks.qrels import Pairs

MOST = 5  # rows that are named one by one


@dataclass(frozen=True)
class Judgements:
    """The relevant pairs of queries and items, by query and then by item, each with its gain."""

    query: Int[np.ndarray, " pairs"]
    item: Int[np.ndarray, " pairs"]
    gain: Float32[np.ndarray, " pairs"]
    queries: int
    items: int

    def turned(self) -> Judgements:
        """The same pairs with the items asking."""
        order = np.lexsort((self.query, self.item))
        return Judgements(self.item[order], self.query[order], self.gain[order], self.items, self.queries)

    def answerable(self) -> Int[np.ndarray, " answerable"]:
        """The queries that have a relevant item, rising."""
        return np.unique(self.query)

    def of_queries(self, rows: Int[np.ndarray, " chosen"]) -> Judgements:
        """The pairs of some queries, rising, which are numbered anew."""
        place = np.full(self.queries, -1)
        place[rows] = np.arange(len(rows))
        kept = place[self.query] >= 0
        return Judgements(place[self.query[kept]], self.item[kept], self.gain[kept], len(rows), self.items)

    def one_each(self) -> bool:
        """Whether every query has exactly one relevant item."""
        return len(self.query) == self.queries and bool((self.query == np.arange(self.queries)).all())

    def qrels(self) -> Pairs:
        """The judgements in the form that ranking and measuring read."""
        starts = np.searchsorted(self.query, np.arange(self.queries + 1))
        return Pairs(starts, self.item, self.gain, self.items)


def read_judgements(given: Any, texts: int, images: int) -> Judgements:
    """Read which pictures are right for each text.

    Args:
        given: the row of the one right picture of each text; or lists of rows; or a matrix (texts, images), dense or
            sparse, of booleans or gains.
        texts: how many.
        images: how many.

    Raises:
        DataError: it is none of these, a row is out of range or listed twice, a gain is negative or no number, or a
            text has no right picture.
    """
    if sparse.issparse(given):
        found = _read_matrix(given, texts, images)
    elif isinstance(given, (list, tuple)) and any(isinstance(one, (list, tuple, set, np.ndarray)) for one in given):
        found = _read_nested(given, texts, images)
    else:
        found = _read_array(given, texts, images)
    without = np.flatnonzero(np.bincount(found.query, minlength=texts) == 0)
    if without.size:
        raise DataError(
            f"relevance: {without.size:,} of {texts:,} texts have no right picture, the first at {_named(without)}: "
            "no measure is defined for them; leave them out"
        )
    return found


def _read_array(given: Any, texts: int, images: int) -> Judgements:
    try:
        found = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"relevance cannot be read ({error}): {_wanted(texts, images)}") from None
    if found.shape == (texts, images):
        return _read_matrix(found, texts, images)
    if found.ndim == 2 and found.dtype.kind in "iu" and len(found) == texts:
        return _read_lists(list(found), texts, images)
    if found.ndim != 1 or found.dtype.kind not in "iu" or len(found) != texts:
        told = f"relevance has shape {found.shape} and type {found.dtype}"
        if found.shape == (images, texts):
            told += ", images by texts"
        raise DataError(f"{told}: {_wanted(texts, images)}")
    return _read_lists([[row] for row in found], texts, images)


def _read_nested(given: Sequence[Any], texts: int, images: int) -> Judgements:
    lists = [list(one) if isinstance(one, (list, tuple, set, np.ndarray)) else [one] for one in given]
    if any(isinstance(value, (bool, np.bool_)) for one in lists for value in one):
        if len(lists) != texts or any(len(one) != images for one in lists):
            raise DataError(f"relevance holds truth values in {len(lists):,} lists: {_wanted(texts, images)}")
        return _read_matrix(np.array(lists, dtype=bool), texts, images)
    return _read_lists(lists, texts, images)


def _read_lists(lists: Sequence[Sequence[Any] | np.ndarray], texts: int, images: int) -> Judgements:
    if len(lists) != texts:
        raise DataError(f"relevance has {len(lists):,} entries for {texts:,} texts: {_wanted(texts, images)}")
    query = np.repeat(np.arange(texts), [len(one) for one in lists])
    flat = [value for one in lists for value in one]
    if wrong := [value for value in flat if not isinstance(value, (int, np.integer))]:
        raise DataError(f"relevance holds {wrong[0]!r}, which is no row of image_vectors: {_wanted(texts, images)}")
    item = np.array(flat, dtype=np.int64)
    outside = np.flatnonzero((item < 0) | (item >= images))
    if outside.size:
        raise DataError(
            f"relevance: {outside.size:,} rows are out of range, the first is {item[outside[0]]} of text "
            f"{query[outside[0]]}: image_vectors has rows 0 to {images - 1:,}"
        )
    order = np.lexsort((item, query))
    query, item = query[order], item[order]
    twice = np.flatnonzero((np.diff(query) == 0) & (np.diff(item) == 0))
    if twice.size:
        raise DataError(f"relevance lists picture {item[twice[0]]} twice for text {query[twice[0]]}: list it once")
    return Judgements(query, item, np.ones(len(item), dtype=np.float32), texts, images)


def _read_matrix(given: Any, texts: int, images: int) -> Judgements:
    if given.shape != (texts, images):
        raise DataError(f"relevance has shape {given.shape}: {_wanted(texts, images)}")
    if given.dtype.kind not in "biuf":
        raise DataError(f"relevance has type {given.dtype}: {_wanted(texts, images)}")
    whole = sparse.csr_array(given)
    whole.sum_duplicates()
    useless = whole.data[~(np.isfinite(whole.data) & (whole.data >= 0))]
    if useless.size:
        raise DataError(f"relevance holds a gain of {useless[0]}: gains are 0, not relevant, or more")
    pairs = whole.tocoo()
    kept = pairs.data > 0
    query, item = pairs.coords[0][kept].astype(np.int64), pairs.coords[1][kept].astype(np.int64)
    return Judgements(query, item, pairs.data[kept].astype(np.float32), texts, images)


def _wanted(texts: int, images: int) -> str:
    return (
        f"give the row of the right picture of each of the {texts:,} texts, or a list of rows for each, or a matrix of "
        f"shape ({texts}, {images}), texts by images"
    )


def _named(rows: Int[np.ndarray, " rows"]) -> str:
    more = f" and {len(rows) - MOST:,} more" if len(rows) > MOST else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {', '.join(str(row) for row in rows[:MOST])}{more}"
