"""Exemplar SVMs, with or without a pull towards a text vector, all queries fitted as one problem.

The loss of a query, with balanced weights s_i and labels y_i of +1 and -1, is

    1/2 * sum_i s_i max(0, 1 - y_i (w x_i + b))^2  +  lambda_w / 2 * |w|^2  +  lambda_q * (1 - cos(text, w))

With `lambda_q` 0 and a regularised intercept, `lambda_w / 2 * b^2` more, it is scikit-learn's default
`LinearSVC(C, class_weight="balanced")` (Fan et al. 2008) for `lambda_w = 1 / (2 C)`; without an intercept it is
LinearSVC's `fit_intercept=False`. With `lambda_q` and a free intercept it is the combined loss of source 003
(orm011/playground, 2024).

**Intercept.** Added to all scores of a query alike it changes no ranking, but it does change which `w` is the
best. Vectors of a joint model share a direction. Without an intercept `w` has to point away from that
direction to bring a thousand negatives to -1; with one, `b` does that, and `w` is left to tell pictures apart.

**Method.** Newton's method on the primal (Keerthi & DeCoste 2005; Chapelle 2007), its systems solved by
conjugate gradients, all queries of a block in step: since the negatives are shared, every product
with a Hessian is two matrix products of the whole block. Those run in float32; gradients, losses
and weights are float64.

After every step `b` is set to its optimum for the `w` at hand, so the Newton system is that of `w` alone, its
margins centred by the examples that are violated (the Schur complement of `b`), and so is the gradient below.

**Tolerance.** A query is done when `|gradient| <= tolerance * lambda_w * |w|`. Without text the loss is
strongly convex with modulus `lambda_w`, so this bounds the error: `|w - optimum| <= tolerance * |w|`.
The cosine is not convex, and there can be two minima, one near the exemplars and one near the text: both
ends are started from (the ridge regression and the text), never at random, and the lower loss is kept.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from jaxtyping import Float

from twinlens.core.errors import DataError
from twinlens.retrieval.exemplar.closed_form import Intercept, scale_to_unit
from twinlens.retrieval.exemplar.examples import Examples
from twinlens.retrieval.exemplar.newton import Block, Fitted

CELLS = 2**19  # queries x negatives of a block: its arrays stay near the cache
NEWTON_STEPS = 100
SECOND_STEPS = 25  # of the start from the text: what creeps towards the pole for longer is given up for the first


def fit_svms(
    examples: Examples,
    negatives: Float[np.ndarray, "negatives dim"],
    *,
    lambda_w: float,
    intercept: Intercept = "none",
    texts: Float[np.ndarray, "queries dim"] | None = None,
    lambda_q: float = 0.0,
    tolerance: float = 1e-4,
    block: int | None = None,
    strict: bool = True,
) -> Fitted:
    """Fit every query.

    A text that contradicts its exemplars can pull so hard that the loss has no minimum: it falls for
    ever as `w` shrinks to 0 along the text, or until `w` is a small part of what the exemplars ask for
    and within 1e-3 of the text's direction. The text itself is then the query's weights, and
    `overruled` says so.

    Args:
        examples: own examples of the queries.
        negatives: shared by all queries; may be empty where every query has negatives of its own.
        lambda_w: weight of the ridge, above 0; `1 / (2 C)` of an SVM.
        intercept: whether a constant is fitted beside the weights, and whether it is regularised like them.
        texts: unit vectors, one a query; needed with `lambda_q`.
        lambda_q: weight of the pull towards the text, 0 or more.
        tolerance: relative, see above.
        block: queries fitted in step; by default what suits the cache. Changes speed, and weights
            within the tolerance.
        strict: refuse queries that do not reach the tolerance; else they keep where they came to, and
            `residuals` tells.

    Raises:
        DataError: a query has one class only, or its exemplars equal its negatives; widths differ; a
            value is not finite; a text is missing or points nowhere; `strict`, and a query does not
            reach the tolerance.
    """
    shared = np.asarray(negatives, dtype=np.float64)
    _check(examples, shared, texts, lambda_w, lambda_q)
    aims = scale_to_unit(texts) if texts is not None and lambda_q else None
    size = block or int(np.clip(CELLS // max(1, len(shared)), 16, 512))
    parts = []
    for start in range(0, len(examples), size):
        some = slice(start, start + size)
        problem = (
            examples[some],
            shared,
            lambda_w,
            None if aims is None else aims[some],
            lambda_q,
            tolerance,
            intercept,
        )
        of_ridge = Block(*problem, from_text=False)
        if aims is None and of_ridge.idle.any():
            raise DataError(
                f"query {start + int(np.argmax(of_ridge.idle))}: its exemplars are, on average, its negatives: "
                "nothing tells them apart"
            )
        found = of_ridge.solve(NEWTON_STEPS)
        parts.append(found if aims is None else _lower(found, Block(*problem, from_text=True).solve(SECOND_STEPS)))
    fitted = Fitted(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Fitted)))
    if strict and (late := np.flatnonzero(~(fitted.residuals <= tolerance))).size:
        raise DataError(
            f"{late.size} queries did not come within {tolerance:g} in {NEWTON_STEPS} Newton steps, the first is "
            f"query {late[0]}, at {fitted.residuals[late[0]]:.1e}: raise lambda_w, or the tolerance"
        )
    return fitted


def _lower(one: Fitted, other: Fitted) -> Fitted:
    """Select the fit with the lower loss for every query."""
    better = other.losses < one.losses

    def chosen(name: str) -> np.ndarray:
        left, right = getattr(one, name), getattr(other, name)
        return np.where(better[:, None] if left.ndim > 1 else better, right, left)

    return Fitted(*(chosen(field.name) for field in fields(Fitted)))


def _check(examples: Examples, shared: np.ndarray, texts: np.ndarray | None, lambda_w: float, lambda_q: float) -> None:
    count, _, dim = examples.rows.shape
    if not lambda_w > 0 or not lambda_q >= 0:
        raise DataError(f"lambda_w is {lambda_w:g} and lambda_q {lambda_q:g}: want above 0, and 0 or more")
    if shared.ndim != 2 or shared.shape[1] != dim or not np.isfinite(shared).all():
        raise DataError(f"negatives of shape {shared.shape}: want finite rows of the examples' {dim} dimensions")
    if lambda_q and texts is None:
        raise DataError(f"lambda_q is {lambda_q:g} but there are no text vectors: give one a query, or lambda_q 0")
    if texts is not None and (texts.shape != (count, dim) or not np.isfinite(texts).all()):
        raise DataError(f"texts of shape {texts.shape}: want finite rows, {count} queries x {dim} dimensions")
