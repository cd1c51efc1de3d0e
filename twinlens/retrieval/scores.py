"""Score definition and tie-breaking order, the same wherever is searched.

The score of a pair of vectors is its inner product, without error rounded to float64 and that to float32; items are
ordered by score, best first, and equal scores by item row. No order of summation has a say in it: the product of two
float32 numbers is exact in float64, a sum of such products errs by less than `bound_float64_error`, and the few sums
that lie so close to the middle of two float32 numbers that this could turn the rounding are taken without any error.
`order_by_score` orders candidates; `select_best` and `rank_best` work on whole blocks of scores, of words and of
hybrids for instance.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int64

Block = Float32[np.ndarray, "queries items"]  # scores of some queries with all items

NOT_FINITE = "some {} hold NaN or infinity, which has no place in an order: `dvc repro -f embed`"
LOWEST = np.iinfo(np.int64).min
ROWS = 2**32  # items that a key can tell apart
MANY = 16  # of so many items one to be selected: then keys of all of them are made
UNSURE = 2**12  # pairs whose vectors are looked at again at once
AT_ONCE = 2**11  # rows that are multiplied at a time
GATHERED = 2**9  # vectors that are scored one by one, at once
CELLS = 2**16  # scores that are rounded at once: what is made of them stays in the cache

Pair = tuple[Float[np.ndarray, "pairs dim"], Float[np.ndarray, "pairs dim"]]


def bound_float32_error(dim: int) -> float:
    """Bound the error of a float32 inner product of unit vectors: four deviations of `dim` roundings."""
    return 4.0 * float(np.finfo(np.float32).eps) * float(np.sqrt(dim))


def bound_float64_error(dim: int, lengths: float = 1.0) -> float:
    """Bound the error of a float64 sum of `dim` exact products, in whatever order (Higham 2002, section 3.1).

    Args:
        dim: terms of the sum.
        lengths: the product of the lengths of both vectors, which the sum of the terms' sizes does not exceed.
    """
    return 1.01 * (dim + 4) * 2.0**-53 * lengths  # 4: of the roundings when the bound itself is added to a sum


def compute_exact_scores(
    queries: Float[np.ndarray, "queries dim"],
    items: Float[np.ndarray, "items dim"],
    rows: Int[np.ndarray, "queries k"],
) -> Float32[np.ndarray, "queries k"]:
    """Compute the scores of each query with its `rows`; of float32 vectors the same on every machine."""
    scores = np.empty(rows.shape, dtype=np.float32)
    step = max(1, 2**16 // max(1, rows.shape[1] * items.shape[1]))  # half a MB of float64 stays in the cache
    for start in range(0, len(rows), step):
        near = items[rows[start : start + step]].astype(np.float64)  # (queries, k, dim)
        block = queries[start : start + step].astype(np.float64)
        wide = np.matmul(near, block[:, :, None])[:, :, 0]
        lengths = np.sqrt(
            np.einsum("qkd,qkd->qk", near, near).max(initial=0.0) * np.einsum("qd,qd->q", block, block).max()
        )

        def vectors(unsure: Int[np.ndarray, " unsure"], near: np.ndarray = near, block: np.ndarray = block) -> Pair:
            return block[unsure // near.shape[1]], near.reshape(-1, near.shape[2])[unsure]

        error = bound_float64_error(items.shape[1], float(lengths))
        scores[start : start + step] = round_sums(wide.ravel(), error, vectors).reshape(wide.shape)
    return scores


def multiply_exactly(
    left: Float32[np.ndarray, "rows dim"], right: Float32[np.ndarray, "columns dim"]
) -> Float32[np.ndarray, "rows columns"]:
    """Multiply rows of both sides without error, rounded to float64 and that to float32.

    What a row comes to does not depend on which others are multiplied with it, nor on the machine.
    """
    products = np.empty((len(left), len(right)), dtype=np.float32)
    wide = right.astype(np.float64)
    bounds = bound_float64_error(right.shape[1]) * np.linalg.norm(wide, axis=1)
    for start in range(0, len(left), AT_ONCE):
        block = left[start : start + AT_ONCE].astype(np.float64)
        error = np.linalg.norm(block, axis=1)[:, None] * bounds

        def vectors(unsure: Int[np.ndarray, " unsure"], block: np.ndarray = block) -> Pair:
            return block[unsure // len(right)], wide[unsure % len(right)]

        products[start : start + AT_ONCE] = round_sums((block @ wide.T).ravel(), error.ravel(), vectors).reshape(
            len(block), len(right)
        )
    return products


def scale_down(items: Float32[np.ndarray, "items dim"], queries: Float32[np.ndarray, "queries dim"]) -> np.float32:
    """Choose the power of two by which items are divided, so that no product with a query is larger than 1.

    Dividing by it rounds nothing, so that equal scores stay so, and those that are not.
    """
    longest = float(np.linalg.norm(items, axis=1).max(initial=0.0)) * float(np.linalg.norm(queries, axis=1).max())
    return np.float32(2.0 ** max(0, math.ceil(math.log2(max(longest * (1 - 1e-5), 1.0)))))


def round_sums(
    sums: Float64[np.ndarray, " pairs"],
    error: float | Float64[np.ndarray, " pairs"],
    vectors: Callable[[Int[np.ndarray, " unsure"]], Pair],
) -> Float32[np.ndarray, " pairs"]:
    """Round inner products to float32, those that their error leaves open after another look at the vectors.

    Args:
        sums: within `error` of the exact ones.
        error: see `bound_float64_error`; of all, or of each.
        vectors: gives the vectors of both sides of the pairs asked for, one pair a row.
    """
    rounded = sums.astype(np.float32)
    unsure = np.flatnonzero((sums - error).astype(np.float32) != (sums + error).astype(np.float32))
    for start in range(0, len(unsure), UNSURE):
        some = unsure[start : start + UNSURE]
        rounded[some] = add_products(*vectors(some))
    return rounded


def add_gathered(
    queries: Float64[np.ndarray, "queries dim"],
    items: Float[np.ndarray, "items dim"],
    rows: Int[np.ndarray, " pairs"],
    ends: Int[np.ndarray, " queries"],
    sums: Float64[np.ndarray, " pairs"],
) -> None:
    """Sum the products of pairs in float64, a query at a time, whose few items stay in the cache.

    Args:
        queries: their vectors.
        items: theirs.
        rows: of the items of all pairs, those of a query one after the other.
        ends: the pair after the last one of each query.
        sums: takes the sums.
    """
    # memory is taken once: what is taken anew for each query costs more than the sums
    most = min(GATHERED, int(np.diff(ends, prepend=0).max(initial=0)))
    near = np.empty((most, items.shape[1]), dtype=items.dtype)
    wide = near if items.dtype == np.float64 else np.empty(near.shape)
    start = 0
    for query, end in zip(queries, ends.tolist(), strict=True):
        while start < end:
            stop = min(start + most, end)
            count = stop - start
            np.take(items, rows[start:stop], axis=0, out=near[:count], mode="clip")  # else it is buffered
            if wide is not near:
                wide[:count] = near[:count]
            np.matmul(wide[:count], query, out=sums[start:stop])
            start = stop


def round_block(
    sums: Float64[np.ndarray, "queries items"],
    error: float,
    queries: Float[np.ndarray, "queries dim"],
    items: Float[np.ndarray, "items dim"],
) -> Block:
    """Round the inner products of some queries with all items to scores.

    Args:
        sums: within `error` of the exact ones.
        error: see `bound_float64_error`.
        queries: their vectors.
        items: theirs.
    """
    flat, rounded = sums.ravel(), np.empty(sums.size, dtype=np.float32)
    for start in range(0, sums.size, CELLS):

        def vectors(unsure: Int[np.ndarray, " unsure"], start: int = start) -> Pair:
            query, item = np.divmod(start + unsure, len(items))
            return queries[query], items[item]

        rounded[start : start + CELLS] = round_sums(flat[start : start + CELLS], error, vectors)
    return rounded.reshape(sums.shape)


def add_products(
    left: Float[np.ndarray, "pairs dim"], right: Float[np.ndarray, "pairs dim"]
) -> Float32[np.ndarray, " pairs"]:
    """Compute inner products of pairs of rows without error, rounded to float64 and that to float32."""
    products = left.astype(np.float64) * right.astype(np.float64)
    sums, error = products.sum(axis=1), bound_float64_error(products.shape[1]) * np.abs(products).sum(axis=1)
    rounded = sums.astype(np.float32)
    for pair in np.flatnonzero((sums - error).astype(np.float32) != (sums + error).astype(np.float32)):
        rounded[pair] = math.fsum(products[pair].tolist())
    return rounded


def order_by_score(
    rows: Int[np.ndarray, "queries n"], scores: Float32[np.ndarray, "queries n"]
) -> tuple[Int[np.ndarray, "queries n"], Float32[np.ndarray, "queries n"]]:
    """Order by score, best first; equal scores by item row."""
    by_row = np.argsort(rows, axis=1)
    rows, scores = np.take_along_axis(rows, by_row, 1), np.take_along_axis(scores, by_row, 1)
    by_score = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(rows, by_score, 1), np.take_along_axis(scores, by_score, 1)


def make_sort_keys(
    scores: Float32[np.ndarray, " *pairs"], rows: Int[np.ndarray, " *pairs"]
) -> Int64[np.ndarray, " *pairs"]:
    """Compute one integer per score: larger is better, no two of a query are equal, so any sort gives the one order."""
    rising = (scores + np.float32(0)).view(np.int32)  # + 0 turns -0 into 0
    rising ^= (rising >> 31) & np.int32(2**31 - 1)  # as integers, negative floats fall: turn them round
    keys = rising.astype(np.int64)
    keys *= ROWS
    keys += ROWS - 1 - rows
    return keys


def read_sort_keys(
    found: Int64[np.ndarray, " *pairs"],
) -> tuple[Int64[np.ndarray, " *pairs"], Float32[np.ndarray, " *pairs"]]:
    """Read the rows and the scores that keys were made of."""
    rising = (found >> 32).astype(np.int32)
    scores = (rising ^ ((rising >> 31) & np.int32(2**31 - 1))).view(np.float32)
    return ROWS - 1 - (found & (ROWS - 1)), scores


def select_best(block: Block, k: int) -> Int64[np.ndarray, "queries k"]:
    """Select the rows of the `k` best items of each query, best first."""
    items = block.shape[1]
    k = min(k, items)
    if k * MANY > items:
        keys = make_sort_keys(block, np.arange(items))
        keys.partition(items - k, axis=1)
        best = keys[:, items - k :]
        best.sort(axis=1)
        return read_sort_keys(best[:, ::-1])[0]
    # the k-th best score; numpy is ten times as slow where most scores are 0 and stand at the other end
    cut = -np.partition(-block, k - 1, axis=1)[:, k - 1, None]
    places = np.flatnonzero(block >= cut)  # much faster than the two coordinates of each
    queries, rows = np.divmod(places, items)
    found = block.ravel()[places]
    if len(rows) > 2 * k * len(
        block
    ):  # many stand at the cut, as those do that share no word with a query: the first of them are enough
        tied = found == cut[queries, 0]
        ties = np.cumsum(tied)  # up to here, of all queries
        first = np.searchsorted(queries, np.arange(len(block)))  # each query has some
        wanted = ~tied | (ties - (ties - tied)[first][queries] <= k)
        queries, rows, found = queries[wanted], rows[wanted], found[wanted]
    return read_sort_keys(_tabulate(queries, make_sort_keys(found, rows), len(block))[:, : -k - 1 : -1])[0]


def _tabulate(
    queries: Int[np.ndarray, " pairs"], keys: Int64[np.ndarray, " pairs"], count: int
) -> Int64[np.ndarray, "queries most"]:
    """The keys of each query in a row, rising; shorter rows begin with the lowest key. `queries` rise."""
    place = np.arange(len(queries)) - np.searchsorted(queries, np.arange(count))[queries]  # within its list
    table = np.full((count, int(place.max(initial=0)) + 1), LOWEST)
    table[queries, place] = keys
    table.sort(axis=1)
    return table


def merge_best(kept: Int64[np.ndarray, "queries k"], block: Block, first: int) -> Int64[np.ndarray, "queries k"]:
    """Merge the lists of best items with what more items bring.

    Args:
        kept: keys, best first, the lowest where there were not enough items.
        block: scores of the items from row `first` on, which all come after those that were looked at.
        first: their first row.
    """
    k, last = kept.shape[1], kept[:, -1]
    if not block.shape[1]:
        return kept
    if (last > LOWEST).all():  # an item that scores as the last one of a list stands behind it
        places = np.flatnonzero(block > read_sort_keys(last)[1][:, None])
        if not len(places):
            return kept
        queries, rows = np.divmod(places, block.shape[1])
        found = _tabulate(queries, make_sort_keys(block.ravel()[places], rows + first), len(block))
    else:
        best = select_best(block, k)
        found = make_sort_keys(np.take_along_axis(block, best, axis=1), best + first)
    both = np.concatenate([kept, found], axis=1)
    both.sort(axis=1)
    return both[:, : -k - 1 : -1]


def rank_best(
    block: Block, queries: Int[np.ndarray, " pairs"], rows: Int[np.ndarray, " pairs"]
) -> tuple[Int64[np.ndarray, " queries"], Float32[np.ndarray, " queries"]]:
    """Rank the best of some items of each query among all of them.

    Args:
        block: scores of all items.
        queries: of each pair of a query and one of its items.
        rows: of the items.

    Returns:
        Ranks, from 1, and scores; 0 and minus infinity where a query has no item.
    """
    best = np.full(len(block), LOWEST)
    np.maximum.at(best, queries, make_sort_keys(block[queries, rows], rows))
    there = best > LOWEST
    row, score = read_sort_keys(best)
    score = np.where(there, score, np.float32(-np.inf))
    above = np.count_nonzero(block > score[:, None], axis=1)
    tied, places = np.nonzero(block == score[:, None])
    above += np.bincount(tied[places < row[tied]], minlength=len(block))
    return np.where(there, above + 1, 0), score
