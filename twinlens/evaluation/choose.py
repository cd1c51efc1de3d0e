"""The choice among candidates: which cannot be told from the best, what each costs, and which one to take.

What the user may not take, by a licence or a limit, is left out first, as that does not hang on the measured quality.
Of the others, those that cannot be told from the best (`best.py`) are as good as any; among them the cheapest is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from twinlens.core.errors import DataError
from twinlens.evaluation.best import LEAST_CLUSTERS, BestGroup, find_best_group
from twinlens.evaluation.candidate_costs import CLOCKED, OF_MACHINE, UNASKED, check_costs, is_as_cheap, read_costs
from twinlens.evaluation.candidates import Candidate, check_same_pools
from twinlens.evaluation.entries import (
    Entry,
    Limits,
    choose_task,
    expand_rows,
    list_unmet,
    merge_identical,
    merge_seeds,
    name_few,
    say_alone,
    say_nearest,
)
from twinlens.evaluation.influences import Influences, bound_means, find_influences
from twinlens.evaluation.planning import Observed, Plan, plan

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHEAPER = 0.5  # of the cost of what is taken, at most: what is worth telling of what is worse


@dataclass(frozen=True)
class Choice:
    """A leaderboard and what it says."""

    task: str
    title: str
    measure: str
    entries: tuple[Entry, ...]  # best first
    group: tuple[Entry, ...]  # that cannot be told from the best, best first
    chosen: Entry
    costs: tuple[str, ...]  # that were looked at, the first decides first
    compared: tuple[str, ...]  # those of them by which candidates were compared
    claimed: bool  # false: there are too few clusters to leave anyone out
    clusters: int
    queries: int
    notes: tuple[str, ...]
    rival: Entry | None = None  # what the chosen one would be told from by `plan`
    plan: Plan | None = None

    @property
    def allowed(self) -> list[Entry]:
        """Those that may be taken."""
        return [entry for entry in self.entries if not entry.refused]

    @property
    def deciding(self) -> str | None:
        """The first cost in which the group differs, or else all that may be taken; None: there is none."""
        for entries in (self.group, self.allowed):
            for cost in self.compared:
                if differ(cost, entries):
                    return cost
        return None

    @property
    def cheaper(self) -> Entry | None:
        """What costs half or less of what is chosen, and is worse: the best of these."""
        cost, inside = self.deciding, {id(entry) for entry in self.group}
        if cost is None:
            return None
        most = self.chosen.cost(cost) * CHEAPER
        found = [e for e in self.allowed if id(e) not in inside and e.cost(cost) <= most]
        return max(found, key=lambda entry: entry.mean, default=None)


def differ(cost: str, entries: Sequence[Entry]) -> bool:
    """Whether entries differ in a cost, by more than its measurement does."""
    least = min(entry.cost(cost) for entry in entries)
    return not all(is_as_cheap(cost, entry.cost(cost), least) for entry in entries)


def choose(
    candidates: Sequence[Candidate],
    task: str | None,
    measure: str,
    *,
    retrievers: Sequence[str] = (),
    costs: Sequence[str] = (),
    limits: Limits | None = None,
    licences: Mapping[str, str | None] | None = None,
    notes: Sequence[str] = (),
) -> Choice:
    """Choose among candidates.

    Args:
        candidates: experiments, rows of them, or several seeds as one; what differs in its seed alone is made one.
        task: by whose numbers; `caption_to_image`, or else the first, if absent.
        measure: a column of their tables.
        retrievers: only these rows; all but those before training if empty.
        costs: by which to choose among equals, the first first; all that are known if empty.
        limits: what may not be taken at all.
        licences: by model and captioner.
        notes: what to tell beside what is found here.

    Raises:
        DataError: there are fewer than two candidates, they are about different pools, or none meets the limits.
    """
    check_costs(costs)
    merged, told = merge_seeds(candidates)
    name = choose_task(merged, task)
    for candidate in merged:
        for one in candidate.experiments:
            check_same_pools(merged[0].first, one, only=name)
    expanded, same = merge_identical(list(expand_rows(merged, name, retrievers)), name, measure)
    if len(expanded) < 2:
        raise DataError(say_alone(expanded, [*told, *same], name))
    about = expanded[0].candidate.first.open_run(name, expanded[0].row)[0].about
    filled = [
        replace(entry, costs=read_costs(entry.candidate, name, entry.row, about, licences or {})) for entry in expanded
    ]
    filled = [replace(entry, refused=tuple(list_unmet(entry, limits or Limits()))) for entry in filled]
    if all(entry.refused for entry in filled):
        raise DataError(say_nearest(filled, limits or Limits()))
    influences = find_influences([e.candidate for e in filled], name, [e.row for e in filled], measure)
    measured = _measure(filled, influences, name, measure)
    allowed = [place for place, entry in enumerate(measured) if not entry.refused]
    known, compared, machines = _select_costs([measured[place] for place in allowed], costs)
    measured, group = _rank_groups(measured, influences, allowed)
    measured = _mark_efficient(measured, compared)
    members = sorted((allowed[i] for i in group.members), key=lambda i: -measured[i].mean)
    chosen = _take_cheapest(measured, members, compared)
    rival, planned = _plan(influences, members, chosen, measured) if group.claimed else (None, None)
    first = measured[0].candidate.first
    return Choice(
        task=name,
        title=str(first.pools[name].get("title", name)),
        measure=measure,
        entries=tuple(sorted(measured, key=lambda entry: -entry.mean)),
        group=tuple(measured[i] for i in members),
        chosen=measured[chosen],
        costs=known,
        compared=compared,
        claimed=group.claimed,
        clusters=influences.clusters,
        queries=int(first.pools[name]["queries"]),
        notes=(*notes, *told, *same, *machines, *_note_unknown(measured, known), *_note_seeds(measured, allowed)),
        rival=rival,
        plan=planned,
    )


def _take_cheapest(entries: Sequence[Entry], members: Sequence[int], costs: Sequence[str]) -> int:
    """The best of those that are as cheap as the cheapest by the first cost, of them by the second, and so on."""
    left = list(members)
    for cost in costs:
        least = min(entries[i].cost(cost) for i in left)
        left = [i for i in left if is_as_cheap(cost, entries[i].cost(cost), least)]
    return max(left, key=lambda i: entries[i].mean)


def _measure(entries: Sequence[Entry], influences: Influences, task: str, measure: str) -> list[Entry]:
    bounds = bound_means(influences, [e.candidate for e in entries], task, [e.row for e in entries], measure)
    return [
        replace(entry, mean=float(mean), interval=bound)
        for entry, mean, bound in zip(entries, influences.mean, bounds, strict=True)
    ]


def _select_costs(
    entries: Sequence[Entry], asked: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The costs to tell, those of them to compare by, and what to say where machines differ."""
    told = tuple(asked) or tuple(name for name in UNASKED if any(e.costs.values[name] for e in entries))
    whole = [name for name in told if all(e.costs.values[name] is not None for e in entries)]
    apart: list[str] = []
    notes = []
    for names in ([name for name in told if name in OF_MACHINE and (name in CLOCKED) == clocked] for clocked in (1, 0)):
        known = [e for e in entries if any(e.costs.values[name] is not None for name in names)]
        of: dict[str, list[str]] = {}
        for entry in known:
            of.setdefault(entry.costs.machine_of(names[0]), []).append(entry.name)
        if len(of) > 1:
            apart += names
            where = "; ".join(f"{name_few(some)} on {machine}" for machine, some in of.items())
            notes.append(f"Not compared by {', '.join(names)}, which are of different machines: {where}.")
    return told, tuple(name for name in whole if name not in apart), tuple(notes)


