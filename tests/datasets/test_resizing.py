"""The dataset's pictures as shards: joined whatever was made when and by whom, and gone on with after a kill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.images.test_resize import params, picture, resized
from twinlens.config.datasets import FolderCard
from twinlens.config.params import ComputeParams
from twinlens.core import tables
from twinlens.core.errors import DataError
from twinlens.core.scratch import Scratch
from twinlens.core.shards import iter_pixels
from twinlens.datasets import make_adapter
from twinlens.datasets.resizing import Resized, ResizeJob, ShardTask, ShardWorker
from twinlens.engines import LocalEngine, Seat

PICTURES = {f"{n}.jpg": picture(n, (60 + 10 * n, 60)) for n in range(7)} | {"bad.jpg": b"a page", "zero.jpg": b""}
COMPUTE = ComputeParams(device="cpu", decode_threads=2, image_batch=None, text_batch=None)


@pytest.fixture
def job(tmp_path: Path) -> ResizeJob:
    return make_job(tmp_path, PICTURES)


def make_job(folder: Path, files: dict[str, bytes], **changes: Any) -> ResizeJob:
    """A folder of pictures, downloaded and listed, as `resize` finds it."""
    (folder / "mine").mkdir()
    for name, raw in files.items():
        (folder / "mine" / name).write_bytes(raw)
    card = FolderCard.model_validate({"adapter": "folder", "images": str(folder / "mine")})
    make_adapter(card).download(folder / "raw")
    listed = sorted(files)
    rows = {"image_id": listed, "file": listed, "split": ["test"] * len(listed), "labels": [[] for _ in listed]}
    frame = pl.DataFrame(rows, schema_overrides={"labels": pl.List(pl.String)})
    tables.write_table(frame, folder / "images.parquet", tables.IMAGES)
    return ResizeJob(card, folder / "raw", folder / "images.parquet", params(**changes))


def write(job: ResizeJob, out: Path, engine: LocalEngine | None = None) -> Resized:
    with Scratch("resize", job.key()) as scratch:
        return job.write(scratch, engine or LocalEngine(COMPUTE, device="cpu"), out)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Killed(LocalEngine):
    """An engine that is killed after so many shards."""

    shards = 2

    def map(self, worker: Any, tasks: Iterable[Any], bar: Any = None, *, paths: Iterable[Path] = ()) -> Iterator[Any]:
        for n, result in enumerate(super().map(worker, tasks, bar)):
            if n == self.shards:
                raise KeyboardInterrupt
            yield result


class Watched(LocalEngine):
    """An engine that notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__(COMPUTE, device="cpu")
        self.asked: list[int] = []

    def map(self, worker: Any, tasks: Iterable[Any], bar: Any = None, *, paths: Iterable[Path] = ()) -> Iterator[Any]:
        def noted() -> Iterator[ShardTask]:
            for task in tasks:
                self.asked.append(task.number)
                yield task

        return super().map(worker, noted(), bar)


def test_the_joined_tables_are_those_of_one_pass_to_the_byte(job: ResizeJob, tmp_path: Path) -> None:
    write(job, tmp_path / "out")
    listed = [(name, name, PICTURES[name]) for name in sorted(PICTURES)]
    whole = resized(listed, tmp_path / "whole")
    tables.write_table(whole.index, tmp_path / "whole" / "index.parquet", tables.INDEX)
    tables.write_table(whole.hashes, tmp_path / "whole" / "hashes.parquet", tables.HASHES)
    tables.write_table(whole.notes, tmp_path / "whole" / "notes.parquet", tables.NOTES)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_index_finds_every_picture_and_the_notes_say_what_is_aside(job: ResizeJob, tmp_path: Path) -> None:
    told = write(job, tmp_path / "out")
    index = tables.read_table(tmp_path / "out" / "index.parquet", tables.INDEX)
    assert [name for name, _ in iter_pixels(tmp_path / "out", index)] == [f"{n}.jpg" for n in range(7)]
    assert (told.usable, told.aside) == (7, 2)
    assert told.notes["empty file"] == 1
    assert told.seconds > 0


