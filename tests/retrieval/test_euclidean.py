"""Nearest by distance, as the largest inner product: the same order, also in float32."""

from __future__ import annotations

import numpy as np
import pytest

from twinlens.retrieval.euclidean import convert_to_inner_products
from twinlens.retrieval.exact import find_nearest


def rows(count: int, dim: int, seed: int, shortest: float, longest: float) -> np.ndarray:
    """Random directions, lengths spread evenly over their logarithms."""
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((count, dim))
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return (made * np.exp(rng.uniform(np.log(shortest), np.log(longest), (count, 1)))).astype(np.float32)


@pytest.mark.parametrize("shortest", [1e-3, 0.5, 10.0])
@pytest.mark.parametrize("longest", [1.0, 30.0, 1000.0])
def test_the_order_is_that_of_euclidean_distances(shortest: float, longest: float) -> None:
    if shortest > longest:
        shortest, longest = longest, shortest
    queries, items = rows(40, 8, 0, shortest, longest), rows(300, 8, 1, shortest, longest)
    wide_queries, wide_items = convert_to_inner_products(queries, items)
    assert wide_queries.dtype == wide_items.dtype == np.float32
    (found,) = find_nearest(wide_queries, wide_items, 300)
    apart = np.linalg.norm(queries.astype(float)[:, None] - items.astype(float)[None], axis=2)
    in_order = np.take_along_axis(apart, found.rows, axis=1)
    scale = (np.linalg.norm(queries, axis=1)[:, None] + np.linalg.norm(items, axis=1).max()) ** 2
    # squared distances may be out of order by what float32 rounds off them
    assert (np.diff(in_order**2, axis=1) > -2e-6 * scale).all()
    assert (found.rows[:, 0] == apart.argmin(axis=1)).mean() > 0.95


def test_lengths_matter_where_cosines_would_not_see_them() -> None:
    queries = np.array([[1.0, 0.0], [100.0, 0.0]], np.float32)
    items = np.array([[90.0, 10.0], [1.0, 0.5], [-1.0, 0.0]], np.float32)
    wide_queries, wide_items = convert_to_inner_products(queries, items)
    (found,) = find_nearest(wide_queries, wide_items, 3)
    assert found.rows.tolist() == [[1, 2, 0], [0, 1, 2]]


def test_no_vector_is_longer_than_one_so_that_scores_are_as_exact_as_cosines() -> None:
    wide_queries, wide_items = convert_to_inner_products(rows(20, 5, 0, 1e-3, 1e3), rows(50, 5, 1, 1e-3, 1e3))
    assert np.abs(np.linalg.norm(wide_queries, axis=1) - 1).max() < 1e-6
    assert np.linalg.norm(wide_items, axis=1).max() == pytest.approx(1, abs=1e-6)


def test_vectors_of_no_length_have_an_order_too() -> None:
    queries, items = np.zeros((1, 3), np.float32), np.zeros((2, 3), np.float32)
    assert np.isfinite(convert_to_inner_products(queries, items)[1]).all()
    assert convert_to_inner_products(queries, np.eye(3, dtype=np.float32) * [[2], [1], [3]])[0].tolist() == [
        [0, 0, 0, 1]
    ]
