"""Files in folders and archives: read in place, never outside, and every absence with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datasets.adapters.pictures import jpeg, tarred, write, zipped
from twinlens.core.errors import FetchError
from twinlens.datasets.readers import archives
from twinlens.datasets.readers.archives import Tree, find_unlisted, hold_archives, open_tree
from twinlens.datasets.readers.names import leads_out
from twinlens.datasets.readers.zips import Zip

FILES = {
    "photos/a.jpg": jpeg(1),
    "photos/A.JPG": jpeg(2),
    "photos/été 雪.jpg": jpeg(3),
    "notes.txt": b"words",
    "photos/.hidden.jpg": b"x",
    "__MACOSX/photos/._a.jpg": b"x",
}


@pytest.fixture(params=["folder", "zip", "tar"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    if request.param == "folder":
        return open_tree(write(tmp_path / "tree", FILES))
    pack = {"zip": zipped, "tar": tarred}[request.param]
    (tmp_path / f"tree.{request.param}").write_bytes(pack(FILES))
    return open_tree(tmp_path / f"tree.{request.param}")


def test_names_are_sorted_and_without_what_is_hidden(tree: Tree) -> None:
    assert tree.names() == ["notes.txt", "photos/A.JPG", "photos/a.jpg", "photos/été 雪.jpg"]


def test_two_names_that_differ_in_case_alone_are_two_files(tree: Tree) -> None:
    assert tree.read("photos/a.jpg") == jpeg(1)
    assert tree.read("photos/A.JPG") == jpeg(2)


def test_a_name_beyond_ascii_is_found(tree: Tree) -> None:
    assert tree.read("photos/été 雪.jpg") == jpeg(3)


def test_a_name_that_differs_in_case_from_the_file_is_not_there_and_says_so(tree: Tree) -> None:
    assert tree.read("Notes.TXT") == "listed, but not there; there is notes.txt, whose name differs in case"
    assert tree.read("photos/b.jpg") == "listed, but not there"


def test_pictures_that_nothing_lists_are_named(tree: Tree) -> None:
    assert find_unlisted(tree, ["photos/a.jpg"]) == ["photos/A.JPG", "photos/été 雪.jpg"]


@pytest.mark.parametrize("name", ["../secret.jpg", "photos/../../secret.jpg", "/secret.jpg", "..\\secret.jpg"])
@pytest.mark.parametrize(("ending", "pack"), [("zip", zipped), ("tar", tarred)])
def test_an_archive_with_a_name_that_leads_out_of_it_is_refused_whole(
    name: str, ending: str, pack: object, tmp_path: Path
) -> None:
    assert callable(pack)
    (tmp_path / f"evil.{ending}").write_bytes(pack({"a.jpg": jpeg(1), name: b"x"}))
    with pytest.raises(FetchError, match=r"holds 1 name\(s\) that lead out of it, the first is .*: refused whole"):
        open_tree(tmp_path / f"evil.{ending}")
    assert [path.name for path in tmp_path.iterdir()] == [f"evil.{ending}"]


def test_a_listed_name_that_leads_out_of_a_folder_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, {"secret.jpg": jpeg(1), "inside/a.jpg": jpeg(2)})
    tree = open_tree(tmp_path / "inside")
    for name in ("../secret.jpg", str(tmp_path / "secret.jpg")):
        assert str(tree.read(name)).startswith("its name leads out of the folder")
    assert tree.read("a.jpg") == jpeg(2)


@pytest.mark.parametrize(
    ("name", "content"),
    [("cut.zip", zipped(FILES)[:-60]), ("empty.zip", b""), ("cut.tar", tarred(FILES)[:700]), ("page.tar", b"<html>")],
)
def test_a_truncated_archive_is_an_error_that_names_it(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FetchError, match=rf"{name} is not a whole (zip|tar) archive"):
        open_tree(tmp_path / name)


def test_a_member_damaged_in_its_middle_has_that_as_its_reason_and_the_rest_is_read(tmp_path: Path) -> None:
    content = bytearray(zipped({"a.jpg": jpeg(1), "b.jpg": jpeg(2)}))
    content[200:240] = bytes(40)
    (tmp_path / "photos.zip").write_bytes(bytes(content))
    tree = open_tree(tmp_path / "photos.zip")
    assert str(tree.read("a.jpg")).startswith("damaged in the archive: ")
    assert tree.read("b.jpg") == jpeg(2)


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="wanted a folder or a zip or tar archive"):
        open_tree(tmp_path / "nothing")


def test_names_that_stay_inside_are_told_from_those_that_do_not() -> None:
    assert not any(map(leads_out, ["a.jpg", "a/b..jpg", "...jpg", "a/..b/c.jpg"]))
    assert all(map(leads_out, ["..", "a/../../b", "/a", "\\a", "C:\\a"]))


def test_archives_that_are_held_are_opened_once_and_read_after_their_user_closed_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    closed: list[str] = []

    class Counted(Zip):
        def __init__(self, path: Path) -> None:
            opened.append(path.name)
            self.path = path
            super().__init__(path)

        def close(self) -> None:
            closed.append(self.path.name)
            super().close()

    monkeypatch.setattr(archives, "Zip", Counted)
    for n in range(6):
        (tmp_path / f"{n}.zip").write_bytes(zipped({"a.jpg": jpeg(n)}))

    def read(*numbers: int) -> list[bytes | str]:
        trees = [open_tree(tmp_path / f"{n}.zip") for n in numbers]  # all are open at the same time
        found = [tree.read("a.jpg") for tree in trees]
        for tree in trees:
            tree.close()
        return found

    with hold_archives():
        assert read(0) == read(0) == [jpeg(0)]
        assert (opened, closed) == (["0.zip"], [])
        assert read(0, 1, 2, 3, 4, 5) == [jpeg(n) for n in range(6)]
        assert len(opened) == 6
        assert len(closed) == 6 - archives.MOST_HELD
        (tmp_path / "5.zip").write_bytes(zipped({"a.jpg": jpeg(9), "b.jpg": jpeg(1)}))
        assert read(5) == [jpeg(9)]  # another file by now
    assert sorted(opened) == sorted(closed)
    read(0)
    assert opened[-1] == closed[-1] == "0.zip"
