"""What a JPEG would cost to decode, told from its segments before a pixel is."""

from __future__ import annotations

import re

MAX_SCANS = 100  # a progressive photo has about ten
MAX_SCANNED_PX = 2e9  # of all scans together: twenty over a picture of 100 megapixels
MAX_SEGMENTS = 10_000  # before and between scans; 64 KB each, they hold more than a photo's profiles and previews

# Inside a scan 0xFF stands before a zero or a restart's number; filled up with more of it, before the next segment.
MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
END, SCAN = 0xD9, 0xDA
BARE = frozenset({0x01, 0xD8})  # segments of nothing but their marker
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # which tell the size


def too_costly(raw: bytes) -> str | None:
    """Why a JPEG should not be decoded; nothing, where that takes seconds, or where the file is none.

    A progressive picture is decoded once more for each of its scans, and a file of a few MB has room for thousands:
    minutes of a processor, which no limit on pixels prevents.
    """
    if not raw.startswith(b"\xff\xd8"):
        return None
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
