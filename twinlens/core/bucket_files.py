"""Files in a bucket that are read as files of a folder are: by name, by pattern, and no more of them than is wanted.

A file's size and etag, which a listing gives, stand for its bytes: they are in the manifest, and a stage refuses files
that have others. A file is opened as one that can be sought in; bytes are fetched in blocks, small ones where whoever
reads jumps about and ever larger ones where it goes on.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from twinlens.core import paths
from twinlens.core.buckets import Bucket, StoredObject, is_bucket
from twinlens.core.errors import DataError, FetchError
from twinlens.core.hashing import hash_text
from twinlens.core.resources import ensure_room, name_disk_fault

KB = 2**10
FIRST_BLOCK, LARGEST_BLOCK = 64 * KB, 16 * KB * KB  # bytes fetched at once: doubled while the reader goes on
NEAR = 1024 * KB  # a jump over fewer bytes is going on: fetching them takes less long than another request
S = TypeVar("S", bound=str)  # names of splits
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")


class _Size(NamedTuple):
    st_size: int


@dataclass(frozen=True)
class BucketFile:
    """A file in a bucket, with what a listing said of it; None where there is no such file."""

    bucket: Bucket
    name: str  # below the bucket's URL
    stored: StoredObject | None

    def __str__(self) -> str:
        return f"{self.bucket.url.rstrip('/')}/{self.name}"

    @property
    def etag(self) -> str:
        """What changes with the content."""
        return self._found.etag

    def is_file(self) -> bool:
        """Whether it is there."""
        return self.stored is not None

    def is_dir(self) -> bool:
        """No."""
        return False

    def exists(self) -> bool:
        """Whether it is there."""
        return self.stored is not None

    def stat(self) -> _Size:
        """Its size, as that of a path.

        Raises:
            FetchError: there is no such file.
        """
        return _Size(self._found.size)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Open it for reading; raises as `stat` does, and as `Bucket` does where the store refuses."""
        assert mode == "rb"
        return io.BufferedReader(_Reader(self), FIRST_BLOCK)

    @property
    def _found(self) -> StoredObject:
        if self.stored is None:
            raise FetchError(f"{self} is not there: the dataset's card names it")
        return self.stored


class _Reader(io.RawIOBase):
    """A file in a bucket as one that can be sought in, with one block of it in memory."""

    def __init__(self, file: BucketFile) -> None:
        self.file, self.size = file, file.stat().st_size
        self.place, self.start, self.block, self.step = 0, 0, b"", FIRST_BLOCK

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The place."""
        return self.place

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self.place = max(0, place + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence])
        return self.place

    def readinto(self, into: Any) -> int:
        """Read what the block has from here, or the next block."""
        view = memoryview(into).cast("B")
        wanted = min(len(view), self.size - self.place)
        if wanted <= 0:
            return 0
        end = self.start + len(self.block)
        if not self.start <= self.place < end:
            goes_on = bool(self.block) and 0 <= self.place - end <= NEAR
            self.step = min(2 * self.step, LARGEST_BLOCK) if goes_on else FIRST_BLOCK
            self._fetch(max(wanted, self.step))
        offset = self.place - self.start
        found = self.block[offset : offset + wanted]
        view[: len(found)] = found
        self.place += len(found)
        return len(found)

    def _fetch(self, size: int) -> None:
        stop = min(self.place + size, self.size)
        found = self.file.bucket.read(self.file.name, self.place, stop)
        if found is None or len(found) != stop - self.place:
            raise DataError(f"{self.file} is not what was listed: it was changed meanwhile. `dvc repro -f download`")
        self.start, self.block = self.place, found


class BucketFolder:
    """The files below a URL, listed once."""

    def __init__(self, url: str) -> None:
        self.bucket = Bucket(url)

    def __str__(self) -> str:
        return self.bucket.url.rstrip("/")

    @cached_property
    def objects(self) -> dict[str, StoredObject]:
        """What is there, by name; nothing whose name, or a folder's, begins with a dot."""
        listed = self.bucket.list_objects()
        return {one.name: one for one in listed if not any(part.startswith(".") for part in one.name.split("/"))}

    def __truediv__(self, name: str) -> BucketFile:
        return BucketFile(self.bucket, name, self.objects.get(name))

    def is_dir(self) -> bool:
        """Whether there is anything."""
        return bool(self.objects)

    def is_file(self) -> bool:
        """No."""
        return False

    def exists(self) -> bool:
        """Whether there is anything."""
        return bool(self.objects)


