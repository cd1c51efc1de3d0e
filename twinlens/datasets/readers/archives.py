"""Files by name, in a folder or inside an archive: read in place, so nothing is ever unpacked onto the disk.

An archive that holds a name that leads out of it (`../x`, `/x`) is refused whole: nothing is
unpacked here, but whoever made it meant harm or made a mistake.
"""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol, Self

from twinlens.core.errors import DataError, FetchError
from twinlens.datasets.annotations import Drop
from twinlens.datasets.readers.names import (
    Known,
    explain_ending,
    is_hidden,
    is_picture,
    leads_out,
    may_be_picture,
    normalise,
)
from twinlens.datasets.readers.texts import decode

METHODS = {
    zipfile.ZIP_STORED: "stored",
    zipfile.ZIP_DEFLATED: "Deflate",
    zipfile.ZIP_BZIP2: "bzip2",
    zipfile.ZIP_LZMA: "LZMA",
}
ODD_METHODS = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES encryption"}
DAMAGES = (zlib.error, lzma.LZMAError, EOFError, OSError)  # as decompressors say that bytes are not what was packed


class Tree(Protocol):
    """Named files; names use / whatever the machine."""

    def names(self) -> list[str]:
        """The names of all files, sorted."""
        ...

    def find(self, name: str) -> str | None:
        """The name of a file as the tree spells it, by any spelling of it; None where there is no such file."""
        ...

    def read(self, name: str) -> bytes | str:
        """The bytes of one file, or the reason why there are none."""
        ...

    def close(self) -> None:
        """Close the archive."""
        ...


def open_tree(path: Path) -> Tree:
    """Open a folder, a zip or a tar (also compressed) as a tree.

    Raises:
        FetchError: it is not there, is no whole archive, or holds a name that leads out of it.
    """
    if path.is_dir():
        return _Folder(path)
    if not path.is_file():
        raise FetchError(f"{path} is not there; wanted a folder or a zip or tar archive")
    return _Tar(path) if ".tar" in path.name or path.name.endswith(".tgz") else _Zip(path)


