"""Duplicate detection: exact copies, near copies, and copies on both sides of training and evaluation.

Near copies are pictures whose perceptual hashes (256 bits, the low frequencies of the picture: bit for bit
the `phash` of the library imagehash) differ in few bits. On 600 COCO photos a recompressed or halved copy
differs in at most 6 bits, a brighter one in 10 (median), and no two different photos in fewer than 88; of 1,500
drawn scenes, which share their backgrounds, the nearest two differ in 18. A crop is another picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Int, UInt8, UInt64
from PIL import Image

from twinlens.core.id_rows import IdRows
from twinlens.core.stored_tables import Table, iter_slices

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


def find_duplicates(images: Table, index: Table, hashes: Table, near_bits: int | None, drop: Drop) -> Duplicates:
    """Find copies among all usable pictures of a dataset, whichever split they are in.

    Args:
        images: `image_id`, `split`.
        index: `image_id`, `sha256`, in the dataset's order.
        hashes: `image_id`, `perceptual_hash`, in the same order.
        near_bits: two pictures are near copies when at most so many bits differ; None: not looked for.
        drop: `leaks`: pictures of train of which val or test hold a copy; `exact`, `near`: also all but
            one of each set of copies. The one that stays is of test, else of val, else the earliest.
    """
    first = IdRows.of(part["sha256"] for part in iter_slices(index, ("sha256",))).find_firsts()
    exact = first != np.arange(len(first))
    later = np.flatnonzero(exact)
    pairs = [(a, b, 0, True) for a, b in zip(later.tolist(), first[later].tolist(), strict=True)]
    if near_bits is not None:
        words, start = np.empty((len(hashes), WORDS), dtype=np.uint64), 0
        for part in iter_slices(hashes, ("perceptual_hash",)):
            words[start : start + len(part)] = read_words(part["perceptual_hash"])
            start += len(part)
        near = find_near_pairs(words, near_bits)
        pairs += [(a, b, bits, False) for a, b, bits in near[~exact[near[:, 0]]].tolist()]
    involved = sorted({row for a, b, *_ in pairs for row in (a, b)})
    ids = dict(zip(involved, _gather_ids(index, np.array(involved, dtype=np.int64)), strict=True))
    split_of = _find_splits(images, list(ids.values()))
    splits = {row: split_of[image_id] for row, image_id in ids.items()}
    clusters = _clusters([(a, b) for a, b, *_ in pairs])
    sides: dict[int, set[bool]] = {}
    for row, cluster in clusters.items():
        sides.setdefault(cluster, set()).add(splits[row] in EVALUATED)
    leaking = {row for row, cluster in clusters.items() if len(sides[cluster]) == 2}
    gone: set[int] = set()
    if drop != "none":
        gone = {row for row in leaking if splits[row] not in EVALUATED}
    if drop in ("exact", "near"):
        gone |= _spare([(a, b) for a, b, _, same in pairs if same or drop == "near"], splits)
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


def _gather_ids(index: Table, rows: Int[np.ndarray, " involved"]) -> list[str]:
    """The ids of some rows, rising."""
    found: list[str] = []
    start = 0
    for part in iter_slices(index, ("image_id",)):
        low, high = np.searchsorted(rows, [start, start + len(part)])
        found += part["image_id"].gather(rows[low:high] - start).to_list()
        start += len(part)
    return found


def _find_splits(images: Table, ids: list[str]) -> dict[str, str]:
    """The split of each of some pictures."""
    wanted, found = pl.Series(ids, dtype=pl.String).implode(), dict[str, str]()
    for part in iter_slices(images, ("image_id", "split")) if ids else ():
        found |= dict(part.filter(pl.col("image_id").is_in(wanted)).iter_rows())
    return found


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


def read_words(hashes: pl.Series) -> UInt64[np.ndarray, "images words"]:
    """Read perceptual hashes, 32 bytes each, as the numbers that are compared."""
    stored = hashes.to_arrow().cast(pa.binary(BITS // 8))
    buffer = stored.buffers()[1]
    words = np.frombuffer(b"" if buffer is None else buffer, dtype=np.uint64)
    return words.reshape(-1, WORDS)[stored.offset : stored.offset + len(stored)]


def find_near_pairs(words: UInt64[np.ndarray, "images words"], bits: int) -> Int[np.ndarray, "pairs 3"]:
    """Find all pairs of hashes that differ in at most `bits`, as (later row, earlier row, bits), in this order.

    Of several rows with the same hash only the first is compared with other hashes; the rest are paired with it.
    Exact: of `bits + r` bands of a hash, `r` at least are the same in both of such a pair. Bands are dealt into `r - 1`
    hands, so that two of the `r` are of one hand; only hashes that agree in two bands of a hand are compared. Many
    bands make many sorts, few bands many chance agreements: at half as many more than `bits` both take about the same
    time for ten million pictures. Memory is that of the hashes and about three numbers for each; time grows with the
    pictures and, slowly, with the number of chance agreements.
    """
    rows, first = _find_firsts(words)
    later = np.flatnonzero(first != np.arange(len(words)))
    found = [np.stack([later, first[later], np.zeros(len(later), dtype=np.int64)], axis=1)]
    unique = words if len(rows) == len(words) else words[rows]
    if bits > 0 and len(unique) > 1:
        found += [np.stack([rows[b], rows[a], apart], axis=1) for a, b, apart in _compare(unique, bits)]
    pairs = np.concatenate(found)
    pairs[:, :2] = np.stack([pairs[:, :2].max(axis=1), pairs[:, :2].min(axis=1)], axis=1)
    return pairs[np.lexsort(pairs.T[::-1])]


Rows = Int[np.ndarray, " pairs"]
AT_ONCE = 2**20  # pairs that are compared


def _find_firsts(
    words: UInt64[np.ndarray, "images words"],
) -> tuple[Int[np.ndarray, " unique"], Int[np.ndarray, " images"]]:
    """Rows with the first of each hash, rising, and of every row the first one with the same hash."""
    order = np.lexsort(words.T)
    begins = np.ones(len(words), dtype=bool)
    for start in range(1, len(words), AT_ONCE):
        here, before = order[start : start + AT_ONCE], order[start - 1 : start - 1 + AT_ONCE]
        begins[start : start + AT_ONCE] = (words[here] != words[before[: len(here)]]).any(axis=1)
    first = np.empty(len(words), dtype=np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]  # the sort is stable
    return np.sort(order[begins]), first


def _compare(
    unique: UInt64[np.ndarray, "hashes words"], bits: int
) -> Iterator[tuple[Rows, Rows, Int[np.ndarray, " pairs"]]]:
    """Hashes that differ in at most `bits`, each pair once: rows of both, and the bits."""
    agreeing = max(2, bits // 2)
    edges = np.linspace(0, BITS, bits + agreeing + 1).astype(int)
    row_bits = len(unique).bit_length()
    widest = (64 - row_bits) // 2  # so that the key and the row are one number, which is sorted faster than by an order
    bands = [(int(low), min(int(high - low), widest)) for low, high in pairwise(edges)]
    keys = [
        (one, other)
        for one in range(len(bands))
        for other in range(one + 1, len(bands))
        if one % (agreeing - 1) == other % (agreeing - 1)  # of one hand
    ]
    outer = np.ascontiguousarray(unique[:, 0])  # which rules out nearly all chance agreements
    for number, (one, other) in enumerate(keys):
        packed = _read_band(unique, *bands[one]) << np.uint64(bands[other][1]) | _read_band(unique, *bands[other])
        packed = packed << np.uint64(row_bits) | np.arange(len(unique), dtype=np.uint64)
        packed.sort()
        for left, right in _agreeing(packed, row_bits):
            likely = np.flatnonzero(np.bitwise_count(outer[left] ^ outer[right]) <= bits)
            different = unique[left[likely]] ^ unique[right[likely]]
            apart = np.bitwise_count(different).sum(axis=1, dtype=np.int64)
            near = np.flatnonzero(apart <= bits)
            same = [_read_band(different[near], *band) == 0 for band in bands]
            seen = np.zeros(len(near), dtype=bool)  # by a key before this one
            for i, j in keys[:number] if len(near) else ():
                seen |= same[i] & same[j]
            chosen = near[~seen]
            if len(chosen):
                yield left[likely[chosen]], right[likely[chosen]], apart[chosen]


def _read_band(words: UInt64[np.ndarray, "hashes words"], low: int, width: int) -> UInt64[np.ndarray, " hashes"]:
    """Read the `width` bits from bit `low` on, at most 64, as a number."""
    word, shift = divmod(low, 64)
    found = words[:, word] >> np.uint64(shift)
    if shift + width > 64:
        found |= words[:, word + 1] << np.uint64(64 - shift)
    return found & np.uint64(2**width - 1)


def _agreeing(packed: UInt64[np.ndarray, " hashes"], row_bits: int) -> Iterator[tuple[Rows, Rows]]:
    """Rows whose keys are the same, in portions: each with the next of its kind, with the one after that, ...

    Args:
        packed: keys with their rows behind them, rising.
        row_bits: of the rows.
    """
    keys, row = packed >> np.uint64(row_bits), np.uint64(2**row_bits - 1)
    for start in range(0, len(keys), AT_ONCE):
        here, step = np.arange(start, min(start + AT_ONCE, len(keys))), 1
        while len(here := here[: np.searchsorted(here, len(keys) - step)]):
            here = here[keys[here] == keys[here + step]]  # who has no partner at this step has none further on
            if len(here):
                yield (packed[here] & row).astype(np.int64), (packed[here + step] & row).astype(np.int64)
            step += 1


def _clusters(pairs: list[tuple[int, int]]) -> dict[int, int]:
    """The cluster (its first row) of every row that is in a pair: rows linked by pairs, directly or not."""
    parent = dict[int, int]()

    def root(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = row = parent[parent[row]]
        return row

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {row: root(row) for row in sorted(parent)}


def _spare(pairs: list[tuple[int, int]], splits: Mapping[int, str]) -> set[int]:
    """All rows but one of each cluster."""
    members: dict[int, list[int]] = {}
    for row, cluster in _clusters(pairs).items():
        members.setdefault(cluster, []).append(row)
    rank = {"test": 0, "val": 1}
    keepers = {min(rows, key=lambda row: (rank.get(splits[row], 2), row)) for rows in members.values()}
    return {row for rows in members.values() for row in rows} - keepers
