"""A folder of one's own that changes: the pipeline notices, and what did not change is not made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datasets.adapters.pictures import jpeg, write
from tests.workspace import CLEAN, Workspace, clone

pytestmark = pytest.mark.slow

TARGET = "filter@my-photos"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rows = "".join(f"{number}.jpg,a red car {number}\n" for number in range(3))
    files = {f"{number}.jpg": jpeg(number) for number in range(3)}
    return write(tmp_path / "my-photos", files | {"captions.csv": f"file,caption\n{rows}".encode()})


@pytest.fixture
def workspace(photos: Path, tmp_path: Path) -> Workspace:
    """A clone with a card for the photos, as `new-dataset` writes it, chosen and run as far as `filter`."""
    made = clone(tmp_path / "clone")
    made.run("python", "-m", "twinlens", "new-dataset", str(photos))
    made.change({"dataset": "my-photos", "captioner": "none", "model": "vit-b-32"})
    made.commit("my photos")
    ran = made.ran("dvc", "repro", TARGET)
    assert sorted(ran[:2]) == ["validate", "watch"]  # neither asks for the other
    assert ran[2:] == ["download", "filter"]
    return made


def test_a_new_photo_is_noticed_and_nothing_else_is_run_for_nothing(workspace: Workspace, photos: Path) -> None:
    assert workspace.ran("dvc", "repro", TARGET) == ["watch"]
    write(photos, {"9.jpg": jpeg(9)})
    with (photos / "captions.csv").open("a", encoding="utf-8") as table:
        table.write("9.jpg,a red car 9\n")
    assert workspace.ran("dvc", "repro", TARGET) == ["watch", "download", "filter"]
    (photos / "0.jpg").touch()  # its bytes are the same: looked at, and found so
    assert workspace.ran("dvc", "repro", TARGET) == ["watch", "download"]
    photos.rename(photos.with_name("away"))  # a disk that is not mounted: what was made of it stands
    assert workspace.ran("dvc", "repro", TARGET) == ["watch"]
    workspace.change({"dataset": "scenes"})
    assert sorted(workspace.ran("dvc", "repro", "validate", "watch@my-photos")) == ["validate", "watch"]


def test_a_folder_that_is_not_watched_is_told_and_costs_nothing(workspace: Workspace) -> None:
    (workspace.folder / "cards/watched.yaml").write_text("watched: []\n", encoding="utf-8")
    said = workspace.run("dvc", "repro", "validate")
    assert "my-photos is not watched: enter it in cards/watched.yaml" in said
    assert workspace.ran("dvc", "repro", "validate") == []
    assert "watch" not in workspace.run("dvc", "status", "validate")
    assert workspace.run("dvc", "status", "validate") == CLEAN
