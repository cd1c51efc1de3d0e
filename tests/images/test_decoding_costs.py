"""Pictures that would take minutes, told apart from photos before anything is decoded."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image, features

from twinlens.config.load import read_params
from twinlens.core.errors import QueryError
from twinlens.datasets.adapters.objectnet import crop_border
from twinlens.images import decode
from twinlens.images.decode import BadPictureError, open_picture
from twinlens.images.decoding_costs import (
    MAX_CHUNKS,
    MAX_COMMENTS,
    MAX_ENTRIES,
    MAX_EXIFS,
    MAX_PAGES,
    MAX_SCANS,
    MAX_SEGMENTS,
    MAX_STRIPS,
    explain_costly,
)
from twinlens.images.resize import resize_pictures
from twinlens.indexing.validate import read_image

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
    assert explain_costly(photo(**options)) is None


def test_a_progressive_photo_has_about_ten_scans() -> None:
    assert explain_costly(scanned(MAX_SCANS - 10)) is None
    assert "scans" in (explain_costly(scanned(MAX_SCANS)) or "")


def test_large_pictures_may_have_fewer_scans() -> None:
    assert explain_costly(scanned(5, size=(10_000, 10_000))) is None
    assert "scans" in (explain_costly(scanned(15, size=(10_000, 10_000))) or "")


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
    assert "scans" in (explain_costly(scanned(MAX_SCANS, between=between)) or "")


def test_segments_are_not_counted_for_ever() -> None:
    for segment in (b"\xff\xfe\x00\x02", b"\xff\x01", b"\xff\xd8"):
        assert "segments" in (explain_costly(b"\xff\xd8" + segment * (MAX_SEGMENTS + 1)) or "")


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
    assert explain_costly(raw) is None


def test_a_query_of_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(QueryError, match=r"cannot be used: a JPEG of over 100 scans"):
        read_image(scanned(5_000), read_params().resize)


def test_a_stage_sets_a_picture_of_thousands_of_scans_aside_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, healthy = scanned(2_000), photo()
    decoded: list[bytes] = []
    real = simplejpeg.decode_jpeg

    def noted(raw: bytes, **how: object) -> object:
        decoded.append(raw)
        return real(raw, **how)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", noted)
    pictures = [("long", "long.jpg", raw), ("well", "well.jpg", healthy)]
    made = resize_pictures(iter(pictures), 2, read_params().resize, tmp_path, 1)
    assert made.index["image_id"].to_list() == ["well"]
    assert [note for _, kept, note in made.notes.iter_rows() if not kept] == [
        f"a JPEG of over {MAX_SCANS} scans, where a photo has about ten: save it once more"
    ]
    assert raw not in decoded
    with pytest.raises(BadPictureError, match="scans"):
        open_picture(raw)  # as `keep.classifier` does
    assert "scans" in str(crop_border(raw))


def test_a_tiff_of_jpegs_may_not_have_more_scans_than_a_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    Image.open(io.BytesIO(photo())).save(out, "TIFF", compression="jpeg")
    raw = out.getvalue()
    assert open_picture(raw)[0].shape == (240, 320, 3)
    scans = raw.count(b"\xff\xda")
    filled = raw + b"\xff\xda" * 50 * scans
    monkeypatch.setattr(decode, "MAX_SCANNED_PX", 10 * 320 * 240)
    assert open_picture(raw)[0].shape == (240, 320, 3)
    with pytest.raises(BadPictureError, match=r"a TIFF of JPEGs with \d+ scans in \d+ parts"):
        open_picture(filled)


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
    assert explain_costly(paged(MAX_PAGES, order, large)) is None
    assert "pages" in (explain_costly(paged(MAX_PAGES + 1, order, large)) or "")
    assert explain_costly(paged(MAX_PAGES + 1, order, large)[:-1000]) is None  # cut off
    circle = bytearray(paged(2, order, large))
    end = 8 if large else 4
    circle[-end:] = struct.pack(f"{order}{'Q' if large else 'L'}", 16 if large else 8)
    assert explain_costly(bytes(circle)) is None  # which the decoder ends


def test_tiffs_that_are_written_today_pass() -> None:
    for options in ({}, {"compression": "tiff_lzw"}, {"big_tiff": True}, {"save_all": True}):
        out = io.BytesIO()
        pages = [Image.new("RGB", (20, 20), (shade, 0, 0)) for shade in range(3)]
        pages[0].save(out, "TIFF", append_images=pages[1:], **options)
        assert explain_costly(out.getvalue()) is None
        assert read_image(out.getvalue(), read_params().resize)[0]


# ---------------------------------------------------------------- directories, and what holds them


def directory(
    entries: list[tuple[int, int, int, int]], order: str = "<", large: bool = False, after: bytes = b""
) -> bytes:
    """A TIFF of one directory; entries are tag, type, count and place, which may lie behind it: from 0 there."""
    form, place = ("HHQQ", "Q") if large else ("HHLL", "L")
    mark = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if large else 42)
    head = mark + (struct.pack(f"{order}HHQ", 8, 0, 16) if large else struct.pack(f"{order}L", 8))
    count = struct.pack(f"{order}{'Q' if large else 'H'}", len(entries))
    end = len(head) + len(count) + len(entries) * struct.calcsize(f"={form}") + struct.calcsize(f"={place}")
    body = b"".join(struct.pack(f"{order}{form}", tag, kind, size, end + at) for tag, kind, size, at in entries)
    return head + count + body + struct.pack(f"{order}{place}", 0) + after


def shared_block(order: str = "<", large: bool = False) -> bytes:
    """Forty entries that hold the same 50 KB each."""
    return directory([(40_000 + tag, 7, 50_000, 0) for tag in range(40)], order, large, bytes(50_000))


def many_entries(order: str = "<", large: bool = False) -> bytes:
    return directory([(tag, 3, 1, 0) for tag in range(MAX_ENTRIES + 1)], order, large)


def segment(kind: int, content: bytes) -> bytes:
    return bytes([0xFF, kind]) + struct.pack(">H", len(content) + 2) + content


def jpeg_of(exif: bytes) -> bytes:
    """A photo whose EXIF is spread over segments, which PIL joins."""
    parts = [b"Exif\0\0" + exif[at : at + 60_000] for at in range(0, len(exif), 60_000)]
    return b"\xff\xd8" + b"".join(segment(0xE1, part) for part in parts) + photo()[2:]


def small(form: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(out, form, **options)
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))


def png_of(*chunks: bytes) -> bytes:
    raw = small("PNG")
    return raw[:33] + b"".join(chunks) + raw[33:]


def webp_of(exif: bytes) -> bytes:
    raw = small("WEBP", exif=b"Exif\0\0" + directory([(274, 3, 1, 0)]))
    at = raw.index(b"EXIF")
    body = raw[8:at] + b"EXIF" + struct.pack("<L", len(exif)) + exif + bytes(len(exif) % 2)
    return b"RIFF" + struct.pack("<L", len(body)) + body


def hexadecimal(exif: bytes) -> bytes:
    return b"\nexif\n    1234\n" + exif.hex().encode()


NETPBM = b"P6 64 48 255\n" + bytes(64 * 48 * 3)
BOMBS = {
    "a TIFF whose entries hold more": [shared_block(), shared_block(">"), shared_block(large=True)],
    "a TIFF of over 1,000 entries": [many_entries(), many_entries(">"), many_entries(large=True)],
    "a TIFF of over 100,000 strips": [
        directory([(273, 4, MAX_STRIPS + 1, 0)]),
        directory([(324, 16, MAX_STRIPS + 1, 0)], large=True),
    ],
    "a TIFF whose entries hold over 1,000,000 numbers": [directory([(40_000, 5, 250_001, 0)], after=bytes(2_000_008))],
    "EXIF whose entries hold more": [
        jpeg_of(shared_block()),
        jpeg_of(shared_block(">")),
        png_of(chunk(b"eXIf", shared_block())),
        png_of(chunk(b"tEXt", b"exif\0" + shared_block())),
        png_of(chunk(b"tEXt", b"Raw profile type exif\0" + hexadecimal(shared_block()))),
        png_of(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexadecimal(shared_block())))),
        png_of(chunk(b"iTXt", b"Raw profile type exif\0\0\0\0\0" + hexadecimal(shared_block()))),
        png_of(chunk(b"iTXt", b"Raw profile type exif\0\1\0\0\0" + zlib.compress(hexadecimal(shared_block())))),
        webp_of(shared_block()),
        webp_of(b"Exif\0\0" + shared_block(">")),
    ],
    "EXIF of over 1,000 entries": [jpeg_of(many_entries()), png_of(chunk(b"eXIf", many_entries()))],
    "a JPEG's list of pictures of over": [b"\xff\xd8" + segment(0xE2, b"MPF\0" + many_entries()) + photo()[2:]],
    "EXIF begins over and over": [jpeg_of(b"Exif\0\0" * 5_000), png_of(chunk(b"eXIf", b"Exif\0\0" * 5_000))],
    "EXIF in over 100 parts": [b"\xff\xd8" + segment(0xE1, b"Exif\0\0") * (MAX_EXIFS + 1) + photo()[2:]],
    "KB of filler": [
        *(b"\xff\xd8" + filler * 35_000 for filler in (b"\xff\xff", b"\xff\0", b"\xff\xd0")),
        b"\xff\xd8" + b"\xff" * 70_000 + photo()[2:],
        b"\xff\xd8\xff\xd9" + b"junk" * 20_000,
        b"\xff\xd8\xff\xf0" + b"\xff" * 70_000,
    ],
    "KB of tables": [b"\xff\xd8" + segment(0xDB, bytes(65_000)) * 2 + photo()[2:]],
    "a PNG of over 100,000 chunks": [png_of(chunk(b"vpAg", b"") * MAX_CHUNKS)],
    "a PNG of over 100 blocks": [png_of(chunk(b"iCCP", b"") * (MAX_EXIFS + 1))],
    "a PNM without its size": [b"P6\n#" + b"a" * 70_000 + b"\n64 48 255\n", b"P5 64 " + b" " * 70_000 + b"48 255 "],
    "a PNM of over 1,000 comments": [b"P2 64 48 255\n" + b"#\n" * (MAX_COMMENTS + 1)],
}


@pytest.mark.parametrize(("reason", "raw"), [(reason, raw) for reason, raws in BOMBS.items() for raw in raws])
def test_small_files_that_take_long_are_refused_before_they_are_opened(
    reason: str, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> None:
        pytest.fail("it was opened")

    monkeypatch.setattr(Image, "open", opened)
    with pytest.raises(QueryError, match=f"the query's image cannot be used: .*{reason}.*: save it once more"):
        read_image(raw, read_params().resize)


@pytest.mark.skipif(not features.check("avif"), reason="this PIL was built without AVIF")
def test_exif_of_an_avif_is_looked_at_wherever_it_is() -> None:
    assert explain_costly(small("AVIF", exif=camera())) is None
    fresh = small("AVIF", exif=directory([(274, 3, 1, 0)]))
    for bomb in (shared_block(), many_entries(">")):
        assert "EXIF" in (explain_costly(fresh + bomb) or "")


@pytest.mark.parametrize("pointer", [34_665, 34_853])
def test_directories_below_the_first_are_counted(pointer: int) -> None:
    entries = b"".join(struct.pack("<HHLL", 40_000 + tag, 7, 50_000, 26) for tag in range(40))
    below = struct.pack("<H", 40) + entries + bytes(4 + 50_000)
    assert "more than twice" in (explain_costly(directory([(pointer, 4, 1, 0)], after=below)) or "")


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_directories_that_point_nowhere_are_for_the_decoder_to_say(order: str, large: bool) -> None:
    whole = directory([(256, 3, 1, 0), (40_000, 7, 5_000, 0), (34_665, 4, 1, 0)], order, large, bytes(5_000))
    for end in range(0, 120):
        assert explain_costly(whole[:end]) is None
    for tag in (34_665, 40_000):  # a directory, or what an entry holds, that lies behind the end or is itself
        for place in (2**31, 0):
            assert explain_costly(directory([(tag, 4, 1 + (tag == 40_000), place)], order, large)) is None
    assert explain_costly(directory([(tag, 7, 2**32 - 1, 2**31) for tag in range(40)], order, large)) is None


def camera() -> bytes:
    """EXIF as cameras write it, with a maker's own 60 KB."""
    exif = Image.Exif()
    exif[271], exif[272], exif[274] = "Maker", "Model", 6
    exif[282] = exif[283] = 72.0
    below = exif.get_ifd(34_665)
    below[33_434], below[37_500] = 0.01, b"Nikon\0" + bytes(60_000)
    exif.get_ifd(34_853)[1] = "N"
    return exif.tobytes()


