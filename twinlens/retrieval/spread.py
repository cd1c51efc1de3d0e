"""Ranking spread over workers: each ranks a span of the queries of some retrievers, with all items, and fits them.

A worker opens the vectors where they lie and makes the same scorers as the driver would, of the same settings. Spans
begin and end where blocks of queries do, so that every number is that of one pass. The lists are parts; the driver
reads them in order, and does with them what it does with those that it makes itself.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from twinlens import retrieval
from twinlens.config.params import Params
from twinlens.core import paths
from twinlens.core.code import code_digest
from twinlens.core.costs import Cost
from twinlens.core.hashing import hash_text, recall_digest
from twinlens.core.part_store import PartStore, Receipt
from twinlens.core.progress import Progress
from twinlens.core.scratch import Scratch, fingerprint
from twinlens.core.tables import AS_PUBLISHED
from twinlens.engines import Engine, Seat
from twinlens.retrieval.base import Retriever, Scorer
from twinlens.retrieval.block_ranking import Ranks, Span, choose_span, rank_among_judged, rank_together
from twinlens.retrieval.corpus import open_corpus
from twinlens.retrieval.exact import Neighbours
from twinlens.retrieval.fitted import BLOCK
from twinlens.retrieval.rank import More, restate_as_published
from twinlens.retrieval.registry import list_retrievers
from twinlens.tasks.base import Task

LIBRARIES = ("numpy", "scipy", "polars", "torch")
FITTED_SPAN = BLOCK  # queries that are fitted together, and take longer than others


@dataclass(frozen=True)
class Search:
    """A search of a task: by retrievers of one group, or by a further draw of one."""

    task: str  # without what its name ends with as published
    retrievers: tuple[str, ...]
    published: bool
    draw: int = 0  # from 1; 0: none

    @property
    def digest(self) -> str:
        """Short name for files."""
        return hash_text(repr(self))[:16]


@dataclass(frozen=True)
class SpanTask:
    """A span of queries whose lists are wanted."""

    search: Search
    span: Span
    store: PartStore

    @property
    def name(self) -> str:
        """Of its file."""
        return name_part(self.search, self.span)

    @property
    def size(self) -> int:
        """Queries."""
        return self.span[1] - self.span[0]


def name_part(search: Search, span: Span) -> str:
    """Name the lists of a span."""
    return f"{search.task}-{search.digest}-{span[0]:09d}-{span[1]:09d}.npz"


@dataclass
class RankWorker:
    """Worker that ranks spans of queries; it opens the vectors at its first."""

    params: Params  # with the cards in use alone
    dataset: str
    model: str
    device: str
    _listed: dict[str, dict[tuple[str, bool], Retriever]] = field(default_factory=dict, compare=False)
    _made: dict[Search, tuple[Task, list[Retriever], list[Scorer]]] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, params: Params, dataset: str, model: str, device: str) -> RankWorker:
        """Take what it needs of the settings, as they are now."""
        cards = {"datasets": {dataset: params.datasets[dataset]}, "models": {model: params.models[model]}}
        cards["captioners"] = {params.captioner: params.captioners[params.captioner]}
        return cls(params.model_copy(update=cards), dataset, model, device)

    @property
    def paths(self) -> tuple[Path, ...]:
        """What there is to rank, which every worker has to see."""
        return (paths.tasks(self.dataset, self.params.captioner), paths.embedded(self.dataset, self.model))

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: the settings."""
        return {name: value for name, value in vars(self).items() if name != "_opened"} | {"_listed": {}, "_made": {}}

    @cached_property
    def _opened(self) -> Any:
        return open_corpus(self.params, self.dataset, self.model, Cost())

    def __call__(self, tasks: Iterable[SpanTask], seat: Seat) -> Iterator[list[Receipt]]:
        """See `engines.Worker`: the receipts of each span."""
        for one in tasks:
            lists = self._rank(one)
            seat.count(one.size)
            yield [one.store.put(one.name, partial(write_lists, lists))]

    def _rank(self, asked: SpanTask) -> list[tuple[Neighbours, Ranks, More]]:
        task, retrievers, made = self._find(asked.search)
        depth, device, span = self.params.rank.depth, self.device, asked.span
        misses = [one.zero_is_miss for one in retrievers]
        blocks = list(rank_together(made, misses, task, depth, device, span))
        found = []
        for place, scorer in enumerate(made):
            lists = _concatenate([block[place][0] for block in blocks])
            among = [block[place][1] for block in blocks]
            ranks = [one for one in among if one is not None]
            whole = np.concatenate(ranks) if ranks else rank_among_judged(scorer, task, depth, device, span)
            found.append((lists, whole, More.of(task, scorer, *span)))
        return found

    def _find(self, search: Search) -> tuple[Task, list[Retriever], list[Scorer]]:
        if search not in self._made:
            task = next(one for one in self._opened.tasks if one.name == search.task)
            if search.task not in self._listed:  # what the retrievers of a task share is made once
                every = list_retrievers(task, self._opened.corpus, self.params)
                self._listed.clear()
                self._listed[search.task] = {(one.name, one.published): one for one in every}
            found = [self._listed[search.task][name, search.published] for name in search.retrievers]
            if search.draw:
                found = [replace(one, make=one.draws[search.draw - 1], draws=()) for one in found]
            mine = restate_as_published(task) if search.published else task
            self._made.clear()  # of one search: the next needs the memory
            self._made[search] = mine, found, [one.make() for one in found]
        return self._made[search]


