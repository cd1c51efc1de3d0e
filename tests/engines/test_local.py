"""The engine that is this process: the worker itself, in order, with the bar that is given."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines.work import Adder, list_sums, tell_process
from twinlens.config.params import ComputeParams
from twinlens.core.errors import DataError, ExtraError, ParamsError
from twinlens.core.progress import Progress
from twinlens.engines import LocalEngine, open_engine
from twinlens.engines.connection import tell

LOCAL = ComputeParams(device="cpu", decode_threads=2, image_batch=None, text_batch=None)


def test_the_worker_itself_works_in_order_and_is_kept(tmp_path: Path) -> None:
    worker = Adder(tmp_path)
    with open_engine(LOCAL) as engine, Progress("add", total=5) as bar:
        assert isinstance(engine, LocalEngine)
        assert list(engine.map(worker, list_sums(5), bar)) == [0, 0, 1, 3, 6]
        assert bar.count == 5
        assert engine.ask(worker, tell_process) == os.getpid()
        assert (worker.begun, engine.workers, engine.machine) == (1, 0, None)
        with pytest.raises(DataError, match="part-00002 is not"):
            list(engine.map(Adder(tmp_path, wrong="part-00002"), list_sums(5)))


def test_ray_is_not_imported() -> None:
    import subprocess

    code = "import sys, twinlens.engines, twinlens.inference.tower; print('ray' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "False\n"


def cluster(**fields: Any) -> ComputeParams:
    return LOCAL.model_copy(update={"engine": "ray"} | fields)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExtraError, match=r"compute.engine: ray needs the library 'ray'.*pip install 'twinlens\[ray\]'"):
        list(open_engine(cluster()).map(Adder(tmp_path), list_sums(1)))


def test_nothing_is_started_where_nothing_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with open_engine(cluster()) as engine:
        assert list(engine.map(Adder(tmp_path), [])) == []
        assert engine.placement.name == "cpu-float32"


@pytest.mark.parametrize("address", ["head", "ray:/head:1", "head:port"])
def test_what_is_no_address_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=f"compute.address: '{address}' is no address; write auto"):
        list(open_engine(cluster(address=address)).map(Adder(tmp_path), list_sums(1)))


def test_a_device_of_one_machine_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"compute\.device: cuda:1 is of one machine"):
        _ = open_engine(cluster(device="cuda:1")).placement


ACTOR_DIED = """The actor died unexpectedly before finishing this task.
	class_name: Actor
	pid: 25297
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed
by the OOM killer"""
NO_MODULE = """The actor died because of an error raised in its creation task, ray::Actor.__init__()
  File "somewhere", line 1
ModuleNotFoundError: No module named 'twinlens'"""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ACTOR_DIED, "its process ended: Worker unexpectedly exits with a connection error code 2. End of file"),
        (NO_MODULE, "ModuleNotFoundError: No module named 'twinlens'"),
        ("", "RuntimeError"),
    ],
)
def test_what_ray_says_is_told_in_a_line(error: str, told: str) -> None:
    assert tell(RuntimeError(error)) == told
