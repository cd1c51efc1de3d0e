"""Experiments side by side on one page: means with intervals, differences with theirs, queries that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twinlens.evaluation.candidates import Candidate, describe_settings
from twinlens.evaluation.compare import Changes, Difference
from twinlens.evaluation.intervals import Interval, bootstrap_means, encode_clusters, jackknife_means
from twinlens.evaluation.jackknife import Sampling
from twinlens.evaluation.measures import parsed
from twinlens.report import charts
from twinlens.report.changed_queries import name_query
from twinlens.report.charts import Bar
from twinlens.report.templates import load_template

RESAMPLES = 1000  # of a measure of the whole ranking
REAL, NONE = 4, 0  # markers of a difference that is real, and of one that is not


def render(
    candidates: Sequence[Candidate],
    found: Sequence[Difference],
    changed: Sequence[Changes],
    texts: Mapping[str, str] | None = None,
) -> str:
    """Render the page as HTML; everything that comes from data is escaped.

    Args:
        candidates: those that were compared.
        found: of `comparison.compare`.
        changed: of `comparison.find_changes`.
        texts: by query, its words.
    """
    named = {candidate.name: candidate for candidate in candidates}
    pairs = list(dict.fromkeys((d.first, d.second) for d in found))
    return load_template("comparison.html.j2").render(
        candidates=[(c.name, [e.choice for e in c.experiments if e.choice]) for c in candidates],
        tasks=tabulate_side_by_side(candidates, found),
        pairs=[
            _pair((first, second), [d for d in found if (d.first, d.second) == (first, second)])
            | {"settings": describe_settings(named[first], named[second])}
            for first, second in pairs
        ],
        changed=[
            (c, [row | {"words": name_query(row["query_id"], texts or {})} for row in c.queries.to_dicts()])
            for c in changed
            if len(c.queries)
        ],
    )


def tabulate_side_by_side(candidates: Sequence[Candidate], found: Sequence[Difference]) -> list[dict[str, Any]]:
    """Tabulate each task: a row for each row and measure that was compared, a cell for each candidate."""
    compared = dict.fromkeys(
        (d.task, row, d.measure) for d in found for row in dict.fromkeys((d.retriever, d.retriever_second))
    )
    tasks: list[dict[str, Any]] = []
    pools = candidates[0].first.pools
    for task in (name for name in pools if name in {task for task, _, _ in compared}):
        mine = [(row, measure) for of, row, measure in compared if of == task]
        cells = [(row, measure, [_mean(c, task, row, measure) for c in candidates]) for row, measure in mine]
        tasks.append({"title": pools[task].get("title", task), "pool": pools[task], "rows": cells})
    return tasks


def _mean(candidate: Candidate, task: str, row: str, measure: str) -> tuple[float, Interval] | None:
    """Mean and interval; nothing where the candidate has no such run, or is another row."""
    if not candidate.has(task, row) or candidate.row not in (None, row):
        return None
    table = candidate.read(task, row)
    values = table.select(measure).to_numpy()
    clusters = encode_clusters(table["cluster"].to_list())
    at = parsed(measure)
    if at is None:
        return float(values.mean()), bootstrap_means(values, clusters, resamples=RESAMPLES, seed=0)[0]
    runs = candidate.measure(task, row, [at[1]], [at[0].name], 1.0)
    by_picture = runs[0].deletions.task.about.cluster_by == "image_id"
    sampling = Sampling.by_picture(runs[0].deletions) if by_picture else Sampling.by_cluster(clusters)
    return float(values.mean()), jackknife_means(runs, sampling)[0]


def _pair(pair: tuple[str, str], found: Sequence[Difference]) -> dict[str, Any]:
    several = len({d.measure for d in found}) > 1
    bars = [
        Bar(
            f"{d.task}, {d.row}{f', {d.measure}' if several else ''}".replace("_", " "),
            REAL if d.shown else NONE,
            d.effect,
            d.interval.low,
            d.interval.high,
        )
        for d in found
    ]
    title = f"{pair[1]} minus {pair[0]}"
    return {"first": pair[0], "second": pair[1], "rows": found, "chart": charts.draw_effects(bars, title)}
