"""Dataset files: in a folder, on a mirror, at the publisher's or on the hub; noted in a manifest and checked again.

Large files stay where they are (a folder of yours, or the download cache): the `download` stage
leaves a manifest with their sizes and digests, so what later stages read is what was recorded.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from twinlens.core import paths
from twinlens.core.bucket_files import BucketFile, BucketFolder, Place, fetch_object
from twinlens.core.buckets import is_bucket
from twinlens.core.download import RemoteFile, download, is_offline, is_url
from twinlens.core.errors import DataError, FetchError, remake
from twinlens.core.hashing import hash_file, recall_digest
from twinlens.core.hub import fetch_hub_folder
from twinlens.core.scratch import digest, write_whole
from twinlens.datasets.readers.archives import open_tree

log = logging.getLogger("twinlens")

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")


@dataclass(frozen=True)
class HubRepository:
    """A repository of datasets."""

    repository: str
    revision: str | None


class Files:
    """The named files of one dataset."""

    def __init__(
        self,
        dataset: str,
        wanted: Sequence[RemoteFile],
        source: str | None,
        publisher: Mapping[str, str] | HubRepository,
        *,
        verify: bool = True,
    ) -> None:
        """Take the names of the files and the places to look for them.

        Args:
            dataset: the adapter's name, for the download cache and messages.
            wanted: the files.
            source: a folder or a mirror; the publisher if absent.
            publisher: an address for each file, or a hub repository.
            verify: whether files from elsewhere must be those that the publisher ships.
        """
        self.dataset, self.wanted, self.source, self.publisher, self.verify = (
            dataset,
            list(wanted),
            source,
            publisher,
            verify,
        )

    def record(self, raw: Path, **facts: Any) -> int:
        """Fetch or find every file, check it, and write the manifest; returns the number of files.

        Raises:
            FetchError: a file cannot be had, is no whole archive, or is not the published one.
        """
        files = []
        found = self.find_all()
        for wanted, path in zip(self.wanted, found, strict=True):
            if path.name.endswith(ARCHIVES):
                open_tree(path).close()
            files.append(self._described(wanted, path))
        with write_whole(raw) as draft:
            (draft / "manifest.json").write_text(json.dumps(facts | {"files": files}, indent=2) + "\n")
        return len(files)

    def path(self, raw: Path, name: str) -> Path:
        """Path of a file: fetched again if it has gone, refused if it is no longer the one recorded.

        Raises:
            FetchError: it cannot be had.
            DataError: it is another file now.
        """
        recorded = {file["file"]: file for file in read_manifest(raw)}
        wanted = next(wanted for wanted in self.wanted if wanted.name == name)
        path = self._find(wanted)
        size = path.stat().st_size
        if name not in recorded or recorded[name]["bytes"] != size:
            raise DataError(f"{path} ({size:,} bytes) is not the file that was recorded: `dvc repro -f download`")
        return path

    def find_all(self) -> list[Path]:
        """Find every file; where some are not there and cannot be fetched, one error names all of them."""
        if folder := self._folder():
            missing = [folder / wanted.name for wanted in self.wanted if not (folder / wanted.name).is_file()]
            if missing:
                names = ", ".join(wanted.name for wanted in self.wanted)
                are = "is" if len(missing) == 1 else "are"
                raise FetchError(
                    f"{', '.join(map(str, missing))} {are} not there. "
                    f"The dataset's card names the folder; it must hold {names}"
                )
        elif is_offline():
            self._refuse_offline()
        return [self._find(wanted) for wanted in self.wanted]

    def _folder(self) -> Path | None:
        elsewhere = self.source is None or is_url(self.source) or is_bucket(self.source)
        return None if elsewhere else paths.expand(str(self.source))

    def _find(self, wanted: RemoteFile) -> Path:
        if folder := self._folder():
            path = folder / wanted.name
            if not path.is_file():
                names = ", ".join(file.name for file in self.wanted)
                raise FetchError(f"{path} is not there. The dataset's card names the folder; it must hold {names}")
            return path
        if self.source is None and isinstance(self.publisher, HubRepository):
            patterns = [file.name for file in self.wanted]
            folder = fetch_hub_folder(self.publisher.repository, self.publisher.revision, patterns, "dataset")
            if not (folder / wanted.name).is_file():
                raise FetchError(f"the hub's {self.publisher.repository} holds no {wanted.name} at this revision")
            return folder / wanted.name
        if self.source is not None and is_bucket(self.source):
            return fetch_object(f"{self.source.rstrip('/')}/{wanted.name}")
        if self.source is not None:
            url = f"{self.source.rstrip('/')}/{wanted.name}"
        else:
            assert not isinstance(self.publisher, HubRepository)
            url = self.publisher[wanted.name]
        if not self.verify:
            wanted = RemoteFile(wanted.name)
        return download(wanted, url, self._downloads(), advice=self._ways_on())

    def _described(self, wanted: RemoteFile, path: Path) -> dict[str, Any]:
        found = recall_digest(path)
        described: dict[str, Any] = {"file": wanted.name, "bytes": path.stat().st_size, "sha256": found}
        if wanted.sha256 is None:
            return described
        if found != wanted.sha256:
            if self.verify:
                raise FetchError(
                    f"{path} has SHA-256 {found}, the published archive {wanted.sha256}. If it is a subset of "
                    "your own, say so on the card with `verify: false`; if not, fetch it again"
                )
            log.warning("%s is not the published archive: %s bytes", path, f"{path.stat().st_size:,}")
        return described | {"as_published": found == wanted.sha256}

    def _downloads(self) -> Path:
        source = self.source
        return paths.downloads() / (self.dataset if source is None else f"{self.dataset}-{digest([source])[:8]}")

    def _refuse_offline(self) -> None:
        if self.source is None and isinstance(self.publisher, HubRepository):
            return  # the hub's own client knows its cache, and its message names the way on
        absent = [w for w in self.wanted if not (self._downloads() / w.name).is_file()]
        if absent:
            known = [f"{w.name} ({w.size:,} bytes)" if w.size else w.name for w in absent]
            raise FetchError(
                f"offline, and {len(absent)} file(s) of {self.dataset} are not here: {', '.join(known)}. "
                f"Place them into {self._downloads()}, or into any folder that `source` on the dataset's card names"
            )

    def _ways_on(self) -> str:
        names = ", ".join(file.name for file in self.wanted)
        return (
            f" Two ways on: put {names} into a folder and name it, or name a mirror that serves them, as `source` "
            f"on the dataset's card, for example `-S cards/datasets/{self.dataset}.yaml:source=/data/{self.dataset}`"
        )


def describe_tree(folder: Place) -> dict[str, Any]:
    """Describe a folder or archive of many files in three numbers: any change of any file changes the digest.

    Of what lies in a bucket, etags stand for the bytes.

    Raises:
        FetchError: it is not there.
    """
    if not isinstance(folder, Path):
        return _describe_stored(folder)
    if folder.is_file():
        return {"file": folder.name, "bytes": folder.stat().st_size, "sha256": recall_digest(folder)}
    tree = open_tree(folder)
    found, size = hashlib.sha256(), 0
    for name in tree.names():
        path = folder / name
        size += path.stat().st_size
        found.update(f"{name}\0{path.stat().st_size}\0{hash_file(path)}\n".encode("utf-8", "surrogateescape"))
    return {"folder": folder.name, "files": len(tree.names()), "bytes": size, "sha256": found.hexdigest()}


def _describe_stored(place: BucketFile | BucketFolder) -> dict[str, Any]:
    if isinstance(place, BucketFile):
        return {"file": place.name, "bytes": place.stat().st_size, "etag": place.etag}
    etags = digest(text for name, one in sorted(place.objects.items()) for text in (name, str(one.size), one.etag))
    return {
        "folder": PurePosixPath(str(place)).name,
        "files": len(place.objects),
        "bytes": sum(one.size for one in place.objects.values()),
        "etags": etags,
    }


def record_trees(raw: Path, places: Mapping[str, Place], **facts: Any) -> int:
    """Write a manifest of folders, archives and tables of your own; returns how many there are.

    Raises:
        FetchError: one is not there.
    """
    if missing := [str(path) for path in places.values() if not path.exists()]:
        raise FetchError(
            f"{', '.join(missing)} not there: the dataset's card names {'it' if len(missing) == 1 else 'them'}"
        )
    files = [{"part": part} | describe_tree(path) for part, path in places.items()]
    with write_whole(raw) as draft:
        (draft / "manifest.json").write_text(json.dumps(facts | {"files": files}, indent=2) + "\n")
    return len(files)


def read_manifest(raw: Path) -> list[dict[str, Any]]:
    """Read the files that `download` recorded.

    Raises:
        DataError: the manifest is not there, or is damaged.
    """
    path = raw / "manifest.json"
    try:
        files: list[dict[str, Any]] = json.loads(path.read_bytes())["files"]
    except FileNotFoundError:
        raise DataError(f"{path} is not here: `dvc repro` makes it, `dvc pull` fetches it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({str(error)[:120]}): {remake('download')}") from None
    return files


def refuse_change(raw: Path, places: Mapping[str, Place]) -> None:
    """Compare folders, archives and tables with the manifest by what is quick to see: sizes, numbers of files, etags.

    Raises:
        FetchError: one is no longer there.
        DataError: one is not what was recorded.
    """
    recorded = {file["part"]: file for file in read_manifest(raw)}
    for part, path in places.items():
        if not path.exists():
            raise FetchError(f"{path} is not there any more: the dataset's card names it")
        if not isinstance(path, Path):
            found: dict[str, Any] = _describe_stored(path)
        elif path.is_dir():
            names = open_tree(path).names()
            found = {"files": len(names), "bytes": sum((path / name).stat().st_size for name in names)}
        else:
            found = {"bytes": path.stat().st_size}
        if part not in recorded or any(recorded[part].get(key) != value for key, value in found.items()):
            now = ", ".join(f"{value:,} {key}" if isinstance(value, int) else value for key, value in found.items())
            raise DataError(f"{path} ({now}) is not what was recorded: `dvc repro -f download`")