def _note_unknown(entries: Sequence[Entry], costs: Sequence[str]) -> Iterator[str]:
    if not any(value is not None for entry in entries for value in entry.costs.values.values()):
        yield "No costs are known (metrics/cost.json is not there): the choice is by quality alone."
        return
    for cost in costs:
        lacking = [entry.name for entry in entries if entry.costs.values[cost] is None and not entry.refused]
        if lacking:
            who = "all" if len(lacking) == len(entries) else name_few(lacking)
            yield f"{cost} is unknown of {who}: not compared by it."


def _note_seeds(entries: Sequence[Entry], allowed: Sequence[int]) -> Iterator[str]:
    alone = [entries[place].candidate.first.name for place in allowed if entries[place].one_seed]
    if alone:
        yield (
            f"One seed only: {name_few(list(dict.fromkeys(alone)))}. Trained again, the same recipe may come out "
            "otherwise, and no interval here holds that; experiments that differ in `train.seed` are one row, with the "
            "seeds in its interval."
        )


def _rank_groups(
    entries: Sequence[Entry], influences: Influences, allowed: Sequence[int]
) -> tuple[list[Entry], BestGroup]:
    """Give each entry that may be taken its p-value, and the letter of its group; the group of the best."""
    found, first, left = list(entries), None, list(allowed)
    for letter in LETTERS:
        some = influences.select(left)
        group = find_best_group(some) if len(left) > 1 else BestGroup(np.ones(len(left)), (0,), claimed=True)
        for i, place in enumerate(left):
            p = float(group.p[i]) if first is None else found[place].p
            inside = i in group.members or letter == LETTERS[-1]
            found[place] = replace(found[place], p=p, letter=letter if inside else "")
        first = first or (group if some.clusters >= LEAST_CLUSTERS else replace(group, claimed=False))
        left = [place for i, place in enumerate(left) if i not in group.members]
        if not left:
            break
    assert first is not None
    return found, first


