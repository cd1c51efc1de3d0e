"""What a stage records of its work: its own memory, whoever started it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from twinlens.core.costs import peak_host_bytes


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel keeps no figure of one program here")
def test_the_peak_of_a_program_does_not_hold_what_its_parent_had() -> None:
    held = np.ones(300_000_000, dtype=np.uint8)
    assert peak_host_bytes() > len(held)
    told = subprocess.run(
        [sys.executable, "-c", "from twinlens.core.costs import peak_host_bytes; print(peak_host_bytes())"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert 1_000_000 < int(told.stdout) < len(held)


def test_the_peak_grows_with_what_is_held() -> None:
    code = (  # in a process of its own: one that has run other tests may have held gigabytes
        "from twinlens.core.costs import peak_host_bytes\n"
        "before = peak_host_bytes(); held = b'1' * (before + 50_000_000)\n"
        "assert peak_host_bytes() >= len(held)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
