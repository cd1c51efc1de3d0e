"""The report, made from a small pool by hand and opened in a browser: its tables, its pictures, its bad input."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from markupsafe import escape

from tests.experiments import alone, experiment
from tests.ranked import listed, write_pool, write_run
from tests.tiny import jpegs, write_shards
from tools import readme
from twinlens.config.datasets import FolderCard
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.config.params import EvaluateParams, HybridParams, ReportParams
from twinlens.core import tables
from twinlens.core.vectors import Vectors
from twinlens.datasets.statistics import describe_dataset
from twinlens.evaluation.candidates import Candidate
from twinlens.evaluation.card_figures import HeldFigure
from twinlens.evaluation.compare import Difference, compare
from twinlens.evaluation.cost import build_quality_cost_rows
from twinlens.evaluation.distractors import build_curve
from twinlens.evaluation.draws import read_draws
from twinlens.evaluation.evaluate import measure_all_runs
from twinlens.evaluation.measures import MEASURES, Judged, Values, measure
from twinlens.evaluation.pool import Pool
from twinlens.images.duplicates import Duplicates
from twinlens.report import charts, comparison_page, galleries
from twinlens.report.exports import convert_to_mteb, export
from twinlens.report.page import ReportData, build_budget_section, build_confidence_section, number_retrievers, render
from twinlens.report.summary import format_results_table, summarise_results
from twinlens.retrieval.base import Corpus
from twinlens.retrieval.rank import search
from twinlens.retrieval.registry import list_retrievers
from twinlens.tasks import captions as of_texts
from twinlens.tasks import object_sets
from twinlens.tasks.base import TaskMetadata
from twinlens.tasks.collection import Collection
from twinlens.tasks.inputs import CAPTIONS, GENERATED, IMAGES, JOINED

if TYPE_CHECKING:
    from playwright.sync_api import Browser

COUNT = 24
NASTY = """<script>document.title='taken'</script> & "quotes" 'n' {{ 7 * 7 }} <img src=x onerror=alert(1)>"""
PARAMS = EvaluateParams(ks=[1, 10], referee_queries=2, resamples=100, seed=0)
SHOWN = ReportParams(queries=2, found=4, thumbnail_px=48)
APPROXIMATE = [
    {"setting": "exact, numpy", "recall": 1.0, "ms_per_query": 0.5, "build_s": 0.0, "index_mb": 0.0},
    {"setting": "ivf_flat_1_of_16", "recall": 0.6125, "ms_per_query": 0.25, "build_s": 0.03, "index_mb": 0.52},
]
BUDGET = [
    {
        "setting": name, "bytes": item_bytes, "ms_per_query": 0.5, "recall": 0.99, "hit": 0.8, "hit_difference": lost,
        "hit_low": lost - 0.002, "hit_high": lost + 0.002, "ndcg": 0.5, "ndcg_difference": lost, "ndcg_low": None,
        "ndcg_high": None, "hit_least": lost - 0.003, "recommended": name == "int8", "k": 10, "tolerance": 0.01,
    }
    for name, item_bytes, lost in (("float32", 2048.0, 0.0), ("int8", 512.0, -0.002))
]  # fmt: skip
CONFIDENCE = {
    "rule": {"temperature": 0.02, "thresholds": {"0.8": 0.5, "0.9": 0.75}, "pictures": 200, "captions": 1000},
    "why": "",
    "figures": {"hit_at_1": 0.5, "auroc_softmax": 0.81, "auroc_cosine": 0.61},
}
COVERAGE = [
    {"signal": 0.8, "coverage": 0.1, "precision": 0.97, "promise": 0.9},
    {"signal": 0.75, "coverage": 0.2, "precision": 0.95, "promise": 0.9},
    {"signal": 0.5, "coverage": 0.4, "precision": 0.86, "promise": 0.8},
    {"signal": 0.1, "coverage": 1.0, "precision": 0.5, "promise": None},
]
NO_COPIES = Duplicates(pl.DataFrame(pl.from_arrow(tables.DUPLICATES.empty_table())), set())


def vectors(ids: list[str], image_ids: list[str], seed: int) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((len(ids), 6))
    return Vectors(ids, image_ids, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportData, Path]:
    """What the stages would have left: 24 pictures of three object sets, five captions each, one of them nasty."""
    folder = tmp_path_factory.mktemp("report")
    rows = write_shards(jpegs(COUNT), folder / "shards", per_shard=10)
    ids = rows["image_id"].to_list()
    sets = [("cat", "cat,dog", "car")[n % 3] for n in range(COUNT)]
    groups = rows.with_columns(split=pl.lit("test"), in_pool=pl.lit(True), object_set=pl.Series(sets))
    captions = pl.DataFrame(
        [
            {"caption_id": f"{i}#{n}", "image_id": i, "text": NASTY if n == 0 else f"caption {n} of {i}"}
            for i in ids
            for n in range(5)
        ]
    )
    generated = pl.DataFrame({"image_id": ids, "text": [f"a machine's {NASTY}"] * COUNT})
    images = pl.DataFrame({"image_id": ids, "labels": [s.split(",") for s in sets]})
    every = {
        IMAGES: vectors(ids, ids, 1),
        CAPTIONS: vectors(captions["caption_id"].to_list(), captions["image_id"].to_list(), 2),
        JOINED: vectors(ids, ids, 3),
        GENERATED: vectors(ids, ids, 4),
    }
    hybrid = HybridParams(rrf_constant=60, rrf_depth=1000, image_weight=0.3, validation_pictures=0, seed=0)
    params = read_params().model_copy(update={"hybrid": hybrid})
    gates, none = Gates(params.gates), generated.clear()
    collection = Collection(groups, images, captions, generated, none, pl.DataFrame())
    corpus = Corpus(every, collection.texts, joint=True)
    for task in (task for make in (object_sets.build, of_texts.build) for task in make(collection, params)[0]):
        task.write(folder / "ranked" / task.name)
        for retriever in list_retrievers(task, corpus, params):
            search(task, retriever, 20, "cpu", folder / "ranked" / task.name, gates)
    write_pool(folder / "ranked")
    results = measure_all_runs(folder / "ranked", "d", PARAMS, gates, folder / "evaluated")
    pools = Pool.read_all(folder / "ranked")
    part = {"items_per_s": 10.0, "items": 24, "seconds": 2.4, "dim": 6, "vector_bytes": 24, "parameters": 99}
    names = ("images", "captions", "captions_joined", "captions_generated")
    words = [f"rank_bm25_{kind}" for kind in ("captions", "generated", "captions_and_generated")]
    costs = {
        "stages": {"embed": {"seconds": 1.0, "items": 24, "items_per_s": 24.0, "peak_host_mb": 10.0, "device": "cpu"}},
        "parts": dict.fromkeys(("caption_caption", *(f"embed_{name}" for name in names), *words), part),
    }
    metrics = {
        "retrieval": results.retrieval,
        "intervals": results.intervals,
        "as_published": results.as_published,
        "gates": {"found": {"chance_level": [NASTY]}},
        "cost": costs,
        "captions": {"captions": 24, "names_exactly": 0.5},
    }
    made = ReportData(
        names={"dataset": "d", "model": "m", "captioner": "c"},
        cards={"model": {"about": {"licence": NASTY}}},
        metrics=metrics,
        at_k=pl.DataFrame(results.curves),
        quality_cost=pl.DataFrame(build_quality_cost_rows(results.retrieval, results.costs, costs, 10)),
        distractors=pl.DataFrame(build_curve(folder / "ranked", 10)),
        approximate=pl.DataFrame(APPROXIMATE),
        budget=pl.DataFrame(BUDGET),
        confidence=CONFIDENCE,
        coverage=pl.DataFrame(COVERAGE),
        described=describe_dataset(
            "d",
            FolderCard.model_validate({"adapter": "folder", "images": "$MINE", "about": {"licence": NASTY}}),
            {"images": {"found": 30, "kept": 25}, "captions": {"found": 123, "kept": 120}, "dropped": {NASTY: 3}},
            images.with_columns(split=pl.lit("test")),
            captions,
            pl.DataFrame({"image_id": ["x"], "kept": [False], "note": ["broken"]}),
            groups,
            NO_COPIES,
        ),
        duplicates=NO_COPIES.table,
        parts={},
        groups=groups,
        pools=pools,
        values={
            (pool.name, name): pl.read_parquet(folder / f"evaluated/{pool.name}/{name}.parquet")
            for pool in pools
            for name in pool.retrievers
        },
        figures=[
            HeldFigure(NASTY, "flickr30k, test", "caption_to_image", "hit_at_1", 0.6678, 0.61, 0.59, 0.63, []),
            HeldFigure("b", "coco, test", "caption_to_image", "hit_at_1", 0.4, 0.5, 0.4, 0.6, ["pool: 12 pictures"]),
        ],
        album=galleries.Album.of(images, captions, generated),
    )
    return made, folder


@pytest.fixture(scope="module")
def page(sources: tuple[ReportData, Path]) -> str:
    made, folder = sources
    shown = [
        galleries.make_gallery(pool, name, made.values[pool.name, name], made.album, "ndcg_at_10", SHOWN)
        for pool in made.pools
        for name in pool.retrievers
    ]
    wanted = {image_id for gallery in shown for image_id in gallery.pictures}
    return render(made, shown, galleries.make_thumbnails(wanted, made.groups, folder / "shards", 48))


class Reader(HTMLParser):
    """Tables as lists of rows of text, and the sources of pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.pictures: list[str] = []
        self.scripts = 0
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = True
        elif tag == "small" and self.inside:
            self.tables[-1][-1][-1] += " "
        elif tag == "img":
            self.pictures.append(dict(attrs)["src"] or "")
        elif tag == "script":
            self.scripts += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.tables[-1][-1][-1] += data


