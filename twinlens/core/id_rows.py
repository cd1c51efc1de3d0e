"""Row numbers by id, in 20 bytes an id: ids of millions of pictures are found without being in memory themselves.

An id stands for itself by two hashes of 64 bits. That two of ten million different ids agree in both has a chance of
1 in 10^24.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, Int64

AT_ONCE = 2**16  # ids in memory as texts
Hashes = Int64[np.ndarray, "ids 2"]
Found = Int[np.ndarray, " ids"]


def hash_id(name: str) -> tuple[int, int]:
    """Hash an id by Python's own keyed hash, so that it is the same throughout a process, and in no other."""
    return hash(name), hash(f"{name}\0")


def hash_ids(ids: Sequence[str] | pl.Series) -> Hashes:
    """Hash ids, see `hash_id`."""
    found = np.empty((len(ids), 2), dtype=np.int64)
    for start in range(0, len(ids), AT_ONCE):
        part = ids[start : start + AT_ONCE]
        names = part.to_list() if isinstance(part, pl.Series) else part
        for half, texts in enumerate((names, [f"{name}\0" for name in names])):  # as `hash_id`, many at a time
            found[start : start + AT_ONCE, half] = np.fromiter(map(hash, texts), dtype=np.int64, count=len(names))
    return found


def count_ids(*several: Sequence[str] | pl.Series) -> int:
    """Count the different ids."""
    return len(np.unique(np.concatenate([hash_ids(ids) for ids in several]), axis=0))


@dataclass(frozen=True)
class IdRows:
    """The rows in which ids stand, to be found by id; of an id that stands several times the first counts."""

    first: Int64[np.ndarray, " ids"]  # one hash of each, rising
    second: Int64[np.ndarray, " ids"]  # the other
    rows: Int[np.ndarray, " ids"]

    @classmethod
    def of(cls, parts: Iterable[Sequence[str] | pl.Series]) -> IdRows:
        """Take ids, some at a time."""
        return cls.of_hashes([hash_ids(part) for part in parts])

    @classmethod
    def of_hashes(cls, parts: Sequence[Hashes]) -> IdRows:
        """Take the hashes of ids."""
        hashes = np.concatenate([np.zeros((0, 2), dtype=np.int64), *parts])
        kind = np.int32 if len(hashes) < 2**31 else np.int64
        order = np.lexsort((hashes[:, 1], hashes[:, 0])).astype(kind)  # rows of one id stay in their order
        return cls(hashes[order, 0], hashes[order, 1], order)

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, ids: Sequence[str] | pl.Series) -> Found:
        """Find the row of each id; -1 where there is none."""
        return self.find_hashes(hash_ids(ids))

    def find_hashes(self, hashes: Hashes) -> Found:
        """Find the row of each pair of hashes; -1 where there is none."""
        if not len(self):
            return np.full(len(hashes), -1, dtype=np.int64)
        place = np.searchsorted(self.first, hashes[:, 0])
        found = np.full(len(hashes), -1, dtype=np.int64)
        asking = np.arange(len(hashes))
        while len(asking):  # once, but for ids that agree in one hash
            place = np.minimum(place, len(self) - 1)
            alike = self.first[place] == hashes[asking, 0]
            right = alike & (self.second[place] == hashes[asking, 1])
            found[asking[right]] = self.rows[place[right]]
            on = alike & ~right & (place + 1 < len(self))
            asking, place = asking[on], place[on] + 1
        return found

    def find_firsts(self) -> Int[np.ndarray, " ids"]:
        """Find, for every row, the first row with its id."""
        begins = np.ones(len(self), dtype=bool)
        begins[1:] = (self.first[1:] != self.first[:-1]) | (self.second[1:] != self.second[:-1])
        found = np.empty(len(self), dtype=self.rows.dtype)
        found[self.rows] = self.rows[begins][np.cumsum(begins) - 1]
        return found

    def find_repeated(self) -> Bool[np.ndarray, " ids"]:
        """Tell, for every row, whether its id stands in another row, too."""
        firsts = self.find_firsts()
        return np.asarray(np.bincount(firsts, minlength=len(firsts))[firsts] > 1)
