"""Names of files as people and systems spell them: which is meant, which leads out, which is a picture's."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import PurePosixPath
from urllib.parse import unquote

from twinlens.core.bucket_files import AnyFile
from twinlens.core.errors import FetchError
from twinlens.datasets.adapters.base import MISSING
from twinlens.datasets.spelling import strip_blanks

# What PIL opens of the formats in `images/decode.py`, as it registers their endings.
PICTURES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".avifs", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
)
# What lies beside pictures and is none: passed over without a word.
OTHERS = (
    ".txt .md .rst .html .htm .csv .tsv .json .jsonl .xml .yaml .yml .toml .ini .cfg .db .sqlite .parquet .arrow .npy "
    ".npz .pkl .pt .h5 .hdf5 .mat .xls .xlsx .pdf .doc .docx .zip .tar .gz .tgz .bz2 .xz .7z .rar .log .lock .dvc .py "
    ".ipynb .sh .url .lnk .nfo .sha256 .md5"
)
# Folders of systems: of macOS' zips, Synology's thumbnails, Windows' waste.
SYSTEMS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")


def unquote_address(name: str) -> str:
    """The path that a file's address (`file:///photos/my%20dog.jpg`) stands for; any other name as it is."""
    bare = name.strip()
    return unquote(bare.removeprefix("file://localhost").removeprefix("file://")) if bare.startswith("file:") else name


def normalise(name: str) -> str:
    """Spell a name one way: composed characters, slashes that lean forward, no blanks at its ends, no `./`, no `//`."""
    spelt = strip_blanks(unicodedata.normalize("NFC", name.replace("\\", "/")))
    root = "/" if spelt.startswith("/") else ""
    return root + "/".join(part for part in spelt.split("/") if part not in ("", "."))


def leads_out(name: str) -> bool:
    """Whether a name would end outside the folder it is taken to lie in."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return ".." in parts or name.startswith(("/", "\\")) or (len(name) > 1 and name[1] == ":")


def refuse_outside(path: AnyFile, names: Iterable[str]) -> None:
    """Refuse an archive that holds a name that leads out of it.

    Raises:
        FetchError: it does.
    """
    if outside := [name for name in names if leads_out(name)]:
        raise FetchError(
            f"{path} holds {len(outside)} name(s) that lead out of it, the first is {outside[0]!r}: refused whole. "
            "Fetch the archive from its publisher, or pack it anew"
        )


def is_hidden(name: str) -> bool:
    """Whether a name, or a folder of it, is one that systems hide (`._x.jpg` of macOS) or keep for themselves."""
    return any(part.startswith(".") or part in SYSTEMS for part in PurePosixPath(name).parts)


def is_picture(name: str) -> bool:
    """Whether a name ends as those of pictures that can be opened; hidden files are none."""
    return name.lower().endswith(PICTURES) and not is_hidden(name)


def may_be_picture(name: str) -> bool:
    """Whether a name is neither a picture's that can be opened nor one that is plainly something else."""
    ending = PurePosixPath(name).suffix.lower()
    return not is_picture(name) and not is_hidden(name) and (not ending or ending not in OTHERS.split(" "))


def explain_ending(name: str) -> str:
    """Explain why a file that may be a picture is passed over, and the way on."""
    ending = PurePosixPath(name).suffix
    found = f"its name ends in {ending}" if ending else "its name has no ending"
    return (
        f"{found}; opened is what ends in {', '.join(PICTURES)}. If it is one of these, rename it; if not, convert it"
    )


class Known:
    """Names that are there, found again by other spellings of them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._exact = frozenset(self._names)

    def find(self, name: str) -> str | None:
        """Find the name as it is spelt here; None where it is not there, or two could be meant."""
        if name in self._exact:
            return name
        spelt = normalise(name)
        found = self._spelt.get(spelt) or (self._spelt.get(normalise(unquote(spelt)), []) if "%" in spelt else [])
        return found[0] if len(found) == 1 else None

    def explain(self, name: str) -> str:
        """Explain why a name is not found, with the nearest that is there: by all of it, by its last part, its stem."""
        wanted = normalise(name)
        if len(same := self._spelt.get(wanted, [])) > 1:
            return f"{MISSING} in this spelling; {same[0]!r} and {same[1]!r} could both be meant"
        if near := self._folded.get(wanted.casefold()):
            return f"{MISSING}; there is {near[0]}, whose name differs in case"
        last = PurePosixPath(wanted).name.casefold()
        for near in (self._lasts.get(last), self._stems.get(PurePosixPath(last).stem)):
            if near:
                return f"{MISSING}; there is {near[0]}" + (f", and {len(near) - 1} more" if len(near) > 1 else "")
        return MISSING

    @cached_property
    def _spelt(self) -> dict[str, list[str]]:
        return _grouped(self._names, normalise)

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        return _grouped(self._names, lambda name: normalise(name).casefold())

    @cached_property
    def _lasts(self) -> dict[str, list[str]]:
        return _grouped(self._names, lambda name: PurePosixPath(normalise(name)).name.casefold())

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        return _grouped(
            (name for name in self._names if is_picture(name) or may_be_picture(name)),
            lambda name: PurePosixPath(normalise(name)).stem.casefold(),
        )


def _grouped(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return found
