"""Runs: the ranked lists of one retriever, as `query_id, item_id, rank, score` in Parquet.

A run is written and read a block of whole queries at a time, so its size is no matter of memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int

from twinlens.core.errors import DataError
from twinlens.core.id_rows import IdRows
from twinlens.core.tables import RUN

Rows = Int[np.ndarray, "queries depth"]  # of the items, best first
Scores = Float32[np.ndarray, "queries depth"]

DRAWS = "draws"  # folder of further draws of a retriever that draws at random: each a folder like the task's
ROWS_PER_GROUP = 1_000_000
UNMEASURED = "unmeasured.json"  # in the folder of the `rank` stage


class RunWriter:
    """`with RunWriter(path, query_ids, item_ids) as run: run.add(first_query, rows, scores)`."""

    def __init__(self, path: Path, query_ids: list[str], item_ids: list[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.writer = pq.ParquetWriter(path, RUN, compression="zstd")
        self.query_ids, self.item_ids = query_ids, pa.array(item_ids, pa.string())
        self.written = 0  # queries
        self.waiting: list[tuple[Rows, Scores]] = []

    def add(self, first_query: int, rows: Rows, scores: Scores) -> None:
        """Add the lists of the next block of queries, best first."""
        assert first_query == self.written + sum(len(block) for block, _ in self.waiting)
        self.waiting.append((rows, scores))
        most = max(1, ROWS_PER_GROUP // max(1, rows.shape[1]))  # whatever the blocks, so that they decide no byte
        while sum(len(block) for block, _ in self.waiting) >= most:
            self._flush(most)

    def _flush(self, most: int | None = None) -> None:
        """Write so many queries that wait as one row group: small groups would each hold the names of all items."""
        if not self.waiting:
            return
        rows, scores = (np.concatenate(parts) for parts in zip(*self.waiting, strict=True))
        self.waiting = [] if most is None or most == len(rows) else [(rows[most:], scores[most:])]
        rows, scores = rows[:most], scores[:most]
        count, depth = rows.shape
        names = pa.array(self.query_ids[self.written : self.written + count], pa.string())
        queries = np.repeat(np.arange(count, dtype=np.int32), depth)
        ranks = np.tile(np.arange(1, depth + 1, dtype=np.int32), count)
        columns = [
            pa.DictionaryArray.from_arrays(pa.array(queries), names),
            pa.DictionaryArray.from_arrays(pa.array(rows.ravel().astype(np.int32)), self.item_ids),
            pa.array(ranks),
            pa.array(scores.ravel().astype(np.float32)),
        ]
        self.writer.write_table(pa.Table.from_arrays(columns, schema=RUN), row_group_size=rows.size)
        self.written += count

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self.writer.close()


def read_run(path: Path, query_ids: list[str], item_ids: list[str] | IdRows) -> Iterator[tuple[int, Rows, Scores]]:
    """The lists of a run, a block of queries at a time.

    Args:
        path: of the run.
        query_ids: the queries that the run must hold, in its order.
        item_ids: the items that it may name; as `IdRows` where several runs name the same.

    Yields:
        The first query's row, the items' rows and the scores, both best first.

    Raises:
        DataError: a query is missing, strange or out of order; ranks are not 1, 2, 3, ...; an item
            is unknown or listed twice; scores rise.
    """
    known = item_ids if isinstance(item_ids, IdRows) else IdRows.of([item_ids])
    expected = 0
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        ranks = table["rank"].to_numpy()
        starts = np.flatnonzero(ranks == 1)
        count, depth = len(starts), int(ranks.max())
        if len(ranks) != count * depth or not (ranks.reshape(count, depth) == np.arange(1, depth + 1)).all():
            raise DataError(f"{path}: the ranks of a query are not 1, 2, 3, ... up to {depth}")
        found = table["query_id"].take(pa.array(starts)).to_pylist()
        if found != query_ids[expected : expected + count]:
            wrong = next((q for q, e in zip(found, query_ids[expected:], strict=False) if q != e), found[-1])
            raise DataError(f"{path}: query '{wrong}' is not the one expected at row {expected}")
        items = table["item_id"].combine_chunks()
        lookup = known.find(pl.Series(items.dictionary))
        if (strange := np.flatnonzero(lookup < 0)).size:
            raise DataError(f"{path}: item '{min(items.dictionary.take(strange).to_pylist())}' is not in the pool")
        rows = lookup[items.indices.to_numpy()].reshape(count, depth)
        if (np.diff(np.sort(rows, axis=1), axis=1) == 0).any():
            raise DataError(f"{path}: a query lists an item twice")
        scores = table["score"].to_numpy().reshape(count, depth)
        if not np.isfinite(scores).all():
            raise DataError(f"{path}: a score is NaN or infinite, which has no place in an order: `dvc repro -f rank`")
        if (np.diff(scores, axis=1) > 0).any():
            raise DataError(f"{path}: scores rise down a list")
        yield expected, rows, scores
        expected += count
    if expected != len(query_ids):
        raise DataError(f"{path}: {len(query_ids) - expected} queries are missing, the first '{query_ids[expected]}'")


def write_unmeasured(told: list[str], folder: Path) -> None:
    """Write why a model has no row of its own in some tasks; the file is there where there is nothing to say, too."""
    (folder / UNMEASURED).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_unmeasured(folder: Path) -> list[str]:
    """Read what `write_unmeasured` wrote; nothing of results that were made before there were any."""
    try:
        found: list[str] = json.loads((folder / UNMEASURED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return found
