"""How often 95 % intervals hold the truth, and tests call a null difference real: over pools drawn anew.

Three estimates side by side, over the same pools: the pool held fixed (queries are drawn, items stay), the plain
jackknife with pictures on both sides, and the one that is used, which takes pairs out once. Two models are equally
good and see each picture with noise of their own; the power is the share of pools on which a model with more noise is
found out. The truth of a mean is the mean over all pools.

Real vectors are those of a dataset that went through the pipeline (`--real <dataset>/<model>`): pools are draws without
replacement from its pictures. Of a share f of a finite set, what single pictures do spreads 1 - f times as much as
between pools without end, what pairs do (1 - f)^2 times: the estimates of means are corrected so. Differences need
none, as all that differs is noise drawn anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Float64, Int

from benchmarks.paired import Row
from twinlens.core import paths, tables
from twinlens.core.vectors import read_vectors
from twinlens.evaluation.deletions import Deletions
from twinlens.evaluation.intervals import encode_clusters, jackknife_means
from twinlens.evaluation.jackknife import Estimate, Measured, Sampling, estimate, estimate_queries
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.qrels import Groups

NAMES, K, DEPTH = ["hit", "mrr", "ndcg"], 10, 25
KINDS, DIM, FLIPS = 150, 24, 400
WORSE, LITTLE_WORSE = 1.25, 1.08  # times the noise of the model that is to be found out

Vectors = Float64[np.ndarray, "rows dim"]
Rows = Int[np.ndarray, "queries depth"]


@dataclass(frozen=True)
class Drawn:
    """A pool, the lists of two equally good models, and those of one that is worse."""

    task: Task
    first: Rows
    second: Rows
    worse: Rows


@dataclass(frozen=True)
class Source:
    """Where pools come from; `share` of a finite set is what a pool takes of it, 0 if it has no end."""

    name: str
    draw: Callable[[np.random.Generator], Drawn]
    share: float = 0.0


def run(pools: int, real: str | None) -> Iterator[Row]:
    """Simulate every source on so many pools, then time one large pool."""
    sources = list_drawn()
    if real is not None:
        dataset, _, model = real.partition("/")
        sources += list_real(dataset, model)
    for source in sources:
        yield from simulate(source, pools)
    yield time_one()


# ----------------------------------------------------------------- simulation


def simulate(source: Source, pools: int) -> Iterator[Row]:
    """The rows of one source: coverage, null rejections and power, each of hit, MRR and nDCG."""
    rng = np.random.default_rng(0)
    found: dict[str, list[np.ndarray]] = {}

    def keep(name: str, value: np.ndarray) -> None:
        found.setdefault(name, []).append(value)

    for _ in range(pools):
        drawn = source.draw(rng)
        runs = {name: judge(drawn.task, getattr(drawn, name)) for name in ("first", "second", "worse")}
        sampling = Sampling.by_picture(runs["first"].deletions)
        clusters = encode_clusters(drawn.task.query_images)
        for name, estimated in estimate_three([runs["first"]], sampling, clusters, source.share).items():
            keep(f"half {name}", estimated.half_width)
            keep(f"variance {name}", estimated.variance)
        keep("mean", runs["first"].values.now.mean(axis=0))
        for against in ("second", "worse"):
            pair = [Measured(runs[against].deletions, runs[against].values, -1.0), runs["first"]]
            for name, estimated in estimate_three(pair, sampling, clusters, 0.0).items():
                keep(f"p {against} {name}", estimated.p)
            difference = runs["first"].values.now - runs[against].values.now
            keep(f"p {against} signs", flip_signs(difference, clusters, rng))
            if isinstance(drawn.task.qrels, Groups):
                keep(f"p {against} sets", flip_signs(difference, drawn.task.qrels.query_groups, rng))
    tables_of = {name: np.array(values) for name, values in found.items()}
    means = tables_of["mean"]
    off = np.abs(means - means.mean(axis=0))
    of = f"{source.name}, {pools} pools"
    for name in ("fixed pool", "both sides", "pairs once"):
        ratio = np.sqrt(tables_of[f"variance {name}"].mean(axis=0)) / means.std(axis=0, ddof=1)
        held = (off <= tables_of[f"half {name}"]).mean(axis=0)
        yield Row(f"{of}: {name}", _three(held), f"standard error over true spread {_three(ratio)}", "", ".93 to .97")
    for name in ("signs", "sets", "fixed pool", "both sides", "pairs once"):
        null, power = ((tables_of[f"p {against} {name}"] < 0.05).mean(axis=0) for against in ("second", "worse"))
        yield Row(f"{of}: test, {name}", f"rejects {_three(null)}", f"power {_three(power)}", "", ".035 to .065")


def _three(values: np.ndarray) -> str:
    return " ".join(f"{value:.3f}".lstrip("0") for value in values)


def judge(task: Task, rows: Rows) -> Measured:
    """Measure a run as it is and without each picture."""
    deletions = Deletions.of(task, rows, task.qrels.gains(0, rows), K)
    return Measured(deletions, deletions.measure([K], NAMES))


def estimate_three(
    runs: list[Measured], sampling: Sampling, clusters: Int[np.ndarray, " queries"], share: float
) -> dict[str, Estimate]:
    """Estimate in the three ways, corrected for what a pool takes of a finite set."""
    total = np.sum([one.share * one.values.now for one in runs], axis=0)
    used, fixed = estimate(runs, sampling), estimate_queries(total, Sampling.by_cluster(clusters))
    assert used.joint is not None
    assert used.pairs is not None
    left = 1.0 - share
    once = np.maximum(used.joint - left * used.pairs, fixed.variance)
    return {
        "fixed pool": replace(fixed, variance=left * fixed.variance),
        "both sides": replace(used, variance=left * used.joint),
        "pairs once": replace(used, variance=left * once),
    }


def flip_signs(
    differences: Float64[np.ndarray, "queries measures"],
    clusters: Int[np.ndarray, " queries"],
    rng: np.random.Generator,
) -> Float64[np.ndarray, " measures"]:
    """P-values of a randomisation test: flip whole clusters' signs (Smucker, Allan and Carterette 2007)."""
    sums = np.stack([np.bincount(clusters, weights=column) for column in differences.T], axis=1)
    flipped = np.abs(rng.choice([-1.0, 1.0], (FLIPS, len(sums))) @ sums)
    return np.asarray(((flipped >= np.abs(sums.sum(axis=0)) - 1e-9).sum(axis=0) + 1) / (FLIPS + 1))


