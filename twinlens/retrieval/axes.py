"""Fewer dimensions of vectors: the first ones, or principal axes; what is left is brought to unit length again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float32, Float64

from twinlens.core.row_sources import RowBlocks, iter_blocks
from twinlens.retrieval.scores import multiply_exactly

Rows = Float32[np.ndarray, "rows dim"]


@dataclass(frozen=True)
class Axes:
    """The dimensions that are kept, as orthonormal axes; what is left of a vector is brought to unit length again.

    What a vector comes to does not depend on which others are brought there with it.
    """

    axes: Float32[np.ndarray, "kept dim"] | None  # None: the first ones
    kept: int

    @classmethod
    def first(cls, kept: int) -> Self:
        """Keep the first dimensions, for models that were trained so (Kusupati and others 2022, matryoshka)."""
        return cls(None, kept)

    @classmethod
    def principal(cls, ordered: Float64[np.ndarray, "dim dim"], kept: int) -> Self:
        """Keep principal axes.

        Args:
            ordered: of `fit_principal`.
            kept: as many axes, at most as many as dimensions.
        """
        return cls(np.ascontiguousarray(ordered[:kept], dtype=np.float32), kept)

    def keep(self, rows: Rows) -> Rows:
        """Keep these axes of vectors. A vector that has nothing along them stays zero."""
        part = rows[:, : self.kept] if self.axes is None else multiply_exactly(rows, self.axes)
        lengths = np.sqrt((part.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
        return np.asarray(part / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)

    def restore(self, rows: Float32[np.ndarray, "rows kept"], dim: int) -> Rows:
        """Bring vectors back among all `dim` dimensions: those that were left out are zero."""
        return np.pad(rows, ((0, 0), (0, dim - self.kept))) if self.axes is None else np.asarray(rows @ self.axes)


def fit_principal(items: RowBlocks) -> Float64[np.ndarray, "dim dim"]:
    """Fit the axes along which the squares of vectors are largest, the largest first, about zero as cosines are taken.

    Args:
        items: vectors of pictures, best of others than those that are searched; a block is looked at at a time.
    """
    total = np.zeros((items.shape[1], items.shape[1]))
    for rows in iter_blocks(items):
        wide = np.asarray(rows, dtype=np.float64)
        total += wide.T @ wide
    return np.linalg.eigh(total)[1].T[::-1]  # eigenvalues rise
