"""Digests of files, and of texts; those of large files are remembered.

A checkpoint of gigabytes takes seconds to read, and several stages ask which one it is. So what a file's digest was
is kept in the scratch folder, and believed as long as its size, times and inode are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from twinlens.core import paths

LARGE = 2**20  # bytes from which it is quicker to remember a digest than to compute it
SETTLED_NS = 2_000_000_000  # a file written less long ago may be written again without another time of change
REMEMBERED = "digests"  # folder of the scratch


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file, as hexadecimal digits, from its bytes as they are now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recall_digest(path: Path) -> str:
    """Give the SHA-256 of a file, read anew only where its size, its times or its inode are not as they were.

    For files of others that stay as they are, such as weights and archives. Whoever looks for damage reads them by
    `hash_file`. Where nothing can be remembered (a scratch folder that may only be read), the file is read each time.
    """
    stamp = read_stamp(path)
    if stamp[0] < LARGE:
        return hash_file(path)
    memory = paths.scratch() / REMEMBERED / f"{hash_text(os.path.realpath(path))[:20]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        noted = json.loads(memory.read_text(encoding="utf-8"))
        if noted["stamp"] == stamp and isinstance(noted["sha256"], str):
            return str(noted["sha256"])
    found = hash_file(path)
    if read_stamp(path) == stamp and time.time_ns() - max(stamp[1:3]) > SETTLED_NS:
        with suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            part = memory.with_name(f".part-{os.getpid()}-{threading.get_ident()}-{memory.name}")
            try:
                part.write_text(json.dumps({"path": str(path), "stamp": stamp, "sha256": found}), encoding="utf-8")
                part.replace(memory)
            finally:
                part.unlink(missing_ok=True)
    return found


def read_stamp(path: Path) -> list[int]:
    """Read what changes with a file's content: size in bytes, times of change in nanoseconds, inode and disk.

    The second time is that of its entry, which no program can set back.
    """
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def hash_text(text: str) -> str:
    """Compute the SHA-256 of a text, as hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
