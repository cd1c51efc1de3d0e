"""Finished parts in a bucket: whole or absent, compared with digests, one driver at a time, nothing made twice."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests

from tests.buckets import KEY, SECRET, BucketHost, Request
from twinlens.core import bucket_store, buckets, paths
from twinlens.core.bucket_store import BucketLock
from twinlens.core.buckets import Bucket
from twinlens.core.errors import BucketError, DataError, ResourceError
from twinlens.core.part_store import LOCK
from twinlens.core.scratch import Scratch, prune
from twinlens.inference.loop import collect

PARTS = "s3://photos/parts"
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0  # for another process; only reached when something is wrong


pytestmark = pytest.mark.slow  # they start a server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, bucket_host: BucketHost) -> None:
    monkeypatch.setattr(buckets, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(buckets, "LONGEST_WAIT_S", 0.02)
    monkeypatch.setattr(bucket_store, "LOOKS_EVERY_S", 0.02)


def text(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(content)

    return write


def stored(prefix: str = "parts/work/key") -> list[str]:
    """Names in the bucket, without the digests."""
    return sorted(one.name.partition("/")[0] for one in Bucket(f"s3://photos/{prefix}").list_objects())


def forget_copies() -> None:
    """As another machine has none."""
    for path in paths.scratch().rglob("*"):
        if path.is_file():
            path.unlink()


def test_a_part_is_put_found_by_the_next_run_and_read_back() -> None:
    with Scratch("work", "key", PARTS) as scratch:
        assert not scratch.has("a.txt")
        scratch.note("a.txt", seconds=1.5)
        scratch.put("a.txt", text("all of it"))
        assert scratch.has("a.txt")
        assert scratch.path("a.txt").read_text() == "all of it"
        assert scratch.total("seconds") == 1.5
        assert stored() == ["a.txt", "a.txt.note", "lock", "used"]
    forget_copies()
    with Scratch("work", "key", PARTS) as again, Scratch("work", "other", PARTS) as other:
        assert again.has("a.txt")
        assert again.list_parts("*.txt") == ["a.txt"]
        assert again.path("a.txt").read_text() == "all of it"
        assert again.total("seconds") == 1.5
        assert not other.has("a.txt")
    assert stored() == ["a.txt", "a.txt.note", "used"]
    assert Scratch("work", "key", PARTS).has("a.txt")


def test_a_copy_that_is_here_is_not_fetched_again(bucket_host: BucketHost) -> None:
    with Scratch("work", "key", PARTS) as scratch:
        scratch.put("a.txt", text("x"))
        scratch.path("a.txt")
        assert bucket_host.count("GET", "a.txt/") == 0
        scratch.path("a.txt").write_text("y")  # damaged here
        assert scratch.path("a.txt").read_text() == "x"
        assert bucket_host.count("GET", "a.txt/") == 1


def test_a_worker_puts_parts_and_keeps_no_copies() -> None:
    with Scratch("work", "key", PARTS) as scratch:
        store = pickle.loads(pickle.dumps(scratch.open_store()))
        receipts = [store.note("part-0", seconds=2.0), store.put("part-0", text("vectors"))]
        assert not list(scratch.folder.iterdir())
        assert not scratch.has("part-0")
        for receipt in receipts:
            scratch.accept(receipt)
        assert scratch.has("part-0")
        assert scratch.total("seconds") == 2.0
        assert store.read("part-0").read_text() == "vectors"
        with pytest.raises(DataError, match="there is no such part"):
            store.read("part-1")
        store.put("part-1", text("the driver is killed before it hears of it"))
    with Scratch("work", "key", PARTS) as again:
        assert again.has("part-1")


def test_parts_are_joined_in_order_and_their_copies_go(tmp_path: Path) -> None:
    rows = np.eye(6, dtype=np.float32)
    with Scratch("work", "key", PARTS) as scratch:
        store = pickle.loads(pickle.dumps(scratch.open_store()))
        for number in (2, 0, 1):

            def write(path: Path, number: int = number) -> None:
                with path.open("wb") as file:
                    np.save(file, rows[2 * number : 2 * number + 2])

            scratch.accept(store.put(f"part-0000{number}.npy", write))
        assert collect(scratch, 6, tmp_path / "all.npy") == 6
        assert list(scratch.folder.iterdir()) == []
    assert (np.load(tmp_path / "all.npy") == rows).all()


def test_a_part_that_is_made_again_with_other_bytes_counts_once() -> None:
    with Scratch("work", "key", PARTS) as scratch:
        scratch.note("a", seconds=1.0)
        scratch.put("a", text("old"))
        then = time.time() - 60
        scratch.note("a", seconds=2.0)
        scratch.put("a", text("new"))
        assert then < time.time()
        assert scratch.total("seconds") == 2.0
        assert scratch.path("a").read_text() == "new"


def test_of_two_objects_of_one_name_the_newer_counts_and_the_older_goes(bucket_host: BucketHost) -> None:
    workers = [pickle.loads(pickle.dumps(Scratch("work", "key", PARTS).open_store())) for _ in range(2)]
    workers[0].put("a", text("old"))
    time.sleep(1.1)  # the store's clock has whole seconds
    workers[1].put("a", text("new"))
    assert stored() == ["a", "a"]
    with Scratch("work", "key", PARTS) as scratch:
        assert scratch.path("a").read_text() == "new"
        scratch.put("a", text("newer"))
        scratch.put("a", text("newest"))
        assert stored() == ["a", "lock", "used"]
    with Scratch("work", "key", PARTS) as again:
        assert again.path("a").read_text() == "newest"


def test_of_two_objects_of_one_second_one_stays() -> None:
    worker = pickle.loads(pickle.dumps(Scratch("work", "key", PARTS).open_store()))
    for content in ("one", "two", "three"):
        worker.put("a", text(content))
    with Scratch("work", "key", PARTS) as scratch:
        assert scratch.path("a").read_text() in ("one", "two", "three")
    assert stored() == ["a", "used"]


@pytest.mark.parametrize("fault", ["a bit", "cut", "empty"])
def test_a_damaged_part_is_told_removed_and_made_again(fault: str) -> None:
    with Scratch("work", "key", PARTS) as scratch:
        scratch.put("a", text("vectors"))
        scratch.put("b", text("others"))
    forget_copies()
    bucket = Bucket(f"{PARTS}/work/key")
    name = next(one.name for one in bucket.list_objects("a/"))
    bucket.write(name, {"a bit": b"wectors", "cut": b"vect", "empty": b""}[fault])
    with (
        Scratch("work", "key", PARTS) as again,
        pytest.raises(DataError, match=r"work/key/a/.*was removed\. Run again"),
    ):
        again.path("a")
    with Scratch("work", "key", PARTS) as third:
        assert not third.has("a")
        assert third.has("b")
        assert not list(third.folder.glob(".part-*"))


def test_a_part_that_goes_meanwhile_is_told() -> None:
    with Scratch("work", "key", PARTS) as scratch:
        scratch.put("a", text("vectors"))
        forget_copies()
        bucket = Bucket(f"{PARTS}/work/key")
        bucket.remove([one.name for one in bucket.list_objects("a/")])
        with pytest.raises(DataError, match="is gone"):
            scratch.path("a")


def test_a_store_that_answers_503_for_a_while_costs_time_and_no_part(bucket_host: BucketHost) -> None:
    answered = iter(range(100))
    bucket_host.faults = lambda request: 503 if next(answered, 0) % 3 else None
    with Scratch("work", "key", PARTS) as scratch:
        for number in range(4):
            scratch.put(f"part-{number}", text(str(number)))
    bucket_host.faults = lambda request: None
    forget_copies()
    with Scratch("work", "key", PARTS) as again:
        assert [path.read_text() for path in again.iter_paths(again.list_parts("part-*"))] == ["0", "1", "2", "3"]


def test_a_bucket_without_permission_is_told_and_nothing_secret_is_written(
    bucket_host: BucketHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket_host.faults = lambda request: 403
    with pytest.raises(BucketError, match=r"s3://photos/parts/work/key/lock \(PutObject\): refused"):
        Scratch("work", "key", PARTS).__enter__()
    bucket_host.faults = lambda request: 403 if "part-0" in request.path else None
    with Scratch("work", "key", PARTS) as scratch, pytest.raises(BucketError, match="refused"):
        scratch.put("part-0", text("x"))
    assert stored() == ["used"]  # and the lock was given back
    written = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    kept = [Bucket(f"{PARTS}/work/key").read(one.name) for one in Bucket(f"{PARTS}/work/key").list_objects()]
    said = "".join([*written, *map(repr, kept), caplog.text])
    assert KEY not in said
    assert SECRET not in said


def test_a_full_disk_of_this_machine_is_told_with_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with Scratch("work", "key", PARTS) as scratch:
        with pytest.raises(ResourceError, match="the disk is full"):
            scratch.put("a", full)
        with pytest.raises(ResourceError, match="the disk is full"):
            scratch.open_store().put("a", full)
        scratch.put("b", text("x"))
        forget_copies()
        monkeypatch.setattr(Bucket, "fetch", lambda self, name, file: full(file))
        with pytest.raises(ResourceError, match="the disk is full"):
            scratch.path("b")
        assert not list(scratch.folder.glob(".part-*"))


def test_a_process_killed_while_it_uploads_leaves_the_part_absent_and_its_lock_is_taken_over(
    bucket_host: BucketHost,
) -> None:
    upload, go_on = threading.Event(), threading.Event()

    def hold(request: Request) -> int | None:
        if request.method == "PUT" and "half" in request.path:
            upload.set()
            go_on.wait(PATIENCE_S)
            return 0
        return None

    bucket_host.faults = hold
    running = process("""
        from twinlens.core.scratch import Scratch

        with Scratch("work", "key", "s3://photos/parts") as scratch:
            scratch.put("whole", lambda path: path.write_text("whole"))
            scratch.put("half", lambda path: path.write_text("half of it"))
    """)
    assert upload.wait(PATIENCE_S)
    running.kill()
    running.wait(PATIENCE_S)
    go_on.set()
    bucket_host.faults = lambda request: None
    assert stored() == ["lock", "used", "whole"]
    with Scratch("work", "key", PARTS) as scratch:  # at once: the process is of this machine
        assert scratch.has("whole")
        assert not scratch.has("half")
    assert stored() == ["used", "whole"]


def process(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, text=True)


def test_a_second_driver_waits_says_for_whom_and_finds_what_the_first_has_made(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entered = threading.Event()
    found: list[bool] = []

    def second() -> None:
        with Scratch("work", "key", PARTS) as scratch:
            found.append(scratch.has("a"))
            entered.set()

    with caplog.at_level(logging.INFO, "twinlens"), Scratch("work", "key", PARTS) as first:
        waiting = threading.Thread(target=second)
        waiting.start()
        end = time.monotonic() + PATIENCE_S
        while "another process is doing this work" not in caplog.text:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert not entered.is_set()
        first.put("a", text("x"))
    waiting.join(PATIENCE_S)
    assert found == [True]
    assert f"process {os.getpid()} on " in caplog.text
    assert f"{PARTS}/work/key" in caplog.text


def test_a_lock_of_another_machine_that_beats_no_more_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_store, "STALE_S", 0.2)
    bucket = Bucket(f"{PARTS}/work/key")
    bucket.write(LOCK, json.dumps({"token": "x", "host": "gone", "process": 1, "beat": 7}).encode())
    with Scratch("work", "key", PARTS) as scratch:
        scratch.put("a", text("x"))
    assert stored() == ["a", "used"]
    bucket.write(LOCK, b"damaged")
    with Scratch("work", "key", PARTS) as scratch:
        assert scratch.has("a")


def test_a_lock_that_beats_is_not_taken_over_however_long_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_store, "BEATS_EVERY_S", 0.01)
    bucket = Bucket(f"{PARTS}/work/key")
    lock = BucketLock(bucket)
    lock.acquire()
    tags: set[str] = set()
    end = time.monotonic() + PATIENCE_S
    while len(tags) < 3:  # each beat changes it, which is what the others look at
        assert time.monotonic() < end
        described = bucket.describe(LOCK)
        assert described is not None
        tags.add(described.etag)
    lock.release()
    assert bucket.describe(LOCK) is None


def test_a_store_that_is_away_when_the_work_ends_is_not_waited_for(
    bucket_host: BucketHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_store, "BRIEFLY_S", 0.05)
    monkeypatch.setattr(bucket_store, "BEATS_EVERY_S", 0.01)
    with Scratch("work", "key", PARTS) as scratch:
        scratch.put("a", text("x"))
        bucket_host.faults = lambda request: 503
    bucket_host.faults = lambda request: None
    assert stored() == ["a", "lock", "used"]  # and stale soon, or at once for this machine


def test_drafts_of_the_killed_go_and_those_of_the_living_stay() -> None:
    folder = Scratch("work", "key", PARTS).folder
    folder.mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(PATIENCE_S)
    for process in (dead.pid, os.getpid()):
        (folder / f".part-{process}-0a1b2c3d-a").write_text("half")
    with Scratch("work", "key", PARTS):
        assert [path.name for path in folder.iterdir()] == [f".part-{os.getpid()}-0a1b2c3d-a"]


def test_an_answer_that_was_lost_does_not_lock_its_own_process_out(bucket_host: BucketHost) -> None:
    lost = iter([True])

    def lose(request: Request) -> int | None:
        if request.method == "PUT" and request.path.endswith("/lock") and next(lost, False):
            bucket_host.faults = lambda again: None
            content = json.dumps({"token": lock.token, "host": "x", "process": 1, "beat": 1})
            requests.put(f"{bucket_host.url}/photos/parts/work/key/lock", data=content, timeout=60)
            return 0  # it was done, and nobody heard of it
        return None

    lock = BucketLock(Bucket(f"{PARTS}/work/key"))
    bucket_host.faults = lose
    lock.acquire()
    lock.release()
    assert stored() == []


def test_pruning_removes_from_the_bucket_what_was_not_used_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("old", "held"):
        with Scratch("work", key, PARTS) as scratch:
            scratch.put("a", text("x"))
    Bucket(f"{PARTS}/work/held").write(LOCK, b"{}")
    assert prune(30, PARTS) == []
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 40 * 86_400)
    assert prune(30, PARTS)[-1] == f"{PARTS}/work/old"
    assert stored("parts/work/old") == []
    assert stored("parts/work/held") == ["a", "lock", "used"]


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    with Scratch("work", "key", f"file://{tmp_path}/shared") as scratch:
        scratch.put("a", text("x"))
    assert (tmp_path / "shared" / "work" / "key" / "a").read_text() == "x"


def test_parts_of_finished_work_can_be_cleared(bucket_host: BucketHost) -> None:
    with Scratch("work", "key", PARTS) as scratch:
        scratch.note("one", seconds=1.0)
        scratch.put("one", text("1"))
        scratch.clear()
        assert not scratch.has("one")
        assert scratch.total("seconds") == 0
        scratch.put("two", text("2"))
    assert stored() == ["two", "used"]
    with Scratch("work", "key", PARTS) as scratch:
        assert (scratch.has("one"), scratch.has("two")) == (False, True)
