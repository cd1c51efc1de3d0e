"""What a picture would cost to decode, told from its file before a pixel is: no limit on pixels bounds that."""

from __future__ import annotations

import re
import struct

MAX_SCANS = 100  # of a progressive JPEG, which is gone through once for each; a photo has about ten
MAX_SCANNED_PX = 2e9  # of all scans together: twenty over a picture of 100 megapixels
MAX_SEGMENTS = 10_000  # before and between scans; 64 KB each, they hold more than a photo's profiles and previews
MAX_PAGES = 1_000  # of a TIFF, which are counted by going to each, the longer the more there are

# Inside a scan 0xFF stands before a zero or a restart's number; filled up with more of it, before the next segment.
MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
END, SCAN = 0xD9, 0xDA
BARE = frozenset({0x01, 0xD8})  # segments of nothing but their marker
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # which tell the size


def too_costly(raw: bytes) -> str | None:
    """Why a picture should not be decoded: it would take minutes. Nothing where it takes seconds, or is none."""
    if raw.startswith(b"\xff\xd8"):
        return _jpeg(raw)
    return _tiff(raw) if raw.startswith((b"II", b"MM")) else None


def _jpeg(raw: bytes) -> str | None:
    place, pixels, scans = 2, 0, 0
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(raw, place)
        if found is None or found[1][0] == END:
            return None
        kind, place = found[1][0], found.end()
        if kind in BARE:
            continue
        if kind in FRAMES:
            height, width = (int.from_bytes(raw[place + i : place + i + 2], "big") for i in (3, 5))
            pixels = max(pixels, height * width)
        scans += kind == SCAN
        if scans > MAX_SCANS or scans * pixels > MAX_SCANNED_PX:
            return f"a JPEG of over {scans - 1} scans, where a photo has about ten: save it once more"
        place += int.from_bytes(raw[place : place + 2], "big")
    return f"a JPEG of over {MAX_SEGMENTS:,} segments: save it once more"


def _tiff(raw: bytes) -> str | None:
    order, large = "<" if raw.startswith(b"II") else ">", raw[2:3] == b"\x2b"  # by the byte that Pillow goes by
    # Each page: how many entries, the entries, and where the next page is.
    count, entry, place = ("Q", 20, "Q") if large else ("H", 12, "L")
    at = 8 if large else 4
    try:
        for _ in range(MAX_PAGES + 1):
            (page,) = struct.unpack_from(f"{order}{place}", raw, at)
            if page == 0:
                return None
            (entries,) = struct.unpack_from(f"{order}{count}", raw, page)
            at = page + struct.calcsize(f"={count}") + entry * entries
    except (struct.error, OverflowError):  # cut off, which the decoder says better
        return None
    return f"a TIFF of over {MAX_PAGES:,} pages: save the one that is meant"
