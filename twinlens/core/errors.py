"""Errors that a user can mend: they end a stage with one readable message and no traceback."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

LISTED = 8  # as many names are all told
NEAREST = 5  # of more
GO_TO_ROOT = "run from the root of the repository, the folder with params.yaml and dvc.yaml"


class TwinLensError(Exception):
    """Something in the parameters, the data or the surroundings is wrong; the message says what to do."""


class ParamsError(TwinLensError):
    """params.yaml or a card holds something it should not."""


class DataError(TwinLensError):
    """A table, picture or vector is not what it should be."""


class ResourceError(TwinLensError):
    """The machine has too little memory or disk space for what is asked; the message says what to lower or free."""


class ClusterError(TwinLensError):
    """A cluster cannot do the work as it is, or a part of the work failed there again and again."""


class FetchError(TwinLensError):
    """A file could not be had from where it was asked for."""


class BucketError(FetchError):
    """A bucket does not do what is asked: it refuses, is not there, or does not answer; the message says which."""


class QueryError(TwinLensError):
    """A search asks for something that cannot be searched for; the message says what can."""


class ExtraError(TwinLensError):
    """A library is not installed that only some uses need; the message has the command that brings it."""


def remake(stage: str) -> str:
    """Phrase how a damaged output is made again: DVC takes a file for unchanged that only the disk changed.

    Without `-f` it would find nothing to do, and without `-s` begin with the download.
    """
    return f"`dvc repro -f -s {stage}` makes it again, and `dvc repro` what follows"


@contextmanager
def require_extra(extra: str, use: str) -> Iterator[None]:
    """Guard the import of what an extra brings: where it is not installed, one message names the extra.

    Args:
        extra: a key of `optional-dependencies` in pyproject.toml.
        use: what needs it, as the subject of "needs".

    Raises:
        ExtraError: a library cannot be found that is none of ours.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "twinlens").partition(".")[0]
        if library == "twinlens":
            raise  # a defect
        raise ExtraError(
            f"{use} needs the library '{library}', which is not installed: pip install 'twinlens[{extra}]'"
        ) from None


def suggest_nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the right name for a wrong one, as a phrase for the end of a message."""
    names = sorted(known)
    close = get_close_matches(name, names, n=NEAREST, cutoff=0.5)
    if len(names) <= LISTED:
        listed = f"known: {', '.join(names)}"
    elif close:
        listed = f"nearest of {len(names):,}: {', '.join(close)}"
    else:
        listed = f"known: {', '.join(names[:NEAREST])} and {len(names) - NEAREST:,} more"
    return f"did you mean '{close[0]}'? {listed[0].upper()}{listed[1:]}" if close else listed
