"""Faults of vectors and scores, for the sanity gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Float64, Int

from twinlens.config.gates import Gates
from twinlens.core.probes import Probe
from twinlens.core.row_sources import Matrix, Rows, split_rows
from twinlens.core.vectors import UNIT, measure_lengths

CELLS = 2**20  # numbers of tied vectors in memory at once: a constant scorer ties everywhere
SAME = 1e-6  # equal texts in batches of other lengths differ by so much in a coordinate


def detect_not_finite(rows: Rows, ids: Sequence[str], source: str) -> str | None:
    """Find NaN or infinity in a vector."""
    bad = [start + np.flatnonzero(~np.isfinite(block).all(axis=1)) for start, block in _blocks(rows)]
    return _named(np.concatenate(bad), ids, f"{source}: %d of {len(rows):,} vectors are NaN or infinite")


def detect_not_unit(rows: Rows, ids: Sequence[str], source: str) -> str | None:
    """Find rows that are not of unit length: inner products are then no cosines (NaN is `detect_not_finite`'s)."""
    lengths = measure_lengths(rows)
    bad = np.flatnonzero(np.abs(lengths - 1.0) >= UNIT)
    first = f", the first {lengths[bad[0]]:.4g}" if len(bad) else ""
    return _named(bad, ids, f"{source}: %d of {len(rows):,} vectors are not of unit length{first}")


def detect_repeated(rows: Rows, contents: int, source: str, max_share: float) -> str | None:
    """Find the same vector for different pictures or texts.

    Args:
        rows: of one source.
        contents: how many different pictures or texts they are of.
        source: its name.
        max_share: of the contents, whose vector may be another's too.
    """
    keys, spread = np.empty(len(rows), dtype=np.int64), 1.0
    low, high = np.full(rows.shape[1], np.inf), np.full(rows.shape[1], -np.inf)
    for start, block in _blocks(rows):  # of ten million the numbers themselves would not fit; 64 bits tell them apart
        rounded = np.round(block, 5) + 0.0  # no -0
        keys[start : start + len(block)] = [hash(row.tobytes()) for row in rounded]
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        spread = float((high - low).max())
    distinct = len(np.unique(keys))
    if contents > 1 and (distinct == 1 or spread < 1e-6):
        return f"{source}: all vectors are the same, of {contents:,} different inputs: the model has collapsed"
    if (contents - distinct) > max_share * contents:
        return (
            f"{source}: {contents:,} different inputs have only {distinct:,} different vectors: "
            "what tells them apart is cut off or not read"
        )
    return None


@dataclass
class Ties:
    """Counter of queries whose scores cannot tell items apart, though their vectors differ; fed block by block."""

    queries: int = 0
    constant: int = 0  # all items have one score
    unexplained: int = 0  # neighbours in the list have equal scores and different vectors

    def add(
        self,
        scores: Float32[np.ndarray, "queries depth"],
        rows: Int[np.ndarray, "queries depth"],
        items: Rows | None,
    ) -> None:
        """Count a block of lists, best first; without vectors (words, ranks) equal scores may be right."""
        self.queries += len(scores)
        if scores.shape[1] < 2:
            return
        self.constant += int((scores[:, 0] == scores[:, -1]).sum())
        if items is None:
            return
        queries, ranks = np.nonzero(np.diff(scores, axis=1) == 0)
        apart, step = np.zeros(len(queries), dtype=bool), max(1, CELLS // items.shape[1])
        for start in range(0, len(queries), step):
            tie = queries[start : start + step], ranks[start : start + step]
            above, below = items[rows[tie]], items[rows[tie[0], tie[1] + 1]]
            apart[start : start + step] = (np.abs(above - below) > SAME).any(axis=1)
        self.unexplained += len(np.unique(queries[apart]))

    def trouble(self, run: str, max_share: float) -> str | None:
        """Whether too many queries are concerned.

        Args:
            run: task and retriever, for the message.
            max_share: of the queries.
        """
        if self.constant > max_share * self.queries:
            return (
                f"{run}: for {self.constant:,} of {self.queries:,} queries all items have one score: a constant scorer"
            )
        if self.unexplained > max_share * self.queries:
            return (
                f"{run}: for {self.unexplained:,} of {self.queries:,} queries items with different vectors have equal "
                "scores, so that the order of the pool decides: were the vectors rounded?"
            )
        return None


class StoredVectors(Protocol):
    """Stored vectors of one source."""

    @property
    def ids(self) -> list[str]:
        """Ids, one per row."""
        ...

    @property
    def rows(self) -> Rows:
        """Unit vectors."""
        ...


def check_probe(gates: Gates, name: str, probe: Probe, sources: Mapping[str, StoredVectors]) -> None:
    """Hold the stored vectors of a source against its probes.

    Args:
        gates: what to do about trouble.
        name: the source.
        probe: its inputs embedded anew.
        sources: the stored vectors of all sources.

    Raises:
        DataError: a gate that is an error found trouble.
    """
    mine = sources[name]
    row_of = {own: row for row, own in enumerate(mine.ids)}
    if lacking := [own for own in probe.ids if own not in row_of]:
        gates.check("row_order", f"{name}: no vector has the id {lacking[0]}, which was embedded")
        return
    stored = np.asarray(mine.rows[[row_of[own] for own in probe.ids]])
    fits = stored.shape[1] == probe.alone.shape[1]
    wrong = (
        np.flatnonzero(compute_cosines(stored, probe.alone) < 1 - probe.tolerance)
        if fits
        else np.arange(len(probe.ids))
    )
    if len(wrong):
        gate, trouble = _diagnose(name, probe, wrong, sources, row_of)
        gates.check(gate, trouble)
    if len(probe.beside):
        moved = np.flatnonzero(compute_cosines(probe.alone, probe.beside) < 1 - probe.tolerance)
        if len(moved):
            gates.check("text_input", f"{name}: {_share(moved, probe)} change beside a longer one: padding is read")
    if probe.last_word < 1e-9:  # NaN is not less
        gates.check(
            "text_input",
            f"{name}: the last word of a text that should fit changes nothing: it is cut off before its end",
        )


def _diagnose(
    name: str,
    probe: Probe,
    wrong: Int[np.ndarray, " wrong"],
    sources: Mapping[str, StoredVectors],
    row_of: dict[str, int],
) -> tuple[str, str]:
    """Diagnose the gate and the reason: the vector stands at another row, in another source, or nowhere."""
    vector = probe.alone[wrong[0]][None]
    for other in sorted(sources, key=lambda source: source != name):  # its own first
        rows = sources[other].rows
        if rows.shape[1] != vector.shape[1]:
            continue
        nearest = int(np.argmax(np.concatenate([block @ vector[0] for _, block in _blocks(rows)])))
        if compute_cosines(np.asarray(rows[nearest : nearest + 1]), vector)[0] < 1 - probe.tolerance:
            continue
        own = probe.ids[wrong[0]]
        if other == name:
            moved = nearest - row_of[own]
            return "row_order", f"{name}: the vector of {own} stands {moved:+d} rows from its id: rows are shifted"
        return "towers_swapped", f"{name}: the vector of {own} is among those of {other}: the two were exchanged"
    if len(probe.beside):
        return "text_input", f"{name}: {_share(wrong, probe)} are not what they are in a batch: padding is read"
    return "row_order", f"{name}: {_share(wrong, probe)} are not what is stored: was the model in training mode?"


def _share(rows: Int[np.ndarray, " wrong"], probe: Probe) -> str:
    return f"{len(rows)} of {len(probe.ids)} inputs embedded alone, {probe.ids[rows[0]]} for instance,"


def _blocks(rows: Rows) -> Iterator[tuple[int, Matrix]]:
    return ((start, rows[start:stop]) for start, stop in split_rows(rows))


def _named(bad: Int[np.ndarray, " bad"], ids: Sequence[str], message: str) -> str | None:
    if not len(bad):
        return None
    return f"{message % len(bad)}: {', '.join(ids[row] for row in bad[:5])}"


def compute_cosines(left: Matrix, right: Matrix) -> Float64[np.ndarray, " rows"]:
    """Compute the cosine of each pair of rows."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)
