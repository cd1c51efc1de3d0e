"""Vectors in fewer bytes: what a search multiplies is what is written out, and what each form may lose."""

from __future__ import annotations

import numpy as np
import pytest

from twinlens.config.vector_forms import Precision
from twinlens.retrieval.axes import Axes, fit_principal
from twinlens.retrieval.codes import Int8Steps
from twinlens.retrieval.compression import CODES, encode
from twinlens.retrieval.rotated_bits import RotatedBits, draw_rotation


def unit(count: int, dim: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("dim", [5, 64, 70, 200])
@pytest.mark.parametrize("precision", CODES)
def test_a_search_of_one_query_scores_as_the_written_out_vectors_do(precision: Precision, dim: int) -> None:
    items, queries = unit(300, dim, 0), unit(7, dim, 1)
    codes = encode(items, precision, queries.mean(axis=0))
    written = codes.prepare(queries) @ codes.decode().T
    for query, scores in zip(queries, written, strict=True):
        found = codes.products(query)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, scores, atol=2e-6)


@pytest.mark.parametrize(
    ("precision", "item_bytes"),
    [("float32", 512), ("float16", 256), ("int8", 128), ("binary", 16), ("rotated_bits", 24)],
)
def test_bytes_of_a_vector_of_128_numbers(precision: Precision, item_bytes: float) -> None:
    assert encode(unit(10, 128, 0), precision).item_bytes == item_bytes


def test_float32_changes_nothing_and_float16_the_last_digits() -> None:
    items = unit(50, 40, 0)
    assert (encode(items, "float32").decode() == items).all()
    assert 0 < np.abs(encode(items, "float16").decode() - items).max() < 2**-11


def test_int8_is_off_by_half_a_step_of_each_dimension_at_most() -> None:
    items = unit(500, 12, 0) * np.array([1, 0, 3, *[1] * 9], dtype=np.float32)  # one dimension is empty
    codes = encode(items, "int8")
    assert isinstance(codes, Int8Steps)
    off = np.abs(codes.decode() - items)
    assert (off <= codes.steps / 2 + 1e-7).all()
    assert codes.steps[2] == pytest.approx(np.abs(items[:, 2]).max() / 127)
    assert (codes.decode()[:, 1] == 0).all()
    assert np.abs(codes.numbers).max() == 127  # nothing is cut off, no step is left unused


def test_binary_is_the_share_of_signs_that_agree() -> None:
    codes = encode(np.array([[0.1, -0.2, 0.3, 0.4], [-0.1, 0.2, -0.3, 0.4]], dtype=np.float32), "binary")
    assert codes.products(np.array([5, -5, 5, 5], dtype=np.float32)).tolist() == [1.0, -0.5]


def test_a_rotation_keeps_lengths_and_is_the_same_each_time() -> None:
    rotation = draw_rotation(33)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(33), atol=1e-6)
    assert (rotation == draw_rotation(33)).all()


def test_rotated_bits_are_right_along_the_vector_itself_and_along_the_mean_query() -> None:
    """f is chosen so that x' has the right product with x - c; the offsets make that with the mean query exact."""
    items, mean = unit(200, 96, 0), unit(1, 96, 5)[0] * 0.7
    codes = encode(items, "rotated_bits")
    assert isinstance(codes, RotatedBits)
    written = codes.decode()[:, :-2] @ codes.rotation  # the last two are the offset and the product with the centre
    away = items - codes.centre
    np.testing.assert_allclose((written * away).sum(axis=1), (away**2).sum(axis=1), atol=1e-5)
    np.testing.assert_allclose(encode(items, "rotated_bits", mean).products(mean), items @ mean, atol=1e-5)
    assert np.abs(codes.products(mean) - items @ mean).max() > 0.05


def test_the_mean_query_takes_out_an_error_that_queries_share() -> None:
    items = unit(400, 128, 0)
    shared = unit(1, 128, 3)[0]
    queries = shared + 0.3 * unit(50, 128, 4)
    off = [
        np.abs(
            np.stack([encode(items, "rotated_bits", mean).products(query) for query in queries]) - queries @ items.T
        ).mean()
        for mean in (None, shared)
    ]
    assert off[1] < 0.4 * off[0]


def test_principal_axes_hold_what_lies_in_a_plane_and_first_dimensions_what_stands_there() -> None:
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.standard_normal((20, 3)))[0]
    rows = (rng.standard_normal((100, 3)) @ plane.T).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    kept = Axes.principal(fit_principal(rows), 3).keep(rows)
    np.testing.assert_allclose(kept @ kept.T, rows @ rows.T, atol=1e-5)
    assert Axes.first(2).keep(np.array([[3.0, 4.0, 9.0], [0.0, 0.0, 1.0]], dtype=np.float32)).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)],
        [0.0, 0.0],  # nothing is left of it: no direction
    ]
