"""Closed-form queries from exemplars: sums, Rocchio, ridge regression and whitened exemplars."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Float64

from twinlens.core.errors import DataError
from twinlens.retrieval.exemplar.examples import Examples

Intercept = Literal["none", "regularised", "free"]  # no b; one that costs `lambda_w / 2 * b^2`; one that costs nothing
Weights = Float64[np.ndarray, "queries dim"]


def combine_unit_vectors(
    pictures: Float[np.ndarray, "queries dim"], texts: Float[np.ndarray, "queries dim"], image_weight: float
) -> Weights:
    """The normalised sum of a picture's and a text's unit vector: `image_weight * picture + (1 - image_weight) * text`.

    Raises:
        DataError: picture and text cancel, so that no direction is left.
    """
    return scale_to_unit(image_weight * scale_to_unit(pictures) + (1.0 - image_weight) * scale_to_unit(texts))


def rocchio(
    examples: Examples,
    negatives: Float[np.ndarray, "negatives dim"],
    start: Float[np.ndarray, "queries dim"],
    alpha: float,
    beta: float,
    gamma: float,
) -> Weights:
    """`alpha * start + beta * mean positive - gamma * mean negative` (Rocchio 1971), of unit length.

    A query's negatives are the shared ones and its own, each row counting the same.

    Args:
        examples: own examples of the queries.
        negatives: shared by all queries; may be empty where every query has its own.
        start: the query before feedback: its text, or its exemplar.
        alpha: weight of the start.
        beta: weight of the positives.
        gamma: weight of the negatives.

    Raises:
        DataError: the parts cancel.
    """
    good, bad = examples.centres()
    own = (examples.signs < 0).sum(axis=1)[:, None]
    count = np.maximum(len(negatives) + own, 1)
    mean = (np.asarray(negatives, dtype=np.float64).sum(axis=0) + own * bad) / count
    return scale_to_unit(alpha * np.asarray(start, dtype=np.float64) + beta * good - gamma * mean)


def ridge(
    examples: Examples,
    negatives: Float[np.ndarray, "negatives dim"],
    lambda_w: float,
    intercept: Intercept = "none",
) -> Weights:
    """Least squares to +1 and -1 on balanced weights with a ridge, all queries from one decomposition.

    Minimises `1/2 * sum s_i (y_i - w x_i - b)^2 + lambda_w / 2 * |w|^2`. The eigenvectors of the shared
    negatives' second moments diagonalise what the queries have in common; the own examples of a query
    are a correction of low rank (Woodbury's identity), and so is the intercept b, which takes the mean
    off: balanced classes have labels of mean 0, so nothing else of it is left.

    Args:
        examples: own examples of the queries.
        negatives: shared by all queries.
        lambda_w: weight of the ridge, above 0.
        intercept: whether b is fitted, and whether it is regularised like the weights.

    Raises:
        DataError: a query has no negative at all.
    """
    shared = np.asarray(negatives, dtype=np.float64)
    own, of_shared = examples.weights(len(shared))
    moments, axes = np.linalg.eigh(shared.T @ shared)
    rows = examples.rows @ axes  # (queries, own, dim), in the eigenbasis
    diagonal = lambda_w + of_shared[:, None] * np.maximum(moments, 0.0)
    aim = np.einsum("qp,qpd->qd", own * examples.signs, rows) - of_shared[:, None] * (shared.sum(axis=0) @ axes)
    if intercept != "none":
        total = own.sum(axis=1) + of_shared * len(shared)
        whole = np.einsum("qp,qpd->qd", own, rows) + of_shared[:, None] * (shared.sum(axis=0) @ axes)
        rows = np.concatenate([rows, whole[:, None]], axis=1)
        own = np.hstack([own, -1.0 / (total + (lambda_w if intercept == "regularised" else 0.0))[:, None]])
    scaled = rows / diagonal[:, None, :]
    inner = np.eye(rows.shape[1]) + own[:, :, None] * (rows @ scaled.transpose(0, 2, 1))  # (queries, own, own)
    plain = aim / diagonal
    shift = np.linalg.solve(inner, own[:, :, None] * (rows @ plain[:, :, None]))  # (queries, own, 1)
    return np.asarray((plain - (shift.transpose(0, 2, 1) @ scaled)[:, 0]) @ axes.T)


def lda_whitened(examples: Examples, negatives: Float[np.ndarray, "negatives dim"], shrinkage: float) -> Weights:
    """The whitened exemplar `inverse covariance * (mean positive - mean negative)` (Hariharan et al., ECCV 2012).

    Mean and covariance are of the shared negatives, as the article's are of the world at large: own
    negatives are too few to move them. The covariance is shrunk towards its mean variance.

    Args:
        examples: own examples of the queries; only the positives are used.
        negatives: shared by all queries, at least two.
        shrinkage: share of the mean variance in the covariance, above 0 and at most 1.

    Raises:
        DataError: fewer than two negatives, or all of them equal.
    """
    if len(negatives) < 2:
        raise DataError(f"a covariance needs at least 2 negatives, found {len(negatives)}")
    shared = np.asarray(negatives, dtype=np.float64)
    covariance = np.cov(shared, rowvar=False, bias=True).reshape(shared.shape[1], shared.shape[1])
    variance = float(np.trace(covariance)) / len(covariance)
    if not variance > 0:
        raise DataError(f"all {len(shared)} negatives are the same: their covariance says nothing")
    shrunk = (1.0 - shrinkage) * covariance + shrinkage * variance * np.eye(len(covariance))
    return scale_to_unit(np.linalg.solve(shrunk, (examples.centres()[0] - shared.mean(axis=0)).T).T)


def scale_to_unit(rows: Float[np.ndarray, "rows dim"]) -> Float64[np.ndarray, "rows dim"]:
    """Scale the rows to length 1.

    Raises:
        DataError: a row has no direction.
    """
    length = np.linalg.norm(np.asarray(rows, dtype=np.float64), axis=1, keepdims=True)
    if (bad := np.flatnonzero(~(length[:, 0] > 1e-9))).size:
        raise DataError(f"the vector of query {bad[0]} has length {length[bad[0], 0]:.2g}: it points nowhere")
    return np.asarray(rows, dtype=np.float64) / length
