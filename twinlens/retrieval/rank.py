"""Ranking: checks the vectors, runs every retriever of a task, and writes what is needed to measure it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from jaxtyping import Float64, Int, UInt8

from twinlens.config.gates import Gates
from twinlens.config.params import RankParams
from twinlens.core import tables
from twinlens.core.probes import Probe
from twinlens.core.progress import Progress
from twinlens.core.vectors import Vectors
from twinlens.retrieval.base import Dense, Reranker, Retriever, Scorer
from twinlens.retrieval.block_ranking import Ranks, rank_among_judged, rank_blocks, rank_together
from twinlens.retrieval.by_example import list_troubles
from twinlens.retrieval.checks import Ties, check_probe, detect_not_finite, detect_not_unit, detect_repeated
from twinlens.retrieval.exact import Neighbours
from twinlens.retrieval.fitted import FittedRows
from twinlens.retrieval.full_ranking import average_precision
from twinlens.retrieval.in_batch import rank_in_batches
from twinlens.retrieval.runs import DRAWS, RunWriter
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import VALIDATION_CAPTIONS, VALIDATION_IMAGES
from twinlens.tasks.qrels import Qrels

log = logging.getLogger("twinlens")


def check_vectors(gates: Gates, sources: Mapping[str, Vectors], folder: Path) -> None:
    """Hold all vectors against what vectors must be, and against their probes.

    Raises:
        DataError: a gate that is an error found trouble.
    """
    for name, source in sources.items():
        gates.check("finite", detect_not_finite(source.rows, source.ids, name))
        gates.check("unit_length", detect_not_unit(source.rows, source.ids, name))
        probe = Probe.read(folder / f"{name}.probe.npz")
        gates.check(
            "repeated_vectors", detect_repeated(source.rows, probe.contents, name, gates.params.max_repeated_share)
        )
        check_probe(gates, name, probe, sources)


def list_unmeasured(tasks: Iterable[Task], left_out: Mapping[str, str]) -> Iterator[str]:
    """List, in words, what is not measured since inputs have no vectors.

    Args:
        tasks: all of them.
        left_out: by input, why it has none.
    """
    for name, why in left_out.items():
        if name in (VALIDATION_IMAGES, VALIDATION_CAPTIONS):
            yield f"weights of hybrids are not chosen on validation pictures: {why}"
            continue
        needed = [
            task.name
            for task in tasks
            if name in (task.about.query_text, task.about.query_picture, task.about.item_text, task.about.item_picture)
        ]
        where = f" in {', '.join(needed)}" if needed else ""
        yield f"retrievers by vectors that need {name}{where} are not measured: {why}"


def restate_as_published(task: Task) -> Task:
    """Restate the task in the protocol of its source, whose numbers stand beside the published ones only."""
    about = replace(task.about, published_of=task.name)
    return replace(task, name=task.name + tables.AS_PUBLISHED, about=about, partners=None)


def group_retrievers(retrievers: Iterable[Retriever]) -> list[list[Retriever]]:
    """Group the retrievers of a task: in their order, neighbours of one group together."""
    groups: list[list[Retriever]] = []
    for one in retrievers:
        if groups and one.group and (one.group, one.published) == (groups[-1][0].group, groups[-1][0].published):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def search(task: Task, retriever: Retriever, depth: int, device: str, folder: Path, gates: Gates) -> None:
    """Search with one retriever; see `search_together`."""
    search_together(task, [retriever], depth, device, folder, gates)


class Lists(Protocol):
    """Lists that were made before, by workers."""

    def read(
        self, task: Task, retrievers: Sequence[Retriever], draw: int
    ) -> Iterator[list[tuple[Neighbours, Ranks | None]]]:
        """Iterate over them as `rank_together` does."""
        ...

    def read_more(self, task: Task, retrievers: Sequence[Retriever], draw: int, place: int) -> More:
        """Read what else was made of one of the retrievers, by its place."""
        ...


@dataclass(frozen=True)
class More:
    """What only vectors are asked for of some queries: measures of the full ranking, and what is to be told of fits."""

    average_precision: Float64[np.ndarray, " queries"] | None
    flags: UInt8[np.ndarray, " queries"] | None  # see `fitted.FittedRows.read_flags`

    @classmethod
    def of(cls, task: Task, made: Scorer, start: int, stop: int) -> More:
        """Compute it of the queries from `start` to before `stop`."""
        if not isinstance(made, Dense):
            return cls(None, None)
        flags = made.queries.read_flags(start, stop) if isinstance(made.queries, FittedRows) else None
        if not task.about.full_ranking:
            return cls(None, flags)
        return cls(average_precision(made.queries[start:stop], made.items, task.qrels.between(start, stop)), flags)


def search_together(
    task: Task,
    retrievers: Sequence[Retriever],
    depth: int,
    device: str,
    folder: Path,
    gates: Gates,
    lists: Lists | None = None,
    draw: int = 0,
) -> None:
    """Write the runs of retrievers, what they mean, and every query's first hit, also without distractors.

    Further draws of a retriever that draws at random are written in the same way to folders of their own.

    Args:
        task: who searches what.
        retrievers: of one group (`group_retrievers`), whose scores of a block of queries are computed once for all.
        depth: items wanted.
        device: where products of vectors are made.
        folder: of the task.
        gates: what to do about trouble.
        lists: made by workers; made here if absent.
        draw: number of the further draw that is written, from 1; 0: it is none.
    """
    for one in retrievers:
        for n, make in enumerate(one.draws, start=1):
            own = folder / DRAWS / str(n)
            task.write(own)
            again = replace(one, make=make, draws=())
            search_together(task, [again], depth, device, own, gates, lists, n)
    made = [one.make() for one in retrievers]
    first_hits: list[list[Ranks]] = [[] for _ in retrievers]
    among: list[list[Ranks]] = [[] for _ in retrievers]
    equal = [Ties() for _ in retrievers]
    others = f" and {len(retrievers) - 1} more" if len(retrievers) > 1 else ""
    with (
        ExitStack() as files,
        Progress(f"rank {task.name} by {retrievers[0].name}{others}", total=len(made[0]), unit="query") as bar,
    ):
        runs = [
            files.enter_context(RunWriter(folder / "runs" / f"{one.name}.parquet", task.query_ids, task.item_ids))
            for one in retrievers
        ]
        misses = [one.zero_is_miss for one in retrievers]
        if lists is None:
            blocks = rank_together(made, misses, task, depth, device)
        else:
            blocks = lists.read(task, retrievers, draw)
        for of_block in blocks:
            for place, (found, in_judged) in enumerate(of_block):
                scorer = made[place]
                runs[place].add(found.first_query, found.rows, found.scores)
                equal[place].add(found.scores, found.rows, scorer.items if isinstance(scorer, Dense) else None)
                assert found.first_hit is not None  # judgements were given
                first_hits[place].append(found.first_hit)
                among[place] += [] if in_judged is None else [in_judged]
            bar.add(len(of_block[0][0].rows))
    for place, (one, scorer) in enumerate(zip(retrievers, made, strict=True)):
        if one.untrained_of is None:  # random weights may well put everything in one place
            gates.check("tied_scores", equal[place].trouble(f"{task.name}, {one.name}", gates.params.max_tied_share))
        rank = np.concatenate(first_hits[place])
        in_judged = np.concatenate(among[place]) if among[place] else rank_among_judged(scorer, task, depth, device)
        _write(task, one.name, one.told(scorer), rank, in_judged, folder)
        more = (
            More.of(task, scorer, 0, len(scorer)) if lists is None else lists.read_more(task, retrievers, draw, place)
        )
        if isinstance(scorer, Dense):
            _write_beyond_runs(task, one.name, scorer, more, folder)


def _write_beyond_runs(task: Task, name: str, made: Dense, more: More, folder: Path) -> None:
    """Write what only vectors are asked for: ranks within batches, and measures of the full ranking."""
    for trouble in [] if more.flags is None else list_troubles(more.flags):
        log.warning("%s, %s: %s", task.name, name, trouble)
    if task.partners is not None:
        ranks = rank_in_batches(made.queries, made.items[task.partners])
        in_batches = pl.DataFrame({"query_id": task.query_ids, "rank": ranks})
        tables.write_table(in_batches, folder / tables.IN_BATCHES / f"{name}.parquet", tables.BATCH_RANKS)
    if more.average_precision is not None:
        precisions = pl.DataFrame({"query_id": task.query_ids, "value": more.average_precision})
        tables.write_table(precisions, folder / tables.FULL_RANKING / f"{name}.parquet", tables.AVERAGE_PRECISION)


def rerank(task: Task, retriever: Retriever, reranker: Reranker, params: RankParams, device: str, folder: Path) -> None:
    """Write the run of a reranker: the best items of a retriever in the order of their new scores, then the others.

    The others keep their order, and have scores that fall below. Where the first relevant item is beyond the run, it
    stays where the retriever had it, as nothing below `params.rerank_depth` moves.
    """
    made, name = retriever.make(), f"{retriever.name}_{reranker.name}"
    judged, best = task.qrels.judged(), min(params.rerank_depth, params.depth)

    def first_hits(rows: Int[np.ndarray, " chosen"] | None, run: RunWriter | None) -> Int[np.ndarray, " queries"]:
        qrels = task.qrels if rows is None else task.qrels.among(rows)
        zero_is_miss = retriever.zero_is_miss
        lists = rank_blocks(made, task, params.depth, device, zero_is_miss=zero_is_miss, rows=rows)
        return np.concatenate([_reranked(found, reranker, best, qrels, rows, run) for found in lists])

    with RunWriter(folder / "runs" / f"{name}.parquet", task.query_ids, task.item_ids) as run:
        rank = first_hits(None, run)
    among = rank if judged.all() else first_hits(np.flatnonzero(judged), None)
    told = retriever.told(made) | {
        "inputs": list(dict.fromkeys([*retriever.inputs, *reranker.inputs])),
        "costs": list(dict.fromkeys([*retriever.costs, *reranker.costs])),
        "draws": 1,  # of those of the retriever, the first is reranked
        "chosen": {"reranked": best},
        "zero_is_miss": False,
    }
    _write(task, name, told, rank, among, folder)


def _reranked(
    found: Neighbours,
    reranker: Reranker,
    best: int,
    qrels: Qrels,
    rows: Int[np.ndarray, " chosen"] | None,
    run: RunWriter | None,
) -> Int[np.ndarray, " queries"]:
    """The ranks of first hits of a block of queries; its lists go into `run`, where there is one."""
    head = found.rows[:, :best]
    new = reranker.scores(found.first_query, head if rows is None else rows[head], found.scores[:, :best])
    order = np.argsort(-new, axis=1, kind="stable")  # equal scores stay in the order of the retriever
    lists = np.hstack([np.take_along_axis(head, order, axis=1), found.rows[:, best:]])
    if run is not None:
        run.add(found.first_query, lists, _falling(np.take_along_axis(new, order, axis=1), lists.shape[1]))
    inside = qrels.gains(found.first_query, lists) > 0
    assert found.first_hit is not None  # judgements were given
    return np.where(inside.any(axis=1), inside.argmax(axis=1) + 1, found.first_hit)


def _falling(head: np.ndarray, depth: int) -> np.ndarray:
    """Scores of a whole list: those of its head, then ever smaller ones for what was not scored anew."""
    below = head.min(axis=1, keepdims=True) - np.arange(1, depth - head.shape[1] + 1, dtype=np.float32)
    return np.hstack([head, below]).astype(np.float32)


def _write(
    task: Task, name: str, told: Mapping[str, object], rank: np.ndarray, among: np.ndarray, folder: Path
) -> None:
    hits = pl.DataFrame({"query_id": task.query_ids, "rank": rank, "rank_among_judged": among})
    tables.write_table(hits, folder / "first_hits" / f"{name}.parquet", tables.FIRST_HITS)
    (folder / "runs" / f"{name}.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
