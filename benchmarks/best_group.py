"""How often the group that cannot be told from the best holds the truly best, and how large it is.

python -m benchmarks.best_group                      # 500 leaderboards of 3 to 30 models, some minutes
python -m benchmarks.best_group --leaderboards 100 --pictures 80

A leaderboard is a pool of pictures and captions drawn anew and 3 to 30 models that see them with noise of their own.
Those with the least noise are the truly best; of the others each has a little more. Three ways side by side, on the
same leaderboards: Hsu's comparisons with the best (which is used), Holm's procedure against the observed best,
Hansen's confidence set of models. The first two promise that a truly best model is in with 95 %, whichever
it is; Hansen's that all are.

A second table: the power that `plan` predicts from small pools for larger ones, and the share of larger pools on which
a paired test did show the difference. The effect is the true one on pools of the larger size.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy import stats

from tests.evaluation import drawn
from tests.experiments import alone, caption_to_image, experiment, rank
from twinlens.evaluation.best import ALPHA, compute_one_sided, find_best_group
from twinlens.evaluation.choose import observe
from twinlens.evaluation.compare import holm
from twinlens.evaluation.influences import Differences, Influences, find_influences
from twinlens.evaluation.planning import compute_power
from twinlens.report.summary import format_markdown

TASK, IMAGE, MEASURE = "caption_to_image", "image", "ndcg_at_10"
DRAWS = 4_000

Kept = Bool[np.ndarray, " candidates"]
Way = Callable[[Influences, Differences, np.random.Generator], Kept]


@dataclass(frozen=True)
class Leaderboard:
    """Influences of some models; the first `best` of them are equally good, and better than the others."""

    influences: Influences
    best: int


def draw_leaderboard(rng: np.random.Generator, models: int, best: int, step: float, pictures: int) -> Leaderboard:
    """Draw pictures with three captions and models that see them with noise.

    Args:
        rng: what draws.
        models: how many.
        best: how many of them are the best.
        step: how much noisier each of the others is than the one before.
        pictures: of the pool.
    """
    seen = drawn.CENTRES[rng.choice(drawn.KINDS, pictures, p=drawn.SHARES)]
    seen = seen + 0.9 * rng.standard_normal((pictures, drawn.DIM))
    vague = np.repeat(rng.gamma(4.0, 0.4, pictures), 3)[:, None]
    said = np.repeat(seen, 3, axis=0) + vague * rng.standard_normal((3 * pictures, drawn.DIM))
    task, made = caption_to_image(pictures, 3), []
    for model in range(models):
        noise = 0.7 * (1.0 + step) ** max(0, model - best + 1)
        image, text = (each + noise * rng.standard_normal(each.shape) for each in (seen, said))
        made.append(experiment(str(model), task, {IMAGE: rank(text, image, drawn.DEPTH)}))
    return Leaderboard(find_influences(alone(*made), TASK, [IMAGE] * models, MEASURE), best)


def keep_hsu(influences: Influences, differences: Differences, rng: np.random.Generator) -> Kept:
    """Keep by the way that is used."""
    return np.isin(np.arange(len(influences.mean)), find_best_group(influences, differences=differences).members)


def keep_holm(influences: Influences, differences: Differences, rng: np.random.Generator) -> Kept:
    """Keep all but what is worse than the observed best by paired two-sided tests, corrected by Holm's procedure."""
    best = int(influences.mean.argmax())
    p = 2.0 * compute_one_sided(differences, influences.clusters)[:, best]
    others = np.arange(len(p)) != best
    kept = np.ones(len(p), dtype=bool)
    kept[others] = np.array(holm(p[others].clip(max=1.0))) >= ALPHA
    return kept


