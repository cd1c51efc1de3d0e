"""Experiments side by side on one page: means with intervals, differences with theirs, queries that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twinlens.evaluation.compare import Changes, Difference
from twinlens.evaluation.experiments import Experiment
from twinlens.evaluation.intervals import Interval, bootstrap_means, encode_clusters
from twinlens.report import charts
from twinlens.report.changed_queries import name_query
from twinlens.report.charts import Bar
from twinlens.report.templates import load_template

RESAMPLES = 1000
REAL, NONE = 4, 0  # markers of a difference that is real, and of one that is not


def render(
    experiments: Sequence[Experiment],
    found: Sequence[Difference],
    changed: Sequence[Changes],
    texts: Mapping[str, str] | None = None,
) -> str:
    """Render the page as HTML; everything that comes from data is escaped.

    Args:
        experiments: those that were compared.
        found: of `comparison.compare`.
        changed: of `comparison.find_changes`.
        texts: by query, its words.
    """
    pairs = list(dict.fromkeys((d.first, d.second) for d in found))
    return load_template("comparison.html.j2").render(
        experiments=[(e.name, e.choice) for e in experiments],
        tasks=tabulate_side_by_side(experiments, found),
        pairs=[_pair(pair, [d for d in found if (d.first, d.second) == pair]) for pair in pairs],
        changed=[
            (c, [row | {"words": name_query(row["query_id"], texts or {})} for row in c.queries.to_dicts()])
            for c in changed
            if len(c.queries)
        ],
    )


def tabulate_side_by_side(experiments: Sequence[Experiment], found: Sequence[Difference]) -> list[dict[str, Any]]:
    """Tabulate each task: a row for each retriever and measure that was compared, a cell for each experiment."""
    rows = dict.fromkeys((d.task, d.retriever, d.measure) for d in found)
    tasks: list[dict[str, Any]] = []
    pools = experiments[0].pools
    for task in (name for name in pools if name in {task for task, _, _ in rows}):
        mine = [(retriever, measure) for of, retriever, measure in rows if of == task]
        cells = [
            (retriever, measure, [_mean(e, task, retriever, measure) for e in experiments])
            for retriever, measure in mine
        ]
        tasks.append(
            {"title": experiments[0].pools[task].get("title", task), "pool": experiments[0].pools[task], "rows": cells}
        )
    return tasks


def _mean(experiment: Experiment, task: str, retriever: str, measure: str) -> tuple[float, Interval] | None:
    """Mean and interval; nothing where the experiment has no such run."""
    if (task, retriever) not in experiment.runs:
        return None
    table = experiment.read(task, retriever)
    values = table.select(measure).to_numpy()
    clusters = encode_clusters(table["cluster"].to_list())
    return float(values.mean()), bootstrap_means(values, clusters, resamples=RESAMPLES, seed=0)[0]


def _pair(pair: tuple[str, str], found: Sequence[Difference]) -> dict[str, Any]:
    several = len({d.measure for d in found}) > 1
    bars = [
        Bar(
            f"{d.task}, {d.retriever}{f', {d.measure}' if several else ''}".replace("_", " "),
            NONE if d.verdict == "no difference" else REAL,
            d.effect,
            d.interval.low,
            d.interval.high,
        )
        for d in found
    ]
    title = f"{pair[1]} minus {pair[0]}"
    return {"first": pair[0], "second": pair[1], "rows": found, "chart": charts.draw_effects(bars, title)}
