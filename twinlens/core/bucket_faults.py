"""What stores answer when they do not do what is asked: what passes, what is refused and to whom, how it is said."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from typing import Any

log = logging.getLogger("twinlens")

PASSING = {408, 425, 429, 500, 502, 503, 504}


def _find_answer(error: BaseException) -> dict[str, Any]:
    """What S3 answered to a call that failed; nothing where another store did, or none."""
    for one in (error, error.__cause__):
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            return answer
    return {}


def find_code(error: BaseException) -> str:
    """Find the code of what S3 answered, such as `NoSuchBucket`; empty where it did not."""
    return str(_find_answer(error).get("Error", {}).get("Code", ""))


def passes(error: Exception) -> bool:
    """Whether a fault may be gone when the store is asked again."""
    if answer := _find_answer(error):
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in PASSING or answer.get("Error", {}).get("Code") in (
            "SlowDown",
            "RequestTimeout",
            "InternalError",
        )
    if isinstance(error, PermissionError | FileNotFoundError | FileExistsError):
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    kinds = {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    return bool(kinds & {"botocore.HTTPClientError", "botocore.IncompleteReadError", "aiohttp.ClientError"}) or (
        bool(kinds & {"botocore.ConnectionError", "botocore.ResponseStreamingError"})
    )


def explain_refusal(error: Exception) -> str | None:
    """Explain what a store refuses, for whom, and what to do; None where it is no refusal."""
    answer = _find_answer(error)
    if type(error).__name__ in (
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "TokenRetrievalError",
    ):
        return (
            f"{shorten(error)}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this machine "
            "a role"
        )
    if isinstance(error, PermissionError) and (answer or not error.filename):
        return (
            f"refused ({shorten(error)}) to {_name_identity()}. Give it the rights to list, get, put and delete below "
            "this URL, or take another identity (AWS_PROFILE, AWS_ACCESS_KEY_ID)"
        )
    return f"refused ({shorten(error)})" if answer else None


def _name_identity() -> str:
    """The identity in use: of the key only its end, which tells keys apart and opens nothing."""
    try:
        import botocore.session

        session = botocore.session.get_session()
        credentials = session.get_credentials()
    except Exception:  # it only makes a message better
        credentials = None
    if credentials is None:
        return "whoever asks without credentials"
    profile = f", profile {session.profile}" if session.profile else ""
    return f"the access key that ends in {str(credentials.access_key)[-4:]} (from {credentials.method}{profile})"


def name_endpoint() -> str:
    """Name where the store is asked."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "the store's own address"


def shorten(error: Exception) -> str:
    """Give what an error says in at most a line; its kind where it has no words."""
    said = " ".join(str(error).split())[:160]
    return said or type(error).__name__


_said = threading.Lock()
_last_said = [-math.inf]


def say_once(place: str, error: Exception, patience_s: float) -> None:
    """Say that a store is busy, once for all threads of an outage."""
    with _said:
        now = time.monotonic()
        quiet = now - _last_said[0] < patience_s
        _last_said[0] = _last_said[0] if quiet else now
    if not quiet:
        log.warning("%s: %s; asking again for up to %.0f s", place, shorten(error), patience_s)
