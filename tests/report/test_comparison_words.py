"""Comparisons as people read them: on a terminal of 120 columns, models by name, queries in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from twinlens.core import paths, tables
from twinlens.evaluation.candidates import Candidate
from twinlens.evaluation.compare import Changes, Difference
from twinlens.evaluation.experiments import Experiment
from twinlens.evaluation.intervals import Interval
from twinlens.report.changed_queries import describe_changes, name_query, read_query_texts
from twinlens.report.comparison_text import format_comparison

MEASURE = "ndcg_at_10"


def candidate(name: str, model: str) -> Candidate:
    choice = {"dataset": "scenes", "model": model, "captioner": "none"}

    def none(*_: str) -> Any:
        raise AssertionError

    return Candidate(name, (Experiment(name, choice, {}, [], none, none),))


NAMED = [candidate("main", "clip-scenes"), candidate("waxen-physiognomical-experiment", "clip-other")]


def difference(task: str = "caption_to_image", p: float = 0.001, **other: object) -> Difference:
    """The widest row that the default has, between experiments as DVC names them."""
    values: dict[str, object] = {
        "task": task,
        "retriever": "hybrid_captions_and_generated_weighted",
        "retriever_second": "hybrid_captions_and_generated_weighted",
        "measure": MEASURE,
        "first": "main",
        "second": "waxen-physiognomical-experiment",
        "mean_first": 0.51234,
        "mean_second": 0.52345,
        "effect": 0.01111,
        "interval": Interval(0.0012, 0.0210),
        "queries": 5000,
        "clusters": 1000,
        "p": p,
        "p_holm": p,
    }
    return Difference(**(values | other))  # type: ignore[arg-type]


def changes() -> Changes:
    table = pl.DataFrame(
        {
            "query_id": ["a#0", "b"],
            MEASURE: [0.387, 1.0],
            f"{MEASURE}_second": [1.0, 0.0],
            "first_hit": [5, 1],
            "first_hit_second": [1, 400],
            "group": ["a", "b"],
        }
    )
    return Changes("caption_to_image", "image", MEASURE, "main", "other", table)


def test_a_comparison_fits_a_terminal_of_120_columns() -> None:
    found = [difference(), difference("image_to_caption", p=0.7), difference(p=0.001, effect=-0.01)]
    lines = format_comparison(NAMED, found, [], "table").splitlines()
    rows = [line for line in lines if "hybrid" in line]
    assert len(rows) == 3
    assert max(map(len, lines[:-1])) <= 120  # the last is a sentence, which wraps
    assert rows[0].endswith("second is better")
    assert rows[1].endswith("first is better")  # of the same task: below its heading
    assert f"caption_to_image, {MEASURE}" in lines


def test_several_measures_stand_in_a_column_of_their_own() -> None:
    found = [difference(), difference(measure="hit_at_10")]
    lines = format_comparison(NAMED, found, [], "table").splitlines()
    assert [line.split()[1] for line in lines if "hybrid" in line] == [MEASURE, "hit_at_10"]
    assert "caption_to_image" in lines


def test_the_model_stands_beside_the_name_that_dvc_gave() -> None:
    said = format_comparison(NAMED, [difference()], [], "markdown")
    assert "### main (first: clip-scenes) and waxen-physiognomical-experiment (second: clip-other)" in said
    alike = [candidate("main", "main"), NAMED[1]]
    assert "main (first) and" in format_comparison(alike, [difference()], [], "table")


def test_changed_queries_are_told_in_words() -> None:
    texts = {"a#0": "two boats", "b": "a picture: a red car"}
    assert describe_changes(changes(), texts) == [
        "“two boats” (a#0): first hit at 1, was at 5; ndcg@10 1.000, was 0.387",
        "“a picture: a red car” (b): first hit at 400, was at 1; ndcg@10 0.000, was 1.000",
    ]
    assert name_query("c", texts) == "c"


def test_without_the_captions_ids_stand_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_query_texts("nowhere") == {}


def test_pictures_are_named_by_their_first_caption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = {"caption_id": ["a#0", "a#1"], "image_id": ["a", "a"], "text": ["two boats", "boats"]}
    tables.write_table(pl.DataFrame(rows), paths.filtered("d") / "captions.parquet", tables.CAPTIONS)
    assert read_query_texts("d") == {"a": "a picture: two boats", "a#0": "two boats", "a#1": "boats"}
