"""Comparison as text: for a terminal, for a README, for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from twinlens.evaluation.candidates import Candidate, describe_settings
from twinlens.evaluation.compare import Changes, Difference
from twinlens.report.summary import format_markdown

HEADER = ["task", "searched by", "measure", "first", "second", "effect", "95 % interval", "p (Holm)", "verdict"]


def format_comparison(
    candidates: Sequence[Candidate], found: Sequence[Difference], queries: Sequence[Changes], form: str
) -> str:
    """Format the comparison as `table`, `markdown` or `json`."""
    if form == "json":
        return format_json(candidates, found, queries)
    named = {candidate.name: candidate for candidate in candidates}
    plain = form == "table"
    parts = []
    for pair in dict.fromkeys((d.first, d.second) for d in found):
        mine = [d for d in found if (d.first, d.second) == pair]
        parts.append(f"{'' if plain else '### '}{pair[0]} (first) and {pair[1]} (second)")
        if said := describe_settings(named[pair[0]], named[pair[1]]):
            parts.append(said)
        parts.append(_table(HEADER, [_row(d) for d in mine], plain))
        for changed in (c for c in queries if (c.first, c.second) == pair and len(c.queries)):
            parts.append(f"Changed most in {changed.measure}: {changed.task}, {changed.row}")
            parts.append(_changed(changed, plain))
    parts.append(
        f"p-values are corrected together for {sum(d.tested for d in found)} comparisons; intervals are not. A paired "
        f"test with pictures drawn anew as queries and as items, over {', '.join(_clusters(found))}."
    )
    return "\n\n".join(parts)


def format_json(candidates: Sequence[Candidate], found: Sequence[Difference], queries: Sequence[Changes]) -> str:
    """Format the comparison for programs: one object with `pairs`, `differences` and `changed`."""
    named = {candidate.name: candidate for candidate in candidates}
    pairs = [
        {"first": first, "second": second, "settings": describe_settings(named[first], named[second])}
        for first, second in dict.fromkeys((d.first, d.second) for d in found)
    ]
    changed = [
        {key: value for key, value in vars(c).items() if key != "queries"} | {"queries": c.queries.to_dicts()}
        for c in queries
    ]
    content: dict[str, Any] = {"pairs": pairs, "differences": [d.as_json() for d in found], "changed": changed}
    return json.dumps(content, indent=2, allow_nan=False)


def _clusters(found: Sequence[Difference]) -> list[str]:
    return list(dict.fromkeys(f"{d.clusters:,} clusters of {d.queries:,} queries ({d.task})" for d in found))


def _row(found: Difference) -> list[str]:
    interval = found.interval
    bounds = "not defined" if interval.low is None else f"{interval.low:+.4f} to {interval.high:+.4f}"
    means = [f"{found.mean_first:.4f}", f"{found.mean_second:.4f}", f"{found.effect:+.4f}"]
    return [found.task, found.row, found.measure, *means, bounds, f"{found.p_holm:.4f}", found.verdict]


def _changed(changed: Changes, plain: bool) -> str:
    header = ["query", "group", "first", "second", "first hit at", "then at"]
    rows = [
        [
            row["query_id"],
            row["group"],
            f"{row[changed.measure]:.3f}",
            f"{row[f'{changed.measure}_second']:.3f}",
            str(row["first_hit"]),
            str(row["first_hit_second"]),
        ]
        for row in changed.queries.iter_rows(named=True)
    ]
    return _table(header, rows, plain)


def _table(header: list[str], rows: list[list[str]], plain: bool) -> str:
    if not plain:
        return format_markdown(header, rows)
    lines = format_markdown(header, rows).splitlines()
    return "\n".join(line[2:-2].replace(" | ", "  ").rstrip() for n, line in enumerate(lines) if n != 1)
