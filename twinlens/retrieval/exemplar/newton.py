"""Newton's method on the exemplar SVMs of a block of queries, in step; `svm.py` has the loss and the references."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from twinlens.retrieval.exemplar.closed_form import Intercept, ridge
from twinlens.retrieval.exemplar.examples import Examples

PATIENCE = 15  # steps, of weights that are the text's direction but whose length will not settle
INNER_STEPS = 40  # of conjugate gradients, per Newton step
INNER_REDUCTION = 0.1  # of the residual: solving more exactly costs more than the Newton steps it saves
INTERCEPT_STEPS = 100  # of Newton and bisection in one dimension: a handful is the rule
SHORTEST = 0.25  # a step may not shrink a weight vector below this share: the cosine has a pole at 0
ARRAYS = (
    "own", "signs", "s_own", "s_shared", "w", "live", "start_length", "pull_at_0", "idle", "b", "m_shared", "m_own"
)  # fmt: skip
FOLLOWING, FOLLOWED = 0.14, 1e-3  # distance of directions at which a text is about to overrule, and has overruled

PerQuery = Float64[np.ndarray, " queries"]
Matrix = Float64[np.ndarray, "queries dim"]


@dataclass(frozen=True)
class Fitted:
    """Weights of every query, and how well they are known."""

    weights: Float64[np.ndarray, "queries dim"]
    residuals: Float64[np.ndarray, " queries"]  # |gradient| / (lambda_w * |w|), at most the tolerance; 0 if overruled
    overruled: Bool[np.ndarray, " queries"]  # the text won: the weights are the text (see `fit_svms`)
    losses: Float64[np.ndarray, " queries"]  # of an overruled query: the limit
    newton_steps: Int[np.ndarray, " queries"]
    intercepts: Float64[np.ndarray, " queries"]  # b; 0 of an overruled query, and without an intercept


class Block:
    """Some queries in step; those that are done leave the arrays."""

    def __init__(
        self,
        examples: Examples,
        shared: Matrix,
        lambda_w: float,
        texts: Matrix | None,
        lambda_q: float,
        tolerance: float,
        intercept: Intercept,
        from_text: bool,
    ) -> None:
        self.shared, self.shared32 = shared, shared.astype(np.float32)
        self.lambda_w, self.lambda_q, self.tolerance = lambda_w, lambda_q, tolerance
        self.lambda_b = {"none": None, "regularised": lambda_w, "free": 0.0}[intercept]
        self.own, self.signs, self.texts = examples.rows, examples.signs, texts
        self.s_own, self.s_shared = examples.weights(len(shared))
        self.w = ridge(examples, shared, lambda_w, intercept)
        self.b = np.zeros(len(examples))
        self.live = np.arange(len(examples))
        self.start_length = np.linalg.norm(self.w, axis=1)
        if from_text and texts is not None:
            self.w = self.start_length[:, None] * texts
        of_own = (self.s_own * self.signs)[:, None, :] @ self.own
        self.pull_at_0 = of_own[:, 0] - self.s_shared[:, None] * shared.sum(axis=0)
        size = np.einsum("qp,qp->q", self.s_own, np.linalg.norm(self.own, axis=2))
        self.idle = np.linalg.norm(self.pull_at_0, axis=1) <= 1e-9 * size  # 0 is the optimum, but for a text
        if texts is not None:
            self.w[self.idle] = texts[self.idle]

    def solve(self, steps: int) -> Fitted:
        """Newton steps until every query is done; the loss of one that is not is infinite."""
        count, dim = self.w.shape
        zeros = np.zeros(count)
        done = Fitted(np.empty((count, dim)), zeros, zeros.astype(bool), zeros.copy(), zeros.astype(int), zeros.copy())
        self._margins()
        for step in range(steps):
            gradient, length = self._gradient()
            residual = np.linalg.norm(gradient, axis=1) / (self.lambda_w * length)
            vanished = self._vanishing(length, step)
            finished = (residual <= self.tolerance) | vanished
            if finished.any():
                rows = self.live[finished]
                done.weights[rows], done.residuals[rows] = self.w[finished], residual[finished]
                done.newton_steps[rows], done.overruled[rows] = step, vanished[finished]
                done.losses[rows], done.intercepts[rows] = self._loss(length)[finished], self.b[finished]
                if self.texts is not None:
                    done.weights[self.live[vanished]] = self.texts[vanished]
                    done.residuals[self.live[vanished]] = done.intercepts[self.live[vanished]] = 0.0
                    done.losses[self.live[vanished]] = (
                        0.5 * (self.s_own.sum(1) + len(self.shared) * self.s_shared)[vanished]
                    )
                gradient, length, residual = gradient[~finished], length[~finished], residual[~finished]
                self._keep(~finished)
            if not len(self.live):
                return done
            self._advance(gradient, length)
        done.weights[self.live], done.residuals[self.live], done.losses[self.live] = self.w, residual, np.inf
        done.intercepts[self.live] = self.b
        return done

    def _vanishing(self, length: PerQuery, step: int) -> Bool[np.ndarray, " queries"]:
        """Whether a weight vector shrinks to nothing along its text.

        Where minus the gradient of the hinge at 0 points away from a direction, hinge and ridge, which
        are convex, rise along it from 0 on and the cosine stays: no point of that ray is a minimum.
        Where a minimum exists close to 0, its direction is the text's within FOLLOWED: the same answer.
        At `w` = 0 the best intercept is 0, as balanced classes weigh the same: the gradient there has no b in it.
        """
        if self.texts is None:
            return np.zeros(len(self.w), dtype=bool)
        text, w = (np.einsum("qd,qd->q", self.pull_at_0, rows) for rows in (self.texts, self.w))
        off = np.linalg.norm(self.w / length[:, None] - self.texts, axis=1)
        gone = (text <= 0) & (w <= 0) & (off < FOLLOWING)
        short = length < SHORTEST * self.start_length
        return self.idle | (gone & short) | ((off < FOLLOWED) & (short | (step >= PATIENCE)))

    def _keep(self, chosen: Bool[np.ndarray, " queries"]) -> None:
        for name in ARRAYS:
            setattr(self, name, getattr(self, name)[chosen])
        self.texts = None if self.texts is None else self.texts[chosen]

    def _margins(self) -> None:
        self.m_shared = self.w @ self.shared.T  # (queries, negatives)
        self.m_own = (self.own @ self.w[:, :, None])[:, :, 0]  # (queries, own)
        self._set_intercepts()

    def _set_intercepts(self) -> None:
        """Move every intercept to the minimum of the loss for its weights, and the margins with it.

        In `b` the loss is convex and piecewise quadratic: its slope rises, and has a root between the ends below.
        Newton's step is taken where it stays inside the bracket, else the bracket is halved.
        """
        if self.lambda_b is None:
            return
        good, bad = (np.where(self.signs == sign, self.m_own, np.nan) for sign in (1.0, -1.0))
        apart = np.hstack([self.m_shared, bad])
        at = self.b.copy()
        # shifts of b at which no negative, and at which no positive, is violated; and that which makes b zero
        ends = np.stack([-1.0 - np.nanmax(apart, axis=1), 1.0 - np.nanmin(good, axis=1), -at])
        low, high = ends.min(axis=0), ends.max(axis=0)
        shift = np.zeros(len(at))
        for _ in range(INTERCEPT_STEPS):
            pull = self.s_shared[:, None] * np.maximum(1.0 + self.m_shared + shift[:, None], 0.0)
            slack = np.maximum(1.0 - self.signs * (self.m_own + shift[:, None]), 0.0)
            slope = pull.sum(axis=1) - (self.s_own * self.signs * slack).sum(axis=1) + self.lambda_b * (at + shift)
            curvature = self.s_shared * (pull > 0).sum(axis=1) + (self.s_own * (slack > 0)).sum(axis=1) + self.lambda_b
            if (np.abs(slope) <= 1e-12 * self.s_own.sum(axis=1)).all():
                break
            low, high = np.where(slope < 0, shift, low), np.where(slope > 0, shift, high)
            newton = shift - slope / np.where(curvature > 0, curvature, 1.0)
            inside = (newton >= low) & (newton <= high)
            shift = np.where(slope == 0, shift, np.where(inside, newton, 0.5 * (low + high)))
        self.b = at + shift
        self.m_shared += shift[:, None]
        self.m_own += shift[:, None]

    def _loss(self, length: PerQuery) -> PerQuery:
        slack = np.maximum(1.0 - self.signs * self.m_own, 0.0)
        hinge = self.s_shared * (np.maximum(1.0 + self.m_shared, 0.0) ** 2).sum(axis=1)
        ridge_of_b = (self.lambda_b or 0.0) * self.b**2
        value = 0.5 * (hinge + (self.s_own * slack**2).sum(axis=1) + self.lambda_w * length**2 + ridge_of_b)
        if self.texts is not None:
            value += self.lambda_q * (1.0 - np.einsum("qd,qd->q", self.texts, self.w) / length)
        return np.asarray(value)

    def _gradient(self) -> tuple[Matrix, PerQuery]:
        length = np.linalg.norm(self.w, axis=1)
        of_shared = self.s_shared[:, None] * np.maximum(1.0 + self.m_shared, 0.0)
        of_own = self.s_own * self.signs * np.maximum(1.0 - self.signs * self.m_own, 0.0)
        gradient = of_shared @ self.shared - (of_own[:, None, :] @ self.own)[:, 0] + self.lambda_w * self.w
        if self.texts is not None:
            along = self.w / length[:, None]
            cosine = np.einsum("qd,qd->q", self.texts, along)[:, None]
            gradient -= self.lambda_q / length[:, None] * (self.texts - cosine * along)
        return gradient, length

    def _advance(self, gradient: Matrix, length: PerQuery) -> None:
        """One Newton step, as long as the loss falls by it."""
        step = self._newton_direction(gradient, length).astype(np.float64)
        d_shared, d_own = step @ self.shared.T, (self.own @ step[:, :, None])[:, :, 0]
        violated = self.s_shared[:, None] * (self.m_shared > -1.0), self.s_own * (self.signs * self.m_own < 1.0)
        d_b = -self._centring(*violated)(d_shared, d_own)
        d_shared, d_own, d_b = d_shared + d_b, d_own + d_b, d_b[:, 0]
        slope = np.einsum("qd,qd->q", gradient, step)
        along, square = np.einsum("qd,qd->q", self.w, step), np.einsum("qd,qd->q", step, step)
        text_w = text_step = np.zeros(len(step))
        if self.texts is not None:
            text_w, text_step = (np.einsum("qd,qd->q", self.texts, rows) for rows in (self.w, step))

        def loss(t: PerQuery) -> tuple[PerQuery, PerQuery]:
            """At `w + t * step`: the loss, and the squared length."""
            far = t[:, None]
            hinge = self.s_shared * (np.maximum(1.0 + self.m_shared + far * d_shared, 0.0) ** 2).sum(axis=1)
            slack = np.maximum(1.0 - self.signs * (self.m_own + far * d_own), 0.0)
            squared = length**2 + 2.0 * t * along + t**2 * square
            value = 0.5 * (hinge + (self.s_own * slack**2).sum(axis=1) + self.lambda_w * squared)
            value += 0.5 * (self.lambda_b or 0.0) * (self.b + t * d_b) ** 2
            if self.texts is not None:
                value -= self.lambda_q * (text_w + t * text_step) / np.sqrt(np.maximum(squared, 1e-300))
            return value, squared

        before, _ = loss(np.zeros(len(step)))
        t = np.ones(len(step))
        for _ in range(50):  # halvings; 1e-4 is Armijo's usual share, 1e-12 allows for rounding near the optimum
            value, squared = loss(t)
            far = value > before + 1e-4 * t * slope + 1e-12 * np.abs(before)
            if self.texts is not None:
                far |= squared < (SHORTEST * length) ** 2
            if not far.any():
                break
            t = np.where(far, 0.5 * t, t)
        self.w = self.w + t[:, None] * step
        self.m_shared += t[:, None] * d_shared
        self.m_own += t[:, None] * d_own
        self.b = self.b + t * d_b
        self._set_intercepts()

    def _centring(self, shared: np.ndarray, own: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """The mean over the violated examples, which an intercept takes off what a step does to their margins.

        Args:
            shared: their weights, (queries, negatives), 0 where the margin is kept.
            own: the same of the own examples.

        Returns:
            A function of margins of both, to (queries, 1).
        """
        if self.lambda_b is None:
            return lambda of_shared, of_own: np.zeros((len(of_own), 1), dtype=of_own.dtype)
        total = shared.sum(axis=1) + own.sum(axis=1) + self.lambda_b
        share = (1.0 / np.where(total > 0, total, 1.0)).astype(shared.dtype)[:, None]

        def mean(of_shared: np.ndarray, of_own: np.ndarray) -> np.ndarray:
            whole = np.einsum("qn,qn->q", shared, of_shared) + np.einsum("qp,qp->q", own, of_own)
            return np.asarray(share * whole[:, None])

        return mean

    def _newton_direction(self, gradient: Matrix, length: PerQuery) -> Float32[np.ndarray, "queries dim"]:
        """Conjugate gradients on the Newton system; a query stops at negative curvature (Steihaug 1983)."""
        active = (self.m_shared > -1.0) * self.s_shared[:, None].astype(np.float32)
        low, factors, diagonal = self._low_rank(length)
        own = self.own.shape[1]
        centre = self._centring(active, factors[:, :own])

        def hessian(rows: np.ndarray) -> np.ndarray:
            of_shared, of_low = rows @ self.shared32.T, (low @ rows[:, :, None])[:, :, 0]
            shift = centre(of_shared, of_low[:, :own])
            product = ((of_shared - shift) * active) @ self.shared32 + diagonal[:, None] * rows
            of_low[:, :own] -= shift
            return product + ((factors * of_low)[:, None, :] @ low)[:, 0]

        residual = -gradient.astype(np.float32)
        direction, found = residual.copy(), np.zeros_like(residual)
        energy = np.einsum("qd,qd->q", residual, residual)
        wanted, running = INNER_REDUCTION**2 * energy, np.ones(len(residual), dtype=bool)
        for inner_step in range(INNER_STEPS):
            product = hessian(direction)
            curvature = np.einsum("qd,qd->q", direction, product)
            if inner_step == 0:
                found[curvature <= 0] = direction[curvature <= 0]  # downhill, at least
            running &= curvature > 0
            ahead = np.where(running, energy / np.where(running, curvature, 1.0), 0.0).astype(np.float32)[:, None]
            found += ahead * direction
            residual -= ahead * product
            left = np.einsum("qd,qd->q", residual, residual)
            running &= left > wanted
            if not running.any():
                break
            turn = np.where(running, left / np.maximum(energy, 1e-38), 0.0).astype(np.float32)
            direction, energy = residual + turn[:, None] * direction, left
        return found

    def _low_rank(self, length: PerQuery) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The Hessian but for the shared negatives: rows, their factors, and a multiple of the identity.

        The cosine's part is `lambda_q / |w|^2 * (t u' + u t' + c I - 3 c u u')`, for the unit text t,
        u = w / |w| and c = t u; with a = t + u and b = t - u, `t u' + u t' = (a a' - b b') / 2`.
        """
        violated = self.s_own * (1.0 - self.signs * self.m_own > 0.0)
        if self.texts is None:
            return (
                self.own.astype(np.float32),
                violated.astype(np.float32),
                np.full(len(self.w), self.lambda_w, dtype=np.float32),
            )
        pull = self.lambda_q / length**2
        along = self.w / length[:, None]
        cosine = np.einsum("qd,qd->q", self.texts, along)
        rows = np.stack([self.texts + along, self.texts - along, along], axis=1)
        factors = pull[:, None] * np.stack([np.full_like(cosine, 0.5), np.full_like(cosine, -0.5), -3.0 * cosine], 1)
        return (
            np.concatenate([self.own, rows], axis=1).astype(np.float32),
            np.hstack([violated, factors]).astype(np.float32),
            (self.lambda_w + pull * cosine).astype(np.float32),
        )
