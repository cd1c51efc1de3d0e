"""The leaderboard as one page that opens without a network: what to take, the table, quality against each cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from twinlens.evaluation.candidate_costs import COSTS
from twinlens.evaluation.choose import Choice
from twinlens.evaluation.compare import find_most_changed
from twinlens.evaluation.entries import Entry
from twinlens.evaluation.measures import drawn, parsed
from twinlens.report import charts
from twinlens.report.changed_queries import name_query
from twinlens.report.charts import Series
from twinlens.report.choice_text import format_cost, label_measure, write_sentence
from twinlens.report.templates import load_template

DISAGREE = 20  # queries told
WIDE, HIGH = 140, 16  # of a drawn interval


def render(choice: Choice, texts: Mapping[str, str] | None = None) -> str:
    """Render the page as HTML; everything that comes from data is escaped.

    Args:
        choice: of `choose`.
        texts: by query, its words.
    """
    numbers = {id(entry): place for place, entry in enumerate(choice.entries)}
    return load_template("leaderboard.html.j2").render(
        choice=choice,
        sentence=write_sentence(choice),
        columns=_list_columns(choice),
        rows=[_tabulate(choice, entry, numbers[id(entry)]) for entry in choice.entries],
        costs=list(_draw_costs(choice, numbers).items()),
        curves=_draw_curves(choice, numbers),
        changed=_find_disagreement(choice, texts or {}),
    )


def _list_columns(choice: Choice) -> list[tuple[str, str]]:
    titles = [("candidate", "text"), (label_measure(choice.measure), ""), ("95 % interval", "drawn"), ("group", "text")]
    titles += [(cost.replace("_", " "), "") for cost in choice.costs]
    titles += [("licence", "text")] if _tell_licences(choice) else []
    return titles + ([("not taken for", "text")] if len(choice.allowed) < len(choice.entries) else [])


def _tell_licences(choice: Choice) -> bool:
    return any("licence" in why for entry in choice.entries for why in entry.refused)


def _tabulate(choice: Choice, entry: Entry, number: int) -> dict[str, Any]:
    interval = entry.interval
    bounds = "not defined" if interval.low is None else f"{interval.low:.3f} to {interval.high:.3f}"
    both = Markup("{}<small>{}</small>").format(_draw_interval(choice, entry), bounds)
    cells: list[dict[str, Any]] = [
        {"kind": "", "value": f"{entry.mean:.6f}", "text": f"{entry.mean:.3f}"},
        {"kind": "drawn", "value": "", "text": both},
        {"kind": "text", "value": entry.letter or "~", "text": entry.letter + (" ★" if entry.efficient else "")},
    ]
    for cost in choice.costs:
        value = entry.costs.values[cost]
        cells.append({"kind": "", "value": "" if value is None else value, "text": format_cost(cost, value)})
    if _tell_licences(choice):
        cells.append({"kind": "text", "value": entry.costs.licence or "", "text": entry.costs.licence or "not said"})
    if len(choice.allowed) < len(choice.entries):
        why = ", ".join(entry.refused)
        cells.append({"kind": "text", "value": why, "text": why})
    return {
        "name": entry.name,
        "model": entry.model if len({other.model for other in choice.entries}) > 1 else "",
        "marker": charts.draw_marker(number, 9, 8),
        "style": "taken" if entry is choice.chosen else "refused" if entry.refused else "",
        "cells": cells,
    }


def _draw_interval(choice: Choice, entry: Entry) -> Markup:
    """Draw a mean with its interval, on one scale for all lines."""
    bounds = [b for e in choice.entries for b in (e.mean, e.interval.low, e.interval.high) if b is not None]
    low, high = min(bounds), max(bounds)
    spread = (high - low) or 1.0

    def across(value: float) -> float:
        return 5 + (WIDE - 10) * (value - low) / spread

    parts = []
    if entry.interval.low is not None and entry.interval.high is not None:
        ends = f"M{across(entry.interval.low):.1f} 8H{across(entry.interval.high):.1f}"
        parts.append(Markup(f'<path class="interval l0" d="{ends}"/>'))
    parts.append(Markup(f'<circle class="s0" cx="{across(entry.mean):.1f}" cy="8" r="3.4"/>'))
    return Markup('<svg viewBox="0 0 {} {}" aria-hidden="true">{}</svg>').format(WIDE, HIGH, Markup("").join(parts))


def _draw_costs(choice: Choice, numbers: Mapping[int, int]) -> dict[str, Markup]:
    found = {}
    for cost in choice.compared:
        points = [Series(e.name, numbers[id(e)], [(e.cost(cost), e.mean)]) for e in choice.allowed]
        points = [one for one in points if math.isfinite(one.points[0][0])]
        chart = charts.draw_scatter(points, COSTS[cost], label_measure(choice.measure), f"quality against {cost}")
        if chart:
            found[COSTS[cost]] = chart
    return found


def _draw_curves(choice: Choice, numbers: Mapping[int, int]) -> list[tuple[str, Markup]]:
    """Measures against k of the group of the best, at the cuts that were measured."""
    found = []
    leaders = choice.group[: charts.SERIES]
    tables = [entry.candidate.read(choice.task, entry.row) for entry in leaders]
    for measure in drawn():
        cuts = {name: at[1] for name in tables[0].columns if (at := parsed(name)) and at[0].name == measure.name}
        shared = {name: k for name, k in cuts.items() if all(name in table.columns for table in tables)}
        if len(shared) < 2:
            continue
        series = []
        for entry, table in zip(leaders, tables, strict=True):
            points = [(float(k), float(table[name].to_numpy().mean())) for name, k in shared.items()]
            series.append(Series(entry.name, numbers[id(entry)], points))
        found.append((measure.title, charts.draw_lines(series, "k", measure.title, f"{measure.title} against k")))
    return found


def _find_disagreement(choice: Choice, texts: Mapping[str, str]) -> dict[str, Any] | None:
    """The queries on which the chosen one and its rival, or else the next best, differ most."""
    others = [choice.rival] if choice.rival is not None else [e for e in choice.entries if e is not choice.chosen][:1]
    if not others or others[0] is None:
        return None
    ours, theirs = choice.chosen, others[0]
    table = find_most_changed(
        ours.candidate, theirs.candidate, choice.task, (ours.row, theirs.row), choice.measure, DISAGREE
    )
    queries = [
        {
            "words": name_query(row["query_id"], texts),
            "ours": row[choice.measure],
            "theirs": row[f"{choice.measure}_second"],
            "first_hit": row["first_hit"],
            "first_hit_second": row["first_hit_second"],
        }
        for row in table.to_dicts()
    ]
    return {"first": ours.name, "second": theirs.name, "queries": queries} if queries else None
