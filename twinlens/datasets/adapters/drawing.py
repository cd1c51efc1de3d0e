"""Drawing of the pictures of the `scenes` dataset: simple objects on simple backgrounds.

Every object is drawn in a unit square (x to the right, y down) by a small function,
so that adding a category is adding one function to `OBJECTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, Colour] = {
    "red": (208, 44, 44),
    "orange": (242, 140, 28),
    "yellow": (250, 216, 56),
    "green": (40, 158, 66),
    "blue": (40, 98, 212),
    "purple": (142, 68, 182),
    "pink": (244, 130, 176),
}
DARK: Colour = (38, 38, 46)
GLASS: Colour = (206, 232, 246)
STEEL: Colour = (150, 154, 162)
WOOD: Colour = (120, 78, 44)
PAPER: Colour = (250, 248, 240)

SUPERSAMPLING = 3  # drawn this much larger, then averaged down: smooth edges


@dataclass(frozen=True)
class Pen:
    """Draws in the unit square of one object, wherever that square lies on the canvas."""

    draw: ImageDraw.ImageDraw
    left: float  # canvas pixels
    top: float
    side: float  # canvas pixels per unit
    colour: Colour

    def _at(self, x: float, y: float) -> Point:
        return self.left + x * self.side, self.top + y * self.side

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: Colour | None = None, r: float = 0.0) -> None:
        """A filled rectangle from one corner to the other, `r` its corners' radius."""
        box = (*self._at(x0, y0), *self._at(x1, y1))
        self.draw.rounded_rectangle(box, radius=r * self.side, fill=fill or self.colour)

    def oval(self, x0: float, y0: float, x1: float, y1: float, fill: Colour | None = None) -> None:
        """A filled ellipse inside a box."""
        self.draw.ellipse((*self._at(x0, y0), *self._at(x1, y1)), fill=fill or self.colour)

    def poly(self, *points: Point, fill: Colour | None = None) -> None:
        """A filled polygon."""
        self.draw.polygon([self._at(*p) for p in points], fill=fill or self.colour)

    def line(self, *points: Point, width: float, fill: Colour | None = None) -> None:
        """A line through points."""
        self.draw.line(
            [self._at(*p) for p in points],
            fill=fill or self.colour,
            width=max(1, round(width * self.side)),
            joint="curve",
        )

    def ring(self, x: float, y: float, radius: float, width: float, stroke: Colour | None = None) -> None:
        """A circle that is not filled."""
        box = (*self._at(x - radius, y - radius), *self._at(x + radius, y + radius))
        self.draw.ellipse(box, outline=stroke or self.colour, width=max(1, round(width * self.side)))

    def pie(self, x0: float, y0: float, x1: float, y1: float, start: float, end: float) -> None:
        """A sector of the ellipse inside a box, angles in degrees clockwise from the right."""
        self.draw.pieslice((*self._at(x0, y0), *self._at(x1, y1)), start, end, fill=self.colour)

    def wheel(self, x: float, y: float, radius: float) -> None:
        """A tyre with its rim."""
        self.oval(x - radius, y - radius, x + radius, y + radius, DARK)
        self.oval(x - radius / 2.2, y - radius / 2.2, x + radius / 2.2, y + radius / 2.2, STEEL)


def _car(pen: Pen) -> None:
    pen.poly((0.2, 0.5), (0.32, 0.28), (0.68, 0.28), (0.84, 0.5))
    pen.poly((0.29, 0.48), (0.36, 0.34), (0.48, 0.34), (0.48, 0.48), fill=GLASS)
    pen.poly((0.52, 0.48), (0.52, 0.34), (0.65, 0.34), (0.73, 0.48), fill=GLASS)
    pen.rect(0.03, 0.47, 0.97, 0.72, r=0.08)
    pen.wheel(0.25, 0.73, 0.12)
    pen.wheel(0.75, 0.73, 0.12)


def _bus(pen: Pen) -> None:
    pen.rect(0.02, 0.14, 0.98, 0.78, r=0.06)
    for x in (0.08, 0.26, 0.44, 0.62):
        pen.rect(x, 0.24, x + 0.14, 0.44, GLASS)
    pen.rect(0.8, 0.24, 0.93, 0.68, GLASS)
    pen.wheel(0.22, 0.79, 0.1)
    pen.wheel(0.72, 0.79, 0.1)