def _mark_efficient(entries: Sequence[Entry], costs: Sequence[str]) -> list[Entry]:
    """Mark those that no other beats: as good and as cheap in everything, and better in something (Pareto)."""
    points = {
        place: (-entry.mean, *(entry.cost(cost) for cost in costs))
        for place, entry in enumerate(entries)
        if not entry.refused
    }

    def beaten(point: tuple[float, ...]) -> bool:
        return any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points.values()
        )

    return [
        replace(entry, efficient=place in points and not beaten(points[place])) for place, entry in enumerate(entries)
    ]


def _plan(
    influences: Influences, members: Sequence[int], chosen: int, entries: Sequence[Entry]
) -> tuple[Entry | None, Plan | None]:
    """Plan what would tell the chosen one from the best of its group, or from the next if it is the best."""
    others = [place for place in members if place != chosen]
    if not others:
        return None, None
    rival = others[0]
    observed, effect = observe(influences, rival, chosen)
    return entries[rival], plan(observed, effect) if abs(effect) > 0 else None


def observe(influences: Influences, first: int, second: int) -> tuple[Observed, float]:
    """Observe a paired difference: its variance by what it comes from, and the second's mean minus the first's."""
    both = influences.select([first, second])
    pictures = replace(both, training=np.zeros(2)).compare_all()
    training = both.training
    total = float(training.sum())
    parts = [(v, s - 1.0) for v, s in zip(training, both.seeds, strict=True) if v > 0]
    return (
        Observed(
            variance=float(pictures.variance[0, 1]),
            df=float(pictures.df[0, 1]),
            clusters=influences.clusters,
            per_cluster=influences.per_cluster,
            training=total,
            seeds=int(min((s for v, s in zip(training, both.seeds, strict=True) if v > 0), default=1)),
            training_df=total**2 / sum(v**2 / df for v, df in parts) if parts else math.inf,
        ),
        float(pictures.effect[0, 1]),
    )


@dataclass(frozen=True)
class Pair:
    """A paired difference of two candidates, as it was seen."""

    first: str
    second: str
    task: str
    observed: Observed
    effect: float
    one_seed: bool


def observe_pair(candidates: Sequence[Candidate], task: str | None, measure: str, row: str | None) -> Pair:
    """Observe the difference of two candidates on one row, or on a row that each names.

    Raises:
        DataError: they are the same, about different pools, or have several rows and name none.
    """
    name = choose_task(candidates, task)
    entries = list(expand_rows(candidates, name, [row] if row else []))
    rows = [[entry for entry in entries if entry.candidate is candidate] for candidate in candidates]
    if len(rows) != 2 or any(len(own) != 1 for own in rows):
        every = sorted({entry.row for entry in entries})
        raise DataError(
            f"plan needs one row of each of two different candidates, found {name_few([c.name for c in candidates])}: "
            f"name the row as `--retriever {every[0] if every else 'image'}`, or of each as `{candidates[0].name}:row`"
        )
    pair = [rows[0][0], rows[1][0]]
    influences = find_influences([e.candidate for e in pair], name, [e.row for e in pair], measure)
    if influences.clusters < LEAST_CLUSTERS:
        raise DataError(
            f"{influences.clusters} clusters of queries, of {LEAST_CLUSTERS} that are needed to plan by: how much two "
            "candidates differ from picture to picture cannot be seen in fewer"
        )
    observed, effect = observe(influences, 0, 1)
    return Pair(pair[0].name, pair[1].name, name, observed, effect, any(entry.one_seed for entry in pair))