def honest() -> dict[str, bytes]:
    rows = Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 200, 3), dtype=np.uint8))

    def saved(form: str, **options: object) -> bytes:
        out = io.BytesIO()
        rows.save(out, form, **options)
        return out.getvalue()

    thumbnail = Image.Exif()
    thumbnail[274] = 8
    thumbnail.get_ifd(34_665)[37_500] = photo()  # a preview within
    raw = photo(exif=camera())
    return {
        "exif": raw,
        "preview": photo(exif=thumbnail.tobytes(), progressive=True),
        "two parts of exif": jpeg_of(camera()[6:] + bytes(50_000)),
        "filled up": raw[:2] + b"\xff" * 9 + raw[2:] + b"\0\xff" * 50_000,
        "after its end": raw + b"\xff\xd9\xff\xda" + b"\xff" * 100_000,
        "restarts": photo(restart_marker_blocks=1),
        "strips": saved("TIFF", strip_size=1),
        "packed strips": saved("TIFF", compression="tiff_deflate", strip_size=200),
        "BigTIFF": saved("TIFF", big_tiff=True, exif=camera()),
        "TIFF with exif": saved("TIFF", exif=camera()),
        "PNG": saved("PNG", exif=camera()),
        "WEBP": saved("WEBP", exif=camera()),
        "PNM": b"P6\n# made by hand\n64 48\n255\n" + b"# \n" * 64 * 48,
        "digits": b"P2 # by hand\n32 32\n255\n" + b"7 " * 1024,
        "bits": b"P1\n32 32\n" + b"1 " * 1024,
    }


