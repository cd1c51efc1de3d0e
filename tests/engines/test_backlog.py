"""Who gets which part, and when a part has failed often enough."""

from __future__ import annotations

import pytest

from tests.engines.work import list_sums
from twinlens.core.errors import ClusterError
from twinlens.engines.backlog import DEPTH, TRIES, Backlog, Entry


def names(entries: list[Entry | None]) -> list[str | None]:
    return [None if entry is None else entry.task.name[-1] for entry in entries]


def test_parts_go_out_in_turn_and_a_worker_has_three_at_most() -> None:
    backlog = Backlog(list_sums(9))
    taken = [backlog.take("a", busy, busy, ["a", "b"]) for busy in range(DEPTH + 1)]
    assert names(taken) == ["0", "1", "2", None]
    assert names([backlog.take("b", 0, 3, ["a", "b"])]) == ["3"]


def test_the_last_parts_are_spread_rather_than_queued() -> None:
    backlog = Backlog(list_sums(4))
    workers = ["a", "b"]
    given = [backlog.take(worker, busy, 2 * busy, workers) for busy in (0, 1) for worker in workers]
    assert names(given) == ["0", "1", "2", "3"]
    two = Backlog(list_sums(2))
    assert names([two.take("a", 0, 0, workers), two.take("a", 1, 1, workers)]) == ["0", None]


def test_no_more_parts_are_taken_from_their_source_than_are_needed() -> None:
    asked: list[str] = []

    def source() -> object:
        for task in list_sums(1000):
            asked.append(task.name)
            yield task

    backlog = Backlog(source())  # type: ignore[arg-type]
    for busy in range(DEPTH):
        backlog.take("a", busy, busy, ["a"])
    assert len(asked) <= 2 * DEPTH


def test_a_part_that_was_under_way_when_a_worker_failed_goes_to_one_that_has_nothing_else() -> None:
    backlog = Backlog(list_sums(9))
    first = backlog.take("a", 0, 0, ["a", "b", "c"])
    assert first is not None
    backlog.give_back(first)
    assert backlog.take("b", 1, 1, ["b", "c"]) is None  # it drains
    assert names([backlog.take("c", 1, 2, ["b", "c"])]) == ["1"]  # one is enough
    again = backlog.take("b", 0, 2, ["b", "c"])
    assert again is first and again.suspect
    assert names([backlog.take("b", 0, 2, ["b", "c"])]) == ["2"]  # who gives it something beside is the caller's matter


def test_a_part_that_failed_alone_goes_to_other_workers_if_there_are_any() -> None:
    backlog = Backlog(list_sums(3))
    entry = backlog.take("a", 0, 0, ["a", "b"])
    assert entry is not None
    entry.fail("a", "it was lost")
    backlog.give_back(entry)
    assert names([backlog.take("a", 0, 0, ["a", "b"])]) == ["1"]
    assert backlog.take("b", 0, 1, ["a", "b"]) is entry
    backlog.give_back(entry)
    assert backlog.take("a", 0, 0, ["a"]) is entry


def test_the_third_failure_ends_the_work_with_the_part_and_the_reasons() -> None:
    entry = Entry(list_sums(1)[0])
    for number in range(TRIES - 1):
        entry.fail(f"worker {number}", "the process was killed")
    with pytest.raises(ClusterError, match=r"part part-00000 failed 3 times.*the process was killed; memory ran out\."):
        entry.fail("another", "memory ran out")
