"""The finished parts of one piece of work in a bucket, and the lock by which one driver at a time has them.

An object's name has the digest of its bytes: `part-00001.npy/<SHA-256>`. So a part and its digest appear together and
whole, a listing says which parts there are and what each must be, and no file is appended to, which buckets cannot.
A part that is made again with other bytes gets another name, and the newer counts until the older is gone.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from twinlens.core import paths
from twinlens.core.ahead import map_in_order
from twinlens.core.buckets import Bucket, StoredObject
from twinlens.core.errors import BucketError, DataError
from twinlens.core.hashing import hash_file
from twinlens.core.parent import is_running
from twinlens.core.part_store import DRAFT, LOCK, NOTE, Receipt, write_figures
from twinlens.core.resources import name_disk_fault
from twinlens.core.write_behind import put_behind

log = logging.getLogger("twinlens")

USED = "used"  # written at each use: what was not used for long is removed
BEATS_EVERY_S = 10.0  # the holder of a lock rewrites it
STALE_S = 60.0  # a lock that was not rewritten for so long is a dead process's
LOOKS_EVERY_S = 2.0
BRIEFLY_S = 5.0  # a store that is away is waited for with a beat, or when a lock is given back
AHEAD = 4  # parts that are fetched while one is read
AT_ONCE = 16  # small objects that are read at the same time


@dataclass(frozen=True)
class BucketStore:
    """Parts in a bucket, with copies on this machine of those that were read or made here; see `PartStore`.

    Args:
        bucket: of this work, as `s3://bucket/folder/<work>/<key>`.
        below: folder of the copies, below the scratch folder of whichever machine it is.
        keeps: whether a copy of what is put stays, for the driver, which joins it; not in a worker that it is sent to.
        known: digests of parts, as far as the driver has heard of them; a worker asks the bucket.
    """

    bucket: Bucket
    below: Path
    keeps: bool = True
    known: dict[str, str] = field(default_factory=dict, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return BucketStore, (self.bucket, self.below, False)

    @property
    def folder(self) -> Path:
        """Where the copies lie."""
        return paths.scratch().absolute() / self.below

    def put(self, name: str, write: Callable[[Path], None]) -> Receipt:
        """Make a part in a local file, which is put whole; see `PartStore`.

        A worker's part is put while it makes the next one (`write_behind`): its receipt counts when it is handed on.
        """
        part = self._name_draft(name)
        try:
            with name_disk_fault(self.folder / name, part):
                self.folder.mkdir(parents=True, exist_ok=True)
                write(part)
                if not part.is_file():
                    raise NotImplementedError(f"{name}: a part in a bucket is one file, not a folder")
                sha256, size = hash_file(part), part.stat().st_size
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        put_behind(partial(self._upload, part, name, sha256), part)
        return Receipt(name, {"": [sha256, size]})

    def _upload(self, part: Path, name: str, sha256: str) -> None:
        self.bucket.put(part, f"{name}/{sha256}")
        if self.known.get(name, sha256) != sha256:
            self.bucket.remove([f"{name}/{self.known[name]}"])
        if self.keeps:
            part.replace(self.folder / name)

    def note(self, name: str, **figures: float) -> Receipt:
        """Record figures of a part."""
        return self.put(f"{name}{NOTE}", lambda path: write_figures(path, figures))

    def read(self, name: str) -> Path:
        """Give a copy of a part, compared with its digest.

        Raises:
            DataError: there is no such part, or it is damaged: then it is removed, so that the next run makes it again.
        """
        if name in self.known:
            return self.fetch(name, self.known[name])
        found = self.bucket.list_objects(f"{name}/")
        if not found:
            raise DataError(
                f"{self.bucket.url}/{name}: there is no such part. Run again: what is missing is made again"
            )
        return self.fetch(name, max(found, key=lambda one: one.modified).name.rpartition("/")[2])

    def fetch(self, name: str, sha256: str) -> Path:
        """Give a copy of the part of a digest; raises as `read` does."""
        final = self.folder / name
        if final.is_file() and hash_file(final) == sha256:
            return final
        whole = f"{name}/{sha256}"
        for _ in range(2):  # it may have been damaged on the way
            with self._draft(name) as part:
                if not self.bucket.fetch(whole, part):
                    raise DataError(f"{self.bucket.url}/{whole} is gone. Run again: what is missing is made again")
                if hash_file(part) == sha256:
                    part.replace(final)
                    return final
        self.bucket.remove([whole])
        raise DataError(
            f"{self.bucket.url}/{whole} is not as it was written, and was removed. Run again: it is made again, and "
            "what was finished is kept"
        )

    def iter_copies(self, receipts: Sequence[Receipt]) -> Iterator[Path]:
        """Iterate over copies of some parts, the next ones fetched meanwhile; one fetched here goes when read."""

        def fetch(receipt: Receipt) -> tuple[Path, bool]:
            there = (self.folder / receipt.name).is_file()
            return self.fetch(receipt.name, receipt.files[""][0]), there

        for path, was_there in map_in_order(fetch, receipts, AHEAD):
            yield path
            if not was_there:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all parts, and the copies here; see `PartStore`."""
        self.bucket.remove([one.name for one in self.bucket.list_objects() if one.name not in (LOCK, USED)])
        self.known.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)

    def list_parts(self) -> dict[str, Receipt]:
        """List the parts that are there, by name; older ones of the same name are removed."""
        newest: dict[str, StoredObject] = {}
        old: list[str] = []
        for one in self.bucket.list_objects():
            name, _, sha256 = one.name.rpartition("/")
            if not name or len(sha256) != 64:
                continue  # the lock and its like
            *older, newest[name] = sorted(
                (each for each in (newest.get(name), one) if each is not None), key=lambda each: each.modified
            )
            old += [each.name for each in older]
        self.bucket.remove(old)
        self.known.clear()
        self.known.update((name, _digest_of(one)) for name, one in newest.items())
        return {name: Receipt(name, {"": [_digest_of(one), one.size]}) for name, one in newest.items()}

    def read_notes(self, receipts: Sequence[Receipt]) -> list[dict[str, float]]:
        """Read the figures of some parts, several at a time."""

        def read(receipt: Receipt) -> dict[str, float]:
            content = self.bucket.read(f"{receipt.name}/{receipt.files[''][0]}")
            with suppress(ValueError, TypeError):
                return dict(json.loads(content or b"{}"))
            return {}

        return list(map_in_order(read, receipts, AT_ONCE))

    def clear_drafts(self) -> None:
        """Remove what processes of this machine left half written or half fetched when they were killed."""
        for leftover in self.folder.glob(f"{DRAFT}*"):
            process = leftover.name.removeprefix(DRAFT).split("-")[0]
            if process.isdigit() and not is_running(int(process)):
                leftover.unlink(missing_ok=True)

    @contextmanager
    def _draft(self, name: str) -> Iterator[Path]:
        part = self._name_draft(name)
        try:
            with name_disk_fault(self.folder / name, part):
                self.folder.mkdir(parents=True, exist_ok=True)
                yield part
        finally:
            part.unlink(missing_ok=True)

    def _name_draft(self, name: str) -> Path:
        return self.folder / f"{DRAFT}{os.getpid()}-{uuid.uuid4().hex[:8]}-{name}"


