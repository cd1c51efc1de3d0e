"""Image decoding: bytes to upright RGB."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from jaxtyping import Float64, UInt8
from PIL import Image, UnidentifiedImageError

from twinlens.core.errors import DataError
from twinlens.core.resources import is_memory_shortage
from twinlens.images.decoding_costs import MAX_SCANNED_PX, explain_costly
from twinlens.images.jpeg import decode_jpeg
from twinlens.images.transforms import resize, scale_size, to_numpy, to_tensor

ORIENTATION = 0x0112  # the EXIF tag
WHITE = (255, 255, 255)
DEPTHS = (8, 10, 12, 14, 16)  # bits a sample, of those with more room in the file
LONGEST_JPEG_PX = 65_500  # libjpeg's limit
COMPRESSION, STRIPS, TILES = 259, 273, 324  # tags of a TIFF
JPEG_INSIDE = (6, 7)  # values of the first of them
DECODED_BYTES = 16  # of a pixel, while it is decoded: samples, a progressive picture's coefficients, the RGB made of it
VAGUE = ("WEBP", "AVIF")  # whose decoders do not say whether memory ran out
ALONE = threading.Lock()


# What is opened. PIL knows more, but an ICO or ICNS decodes the picture inside before it tells its size, and an EPS
# is a program that Ghostscript would run. AVIF needs a PIL that was built with it.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")


class BadPictureError(DataError):
    """A picture that has to be set aside; the message is the reason."""


@dataclass(frozen=True)
class PreparedPicture:
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
) -> PreparedPicture:
    """Turn a picture file into an upright RGB JPEG whose shorter side is at most `shortest_side_px`.

    A JPEG that already is one keeps its bytes; it is still decoded once, so that damage is found here.

    Raises:
        BadPictureError: empty, no picture, damaged, too large, too small or too long, or one that takes minutes.
        MemoryError: memory ran out, which is not the picture's fault.
    """
    picture, header, mended = open_picture(raw, max_megapixels=max_megapixels, name=name)
    height, width = picture.shape[:2]
    if min(height, width) < min_side_px:
        raise BadPictureError(f"{width} x {height} px: a side is under {min_side_px} px")
    plain = header.format == "JPEG" and not mended
    looked = perceptual_hash or (lambda _: b"")
    if shortest_side_px is not None and min(height, width) > shortest_side_px:
        picture = to_numpy(resize(to_tensor(picture), *scale_size(height, width, shortest_side_px)))
        height, width = picture.shape[:2]
    elif plain:
        return PreparedPicture(raw, width, height, (), looked(picture))
    if max(height, width) > LONGEST_JPEG_PX:
        raise BadPictureError(f"{width} x {height} px: a JPEG's sides end at {LONGEST_JPEG_PX} px")
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=quality, colorsubsampling="444")
    return PreparedPicture(jpeg, width, height, mended, looked(picture))


@dataclass(frozen=True)
class Header:
    """Facts that a file gives of itself before its pixels are read."""

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
        ending is not the file's format, stray bytes in a JPEG that hold no pixel.

    Raises:
        BadPictureError: empty, none of `FORMATS`, damaged, larger than `max_megapixels`, or it would take minutes.
        MemoryError: memory ran out, which is not the picture's fault.
    """
    if not raw:
        raise BadPictureError("empty file")
    if fault := explain_costly(raw):
        raise BadPictureError(fault)
    if size := _read_webp_size(raw):
        _refuse_large(*size, max_megapixels)
    image, header = _open(raw)
    _refuse_large(header.width, header.height, max_megapixels)
    try:
        pixels, mended, orientation = _decode(raw, name, image)
    except BadPictureError:
        raise
    except Exception as error:
        if header.format not in VAGUE and not is_memory_shortage(error):
            raise BadPictureError(f"damaged: {error}") from None
        pixels, mended, orientation = _decode_alone(raw, name, header)
    if orientation in UPRIGHT:
        pixels = UPRIGHT[orientation](pixels)
        mended = (*mended, "turned upright as its EXIF says")
    return np.ascontiguousarray(pixels), header, mended


def _refuse_large(width: int, height: int, max_megapixels: float) -> None:
    if width * height > max_megapixels * 1e6:
        raise BadPictureError(f"{width} x {height} px: over {max_megapixels:g} megapixels")