class Trees:
    """Trees that are opened when first asked for and closed together."""

    def __init__(self) -> None:
        self._open: dict[str, Tree] = {}

    def at(self, key: str, where: Callable[[], Path]) -> Tree:
        """The tree of `key`, opened at `where()` the first time."""
        if key not in self._open:
            self._open[key] = open_tree(where())
        return self._open[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for tree in self._open.values():
            tree.close()


def find_unlisted(tree: Tree, listed: Iterable[str]) -> list[str]:
    """Find the pictures in the tree that nothing lists, in any spelling."""
    known = {normalise(name) for name in listed}
    return [name for name in tree.names() if is_picture(name) and normalise(name) not in known]


def list_passed_over(tree: Tree, part: str = "") -> list[Drop]:
    """List the files that may be pictures and cannot be opened by their endings."""
    return [("image", part + name, "ending", explain_ending(name)) for name in tree.names() if may_be_picture(name)]


class _Folder:
    """A folder that the user named. Links in it are followed: the hub's, DVC's and git-annex's caches are made so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: Known | None = None
        self._names: list[str] = []

    def names(self) -> list[str]:
        if self._known is None:
            found = (path.relative_to(self.folder).as_posix() for path in _walk(self.folder, frozenset()))
            self._names = sorted(name for name in found if not is_hidden(name))
            self._known = Known(self._names)
        return self._names

    def find(self, name: str) -> str | None:
        """An absolute name that lies below the folder is a name in it."""
        inside = self._inside(name)
        if (self.folder / inside).is_file() and not leads_out(inside):
            return str(PurePosixPath(inside))
        self.names()
        return None if self._known is None else self._known.find(inside)

    def _inside(self, name: str) -> str:
        path = Path(name.strip())
        for root in (self.folder, self.folder.absolute(), self.folder.resolve()) if path.is_absolute() else ():
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return name

    def read(self, name: str) -> bytes | str:
        inside = self._inside(name)
        if leads_out(inside):
            return f"its name leads out of the folder: {name!r}"
        try:
            return (self.folder / inside).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return self._read_other_spelling(inside)
        except OSError as error:
            return f"cannot be read: {error.strerror}"

    def _read_other_spelling(self, name: str) -> bytes | str:
        path = self.folder / name
        if path.is_symlink():
            return f"a link to {path.readlink()}, which is not there: fetch it (`dvc pull`, `git annex get`, the hub)"
        self.names()
        assert self._known is not None
        found = self._known.find(name)
        return self._known.explain(name) if found is None or found == name else self.read(found)

    def close(self) -> None:
        """Nothing is held."""


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """All files below a folder, through links; a link to a folder that it lies in is not followed round and round."""
    own = os.path.realpath(folder)
    if own in above:
        return
    with os.scandir(folder) as entries:
        for entry in list(entries):  # so that no folder stays open while those below it are read
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(folder / entry.name, above | {own})
            elif entry.is_file():
                yield folder / entry.name


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive whose members can all be read.

    Raises:
        FetchError: it is no whole zip archive.
        DataError: a member is encrypted, or packed in a way that Python cannot unpack (Windows packs what is over 2 GB
            with Deflate64).
    """
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise FetchError(f"{path} is not a whole zip archive ({error}): remove it and run again") from None
    _refuse_outside(path, archive.namelist())
    if locked := [member.filename for member in archive.infolist() if member.flag_bits & 1]:
        raise DataError(
            f"{path}: {len(locked)} file(s) need a password, the first is {locked[0]!r}; wanted one without. "
            "Unpack it and name the folder on the card"
        )
    if odd := [member for member in archive.infolist() if member.compress_type not in METHODS]:
        method = ODD_METHODS.get(odd[0].compress_type, f"method {odd[0].compress_type}")
        raise DataError(
            f"{path}: {len(odd)} file(s) are packed with {method}, the first is {odd[0].filename!r}; wanted "
            f"{', '.join(METHODS.values())}. Unpack it and name the folder on the card, or pack it anew: "
            "`zip -r`, `7z a -tzip -mm=Deflate`"
        )
    return archive


class _Zip:
    def __init__(self, path: Path) -> None:
        self.archive = open_zip(path)
        members = {member.filename.replace("\\", "/"): member for member in self.archive.infolist()}  # as Windows packs
        self._members = {name: member for name, member in members.items() if not name.endswith("/")}
        self._names = sorted(name for name in self._members if not is_hidden(name))
        self._known = Known(self._names)

    def names(self) -> list[str]:
        return self._names

    def find(self, name: str) -> str | None:
        return name if name in self._members else self._known.find(name)

    def read(self, name: str) -> bytes | str:
        found = self.find(name)
        if found is None:
            return self._known.explain(name)
        try:
            return self.archive.read(self._members[found])
        except (*DAMAGES, zipfile.BadZipFile, NotImplementedError) as error:
            return f"damaged in the archive: {error}"

    def close(self) -> None:
        self.archive.close()


class _Tar:
    def __init__(self, path: Path) -> None:
        try:
            self.archive = tarfile.open(path)  # noqa: SIM115 (closed by `close`)
            members = {member.name: member for member in self.archive.getmembers() if not member.isdir()}
        except (tarfile.TarError, *DAMAGES) as error:
            raise FetchError(f"{path} is not a whole tar archive ({error}): fetch it again") from None
        _refuse_outside(path, self.archive.getnames())
        self._members = {name.removeprefix("./"): member for name, member in members.items()}
        self._names = sorted(name for name in self._members if not is_hidden(name))
        self._known = Known(self._names)

    def names(self) -> list[str]:
        return self._names

    def find(self, name: str) -> str | None:
        return name if name in self._members else self._known.find(name)

    def read(self, name: str) -> bytes | str:
        found = self.find(name)
        if found is None:
            return self._known.explain(name)
        member = self._members[found]
        try:
            file = self.archive.extractfile(member)  # of a link, what it leads to within the archive
            raw = None if file is None else file.read()
        except KeyError:
            return f"a link to {member.linkname}, which is not in the archive"
        except (tarfile.TarError, *DAMAGES) as error:
            return f"damaged in the archive: {error}"
        if raw is None:
            return f"no file but something else (type {member.type!r} of tar)"
        whole = member.size if member.isreg() else len(raw)
        return raw if len(raw) == whole else f"damaged in the archive: {len(raw)} of {whole} bytes"

    def close(self) -> None:
        self.archive.close()


def _refuse_outside(path: Path, names: Iterable[str]) -> None:
    if outside := [name for name in names if leads_out(name)]:
        raise FetchError(
            f"{path} holds {len(outside)} name(s) that lead out of it, the first is {outside[0]!r}: refused whole. "
            "Fetch the archive from its publisher, or pack it anew"
        )


def read_text(tree: Tree, name: str, where: Path) -> str:
    """Read a text file of a tree, as `decode` does.

    Raises:
        DataError: it is not there or is damaged.
    """
    raw = tree.read(name)
    if isinstance(raw, str):
        raise DataError(f"{where}: {name} is {raw}; found {', '.join(tree.names()[:8]) or 'nothing'}")
    return decode(raw)
