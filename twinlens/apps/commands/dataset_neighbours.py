"""Files beside pictures that may say more of them and are not read: what they are, and how to have them read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

# Tables and annotations that are read once they are saved in another way.
TABLES = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save it as CSV or JSONL"),
    **dict.fromkeys((".feather", ".arrow", ".pkl", ".h5"), "save it as Parquet or JSONL"),
    ".xml": "annotations a picture each: write a table of them (file,label)",
}


def explain_others(folder: Path, names: Sequence[str], beside: Sequence[str]) -> list[str]:
    """Explain what is not read, a sentence each.

    Args:
        folder: of the pictures.
        names: of all its files.
        beside: texts that have the names of pictures.
    """
    notes = []
    if beside:
        notes.append(
            f"{len(beside):,} texts lie beside pictures of their names ({beside[0]}) and are not read. Pack both into "
            f"a shard and name its folder: `mkdir shards && tar --sort=name -cf shards/test-0.tar -C {folder} .`; or "
            "write the texts into a table (file,caption)"
        )
    for ending, advice in TABLES.items():
        if own := [name for name in names if name.lower().endswith(ending)]:
            notes.append(f"{len(own):,} x {ending} is not read, {own[0]} for instance: {advice}")
    return notes
