"""A plan in words."""

from __future__ import annotations

from twinlens.evaluation.choose import Pair
from twinlens.evaluation.planning import Plan

LARGE = 0.5  # share of the variance from which seeds are what is lacking


def describe_plan(pair: Pair, found: Plan, measure: str) -> str:
    """Describe how many pictures, or seeds, it takes, and what it rests on."""
    seen = pair.observed
    lines = [
        f"{pair.second} minus {pair.first} on {pair.task}, {measure}: {pair.effect:+.4f}, known to a standard error of "
        f"{(seen.variance + seen.training) ** 0.5:.4f} from {seen.clusters:,} pictures.",
        f"A difference of {abs(found.effect):.4g} is seen in {found.now * 100:.0f} % of cases with these.",
    ]
    chance = f"{found.power * 100:.0f} %"
    if found.clusters is None:
        lines.append(f"No number of pictures makes that {chance}: {_tell_limit(pair)}.")
    elif found.more:
        least = "at least " if found.far else ""
        lines.append(
            f"For {chance} it takes {least}{found.clusters:,} pictures, {found.more:,} more; with as many captions "
            f"each as here that is {found.queries:,} queries."
        )
        if found.far:
            lines.append("More than twice the pictures make queries harder, which is not reckoned with.")
    else:
        lines.append(f"For {chance} {found.clusters:,} pictures are enough ({found.queries:,} queries).")
    if seen.training > 0:
        share = seen.training / (seen.variance + seen.training)
        which = "seeds, more than pictures" if share > LARGE else "pictures, more than seeds"
        also = f": {found.seeds:,} seeds of each would do with these pictures" if found.seeds is not None else ""
        lines.append(f"{share * 100:.0f} % of the variance is of training, so that what helps is {which}{also}.")
    elif pair.one_seed:
        lines.append("One seed of each: this is about these weights, not about their recipes.")
    return "\n".join(lines)


def _tell_limit(pair: Pair) -> str:
    return "the seeds differ too much" if pair.observed.training > 0 else "it is too small"
