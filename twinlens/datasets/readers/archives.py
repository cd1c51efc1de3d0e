"""Files by name, in a folder or inside an archive: read in place, so nothing is ever unpacked onto the disk.

An archive that holds a name that leads out of it (`../x`, `/x`) is refused whole: nothing is
unpacked here, but whoever made it meant harm or made a mistake.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Protocol, Self

from twinlens.core.errors import DataError, FetchError
from twinlens.datasets.adapters.base import MISSING

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class Tree(Protocol):
    """Named files; names use / whatever the machine."""

    def names(self) -> list[str]:
        """The names of all files, sorted."""
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


def leads_out(name: str) -> bool:
    """Whether a name would end outside the folder it is taken to lie in."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return ".." in parts or name.startswith(("/", "\\")) or (len(name) > 1 and name[1] == ":")


def is_picture(name: str) -> bool:
    """Whether a name ends as pictures' names do; hidden files (`._x.jpg` of macOS) are none."""
    return name.lower().endswith(PICTURES) and not _is_hidden(name)


def find_unlisted(tree: Tree, listed: Iterable[str]) -> list[str]:
    """Find the pictures in the tree that nothing lists."""
    known = set(listed)
    return [name for name in tree.names() if is_picture(name) and name not in known]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts) or name.startswith("__MACOSX/")


class _Absent:
    """Says that a file is not there, and whether one is whose name differs in case alone."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = names
        self._by_case: dict[str, str] | None = None

    def reason(self, name: str) -> str:
        if self._by_case is None:
            self._by_case = {known.casefold(): known for known in self._names}
        near = self._by_case.get(name.casefold())
        return MISSING if near is None else f"{MISSING}; there is {near}, whose name differs in case"


class _Folder:
    def __init__(self, folder: Path) -> None:
        self.folder, self._root = folder, folder.resolve()
        self._names: list[str] | None = None

    def names(self) -> list[str]:
        if self._names is None:
            found = (path for path in self.folder.rglob("*") if path.is_file())
            self._names = sorted(path.relative_to(self.folder).as_posix() for path in found)
            self._names = [name for name in self._names if not _is_hidden(name)]
        return self._names

    def read(self, name: str) -> bytes | str:
        path = self.folder / name
        if leads_out(name) or not path.resolve().is_relative_to(self._root):
            return f"its name leads out of the folder: {name!r}"
        try:
            return path.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return _Absent(self.names()).reason(name)
        except OSError as error:
            return f"cannot be read: {error.strerror}"

    def close(self) -> None:
        """Nothing is held."""


class _Zip:
    def __init__(self, path: Path) -> None:
        try:
            self.archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise FetchError(f"{path} is not a whole zip archive ({error}): remove it and run again") from None
        _refuse_outside(path, self.archive.namelist())
        self._names = sorted(
            name for name in self.archive.namelist() if not name.endswith("/") and not _is_hidden(name)
        )
        self._absent = _Absent(self._names)

    def names(self) -> list[str]:
        return self._names

    def read(self, name: str) -> bytes | str:
        try:
            return self.archive.read(name)
        except KeyError:
            return self._absent.reason(name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            return f"damaged in the archive: {error}"

    def close(self) -> None:
        self.archive.close()


class _Tar:
    def __init__(self, path: Path) -> None:
        try:
            self.archive = tarfile.open(path)  # noqa: SIM115 (closed by `close`)
            members = {member.name: member for member in self.archive.getmembers() if member.isfile()}
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise FetchError(f"{path} is not a whole tar archive ({error}): fetch it again") from None
        _refuse_outside(path, self.archive.getnames())
        self._members = {name.removeprefix("./"): member for name, member in members.items()}
        self._names = sorted(name for name in self._members if not _is_hidden(name))
        self._absent = _Absent(self._names)

    def names(self) -> list[str]:
        return self._names

    def read(self, name: str) -> bytes | str:
        if name not in self._members:
            return self._absent.reason(name)
        try:
            file = self.archive.extractfile(self._members[name])
            raw = b"" if file is None else file.read()
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            return f"damaged in the archive: {error}"
        whole = self._members[name].size
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
    """Read a text file of a tree as UTF-8; broken bytes become lone surrogates, which the filter drops by name.

    Raises:
        DataError: it is not there or is damaged.
    """
    raw = tree.read(name)
    if isinstance(raw, str):
        raise DataError(f"{where}: {name} is {raw}; found {', '.join(tree.names()[:8]) or 'nothing'}")
    return raw.decode("utf-8-sig", "surrogateescape")
