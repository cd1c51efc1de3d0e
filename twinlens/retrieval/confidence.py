"""How sure is the first picture found: a rule that says it only as far as it was shown (`calibration.py` fits it).

A rule is a signal of a query's scores and, for each promise, the least value of it at which the search answers. The
promise 0.8 is that of the answers given at least 80 % have the right picture first. It is kept with probability 95 %
over the pictures that the rule is fitted on, for queries like their captions, of pictures that are there. It says
nothing of a query whose picture is not: that cannot be seen in the scores (docs/budget.md).

The signal is the softmax of the first among the best hundred scores. The cosine itself tells much less, as captions
differ in how near they come to any picture.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float

BEST = 100  # scores that the softmax is over

Scores = Float[np.ndarray, "queries best"]
Signal = Float[np.ndarray, " queries"]


@dataclass(frozen=True)
class ConfidenceRule:
    """A rule: the signal's temperature, and what it takes for each promise that can be kept."""

    temperature: float
    thresholds: dict[float, float]  # promise: the least signal at which it is given; falls nowhere as promises rise
    pictures: int  # that it was fitted on
    captions: int

    @property
    def most(self) -> float | None:
        """The highest promise that can be kept; None: not even one in two."""
        return max(self.thresholds, default=None)

    def rate(self, best: Float[np.ndarray, " best"]) -> float:
        """Rate a query: the highest promise that is given for its first picture, 0.0 where none is.

        Args:
            best: the scores of the query's best `BEST` pictures, best first; of all where there are fewer.
        """
        signal = float(compute_signal(np.asarray(best)[None], self.temperature)[0])
        return max((promise for promise, least in self.thresholds.items() if signal >= least), default=0.0)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"thresholds": {f"{promise:g}": least for promise, least in self.thresholds.items()}}

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> Self:
        """Read what `as_json` gave."""
        thresholds = {float(promise): float(least) for promise, least in told["thresholds"].items()}
        return cls(told["temperature"], thresholds, told["pictures"], told["captions"])


def compute_signal(best: Scores, temperature: float) -> Signal:
    """Compute the share that the first has in the softmax over the best; one column of each query is its first."""
    return 1.0 / np.exp((np.asarray(best[:, :BEST], dtype=np.float64) - best[:, :1]) / temperature).sum(axis=1)
