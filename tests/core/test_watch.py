"""The state of a dataset's own files: what changes it, what does not, and what it costs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from twinlens.core.watch import describe_state, write_state


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.jpg"):
        (folder / name).write_bytes(b"1234")
    return folder


def state(*places: Path) -> dict[str, Any] | None:
    return describe_state([str(place) for place in places])


def test_a_state_counts_files_and_bytes(photos: Path) -> None:
    found = state(photos)
    assert found is not None
    assert (found[str(photos)]["files"], found[str(photos)]["bytes"]) == (2, 8)
    assert state(photos) == found


def test_any_file_that_comes_goes_grows_or_is_written_changes_it(photos: Path) -> None:
    seen = [state(photos)]
    (photos / "c.jpg").write_bytes(b"1")
    seen.append(state(photos))
    (photos / "sub/b.jpg").write_bytes(b"12345")
    seen.append(state(photos))
    os.utime(photos / "a.jpg", ns=(0, 7))  # another content of the same length
    seen.append(state(photos))
    (photos / "a.jpg").rename(photos / "sub/a.jpg")
    seen.append(state(photos))
    (photos / "c.jpg").unlink()
    seen.append(state(photos))
    assert all(one != other for place, one in enumerate(seen) for other in seen[:place])


def test_hidden_files_do_not_count_and_a_loop_of_links_ends(photos: Path) -> None:
    before = state(photos)
    (photos / ".DS_Store").write_bytes(b"x")
    assert state(photos) == before
    (photos / "again").symlink_to(photos)
    (photos / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    assert state(photos) == before


def test_a_table_is_a_place_by_itself(photos: Path) -> None:
    table = photos.parent / "t.csv"
    table.write_text("file\na.jpg\n", encoding="utf-8")
    before = state(photos, table)
    assert before is not None
    assert before[str(table)]["files"] == 1
    table.write_text("file\na.jpg\nb.jpg\n", encoding="utf-8")
    assert state(photos, table) != before


def test_where_the_files_are_not_what_was_recorded_of_them_stays(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "out/files.json"
    assert state(photos / "nowhere", photos) is None
    write_state(None, file)
    assert json.loads(file.read_text()) == {}
    write_state(state(photos), file)
    recorded = file.read_bytes()
    write_state(None, file)
    assert file.read_bytes() == recorded
    assert [path.name for path in file.parent.iterdir()] == ["files.json"]