# ----------------------------------------------------------------------- pools


def list_drawn() -> list[Source]:
    """Gaussian vectors about the centres of kinds, some of them frequent."""
    centres = np.random.default_rng(7).standard_normal((KINDS, DIM))
    shares = np.arange(1, KINDS + 1) ** -0.9
    shares /= shares.sum()

    def sets(rng: np.random.Generator) -> Drawn:
        kinds = rng.choice(KINDS, 300, p=shares)
        kinds = kinds[np.bincount(kinds)[kinds] >= 2]
        seen = centres[kinds] + 1.2 * rng.standard_normal((len(kinds), DIM))
        return rank_sets(kinds, seen, 1.2, rng)

    def captions(rng: np.random.Generator) -> Drawn:
        seen = centres[rng.choice(KINDS, 200, p=shares)] + 0.9 * rng.standard_normal((200, DIM))
        vague = np.repeat(rng.gamma(4.0, 0.4, 200), 5)[:, None]
        said = np.repeat(seen, 5, axis=0) + vague * rng.standard_normal((1000, DIM))
        return rank_captions(seen, said, 5, 1.2, rng, worse=LITTLE_WORSE)

    def back(rng: np.random.Generator) -> Drawn:
        seen = centres[rng.choice(KINDS, 200, p=shares)] + 0.9 * rng.standard_normal((200, DIM))
        said = np.repeat(seen, 5, axis=0) + rng.standard_normal((1000, DIM))
        return rank_captions(seen, said, 5, 1.2, rng, back=True, worse=LITTLE_WORSE)

    return [
        Source("drawn, object sets, 300 pictures", sets),
        Source("drawn, caption to image, 200 pictures", captions),
        Source("drawn, image to caption, 200 pictures", back),
    ]