def keep_hansen(influences: Influences, differences: Differences, rng: np.random.Generator) -> Kept:
    """Keep the confidence set of models (Hansen, Lunde and Nason 2011), by the largest distance from the set's mean."""
    covariance = influences.covariance
    drawn_means = rng.multivariate_normal(np.zeros(len(covariance)), covariance, DRAWS, method="eigh")
    left = list(range(len(covariance)))
    while len(left) > 1:
        about = np.eye(len(left)) - 1.0 / len(left)
        scale = np.sqrt(np.diag(about @ covariance[np.ix_(left, left)] @ about))
        worse = -(about @ influences.mean[left]) / scale
        chance = -(drawn_means[:, left] @ about) / scale
        z = stats.norm.isf(stats.t.sf(worse.max(), influences.clusters - 1))
        if (chance.max(axis=1) >= z).mean() >= ALPHA:
            break
        left.pop(int(worse.argmax()))
    return np.isin(np.arange(len(covariance)), left)


WAYS: dict[str, Way] = {
    "comparisons with the best (Hsu; used)": keep_hsu,
    "Holm against the observed best": keep_holm,
    "confidence set of models (Hansen)": keep_hansen,
}


def run(leaderboards: int, pictures: int, seed: int = 0) -> Iterator[list[str]]:
    """Draw leaderboards; tell the coverage and the size of the group of each way, by how many are truly best."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[tuple[float, ...]]] = {}
    for number in range(leaderboards):
        models = int(rng.integers(3, 31))
        kind = ("one best", "some tied", "all tied")[number % 3]
        best = {"one best": 1, "some tied": int(rng.integers(2, max(3, models // 2 + 1))), "all tied": models}[kind]
        board = draw_leaderboard(rng, models, best, float(rng.uniform(0.005, 0.05)), pictures)
        differences = board.influences.compare_all()
        kept = [way(board.influences, differences, rng) for way in WAYS.values()]
        seen = tuple(value for own in kept for value in (own[: board.best].mean(), own.sum() / models))
        for key in (kind, "all leaderboards"):
            found.setdefault(key, []).append(seen)
    for key, rows in found.items():
        means = np.mean(rows, axis=0)
        for place, way in enumerate(WAYS):
            covered, size = means[2 * place : 2 * place + 2]
            yield [f"{key}, {len(rows)}", way, f"{covered:.3f}", f"{size:.3f}"]


def run_power(pools: int, seed: int = 1) -> Iterator[list[str]]:
    """Predict the power on pools of 240 pictures from as many, half and a quarter; count how often it is shown."""
    large = 240
    for step in (0.08, 0.14):
        rng = np.random.default_rng(seed)
        boards = [draw_leaderboard(rng, 2, 1, step, large).influences for _ in range(pools)]
        effect = float(np.mean([board.mean[0] - board.mean[1] for board in boards]))
        shown = np.mean([_find_p(board) < ALPHA for board in boards])
        for small in (240, 120, 60):
            pilots = [draw_leaderboard(rng, 2, 1, step, small).influences for _ in range(pools)]
            predicted = np.mean([compute_power(observe(one, 0, 1)[0], effect, large, 1) for one in pilots])
            yield [f"{effect:.4f}", str(small), f"{predicted:.3f}", f"{shown:.3f}"]


def _find_p(influences: Influences) -> float:
    found = influences.compare_all()
    t = abs(found.effect[0, 1]) / np.sqrt(found.variance[0, 1])
    return float(2.0 * stats.t.sf(t, found.df[0, 1]))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leaderboards", type=int, default=500)
    parser.add_argument("--pictures", type=int, default=80)
    parser.add_argument("--pools", type=int, default=300, help="of each effect, for the power")
    options = parser.parse_args()
    header = ["leaderboards", "way", "a best model is in the group", "share of the models in the group"]
    if options.leaderboards:
        print(format_markdown(header, list(run(options.leaderboards, options.pictures))), end="\n\n")
    print(
        format_markdown(
            ["effect", "pictures that are seen", "predicted power on 240", "achieved"], list(run_power(options.pools))
        )
    )


if __name__ == "__main__":
    main()