def _concatenate(blocks: Sequence[Neighbours]) -> Neighbours:
    first_hits = [one.first_hit for one in blocks if one.first_hit is not None]
    return Neighbours(
        blocks[0].first_query,
        np.concatenate([one.rows for one in blocks]),
        np.concatenate([one.scores for one in blocks]),
        np.concatenate(first_hits),
    )


def write_lists(lists: Sequence[tuple[Neighbours, Ranks, More]], path: Path) -> None:
    """Write the lists of a span, by retriever."""
    held: dict[str, np.ndarray] = {"first_query": np.array(lists[0][0].first_query)}
    for place, (found, among, more) in enumerate(lists):
        assert found.first_hit is not None
        held |= {f"rows_{place}": found.rows, f"scores_{place}": found.scores}
        held |= {f"first_hit_{place}": found.first_hit, f"among_{place}": among}
        held |= {f"{name}_{place}": value for name, value in vars(more).items() if value is not None}
    with path.open("wb") as file:
        np.savez(file, **held)  # type: ignore[arg-type]


def read_lists(path: Path) -> list[tuple[Neighbours, Ranks | None]]:
    """Read the lists that `write_lists` wrote."""
    with np.load(path, allow_pickle=False) as held:
        first = int(held["first_query"])
        return [
            (
                Neighbours(first, held[f"rows_{place}"], held[f"scores_{place}"], held[f"first_hit_{place}"]),
                held[f"among_{place}"],
            )
            for place in range(sum(name.startswith("rows_") for name in held.files))
        ]


def read_more(path: Path, place: int) -> More:
    """Read what else `write_lists` wrote of one retriever."""
    with np.load(path, allow_pickle=False) as held:
        names = {field.name: f"{field.name}_{place}" for field in fields(More)}
        return More(**{name: held[stored] if stored in held.files else None for name, stored in names.items()})


def make_key(worker: RankWorker) -> str:
    """Make a key of everything that decides the lists."""
    params = worker.params
    modules = [f"twinlens.retrieval.{module.name}" for module in pkgutil.iter_modules(retrieval.__path__)]
    files = [path for folder in worker.paths for path in sorted(folder.rglob("*")) if path.is_file()]
    return fingerprint(
        settings=params.model_dump(mode="json", include={"rank", "hybrid", "category_search", "captioner"}),
        cards=[
            params.datasets[worker.dataset].model_dump(mode="json"),
            params.models[worker.model].model_dump(mode="json"),
        ],
        files=[[path.name, recall_digest(path)] for path in files],
        device=worker.device.partition(":")[0],
        libraries=[version(name) for name in LIBRARIES],
        code=code_digest(*modules),
    )


class SpreadLists:
    """Lists of several searches, made by the workers of an engine span by span, and read in order."""

    def __init__(self, worker: RankWorker, scratch: Scratch) -> None:
        self.worker, self.scratch, self.store = worker, scratch, scratch.open_store()

    def make(self, searches: Iterable[tuple[Task, Sequence[Retriever]]], engine: Engine) -> None:
        """Make what is missing of some searches and of the further draws of their retrievers.

        Args:
            searches: tasks, as published where their retrievers are, and retrievers of one group.
            engine: whose workers.
        """
        wanted = [SpanTask(*part, self.store) for one in searches for part in self._list_parts(*one)]
        missing = [task for task in wanted if not self.scratch.has(task.name)]
        total, left = sum(task.size for task in wanted), sum(task.size for task in missing)
        with Progress("rank", total=total, unit="query", done=total - left) as bar:
            for receipts in engine.map(self.worker, missing, bar):
                for receipt in receipts:
                    self.scratch.accept(receipt)

    def read(
        self, task: Task, retrievers: Sequence[Retriever], draw: int
    ) -> Iterator[list[tuple[Neighbours, Ranks | None]]]:
        """See `rank.Lists`."""
        search = _describe(task, retrievers, draw)
        return (read_lists(self.store.read(name_part(search, span))) for span in self._split(task, retrievers))

    def read_more(self, task: Task, retrievers: Sequence[Retriever], draw: int, place: int) -> More:
        """See `rank.Lists`."""
        search = _describe(task, retrievers, draw)
        parts = [read_more(self.store.read(name_part(search, span)), place) for span in self._split(task, retrievers)]
        joined = {
            field.name: None if getattr(parts[0], field.name) is None else [getattr(one, field.name) for one in parts]
            for field in fields(More)
        }
        return More(**{name: None if found is None else np.concatenate(found) for name, found in joined.items()})

    def _list_parts(self, task: Task, retrievers: Sequence[Retriever]) -> Iterator[tuple[Search, Span]]:
        searches = [_describe(task, [one], n + 1) for one in retrievers for n in range(len(one.draws))]
        for search in [*searches, _describe(task, retrievers, 0)]:
            yield from ((search, span) for span in self._split(task, retrievers))

    @staticmethod
    def _split(task: Task, retrievers: Sequence[Retriever]) -> list[Span]:
        fitted = any(one.fitted for one in retrievers)
        size, count = FITTED_SPAN if fitted else choose_span(len(task.item_ids)), len(task.query_ids)
        return [(start, min(start + size, count)) for start in range(0, count, size)]


def _describe(task: Task, retrievers: Sequence[Retriever], draw: int) -> Search:
    name = task.name.removesuffix(AS_PUBLISHED) if retrievers[0].published else task.name
    return Search(name, tuple(one.name for one in retrievers), retrievers[0].published, draw)
