"""Charts as inline SVG, in the page's colours, so that they are legible in the dark and in print.

A series is told by its marker and its dashes as well as by its colour; the colours are those of Okabe
and Ito (2008), which colour-blind readers tell apart. The eighth has the first one's colour again, with
another marker and other dashes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

SERIES = 7  # colours of the style sheet
DASHES = ("", "6 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 2")
WIDTH, HEIGHT = 380, 250
LETTER = 6.2  # width of one, at the style sheet's size of text in charts
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 38

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Series:
    """Points of one retriever; `number` is its colour, marker and dashes everywhere on the page."""

    name: str
    number: int
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bar:
    """A mean with its interval; `low` is None where none is defined."""

    name: str
    number: int
    mean: float
    low: float | None
    high: float | None


def draw_marker(number: int, x: float, y: float, size: float = 4.0) -> Markup:
    """Draw one of seven shapes, filled with the colour of the series."""
    s, d, at = size, 1.4 * size, f"M{x:.1f} {y:.1f}"
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s}"/>',
        f'<path d="{at}m{-s} {-s}h{2 * s}v{2 * s}h{-2 * s}z"/>',  # square
        f'<path d="{at}m0 {-1.3 * s:.1f}l{1.2 * s:.1f} {2.2 * s:.1f}h{-2.4 * s:.1f}z"/>',  # triangle
        f'<path d="{at}m0 {-d:.1f}l{d:.1f} {d:.1f}l{-d:.1f} {d:.1f}l{-d:.1f} {-d:.1f}z"/>',  # diamond
        f'<path d="{at}m0 {1.3 * s:.1f}l{1.2 * s:.1f} {-2.2 * s:.1f}h{-2.4 * s:.1f}z"/>',  # triangle on its tip
        f'<path d="{at}m{-s} {-s}l{2 * s} {2 * s}m0 {-2 * s}l{-2 * s} {2 * s}" class="cross"/>',
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s}" class="hollow"/>',
    )
    return Markup(f'<g class="s{number % SERIES}">{shapes[_style(number)]}</g>')


def _style(number: int) -> int:
    """Choose marker and dashes: as the colour, and moved by one each time the colours begin again."""
    return (number + number // SERIES) % SERIES


def draw_lines(series: Sequence[Series], x_label: str, y_label: str, title: str, *, from_zero: bool = False) -> Markup:
    """Draw curves over a logarithmic x axis, y from 0 to 1; `from_zero`, x begins at 0 and not at 1."""
    log = math.log1p if from_zero else math.log
    largest = max((x for s in series for x, _ in s.points), default=1.0)
    across = _scale(log(largest) if largest > 1 else 1.0, LEFT, WIDTH - RIGHT)
    down = _scale(1.0, HEIGHT - BOTTOM, TOP)
    parts = [_y_axis(down, [0, 0.25, 0.5, 0.75, 1], y_label)]
    ticks = [0, *(10**e for e in range(8))] if from_zero else [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    for x in [x for x in ticks if x <= largest]:
        parts.append(_tick_x(across(log(x)), f"{x:,}"))
    parts.append(_x_label(x_label))
    for one in series:
        places = [(across(log(x)), down(y)) for x, y in one.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        dashes = DASHES[_style(one.number)]
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(Markup(f'<path class="line l{one.number % SERIES}" d="{path}"{dash}/>'))
        marked = _marked([x for x, _ in one.points], ticks, from_zero)
        parts += [draw_marker(one.number, *places[i], 3.2) for i in marked]
    return _svg(parts, HEIGHT, title)


def draw_scatter(points: Sequence[Series], x_label: str, y_label: str, title: str) -> Markup:
    """Draw quality against cost, one point per series, with the frontier: the points that no other beats in both."""
    places = [(s, *s.points[0]) for s in points if s.points and s.points[0][0] > 0]
    if not places:
        return Markup("")
    low, high = min(x for _, x, _ in places) / 1.6, max(x for _, x, _ in places) * 1.6
    heights = list_ticks(min(1.0, 1.08 * max(y for _, _, y in places)) or 1.0)
    across = _scale(math.log(high / low), LEFT, WIDTH - RIGHT)
    down = _scale(heights[-1], HEIGHT - BOTTOM, TOP)
    parts = [_y_axis(down, heights, y_label)]
    for x in _decades(low, high):
        parts.append(_tick_x(across(math.log(x / low)), f"{x:g}"))
    parts.append(_x_label(x_label))
    best = find_frontier([(x, y) for _, x, y in places])
    drawn = [(across(math.log(x / low)), down(y)) for x, y in best]
    path = f"M{drawn[0][0]:.1f} {drawn[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in drawn[1:])
    parts.append(Markup(f'<path class="frontier" d="{path}H{WIDTH - RIGHT}"/>'))
    for one, x, y in places:
        at = across(math.log(x / low)), down(y)
        parts.append(draw_marker(one.number, *at, 5.5))
        if (x, y) in best:
            parts.append(Markup(f'<circle class="ring" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="9.5"/>'))
    return _svg(parts, HEIGHT, title)


def draw_forest(bars: Sequence[Bar], title: str, chance: float | None = None) -> Markup:
    """Draw means with their intervals, one below the other, from 0 to 1."""
    left, row = _room(bars), 24
    height, width = 16 + row * len(bars) + BOTTOM, left + 310
    across = _scale(1.0, left, width - RIGHT)
    parts: list[Markup] = []
    for x in (0, 0.25, 0.5, 0.75, 1):
        parts.append(Markup(f'<path class="grid" d="M{across(x):.1f} 8V{height - BOTTOM}"/>'))
        parts.append(_text(across(x), height - BOTTOM + 15, f"{x:g}", "middle"))
    if chance is not None:
        parts.append(Markup(f'<path class="chance" d="M{across(chance):.1f} 8V{height - BOTTOM}"/>'))
        parts.append(_text(across(chance), height - BOTTOM + 29, "chance", "middle"))
    parts += _rows(bars, across, left, row)
    return _svg(parts, height, title, width)


def draw_effects(bars: Sequence[Bar], title: str, room: int = 390) -> Markup:
    """Draw differences with their intervals about a line at zero; the scale is as wide as they are.

    Args:
        bars: one below the other.
        title: of the chart.
        room: for the differences, beside the names.
    """
    left, row = _room(bars), 24
    width = left + room
    height = 16 + row * len(bars) + BOTTOM
    widest = max((abs(v) for b in bars for v in (b.mean, b.low, b.high) if v is not None), default=0.0)
    right_half = list_ticks(widest or 0.01, most=3)
    reach = right_half[-1]
    right = _scale(2 * reach, left, width - 2 * RIGHT)

    def across(x: float) -> float:
        return right(x + reach)

    parts: list[Markup] = []
    for x in (*(-x for x in right_half[:0:-1]), *right_half):
        style = "zero" if x == 0 else "grid"
        parts.append(Markup(f'<path class="{style}" d="M{across(x):.1f} 8V{height - BOTTOM}"/>'))
        parts.append(_text(across(x), height - BOTTOM + 15, f"{x:+.6g}" if x else "0", "middle"))
    parts += _rows(bars, across, left, row)
    return _svg(parts, height, title, width)


def _room(bars: Sequence[Bar]) -> int:
    """Room for the longest name, at the left of the bars."""
    return 16 + math.ceil(LETTER * max((len(bar.name) for bar in bars), default=0))


def _rows(bars: Sequence[Bar], across: Callable[[float], float], left: int, row: int) -> Iterator[Markup]:
    """A row a bar: its name, its interval and its mean."""
    for n, bar in enumerate(bars):
        y = 20 + row * n
        yield _text(left - 10, y + 4, bar.name, "end")
        if bar.low is not None and bar.high is not None:
            ends = f"M{across(bar.low):.1f} {y}H{across(bar.high):.1f}"
            caps = "".join(f"M{across(x):.1f} {y - 5}v10" for x in (bar.low, bar.high))
            yield Markup(f'<path class="interval l{bar.number % SERIES}" d="{ends}{caps}"/>')
        yield draw_marker(bar.number, across(bar.mean), y, 4)


def find_frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Find the points (cost, quality) that no other point beats in both, cheapest first."""
    best: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or quality > best[-1][1]:
            best.append((cost, quality))
    return best


