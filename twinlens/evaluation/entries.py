"""Entries of a leaderboard: what of the candidates is put on it, and what may not be taken."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from twinlens.core.errors import DataError, suggest_nearest
from twinlens.evaluation.candidate_costs import Costs, allow_licence
from twinlens.evaluation.candidates import Candidate, check_same_pools
from twinlens.evaluation.experiments import Experiment
from twinlens.evaluation.intervals import Interval

NAMED = 4  # of a list of names; more are counted
SEED = "train.seed"  # how the key of a setting ends that makes another seed of the same recipe
OF_A_SWEEP = re.compile(r"(.+)-seed\d+")  # how `twinlens sweep` names the experiments of several seeds


@dataclass(frozen=True)
class Limits:
    """What a candidate has to meet."""

    max_ms: float | None = None  # a query
    max_bytes: float | None = None  # of a picture's vectors
    licence: str | None = None  # `permissive`, or names with commas between them

    def of_costs(self) -> dict[str, float]:
        """The limits of costs, by their names."""
        both = {"ms_per_query": self.max_ms, "vector_bytes": self.max_bytes}
        return {name: limit for name, limit in both.items() if limit is not None}


@dataclass(frozen=True)
class Entry:
    """One line of the leaderboard."""

    name: str
    candidate: Candidate
    row: str
    costs: Costs
    mean: float = 0.0
    interval: Interval = field(default_factory=lambda: Interval(None, None))
    p: float | None = None  # of "no other is better"; None: not among those that may be taken
    letter: str = ""  # a: cannot be told from the best; b: from the best of those that are left; ...
    refused: tuple[str, ...] = ()  # limits that it does not meet, in words
    efficient: bool = False  # no other that may be taken beats it: as good, as cheap in everything, better in something

    def cost(self, name: str) -> float:
        """One of its costs; endless where it is unknown."""
        value = self.costs.values[name]
        return math.inf if value is None else value

    @property
    def one_seed(self) -> bool:
        """Whether it hangs on what was trained here, once."""
        return self.costs.learned and len(self.candidate.experiments) == 1 and self.candidate.first.trained

    @property
    def model(self) -> str:
        """The model's name, as far as it is known."""
        return self.candidate.first.choice.get("model", "")


def merge_seeds(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[str]]:
    """Make one candidate of experiments that differ in the seed of their training alone, and say so."""
    groups: dict[object, list[Candidate]] = {}
    for place, candidate in enumerate(candidates):
        only = candidate.experiments[0] if len(candidate.experiments) == 1 else None
        recipe: object = place
        if only is not None and only.trained and only.settings:
            recipe = (candidate.row, *sorted((k, v) for k, v in only.settings.items() if not k.endswith(SEED)))
        groups.setdefault(recipe, []).append(candidate)
    found, told = [], []
    for group in groups.values():
        seeds: dict[tuple[str, ...], Experiment] = {}
        for candidate in group:
            of = tuple(v for k, v in sorted(candidate.first.settings.items()) if k.endswith(SEED))
            seeds.setdefault(of, candidate.first)
        if len(group) == 1 or len(seeds) == 1:
            found += group
            continue
        row = group[0].row
        end = f":{row}" if row else ""
        joined = "+".join(one.name for one in seeds.values()) + end
        stem = _find_stem([one.name for one in seeds.values()])
        name = joined if stem is None else f"{stem} ({len(seeds)} seeds){end}"
        found.append(Candidate(name, tuple(seeds.values()), row))
        which = joined if name == joined else f"{name} is {joined}, which"
        told.append(f"{which} differ in the seed alone: one row, the mean over {len(seeds)} seeds.")
    return found, told


def _find_stem(names: Sequence[str]) -> str | None:
    """What the names of a sweep's seeds begin with; None where they are others."""
    stems = {found[1] if (found := OF_A_SWEEP.fullmatch(name)) else None for name in names}
    return stems.pop() if len(stems) == 1 else None


def choose_task(candidates: Sequence[Candidate], asked: str | None) -> str:
    """Choose the task that is asked for, or `caption_to_image`, or else the first that all have, with the rows named.

    Raises:
        DataError: not all candidates have it.
    """
    known = [task for task in candidates[0].first.pools if all(task in c.first.pools for c in candidates)]
    able = [task for task in known if all(c.row is None or c.has(task, c.row) for c in candidates)] or known
    if asked is None:
        if not known:
            raise DataError(f"{', '.join(c.name for c in candidates)} share no task: they cannot be put on one list")
        return "caption_to_image" if "caption_to_image" in able else able[0]
    if asked not in known:
        lacking = [c.name for c in candidates if asked not in c.first.pools]
        raise DataError(f"{', '.join(lacking)} has no task '{asked}' ({suggest_nearest(asked, known)})")
    return asked


