"""Pixels and words fused by their scores or by their ranks, and the choice of their weight on validation data.

Vectors of one space are joined in `fusion`; cosines and BM25 scores have no common scale, so here
they are brought to one (each query's scores to 0..1 over the pool) or replaced by ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Float64, Int

from twinlens.core.vectors import Pair
from twinlens.retrieval import scores as scoring
from twinlens.tasks.base import Scorer

Block = Float32[np.ndarray, "queries items"]
BLOCK_BYTES = 2**22  # of one block of scores: ordering it takes several arrays of twice its size
WEIGHTS = np.linspace(0.0, 1.0, 21)  # the grid


def block_starts(scorer: Scorer, items: int) -> Iterator[tuple[int, int]]:
    """Which queries to score at once, as (start, stop)."""
    step = max(1, BLOCK_BYTES // (4 * max(1, items)))
    return ((start, min(start + step, len(scorer))) for start in range(0, len(scorer), step))


def normalised(scores: Block) -> Block:
    """Each query's scores moved to 0..1 (min-max); 0 throughout where all are equal."""
    low, high = scores.min(axis=1, keepdims=True), scores.max(axis=1, keepdims=True)
    return (scores - low) / np.where(high > low, high - low, 1)


def weighted_sum(image: Block, words: Block, image_weight: float) -> Block:
    """`image_weight` of the normalised first and the rest of the normalised second."""
    return np.float32(image_weight) * normalised(image) + np.float32(1.0 - image_weight) * normalised(words)


def reciprocal_rank_fusion(image: Block, words: Block, constant: float, depth: int) -> Block:
    """The sum of 1 / (constant + rank) over both lists (Cormack et al. 2009), each of the `depth` best items.

    An item without a word of the query is not in the list of words, and gets nothing for it.
    """
    by_image, by_words = (_of_ranks(scores, constant, depth) for scores in (image, words))
    return (by_image + np.where(words > 0, by_words, 0.0)).astype(np.float32)


def _of_ranks(scores: Block, constant: float, depth: int) -> Float64[np.ndarray, "queries items"]:
    best = scoring.best(scoring.keys(scores), min(depth, scores.shape[1]))
    found = np.zeros(scores.shape)
    np.put_along_axis(found, best, 1.0 / (constant + np.arange(1, best.shape[1] + 1))[None], axis=1)
    return found


@dataclass(frozen=True)
class Cosines:
    """Scores of a pair of vectors: inner products in float64, rounded to float32."""

    queries: Float32[np.ndarray, "queries dim"]
    items: Float32[np.ndarray, "items dim"]

    @classmethod
    def of(cls, pair: Pair) -> Cosines:
        """Of the vectors of queries and items."""
        return cls(*pair)

    def __len__(self) -> int:
        return len(self.queries)

    def block(self, start: int, stop: int) -> Block:
        """Scores of the queries from `start` to before `stop` with all items."""
        wide = np.asarray(self.queries[start:stop], dtype=np.float64)
        return (wide @ np.asarray(self.items, dtype=np.float64).T).astype(np.float32)


@dataclass(frozen=True)
class Hybrid:
    """Two scorers of the same queries and items, fused; `chosen` is what there is to say of how."""

    image: Scorer
    words: Scorer
    fuse: Callable[[Block, Block], Block]
    chosen: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.words)

    def block(self, start: int, stop: int) -> Block:
        """Fused scores of the queries from `start` to before `stop` with all items."""
        return self.fuse(self.image.block(start, stop), self.words.block(start, stop))


def choose_weight(image: Scorer, words: Scorer, own_rows: Int[np.ndarray, " queries"], default: float) -> float:
    """The image weight of the grid with the best mean reciprocal rank of each query's own item.

    Args:
        image: scores of validation queries and items.
        words: of the same.
        own_rows: the item that each query should find.
        default: among equally good weights the one nearest to this is taken.
    """
    found = np.zeros(len(WEIGHTS))
    items = image.block(0, 1).shape[1]
    for start, stop in block_starts(words, items):
        by_image, by_words = image.block(start, stop), words.block(start, stop)
        relevant = own_rows[start:stop, None] == np.arange(items)
        for i, weight in enumerate(WEIGHTS):
            fused = scoring.keys(weighted_sum(by_image, by_words, float(weight)))
            found[i] += (1.0 / scoring.first_hits(fused, relevant)).sum()
    good = np.flatnonzero(found >= found.max() * (1 - 1e-12))
    return round(float(min(WEIGHTS[good], key=lambda weight: abs(weight - default))), 6)
