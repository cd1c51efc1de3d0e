"""Identification of visitors, so that a visitor's requests wait for each other and for nobody else's."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection

COOKIE = "visitor"
STRANGERS = "strangers"


@dataclass(frozen=True)
class Visitor:
    """A browser that returns the cookie it was given, or the connection of a client without one."""

    name: str
    known: bool

    @property
    def account(self) -> str:
        """Account that received bytes are charged to: strangers can be arbitrarily many, so they share one."""
        return self.name if self.known else STRANGERS


class Visitors:
    """Issuer of cookies that tell browsers apart and reveal nothing; kept nowhere but in the browser."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def word(self) -> str:
        """A new word, sealed, so that none can be made up."""
        name = secrets.token_hex(16)
        return f"{name}.{self._seal(name)}"

    def of(self, scope: MutableMapping[str, Any]) -> Visitor:
        """The visitor behind a request, by its cookie; without ours, by its connection."""
        name, _, seal = HTTPConnection(scope).cookies.get(COOKIE, "").partition(".")
        if hmac.compare_digest(seal.encode("utf-8", "replace"), self._seal(name).encode()):
            return Visitor(name, known=True)
        return Visitor(f"{scope.get('client')}", known=False)

    def _seal(self, name: str) -> str:
        return hmac.digest(self._secret, name.encode("utf-8", "replace"), "sha256").hex()
