"""Small copies of pictures, for pages and for the search index."""

from __future__ import annotations

import io

from PIL import Image


def make_thumbnail(jpeg: bytes, side_px: int) -> bytes:
    """Make a small JPEG of a picture: its longer side at most `side_px`, never enlarged."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        picture.draft("RGB", (2 * side_px, 2 * side_px))
        small = picture.convert("RGB")
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=75, optimize=True)
    return out.getvalue()
