"""Fusion: vectors of pixels and words joined into one, and scores of two searches combined.

Cosines and BM25 scores have no common scale, so a query's scores are brought to 0..1 over the pool, or replaced by
ranks. Runs and searches fuse by the same functions, and so to the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float32, Float64, Int

from twinlens.core.row_sources import DerivedRows, Matrix, Rows, RowSource
from twinlens.core.vectors import bring_to_unit
from twinlens.retrieval.scores import Block

NOBODY = -1  # the row that fills up lists that are shorter than others

Lists = Int[np.ndarray, "queries depth"]
Gains = Float64[np.ndarray, "queries items"]
Bound = float | Float32[np.ndarray, "queries 1"]
Bounds = tuple[Bound, Bound]


def concatenate(image: Rows, text: Rows, image_weight: float) -> Rows:
    """Join two vectors per row into one unit vector; each is brought to unit length first, where it has another.

    Scaling by the square roots of the weights makes the inner product of two such rows
    `image_weight * image similarity + (1 - image_weight) * text similarity`. Of two vectors that are
    not of one length the longer would drown the other.

    Raises:
        DataError: a row is NaN, infinite or zero.
    """
    image, text = bring_to_unit(image), bring_to_unit(text)
    join = partial(_join, image_weight)
    if isinstance(image, RowSource) or isinstance(text, RowSource):  # joined when they are read
        return DerivedRows((image, text), join, (len(image), image.shape[1] + text.shape[1]))
    return join(image, text)


def _join(image_weight: float, image: Matrix, text: Matrix) -> Matrix:
    return np.hstack([np.float32(image_weight**0.5) * image, np.float32((1.0 - image_weight) ** 0.5) * text])


def reciprocal_rank_fusion(lists: Sequence[Lists], items: int, constant: float) -> Block:
    """Fuse ranked lists by rank alone: an item has the sum of `1 / (constant + rank)` over the lists that hold it.

    Args:
        lists: item rows of every query, best first; an item stands in a list at most once, and -1 fills up a list
            that ends early.
        items: how many there are.
        constant: what is added to every rank (60 in Cormack, Clarke & Buettcher, SIGIR 2009); larger values let
            agreement count for more than a first place.

    Returns:
        Scores of all items, 0 for those that no list holds.
    """
    return add_gains(*(compute_reciprocal_gains(rows, items, constant) for rows in lists))


def compute_reciprocal_gains(rows: Lists, items: int, constant: float) -> Gains:
    """Compute what one list gives to all items: `1 / (constant + rank)`, 0 to those that it does not hold.

    Args:
        rows: see `reciprocal_rank_fusion`, as the others.
        items: how many there are.
        constant: what is added to every rank.
    """
    gains = np.zeros((len(rows), items + 1))  # nobody's, at row -1, go into the last column
    np.put_along_axis(gains, rows, 1.0 / (constant + np.arange(1, rows.shape[1] + 1)), axis=1)
    return gains[:, :items]


def add_gains(*gains: Gains) -> Block:
    """Add what lists give."""
    total = gains[0]
    for more in gains[1:]:
        total = total + more
    return total.astype(np.float32)


def fuse_weighted(
    image: Block,
    words: Block,
    image_weight: float,
    bounds: tuple[Bounds, Bounds] | None = None,
) -> Block:
    """Add `image_weight` of the normalised first scores and the rest of the normalised second.

    Args:
        image: scores.
        words: scores of the same queries and items.
        image_weight: 0 to 1.
        bounds: the lowest and the highest score of the pool, by image and by words, where the blocks hold a part of it.
    """
    of_image, of_words = bounds or (None, None)
    return add_weighted(normalise(image, of_image), normalise(words, of_words), image_weight)


def add_weighted(image: Block, words: Block, image_weight: float) -> Block:
    """Add `image_weight` of the first scores and the rest of the second, both normalised."""
    total = np.float32(image_weight) * image
    total += np.float32(1.0 - image_weight) * words
    return total


def normalise(scores: Block, bounds: Bounds | None = None) -> Block:
    """Move each query's scores to 0..1 (min-max); 0 throughout where all are equal.

    Args:
        scores: of all items.
        bounds: the lowest and highest of all items, of each query or of all, where `scores` are of some items only.
    """
    if bounds is None:
        low, high = scores.min(axis=1, keepdims=True), scores.max(axis=1, keepdims=True)
    else:
        low, high = (np.broadcast_to(np.asarray(bound, dtype=np.float32), (len(scores), 1)) for bound in bounds)
    return np.asarray((scores - low) / np.where(high > low, high - low, np.float32(1)), dtype=np.float32)
