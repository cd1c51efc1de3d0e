"""Retrievers that draw something at random: each draw is a run of its own, and what is told is their mean.

The interval of such a mean allows for both: that other pictures might have been asked about, which the interval of each
draw tells, and that others might have been drawn, which the draws' means tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from scipy import stats

from twinlens.evaluation.intervals import LEVEL, Interval
from twinlens.evaluation.pool import Pool
from twinlens.retrieval.runs import DRAWS


def read_draws(pool: Pool, retriever: str) -> list[Pool]:
    """Read the pools that hold the draws of a retriever: the task's own, which is the first, and one a further draw.

    Raises:
        DataError: a file is not there.
    """
    further = pool.told(retriever).get("draws", 1) - 1  # runs made before there were draws tell of none
    return [pool, *(Pool.read(pool.folder / DRAWS / str(n)) for n in range(1, further + 1))]


def average_values(draws: Sequence[Mapping[str, float]], digits: int) -> dict[str, float]:
    """Average what draws give under the same names."""
    if len(draws) == 1:
        return dict(draws[0])
    return {name: round(float(np.mean([draw[name] for draw in draws])), digits) for name in draws[0]}


def average_curves(draws: Sequence[Mapping[str, Sequence[float]]], digits: int) -> dict[str, list[float]]:
    """Average curves of draws, cut by cut."""
    return {
        name: [round(float(value), digits) for value in np.mean([draw[name] for draw in draws], axis=0)]
        for name in draws[0]
    }


def average_queries(draws: Sequence[pl.DataFrame], measures: Sequence[str]) -> pl.DataFrame:
    """Average the measures of every query over draws; what else its table tells is of the first draw, as its lists are.

    Args:
        draws: tables of the same queries.
        measures: columns.
    """
    if len(draws) == 1:
        return draws[0]
    means = [pl.Series(name, np.mean([draw[name].to_numpy() for draw in draws], axis=0)) for name in measures]
    return draws[0].with_columns(means)


def combine_intervals(
    draws: Sequence[Interval], means: Sequence[float], span: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """Combine the intervals of draws into that of the mean of their means.

    Its squared half-width on each side is the mean of theirs (a draw's interval is of one draw, so this is rather too
    wide than too narrow), plus t^2 s^2 / D of the D means of the draws, with D - 1 degrees of freedom.

    Args:
        draws: the interval of each draw; where one is not defined, nor is theirs together.
        means: of the draws.
        span: the least and the greatest value that there can be.
    """
    if len(draws) == 1:
        return draws[0]
    if undefined := [one for one in draws if one.low is None or one.high is None]:
        return undefined[0]
    middle = float(np.mean(means))
    spread = float(stats.t.ppf(0.5 + LEVEL / 2, len(draws) - 1)) ** 2 * float(np.var(means, ddof=1)) / len(draws)
    below, above = (
        float(np.mean([(bound - mean) ** 2 for bound, mean in zip(bounds, means, strict=True)]))
        for bounds in ([float(one.low or 0) for one in draws], [float(one.high or 0) for one in draws])
    )
    low, high = middle - np.sqrt(below + spread), middle + np.sqrt(above + spread)
    return Interval(max(span[0], float(low)), min(span[1], float(high)))
