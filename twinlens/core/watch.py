"""State of a dataset's own files on this machine by what is quick to see: names, sizes and times of change."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twinlens.core import paths
from twinlens.core.bucket_files import BucketFolder
from twinlens.core.buckets import Bucket, is_bucket
from twinlens.core.errors import BucketError
from twinlens.core.scratch import digest, write_whole_text

log = logging.getLogger("twinlens")


def describe_state(places: list[str]) -> dict[str, Any] | None:
    """Describe the files of some places: any that comes, goes, grows, shrinks or is written changes the digest.

    100,000 files take some seconds at the first look and under one later. Bytes are not read.

    Returns:
        What is there, by place; None where one of the places is not there.

    Raises:
        FetchError: a variable in a place is not set.
    """
    found: dict[str, Any] = {}
    for place in places:
        if is_bucket(place):
            if (state := _describe_bucket(place)) is None:
                return None
            found[place] = state
            continue
        path = paths.expand(place)
        if not path.exists():
            return None
        files = sorted(_walk(path, path.name, frozenset()))
        told = hashlib.sha256(
            "".join(f"{name}\0{size}\0{time}\n" for name, size, time in files).encode("utf-8", "surrogateescape")
        )
        found[place] = {"files": len(files), "bytes": sum(size for _, size, _ in files), "digest": told.hexdigest()}
    return found


def _describe_bucket(place: str) -> dict[str, Any] | None:
    """The state of the files of a bucket, whose etags tell what times do elsewhere; None where it may not be seen."""
    url, _, name = place.rstrip("/").rpartition("/")
    try:
        single = Bucket(url).describe(name) if "://" in url and not url.endswith("/") else None
        objects = BucketFolder(place).objects if single is None else {name: single}
    except BucketError as error:
        log.warning("%s", error)
        return None
    told = digest(text for name, one in sorted(objects.items()) for text in (name, str(one.size), one.etag))
    size = sum(one.size for one in objects.values())
    return {"files": len(objects), "bytes": size, "digest": told} if objects else None


def write_state(state: dict[str, Any] | None, file: Path) -> None:
    """Write a state; where there is none, the one written before stays: elsewhere there are no such files."""
    if state is None and file.exists():
        return
    write_whole_text(file, json.dumps(state or {}, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _walk(path: Path, name: str, above: frozenset[str]) -> Iterator[tuple[str, int, int]]:
    """Name, size in bytes and time in nanoseconds of every file, through links but not round and round."""
    if path.is_file():
        stat = path.stat()
        yield name, stat.st_size, stat.st_mtime_ns
        return
    own = os.path.realpath(path)
    if own in above:
        return
    with os.scandir(path) as entries:
        for entry in list(entries):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(path / entry.name, f"{name}/{entry.name}", above | {own})
            elif entry.is_file():
                stat = entry.stat()
                yield f"{name}/{entry.name}", stat.st_size, stat.st_mtime_ns
