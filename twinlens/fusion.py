"""Pixels and words together: one vector whose inner products are a weighted sum of similarities."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32


def concatenate(
    image: Float32[np.ndarray, "rows image_dim"], text: Float32[np.ndarray, "rows text_dim"], image_weight: float
) -> Float32[np.ndarray, "rows both"]:
    """Join two unit vectors a row into one unit vector.

    Scaling by the square roots of the weights makes the inner product of two such rows
    `image_weight * image similarity + (1 - image_weight) * text similarity`. Joining vectors that
    are not of unit length lets the longer modality drown the other.
    """
    return np.hstack([np.float32(image_weight**0.5) * image, np.float32((1.0 - image_weight) ** 0.5) * text])
