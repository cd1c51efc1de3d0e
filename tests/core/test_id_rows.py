"""Ids by their hashes: found where a dictionary finds them, also where hashes agree by half."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from twinlens.core import id_rows
from twinlens.core.id_rows import IdRows, count_ids, hash_ids

IDS = ["b", "a", "", "b", "caf\udce9", "a", "c", "b"]


def test_ids_are_found_in_their_first_row_and_strangers_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_rows, "AT_ONCE", 3)
    rows = IdRows.of([IDS[:3], IDS[3:]])
    assert rows.find(["c", "a", "b", "x", "", "caf\udce9", "caf\\udce9"]).tolist() == [6, 1, 0, -1, 2, 4, -1]
    assert rows.find(pl.Series(["c", "x"])).tolist() == [6, -1]
    assert rows.find_firsts().tolist() == [0, 1, 2, 0, 4, 1, 6, 0]
    assert rows.find_repeated().tolist() == [True, True, False, True, False, True, False, True]
    assert count_ids(IDS, ["x", "a"]) == 6


def test_among_none_nothing_is_found() -> None:
    rows = IdRows.of([])
    assert rows.find(["a"]).tolist() == [-1]
    assert rows.find([]).tolist() == []
    assert len(rows.find_firsts()) == len(rows.find_repeated()) == count_ids([]) == 0


def test_ids_that_agree_in_one_of_the_hashes_are_different_ids() -> None:
    hashes = np.array([[7, 3], [7, 1], [7, 2], [7, 1], [5, 1], [9, 3]], dtype=np.int64)
    rows = IdRows.of_hashes([hashes])
    assert rows.find_hashes(hashes).tolist() == [0, 1, 2, 1, 4, 5]
    assert rows.find_hashes(np.array([[7, 4], [7, 0], [8, 1]], dtype=np.int64)).tolist() == [-1, -1, -1]
    assert rows.find_firsts().tolist() == [0, 1, 2, 1, 4, 5]
    assert (hash_ids(["a"]) != hash_ids(["b"])).all()
