"""The batched solver against scikit-learn, scipy and a plain loop, and in awkward ground."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad, minimize
from sklearn.svm import LinearSVC

from tests.retrieval.exemplar.problems import apart, one_each, plain_loss, unit_rows
from twinlens.core.errors import DataError
from twinlens.retrieval.exemplar import Examples, fit_svms

NEGATIVES = unit_rows(150, 24, 1)
POSITIVES = unit_rows(30, 24, 2)
TEXTS = unit_rows(30, 24, 3) + 0.5 * POSITIVES
TEXTS = TEXTS / np.linalg.norm(TEXTS, axis=1, keepdims=True)


def by_sklearn(positives: np.ndarray, negatives: np.ndarray, c: float, intercept: bool = False) -> np.ndarray:
    model = LinearSVC(C=c, class_weight="balanced", fit_intercept=intercept, max_iter=100_000, tol=1e-9)
    model.fit(np.vstack([positives, negatives]), [1] * len(positives) + [-1] * len(negatives))
    return np.asarray(np.append(model.coef_[0], model.intercept_) if intercept else model.coef_[0])


@pytest.mark.parametrize("c", [0.01, 0.5, 1.0, 20.0])
def test_an_exemplar_svm_is_that_of_scikit_learn(c: float) -> None:
    fitted = fit_svms(one_each(POSITIVES), NEGATIVES, lambda_w=1 / (2 * c), tolerance=1e-6)
    expected = np.stack([by_sklearn(row[None], NEGATIVES, c) for row in POSITIVES])
    assert apart(fitted.weights, expected) < 1e-4
    np.testing.assert_allclose(np.linalg.norm(fitted.weights, axis=1), np.linalg.norm(expected, axis=1), rtol=1e-3)


@pytest.mark.parametrize("c", [0.01, 0.5, 1.0, 20.0])
def test_with_a_regularised_intercept_it_is_scikit_learns_default(c: float) -> None:
    fitted = fit_svms(one_each(POSITIVES), NEGATIVES, lambda_w=1 / (2 * c), intercept="regularised", tolerance=1e-6)
    expected = np.stack([by_sklearn(row[None], NEGATIVES, c, intercept=True) for row in POSITIVES])
    found = np.hstack([fitted.weights, fitted.intercepts[:, None]])
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    ones = np.ones((150, 1))  # which is a column of ones
    widened = fit_svms(
        one_each(np.hstack([POSITIVES, ones[:30]])), np.hstack([NEGATIVES, ones]), lambda_w=1 / (2 * c), tolerance=1e-6
    )
    np.testing.assert_allclose(widened.weights, found, atol=1e-5 * np.abs(expected).max())


def test_an_intercept_is_fitted_with_feedback_and_with_uneven_examples() -> None:
    positives, wrong = [POSITIVES[:1], POSITIVES[:4]], [unit_rows(3, 24, 5), unit_rows(0, 24, 5)]
    fitted = fit_svms(Examples.of(positives, wrong), NEGATIVES, lambda_w=0.5, intercept="regularised", tolerance=1e-6)
    for query in range(2):
        expected = by_sklearn(positives[query], np.vstack([NEGATIVES, wrong[query]]), 1.0, intercept=True)
        np.testing.assert_allclose(np.append(fitted.weights[query], fitted.intercepts[query]), expected, atol=1e-4)


@pytest.mark.parametrize("intercept", ["regularised", "free"])
@pytest.mark.parametrize(("lambda_w", "lambda_q"), [(1.0, 0.0), (1.0, 10.0), (1.0, 1000.0), (0.1, 100.0)])
def test_with_an_intercept_no_generic_optimiser_finds_less(
    lambda_w: float, lambda_q: float, intercept: Literal["regularised", "free"]
) -> None:
    fitted = fit_svms(
        one_each(POSITIVES), NEGATIVES[:30], lambda_w=lambda_w, texts=TEXTS, lambda_q=lambda_q, intercept=intercept,
        tolerance=1e-7,
    )  # fmt: skip

    def loss(z: np.ndarray) -> float:
        problem = (POSITIVES[:1], NEGATIVES[:30], lambda_w, TEXTS[0], lambda_q)
        return plain_loss(z[:-1], *problem, b=float(z[-1]), lambda_b=lambda_w if intercept == "regularised" else 0)

    at = np.append(fitted.weights[0], fitted.intercepts[0])
    assert loss(at) == pytest.approx(fitted.losses[0], rel=1e-9)
    starts = at + 0.1, np.append(TEXTS[0], 0.0)
    best = min((minimize(loss, start, method="BFGS") for start in starts), key=lambda one: float(one.fun))
    assert loss(at) <= best.fun * (1 + 1e-7) + 1e-7
    np.testing.assert_allclose(at, best.x, atol=2e-3 * np.abs(at).max())


def test_an_intercept_moves_no_score_against_another_but_it_does_move_the_weights() -> None:
    without, with_one = (
        fit_svms(one_each(POSITIVES), NEGATIVES, lambda_w=0.5, intercept=intercept).weights
        for intercept in ("none", "free")
    )
    shared = NEGATIVES.mean(axis=0) / np.linalg.norm(NEGATIVES.mean(axis=0))
    along = [np.abs(w @ shared) / np.linalg.norm(w, axis=1) for w in (without, with_one)]
    assert along[1].mean() < 0.5 * along[0].mean()  # pushing all negatives down is the intercept's work
    assert apart(without, with_one) > 0.1


def test_several_exemplars_and_negative_feedback_are_rows_of_their_classes() -> None:
    sizes, judged = [1, 4, 2], [0, 3, 1]
    positives = [POSITIVES[:s] for s in sizes]
    wrong = [unit_rows(9, 24, 5)[:j] for j in judged]
    fitted = fit_svms(Examples.of(positives, wrong), NEGATIVES, lambda_w=0.5, tolerance=1e-6)
    for query in range(3):
        expected = by_sklearn(positives[query], np.vstack([NEGATIVES, wrong[query]]), 1.0)
        assert apart(fitted.weights[query], expected) < 1e-4


def test_a_query_may_have_negatives_of_its_own_alone() -> None:
    fitted = fit_svms(Examples.of([POSITIVES[:2]], [NEGATIVES[:20]]), np.empty((0, 24)), lambda_w=0.5, tolerance=1e-6)
    assert apart(fitted.weights[0], by_sklearn(POSITIVES[:2], NEGATIVES[:20], 1.0)) < 1e-4


def test_feedback_moves_the_ranking_the_way_it_says() -> None:
    liked, disliked = unit_rows(2, 24, 8)
    before = fit_svms(Examples.of([POSITIVES[:1]]), NEGATIVES, lambda_w=0.5).weights[0]
    more = fit_svms(Examples.of([np.vstack([POSITIVES[:1], liked])]), NEGATIVES, lambda_w=0.5).weights[0]
    fewer = fit_svms(Examples.of([POSITIVES[:1]], [disliked[None]]), NEGATIVES, lambda_w=0.5).weights[0]
    assert more @ liked > before @ liked
    assert fewer @ disliked < before @ disliked


@pytest.mark.parametrize(("lambda_w", "lambda_q"), [(1.0, 0.0), (1.0, 10.0), (10.0, 1000.0), (0.1, 100.0)])
def test_the_loss_is_at_a_minimum_of_the_plain_loop(lambda_w: float, lambda_q: float) -> None:
    fitted = fit_svms(one_each(POSITIVES), NEGATIVES, lambda_w=lambda_w, texts=TEXTS, lambda_q=lambda_q, tolerance=1e-7)
    for query in range(3):
        problem = (POSITIVES[query][None], NEGATIVES, lambda_w, TEXTS[query], lambda_q)
        at = fitted.weights[query]
        found = plain_loss(at, *problem)
        starts = [at, TEXTS[query], np.random.default_rng(query).standard_normal(24)]
        best = min(float(minimize(plain_loss, start, args=problem, method="BFGS").fun) for start in starts)
        assert found <= best * (1 + 1e-5) + 1e-6
        step = 1e-5 * np.linalg.norm(at)
        slopes = [
            (plain_loss(at + step * axis, *problem) - plain_loss(at - step * axis, *problem)) / (2 * step)
            for axis in np.eye(24)
        ]
        assert np.linalg.norm(slopes) < 1e-3 * lambda_w * np.linalg.norm(at)


def test_the_residual_is_the_gradient_of_the_plain_loop() -> None:
    """A loose fit, so that the gradient is far from 0 and its value can be compared."""
    fitted = fit_svms(one_each(POSITIVES), NEGATIVES, lambda_w=1.0, texts=TEXTS, lambda_q=20.0, tolerance=0.5)
    for query in range(5):
        problem = (POSITIVES[query][None], NEGATIVES, 1.0, TEXTS[query], 20.0)
        at = fitted.weights[query]
        # check_grad gives the norm of the difference to its first argument's slope: here to 0
        slope = check_grad(lambda w, p=problem: plain_loss(w, *p), lambda w: np.zeros(24), at)
        assert slope == pytest.approx(fitted.residuals[query] * np.linalg.norm(at), rel=1e-2, abs=1e-3)


def test_the_tolerance_bounds_the_error_of_the_weights() -> None:
    exact = fit_svms(one_each(POSITIVES), NEGATIVES, lambda_w=0.2, tolerance=1e-9).weights
    for tolerance in (1e-1, 1e-2, 1e-4):
        fitted = fit_svms(one_each(POSITIVES), NEGATIVES, lambda_w=0.2, tolerance=tolerance)
        error = np.linalg.norm(fitted.weights - exact, axis=1) / np.linalg.norm(fitted.weights, axis=1)
        assert (fitted.residuals <= tolerance).all()
        assert (error <= fitted.residuals * 1.001 + 1e-8).all()


@pytest.mark.parametrize("block", [1, 7, 30])
def test_queries_do_not_depend_on_what_is_fitted_beside_them(block: int) -> None:
    options: dict[str, Any] = {"lambda_w": 1.0, "texts": TEXTS, "lambda_q": 100.0, "tolerance": 1e-7}
    whole = fit_svms(one_each(POSITIVES), NEGATIVES, **options)
    parts = fit_svms(one_each(POSITIVES), NEGATIVES, block=block, **options)
    assert apart(parts.weights, whole.weights) < 1e-6
    order = np.random.default_rng(0).permutation(30)
    options["texts"] = TEXTS[order]
    turned = fit_svms(one_each(POSITIVES[order]), NEGATIVES, **options)
    assert apart(turned.weights, whole.weights[order]) < 1e-6


def test_the_same_problem_gives_the_same_bytes() -> None:
    runs = [
        fit_svms(one_each(POSITIVES), NEGATIVES, lambda_w=1.0, texts=TEXTS, lambda_q=50.0).weights for _ in range(2)
    ]
    assert runs[0].tobytes() == runs[1].tobytes()


def test_a_stronger_pull_brings_the_weights_nearer_to_the_text() -> None:
    cosines = []
    for lambda_q in (0.0, 1.0, 10.0, 100.0):
        w = fit_svms(one_each(POSITIVES), NEGATIVES, lambda_w=1.0, texts=TEXTS, lambda_q=lambda_q).weights
        cosines.append(np.einsum("qd,qd->q", w, TEXTS) / np.linalg.norm(w, axis=1))
    assert (np.diff(cosines, axis=0) > 0).all()


def test_a_text_that_contradicts_its_exemplars_can_overrule_them() -> None:
    opposed = -POSITIVES[:4]
    for intercept in ("none", "regularised", "free"):
        options: dict[str, Any] = {"lambda_w": 1.0, "texts": opposed, "lambda_q": 1e6, "intercept": intercept}
        fitted = fit_svms(one_each(POSITIVES[:4]), NEGATIVES, **options)
        assert fitted.overruled.all()
        assert not fitted.intercepts.any()
        np.testing.assert_allclose(fitted.weights, opposed)
    # no minimum: along the text, shrinking never stops to pay
    problem = (POSITIVES[:1], NEGATIVES, 1.0, opposed[0], 1e6)
    losses = [plain_loss(length * opposed[0], *problem) for length in (1.0, 0.1, 0.01, 0.001)]
    assert losses == sorted(losses, reverse=True)


def test_a_text_that_agrees_overrules_only_where_it_is_the_answer_anyway() -> None:
    gentle = fit_svms(one_each(POSITIVES), NEGATIVES, lambda_w=1.0, texts=POSITIVES, lambda_q=10.0)
    assert not gentle.overruled.any()
    strong = fit_svms(one_each(POSITIVES), NEGATIVES, lambda_w=1.0, texts=POSITIVES, lambda_q=1e5)
    assert apart(strong.weights, POSITIVES) < 2e-3


@pytest.mark.parametrize("intercept", ["none", "free"])
@pytest.mark.parametrize("spread", [0.1, 0.01, 0.001])
@pytest.mark.parametrize(("lambda_w", "lambda_q"), [(1.0, 0.0), (1.0, 1000.0), (100.0, 1000.0)])
def test_pictures_that_a_bad_model_hardly_tells_apart_are_fitted_all_the_same(
    spread: float, lambda_w: float, lambda_q: float, intercept: Literal["none", "free"]
) -> None:
    rng = np.random.default_rng(0)
    picture, text = unit_rows(2, 64, 6)

    def near(centre: np.ndarray, count: int) -> np.ndarray:
        rows = centre + spread * unit_rows(count, 64, int(rng.integers(1000)))
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    fitted = fit_svms(
        one_each(near(picture, 20)), near(picture, 100), lambda_w=lambda_w, texts=near(text, 20), lambda_q=lambda_q,
        intercept=intercept,
    )  # fmt: skip
    assert (fitted.residuals <= 1e-4).all()


@settings(max_examples=25, deadline=None)
@given(
    negatives=st.integers(1, 40),
    dim=st.integers(2, 12),
    lambda_w=st.floats(0.01, 100),
    lambda_q=st.sampled_from([0.0, 1.0, 50.0, 3000.0]),
    intercept=st.sampled_from(["none", "regularised", "free"]),
    seed=st.integers(0, 1000),
)
def test_every_query_of_any_problem_ends_within_the_tolerance_or_is_overruled(
    negatives: int,
    dim: int,
    lambda_w: float,
    lambda_q: float,
    intercept: Literal["none", "regularised", "free"],
    seed: int,
) -> None:
    rows = np.random.default_rng(seed).standard_normal((negatives + 10, dim))
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    fitted = fit_svms(
        one_each(rows[:5]), rows[10:], lambda_w=lambda_w, texts=rows[5:10], lambda_q=lambda_q, intercept=intercept
    )
    assert np.isfinite(fitted.weights).all()
    assert (fitted.residuals <= 1e-4).all()


def test_duplicated_negatives_count_as_often_as_they_stand_there() -> None:
    twice = np.vstack([NEGATIVES, NEGATIVES[:40]])
    fitted = fit_svms(one_each(POSITIVES[:3]), twice, lambda_w=0.5, tolerance=1e-6)
    assert apart(fitted.weights, np.stack([by_sklearn(row[None], twice, 1.0) for row in POSITIVES[:3]])) < 1e-4
    same = np.tile(NEGATIVES[:1], (50, 1))  # one negative fifty times: a matrix of rank one
    assert np.isfinite(fit_svms(one_each(POSITIVES), same, lambda_w=0.5).weights).all()


def test_an_exemplar_that_is_also_a_negative_does_not_stop_the_fit() -> None:
    fitted = fit_svms(one_each(NEGATIVES[:3]), NEGATIVES, lambda_w=0.01)
    assert (fitted.residuals <= 1e-4).all()


def test_an_exemplar_that_is_the_only_negative_says_nothing_but_what_its_text_says() -> None:
    with pytest.raises(DataError, match="query 1: its exemplars are, on average, its negatives"):
        fit_svms(one_each(POSITIVES[:2]), POSITIVES[1:2], lambda_w=1.0)
    fitted = fit_svms(one_each(POSITIVES[:2]), POSITIVES[1:2], lambda_w=1.0, texts=TEXTS[:2], lambda_q=1.0)
    assert fitted.overruled.tolist() == [False, True]
    np.testing.assert_allclose(fitted.weights[1], TEXTS[1])


def test_what_cannot_be_fitted_is_refused_with_its_cause() -> None:
    examples = one_each(POSITIVES)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"negatives": np.empty((0, 24))}, "query 0 has one class only"),
        ({"negatives": NEGATIVES[:, :9]}, r"negatives of shape \(150, 9\): want finite rows of the examples' 24"),
        ({"negatives": NEGATIVES * np.nan}, "want finite rows"),
        ({"lambda_w": 0.0}, "lambda_w is 0 and lambda_q 0: want above 0"),
        ({"lambda_q": 5.0}, "lambda_q is 5 but there are no text vectors"),
        ({"lambda_q": 5.0, "texts": TEXTS[:7]}, r"texts of shape \(7, 24\): want finite rows, 30 queries x 24"),
        ({"lambda_q": 5.0, "texts": TEXTS * 0}, "the vector of query 0 has length 0: it points nowhere"),
    ]
    for change, message in changes:
        options: dict[str, Any] = {"negatives": NEGATIVES, "lambda_w": 1.0} | change
        with pytest.raises(DataError, match=message):
            fit_svms(examples, **options)


def test_a_query_that_does_not_arrive_is_named() -> None:
    with pytest.raises(DataError, match=r"did not come within 1e-30 in 100 Newton steps, the first is query 0"):
        fit_svms(one_each(POSITIVES[:2]), NEGATIVES, lambda_w=1.0, tolerance=1e-30)


def test_a_query_that_does_not_arrive_keeps_where_it_came_to_where_that_is_asked_for() -> None:
    left = fit_svms(one_each(POSITIVES[:2]), NEGATIVES, lambda_w=1.0, tolerance=1e-30, strict=False)
    assert (left.residuals > 1e-30).all()
    close = fit_svms(one_each(POSITIVES[:2]), NEGATIVES, lambda_w=1.0)
    assert np.allclose(left.weights, close.weights, rtol=1e-3)
