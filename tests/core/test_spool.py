"""Spools: what was put in comes out, whether it lies in memory or on disk."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from twinlens.core import spool
from twinlens.core.spool import Spool, number_parts, take_parts
from twinlens.datasets.annotations import RawImage


class Pair(NamedTuple):
    name: str
    texts: list[str]


LONE = "caf\udce9"  # bytes that were no UTF-8
ROWS: dict[Any, list[Any]] = {
    tuple: [("a", 1), ("b", 2.5), (LONE, None), ("d", True), ("e", ("x", "y"))],
    RawImage: [RawImage(f"{n}", LONE, "test", ("cat",) * n) for n in range(5)],
    Pair: [Pair(f"{n}", ["one", LONE][:n]) for n in range(5)],
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
def test_rows_come_out_as_they_went_in(kind: Any, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "ROWS", at_once)
    rows = ROWS[kind]
    held = Spool(kind, rows[:2])
    held += rows[2:4]
    held.append(rows[4])
    assert list(held) == rows
    assert held == rows
    assert held != rows[:4]
    assert all(type(one) is kind for one in held)
    assert [held[row] for row in (0, 4, -1, -5, 2)] == [rows[row] for row in (0, 4, -1, -5, 2)]
    assert held[1:4] == rows[1:4]
    assert held[::-2] == rows[::-2]
    assert next((start, list(part)) for start, part in number_parts(held)) == (0, rows[:at_once])
    assert [row for _, part in number_parts(rows) for row in part] == rows
    assert [row for part in take_parts(iter(rows)) for row in part] == rows
    with pytest.raises(IndexError, match="row 5 is asked for of 5"):
        held[5]


def test_rows_are_read_while_others_are_added_and_two_readers_do_not_disturb_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spool, "ROWS", 2)
    held = Spool(tuple, [(n,) for n in range(6)])
    assert [(one, held[5 - one[0]]) for one in held] == [((n,), (5 - n,)) for n in range(6)]
    assert list(zip(held, held, strict=True)) == [((n,), (n,)) for n in range(6)]
    reading = iter(held)
    next(reading)
    held.append((6,))
    assert len(list(held)) == 7
    assert list(Spool(tuple)) == []
