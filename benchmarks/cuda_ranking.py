"""Ranking on a CUDA device: exact neighbours beside the bare product and top-k, and all retrievers of a pool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks import retrievers
from benchmarks.paired import Row, alternate, median, ratio
from twinlens.core.device import Placement
from twinlens.retrieval.exact import find_nearest
from twinlens.retrieval.selection import BLOCK_BYTES, full_float32

K = 10
CHECKED = 500  # queries that are searched on the CPU too


def measure(placement: Placement, prepared: Path, index: pl.DataFrame, small: bool) -> Iterator[Row]:
    """Both, most important first; no picture is needed.

    Args:
        placement: of the products.
        prepared: not used.
        index: not used.
        small: little of everything, to try the script.
    """
    del prepared, index
    items, queries, dim = (2_000, 200, 64) if small else (100_000, 20_000, 768)
    yield from compare_nearest(placement, items, queries, dim, 2 if small else 5)
    yield from retrievers.run(300 if small else 5_000, 64 if small else 768, str(placement.device), "at most 20 s")


def compare_nearest(placement: Placement, items: int, queries: int, dim: int, rounds: int) -> Iterator[Row]:
    """The `K` best of clustered unit vectors: ours, and the bare product with the device's own selection."""
    pool = _draw_clusters(items, dim, placement.device)
    asked = pool[torch.randperm(items, generator=torch.Generator().manual_seed(0))[:queries].to(placement.device)]
    asked = torch.nn.functional.normalize(asked + 0.1 * _draw_clusters(queries, dim, placement.device), dim=1)
    device, step = str(placement.device), max(1, BLOCK_BYTES.get(placement.device.type, 2**25) // (4 * items))

    def bare() -> list[torch.Tensor]:
        parts = (asked[start : start + step] @ pool.T for start in range(0, queries, step))
        return [torch.topk(product, K, dim=1).indices for product in parts]

    def bare_in_full() -> list[torch.Tensor]:
        with full_float32():
            return bare()

    def bare_in_tf32() -> list[torch.Tensor]:
        before = torch.backends.cuda.matmul.fp32_precision
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        try:
            return bare()
        finally:
            torch.backends.cuda.matmul.fp32_precision = before

    def ours() -> list[np.ndarray]:
        return [found.rows for found in find_nearest(asked, pool, K, device=device)]

    ways = {"bare": bare_in_full, "ours": ours, "tf32": bare_in_tf32}
    taken = alternate(ways, rounds)
    size = f"{queries:,} of {items:,} x {dim}, exact {K} nearest"
    yield Row(
        f"{size}: vectors on the device",
        f"{median(taken, 'ours'):.3f} s",
        f"float32 product and top-k {median(taken, 'bare'):.3f} s (in TF32 {median(taken, 'tf32'):.3f} s)",
        f"{ratio(taken, 'ours', 'bare'):.2f} times it ({ratio(taken, 'ours', 'tf32'):.2f} times TF32's)",
        "at most 3 times",
    )
    rows, again = np.concatenate(ours()), np.concatenate(ours())
    top = torch.cat(bare_in_full()).cpu().numpy()
    differ = np.mean((top != rows).any(axis=1))
    some = asked[:CHECKED].cpu()
    on_cpu = np.concatenate([found.rows for found in find_nearest(some, pool.cpu(), K)])
    yield Row(
        f"the same rows as on the CPU, of {len(some)} queries",
        f"{np.mean((on_cpu == rows[: len(some)]).all(axis=1)):.1%}",
        f"two runs of the device: {'the same' if (rows == again).all() else 'DIFFERENT'} bytes; "
        f"the bare product orders {differ:.1%} of all queries otherwise",
        "",
        "100%",
    )
    asked_there, pool_there = asked.cpu().numpy(), pool.cpu().numpy()

    def from_host() -> object:
        return list(find_nearest(asked_there, pool_there, K, device=device))

    taken = alternate({"host": from_host}, min(rounds, 3))
    yield Row(f"{size}: vectors on the host", f"{median(taken, 'host'):.3f} s", "with their way to the device", "")


def _draw_clusters(count: int, dim: int, device: torch.device) -> torch.Tensor:
    """Unit vectors in groups of twenty, which share a direction and whose spread falls off, as a joint model's do."""
    generator = torch.Generator(device).manual_seed(count)

    def draw(rows: int) -> torch.Tensor:
        fall = torch.arange(1, dim + 1, device=device) ** -0.5
        return torch.randn(rows, dim, generator=generator, device=device) * fall

    found = draw(-(-count // 20)).repeat_interleave(20, dim=0)[:count] + 0.5 * draw(count)
    found[:, 0] += 1.0
    return torch.nn.functional.normalize(found, dim=1)