def _read_webp_size(raw: bytes) -> tuple[int, int] | None:
    """Read width and height of a WEBP, which PIL tells no sooner than it has taken memory for all pixels."""
    if raw[:4] != b"RIFF" or raw[8:12] != b"WEBP" or len(raw) < 30:
        return None
    if raw[12:16] == b"VP8X":
        return 1 + int.from_bytes(raw[24:27], "little"), 1 + int.from_bytes(raw[27:30], "little")
    if raw[12:16] == b"VP8L":
        bits = int.from_bytes(raw[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(raw[26:28], "little") & 0x3FFF, int.from_bytes(raw[28:30], "little") & 0x3FFF


def _open(raw: bytes) -> tuple[Image.Image, Header]:
    try:
        Image.init()  # registers what PIL was built with
        image = Image.open(io.BytesIO(raw), formats=[name for name in FORMATS if name in Image.OPEN])
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise BadPictureError(f"not a picture: starts with {raw[:12]!r}; wanted: {', '.join(FORMATS)}") from None
    except Exception as error:  # PIL's decoders raise whatever the bytes lead them to
        width, height = _read_webp_size(raw) or (0, 0)
        _require_memory(width, height, raw)
        raise BadPictureError(f"damaged header: {error}") from None
    return image, Header(image.format or "?", *image.size)


Decoded = tuple[UInt8[np.ndarray, "height width 3"], tuple[str, ...], object]  # pixels, what was mended, orientation


def _decode(raw: bytes, name: str, image: Image.Image) -> Decoded:
    mended = _peculiarities(image, name)
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        pixels, noted = decode_jpeg(raw)
        mended = (*mended, *noted)
    else:
        _refuse_scans_inside(raw, image)
        deep = _read_16_bits(image, raw)
        # PIL's own memory is read-only, which torch warns of
        pixels = np.array(_to_rgb(image)) if deep is None else deep
        mended = mended if deep is None else (*mended, "samples that use fewer bits than they have")
    return pixels, mended, image.getexif().get(ORIENTATION)  # anything, where the block is broken


def _decode_alone(raw: bytes, name: str, header: Header) -> Decoded:
    """Decode once more what may have ended for want of memory, when no other picture is decoded so.

    Decoders also say "out of memory" of a damaged size, and some say the same of both. Where there is room for the
    picture and it fails again, it is damaged; a `MemoryError` of Python's is never taken for that.

    Raises:
        BadPictureError: it is damaged.
        MemoryError: memory ran out.
    """
    with ALONE:
        _require_memory(header.width, header.height, raw)
        try:
            return _decode(raw, name, _open(raw)[0])
        except MemoryError:
            raise
        except Exception as error:
            raise BadPictureError(f"damaged: {error}") from None


def _require_memory(width: int, height: int, raw: bytes) -> None:
    """Take as much as a picture needs and give it back; untouched, it costs no time. Raises MemoryError."""
    bytearray(DECODED_BYTES * width * height + 2 * len(raw))


def _refuse_scans_inside(raw: bytes, image: Image.Image) -> None:
    """Refuse a TIFF whose strips or tiles are JPEGs of too many scans: libtiff stops at 100 scans of each.

    Raises:
        BadPictureError: it would take minutes.
    """
    tags = getattr(image, "tag_v2", {})
    if image.format != "TIFF" or tags.get(COMPRESSION) not in JPEG_INSIDE:
        return
    parts = len(tags.get(TILES) or tags.get(STRIPS) or (0,))
    scans = raw.count(b"\xff\xda")
    if scans * image.width * image.height / parts > MAX_SCANNED_PX:
        raise BadPictureError(f"a TIFF of JPEGs with {scans:,} scans in {parts:,} parts: save it once more")


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


def _find_white(largest: float, whole: bool) -> float:
    """The value that is white: of whole numbers the top of the fewest bits in use that holds all of them.

    Values of 12 bits in a file of 16 would be all but black if the file's own top were white.
    """
    if not whole:
        return max(1e-9, largest)
    return next((top for top in (2.0**bits - 1 for bits in DEPTHS) if top >= largest), largest)


def _read_16_bits(image: Image.Image, raw: bytes) -> UInt8[np.ndarray, "height width 3"] | None:
    """Pixels of a picture of 16 bits a sample, in colour or with opacity, that uses fewer; None for any other.

    PIL keeps the upper byte of each sample, so that 12 bits in a file of 16 are all but black.
    """
    modes = _list_raw_modes(image)
    if image.mode not in ("RGB", "RGBA") or "transparency" in image.info or not any(";16" in mode for mode in modes):
        return None
    image.load()
    if np.asarray(image)[..., :3].max() > 63:  # up to 14 bits leave the upper two of the upper byte empty
        return None
    values = _join_bytes(image, raw, modes)
    colours, opacity = values[..., :3], values[..., 3:]
    colours = colours * (255.0 / _find_white(float(colours.max()), whole=True))
    if opacity.size:
        share = opacity / _find_white(float(opacity.max()), whole=True)
        colours = colours * share + WHITE[0] * (1 - share)
    return colours.round().astype(np.uint8)


def _join_bytes(image: Image.Image, raw: bytes, modes: Sequence[str]) -> Float64[np.ndarray, "height width samples"]:
    """Both bytes of every sample: PIL is told that the file's bytes stand the other way round, or are samples each."""
    again = Image.open(io.BytesIO(raw), formats=[image.format or ""])
    again.tile = [tile._replace(args=_with_raw_mode(tile.args, _turn(_raw_mode(tile)))) for tile in again.tile]
    lower = np.asarray(again, dtype=np.float64)
    if modes[0].startswith("LA"):  # grey and opacity, each an upper and a lower byte
        joined = lower[..., ::2] * 256 + lower[..., 1::2]
        return joined[..., [0, 0, 0, 1]]
    return np.asarray(image, dtype=np.float64) * 256 + lower


def _list_raw_modes(image: Image.Image) -> list[str]:
    return [_raw_mode(tile) for tile in getattr(image, "tile", [])]


def _raw_mode(tile: Any) -> str:
    """How PIL takes a tile's bytes for samples: `RGB;16B` has the upper byte first, N is this machine's order."""
    return str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)


def _with_raw_mode(args: Any, mode: str) -> Any:
    return (mode, *args[1:]) if isinstance(args, tuple) else mode


def _turn(mode: str) -> str:
    if mode.startswith("LA"):
        return "RGBA"
    upper_first = mode.endswith("B") or (mode.endswith("N") and sys.byteorder == "big")
    return mode[:-1] + ("L" if upper_first else "B")


def _to_rgb(image: Image.Image) -> Image.Image:
    image.seek(0)
    image.load()
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits a sample: PIL's own conversion clips at 255
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it holds samples that are no numbers")
        top = _find_white(float(values.max()), whole=image.mode.startswith("I"))
        return Image.fromarray((values.clip(0, top) * (255.0 / top)).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*WHITE, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")
