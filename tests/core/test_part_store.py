"""Parts that workers make: what they give back counts when the driver accepts it, and nothing finished is lost."""

from __future__ import annotations

import pickle
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from twinlens.core import part_store, paths
from twinlens.core.errors import DataError, ResourceError
from twinlens.core.part_store import RECEIPTS, PartStore, Receipt
from twinlens.core.scratch import Scratch


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_store, "LOOKS_AFTER_S", ())


def text(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(content)

    return write


def work(store: PartStore, number: int) -> tuple[Receipt, Receipt]:
    """What a worker does with a part."""
    return store.note(f"part-{number}", seconds=2.0), store.put(f"part-{number}", text(f"vectors {number}"))


def test_a_part_of_a_worker_counts_when_it_is_accepted() -> None:
    with Scratch("work", "key") as scratch:
        noted, put = work(scratch.open_store(), 0)
        assert not scratch.has("part-0")
        scratch.accept(noted)
        scratch.accept(put)
        assert scratch.has("part-0")
        assert scratch.total("seconds") == 2.0
        assert list((scratch.folder / RECEIPTS).iterdir()) == []
    with Scratch("work", "key") as again:
        assert again.has("part-0")
        assert again.open_store().read("part-0").read_text() == "vectors 0"


def test_parts_of_a_worker_are_kept_where_the_driver_was_killed_before_it_accepted_them() -> None:
    scratch = Scratch("work", "key")
    scratch.__enter__()
    work(scratch.open_store(), 0)
    store = scratch.open_store()
    scratch._lock.close()  # as the system does with a killed process
    work(store, 1)  # a worker ends its part without its driver
    with Scratch("work", "key") as again:
        assert again.has("part-0")
        assert again.has("part-1")
        assert again.total("seconds") == 4.0


def test_a_part_that_was_damaged_before_it_was_accepted_is_made_again() -> None:
    with Scratch("work", "key") as scratch:
        work(scratch.open_store(), 0)
    scratch.path("part-0").write_text("vectors X")
    (scratch.folder / RECEIPTS / "part-0.note.json").write_text('{"name": "part-0.n')  # cut off
    with Scratch("work", "key") as again:
        assert not again.has("part-0")
        assert again.total("seconds") == 0


def test_processes_put_parts_into_one_folder_and_the_driver_notes_them(tmp_path: Path) -> None:
    with (
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers,
        Scratch("work", "key", str(tmp_path / "shared")) as scratch,
    ):
        store = scratch.open_store()
        for pair in workers.map(work, [store] * 8, range(8)):
            for receipt in pair:
                scratch.accept(receipt)
    assert scratch.folder == tmp_path / "shared" / "work" / "key"
    with Scratch("work", "key", str(tmp_path / "shared")) as again:
        assert all(again.has(f"part-{number}") for number in range(8))
        assert again.total("seconds") == 16.0
    assert not Scratch("work", "key").has("part-0")


def test_a_store_works_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWINLENS_SCRATCH")
    monkeypatch.chdir(tmp_path)
    with Scratch("work", "key") as scratch:
        store = pickle.loads(pickle.dumps(scratch.open_store()))
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        receipt = store.put("a", text("x"))
        monkeypatch.chdir(tmp_path)
        scratch.accept(receipt)
        assert scratch.path("a").read_text() == "x"


def test_a_folder_that_a_worker_does_not_see_is_told_with_the_setting() -> None:
    with Scratch("work", "key") as scratch:
        store = scratch.open_store()
        shutil.rmtree(paths.scratch())
        with pytest.raises(ResourceError, match=r"does not see .*scratch/work/key.*compute\.parts"):
            store.put("a", text("x"))
        with pytest.raises(DataError, match="no such part"):
            store.read("a")


def test_a_part_that_only_the_worker_sees_is_told_when_it_is_accepted() -> None:
    with Scratch("work", "key") as scratch:
        receipt = scratch.open_store().put("a", text("x"))
        scratch.path("a").unlink()
        with pytest.raises(DataError, match=r"a worker put a into .*compute\.parts"):
            scratch.accept(receipt)


def test_a_part_that_comes_to_be_seen_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with Scratch("work", "key") as scratch:
        receipt = scratch.open_store().put("a", text("x"))
        hidden = scratch.path("a").rename(scratch.folder / "hidden")
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 2:
                hidden.rename(scratch.path("a"))

        monkeypatch.setattr(part_store, "LOOKS_AFTER_S", (1, 2, 3))
        monkeypatch.setattr(time, "sleep", sleep)
        scratch.accept(receipt)
        assert scratch.has("a")
        assert waited == [1, 2]
