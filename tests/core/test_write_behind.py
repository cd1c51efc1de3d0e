"""Parts that are put into a bucket while the next ones are made: in order, bounded, and no receipt before its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from twinlens.core.bucket_store import BucketStore
from twinlens.core.errors import BucketError
from twinlens.core.part_store import Receipt
from twinlens.core.write_behind import AHEAD, WAITING, settle


@dataclass
class Store:
    """A bucket that waits with each object until it is let."""

    fails: str = ""
    names: list[str] = field(default_factory=list)
    let: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def put(self, file: Path, name: str) -> None:
        assert self.let.acquire(timeout=60)
        assert file.read_text() == name.partition("/")[0]
        if name.startswith(self.fails or "-"):
            raise BucketError("the store has gone")
        self.names.append(name.partition("/")[0])


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BucketStore:
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path))
    return BucketStore(Store(), Path("parts"), keeps=False)  # type: ignore[arg-type]


def put(store: BucketStore, name: str) -> Receipt:
    def write(path: Path) -> None:
        path.write_text(name)

    return store.put(name, write)


def put_parts(store: BucketStore, count: int, made: list[int]) -> Iterator[list[Receipt]]:
    """A worker: of each part its note, and the part."""
    for number in range(count):
        made.append(number)
        yield [put(store, f"part-{number}.note"), put(store, f"part-{number}")]


def test_the_next_parts_are_made_while_one_is_put_and_a_receipt_comes_when_all_is_there(store: BucketStore) -> None:
    bucket: Store = store.bucket  # type: ignore[assignment]
    made: list[int] = []
    results, names = settle(put_parts(store, 5, made)), [f"part-{n}{end}" for n in range(5) for end in (".note", "")]

    def let(wanted: int) -> None:  # nothing is put before so many parts are made
        while len(made) < wanted:
            time.sleep(0.005)
        bucket.let.release(2)

    for number in range(5):
        wanted = min(5, number + 1 + AHEAD)
        release = threading.Thread(target=let, args=(wanted,), daemon=True)
        release.start()
        receipts = next(results)
        release.join()
        assert [one.name for one in receipts] == [f"part-{number}.note", f"part-{number}"]
        assert bucket.names == names[: 2 * number + 2]
        assert len(made) == wanted
    assert next(results, None) is None
    assert not list(store.folder.glob(".part-*"))


def test_a_failed_upload_ends_the_work_and_nothing_that_follows_it_is_put(store: BucketStore) -> None:
    bucket: Store = store.bucket  # type: ignore[assignment]
    bucket.fails = "part-1.note"
    bucket.let.release(100)
    with pytest.raises(BucketError, match="has gone"):
        list(settle(put_parts(store, 50, [])))
    assert bucket.names == ["part-0.note", "part-0"]
    assert not list(store.folder.glob(".part-*"))


def test_so_many_files_wait_and_no_more(store: BucketStore) -> None:
    bucket: Store = store.bucket  # type: ignore[assignment]
    made: list[str] = []

    def put_many() -> Iterator[int]:
        for number in range(2 * WAITING):
            made.append(str(number))
            put(store, str(number))
        yield 1

    results = settle(put_many())
    waits = threading.Thread(target=lambda: next(results), daemon=True)
    waits.start()
    bucket.let.release(1)
    while len(made) < WAITING + 2:  # one is put, so many wait, and one is made
        waits.join(0.01)
    assert bucket.names == ["0"]
    assert len(made) == WAITING + 2
    bucket.let.release(100)
    waits.join(60)
    assert bucket.names == [str(number) for number in range(2 * WAITING)]


def test_outside_of_a_workers_stream_a_part_is_there_when_put_returns(store: BucketStore) -> None:
    bucket: Store = store.bucket  # type: ignore[assignment]
    bucket.let.release(100)
    next(settle(put_parts(store, 1, [])))
    put(store, "own")
    assert bucket.names == ["part-0.note", "part-0", "own"]
