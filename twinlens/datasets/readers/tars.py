"""Tar archives, also packed ones, read in place: no more of each member, nor of the whole, than there may be."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from twinlens.core.bucket_files import AnyFile, BucketFile
from twinlens.core.errors import BucketError, DataError, FetchError
from twinlens.core.scratch import Scratch, fingerprint
from twinlens.datasets.readers.limits import (
    MAX_RATIO,
    MAX_TABLE_BYTES,
    MAX_UNPACKED_BYTES,
    describe,
    explain_size,
)
from twinlens.datasets.readers.members import Members
from twinlens.datasets.readers.names import refuse_outside

PACKERS: dict[bytes, Callable[[Any], Any]] = {  # of a whole tar, by how the file begins
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


CONTENTS = "members.json"
SMALL = 4096  # bytes up to which a member is kept too: it lies in a block that is fetched for its header
KEPT = ("name", "type", "linkname", "size", "offset", "offset_data")  # of each member


class _Unpacked:
    """The bytes of a tar that is packed as a whole, no more of them than such a file may stand for."""

    def __init__(self, path: AnyFile, file: IO[bytes]) -> None:
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


def _open_tar(path: AnyFile) -> tuple[tarfile.TarFile, IO[bytes] | None]:
    with path.open("rb") as file:
        start = file.read(6)
    packer = next((opened for magic, opened in PACKERS.items() if start.startswith(magic)), None)
    if packer is None:
        if isinstance(path, Path):
            return tarfile.open(path, "r:"), None
        plain = path.open()
        return tarfile.open(fileobj=plain, mode="r:"), plain
    packed = packer(path if isinstance(path, Path) else path.open())
    try:
        return tarfile.open(fileobj=cast(Any, _Unpacked(path, packed)), mode="r:"), packed
    except BaseException:
        packed.close()
        raise


class Tar(Members[tarfile.TarInfo]):
    """Tar archive as a tree."""

    def __init__(self, path: AnyFile) -> None:
        try:
            self.archive, self._opened = _open_tar(path)
            self._small: dict[str, bytes] = {}
            if isinstance(path, Path):
                every = self.archive.getmembers()
            else:
                every, self._small = recall_members(self.archive, path)
            named = [(member.name.removeprefix("./"), member) for member in every if not member.isdir()]
        except (MemoryError, DataError, BucketError):
            raise
        except Exception as error:  # the library raises whatever the bytes lead it to
            raise FetchError(f"{path} is not a whole tar archive ({describe(error)}): fetch it again") from None
        refuse_outside(path, [member.name for member in every])
        super().__init__(named)

    def _size_of(self, member: tarfile.TarInfo) -> int:
        return member.size  # of a sparse file, holes included

    def _extract(self, member: tarfile.TarInfo, limit: int) -> bytes | str:
        if member.name in self._small and member.name.removeprefix("./") not in self._earlier:
            return self._small[member.name]
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
        if self._opened is not None:
            self._opened.close()


def recall_members(archive: tarfile.TarFile, path: BucketFile) -> tuple[list[tarfile.TarInfo], dict[str, bytes]]:
    """List the members of an archive in a bucket, with the content of small ones, such as captions.

    To find them all of it is gone through, once: what there is, and where, is kept under the file's etag, and later a
    picture is read where it lies.
    """
    with Scratch("contents", fingerprint(file=str(path), etag=path.etag, bytes=path.stat().st_size)) as kept:
        if not kept.has(CONTENTS):
            rows = []
            for member in archive:
                if member.issparse():  # its holes are described elsewhere
                    return archive.getmembers(), {}
                small = archive.extractfile(member) if member.isreg() and member.size <= SMALL else None
                content = None if small is None else small.read().decode("latin-1")
                rows.append([*(getattr(member, name) for name in KEPT), content])
            text = json.dumps(rows, default=lambda raw: raw.decode("latin-1"))
            kept.put(CONTENTS, lambda file: _write(file, text))
        rows = json.loads(kept.path(CONTENTS).read_text(encoding="utf-8", errors="surrogatepass"))
    members = [_restore(row) for row in rows]
    return members, {row[0]: row[-1].encode("latin-1") for row in rows if row[-1] is not None}


def _write(file: Path, text: str) -> None:
    file.write_bytes(text.encode("utf-8", "surrogatepass"))


def _restore(row: list[Any]) -> tarfile.TarInfo:
    member = tarfile.TarInfo()
    for name, value in zip(KEPT, row[:-1], strict=True):
        setattr(member, name, value.encode("latin-1") if name == "type" else value)
    return member
