"""The report page: everything the pipeline knows of one experiment, gathered and rendered."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import polars as pl

from twinlens import __version__
from twinlens.config.gates import read_warnings
from twinlens.evaluation.caption_quality import WORD
from twinlens.evaluation.card_figures import HeldFigure
from twinlens.evaluation.measures import MAIN, drawn, headline
from twinlens.evaluation.pool import Pool
from twinlens.evaluation.recommendation import say_recommended
from twinlens.report import charts, galleries, mistakes
from twinlens.report.charts import Bar, Series
from twinlens.report.published import select_published
from twinlens.report.serving import build_serving_section
from twinlens.report.summary import describe_bounds
from twinlens.report.summary import select_shown as those_in
from twinlens.report.templates import load_template

LIBRARIES = (
    "dvc",
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "transformers",
    "sentence-transformers",
    "torchmetrics",
    "numpy",
    "polars",
    "pyarrow",
)
CATEGORIES = 40  # at most, the most frequent


@dataclass(frozen=True)
class ReportData:
    """Data of the report, as the stages left them."""

    names: dict[str, str]  # dataset, model, captioner
    cards: dict[str, dict[str, Any]]
    metrics: dict[str, Any]  # content of metrics/<name>.json
    at_k: pl.DataFrame
    quality_cost: pl.DataFrame
    distractors: pl.DataFrame  # hit against their number
    approximate: pl.DataFrame  # recall and latency of each setting
    budget: pl.DataFrame  # quality, bytes and latency of vectors in fewer bytes
    confidence: dict[str, Any]  # the rule of how sure the first picture is, or why there is none
    coverage: pl.DataFrame  # what is answered against what is right of it, on validation captions
    described: dict[str, Any]  # content of metrics/datasets/<dataset>.json
    duplicates: pl.DataFrame
    parts: dict[str, str]  # of a composed dataset: which of them a picture comes from
    groups: pl.DataFrame
    pools: list[Pool]
    values: dict[tuple[str, str], pl.DataFrame]  # of every query, by task and retriever
    album: galleries.Album
    figures: list[HeldFigure] = field(default_factory=list)  # what sources report of the model, beside ours
    unmeasured: list[str] = field(default_factory=list)  # why the model has no row of its own in a task
    answers: dict[str, str] = field(default_factory=dict)  # by task: which row to take, in a sentence

    @property
    def k(self) -> int:
        """The deepest cut."""
        first = self.metrics["retrieval"][self.pools[0].name]
        return max(int(name.rpartition("_")[2]) for name in first[self.pools[0].retrievers[0]] if "_at_" in name)


def render(sources: ReportData, shown: list[galleries.Gallery], thumbnails: dict[str, str]) -> str:
    """Render the page as HTML; everything that comes from data is escaped."""
    numbers = number_retrievers(sources)
    copies = mistakes.Copies.of(sources.duplicates)
    order = [pool.name for pool in sources.pools]
    tasks = [build_task_section(sources, pool, numbers) for pool in sources.pools]
    wrong = {
        pool.name: [
            mistakes.count_mistakes(pool, name, sources.values[pool.name, name], sources.album, copies, sources.parts)
            for name in _best_first(sources, pool)
        ]
        for pool in sources.pools
    }
    return load_template("page.html.j2").render(
        names=sources.names,
        cards={kind: json.dumps(card, indent=2, ensure_ascii=False) for kind, card in sources.cards.items()},
        k=sources.k,
        main=MAIN.title,
        unmeasured=sources.unmeasured,
        answers=sources.answers,
        gates=read_warnings(sources.metrics["gates"]),
        tasks=tasks,
        costs=sources.metrics["cost"],
        serving=build_serving_section(sources.metrics["cost"].get("serving", {}), order),
        captions=sources.metrics["captions"],
        mistakes=wrong,
        causes={task: mistakes.list_causes(runs, sources.parts) for task, runs in wrong.items()},
        approximate=build_approximate_section(sources.approximate),
        budget=build_budget_section(sources.budget),
        confidence=build_confidence_section(sources.confidence, sources.coverage),
        published=select_published(sources.names, sources.metrics),
        figures=sources.figures,
        galleries=sorted(shown, key=lambda g: (order.index(g.task), -_main(sources, g.task, g.retriever))),
        thumbnails=thumbnails,
        facts=gather_dataset_facts(sources),
        categories=sources.described["categories"],
        versions=list_versions(),
        level=next(iter(sources.metrics["intervals"].values()))["pool"]["level"],
    )


def number_retrievers(sources: ReportData) -> dict[str, int]:
    """Number the retrievers: one colour, marker and dash for each, the same all over the page."""
    fed = {name: len(pool.told(name)["inputs"]) for pool in sources.pools for name in pool.retrievers}
    return {name: number for number, name in enumerate(sorted(fed, key=lambda name: (fed[name] > 1, name)))}


def _main(sources: ReportData, task: str, retriever: str) -> float:
    return float(sources.metrics["retrieval"][task][retriever][MAIN.at(sources.k)])


def _best_first(sources: ReportData, pool: Pool) -> list[str]:
    return sorted(pool.retrievers, key=lambda name: -_main(sources, pool.name, name))


def build_task_section(sources: ReportData, pool: Pool, numbers: dict[str, int]) -> dict[str, Any]:
    """Build tables and charts of one task, best retriever first."""
    k, results = sources.k, sources.metrics["retrieval"][pool.name]
    intervals = sources.metrics["intervals"][pool.name]
    best_first = _best_first(sources, pool)
    measures = [measure.at(k) for measure in those_in(headline(), {pool.name: results}, k)] + ["median_rank"]
    for extra in (f"macro_{MAIN.at(k)}", "average_precision"):
        if any(extra in results[name] for name in best_first):
            measures.append(extra)

    def bars(measure: str) -> list[Bar]:
        return [
            Bar(
                name,
                numbers[name],
                results[name][measure],
                intervals[name][measure].get("low"),
                intervals[name][measure].get("high"),
            )
            for name in best_first
        ]

    def curves(measure: str) -> list[Series]:
        mine = sources.at_k.filter(pl.col("task") == pool.name, pl.col("measure") == measure)
        rows = {name: mine.filter(pl.col("retriever") == name).select("k", "value").rows() for name in best_first}
        return [Series(name, numbers[name], rows[name]) for name in best_first]

    few = sources.distractors.filter(pl.col("task") == pool.name)
    among = [
        Series(name, numbers[name], few.filter(pl.col("retriever") == name).select("distractors", "hit").rows())
        for name in best_first
        if name in few["retriever"]
    ]
    most = max((x for one in among for x, _ in one.points), default=0)
    of_cost = sources.quality_cost.filter(pl.col("task") == pool.name)
    points = [
        Series(row["retriever"], numbers[row["retriever"]], [(row["ms_per_picture"], row[MAIN.name])])
        for row in of_cost.iter_rows(named=True)
    ]
    efficient = charts.find_frontier([s.points[0] for s in points if s.points[0][0] > 0])
    return {
        "name": pool.name,
        "title": pool.task.about.title,
        "pool": results["pool"],
        "bounds": describe_bounds(results["pool"], k),
        "ceiling": [results["pool"].get("ceiling", {}).get(name) for name in measures],
        "clusters": intervals["pool"],
        "measures": measures,
        "rows": [
            {
                "retriever": name,
                "marker": charts.draw_marker(numbers[name], 9, 8, 5),
                "cells": [(results[name][m], intervals[name][m], m) for m in measures],
            }
            for name in best_first
        ],
        "forests": [
            (
                m.title,
                charts.draw_forest(
                    bars(m.at(k)), f"{pool.name}: {m.title} at {k}", results["pool"].get(f"chance_{m.at(k)}")
                ),
            )
            for m in drawn()
        ],
        "curves": [
            (m.title, charts.draw_lines(curves(m.name), "k", f"{m.title} at k", f"{pool.name}: {m.title} against k"))
            for m in drawn()
        ],
        "distractors": most,
        "among": charts.draw_lines(
            among,
            "distractors in the pool",
            f"hit at {k}",
            f"{pool.name}: hit against distractors",
            from_zero=True,
        )
        if most
        else "",
        "cost": charts.draw_scatter(
            points,
            "milliseconds to put one picture into the index",
            f"{MAIN.title} at {k}",
            f"{pool.name}: quality against cost",
        ),
        "efficient": [s.name for s in points if s.points[0] in efficient],
        "categories": average_by_category(sources, pool, best_first),
        "retrievers": best_first,
        "weights": [
            (name, results[name]["image_weight"], results[name]["validation_queries"])
            for name in best_first
            if "image_weight" in results[name]
        ],
    }


def build_approximate_section(settings: pl.DataFrame) -> dict[str, Any]:
    """Build table and chart of what approximate search misses of the exact, and what time it saves."""
    rows = list(settings.iter_rows(named=True))
    points = [Series(row["setting"], n, [(row["ms_per_query"], row["recall"])]) for n, row in enumerate(rows)]
    return {
        "rows": [row | {"marker": charts.draw_marker(n, 9, 8, 5)} for n, row in enumerate(rows)],
        "chart": charts.draw_scatter(
            points, "milliseconds of one query", "recall of the exact neighbours", "approximate search: recall, latency"
        ),
    }


def build_budget_section(settings: pl.DataFrame) -> dict[str, Any]:
    """Build table, chart and recommendation of what vectors in fewer bytes lose."""
    rows = list(settings.iter_rows(named=True))
    points = [Series(row["setting"], n, [(row["bytes"], row["hit"])]) for n, row in enumerate(rows)]
    k = rows[0]["k"] if rows else 0
    return {
        "k": k,
        "rows": [row | {"marker": charts.draw_marker(n, 9, 8, 5)} for n, row in enumerate(rows)],
        "recommended": say_recommended(rows),
        "chart": charts.draw_scatter(points, "bytes of a vector", f"hit at {k}", "vector budget: hit, bytes")
        if rows
        else "",
    }


def build_confidence_section(told: dict[str, Any], coverage: pl.DataFrame) -> dict[str, Any]:
    """Build the table of promises, and the curve of what is right against what is answered."""
    points = coverage.select("coverage", "precision").rows()
    promised = coverage.drop_nulls("promise").sort("coverage").to_dicts() if len(coverage) else []
    loosest = {row["promise"]: row for row in promised}  # each promise where most is answered with it
    return told | {
        "promises": [loosest[promise] for promise in sorted(loosest)],
        "chart": charts.draw_lines(
            [Series("first picture", 0, points)],
            "share of queries answered",
            "share of answers that are right",
            "confidence: precision, coverage",
            from_zero=True,
        )
        if points
        else "",
    }


def average_by_category(sources: ReportData, pool: Pool, retrievers: list[str]) -> list[dict[str, Any]]:
    """Average the main measure over the queries whose picture shows a kind of object, most frequent kinds first."""
    measure = MAIN.at(sources.k)
    labels = {image_id: picture.labels for image_id, picture in sources.album.pictures.items()}
    columns = {name: sources.values[pool.name, name][measure] for name in retrievers}
    shown = pl.DataFrame(columns).with_columns(
        label=pl.Series(
            [labels[i].split(", ") if labels[i] else [] for i in pool.queries["image_id"]], dtype=pl.List(pl.String)
        )
    )
    means = (
        shown.explode("label")
        .drop_nulls("label")
        .group_by("label")
        .agg(pl.len().alias("queries"), *(pl.col(name).mean() for name in retrievers))
        .sort("queries", "label", descending=[True, False])
    )
    return [
        {"label": row["label"], "queries": row["queries"], "values": [row[name] for name in retrievers]}
        for row in means.head(CATEGORIES).iter_rows(named=True)
    ]


def gather_dataset_facts(sources: ReportData) -> list[tuple[str, str]]:
    """Facts about the numbers' dataset: its card in figures, and what the pool's captions are like."""
    card, album, pool = sources.described, sources.album, sources.groups.filter("in_pool")
    pictures, captions, copies = card["pictures"], card["captions"], card["duplicates"]
    human = [text for image_id in set(pool["image_id"]) for text in album.pictures[image_id].human]
    words = sorted(len(WORD.findall(text)) for text in human)
    sizes = sorted(pool["object_set"].drop_nulls().value_counts()["count"].to_list(), reverse=True)
    rules = ("found", "after_filter", "after_resize", "after_duplicates", "in_pool")
    facts = [
        ("licence", card["licence"]),
        ("which pictures were chosen", card["selection"]),
        ("source", "; ".join(card["sources"])),
        ("pictures", ", ".join(f"{pictures[rule]:,} {rule.replace('_', ' ')}" for rule in rules)),
        ("splits", _counts(card["splits"])),
        ("captions", f"{captions['found']:,} found, {captions['kept']:,} kept"),
        ("human captions of the pool", f"{len(human):,}, of which {len(set(human)):,} different"),
    ]
    if words:
        facts.append(("words a caption", f"{words[0]} to {words[-1]}, median {words[len(words) // 2]}"))
    if sizes:
        facts.append(("object sets searched for", f"{len(sizes):,}, of {sizes[-1]:,} to {sizes[0]:,} pictures"))
    facts.append(("kinds of objects", f"{card['categories']['number']:,}"))
    for key in ("dropped", "set_aside", "mended"):
        facts.append((key.replace("_", " "), _counts(card[key])))
    facts.append(("copies", f"{_counts(copies)}; leaks have one in training and one in evaluation"))
    if "keep" in card:
        facts.append(("kept by", json.dumps(card["keep"], ensure_ascii=False)))
    return facts


def _counts(counts: dict[str, int]) -> str:
    return "; ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def list_versions() -> list[tuple[str, str]]:
    """List the libraries and the machine that made the report."""
    found = [("twinlens", __version__), ("Python", platform.python_version())]
    for name in LIBRARIES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return [*found, ("system", f"{platform.system()} {platform.machine()}")]
