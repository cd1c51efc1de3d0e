"""What every test has: folders of its own for unfinished work and downloads; the real data where it is; a host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.web import Host, serving


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: what takes minutes must not be left to one worker at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("TWINLENS_DOWNLOADS", str(tmp_path / "downloads"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real samples in their publishers' layouts; they are not part of the repository."""
    named = os.environ.get("TWINLENS_SHARED_DATA")
    folder = Path(named).expanduser() if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real samples are not at {folder}: name their folder as TWINLENS_SHARED_DATA")
    return folder


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host on this machine that serves `host.files` and misbehaves as `host.faults` say."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        yield running
