"""Whether the batch changes what is found: rows whose nearest others differ are counted."""

from __future__ import annotations

import numpy as np

from twinlens.inference.batches import count_changed_tops


def test_rows_whose_nearest_changed_are_counted_and_their_own_row_is_none_of_them() -> None:
    angles = np.radians([0.0, 10.0, 25.0, 60.0])
    one = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    moved = np.radians([0.0, 10.0, 25.0, 5.0])
    other = np.stack([np.cos(moved), np.sin(moved)], axis=1).astype(np.float32)
    assert count_changed_tops(one, one, nearest=1) == 0
    # nearest before: 1, 0, 1, 2; after: 3, 3 (5 degrees; ties go to the lower row), 1, 0
    assert count_changed_tops(one, other, nearest=1) == 3
