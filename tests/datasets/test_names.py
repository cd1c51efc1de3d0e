"""Names of files, zips and texts as other people and systems write them: found, read, or refused with the way on."""

from __future__ import annotations

import io
import tarfile
import unicodedata
from pathlib import Path

import pytest

from tests.datasets.adapters.own import Case, table
from tests.datasets.adapters.pictures import jpeg, tarred, write, zipped
from twinlens.core.errors import DataError
from twinlens.datasets.readers.archives import open_tree
from twinlens.images.decode import FORMATS

FOUR = {f"{n}.jpg": jpeg(n) for n in range(4)}


# ------------------------------------------------------------------------- names


def test_names_are_found_in_another_spelling(tmp_path: Path) -> None:
    names = [
        "plain.jpg",
        unicodedata.normalize("NFD", "café.jpg"),
        "sub/windows.jpg",
        "dot.jpg",
        "absolute.jpg",
        "blank.jpg",
    ]
    absolute = tmp_path / "files/photos/absolute.jpg"
    listed = ["plain.jpg", "café.jpg", "sub\\windows.jpg", "./dot.jpg", str(absolute), "blank.jpg "]
    content = "file,caption\n" + "".join(f"{name},c{n}\n" for n, name in enumerate(listed))
    made = table(tmp_path, "t.csv", content, {name: jpeg(n) for n, name in enumerate(names)})
    assert made.captions() == {name: [f"c{n}"] for n, name in enumerate(names)}
    kept = made.kept()
    assert kept.dropped.is_empty()
    assert kept.images["image_id"].to_list() == [unicodedata.normalize("NFC", name) for name in names]
    assert made.pictures(*kept.images["file"]) == [jpeg(n) for n in range(6)]


def test_links_of_a_folder_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    write(tmp_path, {"blobs/123": jpeg(1), "elsewhere/trams/0.jpg": jpeg(2), "files/photos/dogs/0.jpg": jpeg(3)})
    photos = tmp_path / "files/photos"
    (photos / "dogs/1.jpg").symlink_to("../../../blobs/123")
    (photos / "trams").symlink_to("../../elsewhere/trams")
    (photos / "dogs/round").symlink_to("..")
    (photos / "dogs/gone.jpg").symlink_to("../../../blobs/none")
    made = Case(tmp_path, {}, adapter="folder", images=str(photos))
    kept = made.kept()
    assert {(file, *labels) for file, labels in kept.images.select("file", "labels").iter_rows()} == {
        ("dogs/0.jpg", "dogs"), ("dogs/1.jpg", "dogs"), ("trams/0.jpg", "trams"),
    }  # fmt: skip
    assert made.pictures("dogs/1.jpg", "trams/0.jpg") == [jpeg(1), jpeg(2)]
    assert "a link to ../../../blobs/none, which is not there" in str(made.pictures("dogs/gone.jpg")[0])


