"""Pools read a block at a time: the same lists, scores and first hits, to the byte, in memory that no pool fills."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twinlens.core import row_sources
from twinlens.core.errors import DataError
from twinlens.core.row_sources import FileRows
from twinlens.core.vectors import normalise_rows, write_rows
from twinlens.retrieval import exact, item_blocks, selection
from twinlens.retrieval.exact import Neighbours, find_nearest
from twinlens.retrieval.item_blocks import needs_blocks
from twinlens.tasks.qrels import Groups, Pairs, Qrels


def unit(count: int, dim: int, levels: int, seed: int) -> np.ndarray:
    """Vectors of few different numbers, of which many have the same scores."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-levels, levels + 1, size=(count, dim)).astype(np.float32)
    rows[~rows.any(axis=1), 0] = 1
    return normalise_rows(rows)


def all_of(found: list[Neighbours]) -> tuple[np.ndarray, ...]:
    hits = [one.first_hit for one in found if one.first_hit is not None]
    assert [one.first_query for one in found] == list(
        found[0].first_query + np.cumsum([0, *(len(one.rows) for one in found[:-1])])
    )
    parts = [np.concatenate([one.rows for one in found]), np.concatenate([one.scores for one in found])]
    return (*parts, np.concatenate(hits)) if hits else tuple(parts)


def draw_qrels(kind: str, queries: int, items: int, own: np.ndarray | None, rng: np.random.Generator) -> Qrels | None:
    if kind == "groups":
        return Groups(rng.integers(0, 4, queries), rng.integers(0, 5, items), own)
    if kind == "few":
        return Groups(np.arange(queries), rng.integers(0, 2 * queries, items), own)
    if kind == "pairs":
        starts = np.concatenate([[0], np.cumsum(rng.integers(0, min(4, items) + 1, queries))])
        rows = np.concatenate(
            [np.sort(rng.choice(items, size=stop - start, replace=False)) for start, stop in pairwise(starts)]
            or [np.zeros(0, dtype=np.int64)]
        )
        return Pairs(starts, rows, np.ones(len(rows), dtype=np.float32), items)
    return None


@settings(max_examples=150, deadline=None)
@given(
    items=st.integers(2, 300),
    queries=st.integers(1, 30),
    k=st.integers(1, 60),
    levels=st.integers(1, 4),
    block=st.integers(1, 120),
    left_out=st.sampled_from(["none", "some", "all"]),
    kind=st.sampled_from(["none", "groups", "few", "pairs"]),
    few=st.sampled_from([0, 2, 64]),
    step=st.integers(1, 9),
    seed=st.integers(0, 10_000),
)
def test_blocks_of_items_give_the_bytes_of_the_whole_pool(
    items: int, queries: int, k: int, levels: int, block: int, left_out: str, kind: str, few: int, step: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    asked, pool = unit(queries, 3, levels, seed), unit(items, 3, levels, seed + 1)
    own = None if left_out == "none" else rng.integers(0, items, queries)
    if own is not None and left_out == "some":
        own[rng.random(queries) < 0.5] = -1
    qrels = draw_qrels(kind, queries, items, own, rng)
    whole = all_of(list(find_nearest(asked, pool, k, own_rows=own, qrels=qrels)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_blocks, "FEW_RELEVANT", few)
        patch.setattr(item_blocks, "PAIRS", 5)
        patch.setattr(item_blocks, "STATE_BYTES", 7 * (16 * 3 + 32 * k))
        patch.setattr(exact, "LISTS", 3)
        found = list(
            find_nearest(asked, pool, k, own_rows=own, qrels=qrels, item_rows=block, block_bytes=4 * block * step)
        )
    for mine, wanted in zip(all_of(found), whole, strict=True):
        assert mine.dtype == wanted.dtype
        assert mine.tobytes() == wanted.tobytes()


def test_pools_in_files_are_read_a_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sources, "ROWS_PER_FILE", 70)
    pool, asked = unit(500, 16, 9, 0), unit(40, 16, 9, 1)
    write_rows(tmp_path / "images.npy", [pool], len(pool))
    stored = FileRows.open(tmp_path / "images")
    seen: list[int] = []
    read = FileRows.read

    def counted(self: FileRows, start: int, stop: int) -> np.ndarray:
        seen.append(stop - start)
        return read(self, start, stop)

    monkeypatch.setattr(FileRows, "read", counted)
    monkeypatch.setattr(FileRows, "__array__", None)
    qrels = Groups(np.arange(40), np.arange(500) // 10)
    found = all_of(list(find_nearest(asked, stored, 7, qrels=qrels, item_rows=100)))
    assert seen == [100] * 5
    for mine, wanted in zip(found, all_of(list(find_nearest(asked, pool, 7, qrels=qrels))), strict=True):
        assert mine.tobytes() == wanted.tobytes()


def test_first_hits_take_a_second_pass_only_where_a_long_list_of_judgements_has_none_among_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(item_blocks, "FEW_RELEVANT", 3)
    pool, asked = unit(600, 8, 50, 2), unit(20, 8, 50, 3)
    made: list[int] = []
    multiply = selection.Selector.multiply

    def counted(self: selection.Selector, queries: torch.Tensor, *others: object) -> object:
        made.append(len(queries) * len(self.items))
        return multiply(self, queries, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(selection.Selector, "multiply", counted)
    few, many = Groups(np.arange(20), np.arange(600) // 2), Groups(np.arange(20) % 2, np.arange(600) % 2)
    for qrels in (few, many):  # of every query two relevant items, or 300
        list(find_nearest(asked, pool, 20, qrels=qrels, item_rows=100))
        assert sum(made) == 20 * 600
        made.clear()
    best = np.argmax(asked @ pool.T, axis=1)
    far = np.argsort(asked[0] @ pool.T)[:10]
    groups = np.full(600, 99)
    groups[far] = 0
    qrels = Groups(np.where(np.arange(20) == 0, 0, 99), groups)
    wanted = all_of(list(find_nearest(asked, pool, 20, qrels=qrels)))
    made.clear()
    found = all_of(list(find_nearest(asked, pool, 20, qrels=qrels, item_rows=100)))
    assert sum(made) == 21 * 600
    assert found[2].tobytes() == wanted[2].tobytes()
    assert found[2][0] == 591
    assert best[0] == found[0][0, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused_in_whichever_block_they_are(value: float) -> None:
    pool, asked = unit(90, 4, 3, 4), unit(3, 4, 3, 5)
    pool[77, 2] = value
    with pytest.raises(DataError, match="some items hold NaN or infinity"):
        list(find_nearest(asked, pool, 5, item_rows=20))
    asked[1, 0] = value
    with pytest.raises(DataError, match="some queries hold NaN or infinity"):
        list(find_nearest(asked, pool[:70], 5, item_rows=20))


def test_only_pools_beyond_a_bound_are_read_in_blocks_and_what_is_on_the_device_stays_there() -> None:
    cpu, rows = torch.device("cpu"), np.zeros((100, 4), np.float32)
    assert not needs_blocks(rows, cpu)
    assert not needs_blocks(rows, cpu, item_rows=100)
    assert needs_blocks(rows, cpu, item_rows=99)
    assert not needs_blocks(torch.from_numpy(rows), cpu, item_rows=1)
