"""Result tables of the terminal, the README and the plots."""

from __future__ import annotations

from typing import Any

from twinlens.evaluation.measures import MAIN, Measure, headline

APART = ("image", "captions_joined", "caption_generated")  # what is fed by itself; the others are sums of these


def format_results_table(retrieval: dict[str, Any], k: int) -> str:
    """Format the headline measures of every task and retriever as a Markdown table."""
    measures = [measure.at(k) for measure in select_shown(headline(), retrieval, k)]
    rows = []
    for task, results in retrieval.items():
        for retriever, values in results.items():
            if retriever != "pool":
                rows.append([task, retriever, *(f"{values[m]:.3f}" for m in measures), f"{values['median_rank']:g}"])
    return format_markdown(["task", "searched by", *measures, "median_rank"], rows)


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
