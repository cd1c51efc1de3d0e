"""Ranking measures against torchmetrics and trec_eval, and exact neighbours against the bare product and faiss."""

from __future__ import annotations

import time

import faiss
import numpy as np
import pytrec_eval
import torch
from torchmetrics.retrieval import (
    RetrievalHitRate,
    RetrievalMRR,
    RetrievalNormalizedDCG,
    RetrievalPrecision,
    RetrievalRecall,
)

from benchmarks.paired import Row, alternate, median, ratio, unit_vectors
from twinlens.evaluation.measures import Judged, measure_all
from twinlens.retrieval.exact import find_nearest
from twinlens.retrieval.selection import BLOCK_BYTES

KS = [1, 5, 10]


def measures(queries: int, depth: int, rounds: int) -> list[Row]:
    """All six measures at three cuts; torchmetrics five at one cut, because it has no trec_eval average precision."""
    rng = np.random.default_rng(0)
    relevance = rng.random((queries, depth)) < 0.15
    relevance[np.arange(queries), rng.integers(0, depth, queries)] = True
    relevant = relevance.sum(axis=1)
    ours = measure_all(Judged.binary(relevance, relevant), KS)
    taken = alternate({"ours": lambda: measure_all(Judged.binary(relevance, relevant), KS)}, rounds)

    names = [f"d{i}" for i in range(depth)]
    qrels = {str(q): {names[i]: 1 for i in np.flatnonzero(row)} for q, row in enumerate(relevance)}
    run = {str(q): {name: float(depth - i) for i, name in enumerate(names)} for q in range(queries)}
    wanted = {"ndcg_cut.1,5,10", "map_cut.1,5,10", "P.1,5,10", "recall.1,5,10", "success.1,5,10", "recip_rank"}
    started = time.perf_counter()
    values = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)
    trec_s = time.perf_counter() - started
    apart = max(abs(values[str(q)]["ndcg_cut_10"] - ours["ndcg_at_10"][q]) for q in range(queries))

    few = min(queries, 5_000)  # it visits queries one by one
    index = torch.arange(few).repeat_interleave(depth)
    scores = torch.arange(depth, 0, -1, dtype=torch.float64).repeat(few)
    target = torch.from_numpy(relevance[:few]).flatten()
    metrics = [m(top_k=10) for m in (RetrievalMRR, RetrievalNormalizedDCG, RetrievalPrecision, RetrievalRecall)]
    metrics.append(RetrievalHitRate(top_k=10))
    started = time.perf_counter()
    theirs = [float(metric(scores, target, indexes=index)) for metric in metrics]
    torchmetrics_s = (time.perf_counter() - started) * queries / few
    mine = [ours[f"{name}_at_10"][:few].mean() for name in ("mrr", "ndcg", "precision", "recall", "hit")]
    apart_torch = float(np.abs(np.array(theirs) - np.array(mine)).max())
    seconds = median(taken, "ours")
    return [
        Row(
            f"{len(ours)} measures of {queries:,} queries x {depth}",
            f"{seconds:.3f} s",
            f"pytrec_eval {trec_s:.2f} s, furthest apart {apart:.1e}",
            f"{trec_s / seconds:.0f} times faster",
            "at most 0.2 s",
        ),
        Row(
            "the same, 5 of them at one cut by torchmetrics",
            f"{seconds:.3f} s for all",
            f"torchmetrics {torchmetrics_s:.1f} s (from {few:,} queries), furthest apart {apart_torch:.1e}",
            f"{torchmetrics_s / seconds:.0f} times faster",
        ),
    ]


def neighbours(items: int, dim: int, k: int, rounds: int) -> list[Row]:
    """Every item against all others, itself left out."""
    rows = unit_vectors(items, dim)
    tensor, own = torch.from_numpy(rows), np.arange(items)
    step = max(1, BLOCK_BYTES["cpu"] // (4 * items))
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(dim)
    index.add(rows)

    def bare() -> None:
        for start in range(0, items, step):
            tensor[start : start + step] @ tensor.T

    def ours() -> np.ndarray:
        return np.concatenate([block.rows for block in find_nearest(rows, rows, k, own_rows=own)])

    taken = alternate({"bare": bare, "ours": ours, "faiss": lambda: index.search(rows, k + 1)}, rounds)
    by_faiss = index.search(rows[:500], k + 1)[1]
    same = np.mean([set(a) == set(b) - {q} for q, (a, b) in enumerate(zip(ours()[:500], by_faiss, strict=True))])
    return [
        Row(
            f"exact {k} nearest of {items:,} x {dim}",
            f"{median(taken, 'ours'):.2f} s",
            f"bare matrix product {median(taken, 'bare'):.2f} s",
            f"{ratio(taken, 'ours', 'bare'):.2f} times it",
            "at most 1.15",
        ),
        Row(
            f"the same neighbours as faiss for {same:.1%} of queries",
            f"{median(taken, 'ours'):.2f} s",
            f"faiss IndexFlatIP {median(taken, 'faiss'):.2f} s",
            f"{ratio(taken, 'ours', 'faiss'):.2f} times it",
        ),
    ]
