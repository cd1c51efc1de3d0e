"""Zip archives, read in place: members that can be unpacked, no more of each than there may be."""

from __future__ import annotations

import bz2
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from twinlens.core.errors import DataError, FetchError
from twinlens.datasets.readers.limits import MB, describe, explain_size
from twinlens.datasets.readers.members import Members
from twinlens.datasets.readers.names import refuse_outside

METHODS = {
    zipfile.ZIP_STORED: "stored",
    zipfile.ZIP_DEFLATED: "Deflate",
    zipfile.ZIP_BZIP2: "bzip2",
    zipfile.ZIP_LZMA: "LZMA",
}
ODD_METHODS = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES encryption"}
# Bytes read at a time. LZMA gives at once all that they stand for, which is up to 7,000 times as much.
PIECE, SMALL_PIECE = MB, 4096
UTF8_NAME = 0x800  # flag of a member
LOCAL = struct.Struct("<26xHH")  # ahead of a member: the lengths of its name and of what follows that


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive whose members can all be read.

    Raises:
        FetchError: it is no whole zip archive.
        DataError: a member is encrypted, or packed in a way that Python cannot unpack (Windows packs what is over 2 GB
            with Deflate64).
    """
    try:
        archive = zipfile.ZipFile(path)
    except MemoryError:
        raise
    except Exception as error:  # the library raises whatever the bytes lead it to
        raise FetchError(
            f"{path} is not a whole zip archive ({describe(error)}): remove it and run again, if it was downloaded; if "
            "it is your own, pack it anew"
        ) from None
    refuse_outside(path, archive.namelist())
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


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo | str, limit: int) -> bytes:
    """Read a member of a zip archive, but no more of it than may be there.

    Raises:
        DataError: it is larger than `limit`, by what the archive says or by what comes out.
        KeyError: there is no such member.
        Exception: it is damaged; which one, the bytes decide.
    """
    info = member if isinstance(member, zipfile.ZipInfo) else archive.getinfo(member)
    if large := explain_size(info.file_size, limit):
        raise DataError(f"{info.filename}: {large}")
    found = bytearray()
    for part in _iter_bzip2(archive, info, limit) if info.compress_type == zipfile.ZIP_BZIP2 else _iter(archive, info):
        found += part
        if large := explain_size(len(found), limit):
            raise DataError(f"{info.filename}: {large}")
    return bytes(found)


def _iter(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    piece = SMALL_PIECE if info.compress_type == zipfile.ZIP_LZMA else PIECE
    with archive.open(info) as file:
        while part := file.read(piece):
            yield part


def _iter_bzip2(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> Iterator[bytes]:
    """A member in pieces that are counted: `zipfile` unpacks 4 KB at once, and bzip2's can stand for gigabytes.

    Raises:
        BadZipFile: it is not what the archive says of it.
    """
    unpacker, check, size = bz2.BZ2Decompressor(), 0, 0
    with Path(str(archive.filename)).open("rb") as file:
        file.seek(info.header_offset)
        file.seek(sum(LOCAL.unpack(file.read(LOCAL.size))), os.SEEK_CUR)
        left = info.compress_size
        while not unpacker.eof and size <= limit:
            packed = file.read(min(PIECE, left)) if unpacker.needs_input else b""
            if unpacker.needs_input and not packed:
                raise zipfile.BadZipFile("it ends too early")
            left -= len(packed)
            part = unpacker.decompress(packed, PIECE)
            check, size = zlib.crc32(part, check), size + len(part)
            if size > info.file_size:
                raise zipfile.BadZipFile(f"over {info.file_size:,} bytes come out of it, which is what it says")
            yield part
    if size != info.file_size or check != info.CRC:
        raise zipfile.BadZipFile(f"{size:,} bytes, or others than the {info.file_size:,} that were packed")


def _read_name(member: zipfile.ZipInfo) -> str:
    """The name of a member: many programs write UTF-8 and do not say so, and Python takes it for DOS' letters."""
    name = member.filename.replace("\\", "/")  # as Windows packs
    if member.flag_bits & UTF8_NAME or name.isascii():
        return name
    try:
        return name.encode("cp437").decode()
    except UnicodeError:
        return name


class Zip(Members[zipfile.ZipInfo]):
    """Zip archive as a tree."""

    def __init__(self, path: Path) -> None:
        self.archive = open_zip(path)
        named = ((_read_name(member), member) for member in self.archive.infolist())
        super().__init__((name, member) for name, member in named if not name.endswith("/"))

    def _size_of(self, member: zipfile.ZipInfo) -> int:
        return member.file_size

    def _extract(self, member: zipfile.ZipInfo, limit: int) -> bytes | str:
        return read_member(self.archive, member, limit)

    def close(self) -> None:
        """Close the archive."""
        self.archive.close()
