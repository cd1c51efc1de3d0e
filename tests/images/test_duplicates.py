"""Copies of pictures: which are found, which leak, which are dropped; against counting by hand."""

from __future__ import annotations

import io
import itertools
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from twinlens.core import tables
from twinlens.images.duplicates import (
    BITS,
    WORDS,
    Drop,
    Duplicates,
    compute_perceptual_hash,
    find_duplicates,
    find_near_pairs,
)
from twinlens.images.resize import hash_picture


def flipped(base: bytes, *bits: int) -> bytes:
    """A hash that differs from another in the given bits."""
    unpacked = np.unpackbits(np.frombuffer(base, dtype=np.uint8))
    unpacked[list(bits)] ^= 1
    return np.packbits(unpacked).tobytes()


RANDOM = [np.random.default_rng(n).bytes(BITS // 8) for n in range(20)]


def find(pictures: list[tuple[str, str, str, bytes]], near_bits: int | None = 8, drop: Drop = "none") -> Duplicates:
    """Pictures given as id, split, sha256 and hash."""
    ids, splits, digests, hashes = (list(column) for column in zip(*pictures, strict=True))
    return find_duplicates(
        pl.DataFrame({"image_id": ids, "split": splits}),
        pl.DataFrame({"image_id": ids, "sha256": digests}),
        pl.DataFrame({"image_id": ids, "perceptual_hash": hashes}),
        near_bits,
        drop,
    )


COPIES = [
    ("t1", "train", "s1", RANDOM[1]),
    ("t2", "train", "s2", RANDOM[2]),
    ("v1", "val", "s1", RANDOM[1]),  # the same bytes as t1
    ("x1", "test", "s3", flipped(RANDOM[2], 0, 100, 255)),  # near t2
    ("x2", "test", "s4", RANDOM[4]),
    ("x3", "test", "s5", flipped(RANDOM[4], *range(9))),  # one bit too far from x2
    ("x4", "test", "s3", flipped(RANDOM[2], 0, 100, 255)),  # the same bytes as x1
    ("t3", "train", "s6", RANDOM[6]),
    ("t4", "train", "s7", RANDOM[6]),  # the same hash, other bytes
]


def test_exact_and_near_copies_are_listed_with_the_picture_they_copy_and_whether_they_leak() -> None:
    found = find(COPIES)
    assert found.table.select("image_id", "other_id", "kind", "bits", "leak").rows() == [
        ("v1", "t1", "exact", 0, True),
        ("x1", "t2", "near", 3, True),
        ("x4", "x1", "exact", 0, True),  # of a set of copies that has a picture in train
        ("t4", "t3", "near", 0, False),
    ]
    assert found.counts() == {"exact": 2, "near": 2, "leaks": 3, "dropped": 0}
    tables.conform(found.table, tables.DUPLICATES, "duplicates")


def test_without_near_copies_only_the_same_bytes_count() -> None:
    assert find(COPIES, near_bits=None).table["image_id"].to_list() == ["v1", "x4"]


@pytest.mark.parametrize(
    ("drop", "gone"),
    [
        ("none", set()),
        ("leaks", {"t1", "t2"}),
        ("exact", {"t1", "t2", "x4"}),
        ("near", {"t1", "t2", "x4", "t4"}),
    ],
)
def test_the_picture_that_is_evaluated_stays_and_of_equals_the_earliest(drop: Drop, gone: set[str]) -> None:
    found = find(COPIES, drop=drop)
    assert found.dropped == gone
    assert set(found.table["dropped"].drop_nulls()) == gone


def test_a_clean_dataset_has_an_empty_table_that_can_be_written(tmp_path: Path) -> None:
    found = find([("a", "test", "1", RANDOM[0]), ("b", "test", "2", RANDOM[1])], drop="near")
    assert found.table.is_empty()
    assert found.dropped == set()
    tables.write_table(found.table, tmp_path / "d.parquet", tables.DUPLICATES)


def as_words(hashes: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(hashes), dtype=np.uint64).reshape(-1, WORDS)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, BITS - 1), max_size=8)), min_size=1, max_size=24),
    st.integers(0, 12),
)
def test_near_pairs_are_those_that_comparing_all_with_all_finds(chosen: list[tuple[int, set[int]]], bits: int) -> None:
    hashes = [flipped(RANDOM[n], *sorted(flips)) for n, flips in chosen]
    first = {hash_: row for row, hash_ in reversed(list(enumerate(hashes)))}
    expected = set()
    for a, b in itertools.combinations(range(len(hashes)), 2):
        apart = bin(int.from_bytes(hashes[a], "big") ^ int.from_bytes(hashes[b], "big")).count("1")
        if apart == 0 and first[hashes[b]] == a:
            expected.add((b, a, 0))
        elif 0 < apart <= bits and first[hashes[a]] == a and first[hashes[b]] == b:
            expected.add((b, a, apart))
    found = [tuple(pair) for pair in find_near_pairs(as_words(hashes), bits).tolist()]
    assert found == sorted(expected)


