"""What is written for other tools says to them what it says here."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import pytrec_eval

from tests.ranked import grouped, listed, write_run
from twinlens.config.params import EvaluateParams
from twinlens.core.errors import DataError
from twinlens.evaluation.evaluate import measure_run
from twinlens.evaluation.pool import Pool
from twinlens.report.exports import _plain, build_clip_benchmark_rows, export, lower_ties, write_qrels
from twinlens.retrieval.rank import restate_as_published
from twinlens.tasks.base import TaskMetadata

PARAMS = EvaluateParams(ks=[1, 5, 10], referee_queries=2, resamples=100, seed=0)
TASKS = ("caption_to_image", "image_to_caption", "object_sets")


def write_task(folder: Path, rng: np.random.Generator) -> Pool:
    """Random lists full of ties, over ids with blanks; pictures with five captions each."""
    pictures = [f"picture {n}" for n in range(30)]
    captions = [f"{name}#{n}" for name in pictures for n in range(5)]
    sides = {"caption_to_image": (captions, pictures), "image_to_caption": (pictures, captions)}
    own = folder.name == "object_sets"
    sets = {name: f"set {n % 4}" for n, name in enumerate(pictures)} if own else {}
    queries, items = (
        {name: sets.get(name, name.split("#")[0]) for name in side}
        for side in sides.get(folder.name, (pictures, pictures))
    )
    shown = [name.split("#")[0] for name in queries]
    task = grouped(folder.name, queries, items, images=shown, themselves=own)
    lists = [[r for r in rng.permutation(len(items)) if not own or r != q][:20] for q in range(len(queries))]
    return write_run(folder, task, np.array(lists), falling(len(queries), rng))


def falling(queries: int, rng: np.random.Generator) -> np.ndarray:
    """Scores of 20 items a query, many of them equal."""
    return np.sort(rng.choice([-0.3, 0.1, 0.25, 0.9], (queries, 20)), axis=1)[:, ::-1]


def write_graded(folder: Path, gains: tuple[float, ...]) -> Pool:
    """Random lists of a task whose relevant pairs are listed with their gains, over ids with blanks."""
    rng = np.random.default_rng(1)
    items = [f"picture {n}" for n in range(30)]
    right = {
        f"query {n}": {items[row]: float(rng.choice(gains)) for row in rng.permutation(30)[: rng.integers(1, 15)]}
        for n in range(40)
    }
    about = TaskMetadata("Asked with a text", "it2i", 7)
    task = listed(folder.name, about, right, items, query_images=[items[n % 30] for n in range(40)])
    lists = [rng.permutation(30)[:20] for _ in right]
    return write_run(folder, task, np.array(lists), falling(len(right), rng), "both")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("exported")
    rng = np.random.default_rng(0)
    retrieval = {}
    for task in TASKS:
        pool = write_task(folder / "ranked" / task, rng)
        described = {"dataset": "d", "split": "test", "queries": len(pool.queries), "items": len(pool.items)}
        retrieval[task] = {"pool": described, "image": measure_run(pool, "image", PARAMS).means}
    export(folder / "ranked", retrieval, "clip", 1.5, folder / "out")
    return folder / "out", retrieval


@pytest.mark.parametrize("task", TASKS)
def test_trec_eval_reads_runs_and_qrels_and_agrees_although_scores_tie(exported: tuple[Path, dict], task: str) -> None:
    out, retrieval = exported
    with (out / f"trec/{task}.qrels").open() as file:
        qrels = pytrec_eval.parse_qrel(file)
    with (out / f"trec/{task}.image.run").open() as file:
        run = pytrec_eval.parse_run(file)
    names = {"ndcg_cut_10": "ndcg_at_10", "map_cut_5": "map_at_5", "P_5": "precision_at_5", "success_1": "hit_at_1"}
    names |= {"recall_10": "recall_at_10", "recip_rank": "mrr_at_10"}
    asked = {"ndcg_cut.10", "map_cut.5", "P.5", "success.1", "recall.10"}
    values = pytrec_eval.RelevanceEvaluator(qrels, asked).evaluate(run).values()
    assert len(values) == retrieval[task]["pool"]["queries"]
    for theirs, ours in names.items():
        if theirs != "recip_rank":  # not cut at 10
            mean = np.mean([value[theirs] for value in values])
            assert retrieval[task]["image"][ours] == pytest.approx(mean, abs=1e-6), ours


ODD = (
    "a b",
    "a%20b",
    "a%2520b",
    "100%",
    '"quoted"',
    "it's",
    "\u00a0",
    "\u2028x",
    "🐕",
    "été\t1",
    "#0",
    "%",
    "%25",
    "a  b",
)


def test_no_two_ids_become_one_and_trec_eval_agrees_on_odd_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    plain = _plain(list(ODD))
    assert len(set(plain)) == len(ODD)
    assert [unquote(name) for name in plain] == list(ODD)
    assert not any(character.isspace() for name in plain for character in name)
    items = [f"{name}{n}" for name in ODD for n in range(3)]
    right = {name: dict.fromkeys(rng.choice(items, 4, replace=False).tolist(), 1.0) for name in ODD}
    about = TaskMetadata("Asked with a text", "it2i", 7)
    task = listed("odd", about, right, items, query_images=[items[n] for n in range(len(ODD))])
    lists = np.array([rng.permutation(len(items))[:20] for _ in ODD])
    pool = write_run(tmp_path / "ranked/odd", task, lists, falling(len(ODD), rng), "both")
    means = measure_run(pool, "both", PARAMS).means
    described = {"dataset": "d", "split": "test", "queries": len(ODD), "items": len(items)}
    export(tmp_path / "ranked", {"odd": {"pool": described, "both": means}}, "clip", 1.5, tmp_path / "out")
    with (tmp_path / "out/trec/odd.qrels").open(encoding="utf-8") as file:
        qrels = pytrec_eval.parse_qrel(file)
    with (tmp_path / "out/trec/odd.both.run").open(encoding="utf-8") as file:
        run = pytrec_eval.parse_run(file)
    asked = {"ndcg_cut.10": "ndcg_at_10", "map_cut.5": "map_at_5", "P.5": "precision_at_5", "recall.10": "recall_at_10"}
    values = pytrec_eval.RelevanceEvaluator(qrels, set(asked)).evaluate(run)
    assert {unquote(name) for name in values} == set(ODD)
    for theirs, ours in asked.items():
        mean = np.mean([value[theirs.replace(".", "_")] for value in values.values()])
        assert means[ours] == pytest.approx(mean, abs=1e-6), ours


@pytest.mark.parametrize("task", TASKS)
def test_ranx_reads_runs_and_qrels_and_agrees_although_scores_tie(exported: tuple[Path, dict], task: str) -> None:
    """ranx is not pinned, because it brings numba and pandas along: `pip install ranx` for this test."""
    ranx = pytest.importorskip("ranx", reason="ranx is not pinned, because it brings numba and pandas along")
    out, retrieval = exported
    qrels = ranx.Qrels.from_file(str(out / f"trec/{task}.qrels"), kind="trec")
    run = ranx.Run.from_file(str(out / f"trec/{task}.image.run"), kind="trec")
    theirs = {"hit_rate": "hit"} | {name: name for name in ("precision", "recall", "mrr", "ndcg", "map")}
    asked = {f"{name}@{k}": f"{ours}_at_{k}" for name, ours in theirs.items() for k in PARAMS.ks}
    for name, value in ranx.evaluate(qrels, run, list(asked)).items():
        assert retrieval[task]["image"][asked[name]] == pytest.approx(value, abs=1e-6), name


def test_the_lines_of_a_run_have_six_columns_and_its_scores_fall(exported: tuple[Path, dict]) -> None:
    lines = (exported[0] / "trec/caption_to_image.image.run").read_text().splitlines()
    assert len(lines) == 150 * 20
    columns = [line.split(" ") for line in lines]
    assert {len(row) for row in columns} == {6}
    assert columns[0][:2] == ["picture%200#0", "Q0"]
    assert columns[0][5] == "clip.image"
    scores = np.array([np.float32(row[4]) for row in columns]).reshape(150, 20)
    assert (np.diff(scores, axis=1) < 0).all()


def test_trec_eval_reads_gains_and_agrees(tmp_path: Path) -> None:
    pool = write_graded(tmp_path / "ranked/with_a_text", (1, 2, 3, 5))
    means = measure_run(pool, "both", PARAMS).means
    described = {"dataset": "d", "split": "test", "queries": 40, "items": 30}
    export(tmp_path / "ranked", {"with_a_text": {"pool": described, "both": means}}, "clip", 1.5, tmp_path / "out")
    with (tmp_path / "out/trec/with_a_text.qrels").open() as file:
        qrels = pytrec_eval.parse_qrel(file)
    with (tmp_path / "out/trec/with_a_text.both.run").open() as file:
        run = pytrec_eval.parse_run(file)
    assert {gain for of in qrels.values() for gain in of.values()} == {1, 2, 3, 5}
    names = {"ndcg_cut_10": "ndcg_at_10", "ndcg_cut_5": "ndcg_at_5", "map_cut_5": "map_at_5", "P_5": "precision_at_5"}
    names |= {"success_1": "hit_at_1", "recall_10": "recall_at_10"}
    asked = {"ndcg_cut.5,10", "map_cut.5", "P.5", "success.1", "recall.10"}
    values = pytrec_eval.RelevanceEvaluator(qrels, asked).evaluate(run).values()
    assert len(values) == 40
    for theirs, ours in names.items():
        assert means[ours] == pytest.approx(np.mean([value[theirs] for value in values]), abs=1e-6), ours
    result = json.loads((tmp_path / "out/mteb/clip.both/with_a_text.json").read_text())
    assert result["task_name"] == "TwinLens.d.with_a_text.it2i"
    assert result["scores"]["test"][0]["main_score"] == means["ndcg_at_10"]


def test_gains_that_are_no_whole_numbers_are_refused(tmp_path: Path) -> None:
    pool = write_graded(tmp_path / "with_a_text", (0.5, 1))
    with pytest.raises(DataError, match="with_a_text: gains that are no whole numbers cannot be written"):
        write_qrels(pool, tmp_path / "with_a_text.qrels")


def test_a_protocol_of_a_source_is_not_exported(tmp_path: Path) -> None:
    pool = write_task(tmp_path / "ranked/caption_to_image", np.random.default_rng(0))
    copy = restate_as_published(pool.task)
    shutil.copytree(pool.folder, tmp_path / "ranked" / copy.name)
    copy.write(tmp_path / "ranked" / copy.name)
    described = {"dataset": "d", "split": "test"}
    retrieval = {"caption_to_image": {"pool": described, "image": measure_run(pool, "image", PARAMS).means}}
    written = export(tmp_path / "ranked", retrieval, "clip", 1.5, tmp_path / "out")
    assert {path.name for path in written} == {
        "caption_to_image.qrels",
        "caption_to_image.image.run",
        "caption_to_image.json",
    }


def test_lowered_scores_stay_close() -> None:
    scores = np.array([[0.9, 0.5, 0.5, 0.5, -0.2], [1.0, 1.0, 1.0, 1.0, 1.0]], np.float32)
    falling = lower_ties(scores)
    assert (np.diff(falling, axis=1) < 0).all()
    np.testing.assert_allclose(falling, scores, atol=1e-6)


def test_results_of_mteb_have_its_keys_and_names(exported: tuple[Path, dict]) -> None:
    out, retrieval = exported
    result = json.loads((out / "mteb/clip.image/caption_to_image.json").read_text())
    assert set(result) == {
        "dataset_revision",
        "task_name",
        "mteb_version",
        "scores",
        "evaluation_time",
        "kg_co2_emissions",
    }
    (scores,) = result["scores"]["test"]
    assert scores["main_score"] == scores["ndcg_at_10"] == retrieval["caption_to_image"]["image"]["ndcg_at_10"]
    assert scores["hit_rate_at_1"] == retrieval["caption_to_image"]["image"]["hit_at_1"]
    assert not [name for name in scores if name.startswith("macro")]


def test_rows_of_clip_benchmark_call_a_hit_recall(exported: tuple[Path, dict]) -> None:
    out, retrieval = exported
    with (out / "clip_benchmark.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["image_retrieval_recall@5"]) == retrieval["caption_to_image"]["image"]["hit_at_5"]
    assert float(row["text_retrieval_recall@5"]) == retrieval["image_to_caption"]["image"]["hit_at_5"]
    assert row["task"] == "zeroshot_retrieval"
    assert build_clip_benchmark_rows({"object_sets": retrieval["object_sets"]}, "clip") == []


def test_without_runs_the_message_says_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no runs: `dvc repro rank`"):
        export(tmp_path / "none", {}, "clip", 0.0, tmp_path / "out")
