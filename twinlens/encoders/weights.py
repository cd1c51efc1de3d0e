"""Where a tower's weights are: in a file or folder the card names, or on the hub at a pinned revision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twinlens import paths
from twinlens.cards import Weights
from twinlens.errors import DataError, FetchError
from twinlens.fetch import sha256_of


def local_checkpoint(card: Weights) -> Path | None:
    """The file or folder that the card names as `checkpoint`, checked; None where it names none.

    Raises:
        FetchError: it is not there.
        DataError: its SHA-256 is not the card's.
    """
    if card.checkpoint is None:
        return None
    path = paths.expand(card.checkpoint)
    if not path.exists():
        raise FetchError(f"checkpoint {card.checkpoint} is not there (looked for {path})")
    if card.sha256 is not None:
        found = sha256_of(path) if path.is_file() else "that of a folder"
        if found != card.sha256:
            raise DataError(f"{path} has SHA-256 {found}, the card says {card.sha256}")
    return path


def hub_folder(repo: str, revision: str | None, patterns: list[str]) -> Path:
    """A local copy of the wanted files of a hub repository, from the cache where they are there.

    Args:
        repo: `owner/name`.
        revision: a commit; without one, whatever the hub serves today.
        patterns: file names, with wildcards.

    Raises:
        FetchError: the hub cannot be reached, has no such repository or wants its terms accepted.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    ways_on = (
        "Two ways on: fetch it elsewhere and name the folder or file as `checkpoint` on the card, "
        "or name a mirror in the environment, HF_ENDPOINT=https://..."
    )
    at = f"{repo} at revision {revision}" if revision else repo
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except GatedRepoError:
        raise FetchError(
            f"{repo} asks for its terms to be accepted: do so at https://huggingface.co/{repo}, then `hf auth login`"
        ) from None
    except LocalEntryNotFoundError:
        raise FetchError(f"{at} is not in the local cache, and the hub cannot be reached. {ways_on}") from None
    except (HfHubHTTPError, OSError) as error:
        raise FetchError(f"{at} could not be had from the hub: {str(error).splitlines()[0]}. {ways_on}") from None


def identity(path: Path) -> dict[str, Any]:
    """What identifies weights wherever they lie: the commit of a hub copy, the SHA-256 of anything else."""
    if "snapshots" in path.parts:  # the hub's cache: .../snapshots/<commit>/<file>
        at = path.parts.index("snapshots") + 1
        return {"commit": path.parts[at], "file": "/".join(path.parts[at + 1 :])}
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {"sha256": {file.relative_to(path.parent).as_posix(): sha256_of(file) for file in files}}
