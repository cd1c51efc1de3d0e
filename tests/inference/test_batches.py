"""Whether the batch changes what is found: rows whose nearest others differ are counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny import CPU
from twinlens.core.device import Placement
from twinlens.inference.batches import count_changed_tops, hold_threads


def test_rows_whose_nearest_changed_are_counted_and_their_own_row_is_none_of_them() -> None:
    angles = np.radians([0.0, 10.0, 25.0, 60.0])
    one = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    moved = np.radians([0.0, 10.0, 25.0, 5.0])
    other = np.stack([np.cos(moved), np.sin(moved)], axis=1).astype(np.float32)
    assert count_changed_tops(one, one, nearest=1) == 0
    # nearest before: 1, 0, 1, 2; after: 3, 3 (5 degrees; ties go to the lower row), 1, 0
    assert count_changed_tops(one, other, nearest=1) == 3


def test_few_rows_are_computed_with_one_thread_on_a_cpu() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        counts = []
        for device, few in (("cpu", True), ("cpu", False), ("cuda", True)):
            with hold_threads(Placement(torch.device(device), torch.float32), few):
                counts.append(torch.get_num_threads())
        assert counts == [1, 2, 2]
        with pytest.raises(KeyError), hold_threads(CPU, few=True):
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
