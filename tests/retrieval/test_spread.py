"""Lists made span by span by workers: the runs are those of one pass, to the byte, and a killed run goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tasks.small import built, vectors
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.config.params import ComputeParams, Params
from twinlens.core import paths, tables
from twinlens.core.costs import Cost
from twinlens.core.scratch import Scratch
from twinlens.core.vectors import write_rows
from twinlens.engines import LocalEngine
from twinlens.retrieval import block_ranking, hybrid
from twinlens.retrieval.base import Retriever
from twinlens.retrieval.corpus import Opened, open_corpus
from twinlens.retrieval.rank import group_retrievers, restate_as_published, search_together
from twinlens.retrieval.registry import list_retrievers
from twinlens.retrieval.spread import RankWorker, SpanTask, SpreadLists, make_key
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import write_inputs

COMPUTE = ComputeParams(device="cpu", decode_threads=1, image_batch=None, text_batch=None)
DATASET, MODEL = "scenes", "clip-scenes"
Searches = list[tuple[Task, list[Retriever]]]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    return make_world(tmp_path, monkeypatch)


def make_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Four pictures as `tasks` and `embed` leave them, in a folder to work in."""
    params = RankWorker.of(read_params(), DATASET, MODEL, "cpu").params  # cards are read before the folder is left
    assert params.models[MODEL].shares_a_space
    tasks, inputs = built()
    monkeypatch.chdir(folder)
    for task in tasks.values():
        task.write(paths.tasks(DATASET, params.captioner) / task.name)
    write_inputs(inputs.values(), paths.tasks(DATASET, params.captioner) / "inputs")
    embedded = paths.embedded(DATASET, MODEL)
    embedded.mkdir(parents=True)
    for seed, (name, one) in enumerate(inputs.items()):
        made = vectors(one.rows["id"].to_list(), one.rows["image_id"].to_list(), seed)
        if made.ids:
            write_rows(embedded / f"{name}.npy", [np.asarray(made.rows)], len(made.ids))
            tables.write_table(one.rows.select("id", "image_id"), embedded / f"{name}.parquet", tables.VECTORS)
    return params


def list_searches(opened: Opened, params: Params) -> Searches:
    """All searches, as the stage lists them."""
    groups = [
        (task, together)
        for task in opened.tasks
        for together in group_retrievers(list_retrievers(task, opened.corpus, params))
    ]
    return [(restate_as_published(task) if group[0].published else task, group) for task, group in groups]


def search_all(searches: Searches, params: Params, out: Path, lists: SpreadLists | None = None) -> dict[str, bytes]:
    """Write all runs; gives every file."""
    for task, together in searches:
        task.write(out / task.name)
        search_together(task, together, params.rank.depth, "cpu", out / task.name, Gates(params.gates), lists)
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}


class Watched(LocalEngine):
    """An engine that notes what it is asked for, and may be killed after so many results."""

    def __init__(self, killed_after: int | None = None) -> None:
        super().__init__(COMPUTE, device="cpu")
        self.tasks: list[SpanTask] = []
        self.asked: list[str] = []
        self.killed_after = killed_after

    def map(self, worker: Any, tasks: Iterable[Any], bar: Any = None, *, paths: Iterable[Path] = ()) -> Iterator[Any]:
        wanted = list(tasks)
        self.tasks, self.asked = wanted, [task.name for task in wanted]
        for n, result in enumerate(super().map(worker, wanted, bar)):
            if n == self.killed_after:
                raise KeyboardInterrupt
            yield result


def test_runs_of_spans_are_those_of_one_pass_to_the_byte(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid, "BLOCK_BYTES", 32)  # two queries of four items
    monkeypatch.setattr(block_ranking, "QUERIES_PER_SPAN", 3)
    searches = list_searches(open_corpus(params, DATASET, MODEL, Cost()), params)
    assert {"i2i", "t2i", "i2t"} <= {task.about.category for task, _ in searches}
    assert any(len(together) > 1 for _, together in searches)
    assert any(one.draws for _, together in searches for one in together)
    whole = search_all(searches, params, tmp_path / "whole")
    worker, engine = RankWorker.of(params, DATASET, MODEL, "cpu"), Watched()
    with Scratch("rank", make_key(worker)) as scratch:
        lists = SpreadLists(worker, scratch)
        lists.make(searches, engine)
        assert len(engine.asked) == len(set(engine.asked)) > len(searches)
        assert search_all(searches, params, tmp_path / "spread", lists) == whole


def test_a_killed_ranking_goes_on_with_the_spans_that_are_missing(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = list_searches(open_corpus(params, DATASET, MODEL, Cost()), params)
    worker, engine = RankWorker.of(params, DATASET, MODEL, "cpu"), Watched(killed_after=3)
    with pytest.raises(KeyboardInterrupt), Scratch("rank", make_key(worker)) as scratch:
        SpreadLists(worker, scratch).make(searches, engine)
    every, again = engine.asked, Watched()
    with Scratch("rank", make_key(worker)) as scratch:
        SpreadLists(worker, scratch).make(searches, again)
    assert again.asked in (every[3:], every[4:])  # the fourth may have been put just before


def test_what_decides_the_lists_is_in_their_key(params: Params) -> None:
    keys = [make_key(RankWorker.of(params, DATASET, MODEL, "cpu"))] * 2
    deeper = params.model_copy(update={"rank": params.rank.model_copy(update={"depth": 60})})
    keys.append(make_key(RankWorker.of(deeper, DATASET, MODEL, "cpu")))
    quicker = params.model_copy(update={"compute": params.compute.model_copy(update={"decode_threads": 7})})
    assert make_key(RankWorker.of(quicker, DATASET, MODEL, "cpu")) == keys[0]
    keys.append(make_key(RankWorker.of(params, DATASET, MODEL, "cuda:1")))
    write_rows(paths.embedded(DATASET, MODEL) / "images.npy", [np.eye(4, 6, dtype=np.float32)], 4)
    keys.append(make_key(RankWorker.of(params, DATASET, MODEL, "cpu")))
    assert len(set(keys)) == len(keys) - 1