def test_many_equal_hashes_cost_no_square() -> None:
    assert len(find_near_pairs(as_words([RANDOM[0]] * 50_000), 16)) == 49_999


def test_a_recompressed_shrunken_or_brighter_photo_is_near_and_other_photos_are_not(shared_data: Path) -> None:
    with zipfile.ZipFile(shared_data / "coco" / "val2017.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:60]
        photos = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    hashes = [compute_perceptual_hash(np.asarray(photo)) for photo in photos]
    assert not len(find_near_pairs(as_words(hashes), 64))
    for photo, own in zip(photos, hashes, strict=True):
        buffer = io.BytesIO()
        photo.save(buffer, "JPEG", quality=40)
        half = photo.resize((photo.width // 2, photo.height // 2))
        for copy in (Image.open(buffer).convert("RGB"), half):
            assert len(find_near_pairs(as_words([own, compute_perceptual_hash(np.asarray(copy))]), 16))
    brighter = [ImageEnhance.Brightness(photo).enhance(1.1) for photo in photos]
    found = [
        find_near_pairs(as_words([h, compute_perceptual_hash(np.asarray(b))]), 16)
        for h, b in zip(hashes, brighter, strict=True)
    ]
    assert sum(map(bool, map(len, found))) >= 54  # nine of ten


def test_the_hash_that_resize_takes_is_nearly_that_of_the_whole_photo(shared_data: Path) -> None:
    with zipfile.ZipFile(shared_data / "coco" / "val2017.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:40]
        photos = [np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    apart = [
        len(find_near_pairs(as_words([hash_picture(photo), compute_perceptual_hash(photo)]), 4)) for photo in photos
    ]
    assert apart == [1] * len(photos)


# What imagehash 4.3.2 makes of `drawn`: `packbits(phash(picture, hash_size=16).hash.ravel())`.
OF_THE_LIBRARY = {
    (0, 64, 64): "f38e618e2ad372ad496a73d669557556cd25d155a56a62ac2aac6a4c2eaba2a4",
    (1, 50, 40): "f38e638e6a6a618eb9da60a2cd4ca8e72634d56a498d6475a555da446b336ada",
    (2, 300, 200): "f38eedb0c7631dc63b1762775b3c5276bceca249aa9942093ae3524a429e92a9",
    (3, 37, 211): "e38ebdd6638edc71e38e4738dc714ae6d441a18e2f183231ece1c90e13df4a8c",
    (4, 9, 13): "e6736a639a636cce3521acda5b72dad4449cb6d4dad2552949081b02b677aad6",
    (5, 640, 480): "f3cfff88e308e208c71c7d7570c7e3bc41c0e7bceaeb30436a8f300370be3070",
}


def drawn(seed: int, width: int, height: int) -> np.ndarray:
    """A picture that is the same on every machine: slopes, noise and an edge, by whole numbers alone."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    noise = np.random.default_rng(seed).integers(0, 40, (height, width, 3))
    slopes = np.stack([3 * x + y, 2 * y + seed * x, (x // 9) * (y // 7)], axis=-1) % 200
    return np.where((x > width // 3)[..., None], slopes + noise, 255 - slopes).astype(np.uint8)


@pytest.mark.parametrize(("seed", "width", "height"), OF_THE_LIBRARY)
def test_the_hash_is_that_of_imagehash_to_the_last_bit(seed: int, width: int, height: int) -> None:
    assert compute_perceptual_hash(drawn(seed, width, height)).hex() == OF_THE_LIBRARY[seed, width, height]


def test_a_single_pixel_has_a_hash_too() -> None:
    assert len(compute_perceptual_hash(np.zeros((1, 1, 3), dtype=np.uint8))) == BITS // 8
