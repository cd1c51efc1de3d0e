"""Runs: what is written is read back, and a run that does not fit its pool is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twinlens.core.errors import DataError
from twinlens.core.tables import RUN
from twinlens.retrieval import runs
from twinlens.retrieval.runs import RunWriter, read_run

QUERIES, ITEMS = ["q0", "q1", "q2"], ["a", "b", "c", "d"]
ROWS = np.array([[0, 1], [3, 2], [1, 0]])
SCORES = np.array([[0.9, 0.1], [0.5, 0.5], [-0.1, -0.2]], np.float32)


def write(path: Path) -> Path:
    with RunWriter(path, QUERIES, ITEMS) as run:
        run.add(0, ROWS[:2], SCORES[:2])
        run.add(2, ROWS[2:], SCORES[2:])
    return path


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "ROWS_PER_GROUP", 4)


def test_a_run_reads_back_block_by_block(tmp_path: Path) -> None:
    blocks = list(read_run(write(tmp_path / "run.parquet"), QUERIES, ITEMS))
    assert [first for first, _, _ in blocks] == [0, 2]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows, _ in blocks]), ROWS)
    np.testing.assert_array_equal(np.concatenate([scores for _, _, scores in blocks]), SCORES)


def test_anyone_can_read_a_run_with_polars(tmp_path: Path) -> None:
    table = pl.read_parquet(write(tmp_path / "run.parquet"))
    assert table.columns == ["query_id", "item_id", "rank", "score"]
    assert table.cast({"query_id": pl.String, "item_id": pl.String}).row(2)[:3] == ("q1", "d", 1)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("query_id", ["q0", "q0", "qx", "qx", "q2", "q2"], "query 'qx' is not the one expected"),
        ("query_id", ["q1", "q1", "q0", "q0", "q2", "q2"], "query 'q1' is not the one expected"),
        ("item_id", ["a", "b", "d", "z", "b", "a"], "item 'z' is not in the pool"),
        ("item_id", ["a", "a", "d", "c", "b", "a"], "lists an item twice"),
        ("rank", [1, 2, 1, 3, 1, 2], "ranks of a query are not"),
        ("score", [0.1, 0.9, 0.5, 0.5, 0.2, 0.1], "scores rise"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(tmp_path: Path, column: str, values: list, message: str) -> None:
    good = {
        "query_id": ["q0", "q0", "q1", "q1", "q2", "q2"],
        "item_id": ["a", "b", "d", "c", "b", "a"],
        "rank": [1, 2, 1, 2, 1, 2],
        "score": [0.9, 0.1, 0.5, 0.5, 0.2, 0.1],
    }
    path = tmp_path / "run.parquet"
    pq.write_table(pa.table(good | {column: values}).cast(RUN), path)
    with pytest.raises(DataError, match=message):
        list(read_run(path, QUERIES, ITEMS))


def test_a_run_that_lacks_a_query_is_refused_by_name(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run.parquet", QUERIES, ITEMS) as run:
        run.add(0, ROWS[:2], SCORES[:2])
    with pytest.raises(DataError, match="1 queries are missing, the first 'q2'"):
        list(read_run(tmp_path / "run.parquet", QUERIES, ITEMS))


def test_how_many_queries_come_at_once_decides_no_byte(tmp_path: Path) -> None:
    rows, scores = np.tile(np.arange(2), (3, 1)), np.zeros((3, 2), np.float32)
    for name, sizes in (("one", [3]), ("two", [2, 1]), ("three", [1, 1, 1])):
        with RunWriter(tmp_path / f"{name}.parquet", QUERIES, ITEMS) as run:
            for first, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
                run.add(int(first), rows[first : first + size], scores[first : first + size])
    assert pq.read_metadata(tmp_path / "one.parquet").num_row_groups == 2  # of two queries, and of one
    assert len({(tmp_path / f"{name}.parquet").read_bytes() for name in ("one", "two", "three")}) == 1
