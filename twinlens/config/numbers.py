"""Numbers of params.yaml and the cards: whole, finite, and no larger than what they are used for can hold.

A truth value, a text of digits and 5.0 are no whole numbers here, as DVC would note them for what they are.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

LARGEST = 2**31 - 1  # of whole numbers: what files and libraries keep in 32 bits
LARGEST_SEED = 2**32 - 1  # that every library takes
EXTREME = 1e9  # of weights and rates: beyond it, and below its inverse, float32 has too few digits for a result

Count = Annotated[int, Field(strict=True, ge=1, le=LARGEST)]
CountOrZero = Annotated[int, Field(strict=True, ge=0, le=LARGEST)]
Several = Annotated[int, Field(strict=True, ge=2, le=LARGEST)]
Seed = Annotated[int, Field(strict=True, ge=0, le=LARGEST_SEED)]
Side = Annotated[int, Field(strict=True, ge=1, le=65_500)]  # of a picture, in pixels; a JPEG's sides end there
Threads = Annotated[int, Field(strict=True, ge=1, le=256)]
Batch = Annotated[int, Field(strict=True, ge=1, le=65_536)]
Flag = Annotated[bool, Field(strict=True)]
Positive = Annotated[float, Field(strict=True, ge=1 / EXTREME, le=EXTREME)]  # above zero
PositiveOrZero = Annotated[float, Field(strict=True, ge=0, le=EXTREME)]
Signed = Annotated[float, Field(strict=True, ge=-EXTREME, le=EXTREME)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
InnerShare = Annotated[float, Field(strict=True, gt=0, lt=1)]  # neither none nor all
