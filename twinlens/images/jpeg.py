"""JPEG files out of the ordinary whose pixels are all there: mended, so that a strict decoder takes them.

libjpeg warns in the same way of what loses pixels and of what loses none, so its warnings are not passed over. The
file is made what it should have been, and has to decode without any.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import simplejpeg
from jaxtyping import UInt8

MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
SCAN, END, JFIF, ADOBE = 0xDA, 0xD9, 0xE0, 0xEE  # codes of markers
RESTARTS = range(0xD0, 0xD8)
SEQUENTIAL = (0xC0, 0xC1)  # frames that are coded in one go
FILLING = b"\0 \r\n"  # what is written to fill a block
OVER = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
ROUNDS = 4  # of warnings, each of another marker


def decode_jpeg(raw: bytes) -> tuple[UInt8[np.ndarray, "height width 3"], tuple[str, ...]]:
    """Decode strictly, so that a truncated or damaged file is an error; what loses no pixel is mended and noted.

    Raises:
        ValueError: a pixel is lost, or may be.
    """
    try:
        return simplejpeg.decode_jpeg(raw, colorspace="RGB"), ()
    except ValueError as error:
        for mended, notes in _mend(raw, str(error)):
            try:
                return simplejpeg.decode_jpeg(mended, colorspace="RGB"), notes
            except ValueError:
                continue
        raise error from None


def _mend(raw: bytes, warning: str) -> Iterator[tuple[bytes, tuple[str, ...]]]:
    """The file without what stands between its segments, then also without filling in front of what libjpeg names.

    Between segments there are no pixels. In the coded data bytes may be over because codes end too early, so that
    what is left out there has to be filling. Codes may end in a byte that looks like filling: as much as may be is
    left out at first, then less, down to what libjpeg counted.
    """
    most: dict[int, int] = {}
    for _ in range(ROUNDS):
        mended, notes = _rebuild(raw, most)
        yield mended, notes
        try:
            simplejpeg.decode_jpeg(mended, colorspace="RGB")
        except ValueError as error:
            warning = str(error)
        over = OVER.search(warning)
        if over is None or int(over[2], 16) in most:
            return
        count, code = int(over[1]), int(over[2], 16)
        longest = _longest_filling(raw, code)
        for length in range(min(longest, count + 16), count - 1, -1):
            yield _rebuild(raw, most | {code: length})
        most[code] = longest


def _rebuild(raw: bytes, filling: Mapping[int, int]) -> tuple[bytes, tuple[str, ...]]:
    """Write the file anew from its segments and its coded data.

    Args:
        raw: the file.
        filling: how many bytes of filling at most are left out in front of markers within or after coded data, by code.
    """
    parts, notes = [raw[:2]], dict[str, None]()
    at, coded, frame = 2, False, 0
    while found := MARKER.search(raw, at):
        code, between = found[1][0], raw[at : found.start()]
        if coded:
            kept = _strip(between, filling.get(code, 0))
            if kept != between:
                notes["filling before the end left out" if code == END else "filling within its data left out"] = None
            parts.append(kept)
        elif between:
            notes["stray bytes between its segments left out"] = None
        at = found.end()
        parts.append(bytes((0xFF, code)))
        if code == END:
            return b"".join(parts), tuple(notes)
        if code not in RESTARTS:
            payload = bytearray(raw[at : at + int.from_bytes(raw[at : at + 2], "big")])
            at += len(payload)
            frame = code if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC) else frame
            if note := _set_right(payload, code, frame):
                notes[note] = None
            parts.append(bytes(payload))
            coded = code == SCAN
            if len(payload) < 2:
                break
    return b"".join([*parts, raw[at:]]), tuple(notes)


def _strip(coded: bytes, most: int) -> bytes:
    kept = max(len(coded) - most, len(coded.rstrip(FILLING)))
    # after a byte of 255 a zero stands for "no marker": it is code
    return coded[: kept + 1] if coded[:kept].endswith(b"\xff") and kept < len(coded) else coded[:kept]


def _longest_filling(raw: bytes, code: int) -> int:
    found = (raw[: match.start()] for match in MARKER.finditer(raw) if match[1][0] == code)
    return max((len(before) - len(before.rstrip(FILLING)) for before in found), default=0)


def _set_right(payload: bytearray, code: int, frame: int) -> str | None:
    """Set values to what libjpeg takes them for anyway, with a warning; returns what was odd."""
    if code == JFIF and payload[2:7] == b"JFIF\0" and len(payload) > 8 and payload[7] not in (1, 2):
        payload[7] = 1
        return "an unknown version of JFIF"
    if code == ADOBE and payload[2:7] == b"Adobe" and len(payload) > 13 and payload[13] > 2:
        payload[13] = 1
        return "an unknown colour transform"
    if code == SCAN and frame in SEQUENTIAL and len(payload) > 6 and payload[-3:] != b"\0\x3f\0":
        payload[-3:] = b"\0\x3f\0"
        return "the bounds of another kind of scan"
    return None
