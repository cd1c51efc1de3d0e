"""Picture lists that a card's `keep` names: copied beside what was downloaded, so that DVC knows their content.

`download` takes the copies and notes their SHA-256; `filter` reads the copies and nothing else, so a
machine that pulled them needs no list of its own. A list that is another one now is refused.
"""

from __future__ import annotations

import json
from pathlib import Path

from twinlens.config.datasets import Keep
from twinlens.core import paths
from twinlens.core.errors import DataError, FetchError
from twinlens.core.hashing import hash_file
from twinlens.core.scratch import write_whole_file, write_whole_text
from twinlens.datasets.keep import read_qrels

FOLDER, NOTES = "lists", "lists.json"
AGAIN = "`dvc repro -f -s download@{dataset}`, then `dvc repro`"


def list_named(keep: Keep | None) -> dict[str, str]:
    """List the lists that a card names, by key."""
    found = {} if keep is None else {"from_qrels": keep.from_qrels, "published": keep.published}
    return {key: location for key, location in found.items() if location is not None}


def refuse_unreadable(keep: Keep | None) -> None:
    """Read the lists once, before anything large is fetched.

    Raises:
        FetchError: one is not there.
        DataError: one is no such list.
    """
    for location in list_named(keep).values():
        read_qrels(paths.expand(location))


def record(keep: Keep | None, raw: Path) -> None:
    """Copy the lists into what was downloaded, with their SHA-256; a card that names none leaves no trace."""
    notes = {}
    for key, location in list_named(keep).items():
        copy = raw / FOLDER / f"{key}.csv"
        with write_whole_file(copy) as draft:
            draft.write_bytes(paths.expand(location).read_bytes())
        notes[key] = {"file": f"{FOLDER}/{copy.name}", "bytes": copy.stat().st_size, "sha256": hash_file(copy)}
    if notes:
        write_whole_text(raw / NOTES, json.dumps(notes, indent=2) + "\n")


def read_recorded(keep: Keep, raw: Path, dataset: str) -> dict[str, set[str]]:
    """Read the ids of every list that the card names, from the copies.

    Raises:
        DataError: a list is not the recorded one any more, or was never recorded.
    """
    noted = json.loads((raw / NOTES).read_text()) if (raw / NOTES).is_file() else {}
    again = AGAIN.format(dataset=dataset)
    found = {}
    for key, location in list_named(keep).items():
        if key not in noted:
            raise DataError(f"keep.{key}: {location} was not recorded by `download`; record it: {again}")
        mine = _expanded(location)
        if mine is not None and (now := hash_file(mine)) != noted[key]["sha256"]:
            raise DataError(
                f"keep.{key}: {mine} has SHA-256 {now[:12]}..., recorded was {noted[key]['sha256'][:12]}...; "
                f"to take it as it is now: {again}"
            )
        found[key] = read_qrels(raw / noted[key]["file"])
    return found


def _expanded(location: str) -> Path | None:
    """The list in its place; None on a machine that has none and goes by the copy."""
    try:
        path = paths.expand(location)
    except FetchError:  # it is named by a variable that is not set here
        return None
    return path if path.is_file() else None
