"""Charts as one reads them: round ticks, marks at the cuts that the axis names, names that fit."""

from __future__ import annotations

import re

import pytest

from twinlens.report.charts import Bar, Series, draw_effects, draw_forest, draw_lines, draw_scatter, list_ticks


@pytest.mark.parametrize(
    ("reach", "wanted"),
    [
        (1.0, [0, 0.25, 0.5, 0.75, 1]),
        (0.58, [0, 0.2, 0.4, 0.6]),
        (0.1, [0, 0.025, 0.05, 0.075, 0.1]),
        (0.0123, [0, 0.005, 0.01, 0.015]),
        (0.95, [0, 0.25, 0.5, 0.75, 1]),
    ],
)
def test_ticks_are_round_and_reach_far_enough(reach: float, wanted: list[float]) -> None:
    assert list_ticks(reach) == wanted


@pytest.mark.parametrize("most", [3, 5])
def test_there_are_never_more_ticks_than_asked_for(most: int) -> None:
    for n in range(1, 1001):
        ticks = list_ticks(n / 1000, most)
        assert 2 <= len(ticks) <= most
        assert ticks[-2] < n / 1000 <= ticks[-1] + 1e-12


def test_ticks_say_what_they_are() -> None:
    """A quarter of 0.1 was written as 0.03, and three quarters as 0.08."""
    chart = str(draw_scatter([Series("a", 0, [(1.0, 0.08)])], "ms", "nDCG", "t"))
    assert [tick for tick in (">0.025<", ">0.05<", ">0.075<", ">0.1<") if tick not in chart] == []
    assert ">0.03<" not in chart


def test_a_point_without_quality_is_drawn_too() -> None:
    assert "<svg" in draw_scatter([Series("a", 0, [(1.0, 0.0)])], "ms", "nDCG", "t")


def test_curves_are_marked_at_the_cuts_that_the_axis_names() -> None:
    curve = Series("a", 0, [(k, k / 50) for k in range(1, 51)])
    chart = str(draw_lines([curve], "k", "hit", "t"))
    marks = {float(x) for x in re.findall(r'<circle cx="([\d.]+)"', chart)}
    named = {float(x) for x in re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="middle">(?:1|2|5|10|20|50)<', chart)}
    assert len(marks) == 6
    assert marks == named


def test_the_axis_of_effects_is_round_and_even_on_both_sides() -> None:
    chart = str(draw_effects([Bar("a", 0, 0.0123, 0.002, 0.0226)], "t"))
    assert re.findall(r">([+-]?[\d.]+)</text>", chart) == ["-0.04", "-0.02", "0", "+0.02", "+0.04"]


def test_long_names_have_room() -> None:
    name = "hybrid_captions_and_generated_weighted"
    for chart in (draw_forest([Bar(name, 0, 0.5, 0.4, 0.6)], "t"), draw_effects([Bar(name, 0, 0.5, 0.4, 0.6)], "t")):
        end = re.search(rf'<text x="([\d.]+)"[^>]*text-anchor="end">{name}<', str(chart))
        assert end is not None
        assert float(end[1]) >= 6 * len(name)
