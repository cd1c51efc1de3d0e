"""A choice in words: the sentence that names what to take and why, the table below it, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from twinlens.evaluation.best import LEAST_CLUSTERS
from twinlens.evaluation.choose import Choice, differ
from twinlens.evaluation.entries import Entry, name_few
from twinlens.evaluation.measures import parsed
from twinlens.evaluation.planning import Plan
from twinlens.report.summary import format_markdown

CHEAP = {  # what the cheapest is called
    "ms_per_query": "the fastest to ask",
    "embed_ms": "the cheapest to index",
    "vector_bytes": "the smallest",
    "peak_gpu_mb": "the one with the least GPU memory",
    "parameters": "the one with the fewest parameters",
    "tokens": "the one with the fewest tokens",
    "money": "the cheapest",
    "ms_p95": "the one that is slow least",
    "cold_start_s": "the first to answer",
    "host_mb": "the one with the least memory",
    "gpu_mb": "the one with the least GPU memory",
    "disk_mb": "the smallest on disk",
    "query_price": "the cheapest to ask",
    "index_price": "the cheapest to index",
}
SHARES = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 10: "a tenth", 100: "a hundredth"}
TOO_MANY = 100  # times as many pictures as there are: nobody labels these for one comparison


def write_sentence(choice: Choice) -> str:
    """Write the one sentence that names what to take and why, or says that the data cannot decide."""
    if not choice.claimed:
        return (
            f"Your data cannot decide: {choice.clusters} pictures or classes to draw queries from, of {LEAST_CLUSTERS} "
            f"that are needed to leave anyone out; the highest mean is that of {choice.group[0].name} "
            f"({_quality(choice, choice.group[0])})."
        )
    taken, group, allowed = choice.chosen, choice.group, choice.allowed
    about = f"take {taken.name}: "
    if len(allowed) == 1:
        told = f"the only one of {len(choice.entries)} that meets what you ask ({_quality(choice, taken)})"
    elif len(group) == 1:
        told = f"better than {_count(len(allowed) - 1)} on your data ({_quality(choice, taken)})"
    else:
        told = _tell_equal(choice)
        if not choice.compared and len(group) == len(allowed):
            about = ""
    parts = [f"{about}{told}", *_tell_cheaper(choice), *_tell_plan(choice)]
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]


def _tell_equal(choice: Choice) -> str:
    """What is said where several cannot be told from the best."""
    taken, group = choice.chosen, choice.group
    size, quality = len(group), _quality(choice, taken)
    everyone = size == len(choice.allowed)
    if not choice.compared:
        names = name_few([entry.name for entry in group])
        if everyone:
            lead = f"{taken.name} has the highest mean ({quality})"
            return f"the data cannot decide between {names}, and no cost is known of all; {lead}"
        which = f"the {size} that cannot be told from the best ({names})"
        return f"as good as any on your data ({quality}), with the highest mean of {which}"
    by = next((cost for cost in choice.compared if differ(cost, group)), None)
    which = f"the {size} that cannot be told from the best"
    if everyone:
        which = (
            f"all {size}, which your data cannot tell apart"
            if size > 2
            else "the two, which your data cannot tell apart"
        )
    if by is None:
        return f"as good as any on your data ({quality}), and as cheap as {which}"
    cheap = CHEAP[by]
    if any(entry.cost(by) < taken.cost(by) for entry in group):  # by less than the clock can tell
        cheap = f"{cheap}, as far as clocks can tell"
    return f"as good as any on your data ({quality}) and {cheap} ({format_cost(by, taken.cost(by))}) of {which}"


def _tell_cheaper(choice: Choice) -> list[str]:
    other, cost = choice.cheaper, choice.deciding
    if other is None or cost is None:
        return []
    times = choice.chosen.cost(cost) / other.cost(cost) if other.cost(cost) > 0 else math.inf
    share = "nothing" if math.isinf(times) else _share(times)
    lost = f"{_digits(choice.chosen.mean - other.mean, choice)} less"
    return [f"{other.name} costs {share} ({format_cost(cost, other.cost(cost))}) for {lost}"]


def _tell_plan(choice: Choice) -> list[str]:
    if choice.rival is None:
        return []
    rival, taken = choice.rival, choice.chosen
    if choice.plan is None:
        return [f"{rival.name} has the same mean"]
    gap = abs(choice.plan.effect)
    size = f"{gap:.4f}".lstrip("0") if gap < 0.01 else _digits(gap, choice)
    leads = f"{rival.name} is ahead by {size}" if rival.mean > taken.mean else f"{rival.name} is behind by {size}"
    return [f"{leads}, and {describe_need(choice.plan, choice.clusters)}"]


def describe_need(found: Plan, clusters: int) -> str:
    """Describe how many more pictures would show a difference.

    Args:
        found: of `planning.plan`.
        clusters: that there are.
    """
    chance = f"{found.power * 100:.0f} %"
    if found.clusters is None or found.clusters > TOO_MANY * clusters:
        if found.seeds is not None:
            return f"no number of pictures would show it, but {found.seeds:,} seeds of each (in {chance} of cases)"
        return f"not even {TOO_MANY} times the pictures would show that reliably: to you they are equal"
    if not found.more:
        return f"what you have shows such a difference in {found.now * 100:.0f} % of cases"
    about = "at least" if found.far else "some"
    more = f"{about} {round_up(found.more):,} more pictures ({round_up(found.queries or 0):,} queries in all)"
    also = f", or {found.seeds:,} seeds of each," if found.seeds is not None else ""
    return f"{more}{also} would show such a difference in {chance} of cases"


def round_up(count: int) -> int:
    """Round up to two digits: a plan is no more exact than that."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit


