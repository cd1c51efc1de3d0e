"""A batch of few rows has the same bytes however many cores there are."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import CPU
from twinlens.core.device import Placement
from twinlens.inference.threads import hold_threads


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
