"""Decoding cost of a picture, estimated from its file before any pixel: no limit on pixels bounds that.

PIL goes through headers in Python, byte by byte in places, and reads every entry of a directory (TIFF's and EXIF's)
on its own, also where a thousand of them name the same megabyte. So headers are gone through here first, as PIL does
it, without reading what they name. What is cut off or points nowhere is left to the decoder, which says it better.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

MAX_SCANS = 100  # of a progressive JPEG, which is gone through once for each; a photo has about ten
# Of all scans together: twenty over a picture of 100 megapixels. libjpeg-turbo goes through 0.18 billion a second on a
# core (measured on a refinement scan full of bits), so that no JPEG takes more than about 11 s.
MAX_SCANNED_PX = 2e9
MAX_SEGMENTS = 10_000  # before and between scans; 64 KB each, they hold more than a photo's profiles and previews
MAX_FILLER = 2**16  # bytes before the first scan that are no segment; a few fill up to even places
MAX_TABLES = 2**16  # bytes of a JPEG's frames and quantization before its first scan; a photo's are under 1 KB
MAX_PAGES = 1_000  # of a TIFF, which are counted by going to each, the longer the more there are
MAX_ENTRIES = 1_000  # of one directory; a photo's has a few dozen, and PIL knows 356 tags by name, of all kinds
MAX_ALL_ENTRIES = 100_000  # of all directories: a thousand pages of a hundred
MAX_STRIPS = 100_000  # or tiles of a page; 100 megapixels in strips of one row are about 60,000 at the most
MAX_NUMBERS = 1_000_000  # of all directories, each of which becomes an object: strips, tiles, palettes
SLACK = 2**16  # bytes that entries may hold over twice the file's: none need overlap, but small blocks get shared
MAX_EXIFS = 100  # blocks or parts of EXIF; a picture has one, JPEG's 64 KB let a few go on in a second
MAX_CHUNKS = 100_000  # of a PNG or WEBP; those who write them take 8 KB at a time
MAX_HEADER = 2**16  # bytes of a PNM before its pixels, comments included
MAX_COMMENTS = 1_000  # of a PNM written in digits: each moves a megabyte

# Inside a scan 0xFF stands before a zero or a restart's number; filled up with more of it, before the next segment.
MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
END, SCAN, APP1, APP2 = 0xD9, 0xDA, 0xE1, 0xE2
BARE = frozenset({0x01, 0xD8})  # segments of nothing but their marker
BARE_AHEAD = BARE | {END, 0xC8, *range(0xF0, 0xFE)}  # which PIL steps over while it looks for the first scan
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # which tell the size
TABLES = FRAMES | {0xDB, 0xDE}  # which PIL takes apart number by number

EXIF = b"Exif\0\0"
REPEATED = re.compile(rb"(?:Exif\0\0){0,11}")  # PIL takes them off one by one, and moves the rest each time
DIRECTORY = re.compile(rb"II\*\0|MM\0\*|II\0\*|MM\*\0")  # its start, as PIL has it; BigTIFF's is not for EXIF
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # by an entry's type
NUMBERS = {3: 1, 4: 1, 5: 4, 6: 1, 8: 1, 9: 1, 10: 4, 11: 1, 12: 1, 13: 1, 16: 1}  # a fraction costs as four
WHOLE = {3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 13: "L", 16: "Q"}  # types that can tell a place
STRIPS, COLOURS, TILES, EXIF_PLACE, GPS_PLACE, INTEROP_PLACE = 273, 320, 324, 34_665, 34_853, 40_965  # tags

RAW_PROFILE = b"Raw profile type exif"  # EXIF as hexadecimal text, which ImageMagick writes
MAX_INFLATED = 2**20  # of a PNG's text, PIL's own limit

NETPBM = re.compile(rb"P(?:[1-6f]|yP)\s|P0CMYK|PyRGBA|PyCMYK")
COMMENT = re.compile(rb"#[^\r\n]*[\r\n]?")


class _CostlyError(Exception):
    """Reason why a picture should not be decoded."""


def explain_costly(raw: bytes) -> str | None:
    """Explain why a picture should not be decoded: it takes minutes. None where it takes seconds or is no picture."""
    check = next((check for starts, check in CHECKS if starts.match(raw)), None)
    try:
        if check is not None:
            check(raw)
    except _CostlyError as reason:
        return str(reason)
    return None


# ---------------------------------------------------------------- JPEG


def _jpeg(raw: bytes) -> None:
    segments = list(_segments(raw))
    if sum(end - at for kind, at, end in segments if kind in TABLES) > MAX_TABLES:
        raise _CostlyError(f"a JPEG of over {MAX_TABLES // 1024} KB of tables: save it once more")
    _jpeg_exif([raw[at + 2 : end] for kind, at, end in segments if kind == APP1 and raw.startswith(EXIF, at + 2)])
    # The pictures that come along in the file: of several such lists PIL takes the last.
    listed = [raw[at + 6 : end] for kind, at, end in segments if kind == APP2 and raw.startswith(b"MPF\0", at + 2)]
    if listed and DIRECTORY.match(listed[-1]):
        _Directories(listed[-1], "a JPEG's list of pictures").first()
    if segments and segments[-1][0] == SCAN:
        _scans(
            raw, segments[-1][1] - 2, max((_pixels(raw, at) for kind, at, _ in segments if kind in FRAMES), default=0)
        )


def _segments(raw: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, start (of the length) and end of each segment up to the first scan's, as PIL finds them."""
    place, filler = 2, 0
    for _ in range(MAX_SEGMENTS):
        reach = min(len(raw), place + MAX_FILLER + 2)
        found = MARKER.search(raw, place, reach)
        filler += (found.start() if found else reach) - place
        if filler > MAX_FILLER:
            raise _CostlyError(
                f"a JPEG of over {MAX_FILLER // 1024} KB of filler before its picture: save it once more"
            )
        if found is None:
            return
        kind, at = found[1][0], found.end()
        place = at if kind in BARE_AHEAD else at + max(2, int.from_bytes(raw[at : at + 2], "big"))
        yield kind, at, place
        if kind == SCAN:
            return
    raise _CostlyError(f"a JPEG of over {MAX_SEGMENTS:,} segments: save it once more")


