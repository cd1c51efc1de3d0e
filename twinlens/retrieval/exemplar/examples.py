"""Examples of each query: its own, beside the negatives that all queries share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from twinlens.core.errors import DataError

Rows = Float[np.ndarray, "rows dim"]


@dataclass(frozen=True)
class Examples:
    """The own examples of every query, padded to the same number.

    Positive feedback is one more positive row, negative feedback one more negative row of that
    query; the shared negatives are no part of this.
    """

    rows: Float64[np.ndarray, "queries own dim"]  # zeros where a query has fewer than others
    signs: Float64[np.ndarray, "queries own"]  # 1 positive, -1 negative, 0 padding

    @classmethod
    def of(cls, positives: Sequence[Rows], negatives: Sequence[Rows] | None = None) -> Examples:
        """Gather each query's own rows.

        Args:
            positives: of each query, (exemplars, dim), at least one row each.
            negatives: of each query, pictures judged wrong (negative feedback), (rows, dim), may be empty.

        Raises:
            DataError: no query; a query without a positive; rows that differ in width or are not finite.
        """
        judged = [np.empty((0, rows.shape[1])) for rows in positives] if negatives is None else list(negatives)
        if not positives or len(judged) != len(positives):
            raise DataError(f"{len(positives)} queries with positives, {len(judged)} with negatives: want one of each")
        dim = positives[0].shape[1]
        most = max(len(p) + len(n) for p, n in zip(positives, judged, strict=True))
        rows, signs = np.zeros((len(positives), most, dim)), np.zeros((len(positives), most))
        for query, (good, bad) in enumerate(zip(positives, judged, strict=True)):
            if not len(good):
                raise DataError(f"query {query} has no positive example: a query by pictures needs at least one")
            own = np.vstack([good, bad]) if good.shape[1] == bad.shape[1] == dim else None
            if own is None or not np.isfinite(own).all():
                raise DataError(f"query {query}: its examples are not finite rows of {dim} dimensions")
            rows[query, : len(own)] = own
            signs[query, : len(good)], signs[query, len(good) : len(own)] = 1.0, -1.0
        return cls(rows, signs)

    def __len__(self) -> int:
        return len(self.signs)

    def __getitem__(self, part: slice) -> Examples:
        return Examples(self.rows[part], self.signs[part])

    def centres(self) -> tuple[Float64[np.ndarray, "queries dim"], Float64[np.ndarray, "queries dim"]]:
        """The mean positive and the mean own negative of each query; zeros where there is no own negative."""
        means = []
        for sign in (1.0, -1.0):
            chosen = (self.signs == sign).astype(np.float64)
            count = np.maximum(chosen.sum(axis=1), 1.0)
            means.append(np.einsum("qp,qpd->qd", chosen, self.rows) / count[:, None])
        return means[0], means[1]

    def weights(self, shared: int) -> tuple[Float64[np.ndarray, "queries own"], Float64[np.ndarray, " queries"]]:
        """Balanced weights, as scikit-learn's `class_weight="balanced"`: rows / (2 * rows of the class).

        Args:
            shared: number of shared negatives.

        Returns:
            The weight of each own example (0 for padding) and that of each shared negative, by query.

        Raises:
            DataError: a query has no negative at all: one class cannot be told from nothing.
        """
        good, bad = (self.signs > 0).sum(axis=1), (self.signs < 0).sum(axis=1)
        if (lonely := np.flatnonzero(bad + shared == 0)).size:
            raise DataError(f"query {lonely[0]} has one class only: give shared negatives, or negatives of its own")
        total = good + bad + shared
        of_positives, of_negatives = total / (2.0 * good), total / (2.0 * (bad + shared))
        own = np.where(self.signs > 0, of_positives[:, None], of_negatives[:, None])
        return np.where(self.signs == 0, 0.0, own), of_negatives
