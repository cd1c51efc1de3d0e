"""Validation of queries: brought to a form that can be searched for, or refused with a reason."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from twinlens.config.params import ResizeParams
from twinlens.core.errors import QueryError, suggest_nearest
from twinlens.core.resources import is_memory_shortage
from twinlens.indexing.results import Mode

if TYPE_CHECKING:
    from PIL.Image import Image

    from twinlens.indexing.store import RowStore

    Picture = str | Path | bytes | Image

MODES = ("auto", *get_args(Mode))
FUSIONS = ("rrf", "weighted")
MAX_WORDS, MAX_CHARACTERS = 256, 4_096  # more than any text tower reads
MAX_IMAGE_BYTES = 64 * 2**20
SHOWN = 200  # characters of a wrong value that a message repeats
PLAIN_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # those that PNG holds
MEMORY_RAN_OUT = "the query's image needs more memory than there is just now: make it smaller, or try again in a minute"
SUGGESTED = 200_000  # ids that one is compared with to find the nearest: a second or two
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def clean_text(text: str | None) -> tuple[str | None, list[str]]:
    """Clean a text: no control characters, single blanks, cut where no model reads on; None for nothing.

    Raises:
        QueryError: it is no text.
    """
    if text is None:
        return None, []
    if not isinstance(text, str):
        raise QueryError(f"the query's text should be a string, found {type(text).__name__}")
    readable = CONTROL.sub(" ", text.encode("utf-8", "replace").decode("utf-8"))  # lone surrogates cannot be encoded
    found = readable.split()
    whole, fewer = " ".join(found), " ".join(found[:MAX_WORDS])
    shorter = fewer[:MAX_CHARACTERS].strip()
    if len(shorter) < len(fewer):
        return shorter, [f"the query is cut: {len(shorter):,} of its {len(whole):,} characters are searched for"]
    if len(shorter) < len(whole):
        return shorter, [f"the query is cut: {MAX_WORDS} of its {len(found):,} words are searched for"]
    return shorter or None, []


def read_image(image: Picture, limits: ResizeParams) -> tuple[bytes, list[str]]:
    """Read a picture and bring it to what `resize` would make of it, as JPEG bytes; with what had to be mended.

    Args:
        image: a path, the bytes of a file, or an opened picture.
        limits: section `resize`; larger pictures are refused before their pixels are decoded.

    Raises:
        QueryError: there is no such file, it is not a picture, is damaged, too large or too small, or takes too long.
    """
    from twinlens.images.decode import BadPictureError, prepare_jpeg

    raw, name = _bytes_of(image, limits)
    try:
        prepared = prepare_jpeg(
            raw,
            shortest_side_px=limits.shortest_side_px,
            min_side_px=limits.min_side_px,
            max_megapixels=limits.max_megapixels,
            quality=limits.jpeg_quality,
            name=name,
        )
    except BadPictureError as error:
        hint = "; an SVG is a drawing: export it as PNG" if b"<svg" in raw[:1024].lower() else ""
        raise QueryError(f"the query's image cannot be used: {error}{hint}") from None
    except (MemoryError, RuntimeError) as error:
        if not is_memory_shortage(error):
            raise
        raise QueryError(MEMORY_RAN_OUT) from None
    return prepared.jpeg, [f"the query's image: {note}" for note in prepared.mended]


def _bytes_of(image: Picture, limits: ResizeParams) -> tuple[bytes, str]:
    if isinstance(image, bytes):
        raw, name = image, ""
    elif isinstance(image, (str, Path)):
        raw, name = _read(image), Path(image).name
    else:
        raw, name = _encoded(image, limits), ""
    if len(raw) > MAX_IMAGE_BYTES and not name:
        raise QueryError(f"the query's image has {len(raw) / 2**20:.0f} MB: over {MAX_IMAGE_BYTES // 2**20} MB")
    return raw, name


def _read(image: str | Path) -> bytes:
    if image == "":  # as a path it would be the folder that we are in
        raise QueryError("the query's image is empty: wanted: the path of a picture to search by")
    path, shown = Path(image), str(image)[:SHOWN]
    try:
        size = path.stat().st_size if path.is_file() else None
        if size is not None and size <= MAX_IMAGE_BYTES:
            return path.read_bytes()
    except OSError as error:  # it may not be read, is gone by now, or is no name that a file could have
        raise QueryError(f"{shown} cannot be read: {error.strerror}") from None
    if size is None:
        raise QueryError(f"{shown} is not a file; wanted: a picture to search by")
    raise QueryError(f"{shown} has {size / 2**20:.0f} MB: over {MAX_IMAGE_BYTES // 2**20} MB")


def _encoded(image: Image, limits: ResizeParams) -> bytes:
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        raise QueryError(f"the query's image should be a path, bytes or a PIL image, found {type(image).__name__}")
    if image.width * image.height > limits.max_megapixels * 1e6:
        raise QueryError(
            f"the query's image cannot be used: {image.width} x {image.height} px: over "
            f"{limits.max_megapixels:g} megapixels"
        )
    out = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        plain = upright if upright.mode in PLAIN_MODES else upright.convert("RGB")
        plain.save(out, "PNG", compress_level=1)
    except (OSError, ValueError, SyntaxError) as error:  # of a lazily opened, damaged file
        raise QueryError(f"the query's image cannot be used: {error}") from None
    return out.getvalue()


def find_rows(ids: str | Iterable[str], store: RowStore) -> list[int]:
    """Look up the rows of image ids, without repeats, in the order given.

    Raises:
        QueryError: an id is not in the index; the message has the nearest ones. Or these are no ids.
    """
    if not isinstance(ids, Iterable) or isinstance(ids, (bytes, bytearray, memoryview)):  # those are made of numbers
        raise QueryError(f"liked and disliked pictures are given by id, one or several; found {type(ids).__name__}")
    given = [ids] if isinstance(ids, str) else list(ids)
    row_of = store.find_rows({image_id for image_id in given if isinstance(image_id, str)}) if given else {}
    for image_id in given:
        if not isinstance(image_id, str) or image_id not in row_of:
            shown = str(image_id)[:SHOWN]
            raise QueryError(f"there is no picture {shown!r} among the {len(store):,} indexed{_suggest(shown, store)}")
    return list(dict.fromkeys(row_of[image_id] for image_id in given))


def _suggest(shown: str, store: RowStore) -> str:
    if len(store) > SUGGESTED:
        return ""
    close = get_close_matches(shown, store.ids, n=3, cutoff=0.5)
    return f": did you mean {' or '.join(repr(name) for name in close)}?" if close else ": nothing is near it"


def check_name(value: str, names: Collection[str], what: str) -> str:
    """Check that a value is one of the names.

    Raises:
        QueryError: it is not, or no string at all; the message has the nearest one.
    """
    if not isinstance(value, str) or value not in names:
        shown = str(value)[:SHOWN]
        raise QueryError(f"there is no {what} '{shown}' ({suggest_nearest(shown, names)})")
    return value


def check_share(value: float, what: str) -> float:
    """Check that a value is a share.

    Raises:
        QueryError: it is not a number from 0 to 1.
    """
    if not isinstance(value, Real) or not 0.0 <= value <= 1.0:
        raise QueryError(f"{what}: {value!r} is not a number from 0 to 1")
    return float(value)


def check_count(value: int, what: str) -> int:
    """Check that a value is a whole number from 1.

    Raises:
        QueryError: it is not.
    """
    if not isinstance(value, Integral) or value < 1:
        raise QueryError(f"{what}: {value!r} pictures are wanted; it should be a whole number, 1 or more")
    return int(value)
