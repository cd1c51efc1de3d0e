"""Retrievers and rerankers: their inputs, their outputs, and the description of their runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64, Int

from twinlens.core.costs import Cost
from twinlens.core.errors import DataError
from twinlens.core.token_matrices import TokenMatrices
from twinlens.core.vectors import Rows, Vectors
from twinlens.retrieval.scores import NOT_FINITE, Block, bound_float64_error, round_block
from twinlens.tasks.base import TaskMetadata
from twinlens.tasks.inputs import GENERATED


class Scorer(Protocol):
    """Score source: scores of the queries of a task with all of its items, a block of queries at a time."""

    def __len__(self) -> int:
        """Number of queries."""
        ...

    def block(self, start: int, stop: int) -> Block:
        """Scores of the queries from `start` to before `stop` with all items."""
        ...


@runtime_checkable
class Divisible(Scorer, Protocol):
    """Scorer whose score of a pair is the same whatever other items there are: a pool of any size is read in blocks."""

    def restrict(self, first: int, last: int) -> Scorer:
        """Scorer of the same queries, of the items from `first` to before `last` alone."""
        ...


@dataclass(frozen=True)
class Dense:
    """Scores of a pair of vectors: inner products, see `scores`. It is searched without blocks too."""

    queries: Rows
    items: Rows

    def __len__(self) -> int:
        return len(self.queries)

    def block(self, start: int, stop: int) -> Block:
        """See `Scorer.block`."""
        asked, (items, longest) = np.asarray(self.queries[start:stop], dtype=np.float64), self._wide
        error = bound_float64_error(items.shape[1], longest * _measure_longest(asked))
        return round_block(asked @ items.T, error, asked, items)

    def restrict(self, first: int, last: int) -> Dense:
        """See `Divisible.restrict`; the items are read."""
        return Dense(self.queries, np.asarray(self.items[first:last]))

    @cached_property
    def _wide(self) -> tuple[Float64[np.ndarray, "items dim"], float]:
        """The items, and the length of the longest."""
        wide = np.asarray(self.items, dtype=np.float64)
        return wide, _measure_longest(wide)


def _measure_longest(rows: Float64[np.ndarray, "rows dim"]) -> float:
    longest = float(np.sqrt(np.einsum("rd,rd->r", rows, rows).max(initial=0.0)))
    if not np.isfinite(longest):
        raise DataError(NOT_FINITE.format("vectors"))
    return longest


@dataclass(frozen=True)
class Validation:
    """Validation captions and pictures outside the pool, on which a weight may be chosen."""

    pixels: Dense  # captions and pictures
    texts: Mapping[str, pl.DataFrame]  # CAPTIONS, and GENERATED where there is a captioner
    image_ids: list[str]


@dataclass(frozen=True)
class Corpus:
    """Searchable content of a model: vectors and texts by the names of their inputs."""

    vectors: Mapping[str, Vectors]
    texts: Mapping[str, pl.DataFrame]  # `id`, `image_id`, `text`
    joint: bool  # whether pictures and words share one space
    validation: Validation | None = None
    shards: Path | None = None  # where pictures lie, for who reads them once more
    pictures: pl.DataFrame | None = None  # `image_id`, `shard`, `row`, `sha256` of the pool
    cost: Cost = field(default_factory=Cost)  # where the seconds of making something to search are noted
    tokens: Mapping[str, TokenMatrices] = field(default_factory=dict)  # by input, of models that have such
    keep: bool = True  # whether scores that take a model are kept and found again; a clock has them made each time


@dataclass(frozen=True)
class Retriever:
    """One way to search, named by what a picture is fed as. Everything that is told of its run stands here."""

    name: str
    make: Callable[[], Scorer]  # called when it is searched
    inputs: tuple[str, ...]  # what an item is fed as, as names of inputs
    costs: tuple[str, ...]  # parts of the stages' records that it takes to put one more picture into the index
    zero_is_miss: bool = False  # whether an item with score 0 was not found, and only fills up the list
    untrained_of: str | None = None  # the retriever that this one is by the model before training; None: it is none
    draws: tuple[Callable[[], Scorer], ...] = ()  # further draws of what is drawn at random in it
    group: str = ""  # those of one group are searched side by side, as they share what they score by; empty: alone
    published: bool = False  # whether it belongs to the protocol of a source, beside the task
    asks: tuple[str, ...] = ()  # what a query is fed as, as names of inputs; empty: what `list_asked` says
    fitted: bool = False  # whether `make` computes something for every query that a search would have to

    def told(self, scorer: Scorer) -> dict[str, Any]:
        """Meaning of a run, for its readers."""
        return {
            "inputs": list(self.inputs),
            "costs": list(self.costs),
            "zero_is_miss": self.zero_is_miss,
            "before_training": self.untrained_of is not None,  # which may well know nothing
            "untrained_of": self.untrained_of,
            "draws": 1 + len(self.draws),
            "chosen": getattr(scorer, "chosen", {}),
        }


class Reranker(Protocol):
    """Second-stage ranker: scores the best items of a run anew."""

    name: str  # its run is called `<retriever>_<name>`
    retriever: str  # whose best items it takes
    inputs: tuple[str, ...]
    costs: tuple[str, ...]
    loads: bool  # whether it loads a model of its own

    def scores(
        self, first: int, rows: Int[np.ndarray, "queries depth"], scores: Float32[np.ndarray, "queries depth"]
    ) -> Float32[np.ndarray, "queries depth"]:
        """New scores of the items in `rows`, which the queries from `first` on found with `scores`."""
        ...


def list_asked(about: TaskMetadata, retriever: Retriever) -> tuple[str, ...]:
    """List what a query is fed as, as names of inputs: its text, or of a picture what pictures are fed as."""
    if retriever.asks:
        return retriever.asks
    if about.category in ("i2i", "i2t"):
        return retriever.inputs
    return tuple(name for name in (about.query_text, about.query_picture) if name is not None)


def costs_of(inputs: tuple[str, ...]) -> tuple[str, ...]:
    """The parts of the stages' records that inputs of pictures cost: to be made, and to be embedded."""
    made = {GENERATED: ("caption_caption",)}
    return tuple(part for name in inputs for part in (*made.get(name, ()), f"embed_{name}"))
