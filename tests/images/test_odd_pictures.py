"""Pictures whose pixels are known, in files out of the ordinary: shown as they are, or set aside."""

from __future__ import annotations

import io

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


def jpeg(progressive: bool) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=95, progressive=progressive)
    return file.getvalue()


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
