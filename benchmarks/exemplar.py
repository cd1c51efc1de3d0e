"""Exemplar queries fitted at once against scikit-learn's LinearSVC in a loop, at the size of source 003; a search's."""

from __future__ import annotations

import statistics
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from benchmarks.paired import Row, alternate, median, ratio
from twinlens import Searcher
from twinlens.retrieval.exemplar import Examples, fit_svms, scale_to_unit

SHARED = 0.7  # of every vector's square, along one direction: the cosine of two random CLIP photos is .5 or so
LAMBDA_W = 0.5  # C = 1, as the source
LIKES, UNLIKES = 8, 2


def vectors(count: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors that share a direction and whose spread falls off by dimension, as a joint model's do."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dim)) / np.sqrt(np.arange(1, dim + 1))
    rows *= np.sqrt(1 - SHARED) / np.linalg.norm(rows, axis=1, keepdims=True)
    rows[:, -1] += np.sqrt(SHARED)
    return scale_to_unit(rows)


def run(queries: int, negatives: int, dim: int, few: int, rounds: int) -> list[Row]:
    """All queries by us; `few` of them by scikit-learn, one after the other, and that scaled up."""
    pictures, apart, texts = vectors(queries, dim, 0), vectors(negatives, dim, 1), vectors(queries, dim, 2)
    texts = scale_to_unit(
        np.roll(texts, 1, axis=1) + 0.5 * pictures
    )  # another shared direction: the gap between modalities
    examples = Examples.of(list(pictures[:, None]))
    labels = np.array([1] + [-1] * negatives)

    def by_sklearn() -> np.ndarray:
        model = LinearSVC(C=1 / (2 * LAMBDA_W), class_weight="balanced", max_iter=10_000, tol=1e-6)
        weights = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            for picture in pictures[:few]:
                weights.append(model.fit(np.vstack([picture, apart]), labels).coef_[0].copy())
        return np.stack(weights)

    apart_by = np.linalg.norm(
        scale_to_unit(by_sklearn())
        - scale_to_unit(fit_svms(examples[:few], apart, lambda_w=LAMBDA_W, intercept="regularised").weights),
        axis=1,
    )
    taken = alternate(
        {
            "sklearn": by_sklearn,
            "ours": lambda: fit_svms(examples[:few], apart, lambda_w=LAMBDA_W, intercept="regularised"),
        },
        rounds,
    )
    started = time.perf_counter()
    fit_svms(examples, apart, lambda_w=LAMBDA_W, intercept="regularised")
    plain_s = time.perf_counter() - started
    started = time.perf_counter()
    fit_svms(examples, apart, lambda_w=1.0, intercept="free", texts=texts, lambda_q=1000.0)
    combined_s = time.perf_counter() - started
    size = f"{queries:,} queries x {negatives:,} negatives x {dim}"
    loop_s = median(taken, "sklearn") * queries / few
    return [
        Row(
            f"exemplar SVM, {size}",
            f"{plain_s:.1f} s",
            f"LinearSVC in a loop {loop_s:.0f} s (from {few} queries), directions at most {apart_by.max():.0e} apart",
            f"{ratio(taken, 'sklearn', 'ours'):.1f} times faster on the same {few}",
            "at most 30 s, 1e-3 apart",
        ),
        Row(
            "the same with a pull towards a text, from two starts",
            f"{combined_s:.1f} s",
            "source 003: 1,475 s on its author's machine, not converged",
            "",
            "at most 30 s",
        ),
    ]


def by_marks(searcher: Searcher, texts: list[str], k: int) -> Row:
    """A client alone that searches by words and marked pictures, others for each text."""
    ids, seconds = searcher.index.ids, []
    parts: dict[str, list[float]] = {}
    for number, text in enumerate([texts[0], *texts]):  # the first is not counted
        marked = [ids[row] for row in np.random.default_rng(number).choice(len(ids), LIKES + UNLIKES, replace=False)]
        started = time.perf_counter()
        found = searcher.search(text, like=marked[:LIKES], unlike=marked[LIKES:], mode="exemplar", k=k)
        if number:
            seconds.append(time.perf_counter() - started)
            for part, taken in found.seconds.items():
                parts.setdefault(part, []).append(taken)
    print("exemplar, median ms by part:", {part: round(1000 * statistics.median(s), 2) for part, s in parts.items()})
    return Row(
        f"exemplar query (SVM with text, {LIKES + UNLIKES} marked pictures), a client alone: median",
        f"{1000 * statistics.median(seconds):.0f} ms",
        f"the slowest of {len(texts)}: {1000 * max(seconds):.0f} ms",
        "",
        "under 1,000 ms",
    )