def test_a_killed_resize_goes_on_with_the_shards_that_are_missing(job: ResizeJob, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(job, tmp_path / "killed", Killed(COMPUTE, device="cpu"))
    engine = Watched()
    write(job, tmp_path / "out", engine)
    assert engine.asked in ([2], [])  # which may have been put just before
    engine = Watched()
    write(ResizeJob(job.card, job.raw, job.listed, job.params), tmp_path / "again", engine)
    assert engine.asked == []
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


def test_a_shard_that_is_damaged_or_gone_is_made_again(job: ResizeJob, tmp_path: Path) -> None:
    write(job, tmp_path / "out")
    with Scratch("resize", job.key()) as scratch:
        damaged, gone = scratch.path("shard-00000.parquet"), scratch.path("shard-00001.parquet")
    damaged.unlink()  # else the output, which is the same file, would be written to
    damaged.write_bytes(b"something else")
    gone.unlink()
    engine = Watched()
    write(job, tmp_path / "again", engine)
    assert engine.asked == [0, 1]
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


def test_the_output_takes_no_room_of_its_own_where_links_are_to_be_had(
    job: ResizeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(job, tmp_path / "out")
    assert (tmp_path / "out" / "shard-00000.parquet").stat().st_nlink == 2

    def refuse(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr("os.link", refuse)
    write(job, tmp_path / "copied")
    assert (tmp_path / "copied" / "shard-00000.parquet").stat().st_nlink == 1
    assert contents(tmp_path / "out") == contents(tmp_path / "copied")


def test_other_files_limits_or_lists_are_other_work(job: ResizeJob, tmp_path: Path) -> None:
    keys = {job.key()}
    keys.add(ResizeJob(job.card, job.raw, job.listed, params(jpeg_quality=90)).key())
    keys.add(ResizeJob(job.card, job.raw, job.listed, params(images_per_shard=4)).key())
    keys.add(ResizeJob(job.card.model_copy(update={"shortest_side_px": 20}), job.raw, job.listed, params()).key())
    (tmp_path / "mine" / "0.jpg").write_bytes(picture(99))
    make_adapter(job.card).download(tmp_path / "raw")
    keys.add(job.key())
    tables.write_table(tables.read_table(job.listed, tables.IMAGES)[:-1], tmp_path / "fewer.parquet", tables.IMAGES)
    keys.add(ResizeJob(job.card, job.raw, tmp_path / "fewer.parquet", params()).key())
    assert len(keys) == 6


def test_shards_of_unusable_pictures_leave_no_file_and_none_at_all_is_an_error(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"a.jpg": b"", "b.jpg": b"a page", "c.jpg": b""}, images_per_shard=2)
    with pytest.raises(DataError, match=r"none of 3 pictures is usable; the first was set aside because: empty file"):
        write(job, tmp_path / "out")


def test_a_worker_takes_tasks_ahead_and_gives_their_receipts_in_order(job: ResizeJob, tmp_path: Path) -> None:
    counted: list[int] = []
    with Scratch("resize", job.key()) as scratch:
        worker = ShardWorker(job.card, job.raw, job.params, scratch.open_store())
        names = sorted(PICTURES)
        tasks = [ShardTask(n, names[3 * n : 3 * n + 3], names[3 * n : 3 * n + 3]) for n in (2, 0)]
        found = list(worker(iter(tasks), Seat(1, counted.append)))
    assert [[receipt.name for receipt in receipts][-1] for receipts in found] == [
        "outcomes-00002.parquet",
        "outcomes-00000.parquet",
    ]
    assert sum(counted) == 6


def test_parts_that_were_joined_can_be_cleared_and_the_output_stays(job: ResizeJob, tmp_path: Path) -> None:
    with Scratch("resize", job.key()) as scratch:
        job.write(scratch, LocalEngine(COMPUTE, device="cpu"), tmp_path / "out")
        before = contents(tmp_path / "out")
        scratch.clear()
        assert not scratch.has("outcomes-00000.parquet")
        assert [path.name for path in scratch.folder.iterdir()] == ["lock"]
    assert contents(tmp_path / "out") == before
    engine = Watched()
    write(job, tmp_path / "again", engine)
    assert engine.asked == [0, 1, 2]
    assert contents(tmp_path / "again") == before
