"""Files by name, in a folder or inside an archive: read in place, so nothing is ever unpacked onto the disk.

An archive that holds a name that leads out of it (`../x`, `/x`) is refused whole: nothing is
unpacked here, but whoever made it meant harm or made a mistake.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol, Self

from twinlens.core.ahead import map_in_order
from twinlens.core.bucket_files import AnyFile, BucketFile, BucketFolder, Place
from twinlens.core.buckets import StoredObject
from twinlens.core.errors import DataError, FetchError
from twinlens.datasets.annotations import Drop
from twinlens.datasets.readers.limits import MAX_PICTURE_BYTES, MAX_TABLE_BYTES, explain_size
from twinlens.datasets.readers.members import Members
from twinlens.datasets.readers.names import (
    Known,
    explain_ending,
    is_hidden,
    is_picture,
    leads_out,
    may_be_picture,
    normalise,
    unquote_address,
)
from twinlens.datasets.readers.tars import Tar
from twinlens.datasets.readers.texts import decode
from twinlens.datasets.readers.zips import Zip

REQUESTS_AT_ONCE = 16
_Key = tuple[str, int, int | str]  # path, size, and time of change or etag of an archive
HOLDING: list[_Held] = []  # see `hold_archives`
MOST_HELD = 4


class Tree(Protocol):
    """Named files; names use / whatever the machine."""

    def names(self) -> list[str]:
        """The names of all files, sorted."""
        ...

    def find(self, name: str) -> str | None:
        """The name of a file as the tree spells it, by any spelling of it; None where there is no such file."""
        ...

    def read(self, name: str, limit: int = MAX_PICTURE_BYTES) -> bytes | str:
        """The bytes of one file, or the reason why there are none; it is not read where it has more than `limit`."""
        ...

    def close(self) -> None:
        """Close the archive."""
        ...


def open_tree(path: Place) -> Tree:
    """Open a folder, a zip or a tar (also compressed) as a tree; of a bucket a folder or a tar.

    Raises:
        FetchError: it is not there, is no whole archive, or holds a name that leads out of it.
    """
    if not path.exists():
        raise FetchError(f"{path} is not there; wanted a folder or a zip or tar archive")
    if isinstance(path, BucketFolder):
        return _BucketFolder(path)
    if isinstance(path, BucketFile) and path.name.endswith(".zip"):
        raise FetchError(f"{path}: a zip in a bucket is not read; wanted a folder, a tar, or the zip on this machine")
    if isinstance(path, Path) and path.is_dir():
        return _Folder(path)
    if not path.is_file():
        raise FetchError(f"{path} is no file; wanted a folder or a zip or tar archive")
    return HOLDING[-1].open(path) if HOLDING else _open_archive(path)


def _open_archive(path: AnyFile) -> Tree:
    return Tar(path) if isinstance(path, BucketFile) or ".tar" in path.name or path.name.endswith(".tgz") else Zip(path)


@contextmanager
def hold_archives() -> Iterator[None]:
    """Hold the archives that are opened meanwhile, the last few, so that who comes back reads no contents again.

    For who reads an archive range after range: its table of contents takes a tar a look at each of its members.
    """
    held = _Held()
    HOLDING.append(held)
    try:
        yield
    finally:
        HOLDING.remove(held)
        held.close()


class _Held:
    """The archives that were opened last; those in use stay open, however many they are."""

    def __init__(self) -> None:
        self._open: dict[_Key, tuple[Tree, int]] = {}  # and how many use it; what was opened last stands last

    def open(self, path: AnyFile) -> Tree:
        stat = path.stat()
        key = str(path), stat.st_size, path.etag if isinstance(path, BucketFile) else path.stat().st_mtime_ns
        tree, users = self._open.pop(key, (None, 0))
        tree = tree or _open_archive(path)
        self._open[key] = tree, users + 1
        return _Lent(tree, partial(self._give_back, key))

    def _give_back(self, key: _Key) -> None:
        tree, users = self._open[key]
        self._open[key] = tree, users - 1
        idle = [one for one, (_, users) in self._open.items() if not users]
        for one in idle[: max(0, len(self._open) - MOST_HELD)]:
            self._open.pop(one)[0].close()

    def close(self) -> None:
        for tree, _ in self._open.values():
            tree.close()


class _Lent:
    """An archive that is held: who has it closes it for himself only."""

    def __init__(self, tree: Tree, give_back: Callable[[], None]) -> None:
        self.names, self.find, self.read, self.close = tree.names, tree.find, tree.read, give_back


class Trees:
    """Trees that are opened when first asked for and closed together."""

    def __init__(self) -> None:
        self._open: dict[str, Tree] = {}

    def at(self, key: str, where: Callable[[], Place]) -> Tree:
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
        path = Path(unquote_address(name).strip())
        roots = (self.folder, self.folder.absolute(), Path(os.path.realpath(self.folder)))
        for root in roots if path.is_absolute() else ():
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return name

    def read(self, name: str, limit: int = MAX_PICTURE_BYTES) -> bytes | str:
        inside = self._inside(name)
        if leads_out(inside):
            return f"its name leads out of the folder: {name!r}"
        try:
            return self._read_as_spelt(self.folder / inside, limit)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return self._read_other_spelling(inside, limit)
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        except ValueError:  # a zero byte
            return f"no name that a file can have: {name!r}"

    def _read_as_spelt(self, path: Path, limit: int) -> bytes | str:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            return "no file but a pipe, socket or device"  # a pipe would be waited for, and a device has no end
        return explain_size(found.st_size, limit, "in the file") or path.read_bytes()

    def _read_other_spelling(self, name: str, limit: int) -> bytes | str:
        path = self.folder / name
        if path.is_symlink():
            return f"a link to {path.readlink()}, which is not there: fetch it (`dvc pull`, `git annex get`, the hub)"
        self.names()
        assert self._known is not None
        found = self._known.find(name)
        return self._known.explain(name) if found is None or found == name else self.read(found, limit)

    def close(self) -> None:
        """Nothing is held."""


class _BucketFolder(Members[StoredObject]):
    """A folder in a bucket, of which each file is fetched when it is read."""

    def __init__(self, folder: BucketFolder) -> None:
        super().__init__(folder.objects.items())
        self._bucket = folder.bucket

    def _size_of(self, member: StoredObject) -> int:
        return member.size

    def _extract(self, member: StoredObject, limit: int) -> bytes | str:
        content = self._bucket.read(member.name)
        return "not there any more" if content is None else content

    def close(self) -> None:
        """Nothing is held."""


def read_each(tree: Tree, files: Iterable[str]) -> Iterator[bytes | str]:
    """Iterate over the contents of files; where each is a request to a bucket, several at a time."""
    if isinstance(tree, _BucketFolder):
        yield from map_in_order(tree.read, files, REQUESTS_AT_ONCE)
    else:
        yield from map(tree.read, files)


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """All files below a folder, through links; a link to a folder that it lies in is not followed round and round."""
    own = os.path.realpath(folder)
    if own in above:
        return
    with os.scandir(folder) as entries:
        for entry in list(entries):  # so that no folder stays open while those below it are read
            if entry.name.startswith("."):
                continue
            kind = _kind_of(entry)
            if kind == "folder":
                yield from _walk(folder / entry.name, above | {own})
            elif kind == "file":
                yield folder / entry.name


def _kind_of(entry: os.DirEntry[str]) -> str:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError:  # a link that leads to itself
        return ""


def read_text(tree: Tree, name: str, where: Path) -> str:
    """Read a text file of a tree, as `decode` does.

    Raises:
        DataError: it is not there, is damaged or too large.
    """
    raw = tree.read(name, MAX_TABLE_BYTES)
    if isinstance(raw, str):
        raise DataError(f"{where}: {name} is {raw}; found {', '.join(tree.names()[:8]) or 'nothing'}")
    return decode(raw)
