"""Pools in which little is defined: one query, one cluster, no hit. A reason, never NaN; a report all the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl
import pytest

from tests.experiments import alone, experiment
from tests.ranked import grouped, write_pool, write_run
from tests.report.test_report import BUDGET, CONFIDENCE, COVERAGE
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.config.params import EvaluateParams, ReportParams
from twinlens.core import tables
from twinlens.evaluation.compare import compare
from twinlens.evaluation.cost import build_quality_cost_rows, write_json
from twinlens.evaluation.distractors import build_curve
from twinlens.evaluation.evaluate import Measurements, measure_all_runs
from twinlens.evaluation.pool import Pool
from twinlens.report import galleries
from twinlens.report.comparison_text import format_comparison
from twinlens.report.exports import export
from twinlens.report.page import ReportData, render
from twinlens.report.summary import summarise_results

PARAMS = EvaluateParams(ks=[1, 5], referee_queries=1, resamples=100, seed=0)
PICTURES = [f"p{n}" for n in range(12)]
TASK = "caption_to_image"
CASES = {
    "one query": (["p0"], 2),
    "one cluster": (["p0"] * 5, 2),
    "no hit": (["p0", "p1", "p2"], None),
    "one query and no hit": (["p0"], None),
}


def strictly(text: str) -> Any:
    """Parse as JSON is defined: Python's own parser would take NaN and Infinity."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_parser_of_these_tests_refuses_nan() -> None:
    for constant in ("NaN", "Infinity", "-Infinity"):
        with pytest.raises(ValueError, match="is not JSON"):
            strictly(f'{{"low": {constant}}}')


def ranked(folder: Path, asked_about: list[str], hit_at: int | None) -> Path:
    """The lists of one retriever, each five items long; the right picture at `hit_at`, or nowhere in them."""
    queries = {f"{name}#{n}": name for n, name in enumerate(asked_about)}
    task = grouped(TASK, queries, {name: name for name in PICTURES}, images=asked_about)
    rows = [[5, 6, 7, 8, 9] for _ in queries]
    for row, name in zip(rows, asked_about, strict=True):
        if hit_at is not None:
            row[hit_at - 1] = PICTURES.index(name)
    scores = np.tile(np.linspace(0.9, 0.5, 5, dtype=np.float32), (len(rows), 1))
    ranks = [hit_at or 11] * len(queries), [1] * len(queries)
    write_run(folder / TASK, task, np.array(rows), scores, ranks=ranks)
    return write_pool(folder)


@pytest.fixture(params=CASES)
def measured(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Measurements]:
    asked_about, hit_at = CASES[request.param]
    folder = ranked(tmp_path / "ranked", asked_about, hit_at)
    gates = Gates(read_params().gates)
    results = measure_all_runs(folder, "d", PARAMS, gates, tmp_path / "evaluated")
    gates.write(tmp_path / "gates.json")
    return request.param, tmp_path, results


COSTS = {
    "stages": {"embed": {"seconds": 0.0, "items": 0, "items_per_s": 0.0, "peak_host_mb": 1.0, "device": "cpu"}},
    "parts": {"embed_images": {"items_per_s": 0.0}},
}


def test_every_json_file_parses_without_nan_and_says_what_is_not_defined(
    measured: tuple[str, Path, Measurements],
) -> None:
    case, folder, results = measured
    against_cost = build_quality_cost_rows(results.retrieval, results.costs, COSTS, 5)
    contents = {
        "retrieval": results.retrieval,
        "intervals": results.intervals,
        "as_published": results.as_published,
        "summary": summarise_results(results.retrieval, against_cost, 5),
    }
    for name, content in contents.items():
        write_json(content, folder / f"{name}.json")
    export(folder / "ranked", results.retrieval, "m", 0.0, folder / "exported")
    files = sorted(folder.rglob("*.json"))
    # and the pool, the task, its run, what tells pools apart, the gates, mteb's
    assert len(files) == 4 + 6
    for file in files:
        strictly(file.read_text(encoding="utf-8"))
    intervals = strictly((folder / "intervals.json").read_text())[TASK]["image"]
    assert set(intervals) == set(results.retrieval[TASK]["image"])
    if case == "no hit":
        for interval in (intervals["hit_at_1"], intervals["hit_at_1"]["fixed_pool"]):
            assert interval["low"] == 0.0
            assert 0.5 < interval["high"] < 1.0  # three pictures that found nothing prove little
        assert intervals["median_rank"] == {
            "not_defined": "all ranks are the same, in only 3 clusters",
            "pool": "fixed",
        }
    else:
        assert {tuple(i) for i in intervals.values()} == {("not_defined", "fixed_pool"), ("not_defined", "pool")}
        assert intervals["hit_at_1"]["not_defined"] == "one cluster: how clusters differ cannot be seen"
        assert intervals["hit_at_1"]["fixed_pool"] == {"not_defined": intervals["hit_at_1"]["not_defined"]}