def _pixels(raw: bytes, at: int) -> int:
    height, width = (int.from_bytes(raw[at + i : at + i + 2], "big") for i in (3, 5))
    return height * width


def _jpeg_exif(parts: list[bytes]) -> None:
    if len(parts) > MAX_EXIFS:  # PIL moves what it has for each that it adds
        raise _CostlyError(f"a JPEG of EXIF in over {MAX_EXIFS} parts: save it once more")
    if parts:
        _exif(b"".join([parts[0], *(part[len(EXIF) :] for part in parts[1:])]))


def _scans(raw: bytes, place: int, pixels: int) -> None:
    scans = 0
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(raw, place)
        if found is None or found[1][0] == END:
            return
        kind, place = found[1][0], found.end()
        if kind in BARE:
            continue
        if kind in FRAMES:
            pixels = max(pixels, _pixels(raw, place))
        scans += kind == SCAN
        if scans > MAX_SCANS or scans * pixels > MAX_SCANNED_PX:
            raise _CostlyError(f"a JPEG of over {scans - 1} scans, where a photo has about ten: save it once more")
        place += int.from_bytes(raw[place : place + 2], "big")
    raise _CostlyError(f"a JPEG of over {MAX_SEGMENTS:,} segments: save it once more")


# ---------------------------------------------------------------- TIFF, and EXIF, which is one


def _tiff(raw: bytes) -> None:
    _Directories(raw, "a TIFF").pages()


def _exif(block: bytes | memoryview) -> None:
    ahead = REPEATED.match(block)
    start = ahead.end() if ahead else 0
    if start > 10 * len(EXIF):
        raise _CostlyError("a picture whose EXIF begins over and over: save it once more")
    if DIRECTORY.match(block, start):
        _Directories(block[start:], "EXIF").first()


