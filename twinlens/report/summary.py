"""Result tables of the terminal, the README and the plots."""

from __future__ import annotations

from typing import Any

from twinlens.evaluation.gates import LIKELY
from twinlens.evaluation.measures import MAIN, Measure, headline, with_macro

NEARLY_ONE = 0.9995  # a ceiling that is told as 1.000 bounds nothing
APART = ("image", "captions_joined", "caption_generated")  # what is fed by itself; the others are sums of these


def format_results_table(retrieval: dict[str, Any], k: int) -> str:
    """Format the headline measures of every task and retriever as a Markdown table."""
    measures = [measure.at(k) for measure in select_shown(headline(), retrieval, k)]
    rows = []
    for task, results in retrieval.items():
        for retriever, values in results.items():
            if retriever != "pool":
                rows.append([task, retriever, *(f"{values[m]:.3f}" for m in measures), f"{values['median_rank']:g}"])
    table = format_markdown(["task", "searched by", *measures, "median_rank"], rows)
    return "\n".join([table, "", *(describe_pool(task, results["pool"], k) for task, results in retrieval.items())])


def describe_pool(task: str, pool: dict[str, Any], k: int) -> str:
    """Describe the pool of a task in a line: its size, how much of it is distinct, and what bounds its numbers.

    Args:
        task: its name.
        pool: of `metrics/retrieval.json`; results made before a fact was added lack it, and it is left out.
        k: the cut that is shown.
    """
    parts = []
    for what in ("queries", "items"):
        distinct = pool.get(f"distinct_{what}", pool[what])
        parts.append(f"{pool[what]:,} {what}" + (f" of which {distinct:,} distinct" if distinct < pool[what] else ""))
    parts += describe_bounds(pool, k)
    return f"{task}: {', '.join(parts)}"


def describe_bounds(pool: dict[str, Any], k: int) -> list[str]:
    """Describe what a random ranking reaches, and the most that is possible where that is less than 1."""
    parts = []
    if (chance := pool.get(f"chance_hit_at_{k}")) is not None:
        much = " (more than one half: look at a smaller k)" if chance > LIKELY else ""
        parts.append(f"chance hit@{k} {chance:.3f}{much}")
    ceiling = pool.get("ceiling", {})
    known = {f"{measure.title}@{k}": ceiling.get(measure.at(k)) for measure in with_macro()}
    if any(value is not None and value < NEARLY_ONE for value in known.values()):
        most = [f"{name} {value:.3f}" for name, value in known.items() if value is not None]
        parts.append(f"best possible {', '.join(most)}")
    return parts


def select_shown(measures: list[Measure], retrieval: dict[str, Any], k: int) -> list[Measure]:
    """Select the measures that all results have: results made before a measure was added lack it."""
    every = [v for values in retrieval.values() for name, v in values.items() if name != "pool"]
    return [measure for measure in measures if all(measure.at(k) in values for values in every)]


def summarise_results(retrieval: dict[str, Any], rows: list[dict[str, Any]], k: int) -> dict[str, Any]:
    """Summarise the numbers to look at first: main measure by task and retriever, cost of the three kinds of vectors.

    `dvc metrics diff` prints a line for each and `dvc exp show` a column: names are short, and all lines fit a screen.
    Every other measure is in metrics/retrieval.json.
    """
    quality = {
        task: {name: values[MAIN.at(k)] for name, values in results.items() if name != "pool"}
        for task, results in retrieval.items()
    }
    cost = {row["retriever"]: row["ms_per_picture"] for row in rows if row["retriever"] in APART}
    return {MAIN.name: quality, "ms_per_picture": cost}


def format_markdown(header: list[str], rows: list[list[str]]) -> str:
    """Format a Markdown table whose columns line up in a terminal too; numbers stand at the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        padded = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (w - 1) + ":") if n else "-" * w for w, n in zip(widths, numeric, strict=True)]
    return "\n".join([line(header), line(rule), *(line(row) for row in rows)])


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