RUNS = (6 + 2) + (3 + 9) + 3  # of vectors, and by words
PICTURES = RUNS * 3 * 2 * (1 + 4)  # kinds, queries of each, itself and what it found


def check(text: str, made: ReportData) -> None:
    """The same of the file as of what a browser made of it."""
    read = Reader(text)
    assert len(read.pictures) == PICTURES
    assert all(source.startswith("data:image/jpeg;base64,") for source in read.pictures)
    assert read.scripts == 0
    results = next(table for table in read.tables if table[0][0] == "a picture is fed as")
    best = results[1]
    values = made.metrics["retrieval"]["object_sets"][best[0]]
    interval = made.metrics["intervals"]["object_sets"][best[0]]["hit_at_10"]
    assert (
        best[results[0].index("hit@10")]
        == f"{values['hit_at_10']:.3f} {interval['low']:.3f}\N{EN DASH}{interval['high']:.3f}"
    )
    assert len(results) == 1 + 8
    assert sum(table[0][0] == "the query's picture shows" for table in read.tables) == 3
    settings = next(table for table in read.tables if table[0][0] == "setting")
    assert settings[1:] == [
        ["exact, numpy", "1.000", "0.50", "0.00", "0.00"],
        ["ivf flat 1 of 16", "0.613", "0.25", "0.03", "0.52"],
    ]


