"""Planning: how many pictures, or seeds, it takes to see a difference.

The variance of a paired difference is that of pictures, which falls as 1 / n, and, of candidates that are means over
seeds, that of training, which falls with the seeds alone. The power of the test at n pictures is that of a t-test with
this variance and degrees of freedom that grow with n (noncentral t; Cohen 1988, chapter 2). Nothing else is asked of
larger pools: that their items make queries harder is left out, so that a difference is taken to stay as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import stats

from twinlens.core.errors import DataError

ALPHA, POWER = 0.05, 0.8
FAR = 2  # times the pictures that there are: up to there the achieved power is the predicted
MOST = 10_000_000  # pictures; more are as good as never
MOST_SEEDS = 1_000


@dataclass(frozen=True)
class Observed:
    """A paired difference as it was seen: its variance, by what it comes from."""

    variance: float  # over pictures (clusters of queries)
    df: float
    clusters: int
    per_cluster: float  # queries
    training: float = 0.0  # variance of both means over seeds
    seeds: int = 1  # of the candidate with the fewer
    training_df: float = math.inf


@dataclass(frozen=True)
class Plan:
    """What it takes to see a difference of this size."""

    effect: float
    power: float
    now: float  # the power with what there is
    clusters: int | None  # in all, with as many seeds; None: no number is enough
    queries: int | None
    more: int | None  # clusters on top of those that there are
    seeds: int | None  # with as many pictures; None: no number is enough, or there is one seed of each

    @property
    def far(self) -> bool:
        """Whether it takes more than `FAR` times the pictures that there are."""
        return (
            self.clusters is not None and self.more is not None and self.more > (FAR - 1) * (self.clusters - self.more)
        )


def plan(observed: Observed, effect: float, power: float = POWER) -> Plan:
    """Plan the pictures, and the seeds, that show a difference in `power` of all cases, by a two-sided test at 5 %.

    Args:
        observed: a difference of the same two candidates on fewer pictures, or of two like them.
        effect: the difference to be seen; its sign does not matter.
        power: between 0.05 and 1.

    Raises:
        DataError: the effect is 0, or the power is out of reach.
    """
    size = abs(effect)
    if not size > 0:
        raise DataError("a difference of 0 is never seen: give the least that would matter to you as --effect, as 0.02")
    if not ALPHA < power < 1:
        raise DataError(f"a power of {power:g}: wanted more than {ALPHA:g} and less than 1, such as 0.8")

    def reach(clusters: float, seeds: float) -> float:
        return compute_power(observed, size, clusters, seeds)

    wanted = _find_least(lambda n: reach(n, observed.seeds), 2, MOST, power)
    trained = observed.training > 0
    seeds = _find_least(lambda m: reach(observed.clusters, m), 2, MOST_SEEDS, power) if trained else None
    return Plan(
        effect=effect,
        power=power,
        now=reach(observed.clusters, observed.seeds),
        clusters=wanted,
        queries=None if wanted is None else math.ceil(wanted * observed.per_cluster),
        more=None if wanted is None else max(0, wanted - observed.clusters),
        seeds=seeds,
    )


def compute_power(observed: Observed, effect: float, clusters: float, seeds: float) -> float:
    """Compute the chance that a two-sided test at 5 % shows a difference.

    Args:
        observed: its variance.
        effect: its size.
        clusters: pictures to be had.
        seeds: of each candidate.
    """
    more = clusters / observed.clusters
    parts = [(observed.variance / more, max(1.0, observed.df * more))]
    if observed.training > 0:
        times = seeds / observed.seeds
        parts.append((observed.training / times, max(1.0, observed.training_df * times)))
    total = sum(variance for variance, _ in parts)
    if total <= 0:
        return 1.0
    df = total**2 / sum(variance**2 / own for variance, own in parts)
    limit, away = stats.t.ppf(1.0 - ALPHA / 2.0, df), effect / math.sqrt(total)
    # The other tail is nothing where the effect is far out, and there scipy's noncentral t has no number for it.
    below = float(stats.nct.cdf(-limit, df, away)) if away < 1 else 0.0
    above = float(stats.nct.sf(limit, df, away)) if df < 1000 and away < 8 else math.nan
    return below + above if math.isfinite(above) else float(stats.norm.sf(limit - away))


def _find_least(reach: Callable[[int], float], least: int, most: int, power: float) -> int | None:
    if reach(most) < power:
        return None
    low, high = least - 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reach(middle) >= power else (middle, high)
    return high
