"""Ids of pictures: no two pictures share one, so that a caption cannot land on another's picture."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int

from twinlens.core.id_rows import Hashes, IdRows, hash_id


@dataclass
class IdChoice:
    """The ids that pictures may have, of which hashes are held: short ones, and long ones that no two pictures share.

    Rows that are the same picture have the same long id, and pictures that are not have different ones.
    """

    _shorts: array[int] = field(default_factory=lambda: array("q"))
    _longs: array[int] = field(default_factory=lambda: array("q"))

    def add(self, short: str, long: str) -> None:
        """Add a row."""
        self._shorts.extend(hash_id(short))
        self._longs.extend(hash_id(long))

    @property
    def shorts(self) -> Hashes:
        """Hashes of the short ids."""
        return np.frombuffer(self._shorts, dtype=np.int64).reshape(-1, 2)

    def choose(self, same: Int[np.ndarray, " rows"] | None = None) -> tuple[Bool[np.ndarray, " rows"], Hashes]:
        """Give every picture its short id where it alone has it, else its long one.

        All pictures that share a short id get their long ones: which of them came first decides nothing.

        Args:
            same: of each row the first that is the same picture, where long ids do not say it.

        Returns:
            Which rows have their long id, and the hashes of the ids.
        """
        found = self.shorts.copy()
        longs = np.frombuffer(self._longs, dtype=np.int64).reshape(-1, 2)
        longs = longs if same is None else longs[same]
        pictures = IdRows.of_hashes([longs]).find_firsts()
        chosen = np.zeros(len(found), dtype=bool)
        while True:
            owner = IdRows.of_hashes([found]).find_firsts()
            shared = np.zeros(len(found), dtype=bool)
            shared[owner[pictures != pictures[owner]]] = True
            if not shared.any():
                return chosen, found
            # A long id may be another picture's short one, which then becomes long too: so again, until none is shared.
            more = shared[owner]
            found[more], chosen = longs[more], chosen | more


def make_unique(wanted: Sequence[tuple[str, str]]) -> list[str]:
    """Make the ids of pictures of their short and long ones, see `IdChoice.choose`; returns them in order."""
    choice = IdChoice()
    for short, long in wanted:
        choice.add(short, long)
    chosen, _ = choice.choose()
    return [pair[is_long] for pair, is_long in zip(wanted, chosen.tolist(), strict=True)]
