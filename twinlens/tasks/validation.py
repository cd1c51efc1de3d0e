"""Pictures on which a parameter of the search is chosen: of the validation split, and never of the pool."""

from __future__ import annotations

import numpy as np
import polars as pl

from twinlens.config.params import HybridParams


def draw_validation(groups: pl.DataFrame, captions: pl.DataFrame, params: HybridParams) -> pl.DataFrame:
    """Draw rows of `groups` to choose weights on, in its order; none where no validation split lies outside the pool.

    Copies of the pool's pictures, by bytes, are left out, and so are pictures without a caption.

    Args:
        groups: table GROUPS.
        captions: table CAPTIONS.
        params: how many, and the seed of the draw.
    """
    copies = groups.filter("in_pool")["sha256"].unique()
    described = captions["image_id"].unique()
    candidates = groups.filter(
        ~pl.col("in_pool")
        & (pl.col("split") == "val")
        & ~pl.col("sha256").is_in(copies.implode())
        & pl.col("image_id").is_in(described.implode())
    )
    chosen = np.random.default_rng(params.seed).permutation(len(candidates))[: params.validation_pictures]
    return candidates[np.sort(chosen)]
