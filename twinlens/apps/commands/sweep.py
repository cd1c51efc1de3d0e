"""`twinlens sweep`: several models, one after the other, whatever becomes of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from twinlens.apps.commands.choose import choose
from twinlens.apps.commands.terminal import note, show_work
from twinlens.core.errors import TwinLensError

if TYPE_CHECKING:
    from twinlens.apps.steps import Step
    from twinlens.apps.sweeps import Queue
    from twinlens.config.params import Params


def sweep(
    models: Annotated[str, typer.Option(help="Cards of cards/models, with commas between them.")],
    captioners: Annotated[str, typer.Option(help="Likewise of cards/captioners; the active one if absent.")] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set-param", "-S", help="A further setting, as of `dvc exp run`; may be repeated."),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Put before the names of the experiments.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Experiments at a time.")] = 1,
    dry: Annotated[
        bool, typer.Option("--dry", help="Only say what would be run, and about how long it takes.")
    ] = False,
) -> None:
    """Run every model with every captioner as an experiment on DVC's queue, and say which to take.

    One that fails is told and skipped. Run again after a kill or a change, it goes on: what is finished is not run
    again, and what failed is tried once more. Ctrl-C leaves the queue running; `dvc queue stop` stops it.
    """
    from twinlens.apps import sweeps
    from twinlens.apps.steps import plan_steps
    from twinlens.config.load import read_params

    params = read_params()
    steps = plan_steps(params, _names(models), _names(captioners), settings or [], prefix)
    sweeps.refuse_unknown_to_git(steps)
    queue = sweeps.Queue()
    with show_work("looking at what is there"):
        for model in sweeps.refuse_what_does_not_fit(params, steps):
            note(f"{model}: how much memory it needs is not known here")
        finished = [step for step in steps if queue.is_finished(step)]
    todo = [step for step in steps if step not in finished]
    note(f"{len(steps)} experiments, {len(finished)} of them finished{_tell_duration(params, todo)}")
    if dry:
        for step in steps:
            typer.echo(f"{step.name}\t{'finished' if step in finished else 'dvc exp run ' + ' '.join(step.options)}")
        return
    states = queue.states(todo)
    for step in todo:
        state = states.get(step.name)
        if state not in (sweeps.QUEUED, sweeps.RUNNING) or (state == sweeps.RUNNING and queue.is_orphan(step.name)):
            queue.put(step)
    failed = _follow(queue, todo, jobs) if todo else []
    good = [step.name for step in steps if step.name not in failed]
    if not good:
        raise TwinLensError("none of the experiments ended well")
    choose(good)


def _names(told: str) -> list[str]:
    return [name for name in (one.strip() for one in told.split(",")) if name]


def _tell_duration(params: Params, todo: list[Step]) -> str:
    from twinlens.apps import durations
    from twinlens.core.costs import name_machine
    from twinlens.models.sizes import count_parameters

    known = durations.read_known_costs(durations.list_revisions())
    names = {step.choice["model"] for step in todo} | {one["choice"]["model"] for one in known}
    parameters = {}
    for name in names & set(params.models):
        counts = [count_parameters(tower) for tower in params.models[name].towers().values()]
        parameters[name] = None if None in counts else sum(count for count in counts if count)
    trained = {name for name, card in params.models.items() if card.train is not None}
    found = [durations.estimate_here(step, known, parameters, trained, name_machine()) for step in todo]
    told = [seconds for seconds, _ in found if seconds is not None]
    if not told:
        return ""
    rest = f", and {len(todo) - len(told)} of which it is not known" if len(told) < len(todo) else ""
    others = list(dict.fromkeys(name for seconds, names in found if seconds is not None for name in names))
    also = f" (on {' and '.join(others)} too, which is not this machine)" if others else ""
    return f"; about {durations.format_duration(sum(told))} for {len(told)} by what earlier runs took{also}{rest}"


def _follow(queue: Queue, todo: list[Step], jobs: int) -> list[str]:
    """Start the queue and show its progress; returns the names of those that failed."""
    from twinlens.apps import sweeps
    from twinlens.core.progress import Progress

    queue.start(jobs)
    told: dict[str, str] = {}
    with Progress("sweep", total=len(todo), unit="experiment") as bar:
        for states in queue.watch(todo, jobs):
            for name, state in states.items():
                if state in (sweeps.DONE, sweeps.FAILED) and name not in told:
                    told[name] = state
                    bar.add(1)
                    if state == sweeps.FAILED:
                        words = sweeps.read_last_words(queue.log(name)) or ["no word; see `dvc queue status`"]
                        note(f"{name} failed and is skipped:")
                        for line in words:
                            note(f"  {line}")
            running = [name for name, state in states.items() if state == sweeps.RUNNING]
            bar.show(", ".join(f"{name}: {sweeps.read_stage(queue.log(name)) or 'begins'}" for name in running))
    return [name for name, state in told.items() if state == sweeps.FAILED]