def list_real(dataset: str, model: str, pictures: int = 200) -> list[Source]:
    """Pictures of a dataset: object sets by pixels and by joined captions; captions that find another of theirs."""
    groups = tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS)
    set_of = dict(zip(groups["image_id"], groups["object_set"], strict=True))
    found = []
    for name in ("images", "captions_joined"):
        of = read_vectors(paths.embedded(dataset, model), name)
        kept = [row for row, image_id in enumerate(of.ids) if set_of.get(image_id)]
        rows, kinds = of.rows[kept], encode_clusters([set_of[of.ids[row]] for row in kept])

        def sets(rng: np.random.Generator, rows: Vectors = rows, kinds: np.ndarray = kinds) -> Drawn:
            chosen = rng.choice(len(rows), pictures, replace=False)
            chosen = chosen[np.bincount(kinds[chosen])[kinds[chosen]] >= 2]
            return rank_sets(kinds[chosen], rows[chosen], 0.8 / np.sqrt(rows.shape[1]), rng)

        found.append(Source(f"{dataset}, object sets, {name}, {pictures} pictures", sets, pictures / len(rows)))
    said = read_vectors(paths.embedded(dataset, model), "captions")
    by_picture = (
        pl.DataFrame({"id": said.image_ids}).with_row_index("row").group_by("id", maintain_order=True).agg("row")
    )
    five = [rows[:5] for rows in by_picture["row"].to_list() if len(rows) >= 5]

    def captions(rng: np.random.Generator) -> Drawn:
        chosen = np.array(five)[rng.choice(len(five), pictures, replace=False)]
        first, others = said.rows[chosen[:, 0]], said.rows[chosen[:, 1:].ravel()]
        return rank_captions(first, others, 4, 0.6 / np.sqrt(said.rows.shape[1]), rng)

    found.append(Source(f"{dataset}, captions find a fifth, {pictures} pictures", captions, pictures / len(five)))
    return found


def rank_sets(kinds: Int[np.ndarray, " pictures"], seen: Vectors, noise: float, rng: np.random.Generator) -> Drawn:
    """Lists of three models that see pictures with noise of their own."""
    codes = np.unique(kinds, return_inverse=True)[1]
    ids, own = [f"p{n:04d}" for n in range(len(codes))], np.arange(len(codes))
    about = TaskMetadata("Object sets", "i2i", 0)
    task = Task("sets", about, ids, ids, ids, Groups(codes, codes, own), own, [str(n) for n in range(codes.max() + 1)])
    runs = []
    for times in (1.0, 1.0, WORSE):
        mine = seen + times * noise * rng.standard_normal(seen.shape)
        runs.append(rank(mine, mine, own))
    return Drawn(task, *runs)


def rank_captions(
    seen: Vectors,
    said: Vectors,
    each: int,
    noise: float,
    rng: np.random.Generator,
    *,
    back: bool = False,
    worse: float = WORSE,
) -> Drawn:
    """Lists of three models that read pictures and captions with noise of their own; `back`: pictures find captions."""
    count = len(seen)
    ids = [f"p{n:04d}" for n in range(count)]
    of = [image_id for image_id in ids for _ in range(each)]
    names = [f"{image_id}#{n % each}" for n, image_id in enumerate(of)]
    pictures, owners = np.arange(count), np.repeat(np.arange(count), each)
    if back:
        about = TaskMetadata("Image to caption", "i2t", 2)
        task = Task("back", about, ids, ids, names, Groups(pictures, owners), group_names=ids, item_images=of)
    else:
        task = Task(
            "there", TaskMetadata("Captions", "t2i", 1), names, of, ids, Groups(owners, pictures), group_names=ids
        )
    runs = []
    for times in (1.0, 1.0, worse):
        image, text = (rows + times * noise * rng.standard_normal(rows.shape) for rows in (seen, said))
        runs.append(rank(image, text) if back else rank(text, image))
    return Drawn(task, *runs)


def rank(queries: Vectors, items: Vectors, own: Int[np.ndarray, " queries"] | None = None) -> Rows:
    """The items nearest to each query by cosine, best first, without its own."""
    scores = queries @ (items / np.linalg.norm(items, axis=1, keepdims=True)).T
    if own is not None:
        scores[np.arange(len(scores)), own] = -np.inf
    depth = min(DEPTH, len(items) - (own is not None))
    best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


# ------------------------------------------------------------------------ time


def time_one() -> Row:
    """Seconds for the intervals of all measures at 1, 5 and 10 of 25,000 captions over 5,000 pictures."""
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((5000, 32))
    drawn = rank_captions(seen, np.repeat(seen, 5, axis=0) + 0.8 * rng.standard_normal((25_000, 32)), 5, 0.1, rng)
    gains = drawn.task.qrels.gains(0, drawn.first)
    started, used = time.perf_counter(), time.process_time()
    deletions = Deletions.of(drawn.task, drawn.first, gains, K)
    values = deletions.measure([1, 5, K])
    jackknife_means([Measured(deletions, values)], Sampling.by_picture(deletions))
    taken, used = time.perf_counter() - started, time.process_time() - used
    what = f"intervals of {len(values.names)} means, 25,000 captions x 5,000 pictures, one retriever"
    return Row(what, f"{taken:.1f} s ({used:.1f} s of a processor)", "", "", "at most 10 s")
