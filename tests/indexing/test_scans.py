"""Concurrent scans: one pass for those who wait, the right answer to each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest

from tests.exemplar.problems import unit_rows
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


@pytest.mark.parametrize(("at_once", "passes"), [(16, 1), (3, 3), (1, 7)])
def test_those_who_wait_share_a_pass(monkeypatch: pytest.MonkeyPatch, at_once: int, passes: int) -> None:
    monkeypatch.setattr(scans, "AT_ONCE", at_once)
    monkeypatch.setattr(scans, "BLOCK", 70)  # the last one is smaller
    shared = Scans(ROWS, passes=1)
    begun, go_on, scan = Event(), Event(), shared._scan
    done: list[int] = []

    def counted(mine: scans._Request) -> None:
        begun.set()
        assert go_on.wait(20)
        done.append(1)
        scan(mine)

    monkeypatch.setattr(shared, "_scan", counted)
    with ThreadPoolExecutor(7) as pool:
        found = [pool.submit(shared.products, query) for query in QUERIES[:7]]
        assert begun.wait(20)
        while len(shared._waiting) < 7:
            pass
        go_on.set()
    assert len(done) == passes
    for query, products in zip(QUERIES, found, strict=False):
        assert products.result() == pytest.approx(ROWS @ query, abs=1e-6)


def test_a_pass_that_fails_is_tried_again_by_those_who_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Scans(ROWS, passes=1)
    begun, go_on, scan = Event(), Event(), shared._scan

    def fails(mine: scans._Request) -> None:
        if not begun.is_set():
            begun.set()
            assert go_on.wait(20)
            with shared._lock:
                shared._waiting.clear()  # taken along, and lost
            raise MemoryError
        scan(mine)

    monkeypatch.setattr(shared, "_scan", fails)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shared.products, QUERIES[0])
        assert begun.wait(20)
        second = pool.submit(shared.products, QUERIES[1])
        while len(shared._waiting) < 2:
            pass
        go_on.set()
        with pytest.raises(MemoryError):
            first.result()
        assert second.result() == pytest.approx(ROWS @ QUERIES[1], abs=1e-6)
