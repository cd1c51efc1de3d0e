"""Comparison as text: for a terminal, for a README, for a program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from twinlens.evaluation.candidates import Candidate, describe_settings
from twinlens.evaluation.compare import Changes, Difference
from twinlens.report.changed_queries import describe_changes
from twinlens.report.summary import format_markdown

HEADER = ["task", "searched by", "measure", "first", "second", "effect", "95 % interval", "p (Holm)", "verdict"]


def format_comparison(
    candidates: Sequence[Candidate],
    found: Sequence[Difference],
    queries: Sequence[Changes],
    form: str,
    texts: Mapping[str, str] | None = None,
) -> str:
    """Format the comparison as `table`, `markdown` or `json`.

    Args:
        candidates: those that were compared.
        found: of `comparison.compare`.
        queries: those that changed most.
        form: see above.
        texts: by query, its words.
    """
    if form == "json":
        return format_json(candidates, found, queries)
    named = {candidate.name: candidate for candidate in candidates}
    plain = form == "table"
    parts = []
    for pair in dict.fromkeys((d.first, d.second) for d in found):
        mine = [d for d in found if (d.first, d.second) == pair]
        first, second = (_name_place(named[name], place) for name, place in zip(pair, ("first", "second"), strict=True))
        parts.append(f"{'' if plain else '### '}{first} and {second}")
        if said := describe_settings(named[pair[0]], named[pair[1]]):
            parts.append(said)
        parts += _tables(mine, plain)
        for changed in (c for c in queries if (c.first, c.second) == pair and len(c.queries)):
            parts.append(f"Changed most in {changed.measure}: {changed.task}, {changed.row}")
            parts.append("\n".join(f"* {line}" for line in describe_changes(changed, texts or {})))
    tested = sum(d.tested for d in found)
    parts.append(
        f"p-values are corrected together for {tested} comparison{'s' * (tested != 1)}; intervals are not. A paired "
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


def _name_place(candidate: Candidate, place: str) -> str:
    """Name a candidate, its place in the tables, and its model where the name does not say it, as DVC's do not."""
    model = candidate.first.choice.get("model")
    told = model is None or model == candidate.name
    return f"{candidate.name} ({place})" if told else f"{candidate.name} ({place}: {model})"


def _tables(found: Sequence[Difference], plain: bool) -> list[str]:
    """One table in Markdown; for a terminal of 120 columns one a task, without what is the same throughout."""
    if not plain:
        return [_table(HEADER, [_row(d) for d in found], plain)]
    alike = len({d.measure for d in found}) == 1
    kept = [n for n in range(1, len(HEADER)) if not (alike and HEADER[n] == "measure")]
    tables = []
    for task in dict.fromkeys(d.task for d in found):
        rows = [[*_row(d)[:-1], _place_verdict(d)] for d in found if d.task == task]
        shown = _table([HEADER[n] for n in kept], [[row[n] for n in kept] for row in rows], plain)
        tables.append(f"{task}{f', {found[0].measure}' if alike else ''}\n{shown}")
    return tables


def _place_verdict(found: Difference) -> str:
    """The verdict by first and second, as the heading names both: names may be long."""
    places = {found.first: "first", found.second: "second"}
    who, is_better, _ = found.verdict.partition(" is better")
    return f"{places.get(who, who)}{is_better}"


def _clusters(found: Sequence[Difference]) -> list[str]:
    return list(dict.fromkeys(f"{d.clusters:,} clusters of {d.queries:,} queries ({d.task})" for d in found))


def _row(found: Difference) -> list[str]:
    interval = found.interval
    bounds = "not defined" if interval.low is None else f"{interval.low:+.4f} to {interval.high:+.4f}"
    means = [f"{found.mean_first:.4f}", f"{found.mean_second:.4f}", f"{found.effect:+.4f}"]
    return [found.task, found.row, found.measure, *means, bounds, f"{found.p_holm:.4f}", found.verdict]


def _table(header: list[str], rows: list[list[str]], plain: bool) -> str:
    if not plain:
        return format_markdown(header, rows)
    lines = format_markdown(header, rows).splitlines()
    return "\n".join(line[2:-2].replace(" | ", "  ").rstrip() for n, line in enumerate(lines) if n != 1)
