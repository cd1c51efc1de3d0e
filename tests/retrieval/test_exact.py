"""Exact neighbours against a plain float64 ranking, in awkward ground: ties, duplicates, tiny pools."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.cuda_ranking import compare_nearest
from twinlens.core.device import choose_device
from twinlens.core.errors import DataError
from twinlens.retrieval import exact, selection
from twinlens.retrieval.base import Dense
from twinlens.retrieval.exact import OnDevice, find_nearest
from twinlens.retrieval.scores import bound_float32_error, compute_exact_scores
from twinlens.tasks.qrels import Groups


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def vectors(count: int, dim: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def plain(
    queries: np.ndarray, items: np.ndarray, k: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The definition: float64 products rounded to float32, stable order, best first."""
    scores = (queries.astype(np.float64) @ items.astype(np.float64).T).astype(np.float32)
    if own is not None:
        scores[np.arange(len(queries)), own] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, 1)


def found(queries: np.ndarray, items: np.ndarray, k: int, **options: object) -> tuple[np.ndarray, np.ndarray]:
    blocks = list(find_nearest(queries, items, k, **options))  # type: ignore[arg-type]
    return np.concatenate([b.rows for b in blocks]), np.concatenate([b.scores for b in blocks])


@pytest.mark.parametrize(("items", "k"), [(3, 10), (40, 5), (1000, 10), (5000, 50)])
def test_equals_the_plain_ranking(items: int, k: int) -> None:
    queries, pool = vectors(70, 24, 1), vectors(items, 24, 2)
    rows, scores = found(queries, pool, k, block_bytes=4 * items * 16)
    expected_rows, expected_scores = plain(queries, pool, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_equal_scores_stand_in_the_order_of_the_pool() -> None:
    pool = np.repeat(vectors(40, 16, 3), 50, axis=0)  # every vector fifty times: ties across every cut
    queries = vectors(30, 16, 4)
    rows, scores = found(queries, pool, 7)
    expected_rows, expected_scores = plain(queries, pool, 7)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_a_collapsed_model_ranks_the_pool_in_its_own_order() -> None:
    same = np.tile(vectors(1, 8, 0), (300, 1))
    rows, _ = found(same[:3], same, 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_the_query_itself_is_left_out_by_row_and_its_duplicate_is_not() -> None:
    pool = vectors(500, 16, 5)
    pool[7] = pool[3]
    rows, scores = found(pool, pool, 4, own_rows=np.arange(500))
    assert not (rows == np.arange(500)[:, None]).any()
    assert rows[3, 0] == 7
    assert rows[7, 0] == 3
    assert scores[3, 0] == pytest.approx(1)


def test_queries_without_an_item_of_their_own_leave_nothing_out() -> None:
    pool = vectors(50, 16, 6)
    rows, _ = found(pool[:2], pool, 50, own_rows=np.array([-1, 1]))
    assert sorted(rows[0]) == list(range(50))


def test_a_pool_of_the_query_alone_is_an_error() -> None:
    with pytest.raises(ValueError, match="leaves nothing to rank"):
        list(find_nearest(vectors(1, 4, 0), vectors(1, 4, 0), 5, own_rows=np.array([0])))


def test_negative_scores_are_ranked_like_any_other() -> None:
    query, pool = np.array([[1.0, 0.0]], np.float32), unit(np.array([[-1.0, 0.1], [-1.0, 2.0], [-1.0, 0.0]]))
    rows, scores = found(query, pool, 3)
    assert rows.tolist() == [[1, 0, 2]]
    assert (scores < 0).all()


@pytest.mark.parametrize("k", [1, 3, 50])
def test_the_first_hit_is_ranked_over_the_whole_pool(k: int) -> None:
    pool, groups = vectors(400, 8, 7), np.random.default_rng(8).integers(0, 60, 400)
    blocks = find_nearest(
        pool, pool, k, own_rows=np.arange(400), qrels=Groups(groups, groups, np.arange(400)), block_bytes=90_000
    )
    ranks = np.concatenate([block.first_hit for block in blocks])  # type: ignore[arg-type]
    order, _ = plain(pool, pool, 399, np.arange(400))
    relevant = groups[order] == groups[:, None]
    expected = np.where(relevant.any(axis=1), relevant.argmax(axis=1) + 1, 0)
    np.testing.assert_array_equal(ranks, expected)


def test_a_query_whose_group_has_no_other_item_has_no_first_hit() -> None:
    pool = vectors(5, 4, 9)
    groups = np.array([0, 1, 1, 1, 1])
    block = next(find_nearest(pool, pool, 2, own_rows=np.arange(5), qrels=Groups(groups, groups, np.arange(5))))
    assert block.first_hit is not None
    assert block.first_hit[0] == 0


@settings(max_examples=60, deadline=None)
@given(items=st.integers(2, 600), k=st.integers(1, 40), levels=st.integers(1, 4), seed=st.integers(0, 10_000))
def test_equals_the_plain_ranking_whatever_ties_there_are(items: int, k: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # coordinates from very few values: many exactly equal scores, and many that differ by a rounding
    pool, queries = (unit(rng.integers(1, levels + 2, (n, 3)).astype(np.float64)) for n in (items, 5))
    rows, scores = found(queries, pool, k)
    expected_rows, expected_scores = plain(queries, pool, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_the_tolerance_covers_the_float32_error_of_the_product() -> None:
    queries, pool = vectors(200, 768, 10), vectors(3000, 768, 11)
    error = np.abs((queries @ pool.T).astype(np.float64) - queries.astype(np.float64) @ pool.astype(np.float64).T)
    assert error.max() < bound_float32_error(768) / 4


def test_a_first_hit_past_the_end_is_ranked_by_row_where_its_score_ties_with_others() -> None:
    rows = np.ones((5, 4), dtype=np.float32) / 2
    (block,) = find_nearest(rows[:1], rows, 2, qrels=Groups(np.array([1]), np.array([0, 0, 0, 0, 1])))
    assert block.first_hit is not None
    assert block.first_hit.tolist() == [5]  # no item scores higher, but four stand before it in the pool


def half_way(dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A query and items whose exact scores lie on, or a hair beside, the middle of two float32 numbers."""
    rng = np.random.default_rng(seed)
    query = np.zeros((1, dim), dtype=np.float32)
    query[0, :3] = 1.0, 2.0**-12, 2.0**-30
    items = np.zeros((90, dim), dtype=np.float32)
    items[:, 0] = 0.5
    items[:, 1] = 2.0**-13  # half a step of float32 at .5 more: 2 ** -25
    items[:, 2] = np.repeat([-(2.0**-30), 0.0, 2.0**-30], 30)  # 2 ** -60 less, nothing, 2 ** -60 more
    noise = rng.standard_normal((90, (dim - 3) // 2)).astype(np.float32) * np.float32(0.01)
    query[0, 3 : 3 + 2 * noise.shape[1]] = 0.1
    items[:, 3 : 3 + noise.shape[1]], items[:, 3 + noise.shape[1] : 3 + 2 * noise.shape[1]] = noise, -noise  # sum to 0
    return query, items


def exactly(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The definition, by fractions."""
    sums = [
        [sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(q, x, strict=True)) for x in items]
        for q in queries
    ]
    return np.array([[float(one) for one in row] for row in sums]).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_summation_has_a_say_in_scores_or_ranks(seed: int) -> None:
    query, items = half_way(63, seed)
    expected = exactly(query, items)
    order = np.argsort(-expected, axis=1, kind="stable")
    columns = np.random.default_rng(seed).permutation(63)
    for mine in (np.arange(63), columns, columns[::-1]):  # a device sums in an order of its own
        rows, scores = found(query[:, mine], items[:, mine], 90)
        np.testing.assert_array_equal(rows, order)
        np.testing.assert_array_equal(scores, np.take_along_axis(expected, order, axis=1))
        by_rows = compute_exact_scores(query[:, mine], items[:, mine], order)
        np.testing.assert_array_equal(by_rows, scores)


def test_a_device_that_sums_otherwise_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, pool = vectors(60, 96, 1), np.concatenate([vectors(900, 96, 2), vectors(900, 96, 2)])
    groups = np.random.default_rng(3).integers(0, 40, 1860)
    qrels = Groups(groups[:60], groups[60:])

    def everything() -> list[bytes]:
        blocks = list(find_nearest(queries, pool, 7, qrels=qrels, block_bytes=200_000))
        return [
            np.concatenate([getattr(b, name) for b in blocks]).tobytes() for name in ("rows", "scores", "first_hit")
        ]

    expected = everything()
    mm = torch.mm

    def rounded_elsewhere(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        mm(left, right, out=out)
        return out.add_((torch.rand_like(out) - 0.5) * bound_float32_error(96))  # up to half of what is allowed for

    def another_order(
        search: selection.Selector, block: selection.Products, queries: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        products = search.items[rows].double() * block.queries[queries].double()
        return products.flip(1).cumsum(1)[:, -1] + (torch.rand(len(rows)) - 0.5) * block.error / 2

    monkeypatch.setattr(torch, "mm", rounded_elsewhere)
    monkeypatch.setattr(selection.Selector, "_sum_pairs", another_order)
    assert everything() == expected


def test_of_all_items_in_one_place_the_order_is_that_of_exact_scores_too() -> None:
    pool = unit(
        np.random.default_rng(1).standard_normal((1, 32)) + 1e-6 * np.random.default_rng(2).standard_normal((2000, 32))
    )
    rows, scores = found(pool[:40], pool, 10, block_bytes=4 * 2000 * 16)
    expected_rows, expected_scores = plain(pool[:40], pool, 10)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_the_memory_of_a_block_bounds_what_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    same = np.tile(vectors(1, 8, 0), (300, 1))
    monkeypatch.setitem(selection.CELLS, "cpu", 700)  # two queries' items
    seen: list[int] = []
    make_keys = selection.Selector.make_keys

    def counted(
        search: selection.Selector, block: selection.Products, queries: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        seen.append(len(rows))
        return make_keys(search, block, queries, rows)

    monkeypatch.setattr(selection.Selector, "make_keys", counted)
    rows, _ = found(same[:7], same, 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 7
    assert max(seen) <= 700
    assert sum(seen) == 7 * 300


@pytest.mark.parametrize("k", [1, 4])
def test_first_hits_beyond_the_list_stand_in_the_exact_order(k: int) -> None:
    pool = np.repeat(vectors(60, 16, 5), 20, axis=0)  # ties by the dozen
    groups = np.random.default_rng(6).integers(0, 300, 1200)
    own = np.arange(50)
    blocks = find_nearest(pool[:50], pool, k, own_rows=own, qrels=Groups(groups[:50], groups, own), block_bytes=80_000)
    ranks = np.concatenate([block.first_hit for block in blocks])  # type: ignore[arg-type]
    order, _ = plain(pool[:50], pool, 1199, own)
    relevant = groups[order] == groups[:50, None]
    np.testing.assert_array_equal(ranks, np.where(relevant.any(axis=1), relevant.argmax(axis=1) + 1, 0))


def test_vectors_may_lie_on_the_device_already() -> None:
    queries, pool = vectors(30, 16, 1), vectors(200, 16, 2)
    expected, _ = found(queries, pool, 5)
    rows, _ = found(torch.from_numpy(queries), torch.from_numpy(pool), 5)  # type: ignore[arg-type]
    np.testing.assert_array_equal(rows, expected)


def test_vectors_that_are_not_finite_are_refused() -> None:
    pool = vectors(9, 4, 0)
    pool[3, 1] = np.nan
    with pytest.raises(DataError, match="items hold NaN"):
        found(vectors(2, 4, 1), pool, 3)
    with pytest.raises(DataError, match="queries hold NaN"):
        found(pool, vectors(9, 4, 1), 3)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_products_are_made_in_full_float32_and_the_setting_is_left_as_it_was(device: str) -> None:
    backend = torch.backends.cuda.matmul if device == "cuda" else torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = backend.fp32_precision
    try:
        backend.fp32_precision = "tf32"
        with selection.full_float32():
            assert backend.fp32_precision == "ieee"
        assert backend.fp32_precision == "tf32"
    finally:
        backend.fp32_precision = before


def compare_blocks(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of whole blocks, as hybrids take them, on a device and by numpy."""
    monkeypatch.setattr(exact, "WIDE_ITEMS", 7)
    pool, queries = vectors(40, 24, 2), vectors(11, 24, 5)
    moved = OnDevice.of(queries, pool, device)
    assert len(moved) == 11
    found = moved.block(3, 9)
    assert found.dtype == np.float32
    wanted = compute_exact_scores(queries[3:9], pool, np.tile(np.arange(40), (6, 1)))
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(Dense(queries, pool).block(3, 9), wanted)


def test_blocks_of_scores_by_tiles_on_a_device_are_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    compare_blocks("cpu", monkeypatch)
    assert OnDevice.pays("cuda:0")
    assert not any(OnDevice.pays(device) for device in ("cpu", "mps"))


@pytest.mark.gpu
def test_blocks_of_scores_on_a_gpu_are_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    compare_blocks("cuda", monkeypatch)


@pytest.mark.gpu
def test_a_gpu_gives_the_bytes_of_a_cpu() -> None:
    pool = np.concatenate([vectors(3000, 96, 2), vectors(3000, 96, 2)])
    groups = np.random.default_rng(3).integers(0, 900, 6000)

    def everything(device: str) -> list[bytes]:
        qrels = Groups(groups[:500], groups, np.arange(500))
        options = {"own_rows": np.arange(500), "qrels": qrels, "device": device, "block_bytes": 2**21}
        blocks = list(find_nearest(pool[:500], pool, 7, **options))  # type: ignore[arg-type]
        return [
            np.concatenate([getattr(b, name) for b in blocks]).tobytes() for name in ("rows", "scores", "first_hit")
        ]

    assert everything("cuda") == everything("cpu") == everything("cuda")


def test_the_benchmark_of_a_device_runs_on_a_cpu_too() -> None:
    speed, same, _ = compare_nearest(choose_device("cpu"), 400, 60, 32, 1)
    assert "times it" in speed.ratio
    assert same.figure == "100.0%"
    assert "the same bytes" in same.against
