"""Host names by which this page may be reached: a foreign page may point no other name at it (DNS rebinding)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from twinlens.core.errors import ParamsError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:/?#@\[\]\\,]+))(?::[0-9]{1,5})?", re.IGNORECASE)
NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?", re.IGNORECASE)


def parse_host(authority: str) -> str | None:
    """Parse the name or address in a Host header, in the form in which it is compared; None for what is neither.

    Args:
        authority: `name`, `name:port`, `[::1]` or `[::1]:port`. The port does not count: a tunnel has another.
    """
    found = AUTHORITY.fullmatch(authority)
    if found is None:
        return None
    bracketed, bare = found.groups()
    name = normalise_host(bracketed or bare)
    return name if (":" in name) == (bracketed is not None) else None  # only addresses with colons are bracketed


def normalise_host(name: str) -> str:
    """Normalise a name or address to the one form in which it is compared."""
    try:
        return str(ip_address(name))
    except ValueError:
        return name.lower()


def is_address(name: str) -> bool:
    """Whether this is an address and no name, so that no one's name service has a say in where it leads."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Hosts:
    """The Host headers that are ours."""

    names: frozenset[str]
    allowed: frozenset[str]  # those of `--allow-host`, by which a reverse proxy may be reached
    any_address: bool  # we listen at all addresses of this machine, and know none of them

    def has(self, authority: str) -> bool:
        """Whether a request with this Host header was meant for us."""
        name = parse_host(authority)
        if name is None:
            return False
        return name in self.names | self.allowed or (self.any_address and is_address(name))

    def sends(self, origin: str, host: str) -> bool:
        """Whether a request was sent by the page itself.

        Args:
            origin: its header Origin, which is `null` for pages without an address.
            host: its header Host. Where a proxy before us writes that anew, the origin has an allowed name.
        """
        scheme, _, authority = origin.partition("://")
        if scheme not in ("http", "https"):
            return False
        return authority.lower() == host.lower() or parse_host(authority) in self.allowed


def list_hosts(host: str, allowed: Sequence[str] = ()) -> Hosts:
    """List the hosts that may be asked for where the page is shown at `host`.

    Args:
        host: the address or name of `--host`.
        allowed: what was given by `--allow-host`.

    Raises:
        ParamsError: something allowed is no name.
    """
    shown = normalise_host(_as_sent(host))
    anywhere = is_address(shown) and ip_address(shown).is_unspecified
    names = LOOPBACK if shown in LOOPBACK else frozenset({shown, "localhost"} if anywhere else {shown})
    return Hosts(names, frozenset(map(_allowed, allowed)), anywhere)


def _allowed(given: str) -> str:
    name = _as_sent(given)
    if not is_address(name) and not NAME.fullmatch(name):
        raise ParamsError(
            f"--allow-host {given!r} is no name of a host; wanted: the name alone, without http://, port or path, "
            "as in `--allow-host search.example`"
        )
    return normalise_host(name)


def _as_sent(name: str) -> str:
    """A name as browsers send it, where it has letters that name services do not know; what is no name as it is."""
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        return name
