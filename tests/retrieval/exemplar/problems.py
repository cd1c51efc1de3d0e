"""Small exemplar problems, and their loss written out as a plain loop."""

from __future__ import annotations

import numpy as np

from twinlens.retrieval.exemplar import Examples


def unit_rows(count: int, dim: int, seed: int) -> np.ndarray:
    """Rows that, like a model's vectors, share a direction."""
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    rows[:, 0] += np.sqrt(dim)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def plain_loss(
    w: np.ndarray,
    positives: np.ndarray,
    negatives: np.ndarray,
    lambda_w: float,
    text: np.ndarray | None = None,
    lambda_q: float = 0.0,
    b: float = 0.0,
    lambda_b: float = 0.0,
) -> float:
    """Example by example, as source 003 writes it; its bias `b` is free."""
    total = len(positives) + len(negatives)
    value = 0.5 * lambda_w * float(w @ w) + 0.5 * lambda_b * b**2
    for label, rows in ((1.0, positives), (-1.0, negatives)):
        for row in rows:
            value += total / (2 * len(rows)) * 0.5 * max(0.0, 1.0 - label * (float(w @ row) + b)) ** 2
    if text is not None:
        value += lambda_q * (1.0 - float(text @ w) / float(np.linalg.norm(text) * np.linalg.norm(w)))
    return value


def one_each(positives: np.ndarray) -> Examples:
    """A query an exemplar."""
    return Examples.of(list(positives[:, None]))


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """How far the directions of rows are from each other, at most."""
    sides = [rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in (found, wanted)]
    return float(np.linalg.norm(sides[0] - sides[1], axis=-1).max())
