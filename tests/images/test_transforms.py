"""Pictures as people really have them: opened, mended or set aside with a reason, and fitted as the libraries do."""

from __future__ import annotations

import io
import itertools
import random
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageOps
from timm.data import create_transform
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from twinlens.images.decode import FORMATS, ORIENTATION, BadPictureError, PreparedPicture, open_picture, prepare_jpeg
from twinlens.images.transforms import (
    Interpolation,
    PixelSpec,
    batch_pixels,
    decode_and_fit,
    fit_picture,
    map_ahead,
    resize,
    scale_size,
    to_numpy,
    to_tensor,
)
from twinlens.models.encoders.timm import read_pixel_spec

UNIT: dict[str, Any] = {
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
}  # what the libraries normalise with, to get grey levels back
PIL_METHOD: dict[Interpolation, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Something like a photo: slopes steep enough to tell a shift by a pixel, and a little noise."""
    rng = np.random.default_rng(seed)
    blobs = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray((smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def prepare(raw: bytes, name: str = "", **changes: Any) -> PreparedPicture:
    limits = {"shortest_side_px": 384, "min_side_px": 8, "max_megapixels": 1.0, "quality": 95}
    return prepare_jpeg(raw, name=name, **(limits | changes))


def reason(raw: bytes, name: str = "", **changes: Any) -> str:
    """Why a picture is set aside."""
    with pytest.raises(BadPictureError) as caught:
        prepare(raw, name, **changes)
    return str(caught.value)


def decoded(jpeg: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(jpeg, colorspace="RGB")


def levels(ours: np.ndarray, theirs: np.ndarray) -> int:
    """The largest difference of two pictures of one size, in grey levels."""
    assert ours.shape == theirs.shape
    return int(np.abs(ours.astype(np.int16) - theirs.astype(np.int16)).max())


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, pixels: bytes = b"") -> bytes:
    """A PNG written by hand, for what PIL does not write."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


def jpeg_with_exif(block: bytes) -> bytes:
    """A JPEG whose EXIF block holds any bytes."""
    plain, exif = saved(photo(50, 40), "JPEG"), b"Exif\x00\x00" + block
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


# ---------------------------------------------------------------- set aside


def test_an_empty_file_is_set_aside_with_its_reason() -> None:
    assert reason(b"", "a.jpg") == "empty file"


@pytest.mark.parametrize("raw", [b"no picture at all\n", b"<html><body>404</body></html>", b"\xff\xd8\xff", bytes(64)])
def test_a_file_that_is_no_picture_is_set_aside_with_the_bytes_it_starts_with(raw: bytes) -> None:
    assert reason(raw, "a.jpg") == f"not a picture: starts with {raw[:12]!r}; wanted: {', '.join(FORMATS)}"


@pytest.mark.parametrize("kind", ["ICO", "ICNS", "EPS"])
def test_formats_that_are_decoded_before_their_size_is_known_are_not_opened(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = saved(photo(64, 64), kind)
    plugin = Image.OPEN[kind]
    monkeypatch.setitem(Image.OPEN, kind, (lambda *_: pytest.fail(f"{kind} was opened"), plugin[1]))
    assert reason(raw, f"a.{kind.lower()}").startswith("not a picture: starts with")


def test_an_icon_around_a_gigantic_picture_is_never_decoded() -> None:
    inside = png(30_000, 30_000, bits=8, colour=2)
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inside), 22)
    icon = struct.pack("<HHH", 0, 1, 1) + entry + inside
    assert reason(icon, "a.ico", max_megapixels=100.0).startswith("not a picture: starts with")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_that_is_named_is_read(kind: str) -> None:
    assert prepare(saved(photo(64, 48), kind)).width == 64


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("JPEG", 0.5),
        ("JPEG", 0.99),
        ("PNG", 0.9),
        ("PNG", 0.99),
        ("GIF", 0.9),
        ("TIFF", 0.5),
        ("BMP", 0.99),
        ("WEBP", 0.9),
    ],
)
def test_a_truncated_picture_is_set_aside_with_its_reason(kind: str, share: float) -> None:
    whole = saved(photo(64, 48), kind)
    assert reason(whole[: int(len(whole) * share)]).startswith("damaged")


