"""Each case by its number: `pytest tests/cases -k 16`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cases.cases import CASES


@pytest.mark.parametrize("name", CASES)
def test_a_reported_fault_ends_in_the_right_value_or_in_a_message(name: str, tmp_path: Path) -> None:
    CASES[name](tmp_path)
