"""Pools drawn anew with two models that are equally good: what intervals and tests are tried on."""

from __future__ import annotations

import numpy as np

from tests import experiments
from tests.experiments import Rows, rank
from twinlens.tasks.base import Task

KINDS, DIM = 60, 16
CENTRES = np.random.default_rng(7).standard_normal((KINDS, DIM))
SHARES = 1.0 / np.arange(1, KINDS + 1)
SHARES /= SHARES.sum()
DEPTH = 25


def draw_object_sets(
    rng: np.random.Generator, pictures: int, models: int = 2, better: float = 1.0
) -> tuple[Task, list[Rows]]:
    """Pictures by kind, some kinds frequent; each model sees them with noise of its own, `better` times it the first.

    As in a pool, pictures whose set no other shares are left out.
    """
    kinds = rng.choice(KINDS, pictures, p=SHARES)
    kinds = kinds[np.bincount(kinds)[kinds] >= 2]
    seen = CENTRES[kinds] + 1.2 * rng.standard_normal((len(kinds), DIM))
    task, own, runs = experiments.object_sets(kinds), np.arange(len(kinds)), []
    for model in range(models):
        mine = seen + 1.2 * (better if model == 0 else 1.0) * rng.standard_normal(seen.shape)
        runs.append(rank(mine, mine, DEPTH, own))
    return task, runs


def draw_captions(
    rng: np.random.Generator, pictures: int, models: int = 2, better: float = 1.0
) -> tuple[Task, list[Rows]]:
    """Pictures with five captions, those of some pictures vaguer than others'."""
    seen = CENTRES[rng.choice(KINDS, pictures, p=SHARES)] + 0.9 * rng.standard_normal((pictures, DIM))
    vague = np.repeat(rng.gamma(4.0, 0.4, pictures), 5)[:, None]
    said = np.repeat(seen, 5, axis=0) + vague * rng.standard_normal((5 * pictures, DIM))
    runs = []
    for model in range(models):
        noise = better if model == 0 else 1.0
        image, text = (each + noise * rng.standard_normal(each.shape) for each in (seen, said))
        runs.append(rank(text, image, DEPTH))
    return experiments.caption_to_image(pictures, 5), runs
