"""Vectors in fewer bits: codes that are made block by block, searched as they are, and can be written out.

Every form here keeps one promise: what it ranks by is an inner product of the query with vectors that it can write out
(`decode`), so that its order is found by the same exact search as that of the full vectors, and what is lost is the
form's own loss, with no approximate index in it. A code depends on its own vector and on what all share (`fit`), not on
which others stand beside it: those that an index writes in blocks are those that the stage `compress` measured.

| form | bytes of a vector | an item's score |
|---|---|---|
| `float32` | 4 d | q x |
| `float16` | 2 d | q x, with x rounded to 11 bits |
| `int8` | d | q x, with each dimension of x in 255 even steps up to its largest value in the pool |
| `binary` | d / 8, in whole words of 8 | the signs of q and x that agree |
| `rotated_bits` | d / 8 + 8 | q x', see `RotatedBits`; q stays as it is |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int, Int8, UInt64

from twinlens.core.row_sources import RowBlocks, iter_blocks

Rows = Float32[np.ndarray, "rows dim"]
Vector = Float32[np.ndarray, " dim"]
Products = Float32[np.ndarray, " items"]
Some = Int[np.ndarray, " some"] | slice  # of the items
Arrays = Mapping[str, np.ndarray]

ALL = slice(None)
CHUNK = 256  # items that are widened to float32 at a time, so that they stay in the cache: 0.5 MB of 512 dimensions
PACKED = 8_192  # items whose bits are looked at at a time


class Codes(ABC):
    """Items in one form. Its fields are the arrays that `encode` gives, and those that `fit` gives."""

    ENCODED: ClassVar[tuple[str, ...]]  # fields with one entry an item, as `encode` gives them
    SHARED: ClassVar[tuple[str, ...]] = ()  # fields that `fit` gives

    @classmethod
    def fit(cls, items: RowBlocks, mean_query: Vector | None) -> Arrays:
        """Fit what all codes share, a block of items at a time.

        Args:
            items: unit vectors.
            mean_query: of queries like those that will be asked; of use to `RotatedBits` alone.
        """
        return {}

    @classmethod
    @abstractmethod
    def encode(cls, rows: Rows, shared: Arrays) -> Arrays:
        """Encode some items by what `fit` gave."""

    @property
    @abstractmethod
    def item_bytes(self) -> float:
        """Bytes of one item; what all items share is not counted."""

    @property
    def longest(self) -> float:
        """A bound of the length of a written-out item, to bound the error of products by."""
        return 1.0

    @abstractmethod
    def products(self, query: Vector) -> Products:
        """Score all items for one query, as a search does: its order is that of `decode`, but for float32's error."""

    def prepare(self, queries: Rows) -> Rows:
        """Bring queries to what is multiplied with `decode`."""
        return queries

    @abstractmethod
    def decode(self, some: Some = ALL) -> Rows:
        """Write items out: a score is the inner product of one of these rows with a prepared query."""

    def restore(self, some: Some = ALL) -> Rows:
        """Restore the vectors of items, as far as the codes know them."""
        return self.decode(some)


@dataclass(frozen=True)
class Floats(Codes):
    """Items as floating-point numbers of 4 bytes."""

    rows: np.ndarray
    ENCODED: ClassVar = ("rows",)
    KIND: ClassVar[type] = np.float32

    @classmethod
    def encode(cls, rows: Rows, shared: Arrays) -> Arrays:
        """See `Codes`, as the others."""
        return {"rows": np.ascontiguousarray(rows, dtype=cls.KIND)}

    @property
    def item_bytes(self) -> float:
        """See `Codes`."""
        return float(self.rows.itemsize * self.rows.shape[1])

    def products(self, query: Vector) -> Products:
        """See `Codes`."""
        return multiply_in_chunks(self.rows, query)

    def decode(self, some: Some = ALL) -> Rows:
        """See `Codes`."""
        return np.asarray(self.rows[some].astype(np.float32, copy=False))


@dataclass(frozen=True)
class Halves(Floats):
    """Items as floating-point numbers of 2 bytes."""

    KIND: ClassVar[type] = np.float16


