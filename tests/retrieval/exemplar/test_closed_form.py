"""Closed forms against a plain solve of each query, and by hand."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity

from tests.retrieval.exemplar.problems import one_each, unit_rows
from twinlens.core.errors import DataError
from twinlens.retrieval.exemplar import (
    Examples,
    combine_unit_vectors,
    fit_svms,
    lda_whitened,
    ridge,
    rocchio,
    scale_to_unit,
)

NEGATIVES, POSITIVES = unit_rows(60, 10, 1), unit_rows(8, 10, 2)


def test_a_ridge_query_is_scikit_learns_on_balanced_weights() -> None:
    sizes, judged = [1, 3, 2], [0, 2, 0]
    positives, wrong = [POSITIVES[:s] for s in sizes], [unit_rows(5, 10, 4)[:j] for j in judged]
    found = ridge(Examples.of(positives, wrong), NEGATIVES, 0.7)
    for query in range(3):
        bad = np.vstack([NEGATIVES, wrong[query]])
        labels = np.array([1.0] * sizes[query] + [-1.0] * len(bad))
        share = np.where(labels > 0, len(labels) / (2 * sizes[query]), len(labels) / (2 * len(bad)))
        plain = Ridge(alpha=0.7, fit_intercept=False).fit(np.vstack([positives[query], bad]), labels, share)
        np.testing.assert_allclose(found[query], plain.coef_, atol=1e-9)
        plain = Ridge(alpha=0.7, fit_intercept=True).fit(np.vstack([positives[query], bad]), labels, share)
        free = ridge(Examples.of(positives, wrong), NEGATIVES, 0.7, "free")
        np.testing.assert_allclose(free[query], plain.coef_, atol=1e-9)


def test_a_regularised_intercept_of_the_ridge_is_a_column_of_ones() -> None:
    ones = np.ones((60, 1))
    widened = ridge(one_each(np.hstack([POSITIVES, ones[:8]])), np.hstack([NEGATIVES, ones]), 0.7)
    found = ridge(one_each(POSITIVES), NEGATIVES, 0.7, "regularised")
    np.testing.assert_allclose(found, widened[:, :-1], atol=1e-9)


@pytest.mark.parametrize("intercept", ["none", "regularised", "free"])
def test_under_a_strong_ridge_every_example_is_within_the_margin_and_the_svm_is_the_ridge_regression(
    intercept: Literal["none", "regularised", "free"],
) -> None:
    examples = one_each(POSITIVES)
    fitted = fit_svms(examples, NEGATIVES, lambda_w=1e4, intercept=intercept, tolerance=1e-8)
    np.testing.assert_allclose(fitted.weights, ridge(examples, NEGATIVES, 1e4, intercept), rtol=1e-5)


def test_a_whitened_exemplar_points_where_the_negatives_do_not_vary() -> None:
    negatives = np.array([[10.0, 1], [-10, 1], [10, -1], [-10, -1]])
    found = lda_whitened(one_each(np.array([[1.0, 1.0]])), negatives, 1e-9)
    np.testing.assert_allclose(found, scale_to_unit(np.array([[1 / 100, 1 / 1]])), atol=1e-6)
    round_ = lda_whitened(one_each(np.array([[1.0, 1.0]])), negatives, 1.0)  # all shrinkage: no whitening
    np.testing.assert_allclose(round_, scale_to_unit(np.array([[1.0, 1.0]])))


def test_rocchio_by_hand() -> None:
    examples = Examples.of([np.array([[0.0, 4, 0], [0, 0, 4]])], [np.array([[0.0, 0, 6]])])
    found = rocchio(examples, np.array([[3.0, 0, 0], [3, 0, 0]]), np.array([[10.0, 0, 0]]), 1.0, 0.5, 0.25)
    # 10 - 0.25 * (3 + 3 + 0) / 3, 0.5 * 2, 0.5 * 2 - 0.25 * 6 / 3
    np.testing.assert_allclose(found, scale_to_unit(np.array([[9.5, 1.0, 0.5]])))


def test_rocchio_without_any_negative_is_a_weighted_sum() -> None:
    texts = unit_rows(8, 10, 3)
    found = rocchio(one_each(POSITIVES), np.empty((0, 10)), texts, 0.5, 0.5, 0.9)
    np.testing.assert_allclose(found, combine_unit_vectors(POSITIVES, texts, 0.5))


def test_the_length_of_a_vector_has_no_part_in_the_sum() -> None:
    texts = unit_rows(8, 10, 3)
    np.testing.assert_allclose(
        combine_unit_vectors(9 * POSITIVES, texts, 0.3), combine_unit_vectors(POSITIVES, 0.1 * texts, 0.3)
    )
    similarity = cosine_similarity(combine_unit_vectors(POSITIVES, texts, 0.9), POSITIVES).diagonal()
    assert (similarity > cosine_similarity(combine_unit_vectors(POSITIVES, texts, 0.1), POSITIVES).diagonal()).all()


def test_what_has_no_answer_is_refused() -> None:
    examples = one_each(POSITIVES)
    with pytest.raises(DataError, match="the vector of query 0 has length"):
        combine_unit_vectors(POSITIVES, -POSITIVES, 0.5)
    with pytest.raises(DataError, match="at least 2 negatives, found 1"):
        lda_whitened(examples, NEGATIVES[:1], 0.1)
    with pytest.raises(DataError, match="all 9 negatives are the same"):
        lda_whitened(examples, np.tile([1.0] * 10, (9, 1)), 0.1)
    with pytest.raises(DataError, match="query 0 has one class only"):
        ridge(examples, np.empty((0, 10)), 1.0)
    with pytest.raises(DataError, match="query 1 has no positive example"):
        Examples.of([POSITIVES, POSITIVES[:0]])
    with pytest.raises(DataError, match="query 1: its examples are not finite rows of 10 dimensions"):
        Examples.of([POSITIVES, POSITIVES[:, :4]])
    with pytest.raises(DataError, match="2 queries with positives, 1 with negatives"):
        Examples.of([POSITIVES, POSITIVES], [NEGATIVES])


def test_balanced_weights_are_those_of_the_article() -> None:
    own, shared = Examples.of([np.ones((1, 3)), np.ones((2, 3))], [np.ones((0, 3)), np.ones((1, 3))]).weights(1000)
    assert own[0].tolist() == [500.5, 0.0, 0.0]
    assert shared[0] == 0.5005
    assert own[1].tolist() == pytest.approx([1003 / 4, 1003 / 4, 1003 / 2002])
