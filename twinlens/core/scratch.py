"""Crash-safe, resumable work: finished parts outlive a killed run.

DVC deletes a stage's outputs before it runs the stage, and a killed `dvc` can leave the stage's
process running. So finished parts lie outside the outputs, in a folder named by a fingerprint of
everything that decides their content, and a lock makes a second process wait for the first. When
all parts are there the stage copies them into its output. They stay afterwards for the next card
that needs the same work (two models may share a tower) until they have not been used for a while.

A part's digest is noted before it takes its name. A part that has another one when it is asked for
was damaged on the disk, and is made again instead of being loaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from twinlens.core import paths
from twinlens.core.hashing import REMEMBERED, hash_file
from twinlens.core.parent import is_running, refuse_orphan
from twinlens.core.resources import name_disk_fault

log = logging.getLogger("twinlens")

KEEP_DAYS = 30.0
DIGESTS = "digests.jsonl"  # of the parts of a folder, one a line; the last one counts
PRUNED_ELSEWHERE = ("index",)  # by twinlens.indexing, which knows the tables that a manifest names


def fingerprint(**parts: Any) -> str:
    """Compute a name for the content that `parts` (JSON-able) decide: the same on every machine and in every folder."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def digest(strings: Iterable[str]) -> str:
    """Compute a digest of a sequence of strings; boundaries count."""
    found = hashlib.sha256()
    for string in strings:
        raw = string.encode("utf-8", "surrogatepass")
        found.update(len(raw).to_bytes(8, "little") + raw)
    return found.hexdigest()


@dataclass(frozen=True)
class Receipt:
    """What a finished part is: its name, and SHA-256, size, time and inode of each of its files."""

    name: str
    files: dict[str, list[Any]]


@dataclass(frozen=True)
class PartStore:
    """Where the parts of some work lie: small and picklable, for those who make parts; `Scratch` accepts them."""

    folder: Path

    def put(self, name: str, write: Callable[[Path], None]) -> Receipt:
        """Make a part: `write` fills a temporary file (or folder), which then takes its name at once."""
        final = self.folder / name
        part = final.with_name(f".part-{socket.gethostname()}-{os.getpid()}-{final.name}")
        try:
            with name_disk_fault(final, part):
                write(part)
                if part.is_file():
                    with part.open("rb") as file:
                        os.fsync(file.fileno())
                receipt = Receipt(name, _compute_digests(part))
                if final.is_dir():
                    shutil.rmtree(final)
                part.replace(final)
        finally:
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)
        return receipt

    def note(self, name: str, **figures: float) -> Receipt:
        """Record figures of a part (what it took, say); to be accepted before the part is."""
        return self.put(f"{name}.note", lambda path: _write_text(path, json.dumps(figures)))

    def read(self, name: str) -> Path:
        """A local path of a part."""
        return self.folder / name


class Scratch:
    """The finished parts of one piece of work.

    >>> with Scratch("embed", key) as scratch:              # doctest: +SKIP
    ...     for i in range(parts):
    ...         if not scratch.has(f"{i:05d}.npy"):
    ...             scratch.put(f"{i:05d}.npy", lambda path: np.save(path, compute(i)))
    """

    def __init__(self, work: str, key: str) -> None:
        self.folder = paths.scratch() / work / key
        self._whole: set[str] = set()  # parts that were compared with their digests

    def path(self, name: str) -> Path:
        """Path of the part `name`, finished or not."""
        return self.folder / name

    def has(self, name: str) -> bool:
        """Whether the part is finished: a part is whole, with its figures, or it counts as absent."""
        return self._is_whole(name) and (not self.path(f"{name}.note").exists() or self._is_whole(f"{name}.note"))

    def _is_whole(self, name: str) -> bool:
        path = self.path(name)
        if not path.exists():
            return False
        if name in self._whole:
            return True
        noted = _read_digests(self.folder).get(name)
        if noted is None or not _has_digests(path, noted):
            log.warning("%s is not as it was written (a fault of the disk, or an older version): made again", path)
            return False
        self._whole.add(name)
        return True

    def put(self, name: str, write: Callable[[Path], None]) -> Path:
        """Make a part: `write` fills a temporary file (or folder), which then takes its name at once."""
        final = self.path(name)
        part = final.with_name(f".part-{os.getpid()}-{final.name}")
        try:
            with name_disk_fault(final, part):
                write(part)
                if part.is_file():
                    with part.open("rb") as file:
                        os.fsync(file.fileno())
                self._note_digests(name, part)
                if final.is_dir():
                    shutil.rmtree(final)  # what is mapped stays readable to those who have it open
                part.replace(final)
        finally:
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)
        return final

    def note(self, name: str, **figures: float) -> None:
        """Record figures of a part (what it took, say) before it is put, so that a resumed run knows them too."""
        self.put(f"{name}.note", lambda path: _write_text(path, json.dumps(figures)))

    def total(self, figure: str) -> float:
        """The sum of a noted figure over all parts, whenever and in whichever run they were made."""
        whole = (path for path in sorted(self.folder.glob("*.note")) if self._is_whole(path.name))
        notes = [json.loads(path.read_text()) for path in whole]
        return float(sum(note.get(figure, 0.0) for note in notes))

    def open_store(self) -> PartStore:
        """The place of the parts, for those who make them elsewhere."""
        return PartStore(self.folder.absolute())

    def accept(self, receipt: Receipt) -> None:
        """Take a part for finished that was put into the store."""
        self._note(receipt.name, receipt.files)

    def _note_digests(self, name: str, part: Path) -> None:
        self._note(name, _compute_digests(part))

    def _note(self, name: str, files: dict[str, list[Any]]) -> None:
        line = json.dumps({"name": name, "files": files}, separators=(",", ":"))
        with (self.folder / DIGESTS).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")  # on a line of its own, also after one that was cut off
            file.flush()
            os.fsync(file.fileno())
        self._whole.add(name)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        os.utime(self.folder)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is doing this work; waiting for it (%s)", self.folder)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        for leftover in self.folder.glob(".part-*"):  # of a process that was killed
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()


