"""Pictures on many cores: by processes the same, in the same order, and with the same errors as by threads."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.tiny import jpegs
from twinlens.config.params import ResizeParams
from twinlens.core.errors import ResourceError
from twinlens.images import workers
from twinlens.images.resize import resize_pictures
from twinlens.images.workers import map_on_cores

MANY = 6
PARAMS = ResizeParams(shortest_side_px=40, min_side_px=16, max_megapixels=100, jpeg_quality=95, images_per_shard=7)


def where(task: int) -> tuple[int, int]:
    return task, os.getpid()


def fail(task: int) -> int:
    if task == 21:
        raise ResourceError("memory ran out while 21 was being opened")
    return task


def end(task: int) -> int:
    if task == 21:
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory runs out
    return task


def one(_: object) -> int:
    return 1


def test_few_cores_are_used_by_threads() -> None:
    assert {process for _, process in map_on_cores(where, range(40), 2, one, "")} == {os.getpid()}


def test_many_are_used_by_processes_that_give_the_same_in_order() -> None:
    found = list(map_on_cores(where, range(100), MANY, one, ""))
    assert [task for task, _ in found] == list(range(100))
    assert os.getpid() not in {process for _, process in found}


def test_an_error_in_a_process_is_the_callers() -> None:
    with pytest.raises(ResourceError, match="21 was being opened"):
        list(map_on_cores(fail, range(100), MANY, one, ""))


def test_a_process_that_the_system_ends_is_said_with_a_remedy() -> None:
    with pytest.raises(ResourceError, match=r"the system ended a process.*Lower compute.decode_threads"):
        list(map_on_cores(end, range(100), MANY, one, "Lower compute.decode_threads"))


def test_no_more_is_read_ahead_than_memory_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MAX_WAITING_BYTES", 64)
    read: list[int] = []

    def tasks() -> Iterator[int]:
        for n in range(60):
            read.append(n)
            yield n

    for given, _ in enumerate(map_on_cores(where, tasks(), MANY, lambda _: 8, "")):
        assert len(read) - given < 24  # of 8 bytes each: eight may wait, a task's pictures and the next's beside


def pictures() -> Iterator[tuple[str, str, bytes | str]]:
    for n, raw in enumerate(jpegs(30)):
        yield f"{n}", f"{n}.jpg", raw if n % 9 else ("gone" if n else b"no picture")


def test_resizing_gives_the_same_bytes_by_processes_as_by_threads(tmp_path: Path) -> None:
    def digest(folder: Path) -> list[str]:
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.parquet"))]

    by_threads = resize_pictures(pictures(), 30, PARAMS, tmp_path / "threads", 1)
    by_processes = resize_pictures(pictures(), 30, PARAMS, tmp_path / "processes", MANY)
    assert digest(tmp_path / "threads") == digest(tmp_path / "processes")
    assert len(digest(tmp_path / "threads")) == 5
    for name in ("index", "hashes", "notes"):
        assert getattr(by_threads, name).equals(getattr(by_processes, name))


def test_a_shard_is_written_while_the_next_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, write = threading.Event(), pq.write_table
    seen: list[bool] = []

    def wait(table: object, path: Path, **options: object) -> None:
        if path.name.startswith("shard"):
            seen.append(prepared.wait(timeout=60))  # set while this shard is being written
        write(table, path, **options)

    def source() -> Iterator[tuple[str, str, bytes | str]]:
        for n, (image_id, file, raw) in enumerate(pictures()):
            if n == 27:
                prepared.set()
            yield image_id, file, raw

    monkeypatch.setattr(pq, "write_table", wait)
    resize_pictures(source(), 30, PARAMS.model_copy(update={"images_per_shard": 20}), tmp_path, 1)
    assert seen == [True, True]


def test_a_shard_that_cannot_be_written_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        resize_pictures(pictures(), 30, PARAMS, tmp_path, 1)
