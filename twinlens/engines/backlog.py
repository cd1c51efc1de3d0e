"""The backlog of a cluster: which part goes to which worker, and when a part has failed often enough."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from twinlens.core.errors import ClusterError
from twinlens.engines.base import Task

DEPTH = 3  # parts that a worker has at one time: one on its way back, one at work, one read ahead
TRIES = 3  # of a part, on as many workers, before the work ends


@dataclass(eq=False)
class Entry:
    """A part that is wanted, with what is known of its failures."""

    task: Task
    reasons: list[str] = field(default_factory=list)  # of failures while a worker had no other part
    failed_on: list[str] = field(default_factory=list)  # those workers
    suspect: bool = False

    def fail(self, worker: str, reason: str) -> None:
        """Note a failure that this part alone can have brought about.

        Raises:
            ClusterError: it was the last one that is allowed.
        """
        self.failed_on.append(worker)
        self.reasons.append(reason)
        if len(self.reasons) == TRIES:
            told = "; ".join(dict.fromkeys(self.reasons))
            raise ClusterError(
                f"part {self.task.name} failed {TRIES} times, each time on a worker that had nothing else: {told}. "
                "What is finished is kept: mend this part (a picture that ends a process, for instance) and run again"
            )


class Backlog:
    """Parts that wait. Those that were under way when a worker failed are suspects: each goes to a worker alone.

    So a part that ends its worker is found, and those that were beside it are not blamed.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = iter(tasks)
        self._fresh: deque[Entry] = deque()
        self._suspects: deque[Entry] = deque()
        self._draining: set[str] = set()  # workers that finish what they have, to be given a suspect
        self._ended = False

    @property
    def first(self) -> Task:
        """The first part that waits; there is one."""
        return self._fresh[0].task

    def look_ahead(self, count: int) -> int:
        """Take up to `count` parts from their source, and count those that wait: fewer only if there are no more."""
        while not self._ended and len(self._fresh) < count:
            if (task := next(self._tasks, None)) is None:
                self._ended = True
            else:
                self._fresh.append(Entry(task))
        return len(self._fresh) + len(self._suspects)

    def take(self, worker: str, busy: int, under_way: int, workers: Collection[str]) -> Entry | None:
        """Take a part for a worker; None where it should have no more just now.

        Args:
            worker: who asks.
            busy: parts that it has.
            under_way: parts that all workers have.
            workers: all that there are.
        """
        self._draining &= set(workers)
        if self._suspects and busy and worker not in self._draining and len(self._draining) < len(self._suspects):
            self._draining.add(worker)
        if not busy:
            self._draining.discard(worker)
            for place, entry in enumerate(self._suspects):
                if worker not in entry.failed_on or not set(workers) - set(entry.failed_on):
                    del self._suspects[place]
                    return entry
        if worker in self._draining:
            return None
        depth = max(1, len(workers) * DEPTH)
        left = self.look_ahead(depth) + under_way
        if self._fresh and busy < min(DEPTH, -(-left // max(1, len(workers)))):
            return self._fresh.popleft()
        return None

    def give_back(self, entry: Entry) -> None:
        """Take a part back that was under way when its worker failed."""
        entry.suspect = True
        self._suspects.append(entry)
