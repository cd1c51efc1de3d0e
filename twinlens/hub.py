"""Files of the Hugging Face hub, through its own client: at a pinned revision, with one clear error.

The client keeps what it fetched in its own cache, resumes, and sends the token of `hf auth login`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from twinlens.errors import FetchError

RepoType = Literal["model", "dataset"]
ANSWERS_IN_S = 10.0  # or counts as out of reach
WAYS_ON = {
    "model": "fetch it elsewhere and name the folder or file as `checkpoint` on the card",
    "dataset": "put the files into a folder and name it as `source` on the card",
}


def hub_folder(
    repo: str,
    revision: str | None,
    patterns: Sequence[str],
    repo_type: RepoType = "model",
    answers_in_s: float | None = None,
) -> Path:
    """A local copy of the wanted files of a hub repository, from the cache where they are there.

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

    refusal = refused(repo, revision, repo_type, answers_in_s or ANSWERS_IN_S)
    try:
        found = snapshot_download(
            repo,
            repo_type=repo_type,
            revision=revision,
            allow_patterns=list(patterns),
            local_files_only=refusal is not None,
        )
    except Exception as error:  # of the hub's client, of the HTTP library below it, or of the disk
        raise FetchError(explained(refusal or error, repo, revision, repo_type, reached=refusal is None)) from None
    return Path(found)


def refused(
    repo: str, revision: str | None, repo_type: RepoType, answers_in_s: float = ANSWERS_IN_S
) -> Exception | None:
    """Why the hub will not hand out a repository; None where it may.

    Asked once and with a limit, because `snapshot_download` asks six times with pauses (23 seconds where
    connections are refused) and without one (no end was seen where packets are dropped).
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().repo_info(repo, repo_type=repo_type, revision=revision, timeout=answers_in_s)
    except HfHubHTTPError as error:
        busy = error.response.status_code == 429 or error.response.status_code >= 500
        return None if busy else error  # `snapshot_download` has the patience
    except Exception as error:  # no connection, no answer in time, offline mode, a name that is none
        return error
    return None


def explained(error: Exception, repo: str, revision: str | None, repo_type: RepoType, reached: bool = True) -> str:
    """What went wrong and the ways on, in words, for an error of the hub's client."""
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
        f"Two ways on: {WAYS_ON[repo_type]}, "
        "or name a mirror in the environment, HF_ENDPOINT=https://..."
    )
