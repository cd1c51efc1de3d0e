"""Candidates of a comparison: experiments, rows of their tables, or several experiments that differ in their seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from twinlens.core.errors import DataError, suggest_nearest
from twinlens.evaluation.experiments import Experiment, ExperimentError, read_experiment
from twinlens.evaluation.jackknife import Measured
from twinlens.evaluation.machines import say_apart

SETTINGS_TOLD = 8  # that differ between two candidates; more are counted


@dataclass(frozen=True)
class Candidate:
    """What is compared: an experiment, one row of its tables, or several experiments that differ in their seeds.

    Of several the values are means over them.
    """

    name: str
    experiments: tuple[Experiment, ...]
    row: str | None = None  # a retriever

    @property
    def first(self) -> Experiment:
        """The first of its experiments."""
        return self.experiments[0]

    def has(self, task: str, retriever: str) -> bool:
        """Whether all of its experiments have a run."""
        return all((task, retriever) in experiment.runs for experiment in self.experiments)

    def read(self, task: str, retriever: str) -> pl.DataFrame:
        """The values of every query of one run; of several experiments the means, and medians of ranks."""
        tables = [experiment.read(task, retriever) for experiment in self.experiments]
        if len(tables) == 1:
            return tables[0]
        shared = [name for name in tables[0].columns if all(name in table.columns for table in tables)]
        numbers = [name for name in shared if tables[0][name].dtype.is_float()]
        means = {
            name: sum((table[name] for table in tables[1:]), start=tables[0][name]) / len(tables) for name in numbers
        }
        ranks = pl.DataFrame([table["first_hit"].rename(str(n)) for n, table in enumerate(tables)])
        hits = ranks.select(pl.concat_list(pl.all()).list.median().round().cast(pl.Int64)).to_series()
        return tables[0].select(shared).with_columns(first_hit=hits, **means)

    def measure(
        self, task: str, retriever: str, ks: Sequence[int], names: Sequence[str], share: float
    ) -> list[Measured]:
        """Measure a run of each experiment without each picture; their shares make up `share`."""
        draws = [experiment.delete(task, retriever, max(ks)) for experiment in self.experiments]
        each = [share / len(draws) / len(own) for own in draws]
        return [
            Measured(one, one.measure(ks, names), part) for own, part in zip(draws, each, strict=True) for one in own
        ]


def read_candidate(text: str, known: dict[str, Experiment]) -> Candidate:
    """Read what a person calls `<experiment>`, `<experiment>:<retriever>`, or either with several joined by `+`.

    Args:
        text: as it was typed.
        known: experiments that were read before; what is read is added.

    Raises:
        ExperimentError: there is no such experiment, or it has no such row.
    """
    named, colon, row = text.partition(":")
    names = named.split("+")
    if not all(names) or (colon and not row) or len(set(names)) < len(names):
        raise ExperimentError(
            f"'{text}' is no name of what to compare: wanted `experiment`, `experiment:row` such as `main:image`, or "
            "different seeds as one, `first+second+third`"
        )
    for name in names:
        if name not in known:
            known[name] = read_experiment(name)
    found = tuple(known[name] for name in names)
    for experiment in found:
        rows = {retriever for _, retriever in experiment.runs}
        if row and row not in rows:
            raise ExperimentError(f"{experiment.name} has no row '{row}' ({suggest_nearest(row, rows)})")
    return Candidate(text, found, row or None)


def check_same_pools(first: Experiment, second: Experiment, *, only: str | None = None) -> None:
    """Refuse experiments whose numbers are about different things.

    Args:
        first: an experiment.
        second: another.
        only: the task to look at; all that both have if absent.

    Raises:
        DataError: names the first thing that differs.
    """
    for task in (task for task in first.pools if task in second.pools and only in (None, task)):
        ours, theirs = first.pools[task], second.pools[task]
        for key, what in (
            ("dataset", "dataset"),
            ("split", "split"),
            ("queries", "number of queries"),
            ("items", "number of items"),
        ):
            if ours[key] != theirs[key]:
                raise DataError(
                    f"{task}: the {what} is {ours[key]} in {first.name} and {theirs[key]} in {second.name}; "
                    "only experiments over one pool can be compared: run one of them again with the other's "
                    "`dataset`, `filter`, `resize` and `group`"
                )
        for key, what in (("queries_digest", "queries"), ("items_digest", "items")):
            if ours[key] != theirs[key]:
                where = describe_first_difference(first, second, task) if what == "queries" else ""
                raise DataError(
                    f"{task}: {first.name} and {second.name} have as many {what}, but not the same ones{where}; "
                    "only experiments over one pool can be compared"
                )
        for key, what in (("qrels_digest", "judgements"), ("texts_digest", "texts of the queries or items")):
            if key in ours and key in theirs and ours[key] != theirs[key]:
                raise DataError(
                    f"{task}: the {what} in {first.name} are not those in {second.name}, though their ids are the "
                    "same; only experiments over one pool can be compared: run one of them again on the other's data"
                )


def describe_first_difference(first: Experiment, second: Experiment, task: str) -> str:
    """Describe the first query that is not the same."""
    tables = []
    for experiment in (first, second):
        retriever = next(name for of_task, name in experiment.runs if of_task == task)
        tables.append(experiment.read(task, retriever).select("query_id", "group").rows())
    for row, (ours, theirs) in enumerate(zip(*tables, strict=False)):
        if ours != theirs:
            return f" (row {row}: {ours[0]} of {ours[1]!r} against {theirs[0]} of {theirs[1]!r})"
    return ""


def describe_settings(first: Candidate, second: Candidate) -> str:
    """Describe the settings that differ between two candidates, and what one seed each leaves open."""
    lines = []
    if first.experiments != second.experiments:
        changed = list(list_changed_settings(first, second))
        told = "; ".join(changed[:SETTINGS_TOLD]) + (
            f"; and {len(changed) - SETTINGS_TOLD} more" if len(changed) > SETTINGS_TOLD else ""
        )
        lines.append(f"What differs: {told}." if changed else "No setting differs.")
    if any(experiment.trained for candidate in (first, second) for experiment in candidate.experiments):
        alone = [candidate for candidate in (first, second) if len(candidate.experiments) == 1]
        if len(alone) == 2 and first.experiments != second.experiments:
            lines.append(
                "One seed each: this compares two sets of weights, not two recipes (several seeds are one candidate as "
                "`first+second+third`)."
            )
        elif alone:
            lines.append(
                "One seed: with other weights of the same recipe it may come out otherwise (several seeds are one "
                "candidate as `first+second+third`)."
            )
    if apart := say_apart([(one.name, one.experiments) for one in (first, second)]):
        lines.append(apart)
    return " ".join(lines)


def list_changed_settings(first: Candidate, second: Candidate) -> Iterator[str]:
    """List the settings that differ, with both values; of a card with another name the name alone."""
    settings = [[experiment.settings for experiment in candidate.experiments] for candidate in (first, second)]
    renamed = set()
    for key in dict.fromkeys(key for candidate in settings for one in candidate for key in one):
        ours, theirs = ([*dict.fromkeys(one.get(key, "absent") for one in candidate)] for candidate in settings)
        if sorted(ours) == sorted(theirs) or key.split(" card: ")[0] in renamed:
            continue
        renamed.add(key)
        yield f"{key} {', '.join(ours)} \N{RIGHTWARDS ARROW} {', '.join(theirs)}"
