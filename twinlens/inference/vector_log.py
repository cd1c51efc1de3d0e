"""A log of vectors that a service gave: kept as they come, under a key of what they are of, and never asked again."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from twinlens.core.errors import DataError

KEYS, ROWS, REQUESTS = "keys.txt", "rows.bin", "requests.jsonl"
WIDTH = np.dtype(np.float32).itemsize


class VectorLog:
    """Vectors by key, in two files that only grow; a half-written end, of a process that was killed, is cut off.

    Rows are written before their keys: a key that stands there has its row.
    """

    def __init__(self, folder: Path) -> None:
        """Open the log of a folder, which one process at a time may do (`Scratch` holds a lock)."""
        self.folder, self._lock = folder, threading.Lock()
        for name in (KEYS, REQUESTS):
            cut_to_lines(folder / name)
        head, *names = _whole_lines(folder / KEYS) or [""]
        self.dim = int(head) if head else None
        held = (folder / ROWS).stat().st_size // (WIDTH * self.dim) if self.dim and (folder / ROWS).exists() else 0
        names = names[:held]
        self._row_of = {name: row for row, name in enumerate(names)}
        if self.dim:
            _cut(folder / KEYS, len("".join(f"{line}\n" for line in [head, *names]).encode()))
            _cut(folder / ROWS, len(names) * WIDTH * self.dim)

    def __contains__(self, key: str) -> bool:
        return key in self._row_of

    def add(self, keys: Sequence[str], rows: Float32[np.ndarray, "keys dim"], **figures: float) -> None:
        """Keep vectors, and what the request took that gave them.

        Raises:
            DataError: they have another number of dimensions than those before.
        """
        with self._lock:
            if self.dim is None:
                self.dim = int(rows.shape[1])
                _append(self.folder / KEYS, f"{self.dim}\n".encode())
            if rows.shape[1] != self.dim:
                raise DataError(
                    f"the service gave {rows.shape[1]} dimensions after {len(self._row_of):,} of {self.dim}; "
                    "another model? What was given is kept; write the model's version, or `dimensions`, on the "
                    "card to begin again"
                )
            _append(self.folder / ROWS, np.ascontiguousarray(rows, dtype=np.float32).tobytes())
            _append(self.folder / KEYS, "".join(f"{key}\n" for key in keys).encode())
            _append(self.folder / REQUESTS, (json.dumps({"first": keys[0]} | figures) + "\n").encode())
            for key in keys:
                self._row_of[key] = len(self._row_of)

    def take(self, keys: Sequence[str]) -> Float32[np.ndarray, "keys dim"]:
        """Take the vectors of some keys."""
        assert self.dim is not None
        whole = np.memmap(self.folder / ROWS, dtype=np.float32, mode="r", shape=(len(self._row_of), self.dim))
        return np.asarray(whole[[self._row_of[key] for key in keys]])

    def total(self, keys: set[str]) -> dict[str, float]:
        """The sums of the noted figures of the requests that began with one of these keys."""
        found: dict[str, float] = {}
        for line in _whole_lines(self.folder / REQUESTS):
            noted: dict[str, Any] = json.loads(line)
            if noted.pop("first") in keys:
                found = {name: found.get(name, 0.0) + value for name, value in noted.items()}
        return found


def cut_to_lines(path: Path) -> None:
    """Cut off a last line that does not end as lines do."""
    if path.exists():
        _cut(path, path.read_bytes().rfind(b"\n") + 1)


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def _whole_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _cut(path: Path, size: int) -> None:
    if path.exists() and path.stat().st_size > size:
        with path.open("r+b") as file:
            file.truncate(size)
