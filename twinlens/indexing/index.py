"""An opened index: nearest vectors, BM25, and the records of pictures."""

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
from twinlens.indexing.candidates import find_candidates, open_candidates
from twinlens.indexing.manifest import FOLDER, Manifest
from twinlens.indexing.postings import Postings
from twinlens.indexing.results import Picture
from twinlens.indexing.store import RowStore, Space
from twinlens.retrieval.fusion import fuse_weighted
from twinlens.retrieval.scores import order_by_score

if TYPE_CHECKING:
    from lancedb.table import Table

Ranked = tuple[Int[np.ndarray, " found"], Float32[np.ndarray, " found"]]  # item rows and scores, best first


@dataclass(frozen=True)
class WeightedVector:
    """One weighted vector of a query: an item's score is the sum of weight times inner product over all of them."""

    space: str  # IMAGE_VECTOR or CAPTION_VECTOR
    vector: Float32[np.ndarray, " dim"]  # unit
    weight: float = 1.0


class Index:
    """An index that was opened. LanceDB is imported when approximate candidates are first asked for."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.copy = RowStore(manifest.folder / FOLDER)
        if len(self.copy) != manifest.rows:
            raise DataError(f"{manifest.folder} does not hold the rows of its manifest: remove that folder")
        self.postings = Postings(manifest.folder / FOLDER, manifest.rows)
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
            return self._spaces[name]

    def nearest(
        self, weighted: Sequence[WeightedVector], depth: int, left_out: Collection[int], params: SearchParams
    ) -> Ranked:
        """Find the best items by vector, exactly, unless there is a vector index for the only one.

        Args:
            weighted: at least one; a picture without a vector in the space of one scores nothing there, and is not
                found where that is the only one.
            depth: items wanted.
            left_out: rows that are not wanted.
            params: effort of an approximate search.

        Returns:
            Fewer than `depth` where there are no more.
        """
        if len(weighted) == 1 and self.manifest.approximate:
            return self._best(weighted, self._approximate_candidates(weighted[0], depth, left_out, params), depth)
        first = self._count_candidates(weighted, depth)
        found = self._best(weighted, self._candidates(weighted, first, left_out), first)
        return self._best(weighted, found[0], depth, again=True) if self._scores_again(weighted) else found

    def _best(
        self,
        weighted: Sequence[WeightedVector],
        candidates: Int[np.ndarray, " candidates"],
        depth: int,
        *,
        again: bool = False,
    ) -> Ranked:
        if not len(candidates):
            return candidates, np.zeros(0, dtype=np.float32)
        scores = self._scores(weighted, candidates, again=again)
        rows, ordered = order_by_score(candidates[None], scores[None])
        return rows[0, :depth], ordered[0, :depth]

    def _count_candidates(self, weighted: Sequence[WeightedVector], depth: int) -> int:
        """Count the items that the codes have to find, of which better vectors choose `depth`."""
        return max(self.space(term.space).items.count_candidates(depth) for term in weighted)

    def _scores_again(self, weighted: Sequence[WeightedVector]) -> bool:
        """Whether better vectors order what the codes find."""
        return any(self.space(term.space).items.better is not None for term in weighted)

    def _approximate_candidates(
        self, term: WeightedVector, depth: int, left_out: Collection[int], params: SearchParams
    ) -> Int[np.ndarray, " candidates"]:
        kind = self.manifest.settings["vector_index"]
        vector = self.space(term.space).items.prepare(term.vector[None])[0]
        rows = find_candidates(self.table, term.space, vector, depth + len(left_out), params, kind)
        return rows[~np.isin(rows, list(left_out))]

    def _products(
        self, weighted: Sequence[WeightedVector], left_out: Collection[int], *, again: bool = False
    ) -> tuple[Float32[np.ndarray, " rows"], float]:
        """Scores of all rows in float32, minus infinity where there is none or none is wanted, and their error."""
        total = np.zeros(self.manifest.rows, dtype=np.float32)
        for term in weighted:
            product = self._choose_space(term, again).products(term.vector)
            total += product if term.weight == 1.0 else np.float32(term.weight) * product
        total[list(left_out)] = -np.inf
        if len(weighted) == 1:
            total[self.space(weighted[0].space).absent] = -np.inf
        return total, 2.0 * sum(
            term.weight * self._choose_space(term, again).bound_error(term.vector) for term in weighted
        )

    def _candidates(
        self, weighted: Sequence[WeightedVector], depth: int, left_out: Collection[int]
    ) -> Int[np.ndarray, " candidates"]:
        """Every row that the float32 error allows to be among the best `depth`: ties at the cut included."""
        total, error = self._products(weighted, left_out)
        return keep_possible(total, depth, error)

    def search_weighted(
        self,
        weighted: Sequence[WeightedVector],
        tokens: Sequence[str],
        depth: int,
        left_out: Collection[int],
        image_weight: float,
        params: SearchParams,
    ) -> Ranked:
        """Find the best items by the weighted sum of vectors and words, as `rank` fuses: each normalised over the pool.

        Where the table has a vector index, over the candidates of `depth` each instead. Where bits are scored again by
        better vectors, all are scored by those: the pool's lowest and highest score are asked for.

        Args:
            weighted: see `nearest`. A picture without a vector has the lowest score there.
            tokens: what `twinlens.retrieval.tokenize.tokenize` makes of the query.
            depth: items wanted.
            left_out: rows that are not wanted.
            image_weight: of vectors beside words.
            params: effort of an approximate search.
        """
        words = self.postings.scores(tokens)
        if len(weighted) == 1 and self.manifest.approximate:
            candidates = self._approximate_candidates(weighted[0], depth, left_out, params)
            by_vector, _ = self._best(weighted, candidates, depth)
            by_words, _ = self.search_words(tokens, depth, left_out)
            rows = np.union1d(by_vector, by_words).astype(np.int64)
            exact = self._scores(weighted, rows)
            bounds = _bounds(exact), _bounds(words[rows])
        else:
            total, error = self._products(weighted, left_out, again=True)
            known = np.isfinite(total)
            wanted = np.ones(len(total), dtype=bool)
            wanted[list(left_out)] = False
            if not known.any():
                return self.search_words(tokens, depth, left_out)
            # the bounds are those of exact scores: the few rows are scored anew that can be the lowest or the highest
            ends = [total[known].min() + error, total[known].max() - error]
            outer = np.flatnonzero(known & ((total <= ends[0]) | (total >= ends[1])))
            bounds = _bounds(self._scores(weighted, outer, again=True)), _bounds(words[wanted])
            low, high = bounds[0]
            about = fuse_weighted(np.where(known, total, low)[None], words[None], image_weight, bounds)[0]
            spread = image_weight * error / (high - low) if high > low else 0.0
            rows = keep_possible(np.where(wanted, about, np.float32(-np.inf)), depth, spread + 1e-6)
            exact = np.full(len(rows), low, dtype=np.float32)
            exact[known[rows]] = self._scores(weighted, rows[known[rows]], again=True)
        if not len(rows):
            return rows, np.zeros(0, dtype=np.float32)
        fused = fuse_weighted(exact[None], words[rows][None], image_weight, bounds)
        ordered, scores = order_by_score(rows[None], fused)
        return ordered[0, :depth], scores[0, :depth]

    def _choose_space(self, term: WeightedVector, again: bool) -> Space:
        """The vectors that a term is scored by: by the better ones where it is scored again, and there are such."""
        space = self.space(term.space)
        return space.better if again and space.better is not None else space

    def _scores(
        self, weighted: Sequence[WeightedVector], rows: Int[np.ndarray, " found"], *, again: bool = False
    ) -> Float32[np.ndarray, " found"]:
        if not len(rows):
            return np.zeros(0, dtype=np.float32)
        scores = [self._choose_space(term, again).score(term.vector, rows) for term in weighted]
        if len(weighted) == 1:
            return scores[0]
        total = sum(term.weight * some.astype(np.float64) for term, some in zip(weighted, scores, strict=True))
        return np.asarray(total, dtype=np.float32)

    def vectors(self, space: str, rows: Sequence[int] | np.ndarray) -> Float32[np.ndarray, "rows dim"]:
        """Vectors as they are stored, in float32 and all dimensions."""
        return self.space(space).take(np.asarray(rows, dtype=np.int64))

    def search_words(self, tokens: Sequence[str], depth: int, left_out: Collection[int]) -> Ranked:
        """Find the best items by BM25 over all captions, those that share a word with `tokens`.

        Args:
            tokens: what `twinlens.retrieval.tokenize.tokenize` makes of the query.
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
        rows, ordered = order_by_score(candidates[None], total[candidates][None])
        return rows[0, :depth], ordered[0, :depth]

    def pictures(self, rows: Sequence[int] | np.ndarray) -> list[Picture]:
        """Read the records of some pictures, in the order given."""
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


def keep_possible(scores: Float32[np.ndarray, " rows"], k: int, error: float) -> Int[np.ndarray, " candidates"]:
    """Every row that an error of the scores allows to be among the best `k`; those with minus infinity never."""
    possible = int(np.isfinite(scores).sum())
    if not possible:
        return np.zeros(0, dtype=np.int64)
    last = len(scores) - min(k, possible)
    return np.flatnonzero((scores >= np.partition(scores, last)[last] - error) & np.isfinite(scores))


def _bounds(scores: Float32[np.ndarray, " rows"]) -> tuple[float, float]:
    return (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 0.0)
