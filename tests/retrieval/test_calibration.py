"""How sure a first picture is: bounds of clustered shares, promises that hold, and known figures on CLIP vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from twinlens.core.errors import DataError
from twinlens.core.vectors import Vectors
from twinlens.retrieval.calibration import (
    Answers,
    bound_share,
    build_coverage_rows,
    find_answers,
    find_threshold,
    fit_or_explain,
    fit_rule,
    measure_auroc,
)
from twinlens.retrieval.confidence import ConfidenceRule, compute_signal
from twinlens.retrieval.exact import find_nearest
from twinlens.retrieval.exemplar import scale_to_unit
from twinlens.retrieval.scores import compute_exact_scores
from twinlens.tasks.inputs import IMAGES, VALIDATION_CAPTIONS, VALIDATION_IMAGES

CLIP = Path("clip-vectors/flickr8k_clip_vit_b_32.npz")


def unit(rows: np.ndarray) -> np.ndarray:
    return scale_to_unit(rows).astype(np.float32)


def draw_signals(rng: np.random.Generator, pictures: int, each: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signals, whether right, and pictures; captions of a picture share how hard it is."""
    hard = np.repeat(rng.normal(0.0, 1.5, pictures), each)
    signal = rng.normal(0.0, 1.5, pictures * each) - hard
    right = rng.random(len(signal)) < 1.0 / (1.0 + np.exp(-signal - 1.0 + 0.7 * hard))
    return signal, right, np.repeat(np.arange(pictures), each)


def test_the_signal_is_the_firsts_share_of_the_softmax() -> None:
    best = np.array([[0.3, 0.3, 0.1], [0.5, 0.4, 0.3]])
    expected = [1 / (2 + np.exp(-2)), 1 / (1 + np.exp(-1) + np.exp(-2))]
    np.testing.assert_allclose(compute_signal(best, 0.1), expected)


def test_a_bound_of_single_queries_is_clopper_and_pearsons_and_clusters_widen_it() -> None:
    right = np.repeat([True, False], [80, 20])
    alone = bound_share(right, np.arange(100), 0.05)
    assert alone == pytest.approx(stats.beta.ppf(0.05, 80, 21), abs=0.003)  # of n - 1 for n
    five = bound_share(np.repeat(right, 5), np.repeat(np.arange(100), 5), 0.05)  # each five times says no more
    assert five == pytest.approx(alone, abs=0.003)
    assert bound_share(np.repeat(right, 5), np.arange(500), 0.05) > five


def test_where_all_are_right_each_picture_counts_once() -> None:
    right, pictures = np.ones(50, dtype=bool), np.repeat(np.arange(10), 5)
    assert bound_share(right, pictures, 0.05) == pytest.approx(0.05 ** (1 / 10))
    assert bound_share(~right, pictures, 0.05) == 0.0
    assert bound_share(right[:5], pictures[:5], 0.05) == 0.0  # one picture shows nothing


def test_few_pictures_keep_no_promise_even_if_all_is_right() -> None:
    right, signal = np.ones(50, dtype=bool), np.arange(50.0)
    assert find_threshold(signal, right, np.repeat(np.arange(10), 5), 0.8) is None
    assert find_threshold(signal, right, np.arange(50), 0.8) == 0.0  # all are answered


def test_equal_signals_are_answered_together() -> None:
    signal = np.repeat([1.0, 0.0], 50)
    right = np.repeat([True, False], 50)
    assert find_threshold(signal, right, np.arange(100), 0.9) == 1.0


@pytest.mark.slow
def test_over_200_calibrations_promises_are_kept_in_the_promised_share() -> None:
    """Of answers to a large population: the promise fails in 5 % of the calibrations at most (here 200, two sigma)."""
    rng = np.random.default_rng(0)
    signal, right, _ = draw_signals(np.random.default_rng(1), 40_000)
    for promise in (0.7, 0.8, 0.9):
        given, kept, answered = 0, 0, []
        for _ in range(200):
            least = find_threshold(*draw_signals(rng, 80), promise)
            if least is not None:
                given += 1
                kept += right[signal >= least].mean() >= promise
                answered.append((signal >= least).mean())
        assert 200 - (given - kept) >= 0.95 * 200 - 2 * np.sqrt(200 * 0.95 * 0.05)
        assert given >= 100  # and it is no rule that never answers
        assert np.mean(answered) > 0.15


def test_a_rule_rates_by_the_highest_promise_given_and_comes_back_from_json() -> None:
    rule = ConfidenceRule(0.1, {0.5: 0.4, 0.8: 0.6}, 30, 150)
    assert rule.most == 0.8
    found = [rule.rate(np.array([first, 0.0])) for first in (0.0, -np.log(1 / 0.55 - 1) * 0.1, 0.1)]
    assert found == [0.5, 0.5, 0.8]
    assert ConfidenceRule.of_json(rule.as_json()) == rule
    assert ConfidenceRule(0.1, {0.5: 0.9}, 30, 150).rate(np.array([0.1, 0.1])) == 0.0


