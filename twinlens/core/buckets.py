"""Files of a bucket: S3, what speaks its language, and any other store that fsspec knows by the URL's first word.

fsspec and s3fs rather than boto3 or Arrow's filesystems: they are what DVC's own remote brings, one interface serves
all stores, and an object can be made only where there is none, which a lock needs and Arrow's cannot.

A store that is busy or cannot be reached for a while (500, 503, a connection that breaks) is asked again for
`PATIENCE_S`, which is said once. What it refuses, or has not, is told at once. Credentials are found as every tool of
the store finds them (environment, profile, role); none of them stands in a message.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from twinlens.core.bucket_faults import explain_refusal, find_code, name_endpoint, passes, say_once, shorten
from twinlens.core.errors import BucketError, ParamsError, require_extra, suggest_nearest

PATIENCE_S = 120.0  # so long is asked again
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0  # doubled after each attempt; between half and all of it is waited
MISSED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}  # of a conditional put
S3 = ("s3", "s3a")
OTHERS = ("file", "http", "https", "hf")  # whose URLs name a folder, and what is fetched

T = TypeVar("T")


def is_bucket(location: str) -> bool:
    """Whether a place is named by a URL of a store rather than as a folder or an address on the web."""
    return "://" in location and urlsplit(location).scheme not in OTHERS


@dataclass(frozen=True)
class StoredObject:
    """An object as a bucket lists it."""

    name: str  # below the bucket's URL
    size: int  # bytes
    etag: str  # changes with the content; of an object that was put at once to S3 its MD5
    modified: float  # seconds since 1970, by the store's clock


@dataclass(frozen=True)
class Bucket:
    """The objects below a URL such as `s3://bucket/folder`; can be pickled.

    Every method raises `BucketError` where the store refuses, has no such bucket, or does not answer.

    Args:
        url: of the bucket, or of a folder in it.
        patience_s: for so long a store that does not answer is asked again; None: `PATIENCE_S`.
    """

    url: str
    patience_s: float | None = None

    def __post_init__(self) -> None:
        refuse_bad_url(self.url)
        refuse_unknown_store(self.url)

    @property
    def _patience_s(self) -> float:
        return PATIENCE_S if self.patience_s is None else self.patience_s

    @property
    def _is_s3(self) -> bool:
        return urlsplit(self.url).scheme in S3

    def list_objects(self, prefix: str = "") -> list[StoredObject]:
        """List the objects whose names begin with a prefix that ends at a slash (or is empty), by name."""
        root = self._path("")
        base = self._path(prefix).rstrip("/")
        found = self._ask("list", prefix, lambda fs: fs.find(base, detail=True), missing=dict)
        objects = (_describe(info, name.removeprefix(f"{root}/")) for name, info in found.items())
        return sorted((one for one in objects if not one.name.endswith("/")), key=lambda one: one.name)

    def list_folders(self, prefix: str = "") -> list[str]:
        """List the names up to the next slash, of which there may be many objects."""
        root = self._path("")
        found = self._ask("list", prefix, lambda fs: fs.ls(self._path(prefix).rstrip("/"), detail=True), missing=list)
        return sorted(
            info["name"].rstrip("/").removeprefix(f"{root}/") for info in found if info["type"] == "directory"
        )

    def describe(self, name: str) -> StoredObject | None:
        """Describe an object; None where there is none."""
        info = self._ask("describe", name, lambda fs: fs.info(self._path(name)), missing=lambda: None)
        return None if info is None or info["type"] != "file" else _describe(info, name)

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes | None:
        """Read an object, or some of its bytes, fewer where it ends before; None where there is none."""
        alone = {"max_concurrency": 1} if self._is_s3 else {}  # else it asks for the size first

        def read(fs: Any) -> bytes | None:
            try:
                content: bytes = fs.cat_file(self._path(name), start=start, end=stop, **alone)
            except OSError as error:
                if find_code(error) == "InvalidRange":
                    return b""
                raise
            return content

        return self._ask("read", name, read, missing=lambda: None)

    def fetch(self, name: str, file: Path) -> bool:
        """Fetch an object into a file; whether there is one."""

        def fetch(fs: Any) -> bool:
            fs.get_file(self._path(name), str(file))
            return True

        return bool(self._ask("read", name, fetch, missing=lambda: False))

    def put(self, file: Path, name: str) -> None:
        """Put a file, which appears whole or not at all: in pieces where it is large, which are dropped on a fault."""
        self._ask("put", name, lambda fs: fs.put_file(str(file), self._path(name)))

    def write(self, name: str, content: bytes) -> None:
        """Put a few bytes."""
        self._ask("put", name, lambda fs: fs.pipe_file(self._path(name), content))

    def create(self, name: str, content: bytes) -> bool:
        """Put a few bytes where there is no such object yet; whether that was so."""
        return self._put_if(name, lambda fs: fs.pipe_file(self._path(name), content, mode="create"))

    def replace(self, name: str, content: bytes, etag: str) -> bool:
        """Put a few bytes in place of an object that still has an etag; whether that was so."""
        if self._is_s3:
            return self._put_if(name, lambda fs: fs.pipe_file(self._path(name), content, IfMatch=etag))
        found = self.describe(name)  # other stores have no such put in common; what is kept bears that
        if found is None or found.etag != etag:
            return False
        self.write(name, content)
        return True

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are none."""
        paths = [self._path(name) for name in names]
        if paths:
            self._ask("remove", "", lambda fs: fs.rm(paths), missing=lambda: None)

    def _path(self, name: str) -> str:
        parts = urlsplit(self.url)
        return "/".join(part for part in (parts.netloc + parts.path.rstrip("/"), name) if part)

    def _put_if(self, name: str, put: Callable[[Any], Any]) -> bool:
        def attempt(fs: Any) -> bool:
            try:
                put(fs)
            except Exception as error:
                if isinstance(error, FileExistsError) or find_code(error) in MISSED:
                    return False
                raise
            return True

        return self._ask("put", name, attempt)

    def _ask(self, what: str, name: str, call: Callable[[Any], T], missing: Callable[[], T] | None = None) -> T:
        """Ask the store, again and again while it is only busy; `missing` answers where there is no such object."""
        until, wait, patience_s = 0.0, FIRST_WAIT_S, self._patience_s
        while True:
            try:
                return call(_open(urlsplit(self.url).scheme, os.getpid(), os.environ.get("AWS_ENDPOINT_URL")))
            except FileNotFoundError as error:
                if missing is not None and find_code(error) != "NoSuchBucket":
                    return missing()
                raise BucketError(self._explain(error, what, name)) from None
            except Exception as error:
                if not passes(error):
                    if (told := explain_refusal(error)) is None:
                        raise
                    raise BucketError(self._explain(error, what, name, told)) from None
                now = time.monotonic()
                until = until or now + patience_s
                if now >= until:
                    raise BucketError(self._explain(error, what, name)) from None
                say_once(self._place(name), error, patience_s)
            time.sleep(wait * random.uniform(0.5, 1))
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _place(self, name: str) -> str:
        return "/".join(part for part in (self.url.rstrip("/"), name) if part)

    def _explain(self, error: Exception, what: str, name: str, told: str = "") -> str:
        call = getattr(error.__cause__, "operation_name", what)
        if not told and isinstance(error, FileNotFoundError):
            code = find_code(error)
            bucket = urlsplit(self.url).netloc
            told = f"there is no bucket {bucket}" if code == "NoSuchBucket" else "there is no such object"
            told += f" at {name_endpoint()}: make it, or mend the URL"
        elif not told:
            told = (
                f"the store did not answer for {self._patience_s:.0f} s (last: {shorten(error)}). It is asked at "
                f"{name_endpoint()} (AWS_ENDPOINT_URL). Run again when it does: what was finished is kept"
            )
        return f"{self._place(name)} ({call}): {told}"


