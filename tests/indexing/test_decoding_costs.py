"""Pictures that would take minutes, told apart from photos before anything is decoded."""

from __future__ import annotations

import io
import re
import struct

import numpy as np
import pytest
from PIL import Image

from twinlens.errors import QueryError
from twinlens.indexing.decoding_costs import MAX_PAGES, MAX_SCANS, MAX_SEGMENTS, too_costly
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
    "raw",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xc2",
        b"\xff\xd8\xff\xda\x00",
        b"GIF89a",
        b"II",
        b"MM\x00*",
        b"II*\x00\xff\xff\xff\xff",
    ],
)
def test_what_is_cut_off_or_no_jpeg_is_for_the_decoder_to_say(raw: bytes) -> None:
    assert too_costly(raw) is None


def test_a_query_of_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(QueryError, match=r"cannot be used: a JPEG of over 100 scans"):
        read_image(scanned(5_000), read_params().resize)


def paged(pages: int, order: str = "<", large: bool = False) -> bytes:
    """A TIFF of pages of one entry each."""
    mark = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if large else 42)
    count, place, entry = ("Q", "Q", bytes(20)) if large else ("H", "L", bytes(12))
    head = mark + (struct.pack(f"{order}HHQ", 8, 0, 16) if large else struct.pack(f"{order}L", 8))
    size = struct.calcsize(f"={count}") + len(entry) + struct.calcsize(f"={place}")
    nexts = [len(head) + size * (page + 1) for page in range(pages - 1)]
    return head + b"".join(
        struct.pack(f"{order}{count}", 1) + entry + struct.pack(f"{order}{place}", place_) for place_ in [*nexts, 0]
    )


@pytest.mark.parametrize(("order", "large"), [("<", False), (">", False), ("<", True)])
def test_a_tiff_may_have_many_pages_but_not_without_end(order: str, large: bool) -> None:
    assert too_costly(paged(MAX_PAGES, order, large)) is None
    assert "pages" in (too_costly(paged(MAX_PAGES + 1, order, large)) or "")
    assert too_costly(paged(MAX_PAGES + 1, order, large)[:-1000]) is None  # cut off
    circle = bytearray(paged(2, order, large))
    end = 8 if large else 4
    circle[-end:] = struct.pack(f"{order}{'Q' if large else 'L'}", 16 if large else 8)
    assert "pages" in (too_costly(bytes(circle)) or "")


def test_tiffs_that_are_written_today_pass() -> None:
    for options in ({}, {"compression": "tiff_lzw"}, {"big_tiff": True}, {"save_all": True}):
        out = io.BytesIO()
        pages = [Image.new("RGB", (20, 20), (shade, 0, 0)) for shade in range(3)]
        pages[0].save(out, "TIFF", append_images=pages[1:], **options)
        assert too_costly(out.getvalue()) is None
        assert read_image(out.getvalue(), read_params().resize)[0]