def _truck(pen: Pen) -> None:
    pen.rect(0.02, 0.16, 0.62, 0.7, PAPER)
    pen.rect(0.02, 0.58, 0.62, 0.7)
    pen.poly((0.65, 0.7), (0.65, 0.32), (0.84, 0.32), (0.98, 0.52), (0.98, 0.7))
    pen.poly((0.71, 0.5), (0.71, 0.38), (0.82, 0.38), (0.9, 0.5), fill=GLASS)
    pen.wheel(0.2, 0.73, 0.11)
    pen.wheel(0.8, 0.73, 0.11)


def _bicycle(pen: Pen) -> None:
    pen.ring(0.23, 0.64, 0.21, 0.045, DARK)
    pen.ring(0.77, 0.64, 0.21, 0.045, DARK)
    pen.line((0.23, 0.64), (0.4, 0.36), (0.68, 0.36), (0.48, 0.64), (0.23, 0.64), width=0.06)
    pen.line((0.48, 0.64), (0.37, 0.28), width=0.06)
    pen.line((0.77, 0.64), (0.66, 0.24), (0.78, 0.2), width=0.06)
    pen.line((0.29, 0.27), (0.45, 0.27), width=0.06, fill=DARK)


def _boat(pen: Pen) -> None:
    pen.line((0.5, 0.06), (0.5, 0.66), width=0.04, fill=WOOD)
    pen.poly((0.54, 0.08), (0.54, 0.58), (0.92, 0.58), fill=PAPER)
    pen.poly((0.46, 0.18), (0.46, 0.58), (0.16, 0.58), fill=PAPER)
    pen.poly((0.04, 0.64), (0.96, 0.64), (0.8, 0.88), (0.2, 0.88))


def _airplane(pen: Pen) -> None:
    pen.poly((0.1, 0.2), (0.22, 0.2), (0.32, 0.46), (0.1, 0.48))
    pen.oval(0.04, 0.4, 0.98, 0.6)
    pen.poly((0.42, 0.52), (0.6, 0.52), (0.46, 0.9), (0.34, 0.9))
    pen.poly((0.46, 0.46), (0.6, 0.46), (0.54, 0.22), (0.46, 0.22))
    for x in (0.4, 0.5, 0.6, 0.7):
        pen.oval(x, 0.46, x + 0.05, 0.51, GLASS)
    pen.poly((0.82, 0.43), (0.93, 0.47), (0.82, 0.5), fill=GLASS)


def _tree(pen: Pen) -> None:
    pen.rect(0.43, 0.6, 0.57, 0.97, WOOD)
    pen.oval(0.14, 0.26, 0.58, 0.7)
    pen.oval(0.42, 0.26, 0.86, 0.7)
    pen.oval(0.26, 0.03, 0.74, 0.5)


def _house(pen: Pen) -> None:
    pen.rect(0.14, 0.44, 0.86, 0.95, PAPER)
    pen.poly((0.04, 0.46), (0.5, 0.06), (0.96, 0.46))
    pen.rect(0.42, 0.64, 0.58, 0.95, WOOD)
    pen.rect(0.2, 0.56, 0.36, 0.72, GLASS)
    pen.rect(0.64, 0.56, 0.8, 0.72, GLASS)


def _cat(pen: Pen) -> None:
    pen.line((0.72, 0.86), (0.94, 0.76), (0.9, 0.5), width=0.08)
    pen.oval(0.26, 0.44, 0.8, 0.96)
    pen.poly((0.2, 0.3), (0.22, 0.02), (0.4, 0.18))
    pen.poly((0.48, 0.18), (0.66, 0.02), (0.68, 0.3))
    pen.oval(0.16, 0.12, 0.72, 0.58)
    pen.oval(0.27, 0.27, 0.37, 0.39, DARK)
    pen.oval(0.51, 0.27, 0.61, 0.39, DARK)
    pen.poly((0.4, 0.42), (0.48, 0.42), (0.44, 0.48), fill=PAPER)


