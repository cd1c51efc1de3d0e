"""Exact ranking of a pool that is read a block of items at a time, beside the bare blocked product; its memory.

    python -m benchmarks.big_ranking paired [ROUNDS [QUERIES]]    # 200,000 x 256, by turns, seconds of a processor
    python -m benchmarks.big_ranking run ITEMS DIM QUERIES FOLDER    # from files made in FOLDER, peak memory

A busy machine moves no ratio here: counted are seconds of a processor of this process, by one thread.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.paired import alternate, median, ratio, unit_vectors
from twinlens.core import row_sources
from twinlens.core.row_sources import FileRows
from twinlens.core.vectors import write_rows
from twinlens.retrieval.exact import find_nearest
from twinlens.retrieval.item_blocks import ITEM_ROWS
from twinlens.retrieval.selection import BLOCK_BYTES, full_float32
from twinlens.tasks.qrels import Groups

K = 100
BARE_ROWS = 2**14  # items of a block of the bare product, in which it is fastest


def multiply(queries: np.ndarray, items: np.ndarray | FileRows) -> None:
    """The bare product, in the blocks in which it is fastest; nothing is looked at."""
    asked, rows = torch.from_numpy(queries), BARE_ROWS
    step = max(1, BLOCK_BYTES["cpu"] // (4 * rows))
    out = torch.empty(step, rows)
    for start in range(0, items.shape[0], rows):
        block = torch.from_numpy(np.array(items[start : start + rows]))
        with full_float32():
            for first in range(0, len(queries), step):
                some = asked[first : first + step]
                torch.mm(some, block.T, out=out[: len(some), : len(block)])


def paired(rounds: int, items: int = 200_000, dim: int = 256, queries: int = 2_000) -> None:
    """Print ratios to the bare product: blocks of items with and without first hits, and the pool as a whole."""
    pool, asked = unit_vectors(items, dim), unit_vectors(queries, dim, 1)
    qrels = Groups(np.arange(queries), np.arange(items) % (items // 5))
    size = ITEM_ROWS["cpu"]
    taken = alternate(
        {
            "bare": lambda: multiply(asked, pool),
            "blocks": lambda: list(find_nearest(asked, pool, K, item_rows=size)),
            "blocks, first hits": lambda: list(find_nearest(asked, pool, K, qrels=qrels, item_rows=size)),
            "whole": lambda: list(find_nearest(asked, pool, K)),
            "whole, first hits": lambda: list(find_nearest(asked, pool, K, qrels=qrels)),
        },
        rounds,
        time.process_time,
    )
    bare = median(taken, "bare")
    print(f"{queries:,} queries, {items:,} x {dim}, {K} best; bare product {bare:.2f} s")
    for name in taken:
        print(f"{name}: {median(taken, name):.2f} s, {ratio(taken, name, 'bare'):.3f} times the bare product")


def run(items: int, dim: int, queries: int, folder: Path) -> None:
    """Print seconds and peak memory of a ranking from files."""
    made = folder / f"pool-{items}-{dim}"
    if not made.exists():
        draft = folder / f"draft-{items}-{dim}.npy"
        row_sources.ROWS_PER_FILE = 2**18  # several files of the smaller pools too
        write_rows(draft, _draw_blocks(items, dim), items)
        draft.with_suffix("").rename(made)
    stored = FileRows.open(made)
    asked, qrels = unit_vectors(queries, dim, 1), Groups(np.arange(queries), np.arange(items) % (items // 5))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.process_time()
    multiply(asked[: min(queries, 64)], stored)
    few, wall, started = time.process_time() - started, time.perf_counter(), time.process_time()
    lists = sum(len(found.rows) for found in find_nearest(asked, stored, K, qrels=qrels))
    seconds, wall = time.process_time() - started, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{lists:,} queries, {items:,} x {dim} ({stored.nbytes / 1e9:.1f} GB in files), {K} best and first hits: "
        f"{seconds:.1f} s of a processor, {wall:.1f} s in all, {items * queries * dim / seconds / 1e9:.1f} G "
        f"products a second; peak memory {peak:,.0f} MB, {peak - before:,.0f} more than before "
        f"(reading and the product of 64 queries: {few:.1f} s)"
    )


def _draw_blocks(items: int, dim: int) -> Iterator[np.ndarray]:
    for number, start in enumerate(range(0, items, 2**16)):
        yield unit_vectors(min(2**16, items - start), dim, 10 + number)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "paired":
        rounds, asked = [*map(int, sys.argv[2:4]), *(5, 2_000)[len(sys.argv[2:4]) :]]
        paired(rounds, queries=asked)
    else:
        Path(sys.argv[5]).mkdir(parents=True, exist_ok=True)
        items, dim, queries = (int(value) for value in sys.argv[2:5])
        run(items, dim, queries, Path(sys.argv[5]))