def test_a_truncated_progressive_or_cmyk_jpeg_is_set_aside_too() -> None:
    for whole in (saved(photo(64, 48), "JPEG", progressive=True), saved(photo(64, 48).convert("CMYK"), "JPEG")):
        assert reason(whole[: len(whole) // 2]).startswith("damaged")


def test_damage_is_found_in_a_jpeg_whose_bytes_would_have_been_kept() -> None:
    whole = saved(photo(64, 48), "JPEG")
    assert prepare(whole).jpeg == whole
    assert reason(whole[:-40]).startswith("damaged")


def test_a_gigantic_picture_is_refused_by_its_header_alone() -> None:
    raw = png(30_000, 30_000, bits=8, colour=2)  # holds no pixels: decoding it would end as damage
    assert reason(raw, max_megapixels=100.0) == "30000 x 30000 px: over 100 megapixels"


def test_the_limit_of_megapixels_is_the_last_size_allowed() -> None:
    assert prepare(saved(photo(100, 50), "PNG"), max_megapixels=0.005).width == 100
    assert reason(saved(photo(101, 50), "PNG"), max_megapixels=0.005) == "101 x 50 px: over 0.005 megapixels"


@pytest.mark.parametrize("size", [(7, 200), (200, 7), (1, 1)])
def test_a_picture_with_a_tiny_side_is_set_aside(size: tuple[int, int]) -> None:
    assert reason(saved(photo(*size), "PNG")) == f"{size[0]} x {size[1]} px: a side is under 8 px"


def test_a_strip_longer_than_a_jpeg_can_be_is_set_aside() -> None:
    raw = saved(Image.new("RGB", (66_000, 8)), "PNG")
    assert reason(raw) == "66000 x 8 px: a JPEG's sides end at 65500 px"


def test_samples_that_are_no_numbers_are_set_aside() -> None:
    values = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    values[3, 3] = np.nan
    assert "no numbers" in reason(saved(Image.fromarray(values), "TIFF"))


@given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.floats(0.05, 1),
)
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore")  # PIL's decoders speak up about what they find
def test_a_damaged_file_is_either_usable_or_set_aside_and_never_anything_else(
    kind: str, flips: list[tuple[float, int]], cut: float
) -> None:
    raw = bytearray(saved(photo(24, 20), kind))
    for where, value in flips:
        raw[int(where * len(raw))] = value
    try:
        made = prepare(bytes(raw[: int(len(raw) * cut)]))
    except BadPictureError as bad:
        assert str(bad)
    else:
        assert decoded(made.jpeg).shape == (made.height, made.width, 3)


# ---------------------------------------------------------------- kept as it is


@pytest.mark.parametrize(
    ("mode", "name"), [("RGB", "a.jpg"), ("L", "A.JPEG"), ("RGB", "without-ending"), ("L", "odd.name.jpg"), ("RGB", "")]
)
def test_a_plain_jpeg_keeps_its_bytes(mode: str, name: str) -> None:
    raw = saved(photo(60, 40).convert(mode), "JPEG", quality=80)
    assert prepare(raw, name) == PreparedPicture(raw, 60, 40, ())


def test_a_jpeg_with_bytes_after_its_end_is_plain() -> None:
    raw = saved(photo(60, 40), "JPEG") + b"something a camera left here"
    assert prepare(raw).jpeg == raw


def test_a_jpeg_at_the_size_keeps_its_bytes_and_a_larger_one_shrinks_to_it() -> None:
    at_size, larger = saved(photo(90, 64), "JPEG"), saved(photo(91, 65), "JPEG")
    assert prepare(at_size, shortest_side_px=64).jpeg == at_size
    assert prepare(larger, shortest_side_px=64).jpeg != larger


@pytest.mark.parametrize(
    ("size", "expected"), [((200, 100), (128, 64)), ((100, 201), (64, 128)), ((333, 99), (215, 64))]
)
def test_a_larger_picture_shrinks_until_its_shorter_side_fits(size: tuple[int, int], expected: tuple[int, int]) -> None:
    made = prepare(saved(photo(*size), "JPEG"), shortest_side_px=64)
    assert (made.width, made.height) == expected
    assert decoded(made.jpeg).shape == (expected[1], expected[0], 3)
    assert made.mended == ()


def test_a_smaller_picture_is_never_enlarged_and_no_size_means_never_shrunk() -> None:
    small, large = saved(photo(30, 20), "PNG"), saved(photo(500, 400), "JPEG")
    assert (prepare(small).width, prepare(small).height) == (30, 20)
    assert prepare(large, shortest_side_px=None).jpeg == large


def test_pixels_may_be_written_to_whatever_the_format() -> None:
    for kind in ("JPEG", "PNG", "GIF"):  # torch warns of memory that it may not write to
        assert open_picture(saved(photo(40, 30), kind))[0].flags.writeable


def test_a_shrunken_picture_is_what_pil_makes_of_it() -> None:
    image = photo(300, 200)
    made = prepare(saved(image, "PNG"), shortest_side_px=100, quality=100)
    assert levels(decoded(made.jpeg), np.asarray(image.resize((150, 100), Image.Resampling.BICUBIC))) <= 6  # JPEG's own


# ---------------------------------------------------------------- mended

RED, GREEN, BLUE, GREY, WHITE = (200, 30, 40), (20, 160, 60), (30, 60, 210), (128, 128, 128), (255, 255, 255)


def flat(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (32, 24), colour)


def colour_of(raw: bytes) -> np.ndarray:
    """The colour in the middle of a prepared picture."""
    return decoded(prepare(raw).jpeg)[12, 16].astype(int)


@pytest.mark.parametrize("colour", [RED, GREEN, BLUE, GREY, WHITE])
def test_a_cmyk_jpeg_keeps_its_colours(colour: tuple[int, int, int]) -> None:
    raw = saved(flat(colour).convert("CMYK"), "JPEG", quality=95)
    assert prepare(raw).mended == ("CMYK turned into RGB",)
    assert np.abs(colour_of(raw) - colour).max() <= 4


def test_a_16_bit_grey_png_is_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65_535, 64).astype(np.uint16)
    raw = saved(Image.fromarray(np.tile(ramp, (16, 1))), "PNG")
    pixels, _, mended = open_picture(raw)
    assert mended == ("I;16 turned into RGB",)
    assert levels(pixels[0, :, 0], (ramp / 257).round().astype(np.uint8)) <= 1
    assert levels(pixels[0, :, 0], pixels[15, :, 2]) == 0


def test_a_16_bit_colour_png_keeps_its_colours() -> None:
    rows = b"\x00" + struct.pack(">3H", *(257 * level for level in RED)) * 32
    assert np.abs(colour_of(png(32, 24, bits=16, colour=2, pixels=rows * 24)) - RED).max() <= 3


def test_a_float_picture_spans_black_to_white() -> None:
    ramp = np.tile(np.linspace(0, 0.25, 64, dtype=np.float32), (16, 1))
    pixels, _, mended = open_picture(saved(Image.fromarray(ramp), "TIFF"))
    assert mended == ("F turned into RGB",)
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[0, -1].tolist() == [255, 255, 255]


def animated(kind: str) -> bytes:
    first, *others = (flat(colour) for colour in (RED, GREEN, BLUE))
    return saved(first, kind, save_all=True, append_images=others, duration=50)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_kept_and_noted(kind: str) -> None:
    raw = animated(kind)
    assert "first of 3 frames" in prepare(raw).mended
    assert np.abs(colour_of(raw) - RED).max() <= 6


def test_the_first_page_of_a_tiff_is_kept_and_noted() -> None:
    assert "first of 3 frames" in prepare(animated("TIFF")).mended


def test_a_jpeg_that_carries_a_second_picture_is_no_animation() -> None:
    raw = saved(flat(RED), "MPO", save_all=True, append_images=[flat(GREEN)])
    made = prepare(raw, "phone.jpg")
    assert made.mended == ()
    assert np.abs(colour_of(raw) - RED).max() <= 3


def half_transparent(mode: str) -> Image.Image:
    """Red on the left; on the right a colour that must not show, because it is transparent."""
    image = flat(RED).convert("RGBA")
    image.paste((0, 0, 0, 0), (16, 0, 32, 24))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    pixels, _, mended = open_picture(saved(half_transparent(mode), "PNG"))
    assert mended == (f"{mode} turned into RGB",)
    assert pixels[12, 24].tolist() == list(WHITE)
    assert pixels[12, 8].tolist() == (list(RED) if mode == "RGBA" else [82] * 3)  # 82 is red's grey


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_is_laid_on_white(kind: str) -> None:
    image = Image.new("P", (32, 24), 1)
    image.putpalette([9, 9, 9, *RED])
    image.paste(0, (16, 0, 32, 24))
    pixels, _, mended = open_picture(saved(image, kind, transparency=0))
    assert mended == ("P turned into RGB",)
    assert (pixels[12, 24].tolist(), pixels[12, 8].tolist()) == (list(WHITE), list(RED))


def test_a_transparent_colour_of_a_picture_without_alpha_is_laid_on_white() -> None:
    image = flat(RED)
    image.paste(BLUE, (16, 0, 32, 24))
    pixels, _, _ = open_picture(saved(image, "PNG", transparency=BLUE))
    assert (pixels[12, 24].tolist(), pixels[12, 8].tolist()) == (list(WHITE), list(RED))


def test_half_transparency_mixes_with_white() -> None:
    pixels, _, _ = open_picture(saved(Image.new("RGBA", (16, 16), (0, 0, 0, 128)), "PNG"))
    assert abs(int(pixels[8, 8, 0]) - 127) <= 1


@pytest.mark.parametrize("mode", ["1", "P", "L"])
def test_pictures_of_few_colours_become_rgb(mode: str) -> None:
    image = photo(40, 30).convert(mode)
    pixels, _, _ = open_picture(saved(image, "PNG"))
    assert levels(pixels, np.asarray(image.convert("RGB"))) == 0


@pytest.mark.parametrize(
    ("kind", "orientation"), [*(("JPEG", n) for n in range(1, 9)), ("PNG", 5), ("WEBP", 6), ("TIFF", 7), ("PNG", 1)]
)
def test_a_picture_stands_upright_as_its_exif_says(kind: str, orientation: int) -> None:
    lossless = {"lossless": True} if kind == "WEBP" else {}
    raw = saved(photo(53, 40), kind, exif=with_orientation(orientation), **lossless)
    pixels, _, mended = open_picture(raw)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(raw))).convert("RGB")
    assert levels(pixels, np.asarray(upright)) <= 1  # two JPEG decoders may round differently
    if kind != "TIFF":  # PIL turns these by itself
        assert mended == (() if orientation == 1 else ("turned upright as its EXIF says",))


def test_a_picture_that_was_turned_carries_no_orientation_any_more() -> None:
    made = prepare(saved(photo(53, 40), "JPEG", exif=with_orientation(6)))
    assert (made.width, made.height) == (40, 53)
    assert ORIENTATION not in Image.open(io.BytesIO(made.jpeg)).getexif()


@pytest.mark.parametrize("value", [0, 9, 4242])
def test_an_orientation_that_does_not_exist_is_upright(value: int) -> None:
    raw = saved(photo(53, 40), "JPEG", exif=with_orientation(value))
    assert prepare(raw).jpeg == raw


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"garbage garbage garbage",
        b"MM\x00*\x00\x00\x00\x08\x00\x05\x01",  # five entries announced, none there
        b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x02\x00\x04\x00\x00\x00abc\x00",  # an orientation in letters
    ],
    ids=["empty", "garbage", "cut", "letters"],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_costs_no_picture(block: bytes) -> None:
    raw = jpeg_with_exif(block)
    assert prepare(raw) == PreparedPicture(raw, 50, 40, ())


@pytest.mark.parametrize(("kind", "name"), [("PNG", "a.jpg"), ("JPEG", "a.png"), ("WEBP", "a.JPG"), ("GIF", "b.c.png")])
def test_a_wrongly_named_picture_is_used_and_noted(kind: str, name: str) -> None:
    ending = name.rsplit(".", 1)[1].lower()
    made = prepare(saved(photo(40, 30), kind), name)
    assert made.mended[0] == f"{kind} named .{ending}"
    assert decoded(made.jpeg).shape == (30, 40, 3)


@pytest.mark.parametrize(("kind", "ending"), [("TIFF", "tif"), ("BMP", "bmp"), ("WEBP", "webp"), ("PNG", "png")])
def test_other_formats_are_pictures_like_any_other(kind: str, ending: str) -> None:
    image = photo(40, 30)
    raw, name = saved(image, kind, **({"lossless": True} if kind == "WEBP" else {})), f"a.{ending}"
    assert levels(open_picture(raw)[0], np.asarray(image)) == 0
    made = prepare(raw, name)
    assert (made.width, made.height, made.mended) == (40, 30, ())
    assert np.abs(decoded(made.jpeg).astype(int) - np.asarray(image)).mean() < 4  # JPEG's own, on noise


# ---------------------------------------------------------------- resizing and fitting


def horizontally_first(image: Image.Image, width: int, height: int, method: Image.Resampling) -> np.ndarray:
    """PIL's resize, made to take the horizontal pass first."""
    return np.asarray(image.resize((width, image.height), method).resize((width, height), method))


