"""Digests: of what, and when a file is read again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from twinlens.core import hashing, paths
from twinlens.core.hashing import LARGE, SETTLED_NS, hash_file, recall_digest
from twinlens.core.scratch import prune


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file written just now counts as settled: no test waits two seconds."""
    monkeypatch.setattr(hashing, "SETTLED_NS", -1)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read for their digest."""
    read: list[Path] = []

    def count(path: Path) -> str:
        read.append(path)
        return hash_file(path)

    monkeypatch.setattr(hashing, "hash_file", count)
    return read


def checkpoint(folder: Path, letter: bytes = b"a") -> Path:
    path = folder / "weights.safetensors"
    path.write_bytes(letter * LARGE)
    return path


def memories() -> list[Path]:
    return sorted((paths.scratch() / "digests").glob("*.json"))


def test_a_large_file_is_read_once(tmp_path: Path, reads: list[Path]) -> None:
    path = checkpoint(tmp_path)
    assert recall_digest(path) == recall_digest(path) == hashlib.sha256(b"a" * LARGE).hexdigest()
    assert len(reads) == 1


def test_by_a_link_it_is_the_same_file(tmp_path: Path, reads: list[Path]) -> None:
    path, link = checkpoint(tmp_path), tmp_path / "link"
    link.symlink_to(path)
    assert recall_digest(path) == recall_digest(link)
    assert len(reads) == 1


def test_a_small_file_is_read_each_time_and_nothing_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"one")
    assert recall_digest(path) == hashlib.sha256(b"one").hexdigest()
    assert not memories()


def test_other_bytes_of_the_same_size_are_seen(tmp_path: Path, reads: list[Path]) -> None:
    first = recall_digest(checkpoint(tmp_path))
    assert recall_digest(checkpoint(tmp_path, b"b")) != first
    assert len(reads) == 2


def test_a_file_whose_time_was_set_back_is_seen(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    before, first = path.stat(), recall_digest(path)
    checkpoint(tmp_path, b"b")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert recall_digest(path) != first


def test_a_file_that_took_anothers_name_is_seen(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    first, before = recall_digest(path), path.stat()
    other = tmp_path / "other"
    other.write_bytes(b"b" * LARGE)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert recall_digest(path) != first


def test_a_file_written_a_moment_ago_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "SETTLED_NS", SETTLED_NS)
    path = checkpoint(tmp_path)
    recall_digest(path)
    assert not memories()
    later = time.time_ns() + 3 * SETTLED_NS
    monkeypatch.setattr("time.time_ns", lambda: later)
    recall_digest(path)
    assert len(memories()) == 1


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"stamp": 1, "sha256": 2}'])
def test_a_memory_that_is_damaged_counts_as_none(tmp_path: Path, damage: str) -> None:
    path = checkpoint(tmp_path)
    first = recall_digest(path)
    memories()[0].write_text(damage)
    assert recall_digest(path) == first
    assert json.loads(memories()[0].read_text())["sha256"] == first


def test_where_nothing_can_be_kept_the_file_is_read(tmp_path: Path, reads: list[Path]) -> None:
    paths.scratch().mkdir(parents=True, exist_ok=True)
    (paths.scratch() / "digests").write_text("a file where a folder should be")
    path = checkpoint(tmp_path)
    assert recall_digest(path) == recall_digest(path) == hash_file(path)
    assert len(reads) == 2


def test_memories_are_pruned_with_the_rest(tmp_path: Path) -> None:
    recall_digest(checkpoint(tmp_path))
    prune(keep_days=1)
    assert len(memories()) == 1
    prune(keep_days=-1)
    assert not memories()
