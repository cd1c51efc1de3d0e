"""A page that stays up: visits that never come back leave nothing, and connections that say nothing block nobody."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import requests

from benchmarks.visits import address as parse_address
from benchmarks.visits import resident_mb, visit
from tests.apps.web.conftest import Served, address, started

pytestmark = pytest.mark.slow

VISITS = 120


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_visits_that_never_come_back_leave_nothing_in_memory(built: Path, tmp_path: Path) -> None:
    """With Gradio it was a third of a megabyte each; `benchmarks/visits.py` goes on for ten thousand."""
    temporary, log = tmp_path / "tmp", tmp_path / "log.txt"
    temporary.mkdir()
    process = started(built, temporary, log)
    try:
        url = address(process, log)
        silent = [socket.create_connection(parse_address(url)) for _ in range(300)]  # more than the page waits for
        for number in range(VISITS):
            visit(url, number)
        before = resident_mb(process.pid)
        for number in range(VISITS, 2 * VISITS):
            visit(url, number)
        assert resident_mb(process.pid) - before < 0.1 * VISITS
        for connection in silent:
            connection.close()
    finally:
        process.terminate()
        process.wait(120)
    assert os.listdir(temporary) == []  # noqa: PTH208 (names)


def test_a_preview_of_a_link_says_what_the_page_is_and_advertises_nobody(served: Served) -> None:
    page = requests.get(served.url, timeout=120).text
    assert '<meta property="og:title" content="TwinLens: search scenes">' in page
    assert '<meta name="description" content="Search pictures by words' in page
    assert "gradio" not in page.lower()
