"""The dataset's pictures as shards: made range by range by whoever works, and joined into one index.

A range of the listed pictures is a part. Its shard and its table of outcomes are kept, so that a killed run goes on,
and any worker makes any of them, from the dataset's own files. Who joins them reads the tables alone: shards are
linked into the output, or copied where that is another disk.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import polars as pl

from twinlens.config.datasets import ComposedCard, DatasetCard, list_places
from twinlens.config.params import ResizeParams
from twinlens.core import paths, tables
from twinlens.core.buckets import is_bucket
from twinlens.core.code import code_digest
from twinlens.core.errors import DataError
from twinlens.core.hashing import recall_digest
from twinlens.core.part_store import PartStore, Receipt
from twinlens.core.progress import Progress
from twinlens.core.resources import name_disk_fault
from twinlens.core.scratch import Scratch, digest, fingerprint
from twinlens.core.shards import name_shard
from twinlens.datasets.pictures import open_pictures
from twinlens.engines import Engine, Seat
from twinlens.images.resize import (
    Picture,
    explain_nothing,
    name_outcomes,
    select_hashes,
    select_index,
    select_notes,
    write_shards,
)

log = logging.getLogger("twinlens")

LIBRARIES = ("torch", "pillow", "simplejpeg", "pyarrow")  # that decide bytes


@dataclass(frozen=True)
class ShardTask:
    """A shard that is wanted: its number and the pictures that are listed for it."""

    number: int
    image_ids: list[str]
    files: list[str]

    @property
    def name(self) -> str:
        """See `engines.Task`."""
        return name_shard(self.number)

    @property
    def size(self) -> int:
        """Pictures."""
        return len(self.files)


@dataclass(frozen=True)
class ShardWorker:
    """Worker that makes shards from a dataset's own files, one in memory while the one before is written."""

    card: DatasetCard
    raw: Path  # folder of the `download` stage; absolute, as a worker's own folder is another
    params: ResizeParams
    store: PartStore

    @property
    def paths(self) -> tuple[Path, ...]:
        """What every machine has to see: the dataset's own files, and the record of them; all see a bucket."""
        return (self.raw, *(paths.expand(place) for place in list_places(self.card) if not is_bucket(place)))

    def __call__(self, tasks: Iterable[ShardTask], seat: Seat) -> Iterator[list[Receipt]]:
        """See `engines.Worker`: the receipts of each shard."""
        taken: deque[ShardTask] = deque()
        shards = ((task.number, task.size) for task in iter(taken.popleft, None))
        with open_pictures(self.card, self.raw) as read:

            def read_pictures() -> Iterator[Picture]:
                for task in tasks:
                    taken.append(task)  # before its first picture comes
                    yield from zip(task.image_ids, task.files, read(task.files), strict=True)

            pictures = read_pictures()
            yield from write_shards(pictures, shards, self.params, self.store, seat.decode_threads, seat.count)


@dataclass(frozen=True)
class Resized:
    """What there is to tell of a dataset's shards."""

    usable: int  # pictures
    aside: int
    notes: Counter[str]
    seconds: float = 0.0  # of all shards, whenever and by whomever they were made


