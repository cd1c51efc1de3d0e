"""LanceDB's indexes against exact search on 100,000 vectors: recall of the true ten best, latency, build, size."""

from __future__ import annotations

import numpy as np

from benchmarks.paired import Row
from twinlens.config.params import ApproximateParams
from twinlens.retrieval.approximate import measure_settings

CENTRES = 1_000  # what photos of one kind gather around; vectors without any structure are a worst case of their own
SPREAD = 0.7  # of a vector's length, apart from its centre
SETTINGS = {
    "ivf_flat_5_of_300": {"index": "ivf_flat", "partitions": 300, "nprobes": 5},
    "ivf_flat_20_of_300": {"index": "ivf_flat", "partitions": 300, "nprobes": 20},
    "ivf_flat_60_of_300": {"index": "ivf_flat", "partitions": 300, "nprobes": 60},
    "ivf_pq_20_of_300": {"index": "ivf_pq", "partitions": 300, "nprobes": 20},
    "ivf_pq_20_of_300_refined": {"index": "ivf_pq", "partitions": 300, "nprobes": 20, "refine": 10},
    "hnsw_sq_ef_50": {"index": "ivf_hnsw_sq", "partitions": 1, "nprobes": 1, "ef": 50},
    "hnsw_sq_ef_200": {"index": "ivf_hnsw_sq", "partitions": 1, "nprobes": 1, "ef": 200},
}


def clustered(count: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors around shared centres, float32; the same centres for every seed."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, dim)) / np.sqrt(dim)
    rng = np.random.default_rng([1, seed])
    rows = np.sqrt(1 - SPREAD**2) * centres[rng.integers(0, CENTRES, count)]
    rows += SPREAD / np.sqrt(dim) * rng.standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def run(items: int, dim: int, queries: int) -> list[Row]:
    """A row a setting; the first two are exact."""
    params = ApproximateParams.model_validate({"k": 10, "queries": queries, "settings": SETTINGS})
    rows = measure_settings(clustered(queries, dim, 1), clustered(items, dim, 0), params)
    exact = next(row["ms_per_query"] for row in rows if row["setting"] == "exact, LanceDB")
    return [
        Row(
            f"10 nearest of {items:,} x {dim}, {row['setting']}",
            f"{row['ms_per_query']:.2f} ms a query, recall {row['recall']:.3f}",
            f"built in {row['build_s']:.0f} s, {row['index_mb']:,.0f} MB" if row["index_mb"] else "no index",
            f"{exact / row['ms_per_query']:.1f} times as fast as LanceDB without an index",
        )
        for row in rows
    ]
