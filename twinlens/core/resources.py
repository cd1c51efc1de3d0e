"""Memory and disk space that run out: told apart from damaged data, and said with the place and what to do.

Libraries say it in many ways: `MemoryError`, a `RuntimeError` of torch, an `OSError` with or without a number, or a
text of the system's. One place knows them all.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from twinlens.core import paths
from twinlens.core.errors import ResourceError

# What decoders and allocators say. "out of memory" is also what libtiff says of a damaged size.
MEMORY = re.compile(
    r"out of memory|insufficient memory|not enough memory|memory allocation|(can'?t|cannot|unable to) allocate|"
    r"bad_alloc|malloc of size|can't start new thread",
    re.IGNORECASE,
)
DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk may only be read",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EFBIG: "the file is larger than this system or its limits (`ulimit -f`) allow",
}
MAKE_ROOM = (
    "Make room, or let TWINLENS_SCRATCH, TWINLENS_DOWNLOADS or DVC's cache (`dvc cache dir`) lie on another disk; then "
    "run again: what was finished is kept"
)
FULL = (errno.ENOSPC, errno.EDQUOT)
# As libraries repeat the system's words: Rust's (safetensors, LanceDB), Arrow's, numpy's and torch's, in this order.
SAID = (
    (re.compile(r"no space left on device|os error 28|StorageFull|code: 28\b", re.IGNORECASE), errno.ENOSPC),
    (re.compile(r"disk quota exceeded|os error 122|code: 122\b", re.IGNORECASE), errno.EDQUOT),
    (re.compile(r"read-only file ?system|os error 30|code: 30\b", re.IGNORECASE), errno.EROFS),
    (re.compile(r"permission denied|os error 13|code: 13\b", re.IGNORECASE), errno.EACCES),
    (re.compile(r"\d+ requested and \d+ written|failed writing file|inline_container.*unexpected pos"), errno.ENOSPC),
)
# Said by polars of a table that it cannot write and of one that it cannot read: believed where next to nothing is free.
SAID_OF_BOTH = re.compile(r"transport error")
NEXT_TO_NOTHING = 2**20


def is_memory_shortage(error: BaseException) -> bool:
    """Whether an error says that memory ran out; a decoder may say so of a damaged size too."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ValueError | OSError) and bool(MEMORY.search(str(error)))
    )


@contextmanager
def name_memory_shortage(what: str, remedy: str) -> Iterator[None]:
    """Guard work that takes much memory: where that runs out, the error says of what, and what to lower.

    Args:
        what: was being done, as the end of "memory ran out while".
        remedy: what makes it need less, as an advice.

    Raises:
        ResourceError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory_shortage(error):
            raise
        raise ResourceError(f"memory ran out while {what} ({_first_line(error)}). {remedy}") from None


def measure_free_memory() -> int:
    """Measure the bytes of memory that this process could still take: the system's, bounded by its control group.

    What the system holds only to read files faster counts as free.
    """
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    groups = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError, StopIteration):
        told = (groups / "memory.stat").read_text().splitlines()
        files = int(next(line for line in told if line.startswith("inactive_file ")).split()[1])
        used = int((groups / "memory.current").read_text()) - files
        found = min(found, max(0, int((groups / "memory.max").read_text()) - used))
    return found


def ensure_memory(needed: int, what: str, remedy: str = "Take a machine with more memory, or a smaller pool") -> None:
    """Refuse to begin work for which memory would run out.

    Args:
        needed: bytes.
        what: needs them, as the beginning of "... need so many bytes of memory".
        remedy: what makes it need less, as an advice.

    Raises:
        ResourceError: fewer are free.
    """
    free = measure_free_memory()
    if needed > free:
        raise ResourceError(f"{what} need {needed:,} bytes of memory, and {free:,} are free. {remedy}")


def measure_free(path: Path) -> int:
    """Measure the free bytes of the disk on which a path lies, or will lie."""
    folder = path.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def ensure_room(path: Path, needed: int) -> None:
    """Refuse to begin a file for which there is no room.

    Args:
        path: of the file, which need not be there.
        needed: bytes.

    Raises:
        ResourceError: fewer are free.
    """
    free = measure_free(path)
    if needed > free:
        raise ResourceError(f"the disk is full: {path} needs {needed:,} bytes and {free:,} are free. {MAKE_ROOM}")


def reserve_room(file: IO[bytes], path: Path, size: int) -> None:
    """Take the room of a file that is about to be written, so that a full disk says so first and not halfway.

    Raises:
        ResourceError: there is not so much.
    """
    ensure_room(path, size)
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV):  # it cannot do that
                raise ResourceError(explain_disk_fault(error, path) or str(error)) from error


@contextmanager
def name_disk_fault(path: Path, draft: Path | None = None) -> Iterator[None]:
    """Guard the writing of a file or folder: a disk that is full or may not be written is named with its room.

    Args:
        path: what is written.
        draft: where it lies until it is whole, if that is elsewhere.

    Raises:
        ResourceError: it is; other errors pass.
    """
    try:
        yield
    except ResourceError:
        raise
    except Exception as error:
        if (told := explain_disk_fault(error, path, draft)) is None:
            raise
        raise ResourceError(told) from error


def explain_disk_fault(error: BaseException, path: Path | None = None, draft: Path | None = None) -> str | None:
    """Explain an error of a disk that cannot be written: what, where, how much is there and how much is free.

    Args:
        error: any.
        path: what was being written; where it is not known, the error's own file.
        draft: see `name_disk_fault`.

    Returns:
        None if the error is about something else.
    """
    number = _disk_fault_number(error)
    if number is None and SAID_OF_BOTH.search(str(error)) and measure_free(path or Path()) < NEXT_TO_NOTHING:
        number = errno.ENOSPC
    if number is None:
        return None
    own = getattr(error, "filename", None)
    where = Path(os.fsdecode(own)) if isinstance(own, str | bytes) else None
    if number not in FULL:
        named = where or path
        advice = "" if number == errno.EFBIG else ": mend its owner or permissions (`ls -ld`), or mount it for writing"
        return f"{DISK[number]}{'' if named is None else f' ({named})'}{advice}"
    place = path or where
    if place is None:
        own_folders = (Path(), paths.DATA, paths.METRICS, paths.report().parent, paths.scratch())
        by_folder = {folder: measure_free(folder) for folder in (*own_folders, Path(tempfile.gettempdir()))}
        least = sorted(by_folder, key=lambda folder: by_folder[folder])[:3]  # the full one is among them
        free = ", ".join(f"{by_folder[folder]:,} bytes in {folder.absolute()}" for folder in least)
        return f"{DISK[number]}; free are {free}. {MAKE_ROOM}"
    written, left = _size(draft or place), measure_free(place)
    room = f"{written + left:,} bytes, of which {written:,} were written and {left:,} are free"
    return f"{DISK[number]}: {place} needs more than {room}. {MAKE_ROOM}"


def _disk_fault_number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno in DISK:
        return error.errno
    if isinstance(error, OSError | RuntimeError) or type(error).__module__.split(".")[0] in ("safetensors", "polars"):
        return next((number for words, number in SAID if words.search(str(error))), None)
    return None


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    return sum(file.stat().st_size for file in files)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