def _fish(pen: Pen) -> None:
    pen.poly((0.3, 0.5), (0.02, 0.24), (0.02, 0.76))
    pen.oval(0.2, 0.26, 0.98, 0.74)
    pen.poly((0.5, 0.3), (0.68, 0.3), (0.5, 0.1))
    pen.oval(0.78, 0.38, 0.88, 0.48, PAPER)
    pen.oval(0.81, 0.41, 0.86, 0.46, DARK)


def _flower(pen: Pen) -> None:
    pen.line((0.5, 0.4), (0.5, 0.98), width=0.05, fill=(36, 110, 50))
    pen.oval(0.52, 0.66, 0.76, 0.8, (36, 110, 50))
    for angle in np.arange(6) * np.pi / 3:
        x, y = 0.5 + 0.2 * float(np.cos(angle)), 0.32 + 0.2 * float(np.sin(angle))
        pen.oval(x - 0.13, y - 0.13, x + 0.13, y + 0.13)
    pen.oval(0.38, 0.2, 0.62, 0.44, (110, 70, 30))


def _umbrella(pen: Pen) -> None:
    pen.line((0.5, 0.1), (0.5, 0.86), (0.56, 0.94), (0.64, 0.86), width=0.05, fill=WOOD)
    pen.pie(0.02, 0.08, 0.98, 0.96, 180, 360)
    for x in (0.02, 0.34, 0.66):
        pen.pie(x, 0.44, x + 0.32, 0.64, 180, 360)


OBJECTS: dict[str, Callable[[Pen], None]] = {
    "airplane": _airplane,
    "bicycle": _bicycle,
    "boat": _boat,
    "bus": _bus,
    "car": _car,
    "cat": _cat,
    "fish": _fish,
    "flower": _flower,
    "house": _house,
    "tree": _tree,
    "truck": _truck,
    "umbrella": _umbrella,
}

# name: (upper half, lower half, height of the horizon as a share of the picture)
BACKGROUNDS: dict[str, tuple[Colour, Colour, float]] = {
    "meadow": ((176, 216, 242), (150, 204, 120), 0.45),
    "beach": ((120, 190, 230), (238, 220, 170), 0.5),
    "street": ((222, 222, 226), (128, 130, 136), 0.55),
    "snow": ((196, 210, 226), (248, 250, 252), 0.4),
    "night": ((20, 26, 56), (44, 48, 72), 0.6),
    "desert": ((246, 206, 150), (222, 164, 96), 0.5),
    "lake": ((186, 216, 240), (76, 140, 190), 0.4),
    "room": ((236, 222, 200), (168, 128, 96), 0.65),
}


@dataclass(frozen=True)
class DrawnObject:
    """One object of a scene: what it is and where it stands."""

    category: str
    colour: str
    large: bool
    left: float  # share of the picture's side
    top: float
    side: float  # share of the picture's side
    covered: float = 0.0  # share of its height, from below, that lies behind the ground


def draw_scene(background: str, things: list[DrawnObject], side_px: int, rng: np.random.Generator) -> Image.Image:
    """Draw a square picture of `side_px` pixels; `rng` shades the background, so no two are equal."""
    canvas_px = side_px * SUPERSAMPLING
    upper, lower, horizon = BACKGROUNDS[background]
    shade = rng.integers(-12, 13, size=3)
    sky, ground = ((np.array(c) + shade).clip(0, 255) for c in (upper, lower))
    picture = Image.new("RGB", (canvas_px, canvas_px), tuple(int(v) for v in sky))
    draw = ImageDraw.Draw(picture)
    line = (horizon + rng.uniform(-0.08, 0.08)) * canvas_px
    draw.rectangle((0, line, canvas_px, canvas_px), fill=tuple(int(v) for v in ground))
    for thing in things:
        base = np.array(COLOURS[thing.colour]) + rng.integers(-10, 11, size=3)
        red, green, blue = (int(v) for v in base.clip(0, 255))
        pen = Pen(draw, thing.left * canvas_px, thing.top * canvas_px, thing.side * canvas_px, (red, green, blue))
        OBJECTS[thing.category](pen)
        if thing.covered:
            lowest, right = (thing.top + thing.side) * canvas_px, (thing.left + thing.side) * canvas_px
            highest = lowest - thing.covered * thing.side * canvas_px
            draw.rectangle((thing.left * canvas_px, highest, right, lowest), fill=tuple(int(v) for v in ground))
    return picture.reduce(SUPERSAMPLING)
