"""`resize`, `caption` and `rank` by the workers of a cluster: the same bytes as by this process, also when one dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.test_resizing import COMPUTE as LOCAL
from tests.datasets.test_resizing import PICTURES, contents, make_job, write
from tests.models.captioners.vision_language import save
from tests.retrieval.test_spread import DATASET, MODEL, list_searches, make_world, search_all
from tests.tiny import CPU, jpegs, write_shards
from twinlens.config.captioners import CaptionerCard
from twinlens.core.costs import Cost
from twinlens.core.scratch import Scratch
from twinlens.datasets import resizing
from twinlens.datasets.resizing import ShardTask, ShardWorker
from twinlens.engines import Engine, Seat, open_engine
from twinlens.inference import caption_prompted
from twinlens.inference.caption_job import CaptionJob
from twinlens.retrieval.corpus import open_corpus
from twinlens.retrieval.spread import RankWorker, SpreadLists, make_key

pytestmark = pytest.mark.slow

COMPUTE = LOCAL.model_copy(update={"engine": "ray", "decode_threads": 1})


@pytest.fixture
def engine(cluster: Any) -> Iterator[Engine]:
    with open_engine(COMPUTE, device="cpu") as found:
        yield found


@dataclass(frozen=True)
class Mortal(ShardWorker):
    """A worker whose process is ended by its second shard, once."""

    def __call__(self, tasks: Iterable[ShardTask], seat: Seat) -> Iterator[Any]:
        def checked() -> Iterator[ShardTask]:
            for task in tasks:
                marker = self.raw.parent / "died"
                if task.number == 1 and not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                yield task

        return super().__call__(checked(), seat)


def test_shards_of_workers_are_those_of_this_process(engine: Engine, tmp_path: Path) -> None:
    job = make_job(tmp_path, PICTURES, images_per_shard=2)
    write(job, tmp_path / "here")
    with Scratch("resize", "other") as scratch:
        told = job.write(scratch, engine, tmp_path / "there")
    assert (told.usable, told.aside) == (7, 2)
    assert engine.workers >= 1
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_a_worker_that_dies_costs_nothing_but_the_shards_that_it_had(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, PICTURES, images_per_shard=2)
    write(job, tmp_path / "here")
    monkeypatch.setattr(resizing, "ShardWorker", Mortal)
    with Scratch("resize", "other") as scratch:
        job.write(scratch, engine, tmp_path / "there")
    assert (tmp_path / "died").exists()
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_words_of_workers_are_those_of_this_process(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caption_prompted, "PICTURES_PER_PART", 4)
    rows = write_shards(jpegs(10), tmp_path / "shards")
    save("llava", tmp_path / "weights")
    card = CaptionerCard(captioner="transformers", checkpoint=str(tmp_path / "weights"), prompt="Describe the picture.")
    found = {}
    for name, given in (("here", None), ("there", engine)):
        job = CaptionJob(card, tmp_path / "weights", CPU, LOCAL, given)
        with Scratch("caption", name) as scratch:
            texts = job.write(tmp_path / "shards", rows, scratch)
            parts = {part: scratch.path(part).read_bytes() for part in ("part-00000.json", "part-00002.json")}
            found[name] = texts, parts, scratch.total("parameters"), scratch.total("tokens")
        assert ("loaded" in vars(job.worker)) == (given is None)  # the driver loads no model
    assert found["here"] == found["there"]
    assert len(set(found["here"][0])) > 1


def test_runs_of_workers_are_those_of_this_process(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = make_world(tmp_path, monkeypatch)
    searches = list_searches(open_corpus(params, DATASET, MODEL, Cost()), params)
    worker = RankWorker.of(params, DATASET, MODEL, "cpu")
    with Scratch("rank", make_key(worker)) as scratch:
        lists = SpreadLists(worker, scratch)
        lists.make(searches, engine)
        there = search_all(searches, params, tmp_path / "there", lists)
    assert there == search_all(searches, params, tmp_path / "here")
