"""The protocol between a stage and whoever works on its parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from twinlens.core.write_behind import settle

if TYPE_CHECKING:  # torch takes two seconds
    from twinlens.config.params import ComputeParams
    from twinlens.core.device import Placement
    from twinlens.core.progress import Progress


class Task(Protocol):
    """A part that is wanted: small and picklable, as it travels to a worker."""

    @property
    def name(self) -> str:
        """Of the part, for messages."""
        ...

    @property
    def size(self) -> int:
        """Items of the part, which progress counts."""
        ...


@dataclass(frozen=True)
class Seat:
    """The place of a worker: what it may use, and whom it tells how far it is."""

    decode_threads: int
    count: Callable[[int], object]  # takes the items that were done since the last call


T = TypeVar("T", bound=Task)
T_contra = TypeVar("T_contra", bound=Task, contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Worker(Protocol[T_contra, R_co]):
    """Work on parts of one kind: pickled before it begins; it loads a model at its first task and keeps it.

    It takes tasks ahead of its work, as far as it likes, and gives back one result a task, in their order. A result is
    small (receipts and figures): what is large it has written before. It is called again and again, after errors too.

    Where it has `paths` (or its tasks do), those are files and folders that every machine has to see: weights, shards.
    """

    def __call__(self, tasks: Iterable[T_contra], seat: Seat, /) -> Iterator[R_co]:
        """Iterate over the results of some tasks."""
        ...


@dataclass(frozen=True)
class Ask(Generic[R]):
    """A question to a worker, whose answer is small: `function(worker, *arguments)`, a function of a module."""

    name: str
    function: Callable[..., R]
    arguments: tuple[Any, ...] = ()
    size: int = 0


class Engine(ABC):
    """Who works on parts. A context, at whose end the workers are let go."""

    def __init__(self, compute: ComputeParams, placement: Placement | None = None, device: str | None = None) -> None:
        """Take the settings; and where models run, or the device that is needed, if those do not say it."""
        self.compute, self.device = compute, device or compute.device
        if placement is not None:
            self.placement = placement

    @cached_property
    def placement(self) -> Placement:
        """Where the workers' models run; raises as `choose_device` does."""
        return self._choose_placement()

    @property
    @abstractmethod
    def workers(self) -> int:
        """How many workers have taken part; 0 where this process does the work."""

    @property
    def machine(self) -> str | None:
        """The kind of machine that the workers run on, in words; None where it is this one."""
        return None

    @abstractmethod
    def map(
        self,
        worker: Worker[T, R],
        tasks: Iterable[T],
        bar: Progress | None = None,
    ) -> Iterator[R]:
        """Iterate over the results of tasks of one kind, in any order.

        Args:
            worker: what does the work; each place of work has its own copy, and keeps it for later calls.
            tasks: taken as they are needed, a bounded number ahead.
            bar: counts items.

        Raises:
            TwinLensError: of the worker, as it was raised there.
            ResourceError: a part failed again and again; the message names it, and why.
        """

    def ask(self, worker: Worker[Any, Any], function: Callable[..., R], *arguments: Any) -> R:
        """Ask one worker `function(worker, *arguments)`; a function of a module, and an answer that is small."""
        answers: list[R] = list(self.map(worker, [Ask(function.__name__, function, arguments)]))
        return answers[0]

    @abstractmethod
    def _choose_placement(self) -> Placement: ...

    def close(self) -> None:  # noqa: B027 - most have none
        """Let the workers go."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_worker(worker: Worker[Any, Any], tasks: Iterator[Any], seat: Seat) -> Iterator[Any]:
    """Iterate over the results of tasks: questions are answered here, parts are the worker's, each with all it put."""
    for task in tasks:
        if not isinstance(task, Ask):
            yield from settle(iter(worker(_chain(task, tasks), seat)))
            return
        yield task.function(worker, *task.arguments)


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest
