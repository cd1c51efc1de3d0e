"""Pictures as bytes and as pixels: opening what people really have, and the transform models want.

Two jobs, both on uint8 pixels, because that is where the time goes: a float path through PIL costs
twice as much and ends within one grey level of the same picture.

*Opening* (`open_picture`, `prepare_jpeg`) turns any file into upright 8-bit RGB, or says why not.
*Fitting* (`PixelSpec`, `fit`) resizes and crops to what a model reads; the model's mean and standard
deviation are applied on the device, to the whole batch.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import simplejpeg
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from twinlens.core.errors import DataError

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked from the header, before any pixel is decoded

ORIENTATION = 0x0112  # the EXIF tag
WHITE = (255, 255, 255)
LONGEST_JPEG_PX = 65_500  # libjpeg's limit
# What is opened. PIL knows more, but an ICO or ICNS decodes the picture inside before it tells its size, and an EPS
# is a program that Ghostscript would run. AVIF needs a PIL that was built with it.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")


class BadPictureError(DataError):
    """A picture that has to be set aside; the message is the reason."""


@dataclass(frozen=True)
class Prepared:
    """A picture as the shards hold it."""

    jpeg: bytes
    width: int
    height: int
    mended: tuple[str, ...]  # what was out of the ordinary; empty for a plain picture
    perceptual_hash: bytes = b""  # where one was asked for


def prepare_jpeg(
    raw: bytes,
    *,
    shortest_side_px: int | None,
    min_side_px: int,
    max_megapixels: float,
    quality: int,
    name: str = "",
    perceptual_hash: Callable[[np.ndarray], bytes] | None = None,
) -> Prepared:
    """Turn a picture file into an upright RGB JPEG whose shorter side is at most `shortest_side_px`.

    A JPEG that already is one keeps its bytes; it is still decoded once, so that damage is found here.

    Raises:
        BadPictureError: empty, no picture, damaged, too large, too small or too long.
    """
    picture, header, mended = open_picture(raw, max_megapixels=max_megapixels, name=name)
    height, width = picture.shape[:2]
    if min(height, width) < min_side_px:
        raise BadPictureError(f"{width} x {height} px: a side is under {min_side_px} px")
    plain = header.format == "JPEG" and not mended
    looked = perceptual_hash or (lambda _: b"")
    if shortest_side_px is not None and min(height, width) > shortest_side_px:
        picture = to_numpy(resize(to_tensor(picture), *scaled(height, width, shortest_side_px)))
        height, width = picture.shape[:2]
    elif plain:
        return Prepared(raw, width, height, (), looked(picture))
    if max(height, width) > LONGEST_JPEG_PX:
        raise BadPictureError(f"{width} x {height} px: a JPEG's sides end at {LONGEST_JPEG_PX} px")
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=quality, colorsubsampling="444")
    return Prepared(jpeg, width, height, mended, looked(picture))


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are read."""

    format: str
    width: int
    height: int


def open_picture(
    raw: bytes, *, max_megapixels: float = float("inf"), name: str = ""
) -> tuple[UInt8[np.ndarray, "height width 3"], Header, tuple[str, ...]]:
    """Decode a picture of one of `FORMATS` to upright 8-bit RGB.

    Returns:
        The pixels, the header, and what had to be mended: a rotation noted in EXIF, CMYK or 16-bit
        samples, transparency (laid on white), the first of several frames, a name whose
        ending is not the file's format.

    Raises:
        BadPictureError: empty, none of `FORMATS`, damaged or larger than `max_megapixels`.
    """
    if not raw:
        raise BadPictureError("empty file")
    try:
        Image.init()  # registers what PIL was built with
        image = Image.open(io.BytesIO(raw), formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        raise BadPictureError(f"not a picture: starts with {raw[:12]!r}; wanted: {', '.join(FORMATS)}") from None
    except Exception as error:  # PIL's decoders raise whatever the bytes lead them to
        raise BadPictureError(f"damaged header: {error}") from None
    header = Header(image.format or "?", *image.size)
    if header.width * header.height > max_megapixels * 1e6:
        raise BadPictureError(f"{header.width} x {header.height} px: over {max_megapixels:g} megapixels")
    try:
        mended = _peculiarities(image, name)
        if header.format == "JPEG" and image.mode in ("RGB", "L"):
            pixels = simplejpeg.decode_jpeg(raw, colorspace="RGB")  # strict: a truncated file is an error
        else:
            pixels = np.array(_to_rgb(image))  # PIL's own memory is read-only, which torch warns of
        orientation = image.getexif().get(ORIENTATION)  # anything, where the block is broken
    except Exception as error:
        raise BadPictureError(f"damaged: {error}") from None
    if orientation in UPRIGHT:
        pixels = UPRIGHT[orientation](pixels)
        mended = (*mended, "turned upright as its EXIF says")
    return np.ascontiguousarray(pixels), header, mended


# What makes a picture upright, by its EXIF orientation (1 is upright).
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels.swapaxes(0, 1), 2),
    8: np.rot90,
}


def _peculiarities(image: Image.Image, name: str) -> tuple[str, ...]:
    found = []
    ending = name.rsplit(".", 1)[-1].lower() if "." in name else ""
    expected = Image.registered_extensions().get(f".{ending}")
    if expected and expected != image.format and {expected, image.format} != {"JPEG", "MPO"}:
        found.append(f"{image.format} named .{ending}")
    if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
        found.append(f"first of {frames} frames")
    if image.mode not in ("RGB", "L"):
        found.append(f"{image.mode} turned into RGB")
    return tuple(found)


def _to_rgb(image: Image.Image) -> Image.Image:
    image.seek(0)
    image.load()
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits a sample: PIL's own conversion clips at 255
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it holds samples that are no numbers")
        top = max(65_535.0 if image.mode.startswith("I") else 1e-9, float(values.max()))
        return Image.fromarray((values.clip(0, top) * (255.0 / top)).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*WHITE, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


# ---------------------------------------------------------------- fitting

Interpolation = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class PixelSpec:
    """What a model reads: the picture's size and how a picture is brought to it.

    * `shortest`: the shorter side is scaled to `resize_px`, then the middle is cropped (CLIP, most of timm).
    * `squash`: both sides are scaled to the size, whatever the shape (SigLIP, BLIP, some of timm).
    * `longest`: the longer side is scaled to the size, the rest filled with `fill`.
    """

    height: int
    width: int
    mode: Literal["shortest", "squash", "longest"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    resize_px: int | None = None  # what the (shorter) side is scaled to before the crop; the size itself if absent
    fill: int = 0
    crop_rounds_down: bool = False  # an odd surplus: as transformers does; torchvision and timm round half to even


def to_tensor(picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[torch.Tensor, "3 height width"]:
    """A view of the same bytes, channels first."""
    return torch.from_numpy(picture).permute(2, 0, 1)


def to_numpy(picture: UInt8[torch.Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """A view of the same bytes, channels last."""
    return picture.permute(1, 2, 0).numpy()


def scaled(height: int, width: int, shorter_px: int) -> tuple[int, int]:
    """Height and width when the shorter side becomes `shorter_px` (the longer is rounded down, as torchvision does)."""
    if height <= width:
        return shorter_px, int(shorter_px * width / height)
    return int(shorter_px * height / width), shorter_px


def resize(
    picture: UInt8[torch.Tensor, "3 h w"], height: int, width: int, interpolation: Interpolation = "bicubic"
) -> UInt8[torch.Tensor, "3 height width"]:
    """Resize with antialiasing on uint8, horizontally first.

    PIL gives the same picture within one grey level when it works in that order too (two, in a few
    samples of a million, when a picture is enlarged). It may take the vertical pass first when that
    is cheaper, which moves a few pixels at hard edges further.
    """
    if picture.shape[1:] == (height, width):
        return picture
    return torch.nn.functional.interpolate(
        picture[None], size=(height, width), mode=interpolation, antialias=True, align_corners=False
    )[0]


def fit(picture: UInt8[torch.Tensor, "3 h w"], spec: PixelSpec) -> UInt8[torch.Tensor, "3 height width"]:
    """Bring an upright RGB picture to what a model reads."""
    _, height, width = picture.shape
    if spec.mode == "squash":
        scaled_px = spec.resize_px or spec.height
        squashed = resize(picture, scaled_px, scaled_px * spec.width // spec.height, spec.interpolation)
        return _crop_middle(_pad(squashed, spec), spec)
    if spec.mode == "longest":
        scale = min(spec.height / height, spec.width / width)
        inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
        return _pad(resize(picture, inner_height, inner_width, spec.interpolation), spec)
    shorter = spec.resize_px or min(spec.height, spec.width)
    picture = resize(picture, *scaled(height, width, shorter), spec.interpolation)
    return _crop_middle(_pad(picture, spec), spec)


def _crop_middle(picture: UInt8[torch.Tensor, "3 h w"], spec: PixelSpec) -> UInt8[torch.Tensor, "3 height width"]:
    def start(surplus: int) -> int:
        return surplus // 2 if spec.crop_rounds_down else round(surplus / 2.0)

    top, left = start(picture.shape[1] - spec.height), start(picture.shape[2] - spec.width)
    return picture[:, top : top + spec.height, left : left + spec.width]


def _pad(picture: UInt8[torch.Tensor, "3 h w"], spec: PixelSpec) -> UInt8[torch.Tensor, "3 h2 w2"]:
    down, right = spec.height - picture.shape[1], spec.width - picture.shape[2]
    if down <= 0 and right <= 0:
        return picture
    down, right = max(down, 0), max(right, 0)
    sides = (right // 2, right - right // 2, down // 2, down - down // 2)
    return torch.nn.functional.pad(picture, sides, value=spec.fill)


def decode_and_fit(jpeg: bytes, spec: PixelSpec) -> UInt8[torch.Tensor, "3 height width"]:
    """The pixels a model reads, from the JPEG bytes of a shard."""
    return fit(to_tensor(simplejpeg.decode_jpeg(jpeg, colorspace="RGB")), spec)


def batch_pixels(jpegs: Sequence[bytes], spec: PixelSpec) -> UInt8[torch.Tensor, "images 3 height width"]:
    """A batch as one block of memory."""
    batch = torch.empty((len(jpegs), 3, spec.height, spec.width), dtype=torch.uint8)
    for i, jpeg in enumerate(jpegs):
        batch[i] = decode_and_fit(jpeg, spec)
    return batch


# ---------------------------------------------------------------- ahead of the model

T = TypeVar("T")
R = TypeVar("R")


def ahead(work: Callable[[T], R], tasks: Iterable[T], threads: int, waiting: int | None = None) -> Iterator[R]:
    """Results of `work` in order, worked out by threads a little ahead of the caller.

    Decoding and resizing leave the interpreter's lock, so threads suffice; measured on two cores,
    worker processes cost more than they give. At most `waiting` results are held (twice the threads
    if absent), so memory does not grow with the data.
    """
    waiting = waiting or 2 * threads
    pending: list = []
    source = iter(tasks)
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead", initializer=_one_core) as pool:
        try:
            for task in source:
                pending.append(pool.submit(work, task))
                if len(pending) > waiting:
                    yield pending.pop(0).result()
            while pending:
                yield pending.pop(0).result()
        finally:
            for future in pending:
                future.cancel()


def _one_core() -> None:
    # A thread that resizes would otherwise bring its own team of OpenMP threads and fight the model's.
    torch.set_num_threads(1)
