"""What is let in to the page, and how much of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from twinlens.serving import guard
from twinlens.serving.guard import KEPT_S, UPLOAD, Guard


class Asker:
    """Sends requests to a guard before an application that reads all of what is let in."""

    def __init__(self, uploads: Path) -> None:
        self.guard = Guard(self.app, uploads)
        self.read, self.arriving, self.ended = 0, 0, False

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.arriving, more = self.guard.arriving, True
        while more:
            message = await receive()
            self.read += len(message["body"])
            more = message["more_body"]
        self.ended = True
        await send({"type": "http.response.start", "status": 200})

    def status(self, *headers: tuple[bytes, bytes], path: str = UPLOAD, chunks: tuple[int, ...] = (0,)) -> int:
        """The answer to a POST whose body comes in these chunks."""
        self.read, self.ended = 0, False
        sent: list[dict[str, Any]] = []
        waiting: Iterator[int] = iter(range(len(chunks)))

        async def receive() -> dict[str, Any]:
            place = next(waiting)
            return {"type": "http.request", "body": bytes(chunks[place]), "more_body": place + 1 < len(chunks)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers)}
        with ThreadPoolExecutor(1) as thread:  # in this one Playwright may have left a loop running
            thread.submit(asyncio.run, self.guard(scope, receive, send)).result()
        return int(sent[0]["status"])


@pytest.fixture
def asker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asker:
    monkeypatch.setattr(guard, "MAX_REQUEST_BYTES", 100)
    monkeypatch.setattr(guard, "MAX_UPLOADS_BYTES", 150)
    monkeypatch.setattr(guard, "MAX_EVENT_BYTES", 20)
    return Asker(tmp_path)


def length(count: int) -> tuple[bytes, bytes]:
    return b"content-length", str(count).encode()


def test_uploads_are_bounded_by_the_request_and_in_sum(asker: Asker, tmp_path: Path) -> None:
    assert asker.status() == 411
    assert asker.status(length(101)) == 413
    assert [asker.status(length(100)), asker.arriving] == [200, 100]
    assert [asker.status(length(100)), asker.guard.arriving] == [200, 0]
    (tmp_path / "session").mkdir()
    (tmp_path / "session" / "waiting.png").write_bytes(bytes(51))
    assert asker.status(length(100)) == 503
    (tmp_path / "session" / "waiting.png").write_bytes(bytes(50))
    assert asker.status(length(100)) == 200
    asker.guard.arriving = 1
    assert asker.status(length(100)) == 503


def test_what_arrives_is_counted_whatever_was_said(asker: Asker) -> None:
    assert [asker.status(length(60), chunks=(30, 30)), asker.read] == [200, 60]
    assert asker.status(length(60), chunks=(30, 31, 30)) == 413
    assert [asker.read, asker.ended, asker.guard.arriving] == [30, False, 0]
    assert asker.status(length(10), (b"transfer-encoding", b"chunked"), chunks=(10,)) == 411
    assert asker.read == 0


def test_other_requests_are_small(asker: Asker) -> None:
    join = "/gradio_api/queue/join"
    assert asker.status(length(20), path=join, chunks=(20,)) == 200
    assert asker.status(length(21), path=join, chunks=(21,)) == 413
    assert asker.status(path=join, chunks=(5,)) == 411
    assert asker.read == 0


def test_what_is_left_of_an_upload_that_broke_off_does_not_count_for_ever(asker: Asker, tmp_path: Path) -> None:
    part, now = tmp_path / "tmpabc", time.time()
    part.write_bytes(bytes(140))
    os.utime(part, (now, now - KEPT_S + 60))
    assert asker.status(length(100)) == 503  # it may still be arriving
    os.utime(part, (now, now - KEPT_S - 1))
    assert asker.status(length(100)) == 200
    assert not part.exists()


def test_a_websocket_is_closed(asker: Asker) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, asker.guard({"type": "websocket", "path": "/"}, None, send)).result()
    assert [message["type"] for message in sent] == ["websocket.close"]
