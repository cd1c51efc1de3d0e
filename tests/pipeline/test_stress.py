"""Mutated inputs of every kind: taken or refused in a sentence, in bounded time and memory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pictures", "tables", "archives", "parquet", "params"])
def test_mutated_inputs_end_in_a_sentence_and_never_in_a_traceback(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.stress", "--kinds", kind, "--count", "50", "--kept", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    told = re.fullmatch(r"\w+: (\d+) taken, (\d+) refused in a sentence, 0 faults, [\d,]+ MB .*\n", ended.stdout)
    assert told is not None
    assert int(told[1]) + int(told[2]) == 50
    assert int(told[2]) > 0
