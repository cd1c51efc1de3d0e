"""The ranking measures, each defined and registered once, here.

All of them read the same thing, `Judged`: the gain of the item at each rank, and how many relevant items the
pool holds. A measure that needs `R` uses the whole pool's, not what was retrieved, so a run cut at rank 50 gives
the same value as a full ranking. Only nDCG asks how large a gain is; to the others an item is relevant if its
gain is above 0, as to trec_eval at its level 1. Where the pool has fewer than k items, the missing ranks count as
not relevant (as in trec_eval).

What else there is to say of a measure stands in its registration, and everything that shows, draws, exports or
checks measures reads it there. The order of definition is the order in which they are told everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from twinlens.core.errors import DataError

Relevance = Bool[np.ndarray, "queries depth"]
Relevant = Int[np.ndarray, " queries"]  # R: relevant items in the pool
Values = Float64[np.ndarray, " queries"]


@dataclass(frozen=True)
class Judged:
    """Ranked lists with what each item is worth to its query.

    Raises:
        DataError: the parts are not about the same queries, a gain is negative or no number, or a list holds more
            relevant items than the pool.
    """

    gains: Float32[np.ndarray, "queries depth"]  # of the ranked items, best first; 0: not relevant
    counts: Relevant
    ideal: Float64[np.ndarray, "queries K"] | None = None  # the K largest gains in the pool, falling, then zeros

    def __post_init__(self) -> None:
        parts = {"gains": self.gains, "counts": self.counts} | ({} if self.ideal is None else {"ideal": self.ideal})
        if len({len(part) for part in parts.values()}) > 1:
            found = ", ".join(f"{name} of {len(part)}" for name, part in parts.items())
            raise DataError(f"judgements are about different numbers of queries: {found}; give each one row a query")
        if self.ideal is not None and (flat := np.flatnonzero((self.counts > 0) & ~self.ideal.any(axis=1))).size:
            raise DataError(
                f"{flat.size} queries with relevant items have an ideal list without a gain, the first at row "
                f"{flat[0]}: begin it with the largest gain in the pool"
            )
        for name in ("gains", "ideal"):
            part = parts.get(name)
            if part is not None and part.size and not part.min() >= 0:
                raise DataError(
                    f"the least of the {name} is {part.min()}, which should be 0 or more: 0 is not relevant"
                )
        if (many := np.flatnonzero((self.gains > 0).sum(axis=1) > self.counts)).size:
            told = f"{many.size} lists hold more relevant items than their pool, the first at row {many[0]}"
            raise DataError(f"{told}: judge them by the judgements that were counted")

    @classmethod
    def binary(cls, relevance: Relevance, counts: Relevant) -> Judged:
        """Judgements that say only whether an item is relevant: every gain is 1 or 0."""
        return cls(relevance.astype(np.float32), counts)

    @cached_property
    def relevance(self) -> Relevance:
        """Whether the ranked items are relevant at all."""
        return np.asarray(self.gains > 0)

    def query(self, row: int) -> Judged:
        """One query alone."""
        one = slice(row, row + 1)
        return Judged(self.gains[one], self.counts[one], None if self.ideal is None else self.ideal[one])


# ------------------------------------------------------------ registration


@dataclass(frozen=True)
class Torchmetrics:
    """A second opinion by a metric of `torchmetrics.functional.retrieval`."""

    metric: str
    over_found: bool = False  # it divides by the relevant items in the first k where ours divides by R


# torchmetrics' metric or, where it has none that is the same, another way to the value of one query.
SecondOpinion = Torchmetrics | Callable[[Judged, int], float]


@dataclass(frozen=True)
class Measure:
    """A measure: how it is computed, and all that the rest of the package has to know of it."""

    name: str
    of: Callable[[Judged, int], Values]
    description: str  # the value of one query: the first line of its docstring
    title: str  # in headings, before `@k`
    also: str  # what else it is called
    referee: SecondOpinion
    headline: bool  # a column of the tables of results: the terminal's, the page's, the README's
    drawn: bool  # as intervals and against k, in the report and in plots; in the summary and beside costs
    macro: bool  # has a mean over groups too, for the task whose groups differ in size
    graded: bool  # asks how large a gain is
    mteb: str  # its name in MTEB's results
    clip_benchmark: str | None  # its name in CLIP_benchmark's rows, if it is one of theirs

    def __call__(self, judged: Judged, k: int) -> Values:
        """The value of every query at one cut."""
        return self.of(judged, k)

    def at(self, k: int) -> str:
        """The key of its values at one cut: `<measure>_at_<k>`."""
        return f"{self.name}_at_{k}"


MEASURES: dict[str, Measure] = {}


def measure(
    name: str,
    *,
    title: str,
    also: str = "",
    referee: SecondOpinion | None = None,
    headline: bool = False,
    drawn: bool = False,
    macro: bool = False,
    graded: bool = False,
    mteb: str | None = None,
    clip_benchmark: str | None = None,
) -> Callable[[Callable[[Judged, int], Values]], Measure]:
    """Register a function of `(judged, k)` as a measure; the fields are those of `Measure`.

    Raises:
        DataError: the name is taken or cannot be part of a key, or there is no description or second opinion.
    """

    def register(of: Callable[[Judged, int], Values]) -> Measure:
        description = (of.__doc__ or "").strip().split("\n")[0].rstrip(".")
        if not name.isidentifier() or "_at_" in name:
            raise DataError(f"no measure can be called {name!r}: choose letters, digits and _, without _at_")
        if name in MEASURES:
            raise DataError(f"two measures are called {name!r}: choose another name for the second")
        if not description:
            raise DataError(f"measure {name!r} has no description: begin its docstring with the value of one query")
        if referee is None:
            raise DataError(
                f"measure {name!r} has no second opinion: give `referee` a metric of torchmetrics or, where it has "
                "none, another implementation, a plain loop for instance"
            )
        MEASURES[name] = Measure(
            name, of, description, title, also, referee, headline, drawn, macro, graded, mteb or name, clip_benchmark
        )
        return MEASURES[name]

    return register


def headline() -> list[Measure]:
    """The measures that tables of results show."""
    return [each for each in MEASURES.values() if each.headline]


def drawn() -> list[Measure]:
    """The measures that are drawn."""
    return [each for each in MEASURES.values() if each.drawn]


def with_macro() -> list[Measure]:
    """The measures that have a mean over groups."""
    return [each for each in MEASURES.values() if each.macro]


def parsed(key: str) -> tuple[Measure, int] | None:
    """The measure and the cut of a key such as `hit_at_10`; None for any other key."""
    name, _, k = key.rpartition("_at_")
    return (MEASURES[name], int(k)) if name in MEASURES and k.isdecimal() else None


def measure_all(judged: Judged, ks: Sequence[int], names: Iterable[str] | None = None) -> dict[str, Values]:
    """The named measures, or all, at every k, as `<measure>_at_<k>`.

    Raises:
        DataError: a query has no relevant item in the pool: no measure is defined for it.
    """
    if len(judged.counts) and (empty := np.flatnonzero(judged.counts < 1)).size:
        raise DataError(
            f"{empty.size} queries have no relevant item in the pool, the first at row {empty[0]}: "
            "leave them out of the task"
        )
    chosen = [MEASURES[name] for name in (MEASURES if names is None else names)]
    return {each.at(k): each(judged, k) for each in chosen for k in ks}


# ------------------------------------------------------------- the measures


@measure(
    "mrr",
    title="MRR",
    also="trec_eval `recip_rank`, cut",
    referee=Torchmetrics("retrieval_reciprocal_rank"),
    headline=True,
    macro=True,
)
def mrr(judged: Judged, k: int) -> Values:
    """1 / rank of the first relevant item, 0 if beyond k."""
    top = judged.relevance[:, :k]
    return np.where(top.any(axis=1), 1.0 / (top.argmax(axis=1) + 1.0), 0.0)


@measure(
    "ndcg",
    title="nDCG",
    also="trec_eval `ndcg_cut_k`",
    referee=Torchmetrics("retrieval_normalized_dcg"),
    headline=True,
    drawn=True,
    macro=True,
    graded=True,
)
def ndcg(judged: Judged, k: int) -> Values:
    """DCG / DCG of the ideal list, the min(R, k) largest gains first; a gain is divided by log2(rank + 1).

    Raises:
        DataError: the gains of the ideal list are not known as far as k.
    """
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    if judged.ideal is None:
        top = judged.relevance[:, :k]
        ideal = np.concatenate([[0.0], np.cumsum(discount)])  # by number of relevant items, 0 to k
        return top @ discount[: top.shape[1]] / ideal[np.minimum(judged.counts, k)]
    best, known = judged.ideal[:, :k], judged.ideal.shape[1]
    if known < k and (short := np.flatnonzero(judged.counts > known)).size:
        raise DataError(
            f"nDCG at {k} needs the {k} largest gains of a query, and {short.size} queries have more relevant items "
            f"than the {known} gains given, the first at row {short[0]}: give their ideal lists to the largest cut"
        )
    gains = judged.gains[:, :k].astype(np.float64)
    return (gains @ discount[: gains.shape[1]]) / (best @ discount[: best.shape[1]])


@measure(
    "map",
    title="MAP",
    also="trec_eval `map_cut_k`",
    referee=Torchmetrics("retrieval_average_precision", over_found=True),
    headline=True,
)
def map_(judged: Judged, k: int) -> Values:
    """Sum of precision@i over the relevant ranks i <= k, / R."""
    top = judged.relevance[:, :k]
    ranks = np.arange(1, top.shape[1] + 1)
    precisions = np.cumsum(top, axis=1, dtype=np.int32) / ranks
    return np.einsum("qk,qk->q", precisions, top) / judged.counts


@measure(
    "precision",
    title="precision",
    also="trec_eval `P_k`",
    referee=Torchmetrics("retrieval_precision"),
    headline=True,
)
def precision(judged: Judged, k: int) -> Values:
    """Relevant items in the first k / k."""
    return judged.relevance[:, :k].sum(axis=1) / k


@measure(
    "recall",
    title="recall",
    also="trec_eval `recall_k`",
    referee=Torchmetrics("retrieval_recall"),
    headline=True,
)
def recall(judged: Judged, k: int) -> Values:
    """Relevant items in the first k / R, all relevant items in the pool."""
    return np.asarray(judged.relevance[:, :k].sum(axis=1) / judged.counts)


@measure(
    "hit",
    title="hit",
    also="success@k; the CLIP papers' R@k",
    referee=Torchmetrics("retrieval_hit_rate"),
    headline=True,
    drawn=True,
    macro=True,
    mteb="hit_rate",
    clip_benchmark="recall",
)
def hit(judged: Judged, k: int) -> Values:
    """1 if any of the first k items is relevant."""
    return np.asarray(judged.relevance[:, :k].any(axis=1), dtype=np.float64)


PERSISTENCE = 0.8  # of a reader going on from one rank to the next


def _rbp_by_loop(one: Judged, k: int) -> float:
    """The same of one query, as its authors tell it: a reader goes on from rank to rank with probability p."""
    value, reads = 0.0, 1.0
    for gain in one.gains[0, :k]:
        value += (1.0 - PERSISTENCE) * reads * float(gain > 0)
        reads *= PERSISTENCE
    return value


@measure(
    "rbp",
    title="RBP",
    also="rank-biased precision (Moffat and Zobel 2008), p = 0.8",
    referee=_rbp_by_loop,
    headline=True,
)
def rbp(judged: Judged, k: int) -> Values:
    """Sum of (1 - p) p^(i - 1) over the relevant ranks i <= k."""
    weights = (1.0 - PERSISTENCE) * PERSISTENCE ** np.arange(k)
    top = judged.relevance[:, :k]
    return top @ weights[: top.shape[1]]


MAIN = ndcg  # retrievers are ordered by it, galleries and comparisons are about it


# -------------------------------------------------------------------- means


def median_rank(first_hits: Int[np.ndarray, " queries"]) -> float:
    """Median over queries of the first relevant item's rank in the whole pool (MedR)."""
    return float(np.median(first_hits))


def macro_mean(values: Values, groups: Int[np.ndarray, " queries"]) -> float:
    """Mean over groups of the mean within each group: large groups count no more than small ones."""
    totals, counts = np.bincount(groups, weights=values), np.bincount(groups)
    return float((totals[counts > 0] / counts[counts > 0]).mean())


def chance_hit_at(pool: int, relevant: Relevant, k: int) -> float:
    """Mean `hit_at_k` of a ranking at random: 1 - C(N-R, k) / C(N, k)."""
    counts, queries = np.unique(relevant, return_counts=True)
    k = min(k, pool)
    steps = np.arange(k)
    misses = [np.prod(np.clip((pool - r - steps) / (pool - steps), 0.0, None)) for r in counts]
    return float(np.average(1.0 - np.array(misses), weights=queries))
