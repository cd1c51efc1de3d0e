"""Spools: lists of rows that lie on disk but for the newest, so that millions of rows take no memory."""

from __future__ import annotations

import marshal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from operator import attrgetter
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")

ROWS = 8192  # in memory: those that a part of the file has


class Spool(Sequence[T], Generic[T]):
    """List of rows that is appended to and read, in order or by number, and lies in an unnamed temporary file.

    Args:
        kind: of the rows: a named tuple or dataclass without other members than texts, numbers, truths and tuples or
            lists of these; or `tuple`, of the same.
        rows: the first ones.

    >>> spool = Spool(tuple, [("a", 1), ("b", 2)])
    >>> spool.append(("c", 3))
    >>> len(spool), spool[-1], list(spool)[:2]
    (3, ('c', 3), [('a', 1), ('b', 2)])
    """

    def __init__(self, kind: type[T], rows: Iterable[T] = ()) -> None:
        self._newest: list[T] = []
        self._parts: list[int] = []  # where each part begins in the file; all have ROWS rows
        self._file: Any = None  # made when it is needed
        self._pack, self._unpack = _choose_packing(kind)
        self._read: tuple[int, list[T]] = (-1, [])  # the part that was read by number last
        self.extend(rows)

    def append(self, row: T) -> None:
        """Add a row."""
        self._newest.append(row)
        if len(self._newest) == ROWS:
            self._flush()

    def extend(self, rows: Iterable[T]) -> None:
        """Add rows."""
        for row in rows:
            self._newest.append(row)
            if len(self._newest) == ROWS:
                self._flush()

    def __iadd__(self, rows: Iterable[T]) -> Spool[T]:
        self.extend(rows)
        return self

    def _flush(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # ends with this object
        self._parts.append(self._file.seek(0, 2))
        self._file.write(marshal.dumps(list(map(self._pack, self._newest)) if self._pack else self._newest))
        self._file.flush()
        self._newest = []

    def _load(self, part: int) -> list[T]:
        self._file.seek(self._parts[part])
        rows: list[Any] = marshal.load(self._file)
        return list(map(self._unpack, rows)) if self._unpack else rows

    def parts(self) -> Iterator[list[T]]:
        """Iterate over the rows, some thousands at a time."""
        for part in range(len(self._parts)):
            yield self._load(part)
        if self._newest:
            yield list(self._newest)

    def __iter__(self) -> Iterator[T]:
        for part in self.parts():
            yield from part

    def __len__(self) -> int:
        return len(self._parts) * ROWS + len(self._newest)

    @overload
    def __getitem__(self, asked: int) -> T: ...

    @overload
    def __getitem__(self, asked: slice) -> list[T]: ...

    def __getitem__(self, asked: int | slice) -> T | list[T]:
        if isinstance(asked, slice):
            return [self[row] for row in range(*asked.indices(len(self)))]
        row = asked + len(self) if asked < 0 else asked
        if not 0 <= row < len(self):
            raise IndexError(f"row {asked} is asked for of {len(self)}")
        part, place = divmod(row, ROWS)
        if part == len(self._parts):
            return self._newest[place]
        if self._read[0] != part:
            self._read = part, self._load(part)
        return self._read[1][place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_are_equal, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Spool({self[:3]!r}{', ...' if len(self) > 3 else ''})"


def _choose_packing(kind: Any) -> tuple[Callable[[Any], Any] | None, Callable[[Any], Any] | None]:
    """What makes plain tuples of rows and rows of plain tuples; None where rows are such."""
    if kind is tuple:
        return None, None
    if issubclass(kind, tuple):
        return tuple, kind._make
    names = [field.name for field in fields(kind)]
    return attrgetter(*names), lambda row: kind(*row)


def _are_equal(one: Any, other: Any) -> bool:
    return bool(one == other)


def iter_parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Iterate over the rows of a spool, or of another sequence, some thousands at a time."""
    if isinstance(rows, Spool):
        yield from rows.parts()
        return
    for start in range(0, len(rows), ROWS):
        yield rows[start : start + ROWS]


def take_parts(rows: Iterable[T]) -> Iterator[list[T]]:
    """Take rows as they come, some thousands at a time."""
    left = iter(rows)
    while part := list(islice(left, ROWS)):
        yield part


def number_parts(rows: Sequence[T]) -> Iterator[tuple[int, Sequence[T]]]:
    """The same, each part with the number of its first row."""
    start = 0
    for part in iter_parts(rows):
        yield start, part
        start += len(part)
