"""Hybrid of words and pixels: two scorers of a task fused over the whole pool, and the choice of their weight.

Hybrids of a task share their sides, and those are searched by themselves too. A `Side` has what is made of the scores
of a block of queries, each thing once for all who need it, and a `ScoredBlock` has the sides of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Int, Int64

from twinlens.retrieval import scores
from twinlens.retrieval.base import Scorer
from twinlens.retrieval.fusion import (
    NOBODY,
    Gains,
    Lists,
    add_gains,
    add_weighted,
    compute_reciprocal_gains,
    normalise,
)
from twinlens.retrieval.scores import Block

BLOCK_BYTES = 2**21  # of one block of scores: four sides, each with what is made of it, are about 24 times as much
WEIGHTS = np.linspace(0.0, 1.0, 21)  # the grid


def choose_block_size(items: int) -> int:
    """Choose how many queries are scored at once."""
    return max(1, BLOCK_BYTES // (4 * max(1, items)))


def split_into_blocks(scorer: Scorer, items: int) -> Iterator[tuple[int, int]]:
    """Split the queries into blocks to score at once, as (start, stop)."""
    step = choose_block_size(items)
    return ((start, min(start + step, len(scorer))) for start in range(0, len(scorer), step))


@dataclass(frozen=True)
class Whole:
    """What fusions ask of the scores of some queries with the whole pool, where a block of items is looked at."""

    low: Float32[np.ndarray, "queries 1"]
    high: Float32[np.ndarray, "queries 1"]
    keys: Int64[np.ndarray, "queries depth"]  # of the best items, see `scores.make_sort_keys`
    first: int  # row of the block's first item

    def list_best(self, depth: int, above: float, items: int) -> Lists:
        """List the best items that score above a limit, by their places among those of the block; nobody elsewhere."""
        rows, found = scores.read_sort_keys(self.keys[:, :depth])
        rows = rows - self.first
        return np.where((found > above) & (rows >= 0) & (rows < items), rows, NOBODY)


@dataclass(frozen=True)
class Side:
    """Side of a hybrid: the scores of a block of queries, and what fusions make of them, each made once."""

    block: Block  # not to be written to
    whole: Whole | None = None  # of the pool, where the block holds some of its items
    _gains: dict[tuple[float, int, float], Gains] = field(default_factory=dict)

    @cached_property
    def normalised(self) -> Block:
        """The scores, brought to 0..1."""
        return normalise(self.block) if self.whole is None else normalise(self.block, (self.whole.low, self.whole.high))

    def give_gains(self, constant: float, depth: int, above: float = -np.inf) -> Gains:
        """What the `depth` best items that score above a limit gain by their ranks."""
        asked = constant, depth, above
        if asked not in self._gains:
            self._gains[asked] = compute_reciprocal_gains(self._best(depth, above), self.block.shape[1], constant)
        return self._gains[asked]

    def _best(self, depth: int, above: float) -> Lists:
        if self.whole is not None:
            return self.whole.list_best(depth, above, self.block.shape[1])
        rows = scores.select_best(self.block, depth)
        return np.where(np.take_along_axis(self.block, rows, axis=1) > above, rows, NOBODY)


def fuse_by_rank(image: Side, words: Side, constant: float, depth: int) -> Block:
    """Fuse the `depth` best items of both by reciprocal rank.

    An item without a word of the query is not in the list of words, and gets nothing for it.
    """
    return add_gains(image.give_gains(constant, depth), words.give_gains(constant, depth, above=0.0))


def fuse_by_weight(image: Side, words: Side, image_weight: float) -> Block:
    """Add both in these shares, each brought to 0..1; see `fusion.fuse_weighted`."""
    return add_weighted(image.normalised, words.normalised, image_weight)


@dataclass(frozen=True)
class ScoredBlock:
    """Scores of the queries from `start` to before `stop`, by whatever scorers are asked for them, each asked once."""

    start: int
    stop: int
    instead: Mapping[int, Scorer] = field(default_factory=dict)  # by `id` of a scorer, which has the same scores faster
    wholes: Mapping[int, Whole] = field(default_factory=dict)  # likewise, where those have some of the items
    _sides: dict[int, Side] = field(default_factory=dict)

    def ask(self, scorer: Scorer) -> Block:
        """The scores of a scorer, not to be written to."""
        return scorer.fuse_sides(self) if isinstance(scorer, Hybrid) else self.side(scorer).block

    def side(self, scorer: Scorer) -> Side:
        """The scores of a scorer as a side of hybrids."""
        if id(scorer) not in self._sides:
            asked = self.instead.get(id(scorer), scorer)
            self._sides[id(scorer)] = Side(asked.block(self.start, self.stop), self.wholes.get(id(scorer)))
        return self._sides[id(scorer)]


@dataclass(frozen=True)
class Hybrid:
    """Two scorers of the same queries and items, fused; `chosen` is what there is to say of how.

    Where the pool is read in blocks, `fuse` may ask for the `depth` best items of each side, and for no more.
    """

    image: Scorer
    words: Scorer
    fuse: Callable[[Side, Side], Block]
    chosen: dict[str, float] = field(default_factory=dict)
    depth: int = 0

    def __len__(self) -> int:
        return len(self.words)

    def block(self, start: int, stop: int) -> Block:
        """Fused scores of the queries from `start` to before `stop` with all items."""
        return self.fuse_sides(ScoredBlock(start, stop))

    def fuse_sides(self, scored: ScoredBlock) -> Block:
        """Fused scores of a block of queries, whose sides may be there already."""
        return self.fuse(scored.side(self.image), scored.side(self.words))


def list_sides(made: Iterable[Scorer]) -> list[Scorer]:
    """List the scorers that are no hybrids, and the sides of those that are, each once."""
    leaves = [side for one in made for side in ((one.image, one.words) if isinstance(one, Hybrid) else (one,))]
    return list({id(side): side for side in leaves}.values())


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
        by_image, by_words = normalise(image.block(start, stop)), normalise(words.block(start, stop))
        queries = np.arange(stop - start)
        for i, weight in enumerate(WEIGHTS):
            fused = add_weighted(by_image, by_words, float(weight))
            found[i] += (1.0 / scores.rank_best(fused, queries, own_rows[start:stop])[0]).sum()
    good = np.flatnonzero(found >= found.max() * (1 - 1e-12))
    return round(float(min(WEIGHTS[good], key=lambda weight: abs(weight - default))), 6)