def _svg(parts: Sequence[Markup], height: float, title: str, width: float = WIDTH) -> Markup:
    named = escape(title)
    inside = Markup("").join(parts)
    return Markup(
        f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{named}"><title>{named}</title>{inside}</svg>'
    )


def _scale(most: float, first: float, last: float) -> Scale:
    return lambda value: first + (last - first) * value / most


def _y_axis(down: Scale, values: Sequence[float], label: str) -> Markup:
    parts = [Markup(f'<path class="grid" d="M{LEFT} {down(v):.1f}H{WIDTH - RIGHT}"/>') for v in values]
    parts += [_text(LEFT - 6, down(v) + 4, f"{v:.6g}", "end") for v in values]
    turned = f'transform="rotate(-90 11 {HEIGHT / 2:.0f})"'
    parts.append(Markup(f'<text x="11" y="{HEIGHT / 2:.0f}" text-anchor="middle" {turned}>{escape(label)}</text>'))
    return Markup("").join(parts)


def _tick_x(x: float, label: str) -> Markup:
    return _text(x, HEIGHT - BOTTOM + 15, label, "middle")


def _x_label(label: str) -> Markup:
    return _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, label, "middle")


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')


def list_ticks(reach: float, most: int = 5) -> list[float]:
    """List round numbers from 0 to the first that is not below `reach`, `most` of them at most, evenly spaced."""
    power = 10.0 ** math.floor(math.log10(reach))
    steps = (m * power * ten for ten in (0.1, 1.0) for m in (1, 2, 2.5, 5))
    step = next(s for s in (*steps, 10.0 * power) if math.ceil(reach / s - 1e-9) < most)
    return [float(f"{n * step:.10g}") for n in range(math.ceil(reach / step - 1e-9) + 1)]


def _marked(xs: Sequence[float], ticks: Sequence[float], from_zero: bool) -> list[int]:
    """Places along a curve for its markers: those that the axis names, or, with few of them, some between."""
    if from_zero:
        return list(range(0, len(xs), 1 + len(xs) // 8))
    return [place for place, x in enumerate(xs) if x in ticks or place == len(xs) - 1]


def _decades(low: float, high: float) -> list[float]:
    ticks = [m * 10.0**e for e in range(-4, 8) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    return ticks if len(ticks) < 10 else [x for x in ticks if f"{x:e}".startswith("1")]