def test_the_file_says_what_the_metrics_say_and_needs_nothing_from_elsewhere(
    page: str, sources: tuple[ReportData, Path]
) -> None:
    check(page, sources[0])
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "@import" not in page
    assert "url(" not in page


def test_a_measure_that_is_registered_is_seen_everywhere(
    sources: tuple[ReportData, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, folder = sources
    asked = []

    def by_loop(one: Judged, k: int) -> float:
        asked.append(k)
        return float(sum(0.5**rank for rank, gain in enumerate(one.gains[0, :k], start=1) if gain > 0))

    monkeypatch.setitem(MEASURES, "halving", MEASURES["hit"])  # so that it is taken out again
    del MEASURES["halving"]

    @measure(
        "halving",
        title="Halving",
        also="nothing",
        referee=by_loop,
        headline=True,
        drawn=True,
        macro=True,
        mteb="half_life",
    )
    def halving(judged: Judged, k: int) -> Values:
        """Sum of 1/2^i over the relevant ranks i <= k."""
        top = judged.relevance[:, :k]
        return np.asarray(top @ (0.5 ** np.arange(1, top.shape[1] + 1)))

    results = measure_all_runs(folder / "ranked", "d", PARAMS, Gates(read_params().gates), tmp_path)
    runs = sum(len(read_draws(pool, name)) for pool in made.pools for name in pool.retrievers)
    assert len(asked) == runs * PARAMS.referee_queries * len(PARAMS.ks)
    assert "macro_halving_at_10" in results.retrieval["object_sets"]["image"]

    costs = build_quality_cost_rows(results.retrieval, results.costs, made.metrics["cost"], 10)
    assert costs[0]["halving"] == results.retrieval["object_sets"][costs[0]["retriever"]]["halving_at_10"]
    assert "halving_at_10" in format_results_table(results.retrieval, 10).splitlines()[0]
    scores = convert_to_mteb(made.pools[0].task, results.retrieval["object_sets"], "image", 0.0)["scores"]["test"][0]
    assert "half_life_at_1" in scores
    assert "| Halving@10 |" in readme.format_results(results.retrieval)
    listed = next(line for line in readme.format_measures().splitlines() if "`halving_at_k`" in line)
    assert [cell.strip() for cell in listed.split("|")[2:4]] == [halving.description, "nothing"]
    assert halving.description == "Sum of 1/2^i over the relevant ranks i <= k"

    changed = replace(
        made,
        metrics=made.metrics | {"retrieval": results.retrieval, "intervals": results.intervals},
        at_k=pl.DataFrame(results.curves),
        quality_cost=pl.DataFrame(costs),
    )
    text = render(changed, [], {})
    assert "halving@10" in next(table for table in Reader(text).tables if table[0][0] == "a picture is fed as")[0]
    assert text.count("<figcaption>Halving@10") == text.count("<figcaption>Halving against k") == len(made.pools)


def test_a_task_that_nobody_knows_by_name_is_told_everywhere(sources: tuple[ReportData, Path], tmp_path: Path) -> None:
    made, folder = sources
    pictures = made.groups["image_id"].to_list()
    rng = np.random.default_rng(5)
    gains = {
        f"ask {n}": {pictures[row]: float(rng.integers(1, 4)) for row in rng.permutation(20)[: 1 + n % 5]}
        for n in range(30)
    }
    about = TaskMetadata("Redress: a garment, changed by <words>", "it2i", 1)  # between tasks that are there
    texts, asked_with = [f"in colour {n}" for n in range(30)], [pictures[n % COUNT] for n in range(30)]
    task = listed("redress", about, gains, pictures, query_images=asked_with, texts=texts)
    shutil.copytree(folder / "ranked", tmp_path / "ranked")
    rows = np.array([rng.permutation(COUNT)[:20] for _ in gains])
    scores = np.tile(np.linspace(1, 0, 20), (len(gains), 1))
    write_run(tmp_path / "ranked/redress", task, rows, scores, "sum_of_both", inputs=(IMAGES,))
    results = measure_all_runs(tmp_path / "ranked", "d", PARAMS, Gates(read_params().gates), tmp_path / "evaluated")
    order = ["object_sets", "caption_to_image", "redress", "image_to_caption"]
    costs = build_quality_cost_rows(results.retrieval, results.costs, made.metrics["cost"], 10)
    among = build_curve(tmp_path / "ranked", 10)
    for rows_of_plot in (results.curves, costs, among):
        assert list(dict.fromkeys(row["task"] for row in rows_of_plot)) == order
    assert {row["retriever"]: row["ms_per_picture"] for row in costs}["sum_of_both"] == 100
    assert max(row["distractors"] for row in among if row["task"] == "redress") >= 4  # the last four pictures

    told = [
        line.split("|")[1].strip()
        for line in format_results_table(results.retrieval, 10).splitlines()[2:]
        if "|" in line
    ]
    assert list(dict.fromkeys(told)) == order
    assert list(summarise_results(results.retrieval, costs, 10)["ndcg"]) == order
    assert "| redress          | `sum_of_both`" in readme.format_results(results.retrieval)
    assert "redress: 30 queries, 24 items, chance hit@10" in readme.format_results(results.retrieval)

    export(tmp_path / "ranked", results.retrieval, "m", 0.0, tmp_path / "exports")
    written = json.loads((tmp_path / "exports/mteb/m.sum_of_both/redress.json").read_text())
    assert written["task_name"] == "TwinLens.d.redress.it2i"
    assert (tmp_path / "exports/trec/redress.qrels").read_text().count("\n") == sum(map(len, gains.values()))
    assert (tmp_path / "exports/trec/redress.sum_of_both.run").exists()

    pools = Pool.read_all(tmp_path / "ranked")
    values = {
        (pool.name, name): pl.read_parquet(tmp_path / f"evaluated/{pool.name}/{name}.parquet")
        for pool in pools
        for name in pool.retrievers
    }
    changed = replace(
        made,
        metrics=made.metrics | {"retrieval": results.retrieval, "intervals": results.intervals},
        at_k=pl.DataFrame(results.curves),
        quality_cost=pl.DataFrame(costs),
        distractors=pl.DataFrame(among),
        pools=pools,
        values=values,
    )
    mine = values["redress", "sum_of_both"]
    gallery = galleries.make_gallery(pools[2], "sum_of_both", mine, made.album, "ndcg_at_10", SHOWN)
    text = render(changed, [gallery], dict.fromkeys(pictures, "data:,"))
    titles = [pool.task.about.title for pool in pools]
    assert titles[2] == about.title
    places = [text.index(str(escape(title))) for title in titles]
    assert places == sorted(places)
    heads = [table[0][:2] for table in Reader(text).tables if table[0][0] == "a picture is fed as"]
    assert [second == "wrong" for _, second in heads] == [False] * 4 + [True] * 4  # measures, then mistakes
    for figure in ("hit at 10", "nDCG at 10", "hit against k", "nDCG against k", "hit against distractors"):
        assert f"<title>redress: {figure}</title>" in text
    assert "<title>redress: quality against cost</title>" in text
    assert any(f"in colour {n}" in text for n in range(30))  # what the gallery's queries say

    both, found = one_better(tmp_path, "redress")
    (task_of_comparison,) = comparison_page.tabulate_side_by_side(both, found)
    assert task_of_comparison["title"] == about.title


def one_better(folder: Path, task: str) -> tuple[list[Candidate], list[Difference]]:
    """Two experiments that differ in one task, and the differences."""
    pool = Pool.read(folder / "ranked" / task)
    rows = pool.read_lists(pool.retrievers[0]).rows
    both = alone(
        *(
            experiment(name, pool.task, {"image": own}, title=pool.task.about.title)
            for name, own in (("a", rows), ("b", rows[:, ::-1]))
        )
    )
    return both, compare(both, ["ndcg_at_10"])


def test_retrievers_keep_the_colours_of_what_they_are_fed(sources: tuple[ReportData, Path]) -> None:
    made, _ = sources
    names = list(number_retrievers(made))
    fed = {name: len(pool.told(name)["inputs"]) for pool in made.pools for name in pool.retrievers}
    assert [fed[name] > 1 for name in names] == sorted(fed[name] > 1 for name in names)
    assert {"hybrid_captions_rrf", "image_and_caption_generated"} <= set(names[-sum(n > 1 for n in fed.values()) :])


def test_weights_of_hybrids_are_told_and_whether_they_were_chosen(page: str, sources: tuple[ReportData, Path]) -> None:
    weighted = sources[0].metrics["retrieval"]["caption_to_image"]["hybrid_captions_weighted"]
    assert weighted["image_weight"] == 0.3
    assert "hybrid_captions_weighted 0.30 (fixed: there was nothing to choose it on)" in page


def test_more_series_than_colours_are_told_apart_by_their_markers_and_dashes() -> None:
    number = range(3 * charts.SERIES)
    assert len({charts.draw_marker(n, 0, 0) for n in number}) == len(number)
    drawn = [charts.draw_lines([charts.Series("s", n, [(1, 0.5), (9, 0.5)])], "x", "y", "t") for n in number]
    assert len({re.sub(r"<g class.*?</g>", "", one) for one in drawn}) == len(number)


def test_everything_that_comes_from_data_is_escaped(page: str) -> None:
    assert "<script" not in page
    assert "onerror=alert(1)>" not in page
    assert str(escape(NASTY)) in page
    assert "{{ 7 * 7 }}" in page  # a caption is no template


def test_published_figures_stand_beside_ours_only_where_they_are_about_the_same(
    sources: tuple[ReportData, Path],
) -> None:
    made, _ = sources
    assert 'id="published"' not in render(made, [], {})
    same = replace(made, names={"dataset": "coco", "model": "vit-l-14", "captioner": "none"})
    tables = Reader(render(same, [], {})).tables
    rows = next(table for table in tables if {"source", "fed as"} <= set(table[0]))
    assert rows[2][2:5] == ["image and captions joined", "mrr", "0.4940"]
    assert len(rows) == 1 + 2 * 5


def test_what_is_published_of_the_model_stands_there_with_the_conditions_that_differ(
    page: str, sources: tuple[ReportData, Path]
) -> None:
    section = page.partition('id="published-of-the-model"')[2].partition("</section>")[0]
    assert "<td>0.6678</td><td>0.6100</td><td>-0.0578</td><td>none that is known</td>" in section
    assert "<td>+0.1000</td><td>pool: 12 pictures</td>" in section
    assert 'id="published-of-the-model"' not in render(replace(sources[0], figures=[]), [], {})


def test_the_vector_budget_has_a_table_a_chart_and_a_sentence(page: str) -> None:
    told = "int8: hit@10 0.800 is within 0.004 of float32&#39;s, at 0.25 of the bytes (512 for 2048 a picture)"
    assert told in page
    assert "</svg>int8 ✓</th><td>512</td><td>0.50</td><td>0.990</td><td>0.800</td><td>-0.0020" in page
    assert "<small>-0.0040 to +0.0000</small>" in page
    assert 'aria-label="vector budget: hit, bytes"' in page
    none = build_budget_section(pl.DataFrame(BUDGET).clear())
    assert none["rows"] == []
    assert none["recommended"].startswith("Not measured")


def test_each_promise_of_the_first_picture_stands_where_most_is_answered_with_it(
    page: str, sources: tuple[ReportData, Path]
) -> None:
    assert '<th scope="row">90 %</th><td>0.750</td><td>20 %</td><td>95.0 %</td>' in page
    assert '<th scope="row">80 %</th><td>0.500</td><td>40 %</td><td>86.0 %</td>' in page
    assert "that nothing is there cannot be told from the scores" in page
    none = build_confidence_section({"rule": None, "why": "no split", "figures": {}}, sources[0].coverage.clear())
    assert (none["promises"], none["chart"]) == ([], "")


def test_hits_and_misses_are_told_by_words_too(page: str) -> None:
    hits, misses = page.count('<li class="hit">'), page.count('<li class="miss">')
    assert hits + misses == RUNS * 3 * 2 * 4
    assert min(hits, misses) > 0
    assert page.count("✓ hit <span>") == hits
    assert page.count("✗ miss <span>") == misses


@pytest.mark.slow
def test_a_browser_shows_the_same_tables_and_pictures(
    page: str, sources: tuple[ReportData, Path], chromium: str, tmp_path: Path
) -> None:
    path = tmp_path / "index.html"
    path.write_text(page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    done = subprocess.run([chromium, *flags, path.as_uri()], capture_output=True, text=True, timeout=600, check=True)
    check(done.stdout, sources[0])
    assert "<title>TwinLens: m on d</title>" in done.stdout  # no caption ran


@pytest.mark.slow
def test_on_a_phone_no_name_is_cut_into_letters(
    browser: Browser, sources: tuple[ReportData, Path], tmp_path: Path
) -> None:
    path = tmp_path / "index.html"
    path.write_text(render(replace(sources[0], answers={"object_sets": f"Take {NASTY}."}), [], {}), encoding="utf-8")
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(path.as_uri())
    narrow = page.evaluate(
        "[...document.querySelectorAll('.wide tbody th')].filter(e => e.clientWidth && e.clientWidth < 100).length"
    )
    unnamed = page.evaluate(
        "[...document.querySelectorAll('.results td')].filter(e => e.innerText && !e.dataset.measure).length"
    )
    page.close()
    assert (narrow, unnamed) == (0, 0)


def test_what_to_take_is_said_at_the_top(page: str, sources: tuple[ReportData, Path]) -> None:
    assert "In a sentence" not in page  # there was nothing to choose from
    said = render(replace(sources[0], answers={"object_sets": f"Take {NASTY}."}), [], {})
    assert f"<dd>Take {escape(NASTY)}.</dd>" in said
    assert said.index("In a sentence") < said.index('<section id="object_sets">')


def test_what_stands_between_backticks_is_code_and_is_escaped(sources: tuple[ReportData, Path]) -> None:
    metrics = sources[0].metrics | {"gates": {"found": {"chance_level": ["raise `<b>`, or `c`"]}}}
    page = render(replace(sources[0], metrics=metrics), [], {})
    assert "raise <code>&lt;b&gt;</code>, or <code>c</code></li>" in page


def test_best_typical_and_worst_queries_are_what_they_are_called() -> None:
    table = pl.DataFrame(
        {
            "query_id": [f"q{n}" for n in range(5)],
            "ndcg_at_10": [0.0, 1.0, 0.5, 0.0, 0.9],
            "first_hit": [90, 1, 3, 20, 1],
        }
    )
    assert galleries.choose_examples(table, "ndcg_at_10", 2) == {"best": [1, 4], "typical": [2, 4], "worst": [0, 3]}


def test_the_section_on_data_says_what_the_datasets_card_says(page: str, sources: tuple[ReportData, Path]) -> None:
    facts = dict(next(table for table in Reader(page).tables if table[0][0] == "licence"))
    assert facts["pictures"] == "30 found, 25 after filter, 24 after resize, 24 after duplicates, 24 in pool"
    assert facts["captions"] == "123 found, 120 kept"
    assert facts["set aside"] == "1 broken"
    assert facts["dropped"] == f"3 {NASTY}"
    assert facts["copies"].startswith("0 exact; 0 near; 0 leaks; 0 dropped")
    assert "<span>cat 16</span>" in page


def test_hit_against_distractors_is_drawn_where_there_are_distractors(sources: tuple[ReportData, Path]) -> None:
    made, _ = sources
    assert "against distractors" not in render(made, [], {})
    rows = [
        {"task": "caption_to_image", "retriever": name, "distractors": size, "hit": hit}
        for name in ("image", "captions_joined")
        for size, hit in ((0, 0.9), (1, 0.8), (10, 0.7), (60_000, 0.1))
    ]
    page = render(replace(made, distractors=pl.DataFrame(rows)), [], {})
    assert page.count("<figcaption>hit@10 against distractors") == 1
    assert "of the 60,000" in page
    (chart,) = re.findall(r"<title>caption_to_image: hit against distractors</title>.*?</svg>", page)
    curve_of_image = re.findall(r'<path class="line [^"]*" d="M([^"]*)"', chart)[0].split("L")
    across = [float(place.split()[0]) for place in curve_of_image]
    assert across[0] == 52.0  # none at the left edge
    assert across == sorted(set(across))
    assert ">10,000</text>" in chart


def test_the_frontier_holds_what_nothing_beats_in_both() -> None:
    assert charts.find_frontier([(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7), (4, 0.9)]) == [(1, 0.5), (2, 0.7), (3, 0.9)]


def test_a_chart_without_points_or_intervals_is_drawn_without() -> None:
    assert charts.draw_scatter([charts.Series("a", 0, [(0.0, 0.5)])], "x", "y", "t") == ""
    drawn = charts.draw_forest([charts.Bar("<b>", 1, 0.5, None, None)], "t & t")
    assert "interval" not in drawn
    assert "&lt;b&gt;" in drawn
    assert "t &amp; t" in drawn


def test_the_page_tells_what_is_distinct_and_the_best_possible(sources: tuple[ReportData, Path]) -> None:
    made, _ = sources
    retrieval = {task: dict(results) for task, results in made.metrics["retrieval"].items()}
    allowed = {"distinct_queries": 97, "ceiling": {"hit_at_10": 0.977, "mrr_at_10": 0.7, "ndcg_at_10": 0.7669}}
    retrieval["caption_to_image"]["pool"] = retrieval["caption_to_image"]["pool"] | allowed
    page = render(replace(made, metrics=made.metrics | {"retrieval": retrieval}), [], {})
    assert page.count("best possible MRR@10 0.700, nDCG@10 0.767, hit@10 0.977. Equal texts get equal scores") == 1
    assert "120 queries of which 97 distinct, 24 items" in page
    (foot,) = re.findall(r"<tfoot>(.*?)</tfoot>", page, re.DOTALL)
    assert re.findall(r"<td[^>]*>([^<]*)</td>", foot)[:3] == ["0.700", "0.767", ""]  # MAP's is not known


def test_each_task_has_a_legend_in_the_order_of_its_table(page: str) -> None:
    for section in re.findall(r'<section id="\w+">.*?</section>', page, re.DOTALL):
        if 'class="legend"' not in section:
            continue
        names = r"</svg>([\w]+)</"
        table, legend = section.split('<ul class="legend"', 1)
        shown = re.findall(names, legend.split("</ul>", 1)[0])
        assert shown
        assert shown == re.findall(names, table.split("<tbody>", 1)[1].split("</tbody>", 1)[0])
    assert page.index('<ul class="legend"') > page.index("<section")  # none is far from its charts


def test_on_a_phone_each_value_says_what_it_is(page: str) -> None:
    cells = re.findall(r'<td data-measure="([^"]+)">', page)
    assert {"ndcg@10", "hit@10", "median rank"} <= set(cells)
    assert "content: attr(data-measure)" in page


def test_a_chart_that_stands_alone_is_as_wide_as_others(page: str) -> None:
    assert page.count("auto-fill, minmax(min(430px") == 1
    assert "auto-fit" not in page
