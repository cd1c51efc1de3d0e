"""Shards of pixels: everything usable is in one, everything else is noted, and memory holds one at a time."""

from __future__ import annotations

import gc
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import simplejpeg
from PIL import Image

from twinlens.config.params import ResizeParams
from twinlens.core import tables
from twinlens.core.errors import DataError
from twinlens.core.shards import iter_pixels
from twinlens.images.decode import FORMATS
from twinlens.images.resize import Picture, ResizeResult, resize_pictures


def params(**changes: Any) -> ResizeParams:
    values = {
        "shortest_side_px": 48,
        "min_side_px": 16,
        "max_megapixels": 1,
        "jpeg_quality": 95,
        "images_per_shard": 3,
    }
    return ResizeParams(**(values | changes))


def picture(seed: int, size: tuple[int, int] = (60, 40), kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def resized(pictures: Sequence[Picture], out: Path, threads: int = 2, **changes: Any) -> ResizeResult:
    return resize_pictures(iter(pictures), len(pictures), params(**changes), out, threads)


MIXED: list[Picture] = [
    ("plain", "plain.jpg", picture(1)),
    ("empty", "empty.jpg", b""),
    ("large", "large.jpg", picture(2, (200, 100))),
    ("missing", "missing.jpg", "listed, but not there"),
    ("png", "png.jpg", picture(3, kind="PNG")),
    ("text", "text.jpg", b"a page instead of a picture"),
    ("cut", "cut.jpg", picture(4)[:-200]),
    ("tiny", "tiny.jpg", picture(5, (15, 40))),
    ("wide", "wide.jpg", picture(6, (1001, 1000))),
    ("last", "last.jpg", picture(7)),
]


def test_a_shard_holds_the_usable_ones_of_so_many_listed_pictures_in_their_order(tmp_path: Path) -> None:
    index = resized(MIXED, tmp_path).index
    assert index["image_id"].to_list() == ["plain", "large", "png", "last"]
    assert index["shard"].to_list() == [0, 0, 1, 3]  # of those listed for the third none is usable
    assert index["row"].to_list() == [0, 1, 0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"shard-0000{n}.parquet" for n in (0, 1, 3)]


def test_a_shard_that_is_just_full_leaves_no_empty_one(tmp_path: Path) -> None:
    resized([(str(n), f"{n}.jpg", picture(n)) for n in range(6)], tmp_path)
    assert [pq.read_metadata(path).num_rows for path in sorted(tmp_path.iterdir())] == [3, 3]


def test_the_index_says_what_the_shards_hold(tmp_path: Path) -> None:
    index = resized(MIXED, tmp_path).index
    for row, (image_id, jpeg) in zip(index.iter_rows(named=True), iter_pixels(tmp_path, index), strict=True):
        assert row["image_id"] == image_id
        assert row["sha256"] == hashlib.sha256(jpeg).hexdigest()
        assert simplejpeg.decode_jpeg(jpeg).shape == (row["height"], row["width"], 3)


def test_each_usable_picture_has_the_perceptual_hash_of_its_pixels_before_shrinking(tmp_path: Path) -> None:
    made = resized(MIXED, tmp_path)
    assert made.hashes["image_id"].to_list() == made.index["image_id"].to_list()
    assert all(len(value) == 32 for value in made.hashes["perceptual_hash"])
    assert made.hashes["perceptual_hash"].n_unique() == 4
    tables.conform(made.hashes, tables.HASHES, "hashes")


def test_a_plain_picture_lies_in_the_shard_byte_by_byte_and_a_larger_one_shrunken(tmp_path: Path) -> None:
    index = resized(MIXED, tmp_path).index
    held = dict(iter_pixels(tmp_path, index))
    assert held["plain"] == MIXED[0][2]
    large = index.row(by_predicate=pl.col("image_id") == "large", named=True)
    assert (large["width"], large["height"]) == (96, 48)


def test_every_picture_that_is_set_aside_or_mended_is_noted_with_its_reason(tmp_path: Path) -> None:
    notes = resized(MIXED, tmp_path).notes
    found = {image_id: (kept, note) for image_id, kept, note in notes.iter_rows()}
    assert found.pop("cut")[1].startswith("damaged: ")
    assert found == {
        "empty": (False, "empty file"),
        "missing": (False, "listed, but not there"),
        "png": (True, "PNG named .jpg"),
        "text": (False, f"not a picture: starts with b'a page inste'; wanted: {', '.join(FORMATS)}"),
        "tiny": (False, "15 x 40 px: a side is under 16 px"),
        "wide": (False, "1001 x 1000 px: over 1 megapixels"),
    }


def test_every_picture_is_in_the_index_or_noted_as_set_aside_and_never_both(tmp_path: Path) -> None:
    made = resized(MIXED, tmp_path)
    aside = made.notes.filter(~pl.col("kept"))["image_id"].to_list()
    assert sorted(made.index["image_id"].to_list() + aside) == sorted(image_id for image_id, _, _ in MIXED)


def test_several_things_mended_in_one_picture_are_several_notes(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    notes = resized([("gif", "a.jpg", file.getvalue())], tmp_path).notes
    assert notes["note"].to_list() == ["GIF named .jpg", "first of 2 frames", "P turned into RGB"]
    assert notes["kept"].to_list() == [True, True, True]


def test_tables_without_a_note_can_be_written_and_read(tmp_path: Path) -> None:
    made = resized([("a", "a.jpg", picture(1))], tmp_path)
    tables.write_table(made.index, tmp_path / "index.parquet", tables.INDEX)
    tables.write_table(made.notes, tmp_path / "notes.parquet", tables.NOTES)
    assert tables.read_table(tmp_path / "notes.parquet", tables.NOTES).is_empty()
    assert tables.read_table(tmp_path / "index.parquet", tables.INDEX)["image_id"].to_list() == ["a"]


def test_no_usable_picture_is_an_error_that_gives_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of 2 pictures is usable; .*empty file"):
        resized([("a", "a.jpg", b""), ("b", "b.jpg", "not there")], tmp_path)


def test_no_picture_at_all_is_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 0 pictures"):
        resized([], tmp_path)


def test_the_bytes_are_the_same_whatever_the_number_of_threads(tmp_path: Path) -> None:
    pictures: list[Picture] = [
        (str(n), f"{n}.jpg", picture(n, (40 + 7 * n, 90), "PNG" if n % 3 else "JPEG")) for n in range(12)
    ]
    made = {threads: resized(pictures, tmp_path / str(threads), threads) for threads in (1, 2, 5)}
    contents = {
        threads: {path.name: path.read_bytes() for path in sorted((tmp_path / str(threads)).iterdir())}
        for threads in made
    }
    assert len(contents[1]) == 4
    assert contents[1] == contents[2] == contents[5]
    assert made[1].index.equals(made[2].index)
    assert made[1].index.equals(made[5].index)


class Counted(bytes):
    """Bytes that are counted while they live."""

    alive = 0
    most = 0

    def __new__(cls, raw: bytes) -> Counted:
        cls.alive += 1
        cls.most = max(cls.most, cls.alive)
        return super().__new__(cls, raw)

    def __del__(self) -> None:
        type(self).alive -= 1


def test_memory_holds_two_shards_and_what_is_in_flight_however_many_pictures_there_are(tmp_path: Path) -> None:
    raw, threads, per_shard = picture(1), 1, 10

    def pictures() -> Iterator[Picture]:
        for n in range(300):
            yield str(n), "a.jpg", Counted(raw)  # a plain JPEG: the shard holds these very bytes

    made = resize_pictures(pictures(), 300, params(images_per_shard=per_shard), tmp_path, threads)
    assert len(made.index) == 300
    assert per_shard < Counted.most <= 2 * per_shard + 8 * threads + 5  # one is written, one is filled
    del made
    gc.collect()
    assert Counted.alive == 0