@dataclass(frozen=True)
class Int8Steps(Codes):
    """Items as whole numbers from -127 to 127, times one step for each dimension.

    The step is the dimension's largest value in the pool over 127, so that nothing is cut off, and goes over to the
    query: a product is one of the query times the steps with the whole numbers.
    """

    numbers: Int8[np.ndarray, "items dim"]
    steps: Vector
    ENCODED: ClassVar = ("numbers",)
    SHARED: ClassVar = ("steps",)

    @classmethod
    def fit(cls, items: RowBlocks, mean_query: Vector | None = None) -> Arrays:
        """See `Codes`: the largest value over 127, or 1 over 127."""
        largest = np.float32(0.0)
        for rows in iter_blocks(items):
            largest = np.maximum(largest, np.abs(rows).max(axis=0, initial=0.0))
        return {"steps": np.asarray(np.where(largest > 0, largest, 1.0) / 127.0, dtype=np.float32)}

    @classmethod
    def encode(cls, rows: Rows, shared: Arrays) -> Arrays:
        """See `Codes`."""
        return {"numbers": np.rint(rows / shared["steps"]).clip(-127, 127).astype(np.int8)}

    @property
    def item_bytes(self) -> float:
        """See `Codes`."""
        return float(self.numbers.shape[1])

    @property
    def longest(self) -> float:
        """See `Codes`: a unit vector, and half a step in each dimension."""
        return 1.0 + 0.5 * float(np.linalg.norm(self.steps))

    def products(self, query: Vector) -> Products:
        """See `Codes`."""
        return multiply_in_chunks(self.numbers, query * self.steps)

    def decode(self, some: Some = ALL) -> Rows:
        """See `Codes`."""
        return np.asarray(self.numbers[some] * self.steps)


@dataclass(frozen=True)
class Binary(Codes):
    """Items as the signs of their numbers; so are queries, and a score is the share of signs that agree, from -1 to 1.

    Signs lie in words of 64 bits; the last word is filled up with signs that always agree.
    """

    words: UInt64[np.ndarray, "items words"]
    dim: Int[np.ndarray, ""]
    ENCODED: ClassVar = ("words",)
    SHARED: ClassVar = ("dim",)

    @classmethod
    def fit(cls, items: RowBlocks, mean_query: Vector | None) -> Arrays:
        """See `Codes`."""
        return {"dim": np.array(items.shape[1])}

    @classmethod
    def encode(cls, rows: Rows, shared: Arrays) -> Arrays:
        """See `Codes`."""
        return {"words": _pack_words(rows > 0)}

    @property
    def item_bytes(self) -> float:
        """See `Codes`."""
        return 8.0 * self.words.shape[1]

    def products(self, query: Vector) -> Products:
        """See `Codes`."""
        asked, other = _pack_words(query[None] > 0), np.empty(len(self.words), dtype=np.int32)
        for start in range(0, len(other), PACKED):
            some = slice(start, start + PACKED)
            np.bitwise_count(self.words[some] ^ asked).sum(axis=1, dtype=np.int32, out=other[some])
        return (1.0 - np.float32(2.0 / int(self.dim)) * other).astype(np.float32)

    def prepare(self, queries: Rows) -> Rows:
        """See `Codes`."""
        return to_signs(queries > 0) / np.float32(np.sqrt(int(self.dim)))

    def decode(self, some: Some = ALL) -> Rows:
        """See `Codes`."""
        packed = np.ascontiguousarray(self.words[some]).view(np.uint8)
        bits = np.unpackbits(packed, axis=1, count=int(self.dim))
        return to_signs(bits > 0) / np.float32(np.sqrt(int(self.dim)))


def multiply_in_chunks(rows: np.ndarray, query: Vector) -> Products:
    """Multiply numbers of any width with a query, widened to float32 a few rows at a time."""
    if rows.dtype == np.float32:
        return np.asarray(rows @ query)
    products = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK].astype(np.float32)
        np.dot(some, query, out=products[start : start + CHUNK])
    return products


def to_signs(positive: np.ndarray) -> Rows:
    """Write truths out as 1 and -1."""
    return np.where(positive, np.float32(1.0), np.float32(-1.0))


def _pack_words(positive: np.ndarray) -> np.ndarray:
    packed = np.packbits(positive, axis=1)
    return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))).view(np.uint64)
