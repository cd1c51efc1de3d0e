"""Pictures that a model reads larger than they are stored: what was made up in between is no detail."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from twinlens.images.transforms import PixelSpec
from twinlens.models.encoders.base import LoadedEncoders

FEW = 0.01  # of the pictures: a few small ones are in any collection


@dataclass(frozen=True)
class InputSize:
    """How large a model reads a picture, at least.

    Attributes:
        shortest_px: what the shorter side is scaled to; 0 where only the area counts.
        longest_px: what the longer side is scaled to, where the shorter one follows it; 0 elsewhere.
        area: pixels that it is enlarged to.
    """

    shortest_px: int = 0
    longest_px: int = 0
    area: int = 0


def measure_input(loaded: LoadedEncoders) -> InputSize:
    """Measure how large a tower reads pictures."""
    if loaded.native is not None:
        return InputSize(area=loaded.native.fewest_pixels)
    return InputSize() if loaded.image is None else measure_spec(loaded.image.pixels)


def measure_spec(spec: PixelSpec) -> InputSize:
    """Measure how large a picture of a pixel specification is before it is cropped or filled up."""
    if spec.mode == "longest":
        return InputSize(longest_px=max(spec.height, spec.width))
    return InputSize(shortest_px=spec.resize_px or min(spec.height, spec.width))


def detect_enlarged(sizes: pl.DataFrame, needs: InputSize, tower: str) -> str | None:
    """Find that more than a few pictures are enlarged for a tower.

    Args:
        sizes: `width`, `height` of the stored pictures.
        needs: of the tower.
        tower: its name, for the message.
    """
    shorter, longer = pl.min_horizontal("width", "height"), pl.max_horizontal("width", "height")
    enlarged = (
        (shorter < needs.shortest_px)
        | (longer < needs.longest_px)
        | (pl.col("width").cast(pl.Int64) * pl.col("height") < needs.area)
    )
    count = sizes.filter(enlarged).height
    if not len(sizes) or count <= FEW * len(sizes):
        return None
    if needs.area:
        reads, raised = f"at least {needs.area:,} pixels of a picture", round(needs.area**0.5)
    else:
        raised = needs.shortest_px or needs.longest_px
        reads = f"{raised} pixels of a picture's {'shorter' if needs.shortest_px else 'longer'} side"
    stored = int(sizes.select(shorter.max()).item())
    return (
        f"{tower} reads {reads}, and {count / len(sizes):.0%} of {len(sizes):,} are stored smaller, the largest with "
        f"{stored} on the shorter side: they are enlarged for it. Where the files themselves are larger, "
        f"`-S resize.shortest_side_px={raised}` keeps what it reads"
    )
