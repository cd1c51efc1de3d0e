"""Members of an archive as a tree: what a zip and a tar have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Generic, TypeVar

from twinlens.core.errors import BucketError
from twinlens.datasets.readers.limits import MAX_PICTURE_BYTES, describe, explain_size
from twinlens.datasets.readers.names import Known, is_hidden

Member = TypeVar("Member")


class Members(ABC, Generic[Member]):
    """Members of an archive by their names, found in any spelling and read no further than a limit."""

    def __init__(self, listed: Iterable[tuple[str, Member]]) -> None:
        """Take names and members in the archive's order, in which a name may stand again."""
        members: dict[str, Member] = {}
        self._earlier: dict[str, list[Member]] = {}  # of a name that stands again, those before the last
        for name, member in listed:
            if name in members:
                self._earlier.setdefault(name, []).append(members[name])
            members[name] = member
        self._members = members
        self._names = sorted(name for name in members if not is_hidden(name))
        self._known = Known(self._names)

    def names(self) -> list[str]:
        """The names of all files, sorted."""
        return self._names

    def find(self, name: str) -> str | None:
        """The name of a file as it is spelt here; None where there is none."""
        return name if name in self._members else self._known.find(name)

    def read(self, name: str, limit: int = MAX_PICTURE_BYTES) -> bytes | str:
        """The bytes of one file, or the reason why there are none."""
        found = self.find(name)
        if found is None:
            return self._known.explain(name)
        member = self._members[found]
        content = self._read_member(member, limit)
        if any(self._read_member(other, limit) != content for other in self._earlier.get(found, ())):
            return "twice in the archive, each time another file: which is meant? Pack it anew under two names"
        return content

    def _read_member(self, member: Member, limit: int) -> bytes | str:
        if large := explain_size(self._size_of(member), limit):
            return large
        try:
            return self._extract(member, limit)
        except (MemoryError, BucketError):  # nothing is wrong with the member
            raise
        except Exception as error:  # the library raises whatever the bytes lead it to
            return f"damaged in the archive: {describe(error)}"

    @abstractmethod
    def _size_of(self, member: Member) -> int:
        """Tell the bytes that a member says it has."""

    @abstractmethod
    def _extract(self, member: Member, limit: int) -> bytes | str:
        """Read a member, or tell why it cannot be read; raises whatever the library does."""
