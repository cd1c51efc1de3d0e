"""Euclidean nearest neighbours as a search for the largest inner product."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

Rows = Float[np.ndarray, "rows dim"]


def convert_to_inner_products(
    queries: Rows, items: Rows
) -> tuple[Float32[np.ndarray, "rows wider"], Float32[np.ndarray, "rows wider"]]:
    """Add one dimension to vectors so that inner products order items as their distances to each query do.

    |x - y|^2 = |x|^2 - 2 (x.y - |y|^2 / 2), so the nearest y has the largest inner product of (x, 1)
    with (y, -|y|^2 / 2). Queries come to unit length and items to at most that, which changes no order
    and keeps scores as exact as cosines are.
    """
    x, y = queries.astype(np.float64), items.astype(np.float64)
    wide_x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    wide_y = np.concatenate([y, -0.5 * (y**2).sum(axis=1, keepdims=True)], axis=1)
    wide_x /= np.linalg.norm(wide_x, axis=1, keepdims=True)
    wide_y /= max(float(np.linalg.norm(wide_y, axis=1).max()), 1e-300)
    return wide_x.astype(np.float32), wide_y.astype(np.float32)
