"""Files of the Hugging Face hub, through its own client: at a pinned revision, with one clear error.

The client keeps what it fetched in its own cache, resumes, and sends the token of `hf auth login`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from twinlens.core.download import is_offline
from twinlens.core.errors import FetchError

RepoType = Literal["model", "dataset"]
ANSWERS_IN_S = 10.0  # or counts as out of reach
WAYS_ON = {
    "model": "fetch it elsewhere and name the folder or file as `checkpoint` on the card",
    "dataset": "put {files} into a folder and name it as `source` on the card",
}


def fetch_hub_folder(
    repo: str,
    revision: str | None,
    patterns: Sequence[str],
    repo_type: RepoType = "model",
    answers_in_s: float | None = None,
) -> Path:
    """Fetch the wanted files of a hub repository into a local folder, from the cache where they are there.

    Args:
        repo: `owner/name`.
        revision: a commit; without one, whatever the hub serves today.
        patterns: file names, with wildcards.
        repo_type: of which kind the repository is.
        answers_in_s: how long the hub may take to answer at all before it counts as out of reach.

    Raises:
        FetchError: the hub cannot be reached, has no such repository or wants its terms accepted.
    """
    from huggingface_hub import snapshot_download

    answer = ask(repo, revision, repo_type, answers_in_s or ANSWERS_IN_S)
    refusal = answer if isinstance(answer, Exception) else None
    if refusal is None and repo_type == "dataset":
        _check_room(answer, repo, patterns)
    try:
        found = snapshot_download(
            repo,
            repo_type=repo_type,
            revision=revision,
            allow_patterns=list(patterns),
            local_files_only=refusal is not None,
        )
    except Exception as error:  # of the hub's client, of the HTTP library below it, or of the disk
        raise FetchError(
            explain_error(refusal or error, repo, revision, repo_type, reached=refusal is None, files=patterns)
        ) from None
    return Path(found)


def ask(repo: str, revision: str | None, repo_type: RepoType, answers_in_s: float = ANSWERS_IN_S) -> Any:
    """Ask the hub for its record of a repository; None where it is busy, an error where it refuses.

    Asked once and with a limit, because `snapshot_download` asks six times with pauses (23 seconds where
    connections are refused) and without one (no end was seen where packets are dropped).
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if is_offline():
        return FetchError("offline, as the environment says")
    try:
        sizes = repo_type == "dataset"
        return HfApi().repo_info(
            repo, repo_type=repo_type, revision=revision, timeout=answers_in_s, files_metadata=sizes
        )
    except HfHubHTTPError as error:
        busy = error.response.status_code == 429 or error.response.status_code >= 500
        return None if busy else error  # `snapshot_download` has the patience
    except Exception as error:  # no connection, no answer in time, offline mode, a name that is none
        return error


def _check_room(info: Any, repo: str, patterns: Sequence[str]) -> None:
    """Refuse to begin a download that the disk has no room for; what is in the cache already needs none.

    Raises:
        FetchError: the disk is too full.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    needed = 0
    for file in getattr(info, "siblings", None) or ():
        if any(fnmatch(file.rfilename, pattern) for pattern in patterns):
            held = try_to_load_from_cache(repo, file.rfilename, revision=info.sha, repo_type="dataset")
            needed += 0 if isinstance(held, str) else file.size or 0
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise FetchError(
            f"{repo} needs {needed:,} bytes in {cache} and {free:,} are free: make room, or name another disk in the "
            "environment, HF_HUB_CACHE"
        )


def explain_error(
    error: Exception,
    repo: str,
    revision: str | None,
    repo_type: RepoType,
    reached: bool = True,
    files: Sequence[str] = (),
) -> str:
    """Explain an error of the hub's client in words, with the ways on."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    at = f"{repo} at revision {revision}" if revision else repo
    page = f"https://huggingface.co/{'datasets/' if repo_type == 'dataset' else ''}{repo}"
    if isinstance(error, GatedRepoError):
        return f"{repo} asks for its terms to be accepted: do so at {page}, then `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return f"the hub has no {at}: `revision` is the full hash of one of the repository's commits"
    if isinstance(error, RepositoryNotFoundError):
        return f"the hub has no {repo}, or it is private: check the name on the card, or `hf auth login`"
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    what = (
        "could not be had from the hub"
        if reached or isinstance(error, HfHubHTTPError)
        else "is not in the local cache, and the hub cannot be reached"
    )
    return (
        f"{at} {what}: {lines[0].rstrip('.')}. "
        f"Two ways on: {WAYS_ON[repo_type].format(files=', '.join(files) or 'its files')}, "
        "or name a mirror in the environment, HF_ENDPOINT=https://..."
    )
