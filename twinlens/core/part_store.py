"""Where the finished parts of one piece of work lie, as a worker on any machine sees it.

`Scratch` is the driver's: it holds the lock and knows which parts are finished. A worker gets a `PartStore`, a small
object without lock or open file that can be sent to it, and gives back a `Receipt` of each part that it put. The driver
accepts the receipt, and only the driver appends to the digests: lines that several machines append to one file of a
network file system are lost.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from twinlens.core.errors import DataError, ResourceError
from twinlens.core.hashing import hash_file
from twinlens.core.resources import name_disk_fault

log = logging.getLogger("twinlens")

LOCK = "lock"
DIGESTS = "digests.jsonl"  # of the parts of a folder, one a line; the last one counts
RECEIPTS = ".receipts"  # folder of those that no driver has accepted yet, a file each
DRAFT = ".part-"  # begins the name of a part while it is written
NOTE = ".note"  # ends the name of a part's figures
# Seconds between looks for a file that another machine has written: a network file system remembers for up to a minute
# that there was none.
LOOKS_AFTER_S = (0.1, 0.5, 2, 10, 30, 60)

Digests = dict[str, list[Any]]  # SHA-256, size, time and inode of each file of a part, by its name within it


@dataclass(frozen=True)
class Receipt:
    """What a worker gives for a part that it put: its name, and the digests of its files."""

    name: str
    files: Digests


class PartStore(Protocol):
    """Place of the parts of one piece of work; can be pickled and sent to a worker."""

    def put(self, name: str, write: Callable[[Path], None]) -> Receipt:
        """Make a part: `write` fills a temporary file (or folder), which is digested and takes its name whole.

        Raises:
            ResourceError: the disk is full or may not be written, or this machine does not see the place.
        """

    def note(self, name: str, **figures: float) -> Receipt:
        """Record figures of a part, before it is put; the driver accepts this receipt too."""

    def read(self, name: str) -> Path:
        """Give a local path of a part, which is fetched first where it lies elsewhere.

        Raises:
            DataError: there is no such part.
        """

    def clear(self) -> None:
        """Remove all parts; only who holds the lock may."""


@dataclass(frozen=True)
class FolderStore:
    """Parts in a folder of this machine, or of a network file system that all machines see under the same path."""

    folder: Path  # absolute: a worker's working directory is another

    def put(self, name: str, write: Callable[[Path], None]) -> Receipt:
        """Make a part; see `PartStore`. Its receipt is left beside it too, in case the driver is killed meanwhile."""
        return self.put_noted(name, write, self._leave)

    def put_noted(self, name: str, write: Callable[[Path], None], notify: Callable[[Receipt], None]) -> Receipt:
        """Make a part whose receipt somebody takes down before it takes its name."""
        final = self.folder / name
        # No other process writes it under this name, on whichever machine that is
        part = self.folder / f"{DRAFT}{os.getpid()}-{uuid.uuid4().hex[:8]}-{name}"
        try:
            with name_disk_fault(final, part):
                self._look()
                write(part)
                if part.is_file():
                    with part.open("rb") as file:
                        os.fsync(file.fileno())
                receipt = Receipt(name, compute_digests(part))
                notify(receipt)
                if final.is_dir():
                    shutil.rmtree(final)  # what is mapped stays readable to those who have it open
                part.replace(final)
        finally:
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)
        return receipt

    def note(self, name: str, **figures: float) -> Receipt:
        """Record figures of a part; see `PartStore`."""
        return self.put(f"{name}{NOTE}", lambda path: write_figures(path, figures))

    def read(self, name: str) -> Path:
        """Give the path of a part; see `PartStore`."""
        path = self.folder / name
        if not wait_for(path):
            raise DataError(f"{path}: there is no such part on {socket.gethostname()}. {SHARE}")
        return path

    def clear(self) -> None:
        """Remove all parts; see `PartStore`."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink(missing_ok=True)

    def list_receipts(self) -> Iterator[tuple[Path, Receipt]]:
        """Iterate over the receipts that workers left, with their files; one that is cut off is none."""
        for path in sorted((self.folder / RECEIPTS).glob("*.json")):
            with suppress(ValueError, KeyError, TypeError, FileNotFoundError):
                yield path, _read_receipt(json.loads(path.read_bytes()))

    def drop_receipt(self, name: str) -> None:
        """Remove what a worker left for a driver that was killed."""
        (self.folder / RECEIPTS / f"{name}.json").unlink(missing_ok=True)

    def _leave(self, receipt: Receipt) -> None:
        folder = self.folder / RECEIPTS
        folder.mkdir(exist_ok=True)
        part = folder / f"{DRAFT}{uuid.uuid4().hex[:8]}"
        part.write_text(json.dumps(asdict(receipt)), encoding="utf-8")
        part.replace(folder / f"{receipt.name}.json")

    def _look(self) -> None:
        if not self.folder.is_dir():  # the driver made it
            raise ResourceError(f"{socket.gethostname()} does not see {self.folder}, where the parts are kept. {SHARE}")


