"""What a step frees is there for the next one."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from twinlens.training.memory import keep_freed_memory


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_memory_that_was_freed_is_taken_again_without_a_page_fault() -> None:
    if not keep_freed_memory(torch.device("cpu")):
        pytest.skip("an allocator without mallopt")
    for _ in range(3):
        before = faults()
        torch.ones(10_000_000)  # 40 MB, which are 9,766 pages
        found = faults() - before
    assert found < 1000


def test_a_gpus_process_is_left_as_it_is() -> None:
    assert not keep_freed_memory(torch.device("cuda"))