def keep_one_pool(candidates: Sequence[Candidate], task: str | None) -> tuple[list[Candidate], list[str]]:
    """Keep the candidates whose numbers are about what the first one's are, and say of the others what differs."""
    name, kept, told = choose_task(candidates, task), [], []
    for candidate in candidates:
        try:
            check_same_pools(candidates[0].first, candidate.first, only=name)
        except DataError as error:
            told.append(f"Left out: {candidate.name}. {error}.")
        else:
            kept.append(candidate)
    return kept, told


def expand_rows(candidates: Sequence[Candidate], task: str, retrievers: Sequence[str]) -> Iterator[Entry]:
    """An entry a row: a candidate that names none is each of its rows, but for those before training."""
    nothing = Costs({}, "", None)
    rows: list[tuple[Candidate, str]] = []
    for candidate in candidates:
        every = [row for of, row in candidate.first.runs if of == task and candidate.has(task, row)]
        if candidate.row is not None and candidate.row not in every:
            elsewhere = [of for of in candidate.first.pools if candidate.has(of, candidate.row)]
            hint = f"it is one of {', '.join(elsewhere)} (--task); " if elsewhere else ""
            raise DataError(f"{candidate.name} has no row of {task}: {hint}rows there are {', '.join(every)}")
        own = [candidate.row] if candidate.row is not None else every
        for row in own:
            if candidate.row is None and retrievers and row not in retrievers:
                continue
            if candidate.row is None and not retrievers and candidate.first.open_told(task, row).get("before_training"):
                continue
            rows.append((candidate, row))
    one_row = len({row for _, row in rows}) == 1
    alone = len({tuple(one.name for one in candidate.experiments) for candidate, _ in rows}) == 1
    for candidate, row in rows:
        short = row if alone else f"{candidate.name}:{row}"
        yield Entry(candidate.name if candidate.row is not None or one_row else short, candidate, row, nothing)


def merge_identical(entries: list[Entry], task: str, measure: str) -> tuple[list[Entry], list[str]]:
    """Keep one of entries that are the same row with the same value for every query, and say so."""
    kept: list[Entry] = []
    same: dict[str, list[str]] = {}
    for entry in entries:
        table = entry.candidate.read(task, entry.row)
        for other in (one for one in kept if one.row == entry.row and measure in table.columns):
            theirs = other.candidate.read(task, other.row)
            columns = ["query_id", "first_hit", measure]
            if measure in theirs.columns and table.select(columns).equals(theirs.select(columns)):
                same.setdefault(other.name, []).append(entry.name)
                break
        else:
            kept.append(entry)
    told = [f"{', '.join(others)}: the same to every query as {name}, told once." for name, others in same.items()]
    return kept, told


def say_alone(entries: Sequence[Entry], told: Sequence[str], task: str) -> str:
    """Say that there is nothing to choose among: one candidate, or several that are the same or made one."""
    if told:
        return f"nothing to choose on {task}: {' '.join(told)} Name other candidates beside it"
    found = entries[0].name if entries else "none"
    return (
        f"choose needs two candidates or more on {task}, found {found}: name others (experiments, git revisions, rows "
        "as `workspace:image`), or leave `--retriever` out to have all rows"
    )


def list_unmet(entry: Entry, limits: Limits) -> Iterator[str]:
    """List the limits that an entry does not meet, or is not known to meet, in words."""
    for name, limit in limits.of_costs().items():
        value = entry.costs.values[name]
        if value is None:
            yield f"{name} unknown"
        elif value > limit:
            yield f"{name} {value:.4g} over {limit:g}"
    if limits.licence is not None and not allow_licence(entry.costs.licence, limits.licence):
        yield f"licence {entry.costs.licence or 'not said'}"


def say_nearest(entries: Sequence[Entry], limits: Limits) -> str:
    """Say which candidate misses the fewest limits, and those by the least."""

    def miss(entry: Entry) -> tuple[int, float]:
        over = 1.0
        for name, limit in limits.of_costs().items():
            value = entry.costs.values[name]
            over *= math.inf if value is None else max(1.0, value / limit if limit > 0 else math.inf)
        return len(entry.refused), over

    nearest = min(entries, key=miss)
    return (
        f"none of the {len(entries)} candidates meets what is asked; the nearest is {nearest.name}: "
        f"{', '.join(nearest.refused)}. Raise the limit, or add other candidates"
    )


def name_few(names: Sequence[str]) -> str:
    """Name a few, and count the others."""
    left = len(names) - NAMED
    told = [*names[:NAMED], *([f"{left} more"] if left > 0 else [])]
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
