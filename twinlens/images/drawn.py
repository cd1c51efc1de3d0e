"""Drawn pictures that are the same on every machine: to hold one way of reading pictures against another.

They hold what goes wrong where pixels are fed wrongly: saturated colours (channels in another order), dark and light
grounds (a forgotten mean), fine lines and letters (no antialias), edges that a crop takes off, shapes from wide to
tall, sizes from smaller than a model reads to much larger.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from jaxtyping import UInt8

QUALITY = 95
BARS = ((255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0))
LETTERS = {  # 5 x 7, a row of the letter a number
    "E": (31, 16, 16, 30, 16, 16, 31),
    "L": (16, 16, 16, 16, 16, 16, 31),
    "N": (17, 25, 21, 19, 17, 17, 17),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "W": (17, 17, 17, 21, 21, 27, 17),
    "I": (14, 4, 4, 4, 4, 4, 14),
}

Picture = UInt8[np.ndarray, "height width 3"]


def draw_pictures() -> dict[str, bytes]:
    """Draw the pictures: JPEG files by name."""
    drawn = {
        "colour bars, wide": _bars(480, 300, "TWINLENS"),
        "landscape": _scene(640, 426, sky=(96, 160, 230), ground=(60, 120, 40)),
        "portrait": _scene(300, 420, sky=(250, 180, 90), ground=(90, 60, 50)),
        "night, small": _scene(96, 72, sky=(10, 12, 40), ground=(4, 10, 6)),
        "lines, large": _lines(900, 660),
        "letters, tall": _letters(200, 460, "TENLINES"),
    }
    return {name: _compress(picture) for name, picture in drawn.items()}


def _compress(picture: Picture) -> bytes:
    return bytes(simplejpeg.encode_jpeg(picture, quality=QUALITY, colorsubsampling="444"))


def _bars(width: int, height: int, word: str) -> Picture:
    """Eight bars of full colour, a ramp of grey below, and a word across."""
    picture = np.empty((height, width, 3), dtype=np.uint8)
    picture[:] = np.array(BARS, dtype=np.uint8)[np.arange(width) * len(BARS) // width]
    picture[height * 3 // 4 :] = (np.arange(width) * 255 // (width - 1)).astype(np.uint8)[:, None]
    return _write(picture, word, top=height // 3, left=width // 10, scale=max(1, width // (8 * len(word))), grey=90)


def _scene(width: int, height: int, sky: tuple[int, int, int], ground: tuple[int, int, int]) -> Picture:
    """Soft gradients of sky and ground, a round sun, and a dark house with an edge as sharp as pixels allow."""
    y, x = np.mgrid[0:height, 0:width]
    horizon = height * 3 // 5
    above = np.array(sky) * (horizon + y[..., None]) // (2 * horizon)
    below = np.array(ground) + (x[..., None] * 60 // width) + ((x * 7 + y * 13) % 24)[..., None]
    picture = np.where((y < horizon)[..., None], above, below)
    radius = min(width, height) // 8
    sun = (x - width * 3 // 4) ** 2 + (y - height // 4) ** 2 < radius**2
    picture[sun] = (255, 230, 120)
    picture[horizon - height // 5 : horizon + height // 10, width // 8 : width // 3] = (120, 30, 30)
    picture[horizon - height // 8 : horizon, width // 6 : width // 4] = (240, 240, 200)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _lines(width: int, height: int) -> Picture:
    """Lines ever closer, upright on the left and level on the right: what no antialias turns into other patterns."""
    y, x = np.mgrid[0:height, 0:width]
    left = (x * x // 500) % 2
    right = (y * y // 400) % 2
    grey = np.where(x < width // 2, left, right) * 200 + 30
    return np.stack([grey, grey // 2 + y * 120 // height, 250 - grey // 2], axis=2).astype(np.uint8)


def _letters(width: int, height: int, word: str) -> Picture:
    picture = np.full((height, width, 3), (235, 225, 200), dtype=np.uint8)
    for line in range(height // 44):
        grey = 20 + 30 * (line % 4)
        _write(picture, word[line % 3 :], top=10 + 44 * line, left=8 + 5 * line, scale=4 if line % 2 else 3, grey=grey)
    return picture


def _write(picture: Picture, word: str, top: int, left: int, scale: int, grey: int) -> Picture:
    for letter in word:
        rows = np.array([[number >> bit & 1 for bit in range(4, -1, -1)] for number in LETTERS[letter]], dtype=bool)
        large = np.kron(rows, np.ones((scale, scale), dtype=bool))
        part = picture[top : top + large.shape[0], left : left + large.shape[1]]
        part[large[: part.shape[0], : part.shape[1]]] = grey
        left += 6 * scale
    return picture
