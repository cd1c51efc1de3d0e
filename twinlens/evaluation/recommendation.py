"""The setting of the vector budget to take, and the sentence that says so. Rows are those of `measure_budget`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NOT_MEASURED = (
    "its vectors search pictures neither by captions (no shared space, or no captions) nor in object sets (there are "
    "none: group.min_group_size)"
)
LEAST_TO_RECOMMEND = 30  # clusters: with fewer, that no query changed says too little


def choose_setting(rows: Sequence[dict[str, Any]], tolerance: float) -> dict[str, Any] | None:
    """Choose the setting of the fewest bytes, then the least time, that loses at most `tolerance` of hit, by its bound.

    None where none is shown to, and where there are too few pictures to show it.
    """
    good = [row for row in rows[1:] if row["hit_least"] is not None and row["hit_least"] >= -tolerance]
    smaller = [row for row in good if row["bytes"] < rows[0]["bytes"]]
    return min(smaller, key=lambda row: (row["bytes"], row["ms_per_query"]), default=None)


def say_recommended(rows: Sequence[dict[str, Any]]) -> str:
    """Say in a sentence which setting to take, and what that costs and saves; `rows` as `measure_budget` gave them."""
    if not rows:
        return f"Not measured: {NOT_MEASURED}"
    first, chosen = rows[0], next((row for row in rows if row["recommended"]), None)
    at = f"hit@{first['k']}"
    if chosen is None:
        if first["hit_least"] is None:
            return f"float32: fewer than {LEAST_TO_RECOMMEND} pictures search, too few to recommend less"
        return f"float32: no setting is recommended, or none is shown to lose at most {first['tolerance']:g} of {at}"
    within = max(abs(chosen["hit_low"]), abs(chosen["hit_high"]))
    how = f"within {within:.3f} of float32's" if within else "float32's for every query"
    return (
        f"{chosen['setting']}: {at} {chosen['hit']:.3f} is {how}, at {chosen['bytes'] / first['bytes']:.2f} of the "
        f"bytes ({chosen['bytes']:g} for {first['bytes']:g} a picture) and "
        f"{chosen['ms_per_query'] / first['ms_per_query']:.2f} of the time of a query; "
        f"`{format_index_command(chosen['setting'])}` builds the search index so"
    )


def format_index_command(setting: str) -> str:
    """Format the command that builds the search index in a setting, as a shell takes it: a comma would be a list."""
    return (
        f"dvc exp run -S index.vectors={setting}"
        if setting.isalnum()
        else f"dvc exp run -S 'index.vectors=\"{setting}\"'"
    )