def _compute_digests(part: Path) -> dict[str, list[Any]]:
    """SHA-256, size, time and inode of each file of a part, by its name within it; of a file under an empty name."""
    files = [part] if part.is_file() else sorted(file for file in part.rglob("*") if file.is_file())
    return {_name_within(part, file): [hash_file(file), *_stamp(file)] for file in files}


def _has_digests(part: Path, noted: dict[str, list[Any]]) -> bool:
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


def _name_within(part: Path, file: Path) -> str:
    return "" if file == part else file.relative_to(part).as_posix()


def _stamp(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _read_digests(folder: Path) -> dict[str, dict[str, list[Any]]]:
    """Digests of the parts of a folder, by part; a line that is none (cut off, damaged) is none."""
    found: dict[str, dict[str, list[Any]]] = {}
    with suppress(FileNotFoundError):
        for line in (folder / DIGESTS).read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError):
                noted = json.loads(line)
                files = {str(name): list(values) for name, values in noted["files"].items() if len(values) == 4}
                found[str(noted["name"])] = files
    return found


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


@contextmanager
def write_whole(out: Path) -> Iterator[Path]:
    """Provide a folder that becomes `out` when it is whole; nothing half-written ever bears that name.

    What was there is replaced, never written into: DVC may have linked its files into its cache.

    Raises:
        OrphanError: the dvc that started this has gone; what was there stays.
        ResourceError: the disk is full, or may not be written.
    """
    draft = _choose_draft(out)
    try:
        with name_disk_fault(out, draft):
            _prepare(out)
            draft.mkdir()
            yield draft
            _publish(draft, out)
    finally:
        _remove(draft)


@contextmanager
def write_whole_file(out: Path) -> Iterator[Path]:
    """Provide a path whose file becomes `out` when it is whole; otherwise as `write_whole`."""
    draft = _choose_draft(out)
    try:
        with name_disk_fault(out, draft):
            _prepare(out)
            yield draft
            refuse_orphan()
            draft.replace(out)
    finally:
        _remove(draft)


def write_whole_text(out: Path, text: str) -> None:
    """Write a text file, whole or not at all; otherwise as `write_whole`."""
    with write_whole_file(out) as draft:
        _write_text(draft, text)


def _choose_draft(out: Path) -> Path:
    return out.parent / f".draft-{os.getpid()}-{out.name}"


def _prepare(out: Path) -> None:
    """Make the folder of `out`, and clear away the drafts of processes that were killed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for leftover in out.parent.glob(f".draft-*-{out.name}"):
        process = int(leftover.name.split("-")[1])
        if process == os.getpid() or not is_running(process):
            _remove(leftover)


def _publish(draft: Path, out: Path) -> None:
    """Let a folder take the name of another, which goes at once and not file by file."""
    refuse_orphan()
    old = out.parent / f".draft-{os.getpid()}-old-{out.name}"
    if out.exists() or out.is_symlink():
        out.replace(old)
    try:
        draft.replace(out)
    except OSError:
        if old.exists():
            old.replace(out)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def prune(keep_days: float = KEEP_DAYS) -> list[Path]:
    """Remove work that no run has used for `keep_days`; returns the folders removed."""
    oldest = time.time() - keep_days * 86_400
    kept = [folder for folder in paths.scratch().glob("*/*") if folder.is_dir()]
    mine = [folder for folder in kept if folder.parent.name not in PRUNED_ELSEWHERE]
    stale = [folder for folder in mine if folder.stat().st_mtime < oldest]
    for folder in stale:
        shutil.rmtree(folder, ignore_errors=True)
    for remembered in (paths.scratch() / REMEMBERED).glob("*.json"):
        with suppress(FileNotFoundError):
            if remembered.stat().st_mtime < oldest:
                remembered.unlink()
    return stale