class _Directories:
    """The directories of a TIFF as PIL reads them, with a count of what that would hold."""

    def __init__(self, raw: bytes | memoryview, what: str) -> None:
        self.raw, self.what = raw, what
        self.order = "<" if bytes(raw[:2]) == b"II" else ">"
        self.large = bytes(raw[2:3]) == b"\x2b"  # by the byte that PIL goes by
        self.count, self.place = ("Q", "Q") if self.large else ("H", "L")
        self.entry = struct.Struct(f"{self.order}HH{self.place}{8 if self.large else 4}s")
        self.entries = self.held = self.numbers = 0

    def first(self) -> int | None:
        """The first directory, and those below it that orientation or saving make PIL read; where the second is."""
        below, following = self._read(self._whole(self.place, self._start()))
        exif, _ = self._read(below.get(EXIF_PLACE))
        self._read(below.get(GPS_PLACE))
        self._read(exif.get(INTEROP_PLACE))
        return following

    def pages(self) -> None:
        """Every directory in the file's chain: each is a page, which PIL goes to also to count them."""
        seen, place = {self._whole(self.place, self._start())}, self.first()
        while place and place not in seen:
            if len(seen) == MAX_PAGES:
                raise _CostlyError(f"{self.what} of over {MAX_PAGES:,} pages: save the one that is meant")
            seen.add(place)
            _, place = self._read(place)

    def _start(self) -> int:
        return 8 if self.large else 4

    def _whole(self, form: str, at: int) -> int | None:
        try:
            return int(struct.unpack_from(f"{self.order}{form}", self.raw, at)[0])
        except (struct.error, OverflowError):
            return None  # cut off

    def _next(self, place: int) -> tuple[int, int | None]:
        """Number of a directory's entries, and position of the next directory."""
        count = self._whole(self.count, place)
        if count is None:
            return 0, None
        start = place + struct.calcsize(f"={self.count}")
        there = max(0, len(self.raw) - start) // self.entry.size
        return min(count, there), self._whole(self.place, start + count * self.entry.size)

    def _read(self, place: int | None) -> tuple[dict[int, int], int | None]:
        """The places of the directories below one, by tag, and of the next one."""
        below: dict[int, int] = {}
        if not place or place < 0:
            return below, None
        entries, following = self._next(place)
        self.entries += entries
        if entries > MAX_ENTRIES or self.entries > MAX_ALL_ENTRIES:
            limit = MAX_ENTRIES if entries > MAX_ENTRIES else MAX_ALL_ENTRIES
            raise _CostlyError(
                f"{self.what} of over {limit:,} entries, where a photo has a few dozen: save it once more"
            )
        start = place + struct.calcsize(f"={self.count}")
        for at in range(start, start + entries * self.entry.size, self.entry.size):
            tag, kind, count, _ = self.entry.unpack_from(self.raw, at)
            data = self._data(tag, kind, count, at)
            if data is None:
                return below, None  # PIL reads no further either
            if tag in (EXIF_PLACE, GPS_PLACE, INTEROP_PLACE) and kind in WHOLE and count:
                below[tag] = self._whole(WHOLE[kind], data) or 0
        return below, following

    def _data(self, tag: int, kind: int, count: int, at: int) -> int | None:
        """Position of an entry's data, which is counted; None where the file ends before it does."""
        own = struct.calcsize(f"={self.place}")
        at += self.entry.size - own
        if tag in (STRIPS, TILES) and kind in SIZES and count > MAX_STRIPS:
            raise _CostlyError(f"{self.what} of over {MAX_STRIPS:,} strips or tiles: save it once more")
        size = count * SIZES.get(kind, 0)
        if size <= own:
            return at
        data = self._whole(self.place, at) or 0
        left = max(0, len(self.raw) - data)
        self.held += min(size, left)
        if self.held > 2 * len(self.raw) + SLACK:
            raise _CostlyError(f"{self.what} whose entries hold more than twice the file: save it once more")
        if size > left:
            return None
        self.numbers += count * NUMBERS.get(kind, tag in (STRIPS, TILES, COLOURS))
        if self.numbers > MAX_NUMBERS:
            raise _CostlyError(f"{self.what} whose entries hold over {MAX_NUMBERS:,} numbers: save it once more")
        return data


