"""The actor: a process of a cluster that has workers, each with its model, and feeds them with the parts that come."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from twinlens.core.errors import ClusterError, TwinLensError
from twinlens.engines.base import Seat, run_worker
from twinlens.engines.sites import Sight, Site, list_unseen, list_versions

ON_CPU = "cpu-float32"  # `Placement.name` there, whichever CPU it is: told without torch, which takes seconds


@dataclass(frozen=True)
class Outcome:
    """What became of a part: its result, or the error by which the worker ended."""

    result: Any = None
    error: TwinLensError | None = None
    trouble: str = ""  # of another error: its last line, and where it was raised
    alone: bool = True  # whether the worker had no other part when it failed


@dataclass(frozen=True)
class _Job:
    worker: bytes
    sights: tuple[Sight, ...]
    task: Any
    outcome: Future[Outcome]


class Actor:
    """A place of work. Calls of `work` may overlap: their parts go through one worker in one stream."""

    def __init__(self, folder: str, device: str, pixels: str, cores: int) -> None:
        """Go where the driver is; take the device that models run on, and the cores of this place."""
        if not os.path.isdir(folder):  # noqa: PTH112 - before anything is imported
            raise ClusterError(f"{folder} is not on this node")
        os.chdir(folder)
        os.environ["OMP_NUM_THREADS"] = str(cores)  # of torch, which is imported when there is something to compute
        self.device, self.pixels, self.cores = device, pixels, cores
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._ahead: deque[_Job] = deque()
        self._workers: dict[bytes, Any] = {}
        self._seen: set[tuple[Sight, ...]] = set()
        threading.Thread(target=self._stream, name="stream", daemon=True).start()

    def describe(self) -> tuple[Site, Any]:
        """Describe the surroundings; with the placement of models where that is for the device to say."""
        import ray

        from twinlens.core.costs import name_machine

        placement, name = None, ON_CPU
        if self.device != "cpu":
            from twinlens.core.device import choose_device

            placement = choose_device(self.device, "device" if self.pixels == "device" else "cpu")
            name = placement.name
        node = ray.util.get_node_ip_address()
        return Site(node, list_versions(), name, name_machine(), self.cores), placement

    def work(self, worker: bytes, sights: tuple[Sight, ...], task: Any) -> Outcome:
        """Have a part made by a worker, which is unpickled once.

        Args:
            worker: pickled.
            sights: files and folders that have to be here.
            task: the part.
        """
        job = _Job(worker, sights, task, Future())
        self._jobs.put(job)
        return job.outcome.result()

    def _stream(self) -> None:
        while True:
            begun: deque[_Job] = deque([self._ahead.popleft() if self._ahead else self._jobs.get()])
            try:
                worker = self._find(begun[0])
                seat = Seat(self.cores, lambda count: None)
                for result in run_worker(worker, self._list_tasks(begun), seat):
                    begun.popleft().outcome.set_result(Outcome(result))
                assert not begun, "a worker gives back one result for each part"
            except BaseException as error:
                outcome = _explain(error, alone=len(begun) == 1)
                while begun:
                    begun.popleft().outcome.set_result(outcome)

    def _list_tasks(self, begun: deque[_Job]) -> Iterator[Any]:
        """The parts that are there for one worker; it ends where none waits, so that what is under way is finished."""
        first = begun[0]
        yield first.task
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            if (job.worker, job.sights) != (first.worker, first.sights):
                self._ahead.append(job)
                return
            begun.append(job)
            yield job.task

    def _find(self, job: _Job) -> Any:
        if job.sights not in self._seen and (missing := list_unseen(job.sights)):
            import ray

            raise ClusterError(
                f"the worker on {ray.util.get_node_ip_address()} does not see what the driver sees at "
                f"{', '.join(missing)}: every node needs it at the same path. Put it on a file system that all share "
                "(NFS), or, where `compute.parts` is meant, into a bucket"
            )
        self._seen.add(job.sights)
        if job.worker not in self._workers:
            self._workers[job.worker] = pickle.loads(job.worker)
        return self._workers[job.worker]


def _explain(error: BaseException, alone: bool) -> Outcome:
    if isinstance(error, TwinLensError):
        return Outcome(error=_plain(error), alone=alone)
    last = traceback.extract_tb(sys.exc_info()[2])[-1]
    told = f"{type(error).__name__}: {' '.join(str(error).split())[:500]} ({last.filename}:{last.lineno})"
    return Outcome(trouble=told, alone=alone)


def _plain(error: TwinLensError) -> TwinLensError:
    """The error, if it can travel; else its words."""
    try:
        travelled: TwinLensError = pickle.loads(pickle.dumps(error))
    except Exception:
        return TwinLensError(str(error))
    return travelled if str(travelled) == str(error) else TwinLensError(str(error))
