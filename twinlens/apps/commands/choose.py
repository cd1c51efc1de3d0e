"""`twinlens choose` and `twinlens plan`: which candidate to take, and what it takes to tell two apart."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinlens.apps.commands.experiments import Format
from twinlens.apps.commands.options import Json
from twinlens.apps.commands.terminal import show_work
from twinlens.core.errors import TwinLensError

if TYPE_CHECKING:
    from twinlens.evaluation.candidates import Candidate

Task = Annotated[str | None, typer.Option("--task", "-t", help="caption_to_image, if absent and there is one.")]
Measure = Annotated[str | None, typer.Option("--measure", "-m", help="Such as hit_at_10; nDCG if absent.")]
Rows = Annotated[
    list[str] | None, typer.Option("--retriever", "-r", help="Only these rows, such as image; may be repeated.")
]


def choose(
    candidates: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names of DVC experiments, git revisions, or `workspace`; `main:image` is one row, `a+b+c` are seeds, "
            "as one. All that came out of the queue on this commit, and the workspace, if absent."
        ),
    ] = None,
    task: Task = None,
    measure: Measure = None,
    retriever: Rows = None,
    costs: Annotated[
        str,
        typer.Option(
            help="By which to choose among equals, the first first, with commas: ms_per_query, embed_ms, vector_bytes, "
            "peak_gpu_mb, parameters, tokens, money, which are told if absent as far as they are known; ms_p95, "
            "cold_start_s, host_mb, gpu_mb, disk_mb, query_price, index_price."
        ),
    ] = "",
    max_ms: Annotated[float | None, typer.Option(min=0, help="Milliseconds a query may take.")] = None,
    max_bytes: Annotated[float | None, typer.Option(min=0, help="Bytes a picture's vectors may take.")] = None,
    licence: Annotated[
        str | None, typer.Option(help="`permissive`, or the licences that will do, with commas between them.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", "-f", help="How it is written.")] = Format.TABLE,
    out: Annotated[Path | None, typer.Option(help="A file to write to, rather than to the terminal.")] = None,
) -> None:
    """Say which candidate to take: those that cannot be told from the best, and the cheapest of them.

    A line a candidate, with its 95 % interval; group a holds the truly best in 95 % of cases or more. Nothing is
    checked out and nothing is run.

    As html it is one page, the leaderboard: `twinlens choose --format html --out report/leaderboard.html`.

    Examples: `twinlens choose`, `twinlens choose workspace --licence permissive`,
    `twinlens choose a b c --retriever image --costs vector_bytes,embed_ms --max-bytes 1024`.
    """
    from twinlens.core.scratch import write_whole_text
    from twinlens.evaluation import choose as choosing
    from twinlens.evaluation.entries import Limits, keep_one_pool
    from twinlens.evaluation.measures import MAIN
    from twinlens.report import choice_text
    from twinlens.report.leaderboard import render
    from twinlens.report.leaders import Material

    with show_work("choosing"):
        read, notes = (read_named(candidates), []) if candidates else read_finished()
        if not candidates:  # nobody asked for all of them in particular
            read, others = keep_one_pool(read, task)
            notes += others
        found = choosing.choose(
            read,
            task,
            measure or MAIN.at(read[0].first.k),
            retrievers=retriever or (),
            costs=[name.strip() for name in costs.split(",") if name.strip()],
            limits=Limits(max_ms, max_bytes, licence),
            licences=_read_licences(),
            notes=notes,
        )
    if form is Format.HTML:
        with show_work("drawing"):
            text = render(found, Material.read(read[0].first.choice["dataset"]))
    else:
        text = choice_text.format_choice(found, form.value)
    if out is None:
        typer.echo(text)
    else:
        write_whole_text(out, text + "\n")
        typer.echo(choice_text.write_sentence(found))


def plan(
    first: Annotated[str, typer.Argument(help="A candidate, as of `compare`.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    task: Task = None,
    measure: Measure = None,
    retriever: Annotated[str | None, typer.Option("--retriever", "-r", help="The row, such as image.")] = None,
    effect: Annotated[
        float | None, typer.Option(help="The least difference that matters to you, as 0.02; what was seen if absent.")
    ] = None,
    power: Annotated[float, typer.Option(help="In which share of cases it is to be seen.")] = 0.8,
    as_json: Json = False,
) -> None:
    """Say how many pictures, or seeds, it takes to tell two candidates apart.

    From how much the two differ from picture to picture, and from seed to seed where a candidate is several. For
    a dataset of your own that is yet to be captioned, take two candidates on a dataset like it, and `--effect`.

    Examples: `twinlens plan workspace:image workspace:caption_generated`, `twinlens plan a b -r image --effect 0.02`.
    """
    from twinlens.evaluation import planning
    from twinlens.evaluation.choose import observe_pair
    from twinlens.evaluation.measures import MAIN
    from twinlens.report.choice_text import label_measure
    from twinlens.report.plan_text import describe_plan

    with show_work("planning"):
        read = read_named([first, second])
        chosen = measure or MAIN.at(read[0].first.k)
        pair = observe_pair(read, task, chosen, retriever)
        found = planning.plan(pair.observed, pair.effect if effect is None else effect, power)
    if as_json:
        seen = {"seen": pair.effect, "pictures": pair.observed.clusters}
        typer.echo(json.dumps(asdict(found) | seen, indent=2, allow_nan=False))
    else:
        typer.echo(describe_plan(pair, found, label_measure(chosen)))


def read_named(names: list[str]) -> list[Candidate]:
    """Read candidates by name; one that cannot be read is an error."""
    from twinlens.evaluation.candidates import read_candidate
    from twinlens.evaluation.experiments import Experiment

    known: dict[str, Experiment] = {}
    return [read_candidate(name, known) for name in dict.fromkeys(names)]


def read_finished() -> tuple[list[Candidate], list[str]]:
    """Read all that came out of the queue, and the workspace; what cannot be read, or has other data, is told.

    Raises:
        TwinLensError: nothing can be read.
    """
    from twinlens.evaluation.candidates import Candidate
    from twinlens.evaluation.experiments import ExperimentError, list_experiments, list_failed, read_experiment

    found, notes, finished = [], [], list_experiments()
    for name in finished:
        try:
            found.append(read_experiment(name))
        except ExperimentError as error:
            notes.append(f"Left out: {error}.")
    failed = [name for name in list_failed() if name not in finished]
    notes += [f"Left out: {name} failed; `dvc queue logs {name}` says why." for name in failed]
    if not found:
        raise TwinLensError(f"nothing to choose from: no experiment of this commit can be read. {' '.join(notes)}")
    dataset = found[0].choice["dataset"]
    notes += [
        f"Left out: {one.name} is on the dataset {one.choice['dataset']}, not on {dataset}."
        for one in found
        if one.choice["dataset"] != dataset
    ]
    return [Candidate(one.name, (one,)) for one in found if one.choice["dataset"] == dataset], notes


def _read_licences() -> dict[str, str | None]:
    """The licences of models and captioners, as their cards say now; a card that cannot be read says nothing."""
    from twinlens.config.load import read_params
    from twinlens.evaluation.candidate_costs import TRAINED_HERE

    try:
        params = read_params()
    except TwinLensError:
        return {}
    found: dict[str, str | None] = {}
    for name in params.models:
        try:
            model = params.models[name]
        except TwinLensError:
            continue
        each = dict.fromkeys(t.about.licence for t in model.towers().values() if t.about.licence)
        found[name] = ", ".join(each) or (TRAINED_HERE if model.train is not None else None)
    for name in params.captioners:
        try:
            captioner = params.captioners[name]
        except TwinLensError:
            continue
        found[name] = captioner.about.licence or (TRAINED_HERE if captioner.train is not None else None)
    return found
