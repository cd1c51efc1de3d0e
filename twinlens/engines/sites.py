"""Sites: what a worker's surroundings are, and whether they give the results that the driver's would."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from twinlens.core.code import PACKAGE

# Their versions are in the keys of kept parts. A worker with others would make parts that belong under other keys.
LIBRARIES = (
    *("torch", "torchvision", "transformers", "tokenizers", "open_clip_torch", "timm", "sentence-transformers"),
    *("numpy", "polars", "pyarrow", "pillow", "simplejpeg", "ray"),
)


@dataclass(frozen=True)
class Site:
    """The surroundings of a worker."""

    node: str  # its address
    versions: dict[str, str]  # of Python, of libraries, and the digest of the project's code
    placement: str = ""  # `Placement.name`
    machine: str = ""
    cores: int = 1  # that this worker may use

    def tell_differences(self, other: Site) -> str:
        """Tell what is another version here than there, as `name 1 (2 there)`; empty where all are the same."""
        names = [name for name in self.versions if self.versions[name] != other.versions.get(name)]
        return ", ".join(f"{name} {self.versions[name]} ({other.versions.get(name)} there)" for name in names)


def list_versions() -> dict[str, str]:
    """List the versions of all that can decide a result."""
    found = {"Python": platform.python_version(), "twinlens": digest_package()}
    return found | {name: _find_version(name) for name in LIBRARIES}


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


@cache
def digest_package() -> str:
    """Digest the project's code, as a short name for its version."""
    found = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        found.update(file.relative_to(PACKAGE).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:12]


@dataclass(frozen=True)
class Sight:
    """A file or folder as the driver sees it, which all workers have to see."""

    path: str
    seen: str  # its size, or a digest of what a folder holds


def see(paths: Iterable[Path]) -> tuple[Sight, ...]:
    """See files and folders as they are here."""
    return tuple(Sight(str(path.absolute()), _look(path)) for path in paths)


def list_unseen(sights: Sequence[Sight]) -> list[str]:
    """List the paths that are not here what they are in the driver's eyes."""
    return [sight.path for sight in sights if _look(Path(sight.path)) != sight.seen]


def _look(path: Path) -> str:
    if path.is_file():
        return str(path.stat().st_size)
    if not path.is_dir():
        return ""
    # Names and sizes at the top, without hidden files: parts that are being written come and go.
    held = sorted((one.name, one.stat().st_size if one.is_file() else -1) for one in path.iterdir() if _stays(one))
    return hashlib.sha256(repr(held).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _stays(path: Path) -> bool:
    return not path.name.startswith(".")
