"""`twinlens compare` and `twinlens export`: what a person asks of finished experiments."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from twinlens.apps.commands.terminal import show_work
from twinlens.core.absence import advise
from twinlens.core.errors import DataError, TwinLensError


class Format(StrEnum):
    """Output format of a comparison."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"


def compare(
    candidates: Annotated[
        list[str],
        typer.Argument(
            help="Two or more: names of DVC experiments, git revisions, or `workspace`; `main:image` is one row, "
            "`a+b+c` are experiments that differ in their seeds, as one."
        ),
    ],
    measure: Annotated[
        list[str] | None, typer.Option("--measure", "-m", help="Such as hit_at_10; may be repeated.")
    ] = None,
    retriever: Annotated[
        list[str] | None, typer.Option("--retriever", "-r", help="Only these, such as image; may be repeated.")
    ] = None,
    changed: Annotated[int, typer.Option(min=0, help="Queries to tell whose value changed most, a retriever.")] = 0,
    form: Annotated[Format, typer.Option("--format", "-f", help="How it is written.")] = Format.TABLE,
) -> None:
    """Say which differences between experiments, or rows of their tables, are real, without checking anything out.

    A paired test with pictures drawn anew as queries and as items, corrected by Holm's procedure for everything in
    the table; the effect is the second's mean minus the first's, with its 95 % interval. As html it is one page that
    opens without a network: `--format html > compare.html`.
    """
    from twinlens.evaluation import compare as comparison
    from twinlens.evaluation.candidates import read_candidate
    from twinlens.evaluation.experiments import Experiment
    from twinlens.evaluation.measures import MAIN
    from twinlens.report import comparison_text
    from twinlens.report.changed_queries import read_query_texts

    if len(set(candidates)) < 2:
        raise TwinLensError(
            f"compare needs two different experiments, found {', '.join(candidates)}; two rows of one are "
            f"`{candidates[0]}:image {candidates[0]}:captions_joined`"
        )
    known: dict[str, Experiment] = {}
    with show_work("comparing"):
        read = [read_candidate(name, known) for name in dict.fromkeys(candidates)]
        measures = measure or [MAIN.at(read[0].first.k)]
        found = comparison.compare(read, measures, retrievers=retriever or ())
        queries = comparison.find_changes(read, found, measures[0], changed)
    texts = read_query_texts(read[0].first.choice["dataset"]) if queries else {}
    if form is Format.HTML:
        from twinlens.report.comparison_page import render

        typer.echo(render(read, found, queries, texts))
    else:
        typer.echo(comparison_text.format_comparison(read, found, queries, form.value, texts))


def export(
    out: Annotated[Path, typer.Argument(help="A folder; it is made if need be.")],
) -> None:
    """Write the workspace's results as others read them: TREC runs and qrels, MTEB JSON, CLIP_benchmark CSV."""
    from twinlens.config.load import read_params
    from twinlens.core import paths
    from twinlens.report import exports

    params = read_params()
    try:
        retrieval = json.loads((paths.METRICS / "retrieval.json").read_text(encoding="utf-8"))
        costs = json.loads((paths.METRICS / "cost.json").read_text(encoding="utf-8"))["stages"]
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is not here: {advise('`dvc repro` makes it')}") from None
    seconds = round(sum(costs[stage]["seconds"] for stage in ("embed", "rank", "evaluate")), 3)
    written = exports.export(paths.ranked(params.dataset, params.model), retrieval, params.model, seconds, out)
    typer.echo(f"{len(written)} files below {out}")
