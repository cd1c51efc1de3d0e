"""JPEGs that would take minutes, told apart from photos before anything is decoded."""

from __future__ import annotations

import io
import re
import struct

import numpy as np
import pytest
from PIL import Image

from twinlens.errors import QueryError
from twinlens.indexing.jpegs import MAX_SCANS, MAX_SEGMENTS, too_costly
from twinlens.indexing.queries import read_image
from twinlens.params import read_params

SCAN = re.compile(rb"\xff\xda")


def photo(**options: object) -> bytes:
    blobs = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(blobs).resize((320, 240)).save(out, "JPEG", **options)
    return out.getvalue()


def scanned(times: int, size: tuple[int, int] | None = None, between: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan comes so many times more, which decoders go through each time."""
    raw = photo(progressive=True)
    if size is not None:
        frame = raw.index(b"\xff\xc2")
        raw = raw[: frame + 5] + struct.pack(">HH", *size) + raw[frame + 9 :]
    last = [found.start() for found in SCAN.finditer(raw)][-1]
    return raw[:-2] + (between + raw[last:-2]) * times + b"\xff\xd9"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"progressive": True, "quality": 95, "subsampling": 0},
        {"restart_marker_blocks": 1},
        {"icc_profile": bytes(300_000), "comment": b"\xff\xda" * 5_000, "exif": b"Exif\0\0" + b"\xff\xda" * 20_000},
    ],
)
def test_photos_pass_whatever_is_written_in_them(options: dict[str, object]) -> None:
    assert too_costly(photo(**options)) is None


def test_a_progressive_photo_has_about_ten_scans() -> None:
    assert too_costly(scanned(MAX_SCANS - 10)) is None
    assert "scans" in (too_costly(scanned(MAX_SCANS)) or "")


def test_large_pictures_may_have_fewer_scans() -> None:
    assert too_costly(scanned(5, size=(10_000, 10_000))) is None
    assert "scans" in (too_costly(scanned(15, size=(10_000, 10_000))) or "")


@pytest.mark.parametrize(
    "between",
    [
        b"\xff\x01\xff\xff",  # a segment without a length: what follows is none
        b"\xff\xff\xff",  # filled up
        b"junk\xff\x00\xff\xd3",  # skipped by decoders
        b"\xff\xfe\x00\x04\xff\xd9",  # a comment that ends nothing
    ],
)
def test_scans_are_not_hidden_by_what_stands_between_them(between: bytes) -> None:
    assert "scans" in (too_costly(scanned(MAX_SCANS, between=between)) or "")


def test_segments_are_not_counted_for_ever() -> None:
    for segment in (b"\xff\xfe\x00\x02", b"\xff\x01", b"\xff\xd8"):
        assert "segments" in (too_costly(b"\xff\xd8" + segment * (MAX_SEGMENTS + 1)) or "")


@pytest.mark.parametrize(
    "raw", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xc2", b"\xff\xd8\xff\xda\x00", b"GIF89a"]
)
def test_what_is_cut_off_or_no_jpeg_is_for_the_decoder_to_say(raw: bytes) -> None:
    assert too_costly(raw) is None


def test_a_query_of_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(QueryError, match=r"cannot be used: a JPEG of over 100 scans"):
        read_image(scanned(5_000), read_params().resize)
