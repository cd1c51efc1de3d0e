"""Ids of pictures: no two pictures share one, so that a caption cannot land on another's picture."""

from __future__ import annotations

from collections.abc import Sequence


def make_unique(wanted: Sequence[tuple[str, str]]) -> list[str]:
    """Give every picture its short id where it alone has it, else its long one.

    All pictures that share a short id get their long ones: which of them came first decides nothing.

    Args:
        wanted: the short and the long id of each picture. Rows that are the same picture have the same long id, and
            pictures that are not have different ones.

    Returns:
        The ids, in order.
    """
    found = list(wanted)
    while True:
        owners: dict[str, set[str]] = {}
        for short, long in found:
            owners.setdefault(short, set()).add(long)
        shared = {short for short, longs in owners.items() if len(longs) > 1}
        if not shared:
            return [short for short, _ in found]
        # A long id may be another picture's short one, which then becomes long too: so again, until none is shared.
        found = [(long if short in shared else short, long) for short, long in found]
