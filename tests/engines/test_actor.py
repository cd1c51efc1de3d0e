"""An actor's stream of parts, without a cluster: calls that overlap go through one worker, which is kept."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.engines.work import Adder, list_sums, read_log, tell_process
from twinlens.core.device import choose_device
from twinlens.core.errors import ClusterError, DataError
from twinlens.engines.actor import ON_CPU, Actor, Outcome
from twinlens.engines.base import Ask
from twinlens.engines.sites import see


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Actor:
    monkeypatch.setattr(os, "chdir", lambda folder: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Actor(".", "cpu", "cpu", 1)


def run(actor: Actor, worker: Adder, count: int = 6, paths: tuple[Path, ...] = ()) -> list[Outcome]:
    payload, sights = pickle.dumps(worker), see(paths)
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda task: actor.work(payload, sights, task), list_sums(count)))


def test_each_part_has_its_own_result_and_the_worker_is_kept(actor: Actor, tmp_path: Path) -> None:
    worker = Adder(tmp_path)
    assert [one.result for one in run(actor, worker)] == [0, 0, 1, 3, 6, 10]
    assert [one.result for one in run(actor, worker, 2)] == [0, 0]
    assert len(actor._workers) == 1
    asked = actor.work(pickle.dumps(worker), (), Ask("who", tell_process))
    assert asked.result == os.getpid()


def test_an_error_arrives_as_it_is_and_the_next_part_is_made(actor: Actor, tmp_path: Path) -> None:
    payload = pickle.dumps(Adder(tmp_path, wrong="part-00001", broken="part-00002"))
    zero, one, two, three = list_sums(4)
    assert actor.work(payload, (), zero).result == 0
    failed = actor.work(payload, (), one)
    assert isinstance(failed.error, DataError)
    assert (str(failed.error), failed.alone) == ("part-00001 is not what it should be", True)
    defect = actor.work(payload, (), two)
    assert defect.error is None
    assert defect.trouble.startswith("RuntimeError: part-00002 is too much (")
    assert "work.py:" in defect.trouble
    assert actor.work(payload, (), three).result == 3
    assert read_log(tmp_path) == ["part-00000", "part-00003"]


def test_whoever_is_beside_a_failing_part_is_told_that_it_was_not_alone(actor: Actor, tmp_path: Path) -> None:
    outcomes = run(actor, Adder(tmp_path, broken="part-00001", seconds=0.05), 3)
    assert outcomes[0].result == 0
    assert outcomes[1].trouble
    assert outcomes[2].result == 1 or not outcomes[2].alone


def test_a_path_that_is_not_here_is_named(actor: Actor, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_text("12345")
    sights = see([weights])
    payload, task = pickle.dumps(Adder(tmp_path)), list_sums(1)[0]
    assert actor.work(payload, sights, task).result == 0
    weights.write_text("1234")
    other = Actor(".", "cpu", "cpu", 1)
    told = other.work(payload, sights, task).error
    assert isinstance(told, ClusterError)
    assert str(weights) in str(told)
    assert "NFS" in str(told)


def test_every_cpu_computes_alike() -> None:
    assert choose_device("cpu").name == ON_CPU
