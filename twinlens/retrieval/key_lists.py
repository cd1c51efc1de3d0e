"""Keys of exact scores on a device, and lists of them: the key of `scores.make_sort_keys` says a score and a row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64

from twinlens.retrieval.scores import LOWEST, ROWS


def write_keys(
    scores: Float32[torch.Tensor, " pairs"], rows: Int64[torch.Tensor, " pairs"]
) -> Int64[torch.Tensor, " pairs"]:
    """Make keys of exact scores: as `scores.make_sort_keys`."""
    bits = (scores + 0.0).view(torch.int32)
    rising = bits ^ ((bits >> 31) & (2**31 - 1))
    return rising.long() * ROWS + (ROWS - 1 - rows)


def read_scores(keys: Int64[torch.Tensor, " *keys"]) -> Float32[torch.Tensor, " *keys"]:
    """Read the scores that keys were made of; of the lowest key it is not a number."""
    rising = (keys >> 32).int()
    return (rising ^ ((rising >> 31) & (2**31 - 1))).view(torch.float32)


def stack_keys(parts: list[Int64[np.ndarray, "queries _"]]) -> Int64[np.ndarray, "queries most"]:
    """Stack lists of keys of several lengths, the shorter ones filled up."""
    table = np.full((sum(map(len, parts)), max(part.shape[1] for part in parts)), LOWEST, dtype=np.int64)
    start = 0
    for part in parts:
        table[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return table


def find_kth_largest(values: Float32[torch.Tensor, "queries n"], k: int) -> Float32[torch.Tensor, "queries 1"]:
    """Find the `k`-th largest value of each query."""
    if values.device.type == "cpu":  # numpy's selection is vectorised
        return torch.from_numpy(-np.partition(-values.numpy(), k - 1, axis=1)[:, k - 1 : k])
    return torch.topk(values, k, dim=1).values[:, -1:]


def sort_by_query(
    queries: Int64[torch.Tensor, " pairs"], found: Int64[torch.Tensor, " pairs"], count: int
) -> Int64[np.ndarray, "queries n"]:
    """Sort the keys of each of `count` queries, largest first; shorter lists are filled up.

    Args:
        queries: of each key, rising.
        found: the keys.
        count: of queries.
    """
    of_query = torch.bincount(queries, minlength=count)
    first = torch.cumsum(of_query, 0) - of_query
    table = torch.full((count, int(of_query.max())), LOWEST, dtype=torch.int64, device=found.device)
    table[queries, torch.arange(len(queries), device=queries.device) - first[queries]] = found
    if table.device.type == "cpu":
        ordered: np.ndarray = np.sort(table.numpy(), axis=1)[:, ::-1]
        return ordered
    return torch.sort(table, dim=1, descending=True).values.cpu().numpy()


def split(sizes: Int[np.ndarray, " queries"], most: int) -> Iterator[tuple[int, int]]:
    """Split queries into runs whose sizes together are at most `most`, or that are one query."""
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield start, stop
        start = stop
