"""Work for engines that takes no model: workers of a cluster import it, so that it is a module."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinlens.core.errors import DataError
from twinlens.core.part_store import PartStore, Receipt
from twinlens.core.scratch import Scratch
from twinlens.engines.base import Engine, Seat


@dataclass(frozen=True)
class Sum:
    """A part that is wanted: the sum of the numbers below `number`, as a file."""

    name: str
    number: int
    store: PartStore | None = None
    size: int = 1


def list_sums(count: int, store: PartStore | None = None) -> list[Sum]:
    """Parts of different numbers."""
    return [Sum(f"part-{number:05d}", number, store) for number in range(count)]


@dataclass
class Adder:
    """A worker that notes each part that it makes in a log of its own process, and may have faults."""

    log: Path
    poison: str = ""  # a part at which the process is ended,
    wrong: str = ""  # at which it raises what the user can mend,
    broken: str = ""  # or a defect
    fails_once: str = ""  # or a defect, the first time
    seconds: float = 0.0
    meet: int = 0  # so many processes are there before anything is made,
    joined: int = 0  # and so many have been there before the last quarter of 200 parts is
    begun: int = 0
    paths: tuple[Path, ...] = ()

    def __call__(self, tasks: Iterable[Sum], seat: Seat) -> Iterator[Any]:
        """Add up."""
        self.begun += 1
        (self.log / f"here-{os.getpid()}").touch()
        self.wait_for(self.meet)
        for task in tasks:
            time.sleep(self.seconds)
            self.wait_for(self.joined if task.number >= 150 else 0)
            if task.name == self.poison:
                os.kill(os.getpid(), signal.SIGKILL)
            if task.name == self.wrong:
                raise DataError(f"{task.name} is not what it should be")
            marker = self.log / f"failed-{task.name}"
            if task.name == self.broken or (task.name == self.fails_once and not marker.exists()):
                marker.touch()
                raise RuntimeError(f"{task.name} is too much")
            with (self.log / f"{os.getpid()}.log").open("a") as file:
                file.write(f"{task.name}\n")
            seat.count(1)
            yield self.put(task) if task.store is not None else sum(range(task.number))

    def wait_for(self, count: int) -> None:
        """Wait until so many processes have begun; not for ever."""
        until = time.monotonic() + 240
        while (here := len(list(self.log.glob("here-*")))) < count:
            if time.monotonic() > until:
                raise DataError(f"{here} processes have begun, and {count} were to")
            time.sleep(0.05)

    def put(self, task: Sum) -> tuple[Receipt, ...]:
        """Put the part into its store."""
        assert task.store is not None
        return (task.store.put(task.name, lambda path: _write(path, str(sum(range(task.number))))),)


def drive_sums(engine: Engine, folder: Path, count: int, key: str) -> list[int]:
    """What a stage does: have the parts made that are missing, and join all of them."""
    with Scratch("add", key) as scratch:
        tasks = list_sums(count, scratch.open_store())
        missing = (task for task in tasks if not scratch.has(task.name))
        for receipts in engine.map(Adder(folder, seconds=0.05), missing):
            for receipt in receipts:
                scratch.accept(receipt)
        return [int(scratch.path(task.name).read_text()) for task in tasks]


def tell_process(worker: Adder) -> int:
    """A question: the number of the process that the worker is in."""
    return os.getpid()


def read_log(folder: Path) -> list[str]:
    """The parts that were made, each time that it was."""
    return sorted(line for file in folder.glob("*.log") for line in file.read_text().split())


def _write(path: Path, text: str) -> None:
    path.write_text(text)