def refuse_bad_url(url: str) -> None:
    """Refuse a URL that names no bucket, or that holds credentials; asks for no library, as settings are read often.

    Raises:
        ParamsError: it is such a one.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ParamsError(
            f"{parts.scheme}://…@{parts.netloc.rpartition('@')[2]}: a URL with credentials, which would stand in logs. "
            "Take them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if not parts.netloc:
        raise ParamsError(f"{url}: names no bucket; wanted one such as s3://bucket/folder")


def refuse_unknown_store(url: str) -> None:
    """Refuse a URL whose store is not known, or whose library is not installed.

    Raises:
        ParamsError: the store is not known.
        ExtraError: the library of S3 is not installed.
    """
    _find_class(urlsplit(url).scheme)


@lru_cache
def _find_class(scheme: str) -> Any:
    with require_extra("s3", f"{scheme}://"):
        import fsspec
    if scheme in S3:
        with require_extra("s3", f"{scheme}://"):
            import s3fs  # noqa: F401
    try:
        return fsspec.get_filesystem_class(scheme)
    except ValueError:
        raise ParamsError(
            f"{scheme}:// is no store that is known here ({suggest_nearest(scheme, fsspec.available_protocols())})"
        ) from None
    except ImportError as error:
        raise ParamsError(f"{scheme}://: {error} (pip)") from None


@lru_cache
def _open(scheme: str, process: int, endpoint: str | None) -> Any:
    """The store's filesystem, one a process, as connections do not outlive a fork; it is asked once a call here."""
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme in S3:
        options["config_kwargs"] = {"retries": {"total_max_attempts": 1}, "max_pool_connections": 64}
    filesystem = _find_class(scheme)(**options)
    if scheme in S3:
        filesystem.retries = 1
    return filesystem


def _describe(info: dict[str, Any], name: str) -> StoredObject:
    modified = info.get("LastModified") or info.get("mtime") or info.get("updated") or info.get("created") or 0.0
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or f"{info['size']}-{modified}"
    seconds = modified.timestamp() if hasattr(modified, "timestamp") else 0.0
    return StoredObject(name, int(info["size"]), str(etag).strip('"'), seconds)