@pytest.mark.parametrize("name", list(honest()))
def test_files_as_cameras_and_programs_write_them_pass(name: str) -> None:
    raw = honest()[name]
    assert explain_costly(raw) is None
    assert read_image(raw, read_params().resize)[0]


def tiled(order: str) -> bytes:
    """A grey TIFF of 32 x 32 px in four tiles, which PIL reads but does not write."""
    entries = [(256, 4, 1, 32), (257, 4, 1, 32), (258, 4, 1, 8), (259, 4, 1, 1), (262, 4, 1, 1), (322, 4, 1, 16)]
    entries += [(323, 4, 1, 16), (324, 4, 4, 0), (325, 4, 4, 16)]
    end = 8 + 2 + 12 * len(entries) + 4
    places = struct.pack(f"{order}8L", *(end + 32 + 256 * i for i in range(4)), *[256] * 4)
    relative = [(tag, kind, count, value - end if count == 1 else value) for tag, kind, count, value in entries]
    return directory(relative, order, after=places + bytes(1024))


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiles_pass(order: str) -> None:
    assert explain_costly(tiled(order)) is None
    assert read_image(tiled(order), read_params().resize)[0]


def test_real_photos_pass(shared_data: Path) -> None:
    photos = shared_data / "coco" / "val2017.zip"
    if not photos.is_file():
        pytest.skip(f"no photos at {photos}")
    with zipfile.ZipFile(photos) as packed:
        names = [name for name in packed.namelist() if name.endswith(".jpg")][:40]
        assert [name for name in names if explain_costly(packed.read(name))] == []
