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
from twinlens.core.scratch import Scratch
from twinlens.datasets import resizing
from twinlens.datasets.resizing import ShardTask, ShardWorker
from twinlens.engines import Engine, Seat, open_engine

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
    assert (told.usable, told.aside, engine.workers) == (7, 2, 2)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_a_worker_that_dies_between_shards_costs_nothing_but_its_shards(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, PICTURES, images_per_shard=2)
    write(job, tmp_path / "here")
    monkeypatch.setattr(resizing, "ShardWorker", Mortal)
    with Scratch("resize", "other") as scratch:
        job.write(scratch, engine, tmp_path / "there")
    assert (tmp_path / "died").exists()
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
