"""One opened index: nearest vectors, BM25, and what is known of a picture."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int

from twinlens.config.params import SearchParams
from twinlens.core.errors import DataError
from twinlens.indexing.candidates import near, open_candidates
from twinlens.indexing.manifest import FOLDER, Manifest
from twinlens.indexing.postings import Postings
from twinlens.indexing.results import Picture
from twinlens.indexing.scans import Scans
from twinlens.indexing.store import Copy, Space
from twinlens.retrieval.scores import exact_scores, float32_error, in_order

if TYPE_CHECKING:
    from lancedb.table import Table

Ranked = tuple[Int[np.ndarray, " found"], Float32[np.ndarray, " found"]]  # item rows and scores, best first


@dataclass(frozen=True)
class Leg:
    """One side of a query by vector: an item's score is the sum over the legs of weight times inner product."""

    space: str  # IMAGE_VECTOR or CAPTION_VECTOR
    vector: Float32[np.ndarray, " dim"]  # unit
    weight: float = 1.0


class Index:
    """An index that was opened. LanceDB is imported when approximate candidates are first asked for."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.copy = Copy(manifest.folder / FOLDER)
        if len(self.copy) != manifest.rows:
            raise DataError(f"{manifest.folder} does not hold the rows of its manifest: remove that folder")
        self.postings = Postings(manifest.folder / FOLDER, manifest.rows)
        self._scans: dict[str, Scans] = {}
        self._spaces: dict[str, Space] = {}
        self._lock = Lock()

    @cached_property
    def table(self) -> Table:
        """The table of approximate candidates; only an approximate index has one."""
        return open_candidates(self.manifest.folder / FOLDER)

    @property
    def ids(self) -> list[str]:
        """Image ids, by row."""
        return self.copy.ids

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Rows, by image id."""
        return {image_id: row for row, image_id in enumerate(self.ids)}

    @property
    def spaces(self) -> tuple[str, ...]:
        """The columns of vectors that there are."""
        return self.copy.spaces

    @property
    def has_words(self) -> bool:
        """Whether there is anything for BM25 to search."""
        return bool(self.postings)

    def space(self, name: str) -> Space:
        """The vectors of one column, mapped."""
        with self._lock:
            if name not in self._spaces:
                self._spaces[name] = self.copy.space(name)
                self._scans[name] = Scans(self._spaces[name].rows)
            return self._spaces[name]

    def _scans_of(self, name: str) -> Scans:
        self.space(name)
        return self._scans[name]

    def nearest(self, legs: Sequence[Leg], depth: int, left_out: Collection[int], params: SearchParams) -> Ranked:
        """The best items by vector, exactly, unless there is a vector index for the only leg.

        Args:
            legs: at least one; a picture without a vector in a leg's space scores nothing there, and is not
                found where that is the only leg.
            depth: items wanted.
            left_out: rows that are not wanted.
            params: effort of an approximate search.

        Returns:
            Fewer than `depth` where there are no more.
        """
        if len(legs) == 1 and self.manifest.approximate:
            leg = legs[0]
            candidates = near(self.table, leg.space, leg.vector, depth + len(left_out), params)
            candidates = candidates[~np.isin(candidates, list(left_out))]
        else:
            candidates = self._candidates(legs, depth, left_out)
        if not len(candidates):
            return candidates, np.zeros(0, dtype=np.float32)
        scores = self._scores(legs, candidates)
        rows, ordered = in_order(candidates[None], scores[None])
        return rows[0, :depth], ordered[0, :depth]

    def _candidates(self, legs: Sequence[Leg], depth: int, left_out: Collection[int]) -> Int[np.ndarray, " candidates"]:
        """Every row that the float32 error allows to be among the best `depth`: ties at the cut included."""
        total = np.zeros(self.manifest.rows, dtype=np.float32)
        for leg in legs:
            product = self._scans_of(leg.space).products(leg.vector)
            total += product if leg.weight == 1.0 else np.float32(leg.weight) * product
        total[list(left_out)] = -np.inf
        if len(legs) == 1:
            total[self.space(legs[0].space).absent] = -np.inf
        possible = int(np.isfinite(total).sum())
        if not possible:
            return np.zeros(0, dtype=np.int64)
        kth = np.partition(total, len(total) - min(depth, possible))[len(total) - min(depth, possible)]
        error = sum(leg.weight * float32_error(len(leg.vector)) for leg in legs)
        return np.flatnonzero((total >= kth - 2.0 * error) & np.isfinite(total))

    def _scores(self, legs: Sequence[Leg], rows: Int[np.ndarray, " found"]) -> Float32[np.ndarray, " found"]:
        if len(legs) == 1:
            leg = legs[0]
            return exact_scores(leg.vector[None], self.vectors(leg.space, rows), np.arange(len(rows))[None])[0]
        wide = [self.space(leg.space).rows[rows].astype(np.float64) @ leg.vector.astype(np.float64) for leg in legs]
        scores = sum(leg.weight * product for leg, product in zip(legs, wide, strict=True))
        return np.asarray(scores, dtype=np.float32)

    def vectors(self, space: str, rows: Sequence[int] | np.ndarray) -> Float32[np.ndarray, "rows dim"]:
        """Stored vectors."""
        return self.space(space).rows[np.asarray(rows, dtype=np.int64)]

    def matching(self, tokens: Sequence[str], depth: int, left_out: Collection[int]) -> Ranked:
        """The best items by BM25 over all captions, those that share a word with `tokens`.

        Args:
            tokens: what `twinlens.retrieval.tokenize.words` makes of the query.
            depth: items wanted.
            left_out: rows that are not wanted.

        Returns:
            Fewer than `depth` where fewer match; equal scores by row.
        """
        total = self.postings.scores(tokens)
        total[list(left_out)] = 0.0
        matching = int(np.count_nonzero(total))
        if not matching:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        last = len(total) - min(depth, matching)
        candidates = np.flatnonzero(total >= np.partition(total, last)[last])  # ties at the cut included
        rows, ordered = in_order(candidates[None], total[candidates][None])
        return rows[0, :depth], ordered[0, :depth]

    def pictures(self, rows: Sequence[int] | np.ndarray) -> list[Picture]:
        """What is known of some pictures, in the order given."""
        return [
            Picture(
                image_id=one["image_id"],
                captions=tuple(one["captions"]),
                caption_generated=one["caption_generated"],
                labels=tuple(one["labels"]),
                thumbnail=one["thumbnail"],
            )
            for one in self.copy.take(rows)
        ]