def differences(size: tuple[int, int], target: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """How far our resize is from PIL's, sample by sample, on a photo and on noise, the hardest there is."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    found = []
    for picture in (np.array(photo(*size)), noise):
        ours = to_numpy(resize(to_tensor(picture), target[1], target[0], interpolation))
        theirs = horizontally_first(Image.fromarray(picture), *target, PIL_METHOD[interpolation])
        found.append(np.abs(ours.astype(np.int16) - theirs.astype(np.int16)))
    return np.stack(found)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("size", "target"),
    [((640, 480), (224, 150)), ((333, 501), (61, 149)), ((333, 501), (333, 150)), ((1001, 150), (300, 33))],
)
def test_a_shrunken_picture_agrees_with_pil_within_a_grey_level(
    size: tuple[int, int], target: tuple[int, int], interpolation: Interpolation
) -> None:
    assert differences(size, target, interpolation).max() <= 1


@pytest.mark.parametrize(("size", "interpolation"), [((97, 31), "bicubic"), ((333, 501), "bilinear")])
def test_an_enlarged_picture_agrees_with_pil_within_two_grey_levels_and_nearly_everywhere_within_one(
    size: tuple[int, int], interpolation: Interpolation
) -> None:
    found = differences(size, (700, 520), interpolation)
    assert found.max() <= 2
    assert (found > 1).mean() < 1e-4


def test_resize_to_the_same_size_changes_nothing() -> None:
    picture = to_tensor(np.array(photo(40, 30)))
    assert resize(picture, 30, 40) is picture


def by_library(transform: Callable[[Image.Image], torch.Tensor], image: Image.Image) -> np.ndarray:
    """What a library's transform makes of a picture, in grey levels again."""
    return (transform(image) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def ours(image: Image.Image, spec: PixelSpec) -> np.ndarray:
    return to_numpy(fit_picture(to_tensor(np.array(image)), spec))


# width and height: both ways round, odd, equal to the target or next to it, smaller than it, and very elongated
SIZES = [
    (640, 480),
    (481, 641),
    (333, 500),
    (225, 224),
    (224, 224),
    (223, 225),
    (50, 37),
    (9, 14),
    (1500, 21),
    (19, 1300),
]

INTERPOLATIONS: tuple[Interpolation, ...] = ("bicubic", "bilinear")


def covering(choices: Sequence[tuple[Any, ...]], cases: int) -> list[tuple[Any, ...]]:
    """So many pairs of a size and a choice: every size, every choice, and no pair twice."""
    turns = [(SIZES[n % len(SIZES)], *choices[(n + n // len(SIZES)) % len(choices)]) for n in range(cases)]
    assert len(set(turns)) == cases
    assert {turn[1:] for turn in turns} == set(choices)
    assert {turn[0] for turn in turns} == set(SIZES)
    return turns


@pytest.mark.parametrize(
    ("size", "mode", "interpolation"),
    [
        (size, mode, INTERPOLATIONS[(n + m) % 2])
        for n, size in enumerate(SIZES)
        for m, mode in enumerate(("shortest", "squash", "longest"))
    ],
)
def test_fit_agrees_with_open_clip(size: tuple[int, int], mode: Any, interpolation: Interpolation) -> None:
    image, spec = photo(*size), PixelSpec(224, 224, mode, interpolation=interpolation, fill=7, **UNIT)
    settings = PreprocessCfg(size=224, interpolation=interpolation, resize_mode=mode, fill_color=7, **UNIT)
    theirs = by_library(image_transform_v2(settings, is_train=False), image)
    assert levels(ours(image, spec), theirs) <= 2


CROPS = [
    (224, 0.875, "center"),
    (224, 0.9, "center"),
    (224, 0.95, "center"),
    (160, 0.8, "center"),
    (288, 0.9, "center"),
    (224, 1.0, "squash"),
    (224, 0.9, "squash"),
]


@pytest.mark.parametrize(("size", "side", "crop_pct", "crop_mode"), covering(CROPS, 14))
def test_fit_agrees_with_timm(size: tuple[int, int], side: int, crop_pct: float, crop_mode: str) -> None:
    config: dict[str, Any] = {
        "input_size": (3, side, side),
        "interpolation": "bicubic",
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
        **UNIT,
    }
    image = photo(*size)
    assert levels(ours(image, read_pixel_spec(config)), by_library(create_transform(**config), image)) <= 2


@pytest.mark.parametrize(("size", "resize_px", "crop_px"), covering([(256, 224), (232, 224), (200, 224), (97, 96)], 10))
def test_fit_agrees_with_torchvision(size: tuple[int, int], resize_px: int, crop_px: int) -> None:
    image = photo(*size)
    theirs = transforms.Compose(
        [
            transforms.Resize(resize_px, InterpolationMode.BICUBIC),
            transforms.CenterCrop(crop_px),
            transforms.ToTensor(),
        ]
    )
    spec = PixelSpec(crop_px, crop_px, "shortest", resize_px=resize_px, **UNIT)
    assert levels(ours(image, spec), by_library(theirs, image)) <= 2


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), shorter=st.integers(1, 600))
@settings(max_examples=300, deadline=None)
def test_sides_are_rounded_as_torchvision_rounds_them(height: int, width: int, shorter: int) -> None:
    from torchvision.transforms.functional import _compute_resized_output_size

    assert list(scale_size(height, width, shorter)) == _compute_resized_output_size((height, width), [shorter])


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    mode=st.sampled_from(["shortest", "squash", "longest"]),
    resize_px=st.none() | st.integers(20, 48),
)
@settings(max_examples=150, deadline=None)
def test_fit_makes_the_size_that_the_model_reads_of_any_picture(
    height: int, width: int, mode: Any, resize_px: int | None
) -> None:
    spec = PixelSpec(32, 32, mode, resize_px=resize_px, **UNIT)
    assert fit_picture(torch.zeros((3, height, width), dtype=torch.uint8), spec).shape == (3, 32, 32)


def test_what_longest_leaves_free_is_filled_on_both_sides() -> None:
    picture = torch.full((3, 10, 40), 200, dtype=torch.uint8)
    fitted = fit_picture(picture, PixelSpec(40, 40, "longest", fill=9, **UNIT))
    assert fitted[0, :, 0].tolist() == [9] * 15 + [200] * 10 + [9] * 15


def test_a_batch_is_its_pictures_one_by_one() -> None:
    jpegs = [saved(photo(40 + 9 * n, 50, seed=n), "JPEG") for n in range(3)]
    spec = PixelSpec(32, 32, "shortest", **UNIT)
    batch = batch_pixels(jpegs, spec)
    assert batch.shape == (3, 3, 32, 32)
    assert all(torch.equal(batch[n], decode_and_fit(jpegs[n], spec)) for n in range(3))


def test_a_grey_jpeg_of_a_shard_is_three_equal_channels() -> None:
    fitted = decode_and_fit(saved(photo(50, 40).convert("L"), "JPEG"), PixelSpec(32, 32, "squash", **UNIT))
    assert torch.equal(fitted[0], fitted[1])
    assert torch.equal(fitted[0], fitted[2])


# ---------------------------------------------------------------- ahead of the model


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_results_keep_their_order_however_long_each_takes() -> None:
    waits = [random.Random(n).random() * 0.003 for n in range(60)]

    def work(n: int) -> int:
        time.sleep(waits[n])
        return n * n

    assert list(map_ahead(work, range(60), threads=4)) == [n * n for n in range(60)]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_fewer_tasks_than_threads_are_all_done(count: int) -> None:
    assert list(map_ahead(str, range(count), threads=8)) == [str(n) for n in range(count)]


@pytest.mark.parametrize(("threads", "waiting", "held"), [(1, 1, 1), (2, None, 4), (4, 3, 3)])
def test_what_is_in_flight_is_bounded(threads: int, waiting: int | None, held: int) -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        for n in range(1, 101):
            taken += 1
            yield n

    for given_out, result in enumerate(map_ahead(lambda n: n, tasks(), threads, waiting)):
        assert result == given_out + 1
        assert taken - given_out <= held + 1  # the one that is handed over just now


def test_an_error_in_the_work_reaches_the_caller_after_the_results_before_it() -> None:
    def work(n: int) -> int:
        if n == 5:
            raise ValueError("the sixth task")
        return n

    seen = []
    with pytest.raises(ValueError, match="the sixth task"):
        for result in map_ahead(work, range(100), threads=3):
            seen.append(result)
    assert seen == [0, 1, 2, 3, 4]
    assert workers() == []


def test_an_error_in_the_source_of_tasks_reaches_the_caller() -> None:
    def tasks() -> Iterator[int]:
        yield from range(10)
        raise OSError("the archive broke off")

    with pytest.raises(OSError, match="the archive broke off"):
        list(map_ahead(lambda n: n, tasks(), threads=2))
    assert workers() == []


def test_a_caller_that_stops_early_leaves_no_work_and_no_threads_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    stopped, shutdown = threading.Event(), ThreadPoolExecutor.shutdown

    def work(n: int) -> int:
        begun.append(n)
        assert n < 3 or stopped.wait(300)
        return n

    def stopping(pool: ThreadPoolExecutor, *args: Any, **named: Any) -> None:
        stopped.set()  # once what waits was called off
        shutdown(pool, *args, **named)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", stopping)
    results = map_ahead(work, itertools.count(), threads=2, waiting=40)
    assert list(itertools.islice(results, 3)) == [0, 1, 2]
    results.close()  # type: ignore[attr-defined]
    assert workers() == []
    assert len(begun) <= 5  # the three, and one that each thread had begun, of the 43 that had been asked for


def test_threads_that_decode_leave_the_models_threads_alone() -> None:
    before = torch.get_num_threads()
    inside = set(map_ahead(lambda _: torch.get_num_threads(), range(8), threads=2))
    assert inside == {1}
    assert torch.get_num_threads() == before
