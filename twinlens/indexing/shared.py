"""Tables of the search index in a bucket: put there by whoever builds one, fetched by whoever searches it next.

An index is files that are mapped into memory, which no bucket has; so a machine fetches a table once, compares every
file with its digest, and searches its own copy. LanceDB, which could read its part where it lies, would ask the bucket
anew at each search. Files are named by their digests and the listing is put last: a table is there whole or not at all.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path, PurePosixPath

from twinlens.core.ahead import map_in_order
from twinlens.core.buckets import Bucket, is_bucket
from twinlens.core.errors import DataError
from twinlens.core.hashing import hash_file
from twinlens.core.progress import Progress
from twinlens.core.scratch import Scratch
from twinlens.indexing.manifest import FOLDER, TOWERS, Manifest

log = logging.getLogger("twinlens")

LISTING = "files.json"  # digests by name, of each part of a table
AT_ONCE = 4  # files

Listing = dict[str, dict[str, str]]


def put_table(manifest: Manifest, parts: str | None) -> None:
    """Put a table that is on this machine, and what embeds queries, into the bucket where there is one.

    Args:
        manifest: of the table.
        parts: `compute.parts`.

    Raises:
        BucketError: the store refuses, or does not answer.
    """
    if (bucket := _open(manifest, parts)) is None or bucket.describe(LISTING) is not None:
        return
    there = {name: manifest.folder / name for name in (FOLDER, TOWERS) if (manifest.folder / name).is_dir()}
    files = {name: sorted(file for file in folder.rglob("*") if file.is_file()) for name, folder in there.items()}
    with Progress("put the index", total=sum(map(len, files.values())), unit="file") as bar:

        def put(file: Path) -> str:
            sha256 = hash_file(file)
            bucket.put(file, sha256)
            bar.add(1)
            return sha256

        listing: Listing = {
            name: {
                file.relative_to(there[name]).as_posix(): sha256
                for file, sha256 in zip(mine, map_in_order(put, mine, AT_ONCE), strict=True)
            }
            for name, mine in files.items()
        }
    bucket.write(LISTING, json.dumps(listing, sort_keys=True).encode())


def fetch_table(manifest: Manifest, parts: str | None) -> bool:
    """Fetch a table that is not on this machine; whether there is one in the bucket.

    Args:
        manifest: names it.
        parts: `compute.parts`.

    Raises:
        BucketError: the store refuses, or does not answer.
        DataError: a file is not as it was put.
    """
    if (bucket := _open(manifest, parts)) is None or (content := bucket.read(LISTING)) is None:
        return False
    try:
        listing: Listing = {name: dict(files) for name, files in json.loads(content).items()}
    except (ValueError, AttributeError, TypeError) as error:
        remedy = "remove that folder, and `dvc repro -f index`"
        raise DataError(f"{bucket.url}/{LISTING} is damaged ({error}): {remedy}") from None
    log.info("fetching the index of %s with %s from %s", manifest.dataset, manifest.model, bucket.url)
    with Scratch("index", manifest.key) as scratch:
        for name, files in listing.items():
            if name in (FOLDER, TOWERS) and not scratch.has(name):
                scratch.put(name, lambda folder, files=files: _fetch(bucket, files, folder))  # type: ignore[misc]
    return FOLDER in listing


def _open(manifest: Manifest, parts: str | None) -> Bucket | None:
    return Bucket(f"{parts.rstrip('/')}/index/{manifest.key}") if parts is not None and is_bucket(parts) else None


def _fetch(bucket: Bucket, files: dict[str, str], folder: Path) -> None:
    folder.mkdir()

    def fetch(file: tuple[str, str]) -> None:
        name, sha256 = file
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{bucket.url}/{LISTING} names {name}, which is no file of an index")
        out = folder / path
        out.parent.mkdir(parents=True, exist_ok=True)
        if not bucket.fetch(sha256, out) or hash_file(out) != sha256:
            bucket.remove([LISTING])
            raise DataError(
                f"{bucket.url}/{sha256} ({name}) is not as it was put. The table counts as absent there: "
                "`dvc repro -f index` puts it anew, and here it is built of what lies in data/"
            )
        bar.add(1)

    with Progress("fetch the index", total=len(files), unit="file") as bar:
        for _ in map_in_order(fetch, files.items(), AT_ONCE):
            pass
