"""Pictures whose pixels are known, in files out of the ordinary: shown as they are, or set aside."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from twinlens.images.decode import BadPictureError, open_picture, prepare_jpeg

RAMP = np.tile(np.linspace(0, 1, 80), (60, 1))


def saved(values: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize(("dtype", "kind"), [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "TIFF")])
def test_a_ramp_of_few_bits_in_a_file_of_many_is_a_ramp(bits: int, dtype: type, kind: str) -> None:
    pixels, _, mended = open_picture(saved((RAMP * (2**bits - 1)).astype(dtype), kind))
    np.testing.assert_allclose(pixels[..., 0], RAMP * 255, atol=1.5)
    assert any("turned into RGB" in note for note in mended)


def test_a_black_picture_stays_black_and_what_is_over_16_bits_has_its_own_top() -> None:
    assert not open_picture(saved(np.zeros((20, 20), np.uint16), "PNG"))[0].any()
    assert open_picture(saved(np.full((20, 20), 100_000, np.int32), "TIFF"))[0].min() == 255


COLOURS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 0.5)], axis=2)


def png_of_16_bits(samples: np.ndarray) -> bytes:
    """A PNG of grey and opacity, RGB or RGBA, which PIL cannot write."""
    height, width, count = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[count], 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def tiff_of_16_bits(samples: np.ndarray, order: str) -> bytes:
    """A TIFF of RGB in either order of bytes."""
    height, width, count = samples.shape
    data = samples.astype(f"{order}u2").tobytes()
    bits_at = 8 + len(data) + 2 + 12 * 9 + 4
    short = {256: width, 257: height, 259: 1, 262: 2, 277: count, 278: height}
    whole = {273: 8, 279: len(data)}
    entries = [struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in short.items()]
    entries += [struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in whole.items()]
    entries.append(struct.pack(f"{order}HHII", 258, 3, count, bits_at))
    entries.sort(key=lambda entry: struct.unpack(f"{order}H", entry[:2]))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    tail = struct.pack(f"{order}I", 0) + struct.pack(f"{order}{count}H", *[16] * count)
    return head + data + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + tail


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["RGB", "RGBA", "grey and opacity", "TIFF", "TIFF of the other order"])
def test_colours_of_few_bits_in_a_file_of_16_are_those_colours(bits: int, kind: str) -> None:
    top = 2**bits - 1
    samples, opaque = (COLOURS * top).round(), np.full((*RAMP.shape, 1), top)
    files = {
        "RGB": lambda: png_of_16_bits(samples),
        "RGBA": lambda: png_of_16_bits(np.concatenate([samples, opaque], axis=2)),
        "grey and opacity": lambda: png_of_16_bits(np.concatenate([samples[..., :1], opaque], axis=2)),
        "TIFF": lambda: tiff_of_16_bits(samples, "<"),
        "TIFF of the other order": lambda: tiff_of_16_bits(samples, ">"),
    }
    wanted = COLOURS if kind != "grey and opacity" else np.stack([RAMP] * 3, axis=2)
    pixels, _, mended = open_picture(files[kind]())
    np.testing.assert_allclose(pixels, wanted * 255, atol=1.5)
    assert ("samples that use fewer bits than they have" in mended) == (bits < 16)


def test_what_is_see_through_in_a_file_of_16_bits_lies_on_white() -> None:
    samples = np.concatenate([np.zeros((20, 20, 3)), np.full((20, 20, 1), 4095)], axis=2)
    samples[:, :10, 3] = 0
    pixels = open_picture(png_of_16_bits(samples))[0]
    assert (pixels[:, :10] == 255).all() and (pixels[:, 10:] == 0).all()
    assert not open_picture(png_of_16_bits(np.zeros((20, 20, 3))))[0].any()  # black stays black


def jpeg(progressive: bool, **settings: int) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=95, progressive=progressive, **settings)
    return file.getvalue()


def starts(raw: bytes) -> list[int]:
    """Where the segments of a JPEG start that stand before its first coded data."""
    at = [2]
    while raw[at[-1] + 1] != 0xDA:
        at.append(at[-1] + 2 + int.from_bytes(raw[at[-1] + 2 : at[-1] + 4], "big"))
    return at


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("stray", [bytes(7), b"\r\n", b"hello, I am a camera", b"\xff\x00\xff\x00"])
def test_stray_bytes_between_the_segments_of_a_jpeg_are_a_note_and_no_pixel_is_lost(
    stray: bytes, progressive: bool
) -> None:
    whole = jpeg(progressive)
    right = open_picture(whole)[0]
    for at in starts(whole)[1:]:
        pixels, _, mended = open_picture(whole[:at] + stray + whole[at:])
        np.testing.assert_array_equal(pixels, right)
        assert mended == ("stray bytes between its segments left out",)
    everywhere = whole
    for at in reversed(starts(whole)[1:]):
        everywhere = everywhere[:at] + stray + everywhere[at:]
    pixels, _, mended = open_picture(everywhere[:-2] + bytes(30) + everywhere[-2:])
    np.testing.assert_array_equal(pixels, right)
    assert "stray bytes between its segments left out" in mended


@pytest.mark.parametrize("stray", [bytes(3), bytes(40)])
def test_filling_before_restart_markers_and_between_scans_is_a_note(stray: bytes) -> None:
    whole = jpeg(False, restart_marker_rows=1)
    for marker in (b"\xff\xd0", b"\xff\xd2"):
        at = whole.index(marker, starts(whole)[-1])
        pixels, _, mended = open_picture(whole[:at] + stray + whole[at:])
        np.testing.assert_array_equal(pixels, open_picture(whole)[0])
        assert mended in {(), ("filling within its data left out",)}
    whole = jpeg(True)
    at = whole.index(b"\xff\xc4", starts(whole)[-1] + 14)  # of the second scan
    pixels, _, mended = open_picture(whole[:at] + stray + whole[at:])
    np.testing.assert_array_equal(pixels, open_picture(whole)[0])
    assert mended in {(), ("filling within its data left out",)}


def test_odd_values_that_libjpeg_warns_of_and_does_not_use_are_a_note() -> None:
    whole = jpeg(False)
    right = open_picture(whole)[0]
    scan = starts(whole)[-1]
    bounds = scan + 2 + int.from_bytes(whole[scan + 2 : scan + 4], "big") - 3
    for odd, note in (
        (whole[:11] + b"\x05" + whole[12:], "an unknown version of JFIF"),
        (whole[:bounds] + b"\0\0\0" + whole[bounds + 3 :], "the bounds of another kind of scan"),
    ):
        pixels, _, mended = open_picture(odd)
        np.testing.assert_array_equal(pixels, right)
        assert mended == (note,)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("filling", [bytes(20), bytes(3), b"\r\n" * 10, b" " * 40])
def test_filling_before_the_end_of_a_jpeg_is_a_note_and_no_pixel_is_lost(filling: bytes, progressive: bool) -> None:
    whole = jpeg(progressive)
    filled = whole[:-2] + filling + whole[-2:]
    pixels, _, mended = open_picture(filled)
    np.testing.assert_array_equal(pixels, open_picture(whole)[0])
    assert mended in {(), ("filling before the end left out",)}
    made = prepare_jpeg(filled, shortest_side_px=None, min_side_px=1, max_megapixels=1, quality=95)
    assert made.mended == mended


def test_what_libjpeg_calls_by_the_same_name_where_pixels_are_lost_is_set_aside() -> None:
    """A changed bit ends a row of blocks too early, and the bytes of the rest are over."""
    whole, rng, lost = jpeg(False), np.random.default_rng(1), 0
    start = whole.index(b"\xff\xda") + 14
    right = open_picture(whole)[0].astype(int)
    for _ in range(300):
        raw = bytearray(whole)
        at = int(rng.integers(start, len(raw) - 2))
        raw[at] ^= 1 << int(rng.integers(8))
        try:
            pixels, _, mended = open_picture(bytes(raw))
        except BadPictureError as bad:
            lost += "extraneous bytes before marker 0xd9" in str(bad)
            continue
        assert mended == () or not np.abs(pixels - right).any()
    assert lost > 50
