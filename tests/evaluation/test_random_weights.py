"""Runs beside the same runs before training: what is no better is told, what is better passes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from twinlens.evaluation.random_weights import detect_no_better, find_no_better

MEASURE = "ndcg_at_10"


def values(found: np.ndarray, per_picture: int = 5) -> pl.DataFrame:
    """A table of queries; as many stand for one picture."""
    ids = [f"q{n:04d}" for n in range(len(found))]
    pictures = [f"i{n // per_picture}" for n in range(len(found))]
    return pl.DataFrame({"query_id": ids, "cluster": pictures, MEASURE: found})


def draw(mean: float, seed: int, count: int = 400, per_picture: int = 5) -> np.ndarray:
    """Values around a mean, alike within a picture."""
    rng = np.random.default_rng(seed)
    shared = np.repeat(rng.normal(0, 0.2, count // per_picture), per_picture)
    return np.clip(mean + shared + rng.normal(0, 0.05, count), 0, 1)


def test_a_trained_model_that_finds_more_passes_and_one_that_finds_less_is_told() -> None:
    trained, before = values(draw(0.6, 0)), values(draw(0.3, 1))
    assert detect_no_better(trained, before, MEASURE, "t, image") is None
    told = detect_no_better(before, trained, MEASURE, "object_sets, captions_joined")
    assert told is not None
    assert told.startswith("object_sets, captions_joined: ndcg_at_10 is 0.2")
    assert "and 0.6" in told
    assert "by the same model before training" in told


def test_the_very_same_values_are_no_better() -> None:
    same = values(draw(0.5, 0))
    assert detect_no_better(same, same, MEASURE, "t, image") is not None
    zeros = values(np.zeros(40))
    assert detect_no_better(zeros, zeros, MEASURE, "t, image") is not None


def test_queries_of_one_picture_are_not_counted_as_independent() -> None:
    """A gain of one deviation of the pictures' mean: clear if queries were independent, nothing as they are."""
    rng = np.random.default_rng(3)
    of_pictures = rng.normal(0, 0.1, 20)
    gain = np.repeat(of_pictures - of_pictures.mean() + 0.1 / np.sqrt(20), 50)
    before = np.full(1000, 0.4)
    trained = before + gain
    assert detect_no_better(values(trained, 50), values(before, 50), MEASURE, "t") is not None
    assert detect_no_better(values(trained, 1), values(before, 1), MEASURE, "t") is None


def test_the_standard_error_is_that_of_the_mean_over_pictures_where_all_have_as_many_queries() -> None:
    gain = np.repeat(np.random.default_rng(4).normal(0, 1, 30), 4)
    error = gain[::4].std(ddof=1) / np.sqrt(30)
    for shift, trouble in ((2.05 * error, False), (1.95 * error, True)):
        trained = values(gain - gain.mean() + shift, 4)
        assert (detect_no_better(trained, values(np.zeros(120), 4), MEASURE, "t") is not None) is trouble


def test_a_single_picture_says_nothing() -> None:
    assert detect_no_better(values(np.ones(5)), values(np.ones(5)), MEASURE, "t") is None


def test_a_false_alarm_on_a_clear_gain_is_rare_and_a_silent_null_too() -> None:
    alarms = [
        detect_no_better(values(draw(mean, 2 * n)), values(draw(0.3, 2 * n + 1)), MEASURE, "t") is not None
        for mean in (0.5, 0.3)
        for n in range(100)
    ]
    assert sum(alarms[:100]) == 0
    assert sum(alarms[100:]) >= 93


@pytest.mark.parametrize("better", [True, False])
def test_runs_are_paired_by_what_stands_beside_them(better: bool, tmp_path: Path) -> None:
    runs = {"image": (0.6, None), "image_untrained": (0.3 if better else 0.7, "image"), "bm25": (0.1, None)}
    for task in ("object_sets", "caption_to_image"):
        (tmp_path / f"ranked/{task}/runs").mkdir(parents=True)
        (tmp_path / f"evaluated/{task}").mkdir(parents=True)
        for seed, (name, (mean, of)) in enumerate(runs.items()):
            (tmp_path / f"ranked/{task}/runs/{name}.json").write_text(json.dumps({"untrained_of": of}))
            values(draw(mean, seed)).write_parquet(tmp_path / f"evaluated/{task}/{name}.parquet")
    found = list(find_no_better(tmp_path / "ranked", tmp_path / "evaluated", MEASURE))
    runs_told = [told.split(":")[0] for told in found]
    assert runs_told == ([] if better else ["caption_to_image, image", "object_sets, image"])