def test_nan_is_refused_where_a_metrics_file_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"ndcg_at_10": float("nan")}, tmp_path / "retrieval.json")


def test_two_such_experiments_are_compared_without_nan(measured: tuple[str, Path, Measurements]) -> None:
    _, folder, _ = measured
    pool = Pool.read(folder / "ranked" / TASK)
    lists = pool.read_lists("image")
    better = replace(lists, rows=lists.rows.copy())
    better.rows[:, 0] = [PICTURES.index(name) for name in pool.task.query_images]
    better.rows[:, 1:] = np.arange(8, 12)
    runs = {name: rows.rows for name, rows in (("a", lists), ("b", better))}
    made = alone(*(experiment(name, pool.task, {"image": rows}, k=1) for name, rows in runs.items()))
    found = compare(made, ["ndcg_at_1"])
    for form in ("table", "markdown", "json"):
        assert "nan" not in format_comparison(made, found, [], form).lower()
    (difference,) = strictly(format_comparison(made, found, [], "json"))["differences"]
    assert difference["verdict"] == "not shown"
    assert difference["effect"] == 1


def test_a_report_is_made_and_says_not_defined(measured: tuple[str, Path, Measurements]) -> None:
    case, folder, results = measured
    pool = Pool.read(folder / "ranked" / TASK)
    values = pl.read_parquet(folder / f"evaluated/{TASK}/image.parquet")
    images = pl.DataFrame({"image_id": PICTURES, "labels": [["cat"]] * len(PICTURES)})
    captions = pl.DataFrame({"caption_id": pool.queries["query_id"], "image_id": pool.queries["image_id"]})
    album = galleries.Album.of(
        images, captions.with_columns(text=pl.lit("x")), pl.DataFrame({"image_id": PICTURES, "text": "y"})
    )
    shown = galleries.make_gallery(
        pool, "image", values, album, "ndcg_at_5", ReportParams(queries=2, found=3, thumbnail_px=48)
    )
    groups = pl.DataFrame({"image_id": PICTURES}).with_columns(
        in_pool=pl.lit(True), object_set=pl.lit(None, dtype=pl.String)
    )
    described = {
        "licence": "yours",
        "selection": "allowed",
        "sources": [],
        "pictures": dict.fromkeys(("found", "after_filter", "after_resize", "after_duplicates", "in_pool"), 12),
        "captions": {"found": 0, "kept": 0, "median_words": None},
        "duplicates": {"exact": 0},
        "categories": {"number": 0, "pictures_each": {}},
    } | {key: {} for key in ("dropped", "set_aside", "mended", "splits")}
    page = render(
        ReportData(
            names={"dataset": "d", "model": "m", "captioner": "c"},
            cards={},
            metrics={
                "retrieval": results.retrieval,
                "intervals": results.intervals,
                "as_published": results.as_published,
                "gates": {"found": {}},
                "cost": COSTS,
                "captions": {"captions": 0},
            },
            at_k=pl.DataFrame(results.curves),
            quality_cost=pl.DataFrame(build_quality_cost_rows(results.retrieval, results.costs, COSTS, 5)),
            approximate=pl.DataFrame(
                [{"setting": "exact", "recall": 1.0, "ms_per_query": 0.1, "build_s": 0.0, "index_mb": 0.0}]
            ),
            budget=pl.DataFrame(BUDGET),
            confidence=CONFIDENCE,
            coverage=pl.DataFrame(COVERAGE),
            distractors=pl.DataFrame(build_curve(folder / "ranked", 5)),
            described=described,
            duplicates=pl.DataFrame(pl.from_arrow(tables.DUPLICATES.empty_table())),
            parts={},
            groups=groups,
            pools=[pool],
            values={(TASK, "image"): values},
            album=album,
        ),
        [shown],
        dict.fromkeys(PICTURES, "data:,"),
    )
    assert ("not defined" in page) == (True if case != "no hit" else "median rank" in page)
    assert "nan" not in page.lower()
    assert "None" not in page
    assert "hit@5 against distractors" in page  # pictures that no query is about
