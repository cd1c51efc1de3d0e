"""The leaderboard as one page that opens without a network: what to take, the table, costs, slices, galleries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from twinlens.evaluation.candidate_costs import COSTS
from twinlens.evaluation.choose import Choice
from twinlens.evaluation.entries import Entry
from twinlens.evaluation.measures import drawn, parsed
from twinlens.report import charts
from twinlens.report.charts import Series
from twinlens.report.choice_text import format_cost, label_measure, write_sentence
from twinlens.report.leaders import Material, list_leaders, tell_disagreement, tell_slices
from twinlens.report.templates import load_template

LEAST_DRAWN = 3  # candidates, of measures against k
WIDE, HIGH = 140, 16  # of a drawn interval


def render(choice: Choice, material: Material | None = None) -> str:
    """Render the page as HTML; everything that comes from data is escaped.

    Args:
        choice: of `choose`.
        material: what the workspace has of the dataset.
    """
    material = material or Material()
    numbers = {id(entry): place for place, entry in enumerate(choice.entries)}
    return load_template("leaderboard.html.j2").render(
        choice=choice,
        sentence=write_sentence(choice),
        label=label_measure(choice.measure),
        columns=_list_columns(choice),
        rows=[_tabulate(choice, entry, numbers[id(entry)]) for entry in choice.entries],
        costs=list(_draw_costs(choice, numbers).items()),
        curves=_draw_curves(choice, numbers),
        leaders=[(entry.name, charts.draw_marker(numbers[id(entry)], 9, 8)) for entry in _list_drawn(choice)],
        slices=tell_slices(choice, material),
        changed=tell_disagreement(choice, material),
    )


def _list_columns(choice: Choice) -> list[tuple[str, str]]:
    titles = [("candidate", "text"), (label_measure(choice.measure), ""), ("95 % interval", "drawn"), ("group", "text")]
    titles += [(cost.replace("_", " "), "") for cost in choice.costs]
    titles += [("licence", "text")] if _tell_licences(choice) else []
    return titles + ([("not taken for", "text")] if len(choice.allowed) < len(choice.entries) else [])


def _tell_licences(choice: Choice) -> bool:
    return any("licence" in why for entry in choice.entries for why in entry.refused)


def _tabulate(choice: Choice, entry: Entry, number: int) -> dict[str, Any]:
    interval, several = entry.interval, len({other.model for other in choice.entries}) > 1
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
        "broken": Markup("_<wbr>").join(entry.name.split("_")),  # where a phone may break it
        "model": entry.model if several and entry.model not in entry.name else "",
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
        chart = charts.draw_scatter(
            points, cost.replace("_", " "), label_measure(choice.measure), f"quality against {cost}"
        )
        if chart:
            found[COSTS[cost]] = chart
    return found


def _list_drawn(choice: Choice) -> list[Entry]:
    """Those whose measures are drawn against k: the group of the best, or the best few."""
    return list_leaders(choice)[: min(charts.SERIES, max(LEAST_DRAWN, len(choice.group)))]


def _draw_curves(choice: Choice, numbers: Mapping[int, int]) -> list[tuple[str, Markup]]:
    """Measures against k of the leaders, at the cuts that were measured."""
    found = []
    leaders = _list_drawn(choice)
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
