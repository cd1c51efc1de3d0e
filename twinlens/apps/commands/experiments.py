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
    experiments: Annotated[
        list[str],
        typer.Argument(help="Two or more: names of DVC experiments, git revisions, or `workspace`."),
    ],
    measure: Annotated[
        list[str] | None, typer.Option("--measure", "-m", help="Such as hit_at_10; may be repeated.")
    ] = None,
    retriever: Annotated[
        list[str] | None, typer.Option("--retriever", "-r", help="Only these, such as image; may be repeated.")
    ] = None,
    changed: Annotated[int, typer.Option(min=0, help="Queries to tell whose value changed most, a retriever.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the randomisation test and the intervals.")] = 0,
    form: Annotated[Format, typer.Option("--format", "-f", help="How it is written.")] = Format.TABLE,
) -> None:
    """Say which differences between experiments are real, query by query, without checking anything out.

    A paired randomisation test by picture, corrected by Holm's procedure for everything in
    the table; the effect is the second experiment's mean minus the first's, with its 95 % interval. As
    html it is one page that opens without a network: `--format html > compare.html`.
    """
    from twinlens.evaluation import compare as comparison
    from twinlens.evaluation.experiments import read_experiment
    from twinlens.evaluation.measures import MAIN
    from twinlens.report import comparison_text
    from twinlens.report.changed_queries import read_query_texts

    if len(set(experiments)) < 2:
        raise TwinLensError(f"compare needs two different experiments, found {', '.join(experiments)}")
    with show_work("comparing"):
        read = [read_experiment(name) for name in dict.fromkeys(experiments)]
        measures = measure or [MAIN.at(read[0].k)]
        found = comparison.compare(read, measures, retrievers=retriever or (), seed=seed)
        queries = comparison.find_changes(read, found, measures[0], changed)
    texts = read_query_texts(read[0].choice["dataset"]) if queries else {}
    if form is Format.HTML:
        from twinlens.report.comparison_page import render

        typer.echo(render(read, found, queries, texts))
    else:
        models = {experiment.name: experiment.choice["model"] for experiment in read}
        typer.echo(comparison_text.format_comparison(found, queries, form.value, models, texts))


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