AnyFile = Path | BucketFile
AnyFolder = Path | BucketFolder
Place = Path | BucketFile | BucketFolder


def open_folder(location: str) -> AnyFolder:
    """Name a folder of this machine or of a bucket, as a card has it."""
    return BucketFolder(location) if is_bucket(location) else paths.expand(location)


def open_place(location: str) -> Place:
    """Name a folder, or an archive, of this machine or of a bucket, as a card has it."""
    if is_bucket(location) and location.endswith(ARCHIVES):
        return _find_object(location)
    return open_folder(location)


def fetch_object(location: str) -> Path:
    """Fetch a file of a bucket that is read as a whole, such as a table, unless it is here as the bucket has it.

    Raises:
        FetchError: there is no such file.
        ResourceError: the disk has no room for it.
    """
    file = _find_object(location)
    final = paths.downloads() / "buckets" / hash_text(f"{file}\0{file.etag}")[:20] / file.name
    if not final.is_file() or final.stat().st_size != file.stat().st_size:
        final.parent.mkdir(parents=True, exist_ok=True)
        part = final.with_name(f"{final.name}.part")
        ensure_room(part, file.stat().st_size)
        with name_disk_fault(final, part):
            file.bucket.fetch(file.name, part)
            part.replace(final)
    return final


def _find_object(location: str) -> BucketFile:
    url, _, name = location.rpartition("/")
    bucket = Bucket(url)
    return BucketFile(bucket, name, bucket.describe(name))


def find_files(folder: AnyFolder, pattern: str) -> list[tuple[str, AnyFile]]:
    """Find the files below a folder that a pattern names, sorted by name, with their names below the folder.

    Args:
        folder: of this machine or a bucket.
        pattern: `*`, `?` and `[a-z]` stand for what they do in a shell, `**` for any folders, and `{00..12}` for each
            number of the range, all of which must be there.

    Raises:
        FetchError: a file of a range is not there.
    """
    found: dict[str, AnyFile] = {}
    for shape in expand_ranges(pattern):
        if isinstance(folder, Path):
            here: dict[str, AnyFile] = {path.relative_to(folder).as_posix(): path for path in folder.glob(shape)}
        else:
            matches = _translate(shape)
            here = {name: folder / name for name in folder.objects if matches.fullmatch(name)}
        if not here and shape != pattern:
            raise FetchError(f"{folder} holds no {shape}, which {pattern} names")
        found |= here
    return sorted(found.items(), key=lambda named: PurePosixPath(named[0]))


def find_split_files(folder: AnyFolder, patterns: Mapping[S, str]) -> dict[S, list[tuple[str, AnyFile]]]:
    """Find the files of each split by its pattern, as `find_files` does.

    Raises:
        FetchError: a file of a range is not there.
        DataError: two patterns name one file, whose pictures would be in both splits.
    """
    found = {split: find_files(folder, pattern) for split, pattern in patterns.items()}
    owners: dict[str, S] = {}
    for split, files in found.items():
        for name, _ in files:
            if (other := owners.setdefault(name, split)) != split:
                raise DataError(
                    f"{folder}: {name} is of {other} (`{patterns[other]}`) and of {split} (`{patterns[split]}`): "
                    "change the card so that each file is of one split"
                )
    return found


def expand_ranges(pattern: str) -> list[str]:
    """Expand the ranges of a pattern: `{08..10}.tar` names 08.tar, 09.tar and 10.tar, as WebDataset has it."""
    if (range_ := re.search(r"\{(\d+)\.\.(\d+)\}", pattern)) is None:
        return [pattern]
    first, last = range_.groups()
    before, after = pattern[: range_.start()], pattern[range_.end() :]
    numbers: Iterable[int] = range(int(first), int(last) + 1)
    return [expanded for number in numbers for expanded in expand_ranges(f"{before}{number:0{len(first)}d}{after}")]


def _translate(pattern: str) -> re.Pattern[str]:
    """A shell's pattern as a regular expression; `**` stands for any folders."""
    parts = PurePosixPath(pattern).parts
    shapes = []
    for number, part in enumerate(parts):
        if part == "**":
            shapes.append("(?:[^/]+/)*" if number < len(parts) - 1 else ".*")
            continue
        pieces = re.split(r"(\*|\?|\[[^\]]+\])", part)
        shape = "".join(
            {"*": "[^/]*", "?": "[^/]"}.get(piece, piece.replace("[!", "[^") if piece[:1] == "[" else re.escape(piece))
            for piece in pieces
        )
        shapes.append(shape + ("/" if number < len(parts) - 1 else ""))
    return re.compile("".join(shapes))