class ResizeJob:
    """The shards of a dataset: those that are missing are made, and all of them joined.

    Args:
        card: the dataset's.
        raw: folder of the `download` stage.
        listed: table IMAGES of the pictures.
        params: the limits and the size.
    """

    def __init__(self, card: DatasetCard, raw: Path, listed: Path, params: ResizeParams) -> None:
        self.card, self.raw, self.listed = card, raw.absolute(), listed
        self.params = params.at_most(card.shortest_side_px)

    def key(self) -> str:
        """Make a key of everything that decides the bytes of the shards."""
        cards = [self.card.queries, self.card.distractors] if isinstance(self.card, ComposedCard) else [self.card]
        adapters = sorted({f"twinlens.datasets.adapters.{card.adapter}" for card in (self.card, *cards)})
        files = sorted(path for path in self.raw.rglob("*") if path.is_file())
        return fingerprint(
            card=self.card.model_dump(mode="json"),
            params=self.params.model_dump(mode="json"),
            pictures=digest("\0".join(column) for part in self._read_listed() for column in part.iter_columns()),
            raw=[[path.relative_to(self.raw).as_posix(), recall_digest(path)] for path in files],
            libraries=[version(name) for name in LIBRARIES],
            code=code_digest(__name__, *adapters),
        )

    def write(self, scratch: Scratch, engine: Engine, out: Path) -> Resized:
        """Make the shards that are missing, and write all of them with their tables into a folder.

        Args:
            scratch: where finished shards are kept.
            engine: who makes those that are missing.
            out: the folder.

        Raises:
            DataError: no picture is usable.
            ResourceError: memory or disk space ran out; no picture is set aside for that.
        """
        total = tables.count_rows(self.listed)
        worker = ShardWorker(self.card, self.raw, self.params, scratch.open_store())
        with Progress("resize", total=total, unit="img") as bar:
            for receipts in engine.map(worker, self._list_missing(scratch, bar), bar):
                for receipt in receipts:
                    scratch.accept(receipt)
        shards = -(-total // self.params.images_per_shard)
        return replace(join_shards(scratch, shards, total, out), seconds=scratch.total("seconds"))

    def _read_listed(self) -> Iterator[pl.DataFrame]:
        return tables.read_slices(self.listed, tables.IMAGES, ("image_id", "file"), self.params.images_per_shard)

    def _list_missing(self, scratch: Scratch, bar: Progress) -> Iterator[ShardTask]:
        """The shards that are not there yet; the pictures of the others are counted."""
        for number, part in enumerate(self._read_listed()):
            if _is_there(scratch, number):
                bar.skip(len(part))
            else:
                yield ShardTask(number, part["image_id"].to_list(), part["file"].to_list())


def _is_there(scratch: Scratch, number: int) -> bool:
    """Whether a shard is finished: its table of outcomes, which is put last, and what that says there is."""
    if not scratch.has(name_outcomes(number)):
        return False
    rows = tables.read_table(scratch.path(name_outcomes(number)), tables.OUTCOMES)["row"]
    return rows.count() == 0 or scratch.has(name_shard(number))


def join_shards(scratch: Scratch, shards: int, total: int, out: Path) -> Resized:
    """Write the index of all shards, a million rows in memory, and link the shards beside it.

    Args:
        scratch: where the shards and their tables of outcomes are.
        shards: how many.
        total: pictures, for messages.
        out: a folder, made if need be.

    Raises:
        DataError: no picture is usable.
    """
    told: Counter[str] = Counter()
    aside = 0
    first = pl.DataFrame()
    held: list[str] = []  # shards that hold a picture
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        index, hashes, notes = (
            files.enter_context(tables.TableWriter(out / f"{name}.parquet", schema))
            for name, schema in (("index", tables.INDEX), ("hashes", tables.HASHES), ("notes", tables.NOTES))
        )
        for number, path in enumerate(scratch.iter_paths([name_outcomes(number) for number in range(shards)])):
            made = tables.read_table(path, tables.OUTCOMES)
            usable, said = select_index(made), select_notes(made)
            index.add(usable)
            hashes.add(select_hashes(made))
            notes.add(said)
            told.update(said["note"])
            aside += len(made) - len(usable)
            first = said if first.is_empty() else first
            if len(usable):
                held.append(name_shard(number))
        if not index.rows:
            raise DataError(explain_nothing(total, first))
    for name, path in zip(held, scratch.iter_paths(held), strict=True):
        link_file(path, out / name)
    return Resized(index.rows, aside, told)


def link_file(source: Path, out: Path) -> None:
    """Let a finished file have another name too; it is copied where that is another disk, or one without links."""
    with name_disk_fault(out):
        try:
            os.link(source, out)
        except OSError:
            shutil.copyfile(source, out)
