"""Probes: a few inputs embedded a second time, one by one, to hold the stored vectors against.

The loops embed in batches and write rows; ids lie in a file beside them. Whatever goes wrong on the
way (rows moved against their ids, files of pictures and of words exchanged, padding that is read as
words, a model left in training mode) the vector of an input embedded alone is not the one stored
under its id. A fault that is the same alone and in company, a wrong checkpoint for instance, is not
seen here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from twinlens.core.arrays import DAMAGED
from twinlens.core.errors import DataError, remake

COUNT = 8
CLOSE = {"float32": 1e-4, "other": 2e-2}  # 1 - cosine that rounding may make, by the numbers the model computes with

Rows = Float32[np.ndarray, "probes dim"]


@dataclass(frozen=True)
class Probe:
    """Some inputs of one source, embedded anew.

    `beside` holds texts embedded together with a much longer one, so that they are padded; it has no
    rows for pictures. `last_word` is how far (1 - cosine) the vector of a text that fits moves when its
    last word is left out; NaN where no text could tell.
    """

    ids: list[str]
    alone: Rows
    beside: Rows
    last_word: float
    contents: int  # different inputs in the whole source
    exact: bool  # computed in float32

    @property
    def tolerance(self) -> float:
        """1 - cosine up to which two vectors of one input count as the same."""
        return CLOSE["float32" if self.exact else "other"]

    def transform(self, change: Callable[[Rows], Rows]) -> Probe:
        """Change the vectors of the same inputs as the stored ones were changed."""
        beside = change(self.beside) if len(self.beside) else self.beside
        return replace(self, alone=change(self.alone), beside=beside)

    def write(self, path: Path) -> None:
        """Write as `.npz`, the same bytes every time."""
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = np.array([self.last_word, self.contents, self.exact], dtype=np.float64)
        with path.open("wb") as file:
            np.savez(file, ids=np.array(self.ids), alone=self.alone, beside=self.beside, figures=figures)

    @classmethod
    def read(cls, path: Path) -> Probe:
        """Read what `write` wrote.

        Raises:
            FileNotFoundError: there is none.
            DataError: it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as found:
                last_word, contents, exact = found["figures"]
                ids = [str(name) for name in found["ids"]]
                return cls(ids, found["alone"], found["beside"], float(last_word), int(contents), bool(exact))
        except FileNotFoundError:
            raise
        except DAMAGED as error:
            raise DataError(f"{path} is damaged ({' '.join(str(error).split())[:120]}): {remake('embed')}") from None


def choose_rows(count: int) -> list[int]:
    """Choose rows to probe, evenly spread."""
    return sorted({int(row) for row in np.linspace(0, count - 1, min(COUNT, count))})
