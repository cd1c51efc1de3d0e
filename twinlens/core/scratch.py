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

import fnmatch
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from twinlens.core import paths
from twinlens.core.bucket_store import USED, BucketLock, BucketStore, prune_bucket
from twinlens.core.buckets import Bucket, is_bucket
from twinlens.core.errors import DataError
from twinlens.core.hashing import REMEMBERED
from twinlens.core.parent import is_running, refuse_orphan
from twinlens.core.part_store import (
    DRAFT,
    NOTE,
    RECEIPTS,
    SHARE,
    FolderStore,
    PartStore,
    Receipt,
    append_receipt,
    has_digests,
    lock_folder,
    read_receipts,
    wait_for,
    write_figures,
)
from twinlens.core.resources import name_disk_fault

log = logging.getLogger("twinlens")
KEEP_DAYS = 30.0
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


class Scratch:
    """The finished parts of one piece of work.

    >>> with Scratch("embed", key) as scratch:              # doctest: +SKIP
    ...     for i in range(parts):
    ...         if not scratch.has(f"{i:05d}.npy"):
    ...             scratch.put(f"{i:05d}.npy", lambda path: np.save(path, compute(i)))

    Where workers make the parts, each gets `open_store()`, and what its `put` gives back is accepted here:

    >>> scratch.accept(receipt)                             # doctest: +SKIP

    Args:
        work: what is done, as a folder's name.
        key: fingerprint of all that decides the parts.
        parts: `compute.parts`, the folder or the URL of a bucket that all workers see; None: `paths.scratch()`.
    """

    def __init__(self, work: str, key: str, parts: str | None = None) -> None:
        self._remote: BucketStore | None = None
        if parts is not None and is_bucket(parts):
            self._remote = BucketStore(Bucket(f"{parts.rstrip('/')}/{work}/{key}"), Path(work) / key)
        self.folder = paths.scratch() / work / key  # of copies, where the parts are in a bucket
        if parts is not None and self._remote is None:
            self.folder = paths.expand(parts) / work / key
        self._whole: set[str] = set()  # parts that were compared with their digests
        self._noted: dict[str, Receipt] | None = None  # by part, while the lock is held: nobody else notes any
        self._figures: dict[str, dict[str, float]] = {}  # of parts in a bucket, by the digest of their note

    def path(self, name: str) -> Path:
        """Path of the part `name`, finished or not; fetched from the bucket where it is in one.

        Raises:
            DataError: its bytes in the bucket are not those that were put.
        """
        if self._remote is not None and (receipt := self._known().get(name)) is not None:
            return self._remote.fetch(name, receipt.files[""][0])
        return self.folder / name

    def has(self, name: str) -> bool:
        """Whether the part is finished: a part is whole, with its figures, or it counts as absent."""
        if self._remote is not None:
            return name in self._known()  # it appears whole, and after its figures
        return self._is_whole(name) and (not self.path(name + NOTE).exists() or self._is_whole(name + NOTE))

    def list_parts(self, pattern: str) -> list[str]:
        """List the names of parts that match a pattern such as `part-*.npy`, by their numbers, however long."""
        if self._remote is not None:
            names = fnmatch.filter(self._known(), pattern)
        else:
            names = [path.name for path in self.folder.glob(pattern)]
        return sorted(names, key=lambda name: (len(name), name))

    def iter_paths(self, names: Sequence[str]) -> Iterator[Path]:
        """Iterate over the paths of finished parts; those in a bucket are fetched ahead, and go when they were read."""
        if self._remote is None:
            yield from map(self.path, names)
        else:
            known = self._known()
            yield from self._remote.iter_copies([known[name] for name in names])

    def _known(self) -> dict[str, Receipt]:
        if self._noted is not None:
            return self._noted
        return read_receipts(self.folder) if self._remote is None else self._remote.list_parts()

    def _is_whole(self, name: str) -> bool:
        path = self.folder / name
        if not path.exists():
            return False
        if name in self._whole:
            return True
        noted = self._known().get(name)
        if noted is None or not has_digests(path, noted.files):
            log.warning("%s is not as it was written (a fault of the disk, or an older version): made again", path)
            return False
        self._whole.add(name)
        return True

    def put(self, name: str, write: Callable[[Path], None]) -> Path:
        """Make a part: `write` fills a temporary file (or folder), which then takes its name at once."""
        if self._remote is not None:
            self._note_receipt(self._remote.put(name, write))
        else:
            FolderStore(self.folder).put_noted(name, write, lambda receipt: self._note_receipt(receipt, sync=True))
        return self.folder / name

    def note(self, name: str, **figures: float) -> None:
        """Record figures of a part (what it took, say) before it is put, so that a resumed run knows them too."""
        self.put(name + NOTE, lambda path: write_figures(path, figures))

    def total(self, figure: str) -> float:
        """The sum of a noted figure over all parts, whenever and in whichever run they were made."""
        if self._remote is not None:
            notes = self._read_notes(self._remote)
        else:
            whole = (path for path in sorted(self.folder.glob(f"*{NOTE}")) if self._is_whole(path.name))
            notes = [json.loads(path.read_text()) for path in whole]
        return float(sum(note.get(figure, 0.0) for note in notes))

    def _read_notes(self, remote: BucketStore) -> list[dict[str, float]]:
        """The figures of all parts in a bucket, each read once."""
        noted = {
            receipt.files[""][0]: receipt for name, receipt in sorted(self._known().items()) if name.endswith(NOTE)
        }
        missing = {digest: receipt for digest, receipt in noted.items() if digest not in self._figures}
        self._figures |= dict(zip(missing, remote.read_notes(list(missing.values())), strict=True))
        return [self._figures[receipt.files[""][0]] for name, receipt in self._known().items() if name.endswith(NOTE)]

    def open_store(self) -> PartStore:
        """Where the parts lie, for a worker: it can be pickled, and used without the lock that is held here."""
        return FolderStore(self.folder.absolute()) if self._remote is None else self._remote

    def accept(self, receipt: Receipt) -> None:
        """Take a part that a worker has put for finished: from now on it is one of those that are there.

        Raises:
            DataError: this machine does not see it.
        """
        if self._remote is None and not wait_for(self.folder / receipt.name):
            raise DataError(f"a worker put {receipt.name} into {self.folder.absolute()}, and here it is not. {SHARE}")
        self._note_receipt(receipt)  # lost with the power, the part is made again
        if self._remote is None:
            FolderStore(self.folder).drop_receipt(receipt.name)

    def clear(self) -> None:
        """Remove all parts, where the output that was joined of them stands: they would take as much room again."""
        self._whole, self._noted = set(), {}
        self.open_store().clear()

    def _note_receipt(self, receipt: Receipt, *, sync: bool = False) -> None:
        if self._remote is None:
            append_receipt(self.folder, receipt, sync=sync)
        else:  # its name in the bucket says it all
            self._remote.known[receipt.name] = receipt.files[""][0]
        if self._noted is not None:
            self._noted[receipt.name] = receipt
        self._whole.add(receipt.name)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        os.utime(self.folder)
        if self._remote is None:
            self._open_folder()
        else:
            self._open_bucket(self._remote)
        return self

    def _open_folder(self) -> None:
        self._lock = lock_folder(self.folder)
        for leftover in (*self.folder.glob(f"{DRAFT}*"), *self.folder.glob(f"{RECEIPTS}/{DRAFT}*")):  # of the killed
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        self._noted = read_receipts(self.folder)
        for path, receipt in FolderStore(self.folder).list_receipts():  # of workers whose driver was killed
            append_receipt(self.folder, receipt, sync=False)
            self._noted[receipt.name] = receipt
            path.unlink(missing_ok=True)

    def _open_bucket(self, remote: BucketStore) -> None:
        self._held = BucketLock(remote.bucket)
        self._held.acquire()
        try:
            remote.clear_drafts()
            remote.bucket.write(USED, b"")
            self._noted = remote.list_parts()
        except BaseException:
            self._held.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._noted = None
        if self._remote is None:
            self._lock.close()
        else:
            self._held.release()


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


def prune(keep_days: float = KEEP_DAYS, parts: str | None = None) -> list[Path | str]:
    """Remove work that no run has used for `keep_days`; returns the folders, and URLs, removed.

    Args:
        keep_days: so long it is kept.
        parts: `compute.parts`, where there is work too.
    """
    oldest = time.time() - keep_days * 86_400
    places = [paths.scratch()]
    if parts is not None and not is_bucket(parts):
        places.append(paths.expand(parts))
    kept = [folder for place in places for folder in place.glob("*/*") if folder.is_dir()]
    mine = [folder for folder in kept if folder.parent.name not in PRUNED_ELSEWHERE]
    stale = [folder for folder in mine if folder.stat().st_mtime < oldest]
    for folder in stale:
        shutil.rmtree(folder, ignore_errors=True)
    for remembered in (paths.scratch() / REMEMBERED).glob("*.json"):
        with suppress(FileNotFoundError):
            if remembered.stat().st_mtime < oldest:
                remembered.unlink()
    return [*stale, *(prune_bucket(parts, keep_days) if parts is not None and is_bucket(parts) else [])]
