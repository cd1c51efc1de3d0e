"""Parts of cards that name a service: its address, its key by the name of a variable, and how it is asked."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator

from twinlens.config.base import Card
from twinlens.config.numbers import Batch, Count, CountOrZero, Positive

VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
SECRET = re.compile(r"key|token|secret|password", re.IGNORECASE)


def check_address(url: str) -> str:
    """Check an address; what may hold a secret is not repeated in the message.

    Raises:
        ValueError: it is none, or a key stands in it.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write an address such as http://localhost:8000 or https://api.example.com/v1")
    if parts.username or parts.password or any(SECRET.search(name) for name, _ in parse_qsl(parts.query)):
        raise ValueError("a key stands in the address: put it into the environment, and name the variable as `key:`")
    return url


def check_variable(name: str) -> str:
    """Check the name of an environment variable; a key that was written there by mistake is not repeated.

    Raises:
        ValueError: it cannot be a variable's name.
    """
    if not VARIABLE.fullmatch(name):
        raise ValueError(
            "name the environment variable that holds the key, such as OPENAI_API_KEY; never the key itself"
        )
    return name


Address = Annotated[str, AfterValidator(check_address)]
KeyVariable = Annotated[str, AfterValidator(check_variable)]


class RequestSettings(Card):
    """How a service is asked. None of it decides what it answers."""

    concurrency: Count = 4  # requests in flight
    retries: CountOrZero = 5  # after the first attempt; 0: none
    timeout_s: Positive = 120.0  # for an answer to begin, and between two pieces of it
    texts: Batch = 64  # of one request for vectors
    pictures: Batch = 1