SHARE = "Set compute.parts to a folder that all machines see under the same path, or to a bucket (s3://bucket/folder)"


def lock_folder(folder: Path) -> IO[str]:
    """Take the lock of a folder, or wait for it, which is said with who holds it; closing what is returned frees it."""
    path = folder / LOCK
    lock = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = path.read_text(encoding="utf-8", errors="replace")[:200] or "unknown"
        log.info("another process is doing this work (%s); waiting for it (%s)", holder, folder)
        fcntl.flock(lock, fcntl.LOCK_EX)
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()
    return lock


def wait_for(path: Path) -> bool:
    """Wait for a file that another machine has written; whether it came to be seen."""
    for seconds in LOOKS_AFTER_S:
        if path.exists():
            return True
        time.sleep(seconds)
    return path.exists()


def write_figures(path: Path, figures: dict[str, float]) -> None:
    """Write the figures of a part."""
    path.write_text(json.dumps(figures), encoding="utf-8")


def compute_digests(part: Path) -> Digests:
    """Compute the digests of each file of a part, by its name within it; of a file under an empty name."""
    files = [part] if part.is_file() else sorted(file for file in part.rglob("*") if file.is_file())
    return {_name_within(part, file): [hash_file(file), *_stamp(file)] for file in files}


def has_digests(part: Path, noted: Digests) -> bool:
    """Whether a part is as it was written.

    A file is read again. A folder is a table that is mapped, of which nobody reads all: its files are read again only
    where size, time or inode are others than they were.
    """
    for name, (sha256, *stamp) in noted.items():
        file = part / name if name else part
        if not file.is_file() or file.stat().st_size != stamp[0]:
            return False
        if (not name or _stamp(file) != stamp) and hash_file(file) != sha256:
            return False
    return bool(noted)


def append_receipt(folder: Path, receipt: Receipt, *, sync: bool) -> None:
    """Append a receipt to the digests of a folder, which only the holder of its lock may do.

    Args:
        folder: of the parts.
        receipt: of one.
        sync: wait until the disk has it.
    """
    line = json.dumps({"name": receipt.name, "files": receipt.files}, separators=(",", ":"))
    with (folder / DIGESTS).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")  # on a line of its own, also after one that was cut off
        file.flush()
        if sync:
            os.fsync(file.fileno())


def read_receipts(folder: Path) -> dict[str, Receipt]:
    """Read the receipts of a folder's parts, by part; a line that is none (cut off, damaged) is none."""
    found: dict[str, Receipt] = {}
    with suppress(FileNotFoundError):
        for line in (folder / DIGESTS).read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError):
                receipt = _read_receipt(json.loads(line))
                found[receipt.name] = receipt
    return found


def _read_receipt(noted: Any) -> Receipt:
    files = {str(name): list(values) for name, values in noted["files"].items() if len(values) == 4}
    return Receipt(str(noted["name"]), files)


def _name_within(part: Path, file: Path) -> str:
    return "" if file == part else file.relative_to(part).as_posix()


def _stamp(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]