def _digest_of(stored: StoredObject) -> str:
    return stored.name.rpartition("/")[2]


@dataclass
class BucketLock:
    """The lock of one piece of work: an object that is made only where there is none, and rewritten while it is held.

    Whoever waits takes it over when it was not rewritten for a minute by the waiter's own clock, or at once when its
    process is of this machine and has gone. Should both still live (a holder that was cut off from the store), both
    make the same parts, which appear whole under the digests of their bytes: time is lost, and nothing else.
    """

    bucket: Bucket
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def acquire(self) -> None:
        """Take the lock, or wait for it, which is said with who holds it."""
        self._etag, self._beat = "", 0
        self._ended = threading.Event()
        told, seen, since = False, "", time.monotonic()
        while not (self.bucket.create(LOCK, self._content()) or self._is_mine()):
            etag, holder = self._look()
            if not etag:
                continue  # it was given back in this moment
            if etag != seen:
                seen, since = etag, time.monotonic()
            if (_is_dead(holder) or time.monotonic() - since > STALE_S) and self.bucket.replace(
                LOCK, self._content(), etag
            ):
                log.info("%s was held by %s, which has ended: taken over", self.bucket.url, _name(holder))
                break
            if not told:
                log.info("another process is doing this work (%s); waiting for it (%s)", _name(holder), self.bucket.url)
                told = True
            time.sleep(LOOKS_EVERY_S)
        self._etag = self._look()[0]
        self._thread = threading.Thread(target=self._beat_on, name="lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lock back."""
        self._ended.set()
        self._thread.join()
        brief = replace(self.bucket, patience_s=BRIEFLY_S)
        with suppress(BucketError):  # where the store is away, the lock grows stale
            if self._look(brief)[1].get("token") == self.token:
                brief.remove([LOCK])

    def _content(self) -> bytes:
        self._beat += 1
        held = {"token": self.token, "host": socket.gethostname(), "process": os.getpid(), "beat": self._beat}
        return json.dumps(held).encode()

    def _look(self, bucket: Bucket | None = None) -> tuple[str, dict[str, Any]]:
        """The lock's etag and holder; empty where there is no lock."""
        bucket = bucket or self.bucket
        stored = bucket.describe(LOCK)
        content = bucket.read(LOCK) if stored is not None else None
        if stored is None or content is None:
            return "", {}
        with suppress(ValueError, TypeError):
            return stored.etag, dict(json.loads(content))
        return stored.etag, {}

    def _is_mine(self) -> bool:
        """Whether the lock has this one's token: an answer that was lost may have said so."""
        return self._look()[1].get("token") == self.token

    def _beat_on(self) -> None:
        brief = replace(self.bucket, patience_s=BRIEFLY_S)
        while not self._ended.wait(BEATS_EVERY_S):
            with suppress(BucketError):  # the work itself says that the store is away
                beaten = brief.replace(LOCK, self._content(), self._etag)
                self._etag, holder = self._look(brief)
                if not beaten and holder.get("token") != self.token:
                    log.warning("%s: another process has taken this work over; both go on", self.bucket.url)
                    return


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the process of a lock is one of this machine that has gone."""
    process = holder.get("process")
    return holder.get("host") == socket.gethostname() and isinstance(process, int) and not is_running(process)


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder.get('process', '?')} on {holder.get('host', 'a machine unknown')}"


def prune_bucket(url: str, keep_days: float) -> list[str]:
    """Remove the work in a bucket that no run has used for `keep_days`; returns the URLs removed."""
    bucket = Bucket(url)
    oldest = time.time() - keep_days * 86_400
    stale = []
    for key in (key for work in bucket.list_folders() for key in bucket.list_folders(f"{work}/")):
        used = bucket.describe(f"{key}/{USED}")
        if used is not None and used.modified < oldest and bucket.describe(f"{key}/{LOCK}") is None:
            bucket.remove([one.name for one in bucket.list_objects(f"{key}/")])
            stale.append(f"{url.rstrip('/')}/{key}")
    return stale
