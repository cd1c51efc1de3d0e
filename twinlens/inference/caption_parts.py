"""Parts of captioning: what a worker is given, what it gives back, and how the captions of all parts are read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from twinlens.core.part_store import PartStore, Receipt
from twinlens.core.progress import Progress
from twinlens.core.scratch import Scratch


@dataclass(frozen=True)
class CaptionPart:
    """Pictures whose captions are wanted as one file: `image_id`, `shard`, `row`."""

    name: str
    rows: pl.DataFrame

    @property
    def size(self) -> int:
        """Pictures."""
        return len(self.rows)


@dataclass(frozen=True)
class CaptionTask:
    """Parts that one worker makes one after the other, in batches that reach over several of them."""

    parts: tuple[CaptionPart, ...]
    shards: Path  # folder of the `resize` stage
    store: PartStore
    expected: int  # pictures of all tasks: of few no step is recorded, see `Captioner.expect`

    @property
    def name(self) -> str:
        """Of its parts, for messages."""
        first, last = self.parts[0].name, self.parts[-1].name
        return first if first == last else f"{first} to {last}"

    @property
    def size(self) -> int:
        """Pictures."""
        return sum(part.size for part in self.parts)

    @property
    def paths(self) -> tuple[Path, ...]:
        """What every machine has to see."""
        return (self.shards,)

    @property
    def rows(self) -> pl.DataFrame:
        """Where its pictures are."""
        return pl.concat([part.rows for part in self.parts])


def list_missing(rows: pl.DataFrame, per_part: int, per_task: int, shards: Path, scratch: Scratch) -> list[CaptionTask]:
    """List the parts that are not finished, some to a task.

    Args:
        rows: `image_id`, `shard`, `row` of all pictures.
        per_part: pictures of a part.
        per_task: parts of a task.
        shards: folder of the `resize` stage.
        scratch: where finished parts are kept.
    """
    places = rows.select("image_id", "shard", "row", *(name for name in ("sha256",) if name in rows.columns))
    every = (CaptionPart(name, places[start : start + per_part]) for name, start in _list_parts(len(rows), per_part))
    missing = [part for part in every if not scratch.has(part.name)]
    store, expected = scratch.open_store(), sum(part.size for part in missing)
    return [
        CaptionTask(tuple(missing[at : at + per_task]), shards.absolute(), store, expected)
        for at in range(0, len(missing), per_task)
    ]


def _list_parts(count: int, per_part: int) -> list[tuple[str, int]]:
    return [(f"part-{number:05d}.json", start) for number, start in enumerate(range(0, count, per_part))]


def count_pictures(tasks: Sequence[CaptionTask]) -> int:
    """Count the pictures of some tasks."""
    return sum(task.size for task in tasks)


def show_progress(rows: pl.DataFrame, missing: Sequence[CaptionTask]) -> Progress:
    """Show how many pictures have captions."""
    return Progress("caption", total=len(rows), unit="img", done=len(rows) - count_pictures(missing))


def put_texts(store: PartStore, name: str, texts: Sequence[str], **figures: float) -> list[Receipt]:
    """Put the captions of a part into the store, and its figures before them."""
    text = json.dumps(list(texts))
    noted = store.note(name, **figures)
    return [noted, store.put(name, lambda path: _write(path, text))]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def accept(scratch: Scratch, results: Iterable[Iterable[Receipt]]) -> None:
    """Take parts for finished as they come."""
    for receipts in results:
        for receipt in receipts:
            scratch.accept(receipt)


def read_texts(rows: pl.DataFrame, per_part: int, scratch: Scratch) -> list[str]:
    """Read the captions of all parts, in the order of `rows`."""
    store = scratch.open_store()
    names = [name for name, _ in _list_parts(len(rows), per_part)]
    return [text for name in names for text in json.loads(store.read(name).read_text(encoding="utf-8"))]
