"""Hybrid of words and pixels: two scorers of a task fused over the whole pool, and the choice of their weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from twinlens.retrieval import scores
from twinlens.retrieval.base import Scorer
from twinlens.retrieval.fusion import NOBODY, Lists, fuse_weighted, reciprocal_rank_fusion
from twinlens.retrieval.scores import Block

BLOCK_BYTES = 2**22  # of one block of scores: ordering it takes several arrays of twice its size
WEIGHTS = np.linspace(0.0, 1.0, 21)  # the grid


def split_into_blocks(scorer: Scorer, items: int) -> Iterator[tuple[int, int]]:
    """Split the queries into blocks to score at once, as (start, stop)."""
    step = max(1, BLOCK_BYTES // (4 * max(1, items)))
    return ((start, min(start + step, len(scorer))) for start in range(0, len(scorer), step))


def fuse_by_rank(image: Block, words: Block, constant: float, depth: int) -> Block:
    """Fuse the `depth` best items of both by reciprocal rank.

    An item without a word of the query is not in the list of words, and gets nothing for it.
    """
    lists = [_best(image, depth), _best(words, depth, above=0.0)]
    return reciprocal_rank_fusion(lists, image.shape[1], constant)


def _best(block: Block, depth: int, above: float = -np.inf) -> Lists:
    rows = scores.select_best(block, depth)
    return np.where(np.take_along_axis(block, rows, axis=1) > above, rows, NOBODY)


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
    """Choose the image weight of the grid with the best mean reciprocal rank of each query's own item.

    Args:
        image: scores of validation queries and items.
        words: of the same.
        own_rows: the item that each query should find.
        default: among equally good weights the one nearest to this is taken.
    """
    found = np.zeros(len(WEIGHTS))
    items = image.block(0, 1).shape[1]
    for start, stop in split_into_blocks(words, items):
        by_image, by_words = image.block(start, stop), words.block(start, stop)
        queries = np.arange(stop - start)
        for i, weight in enumerate(WEIGHTS):
            fused = fuse_weighted(by_image, by_words, float(weight))
            found[i] += (1.0 / scores.rank_best(fused, queries, own_rows[start:stop])[0]).sum()
    good = np.flatnonzero(found >= found.max() * (1 - 1e-12))
    return round(float(min(WEIGHTS[good], key=lambda weight: abs(weight - default))), 6)
