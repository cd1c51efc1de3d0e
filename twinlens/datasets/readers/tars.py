"""Tar archives, also packed ones, read in place: no more of each member, nor of the whole, than there may be."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from twinlens.core.errors import DataError, FetchError
from twinlens.datasets.readers.limits import (
    MAX_RATIO,
    MAX_TABLE_BYTES,
    MAX_UNPACKED_BYTES,
    describe,
    explain_size,
)
from twinlens.datasets.readers.members import Members
from twinlens.datasets.readers.names import refuse_outside

PACKERS: dict[bytes, Callable[[Path], Any]] = {  # of a whole tar, by how the file begins
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


class _Unpacked:
    """The bytes of a tar that is packed as a whole, no more of them than such a file may stand for."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.file = path, file
        self.most = max(MAX_UNPACKED_BYTES, MAX_RATIO * path.stat().st_size)

    def read(self, size: int = -1) -> bytes:
        """Read bytes.

        Raises:
            DataError: more would be read at once, or of the whole, than there may be.
        """
        if size < 0 or size > MAX_TABLE_BYTES:
            raise DataError(f"{self.path}: a header of {size:,} bytes, or one that is damaged. Fetch it again")
        found = self.file.read(size)
        self._refuse_beyond(self.file.tell())
        return found

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a place.

        Raises:
            DataError: it lies beyond what there may be.
        """
        if whence == 0:
            self._refuse_beyond(place)
        return self.file.seek(place, whence)

    def tell(self) -> int:
        """The place."""
        return self.file.tell()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _refuse_beyond(self, place: int) -> None:
        if place > self.most:
            raise DataError(
                f"{self.path} unpacks to more than {self.most:,} bytes, over {MAX_RATIO} times its size: refused. "
                "If it is meant, unpack it and name the folder on the card"
            )


def _open_tar(path: Path) -> tuple[tarfile.TarFile, IO[bytes] | None]:
    with path.open("rb") as file:
        start = file.read(6)
    packer = next((opened for magic, opened in PACKERS.items() if start.startswith(magic)), None)
    if packer is None:
        return tarfile.open(path, "r:"), None
    packed = packer(path)
    try:
        return tarfile.open(fileobj=cast(Any, _Unpacked(path, packed)), mode="r:"), packed
    except BaseException:
        packed.close()
        raise


class Tar(Members[tarfile.TarInfo]):
    """Tar archive as a tree."""

    def __init__(self, path: Path) -> None:
        try:
            self.archive, self._packed = _open_tar(path)
            members = {member.name: member for member in self.archive.getmembers() if not member.isdir()}
        except (MemoryError, DataError):
            raise
        except Exception as error:  # the library raises whatever the bytes lead it to
            raise FetchError(f"{path} is not a whole tar archive ({describe(error)}): fetch it again") from None
        refuse_outside(path, self.archive.getnames())
        super().__init__({name.removeprefix("./"): member for name, member in members.items()})

    def _size_of(self, member: tarfile.TarInfo) -> int:
        return member.size  # of a sparse file, holes included

    def _extract(self, member: tarfile.TarInfo, limit: int) -> bytes | str:
        try:
            return self._follow(member, limit)
        except KeyError:
            return f"a link to {member.linkname}, which is not in the archive"
        except RecursionError:
            return f"a link to {member.linkname}, which leads back to it"

    def _follow(self, member: tarfile.TarInfo, limit: int) -> bytes | str:
        file = self.archive.extractfile(member)  # of a link, what it leads to within the archive
        if file is None:
            return f"no file but something else (type {member.type!r} of tar)"
        raw = file.read(limit + 1)
        whole = member.size if member.isreg() else len(raw)
        short = f"damaged in the archive: {len(raw)} of {whole} bytes" if len(raw) < whole else None
        return explain_size(len(raw), limit) or short or raw

    def close(self) -> None:
        """Close the archive."""
        self.archive.close()
        if self._packed is not None:
            self._packed.close()