# ---------------------------------------------------------------- other formats


def _png(raw: bytes) -> None:
    found = 0
    for kind, content in _chunks(raw, 8, "PNG"):
        if kind == b"IEND":
            return
        block = content if kind == b"eXIf" else _as_text(kind, content)
        found += block is not None or kind == b"iCCP"  # which is inflated each time
        if found > MAX_EXIFS:
            raise _CostlyError(f"a PNG of over {MAX_EXIFS} blocks of EXIF or colour profiles: save it once more")
        if block is not None:
            _exif(block)


def _as_text(kind: bytes, content: bytes) -> bytes | None:
    """EXIF that a text of a PNG holds, in all the ways that PIL takes it for that."""
    if kind not in (b"tEXt", b"zTXt", b"iTXt"):
        return None
    key, _, text = content.partition(b"\0")
    if key == b"exif":
        return text
    if key != RAW_PROFILE:
        return None
    packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] != b"\0")
    text = text[2:].split(b"\0", 2)[-1] if kind == b"iTXt" else text[packed:]
    try:
        if packed:
            text = zlib.decompressobj().decompress(text, MAX_INFLATED)
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("latin-1"))
    except (zlib.error, ValueError):  # damaged
        return b""


def _webp(raw: bytes) -> None:
    found = 0
    for kind, content in _chunks(raw[: 8 + int.from_bytes(raw[4:8], "little")], 12, "WEBP"):
        found += kind == b"EXIF"
        if found > MAX_EXIFS:
            raise _CostlyError(f"a WEBP of over {MAX_EXIFS} blocks of EXIF: save it once more")
        if kind == b"EXIF":
            _exif(content)


def _chunks(raw: bytes, at: int, form: str) -> Iterator[tuple[bytes, bytes]]:
    for _ in range(MAX_CHUNKS):
        head = raw[at : at + 8]
        if len(head) < 8:
            return
        if form == "PNG":
            kind, size = head[4:], int.from_bytes(head[:4], "big")
            after = 4  # its checksum
        else:
            kind, size = head[:4], int.from_bytes(head[4:], "little")
            after = size % 2
        yield kind, raw[at + 8 : at + 8 + size]
        at += 8 + size + after
    raise _CostlyError(f"a {form} of over {MAX_CHUNKS:,} chunks: save it once more")


def _avif(raw: bytes) -> None:
    # Where its EXIF is, a table of a box inside a box tells. What looks like a directory is taken for one instead:
    # coded pixels do once in a gigabyte, and seldom lead to another place in the file.
    view = memoryview(raw)
    for found, start in enumerate(DIRECTORY.finditer(raw)):
        if found == MAX_EXIFS:
            raise _CostlyError(f"an AVIF of over {MAX_EXIFS} blocks of EXIF: save it once more")
        _exif(view[start.start() :])


def _netpbm(raw: bytes) -> None:
    magic = NETPBM.match(raw)
    if magic is None:
        return
    wanted = 2 if raw[1:2] in b"14" else 3
    found = COMMENT.sub(b"", raw[magic.end() : MAX_HEADER]).split(None, wanted)
    if len(raw) > MAX_HEADER and len(found) < wanted:
        raise _CostlyError(f"a PNM without its size in its first {MAX_HEADER // 1024} KB: save it once more")
    if raw[1:2] in b"123" and raw.count(b"#") > MAX_COMMENTS:
        raise _CostlyError(f"a PNM of over {MAX_COMMENTS:,} comments: save it once more")


CHECKS = (
    (re.compile(rb"\xff\xd8\xff"), _jpeg),
    (re.compile(rb"II|MM"), _tiff),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
    (re.compile(rb"....ftyp", re.DOTALL), _avif),
    (NETPBM, _netpbm),
)
