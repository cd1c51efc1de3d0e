"""Folders that the environment names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from twinlens.core import paths
from twinlens.core.errors import TwinLensError


@pytest.mark.parametrize(
    ("variable", "folder"), [("TWINLENS_SCRATCH", paths.scratch), ("TWINLENS_DOWNLOADS", paths.downloads)]
)
def test_an_address_is_no_folder(
    variable: str, folder: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "s3://bucket/twinlens")
    with pytest.raises(TwinLensError, match=f"{variable} is s3://bucket/twinlens: it must be a local folder"):
        folder()
    monkeypatch.setenv(variable, str(tmp_path))
    assert folder() == tmp_path
