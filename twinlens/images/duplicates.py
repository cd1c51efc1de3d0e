"""Duplicate detection: exact copies, near copies, and copies on both sides of training and evaluation.

Near copies are pictures whose perceptual hashes (256 bits, the low frequencies of the picture: bit for bit
the `phash` of the library imagehash) differ in few bits. On 600 COCO photos a recompressed or halved copy
differs in at most 6 bits, a brighter one in 10 (median), and no two different photos in fewer than 88; of 1,500
drawn scenes, which share their backgrounds, the nearest two differ in 18. A crop is another picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Int, UInt8, UInt64
from PIL import Image

BITS = 256
WORDS = BITS // 64
HASHED_PX = 64  # the side of the square that the hash is made of: four times that of its 16 x 16 bits

Drop = Literal["none", "leaks", "exact", "near"]
EVALUATED = ("val", "test")


@dataclass(frozen=True)
class Duplicates:
    """The duplicates found: one row per copy, and what is to be dropped."""

    table: pl.DataFrame  # table DUPLICATES
    dropped: set[str]

    def counts(self) -> dict[str, int]:
        """Figures for the dataset's card."""
        return {
            "exact": int((self.table["kind"] == "exact").sum()),
            "near": int((self.table["kind"] == "near").sum()),
            "leaks": int(self.table["leak"].sum()),
            "dropped": len(self.dropped),
        }


