"""Forms of vectors: which numbers of a vector are kept, in how many bits, by the names that the vector budget prints.

float32                                    as they are
int8                                       or float16, binary, rotated bits
256 principal dimensions, int8             or float32; or the first dimensions
rotated bits, the best 40 again by int8    or binary; bits find 40 candidates, and int8 orders them
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal, Self, get_args

Precision = Literal["float32", "float16", "int8", "binary", "rotated_bits"]
Axes = Literal["all", "first", "principal"]

BETTER: Final = "int8"  # by which the best by bits get new scores
BY_BITS = ("binary", "rotated_bits")
KEPT = ("float32", BETTER)  # precisions of fewer dimensions
LEAST_DIMENSIONS = 8  # fewer are not tried
NUMBER = r"([1-9]\d{0,5})"


@dataclass(frozen=True)
class VectorForm:
    """A form of vectors: what the vector budget measures, and what a search index holds."""

    precision: Precision = "float32"
    axes: Axes = "all"  # of the dimensions that are kept
    dimensions: int | None = None  # that are kept; None: all
    rescored: int | None = None  # so many of the best get new scores by int8

    @property
    def name(self) -> str:
        """The name in tables: `256 principal dimensions, int8`."""
        first = [] if self.dimensions is None else [f"{self.dimensions} {self.axes} dimensions"]
        last = [] if self.rescored is None else [f"the best {self.rescored} again by {BETTER}"]
        return ", ".join([*first, self.precision.replace("_", " "), *last])

    @property
    def by_bits(self) -> bool:
        """Whether a number is kept as its sign."""
        return self.precision in BY_BITS

    @property
    def learns(self) -> bool:
        """Whether vectors beside those that are kept decide how: of other pictures, or of captions."""
        return self.axes == "principal" or self.precision == "rotated_bits"

    @classmethod
    def read(cls, name: str) -> Self:
        """Read a name.

        Raises:
            ValueError: no form has it; the message has the nearest ones.
        """
        for precision in get_args(Precision):
            said = precision.replace("_", " ")
            if name == said:
                return cls(precision)
            if precision in KEPT and (found := re.fullmatch(rf"{NUMBER} (first|principal) dimensions, {said}", name)):
                axes: Axes = "first" if found[2] == "first" else "principal"
                if int(found[1]) >= LEAST_DIMENSIONS:
                    return cls(precision, axes, int(found[1]))
            if precision in BY_BITS and (found := re.fullmatch(rf"{said}, the best {NUMBER} again by {BETTER}", name)):
                return cls(precision, rescored=int(found[1]))
        raise ValueError(_refuse(name))


def _refuse(name: str) -> str:
    if name == "recommended":
        return (
            "'recommended' would let a measurement change the index unasked: take the name of a setting, such as the "
            "one that `compress` recommends (metrics/budget.csv, the report)"
        )
    number = next((one for one in re.findall(r"\d+", name) if int(one) >= LEAST_DIMENSIONS), "")
    known = [one.replace("_", " ") for one in get_args(Precision)]
    known += [f"{number or 128} {axes} dimensions, {kept}" for axes in ("principal", "first") for kept in KEPT]
    known += [f"{one.replace('_', ' ')}, the best {number or 40} again by {BETTER}" for one in BY_BITS]
    close = get_close_matches(name, known, n=2, cutoff=0.4)
    near = f"did you mean {' or '.join(repr(one) for one in close)}? " if close else ""
    return f"the vector budget has no setting {name!r}: {near}Names are those of metrics/budget.csv (docs/budget.md)"
