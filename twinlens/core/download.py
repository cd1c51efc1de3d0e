"""Downloads: resumed where they broke off, checked, and never taken for whole when they are not.

A download goes to `<name>.part`; only when its size and digest are right does it take its name. A
second run goes on where the first stopped, so a broken connection costs what was lost and no more.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests

from twinlens.core.errors import FetchError
from twinlens.core.hashing import hash_file
from twinlens.core.progress import Progress
from twinlens.core.resources import ensure_room, name_disk_fault

log = logging.getLogger("twinlens")

CHUNK = 1 << 16  # at most this much of what came is lost when a connection breaks
TIMEOUT_S = (10, 60)  # to connect, and between two pieces
ATTEMPTS = 5
FIRST_WAIT_S = 1.0  # doubled after each attempt
OFFLINE = ("TWINLENS_OFFLINE", "HF_HUB_OFFLINE")
MAX_DIGITS = 20  # of a length; more are more than any disk has
RETRIED = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class RemoteFile:
    """A file to download: its name, and what its publisher says of it."""

    name: str
    size: int | None = None
    sha256: str | None = None  # all of its digits, or the first ones, which is what some publishers tell


def is_url(source: str) -> bool:
    """Whether a `source` of a card is an address rather than a folder."""
    return urlsplit(source).scheme in ("http", "https")


def is_offline() -> bool:
    """Whether the environment forbids any request: TWINLENS_OFFLINE, or the hub client's HF_HUB_OFFLINE."""
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE)


def download(wanted: RemoteFile, url: str, folder: Path, *, advice: str = "") -> Path:
    """Fetch one file into `folder`, or find it there already.

    Args:
        wanted: name, and size and SHA-256 where they are known; both are checked.
        url: where it is.
        folder: where it goes.
        advice: the ways on, for the message when it cannot be had.

    Raises:
        FetchError: the host cannot be reached, refuses, or sends something else; what was already
            fetched stays for the next attempt.
        ResourceError: the disk has no room for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / wanted.name
    with only_one(folder / f".{wanted.name}.lock", "fetching"):
        if final.exists():
            if wanted.size is None or final.stat().st_size == wanted.size:
                return final
            log.warning("%s has %d bytes, not %d: fetching it again", final, final.stat().st_size, wanted.size)
            final.unlink()
        if is_offline():
            raise FetchError(f"offline, and {wanted.name} is not here: place it into {folder}, from {url}.{advice}")
        part = folder / f"{wanted.name}.part"
        try:
            _fetch_with_patience(wanted, url, part)
        except (requests.RequestException, OSError) as error:
            raise FetchError(f"{wanted.name} could not be had from {url}: {_short(error)}.{advice}") from None
        if wanted.sha256:
            found = hash_file(part)
            if not found.startswith(wanted.sha256):
                part.unlink()
                raise FetchError(
                    f"{url} has SHA-256 {found}, expected {wanted.sha256}: it is another file, or was damaged on "
                    f"the way; the copy was removed.{advice}"
                )
        part.replace(final)
        return final


def _fetch_with_patience(wanted: RemoteFile, url: str, part: Path) -> None:
    wait = FIRST_WAIT_S
    for attempt in range(1, ATTEMPTS + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch_rest(wanted, url, part)
            return
        except (requests.ConnectionError, requests.Timeout, _Interrupted) as error:
            gained = (part.stat().st_size if part.exists() else 0) > before
            if attempt == ATTEMPTS:
                raise
            log.warning("%s: %s; attempt %d of %d in %.0f s", wanted.name, _short(error), attempt + 1, ATTEMPTS, wait)
            time.sleep(wait)
            wait = FIRST_WAIT_S if gained else wait * 2


class _Interrupted(requests.RequestException):
    """The answer ended early or asked to come back later."""


def _fetch_rest(wanted: RemoteFile, url: str, part: Path) -> None:
    """One request: the whole file, or what `part` lacks of it."""
    have = part.stat().st_size if part.exists() else 0
    if wanted.size is not None and have == wanted.size:
        return
    if wanted.size is not None and have > wanted.size:
        part.unlink()
        have = 0
    stamp = part.with_name(f"{part.name}.etag")
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if stamp.exists():
            headers["If-Range"] = stamp.read_text()
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        if answer.status_code in RETRIED:
            raise _Interrupted(f"the host answered {answer.status_code} {answer.reason}")
        etag = answer.headers.get("ETag")
        if answer.status_code == 416 or (answer.status_code == 206 and etag != headers.get("If-Range", etag)):
            part.unlink()
            raise _Interrupted("what was fetched before is no part of the file that the host has now")
        answer.raise_for_status()
        if answer.status_code != 206:
            have = 0  # the host sends the whole file
        if "text/html" in answer.headers.get("Content-Type", "") and not wanted.name.endswith((".html", ".htm")):
            raise requests.RequestException("the host sent a web page instead of the file")
        total = _expected_size(wanted, answer, have)
        ensure_room(part, (total or 0) - have)
        if etag:
            stamp.write_text(etag)
        _save(answer, part, have, total, wanted.name)
    stamp.unlink(missing_ok=True)


def _expected_size(wanted: RemoteFile, answer: requests.Response, have: int) -> int | None:
    length = answer.headers.get("Content-Length", "").strip()
    if length and not (length.isascii() and length.isdigit()):
        raise requests.RequestException(f"the host says Content-Length: {length[:40]!r}, which is no number of bytes")
    total = have + int(length[:MAX_DIGITS]) if length else None
    if wanted.size is not None and total is not None and total != wanted.size:
        raise requests.RequestException(f"the host offers {total:,} bytes, expected {wanted.size:,}: another file")
    return wanted.size if wanted.size is not None else total


def _save(answer: requests.Response, part: Path, have: int, total: int | None, name: str) -> None:
    broken = False
    with (
        part.open("ab" if have else "wb") as file,
        Progress(name, total=total or 0, unit="B", done=have, scale=True) as bar,
    ):
        try:
            for chunk in answer.iter_content(CHUNK):
                with name_disk_fault(part):
                    file.write(chunk)
                bar.add(len(chunk))
        except requests.exceptions.ChunkedEncodingError:  # so requests calls any answer that ends early
            broken = True
    size = part.stat().st_size
    if broken or (total is not None and size != total):
        known = "" if total is None else f" of {total:,}"
        raise _Interrupted(f"the connection ended after {size:,}{known} bytes")


@contextmanager
def only_one(lock: Path, doing: str) -> Iterator[None]:
    """Let one process at a time do something, `doing` for the log; others wait. The lock is `.<name>.lock`."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is %s %s; waiting for it", doing, lock.name[1:].removesuffix(".lock"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _short(error: BaseException) -> str:
    """An error's message without the nesting that HTTP libraries put around it."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return re.sub(r"^(<.*?>|HTTPS?Connection(Pool)?\(.*?\)): ", "", str(reason or error))