def compute_perceptual_hash(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Compute the 256 bits of a picture, as 32 bytes; quickest when it was brought to HASHED_PX squared before."""
    from scipy.fft import dct  # takes half a second, and only `resize` needs it

    grey = Image.fromarray(picture).convert("L").resize((HASHED_PX, HASHED_PX), Image.Resampling.LANCZOS)
    side = int(BITS**0.5)
    low = dct(dct(np.asarray(grey), axis=0), axis=1)[:side, :side]
    return np.packbits(low > np.median(low)).tobytes()


def find_duplicates(
    images: pl.DataFrame, index: pl.DataFrame, hashes: pl.DataFrame, near_bits: int | None, drop: Drop
) -> Duplicates:
    """Find copies among all usable pictures of a dataset, whichever split they are in.

    Args:
        images: `image_id`, `split`.
        index: `image_id`, `sha256`, in the dataset's order.
        hashes: `image_id`, `perceptual_hash`, in the same order.
        near_bits: two pictures are near copies when at most so many bits differ; None: not looked for.
        drop: `leaks`: pictures of train of which val or test hold a copy; `exact`, `near`: also all but
            one of each set of copies. The one that stays is of test, else of val, else the earliest.
    """
    rows = index.select("image_id", "sha256").join(
        images.select("image_id", "split"), on="image_id", maintain_order="left"
    )
    splits, digests = rows["split"].to_list(), rows["sha256"].to_list()
    pairs = [(later, earlier, 0, True) for later, earlier in _same(digests)]
    if near_bits is not None:
        words = np.frombuffer(b"".join(hashes["perceptual_hash"].to_list()), dtype=np.uint64).reshape(-1, WORDS)
        exact = {later for later, *_ in pairs}
        pairs += [(a, b, bits, False) for a, b, bits in find_near_pairs(words, near_bits) if a not in exact]
    clusters = _clusters(len(rows), [(a, b) for a, b, *_ in pairs])
    sides: dict[int, set[bool]] = {}
    for row, cluster in clusters.items():
        sides.setdefault(cluster, set()).add(splits[row] in EVALUATED)
    leaking = {row for row, cluster in clusters.items() if len(sides[cluster]) == 2}
    gone: set[int] = set()
    if drop != "none":
        gone = {row for row in leaking if splits[row] not in EVALUATED}
    if drop in ("exact", "near"):
        gone |= _spare(len(rows), [(a, b) for a, b, _, same in pairs if same or drop == "near"], splits)
    ids = rows["image_id"].to_list()
    table = [
        (
            ids[a],
            ids[b],
            "exact" if same else "near",
            bits,
            splits[a],
            splits[b],
            a in leaking,
            next((ids[row] for row in (a, b) if row in gone), None),
        )
        for a, b, bits, same in sorted(pairs)
    ]
    return Duplicates(pl.DataFrame(table, schema=_COLUMNS, orient="row"), {ids[row] for row in gone})


_COLUMNS = {
    "image_id": pl.String,
    "other_id": pl.String,
    "kind": pl.String,
    "bits": pl.Int32,
    "split": pl.String,
    "other_split": pl.String,
    "leak": pl.Boolean,
    "dropped": pl.String,
}


def _same(keys: list[str]) -> Iterator[tuple[int, int]]:
    """Find the row of each repeated key, and the first row that has the key."""
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        if first.setdefault(key, row) != row:
            yield row, first[key]


def find_near_pairs(words: UInt64[np.ndarray, "images words"], bits: int) -> list[tuple[int, int, int]]:
    """Find all pairs of hashes that differ in at most `bits`, as (later row, earlier row, bits).

    Of several rows with the same hash only the first is compared with other hashes; the rest are
    paired with it. Exact: two hashes that differ in at most b bits agree in one of b + 1 bands of
    their bits, so only hashes that agree in a band are compared. Time grows with the number of
    such chance agreements, memory with the number of images.
    """
    unique, first, inverse = np.unique(words, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    pairs = [(row, int(first[of]), 0) for row, of in enumerate(inverse.tolist()) if first[of] != row]
    unpacked = np.unpackbits(np.ascontiguousarray(unique).view(np.uint8), axis=1)  # (unique, BITS)
    found: set[tuple[int, int]] = set()
    for band in np.array_split(np.arange(unpacked.shape[1]), bits + 1):
        for a, b in _agreeing(np.packbits(unpacked[:, band], axis=1)):
            close = np.flatnonzero(_distance(unique[a], unique[b]) <= bits)
            found.update(zip(a[close].tolist(), b[close].tolist(), strict=True))
    for a_row, b_row in found:
        later, earlier = sorted((int(first[a_row]), int(first[b_row])), reverse=True)
        pairs.append((later, earlier, int(_distance(unique[a_row : a_row + 1], unique[b_row : b_row + 1])[0])))
    return sorted(pairs)


Rows = Int[np.ndarray, " pairs"]


def _agreeing(keys: UInt8[np.ndarray, "hashes bytes"]) -> Iterator[tuple[Rows, Rows]]:
    """Rows whose keys are the same, in portions of one pair a row: the next of its kind, the one after that, ..."""
    _, codes = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(codes.reshape(-1), kind="stable")
    codes = codes.reshape(-1)[order]
    here, step = np.arange(len(order)), 1
    while len(here := here[here + step < len(order)]):
        here = here[codes[here] == codes[here + step]]  # who has no partner at this step has none further on
        if len(here):
            yield order[here], order[here + step]
        step += 1


def _distance(a: UInt64[np.ndarray, "pairs words"], b: UInt64[np.ndarray, "pairs words"]) -> Int[np.ndarray, " pairs"]:
    return np.bitwise_count(a ^ b).sum(axis=1, dtype=np.int64)


def _clusters(count: int, pairs: list[tuple[int, int]]) -> dict[int, int]:
    """The cluster (its first row) of every row that is in a pair: rows linked by pairs, directly or not."""
    parent = dict[int, int]()

    def root(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = row = parent[parent[row]]
        return row

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {row: root(row) for row in range(count) if row in parent}


def _spare(count: int, pairs: list[tuple[int, int]], splits: list[str]) -> set[int]:
    """All rows but one of each cluster."""
    members: dict[int, list[int]] = {}
    for row, cluster in _clusters(count, pairs).items():
        members.setdefault(cluster, []).append(row)
    rank = {"test": 0, "val": 1}
    keepers = {min(rows, key=lambda row: (rank.get(splits[row], 2), row)) for rows in members.values()}
    return {row for rows in members.values() for row in rows} - keepers
