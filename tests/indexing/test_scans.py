"""Concurrent scans: one pass for those who wait, the right answer to each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Condition, Event

import numpy as np
import pytest

from tests.retrieval.exemplar.problems import unit_rows
from twinlens.indexing import scans
from twinlens.indexing.scans import Scans

ROWS, QUERIES = unit_rows(300, 24, 1).astype(np.float32), unit_rows(40, 24, 2).astype(np.float32)


def test_many_threads_get_each_their_own_answer() -> None:
    shared = Scans(ROWS)
    with ThreadPoolExecutor(16) as pool:
        for _ in range(5):
            for query, found in zip(QUERIES, pool.map(shared.products, QUERIES), strict=True):
                assert found == pytest.approx(ROWS @ query, abs=1e-6)
    assert shared._waiting == []


@pytest.mark.parametrize(("at_once", "passes"), [(16, [1, 6]), (3, [1, 3, 3]), (1, [1] * 7)])
def test_those_who_wait_share_a_pass(monkeypatch: pytest.MonkeyPatch, at_once: int, passes: list[int]) -> None:
    monkeypatch.setattr(scans, "AT_ONCE", at_once)
    monkeypatch.setattr(scans, "CHUNK", 70)  # the last one is smaller
    monkeypatch.setattr(scans, "SMALL", 24 * 2 * 32)  # rows are left over at the end of each
    shared = Scans(ROWS)
    begun, go_on, scan = Event(), Event(), shared._scan
    done: list[int] = []

    def counted(requests: list[scans._Request]) -> None:
        begun.set()
        assert go_on.wait(20)
        done.append(len(requests))
        scan(requests)

    monkeypatch.setattr(shared, "_scan", counted)
    with ThreadPoolExecutor(7) as pool:
        found = [pool.submit(shared.products, query) for query in QUERIES[:7]]
        assert begun.wait(20)
        while len(shared._waiting) < 6:
            pass
        go_on.set()
    assert done == passes
    for query, products in zip(QUERIES, found, strict=False):
        assert products.result() == pytest.approx(ROWS @ query, abs=1e-6)


def test_whoever_another_pass_has_answered_waits_for_no_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Scans(ROWS)
    scan, begun, go_on = shared._scan, [Event() for _ in range(3)], [Event() for _ in range(3)]
    passes = iter(range(3))

    def stepped(requests: list[scans._Request]) -> None:
        number = next(passes)
        begun[number].set()
        assert go_on[number].wait(20)
        scan(requests)

    monkeypatch.setattr(shared, "_scan", stepped)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(shared.products, QUERIES[0])
        assert begun[0].wait(20)
        both = [pool.submit(shared.products, query) for query in QUERIES[1:3]]
        while len(shared._waiting) < 2:
            pass
        go_on[0].set()
        assert begun[1].wait(20)
        last = pool.submit(shared.products, QUERIES[3])
        while len(shared._waiting) < 1:
            pass
        go_on[1].set()
        assert begun[2].wait(20)  # and it runs until it is told to end
        try:
            for query, found in zip(QUERIES[:3], [first, *both], strict=True):
                assert found.result(20) == pytest.approx(ROWS @ query, abs=1e-6)
            assert not last.done()
        finally:
            go_on[2].set()


def test_a_pass_that_fails_is_tried_again_by_those_who_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Scans(ROWS)
    begun, go_on, scan = Event(), Event(), shared._scan
    taken: list[int] = []

    def second_fails(requests: list[scans._Request]) -> None:
        begun.set()
        assert go_on.wait(20)
        taken.append(len(requests))
        if len(taken) == 2:
            raise MemoryError
        scan(requests)

    monkeypatch.setattr(shared, "_scan", second_fails)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(shared.products, QUERIES[0])
        assert begun.wait(20)
        both = {pool.submit(shared.products, query): query for query in QUERIES[1:3]}
        while len(shared._waiting) < 2:
            pass
        go_on.set()
        assert first.result() == pytest.approx(ROWS @ QUERIES[0], abs=1e-6)
        failed = [isinstance(found.exception(20), MemoryError) for found in both]
        assert sorted(failed) == [False, True]
        kept = next(found for found in both if found.exception() is None)
        assert kept.result() == pytest.approx(ROWS @ both[kept], abs=1e-6)
    assert taken == [1, 2, 1]
    assert shared._waiting == []


def test_ctrl_c_between_taking_a_pass_and_running_it_stops_no_other_query() -> None:
    class Interrupted(Condition):
        """Where Ctrl-C comes when the lock is let go of."""

        def __exit__(self, *raised: object) -> None:
            super().__exit__(None, None, None)
            if interrupts:
                raise interrupts.pop()

    interrupts, shared = [KeyboardInterrupt()], Scans(ROWS)
    shared._changed = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        shared.products(QUERIES[0])
    assert not shared._running
    assert shared.products(QUERIES[1]) == pytest.approx(ROWS @ QUERIES[1], abs=1e-6)
