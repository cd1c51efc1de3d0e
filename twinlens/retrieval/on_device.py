"""Vectors on the device that makes their products."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32

from twinlens.core.errors import DataError
from twinlens.core.row_sources import Rows, RowSource
from twinlens.retrieval.scores import NOT_FINITE

Vectors = Rows | Float32[torch.Tensor, "rows dim"]


def bring_to_device(rows: Vectors, device: torch.device) -> Float32[torch.Tensor, "rows dim"]:
    """Bring vectors to the device, as float32; a map of a file is read."""
    if not isinstance(rows, torch.Tensor):
        read = np.asarray(rows, dtype=np.float32) if isinstance(rows, RowSource) else rows
        copied = isinstance(read, np.memmap) or not read.flags.writeable
        rows = torch.from_numpy(np.array(read, dtype=np.float32, order="C", copy=True if copied else None))
    return rows.to(device, torch.float32).contiguous()


def measure_longest(rows: Float32[torch.Tensor, "rows dim"], what: str = "vectors") -> float:
    """Measure the longest row, rounded up.

    Raises:
        DataError: `what`, in words, holds NaN or infinity.
    """
    if not len(rows):
        return 0.0
    longest = float(torch.linalg.vector_norm(rows, dim=1).max()) * 1.001
    if not np.isfinite(longest):
        raise DataError(NOT_FINITE.format(what))
    return longest