def format_choice(choice: Choice, form: str) -> str:
    """Format a choice as `table`, `markdown` or `json`."""
    if form == "json":
        return format_json(choice)
    where = (
        f"{choice.task}, {label_measure(choice.measure)}: {choice.queries:,} queries in {choice.clusters:,} clusters. "
        "a: cannot be told from the best (Hsu, 95 % at once); b: from the best of the others; and so on."
    )
    if choice.compared:
        where += f" *: no other is as good and as cheap ({', '.join(choice.compared)})."
    notes = [f"* {note}" for note in choice.notes]
    parts = [write_sentence(choice), _table(choice, plain=form == "table"), where]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def _table(choice: Choice, *, plain: bool) -> str:
    models = any(entry.model not in ("", entry.candidate.name) for entry in choice.entries)
    several = len({entry.model for entry in choice.entries}) > 1
    licences = any("licence" in why for entry in choice.entries for why in entry.refused)
    header = ["", "candidate", *(["model"] if models and several else []), label_measure(choice.measure)]
    header += ["95 % interval", "group", *choice.costs, *(["licence"] if licences else [])]
    refused = any(entry.refused for entry in choice.entries)
    header += ["not taken for"] if refused else []
    rows = []
    for entry in choice.entries:
        interval = entry.interval
        bounds = "not defined" if interval.low is None else f"{interval.low:.3f} to {interval.high:.3f}"
        row = [">" if entry is choice.chosen else "", entry.name, *([entry.model] if models and several else [])]
        row += [f"{entry.mean:.3f}", bounds, entry.letter + ("*" if entry.efficient else "")]
        row += [format_cost(cost, entry.costs.values[cost]) for cost in choice.costs]
        row += [entry.costs.licence or "not said"] if licences else []
        rows.append(row + ([", ".join(entry.refused)] if refused else []))
    table = format_markdown(header, rows)
    if not plain:
        return table
    lines = [line[2:-2].replace(" | ", "  ").rstrip() for n, line in enumerate(table.splitlines()) if n != 1]
    return "\n".join(lines)


def format_json(choice: Choice) -> str:
    """Format a choice for programs: one object, whose `chosen` is a name and whose `entries` are best first."""
    content: dict[str, Any] = {
        "sentence": write_sentence(choice),
        "decided": choice.claimed and len(choice.group) < len(choice.allowed),
        "chosen": choice.chosen.name,
        "group": [entry.name for entry in choice.group],
        "task": choice.task,
        "measure": choice.measure,
        "queries": choice.queries,
        "clusters": choice.clusters,
        "compared_by": list(choice.compared),
        "plan": None
        if choice.plan is None or choice.rival is None
        else {"against": choice.rival.name} | asdict(choice.plan),
        "entries": [describe_entry(entry, choice.costs) for entry in choice.entries],
        "notes": list(choice.notes),
    }
    return json.dumps(content, indent=2, allow_nan=False)


def describe_entry(entry: Entry, costs: Sequence[str]) -> dict[str, Any]:
    """Describe an entry by plain values; a cost that is unknown is null."""
    return {
        "name": entry.name,
        "row": entry.row,
        "model": entry.model,
        "mean": round(entry.mean, 6),
        "interval": entry.interval.as_json(),
        "p_none_better": entry.p,
        "group": entry.letter,
        "efficient": entry.efficient,
        "refused": list(entry.refused),
        "costs": {name: entry.costs.values[name] for name in costs},
        "machine": entry.costs.machine,
        "clocked_on": entry.costs.clocked_on,
        "licence": entry.costs.licence,
        "seeds": len(entry.candidate.experiments),
        "one_seed": entry.one_seed,
    }


def label_measure(name: str) -> str:
    """Label a measure as tables do: `nDCG@10`."""
    found = parsed(name)
    return name.replace("_", " ") if found is None else f"{found[0].title}@{found[1]}"


def format_cost(name: str, value: float | None) -> str:
    """Format a cost with its unit."""
    if value is None or math.isinf(value):
        return "unknown"
    units = {"ms_per_query": " ms", "embed_ms": " ms", "vector_bytes": " B", "ms_p95": " ms", "cold_start_s": " s"}
    units |= dict.fromkeys(("peak_gpu_mb", "host_mb", "gpu_mb", "disk_mb"), " MB")
    if name == "parameters" and value >= 1e5:
        return f"{value / 1e6:,.1f} M"
    digits = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2g}"
    return f"{digits}{units.get(name, '')}"


def _quality(choice: Choice, entry: Entry) -> str:
    interval = entry.interval
    told = f"{label_measure(choice.measure)} {_digits(entry.mean, choice)}"
    if interval.low is None or interval.high is None:
        return told
    return f"{told}, {_digits(interval.low, choice)} to {_digits(interval.high, choice)}"


def _digits(value: float, choice: Choice) -> str:
    """Two digits, or three where intervals are narrow."""
    interval = choice.chosen.interval
    narrow = interval.low is not None and interval.high is not None and interval.high - interval.low < 0.03
    text = f"{value:.{3 if narrow else 2}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _share(times: float) -> str:
    if times < 1.5:
        return "about as much"
    nearest = min(SHARES, key=lambda n: abs(math.log(n / times)))
    return SHARES[nearest] if abs(math.log(nearest / times)) < 0.2 else f"1/{times:.0f}"


def _count(others: int) -> str:
    return {1: "the other", 2: "both others"}.get(others, f"all {others} others")
