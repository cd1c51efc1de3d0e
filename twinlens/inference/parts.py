"""Parts of an embedding: what a worker is asked for, what it has under way, and what it gives back."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int64

from twinlens.core.part_store import PartStore, Receipt
from twinlens.core.scratch import Scratch
from twinlens.core.vectors import compute_lengths
from twinlens.inference.transfers import Fetched, Transfers
from twinlens.models.native import NativeBatch


@dataclass(frozen=True)
class Source:
    """What the parts of one piece of work have in common."""

    store: PartStore
    largest: int  # rows of the largest part
    shards: Path | None = None  # of pictures: the folder of the `resize` stage
    prompt: str | None = None  # other than the tower's own; of a model of token vectors, its role


@dataclass(frozen=True)
class PicturePart:
    """Pictures that are wanted as one part: `image_id`, `shard`, `row`; with `id` and `text` where they have them."""

    name: str
    source: Source
    rows: pl.DataFrame

    @property
    def size(self) -> int:
        """Pictures."""
        return len(self.rows)

    @property
    def paths(self) -> tuple[Path, ...]:
        """What every machine has to see."""
        return () if self.source.shards is None else (self.source.shards,)

    @property
    def ids(self) -> list[str]:
        """Names for messages."""
        found: list[str] = self.rows["id" if "id" in self.rows.columns else "image_id"].to_list()
        return found


@dataclass(frozen=True)
class TextPart:
    """Texts that are wanted as one part, with their names for messages."""

    name: str
    source: Source
    texts: list[str]
    ids: list[str]

    @property
    def size(self) -> int:
        """Texts."""
        return len(self.texts)


Part = PicturePart | TextPart


@dataclass(frozen=True)
class Finished:
    """A part that was put into the store: its figures and its vectors, which count once they are accepted."""

    receipts: tuple[Receipt, ...]
    parameters: int = 0  # of the tower


def accept(scratch: Scratch, results: Iterable[Finished]) -> None:
    """Take parts for finished as they come."""
    for result in results:
        for receipt in result.receipts:
            scratch.accept(receipt)


@dataclass(frozen=True)
class Span:
    """A part by its place among the rows of a job."""

    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"part-{self.number:05d}.npy"

    @property
    def rows(self) -> slice:
        """Its rows."""
        return slice(self.start, self.stop)


def list_missing(count: int, size: int, scratch: Scratch) -> list[Span]:
    """List the parts of a job that are not finished."""
    every = (Span(n, start, min(start + size, count)) for n, start in enumerate(range(0, count, size)))
    return [span for span in every if not scratch.has(span.name)]


def put_vectors(store: PartStore, name: str, vectors: Float32[np.ndarray, "rows dim"], **figures: float) -> Finished:
    """Put a part and its figures into the store."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, vectors)

    return Finished((store.note(name, **figures), store.put(name, write)))


def store_rows(
    take: Callable[[slice], Float32[np.ndarray, "rows dim"]], ids: Sequence[str], scratch: Scratch, per_part: int
) -> None:
    """Fill `scratch` with vectors that are there already.

    Args:
        take: gives some of the rows.
        ids: of all rows, for messages.
        scratch: where finished parts are kept; parts that are there are not made again.
        per_part: rows of a part.

    Raises:
        DataError: a vector is NaN, infinite or zero; the rows are named.
    """
    store = scratch.open_store()
    for span in list_missing(len(ids), per_part, scratch):
        started = time.perf_counter()
        rows = take(span.rows)
        compute_lengths(rows, list(ids[span.rows]))
        accept(scratch, [put_vectors(store, span.name, rows, seconds=time.perf_counter() - started)])


Batch = TypeVar("Batch", torch.Tensor, np.ndarray, NativeBatch)


@dataclass(frozen=True)
class _Ended:
    """A part whose vectors are on their way to the host."""

    part: Part
    fetched: Fetched
    marks: list[Any]
    order: Int64[np.ndarray, " rows"] | None
    figures: dict[str, float]


class PartsAtWork:
    """The parts of one worker: vectors on the device, on their way to the host, and put into the store."""

    def __init__(self, transfers: Transfers, encode: Callable[..., list[torch.Tensor]]) -> None:
        """Take the way to the device and back, and what runs a model's `encode` on a batch that may be too large."""
        self.transfers, self._encode = transfers, encode
        self.count = 0  # rows of the part at hand
        self._vectors: list[torch.Tensor] = []
        self._under_way: deque[_Ended] = deque()
        self._started = time.perf_counter()
        self._marks: list[Any] = [transfers.mark()]  # start and end of each batch, behind the end of the one before it

    def add(self, encode: Callable[[Batch], torch.Tensor], batch: Batch) -> None:
        """Compute the vectors of a batch."""
        self._marks.append(self.transfers.mark())
        self._vectors += self._encode(encode, batch)
        self._marks.append(self.transfers.mark())
        self.count += len(batch)

    def end(self, part: Part, order: Int64[np.ndarray, " rows"] | None = None, **figures: float) -> Iterator[Finished]:
        """End a part, whose rows were added in some `order`; it is put when its vectors are on the host."""
        self._under_way.append(_Ended(part, self.transfers.fetch(self._vectors), self._marks, order, figures))
        self._vectors, self._marks, self.count = [], self._marks[-1:], 0
        return self.finish(self.transfers.behind)

    def finish(self, but: int = 0) -> Iterator[Finished]:
        """Put all parts that have ended, but for the last ones.

        Raises:
            DataError: a vector is NaN, infinite or zero; the rows are named.
        """
        while len(self._under_way) > but:
            ended = self._under_way.popleft()
            vectors = ended.fetched()
            if ended.order is not None:
                ordered = np.empty_like(vectors)
                ordered[ended.order] = vectors
                vectors = ordered
            compute_lengths(vectors, ended.part.ids)
            marks = ended.marks
            idle = sum(self.transfers.measure(*pair) for pair in zip(marks[::2], marks[1::2], strict=False))
            now = time.perf_counter()
            seconds, self._started = now - self._started, now
            store = ended.part.source.store
            yield put_vectors(store, ended.part.name, vectors, seconds=seconds, idle=idle, **ended.figures)


def slice_pictures(
    rows: pl.DataFrame, spans: Sequence[Span], store: PartStore, shards: Path, size: int, prompt: str | None = None
) -> Iterator[PicturePart]:
    """Iterate over the parts of pictures that are missing."""
    source = Source(store, min(size, len(rows)), shards, prompt)
    return (PicturePart(span.name, source, rows[span.rows]) for span in spans)


def slice_texts(
    texts: Sequence[str] | pl.Series,
    ids: Sequence[str] | pl.Series,
    spans: Sequence[Span],
    store: PartStore,
    size: int,
    prompt: str | None = None,
) -> Iterator[TextPart]:
    """Iterate over the parts of texts that are missing."""
    source = Source(store, min(size, len(texts)), prompt=prompt)
    return (TextPart(span.name, source, list(texts[span.rows]), list(ids[span.rows])) for span in spans)
