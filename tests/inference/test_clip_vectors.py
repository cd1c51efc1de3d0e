"""Genuine CLIP vectors of Flickr8k photos: published figures from our own ranking, and real exemplar queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from tests.retrieval.exemplar.problems import apart, one_each
from twinlens.evaluation.measures import Judged, hit
from twinlens.retrieval.exact import find_nearest
from twinlens.retrieval.exemplar import fit_svms, scale_to_unit


@pytest.fixture(scope="module")
def vectors(shared_data: Path) -> dict[str, np.ndarray]:
    path = shared_data / "clip-vectors" / "flickr8k_clip_vit_b_32.npz"
    if not path.exists():
        pytest.skip(f"the CLIP vectors are not at {path}")
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored}


def test_caption_to_image_is_what_was_published(vectors: dict[str, np.ndarray]) -> None:
    row_of = {name: row for row, name in enumerate(vectors["image_names"])}
    wanted = np.array([row_of[name] for name in vectors["text_image"]])
    texts, images = (scale_to_unit(vectors[name]).astype(np.float32) for name in ("text_emb", "image_emb"))
    rows = np.concatenate([found.rows for found in find_nearest(texts, images, 10)])
    relevance = rows == wanted[:, None]
    judged = Judged.binary(relevance, np.ones(500, dtype=int))
    found = [round(float(hit(judged, k).mean()), 3) for k in (1, 5, 10)]
    assert found == [0.466, 0.782, 0.862]


def test_exemplar_svms_on_real_vectors_are_scikit_learns(vectors: dict[str, np.ndarray]) -> None:
    images = vectors["image_emb"].astype(np.float64)
    exemplars, negatives = images[:6], images[100:1100]
    fitted = fit_svms(one_each(exemplars), negatives, lambda_w=0.5)
    labels = [1] + [-1] * 1000
    model = LinearSVC(C=1.0, class_weight="balanced", fit_intercept=False, max_iter=10_000, tol=1e-6)
    expected = [model.fit(np.vstack([own, negatives]), labels).coef_[0].copy() for own in exemplars]
    assert apart(fitted.weights, np.stack(expected)) < 1e-3


def test_the_combined_loss_on_real_vectors_converges_at_the_published_weights(vectors: dict[str, np.ndarray]) -> None:
    row_of = {name: row for row, name in enumerate(vectors["image_names"])}
    described = set(vectors["text_image"])
    own = vectors["image_emb"][[row_of[name] for name in vectors["text_image"][:64]]].astype(np.float64)
    negatives = vectors["image_emb"][[row for name, row in row_of.items() if name not in described][:1000]]
    for lambda_w in (1.0, 10.0):  # what made the source's table, and what its article says
        fitted = fit_svms(one_each(own), negatives, lambda_w=lambda_w, texts=vectors["text_emb"][:64], lambda_q=1000.0)
        assert (fitted.residuals <= 1e-4).all()
        assert not fitted.overruled.any()
