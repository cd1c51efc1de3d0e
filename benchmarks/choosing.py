"""Seconds that `twinlens choose` takes over many experiments of many queries, and its page.

python -m benchmarks.choosing                            # 20 experiments, 25,000 queries
python -m benchmarks.choosing --experiments 40 --pictures 1000

Pictures with five captions each, drawn; each experiment sees them with noise of its own. Experiments are in memory:
what DVC takes to open them is left out. Seconds of the processor and of the clock, then the page's bytes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from tests.experiments import Rows, Vectors, alone, caption_to_image, experiment
from twinlens.evaluation.choose import choose
from twinlens.report.leaderboard import render
from twinlens.report.leaders import Material

DEPTH, DIM, CAPTIONS, AT_ONCE = 25, 16, 5, 2_500
TASK, IMAGE, MEASURE = "caption_to_image", "image", "ndcg_at_10"
Result = TypeVar("Result")


def rank(queries: Vectors, items: Vectors) -> Rows:
    """The items nearest to each query by inner product, best first."""
    found = []
    for start in range(0, len(queries), AT_ONCE):
        scores = -(queries[start : start + AT_ONCE].astype(np.float32) @ items.T.astype(np.float32))
        top = np.argpartition(scores, DEPTH, axis=1)[:, :DEPTH]
        order = np.argsort(np.take_along_axis(scores, top, axis=1), axis=1)
        found.append(np.take_along_axis(top, order, axis=1))
    return np.concatenate(found)


def clock(name: str, work: Callable[[], Result]) -> Result:
    """Run some work and print what it took."""
    busy, began = time.process_time(), time.perf_counter()
    made = work()
    print(f"{name}: {time.process_time() - busy:.1f} s of the processor, {time.perf_counter() - began:.1f} s")
    return made


def main() -> None:
    """Draw the experiments and print what the choice and its page take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=5_000)
    options = parser.parse_args()
    rng, task = np.random.default_rng(0), caption_to_image(options.pictures, CAPTIONS)
    seen = rng.standard_normal((options.pictures, DIM))
    said = np.repeat(seen, CAPTIONS, axis=0) + 0.8 * rng.standard_normal((CAPTIONS * options.pictures, DIM))
    made = []
    for number in range(options.experiments):
        image, text = (each + (0.5 + 0.01 * number) * rng.standard_normal(each.shape) for each in (seen, said))
        made.append(experiment(f"model-{number:02d}", task, {IMAGE: rank(text, image)}))
    found = clock("choose", lambda: choose(alone(*made), TASK, MEASURE))
    labels = {image_id: [f"kind {n % 20}"] for n, image_id in enumerate(task.item_ids)}
    texts = {query_id: "word " * (2 + n % 9) for n, query_id in enumerate(task.query_ids)}
    page = clock("page", lambda: render(found, Material(texts, labels)))
    print(f"page: {len(page.encode()) / 1e3:,.0f} kB without pictures")


if __name__ == "__main__":
    main()