def test_thresholds_rise_with_promises() -> None:
    rng = np.random.default_rng(3)
    pictures = unit(rng.standard_normal((150, 16)))
    captions = unit(np.repeat(pictures, 5, axis=0) + 0.12 * rng.standard_normal((750, 16)))
    answers = find_answers(captions, pictures, np.repeat(np.arange(150), 5), unit(rng.standard_normal((400, 16))))
    rule = fit_rule(answers)
    levels = [rule.thresholds[promise] for promise in sorted(rule.thresholds)]
    assert levels == sorted(levels)
    assert len(levels) >= 3
    rows = build_coverage_rows(answers, rule)
    assert [row["coverage"] for row in rows] == sorted(row["coverage"] for row in rows)
    assert rows[-1]["coverage"] == 1.0
    assert rows[-1]["precision"] == pytest.approx(answers.right.mean(), abs=1e-4)


def test_each_caption_searches_the_pool_with_its_own_picture_and_a_tie_is_wrong() -> None:
    pool = np.eye(3, 4, dtype=np.float32)
    pictures = np.array([[0, 0, 0, 1], [1, 0, 0, 0]], dtype=np.float32)  # the second is a copy of the pool's first
    captions = np.array([[0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]], dtype=np.float32)
    answers = find_answers(captions, pictures, np.array([0, 1, 0]), pool)
    assert answers.right.tolist() == [True, False, False]
    assert answers.best[:, 0].tolist() == [1.0, 1.0, 1.0]
    assert answers.own.tolist() == [1.0, 1.0, 0.0]
    assert answers.best.shape == (3, 4)


# ---------------------------------------------------------------- no rule, and why


def vectors(count: int, dim: int = 8, seed: int = 0, prefix: str = "p") -> Vectors:
    ids = [f"{prefix}{n}" for n in range(count)]
    return Vectors(ids, ids, unit(np.random.default_rng(seed).standard_normal((count, dim))))


def test_a_model_without_a_rule_says_why() -> None:
    pool, few = vectors(50), vectors(19, prefix="v")
    assert "one space" in fit_or_explain({IMAGES: pool}, "apart", False).why
    assert "no validation captions outside the pool" in fit_or_explain({IMAGES: pool}, "m", True).why
    found = {IMAGES: pool, VALIDATION_IMAGES: few, VALIDATION_CAPTIONS: few}
    assert "19 validation pictures are too few" in fit_or_explain(found, "m", True).why
    mine, other = vectors(40, 8, 1, "v"), vectors(40, 8, 2, "v")  # captions that know nothing
    guessed = fit_or_explain({IMAGES: pool, VALIDATION_IMAGES: mine, VALIDATION_CAPTIONS: other}, "m", True)
    assert guessed.rule is None
    assert "not even a share of 0.5" in guessed.why
    assert guessed.rows[-1]["promise"] is None
    assert guessed.say().startswith("no confidence: ")
    with pytest.raises(DataError, match="in the pool, the first is 'p0'"):
        fit_or_explain({IMAGES: pool, VALIDATION_IMAGES: pool, VALIDATION_CAPTIONS: pool}, "m", True)


# -------------------------------------------------------------------- real vectors


@pytest.fixture(scope="module")
def clip(shared_data: Path) -> Answers:
    """The 500 captions of 100 pictures among 3,191, all of them in the pool."""
    path = shared_data / CLIP
    if not path.exists():
        pytest.skip(f"the CLIP vectors are not at {path}")
    with np.load(path, allow_pickle=False) as stored:
        images, texts = unit(stored["image_emb"]), unit(stored["text_emb"])
        row_of = {name: row for row, name in enumerate(stored["image_names"])}
        wanted = np.array([row_of[name] for name in stored["text_image"]])
    found = list(find_nearest(texts, images, 100))
    first = np.concatenate([block.rows[:, 0] for block in found])
    own = compute_exact_scores(texts, images, wanted[:, None])[:, 0]
    return Answers(np.concatenate([block.scores for block in found]), own, first == wanted, wanted)


def test_on_genuine_clip_vectors_the_softmax_tells_right_from_wrong_and_the_cosine_hardly(clip: Answers) -> None:
    rule = fit_rule(clip)
    softmax = measure_auroc(compute_signal(clip.best, rule.temperature), clip.right)
    assert measure_auroc(clip.best[:, 0], clip.right) == pytest.approx(0.61, abs=0.005)
    assert softmax is not None
    assert softmax >= 0.81
    assert rule.temperature == pytest.approx(0.01, abs=0.001)  # what CLIP was trained with
    assert rule.most is not None
    assert rule.most >= 0.8


@pytest.mark.slow
def test_on_genuine_clip_vectors_promises_hold_over_200_resplits_by_picture(clip: Answers) -> None:
    """Rules fitted on half of the pictures, drawn 200 times, for the captions of the other half."""
    rng, pictures = np.random.default_rng(0), np.unique(clip.pictures)
    signal = compute_signal(clip.best, fit_rule(clip).temperature)
    for promise in (0.6, 0.7, 0.8):
        kept, given, shares = 0, 0, []
        for _ in range(200):
            mine = np.isin(clip.pictures, rng.permutation(pictures)[:50])
            least = find_threshold(signal[mine], clip.right[mine], clip.pictures[mine], promise)
            answered = ~mine & (signal >= (np.inf if least is None else least))
            if answered.any():
                given += 1
                shares.append(clip.right[answered].mean())
                kept += shares[-1] >= promise
        assert kept + 200 - given >= 0.9 * 200  # the other half of 50 pictures is a sample itself
        assert np.mean(shares) >= promise
        assert given >= 50
