"""The engine that is this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from twinlens.engines.base import Engine, R, Seat, T, Worker, run_worker

if TYPE_CHECKING:  # torch takes two seconds
    from twinlens.core.device import Placement
    from twinlens.core.progress import Progress


class LocalEngine(Engine):
    """This process: the worker works where it is, on one part after the other."""

    @property
    def workers(self) -> int:
        """See `Engine.workers`."""
        return 0

    def map(
        self,
        worker: Worker[T, R],
        tasks: Iterable[T],
        bar: Progress | None = None,
    ) -> Iterator[R]:
        """See `Engine.map`; the results come in the order of the tasks, and errors as they are."""
        seat = Seat(self.compute.decode_threads, _count_nothing if bar is None else bar.add)
        return run_worker(worker, iter(tasks), seat)

    def _choose_placement(self) -> Placement:
        from twinlens.core.device import choose_device

        return choose_device(self.device, self.compute.pixels if self.device == self.compute.device else "cpu")


def _count_nothing(count: int) -> None:
    """Nobody looks."""
