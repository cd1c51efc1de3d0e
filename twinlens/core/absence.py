"""What to do about an output of the pipeline that is not there: make it, or wait for the dvc that is at work."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from twinlens.core.parent import STARTED_BY_DVC, is_running

LOCKS = Path(".dvc") / "tmp" / "rwlock"  # dvc's own: which process writes what
LOOKS, LOOKS_AFTER_S = 3, 0.05


def advise(remedy: str) -> str:
    """Advise what to do about an output that is not there, as the end of a message.

    Args:
        remedy: where nobody is at work, such as "`dvc repro` makes it".
    """
    if _is_cut_short():
        return f"a killed `dvc` left {LOCKS} cut short, so that no dvc runs: remove that file; then {remedy}"
    if (found := _find_work()) is None:
        return remedy
    made, process = found
    return f"`dvc` is at work (process {process}, on {made}): try again when that has ended"


def _is_cut_short() -> bool:
    """Whether dvc's file of locks is no JSON: dvc, killed while it writes it, leaves it so and then refuses to work."""
    for _ in range(LOOKS):
        try:
            json.loads(LOCKS.read_bytes())
        except OSError:
            return False
        except ValueError:
            time.sleep(LOOKS_AFTER_S)  # a dvc may be writing it
        else:
            return False
    return True


def _find_work() -> tuple[str, int] | None:
    """Find the output that some dvc makes in this folder at the moment, and its process; not for a stage of its own."""
    if STARTED_BY_DVC in os.environ:
        return None
    try:
        writes: Any = json.loads(LOCKS.read_text(encoding="utf-8"))["write"]
        held = {str(made): int(by["pid"]) for made, by in writes.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not ours: another release may write it anew
        return None
    for made, process in held.items():
        if is_running(process):
            return os.path.relpath(made), process
    return None