def test_links_of_a_tar_lead_to_what_it_holds_and_nowhere_else(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = len(jpeg(1))
        tar.addfile(info, io.BytesIO(jpeg(1)))
        for name, kind, target in (
            ("hard.jpg", tarfile.LNKTYPE, "a.jpg"),
            ("soft.jpg", tarfile.SYMTYPE, "a.jpg"),
            ("out.jpg", tarfile.SYMTYPE, "/etc/hostname"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            tar.addfile(link)
    tree = open_tree(tmp_path / "p.tar")
    assert tree.names() == ["a.jpg", "hard.jpg", "out.jpg", "soft.jpg"]
    assert [tree.read(name) for name in ("hard.jpg", "soft.jpg")] == [jpeg(1)] * 2
    assert tree.read("out.jpg") == "a link to /etc/hostname, which is not in the archive"


def test_numbered_retakes_in_a_shard_are_samples_of_their_own_and_masks_are_not(tmp_path: Path) -> None:
    stems = ["beach", "beach.1", "beach.2", "1.5m"]
    files = {f"{stem}.{e}": c for stem in stems for e, c in (("jpg", jpeg(1)), ("txt", f"of {stem}".encode()))}
    shard = tarred(files | {"beach.seg.png": b"mask"})
    made = Case(
        tmp_path, {"0.tar": shard}, adapter="webdataset", source=str(tmp_path / "files"), shards={"test": "*.tar"}
    )
    assert made.captions() == {f"0.tar/{stem}.jpg": [f"of {stem}"] for stem in sorted(stems)}
    assert made.kept().dropped.select("id", "rule").rows() == [("0.tar/beach.seg.png", "unlisted")]


def test_every_ending_that_can_be_opened_is_read_and_the_rest_is_named(tmp_path: Path) -> None:
    names = [
        "dogs/a.jpg",
        "dogs/b.JFIF",
        "dogs/c.jpe",
        "trams/a.avif",
        "trams/b.ppm",
        "trams/c",
        "trams/d.heic",
        "notes.txt",
    ]
    made = Case(tmp_path, {f"p/{name}": b"x" for name in names}, adapter="folder", images=str(tmp_path / "files/p"))
    kept = made.kept()
    assert kept.images["file"].to_list() == names[:5]
    assert kept.dropped.select("id", "rule").rows() == [("trams/c", "ending"), ("trams/d.heic", "ending")]
    assert "its name ends in .heic; opened is what ends in .jpg" in kept.dropped["reason"][1]


def test_the_endings_that_are_read_are_those_of_the_formats_that_are_opened() -> None:
    from PIL import Image

    from twinlens.datasets.readers.names import PICTURES

    Image.init()
    opened = {ending for ending, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO")}
    assert opened <= set(PICTURES) <= opened | {".avif", ".avifs"}


def test_a_missing_file_names_the_nearest_by_its_last_part(tmp_path: Path) -> None:
    content = "file,caption\nphotos/my/0.jpg,a\n1.png,b\nnone.jpg,c\n"
    made = table(tmp_path, "t.csv", content, {"my/0.jpg": jpeg(0), "1.jpg": jpeg(1)})
    made.kept()
    assert made.pictures("photos/my/0.jpg", "1.png", "none.jpg") == [
        "listed, but not there; there is my/0.jpg", "listed, but not there; there is 1.jpg", "listed, but not there",
    ]  # fmt: skip


# ----------------------------------------------------------- zips and texts of other systems

SAID = ["A dog on a beach.", "Una calle, de noche.", "Ein Café am Fluß."]


def one_member(method: int = 0, flags: int = 0) -> bytes:
    """A zip whose only member is marked as packed by another method, or as encrypted."""
    raw = bytearray(zipped({"0.jpg": jpeg(0)}))
    central = raw.index(b"PK\x01\x02")
    for at in (6, central + 8):
        raw[at] |= flags
    for at in (8, central + 10):
        raw[at] = method or raw[at]
    return bytes(raw)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            one_member(method=9),
            r"p.zip: 1 file\(s\) are packed with Deflate64, the first is '0.jpg'; wanted .*Unpack it",
        ),
        (
            one_member(flags=1),
            r"p.zip: 1 file\(s\) need a password, the first is '0.jpg'; wanted one without. Unpack it",
        ),
    ],
)
def test_a_zip_that_cannot_be_unpacked_is_an_error_with_the_way_on(
    content: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        Case(tmp_path, {"p.zip": content}, adapter="folder", images=str(tmp_path / "files/p.zip")).kept()


def test_a_zip_of_windows_has_folders_like_any_other(tmp_path: Path) -> None:
    content = zipped({"dogs\\0.jpg": jpeg(0), "trams\\1.jpg": jpeg(1)})
    made = Case(tmp_path, {"p.zip": content}, adapter="folder", images=str(tmp_path / "files/p.zip"))
    assert made.kept().images.select("file", "labels").rows() == [("dogs/0.jpg", ["dogs"]), ("trams/1.jpg", ["trams"])]
    assert made.pictures("trams/1.jpg") == [jpeg(1)]


def saved(separator: str, heading: str = "file{}caption", end: str = "\r\n") -> str:
    cells = [f'"{text}"' if separator in text else text for text in SAID]
    return end.join([heading.format(separator), *(f"{n}.jpg{separator}{cell}" for n, cell in enumerate(cells)), ""])


@pytest.mark.parametrize(
    "content",
    [
        saved(";").encode("utf-8-sig"),
        ("sep=,\r\n" + saved(",")).encode("utf-8-sig"),
        saved("\t").encode("utf-16"),
        b"\xfe\xff" + saved("\t").encode("utf-16-be"),
        saved("|").encode(),
        saved(",", " file {} caption ").encode(),
        saved(",", end="\r").encode(),
        ("\r\n\r\n" + saved(",")).encode(),
    ],
    ids=["semicolons", "sep line", "UTF-16", "UTF-16 BE", "pipes", "blanks in heading", "old Mac", "blank lines"],
)
def test_a_table_as_spreadsheets_and_editors_save_it_is_read(content: bytes, tmp_path: Path) -> None:
    made = table(tmp_path, "t.txt", content, FOUR)
    assert [texts for _, texts in sorted(made.captions().items())] == [[text] for text in SAID]


def test_a_heading_in_other_letters_is_named_with_quotes_where_blanks_would_hide(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column file, caption; found File, 'the Caption'. Is 'File' meant\?"):
        table(tmp_path, "t.csv", "File,the Caption\n", FOUR).kept()


def test_sidecar_texts_of_notepad_have_no_mark_and_no_nul(tmp_path: Path) -> None:
    marks = ("utf-8-sig", "utf-16", "cp1252")
    texts = {f"{n}.txt": (text + "\r\n").encode(mark) for n, (text, mark) in enumerate(zip(SAID, marks, strict=True))}
    shard = tarred(texts | {f"{n}.jpg": jpeg(n) for n in range(3)})
    made = Case(
        tmp_path, {"0.tar": shard}, adapter="webdataset", source=str(tmp_path / "files"), shards={"test": "*.tar"}
    )
    assert list(made.captions().values()) == [[SAID[0]], [SAID[1]], []]
    assert made.kept().dropped.select("id", "rule").rows() == [("2", "not_utf8")]
