"""Whether the batch changes what is found: rows whose nearest others differ are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tests.models.encoders.test_sentence_transformers import card, save
from tests.tiny import TEXTS
from twinlens.config.params import ComputeParams
from twinlens.core.costs import Cost
from twinlens.core.device import Placement
from twinlens.inference.batches import count_changed_tops, measure_changed_tops, tell_changed_tops
from twinlens.inference.jobs import make_job
from twinlens.models import encoders


def test_rows_whose_nearest_changed_are_counted_and_their_own_row_is_none_of_them() -> None:
    angles = np.radians([0.0, 10.0, 25.0, 60.0])
    one = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    moved = np.radians([0.0, 10.0, 25.0, 5.0])
    other = np.stack([np.cos(moved), np.sin(moved)], axis=1).astype(np.float32)
    assert count_changed_tops(one, one, nearest=1) == 0
    # nearest before: 1, 0, 1, 2; after: 3, 3 (5 degrees; ties go to the lower row), 1, 0
    assert count_changed_tops(one, other, nearest=1) == 3


def test_probes_that_find_others_alone_than_in_their_batch_are_a_share() -> None:
    angles = np.radians([0.0, 10.0, 25.0, 60.0])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    turned = np.radians([0.0, 50.0])  # the second, alone, is nearer to the last than to its neighbours
    alone = np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)
    assert measure_changed_tops(rows[[0, 1]], [0, 1], rows, nearest=1) == 0.0
    assert measure_changed_tops(alone, [0, 1], rows, nearest=1) == 0.5


def test_more_than_a_few_changed_lists_are_told_by_source() -> None:
    parts: dict[str, dict[str, float]] = {
        "images": {"changed_tops": 0.125},
        "captions": {"changed_tops": 0.0},
        "of float32": {"items": 3},
    }
    (told,) = tell_changed_tops(parts)
    assert told.startswith("images: of the inputs that were embedded once more by themselves, 12% find other nearest")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_source_in_bfloat16_has_the_figure(dtype: torch.dtype, tmp_path: Path) -> None:
    tower = card(save(tmp_path))
    placement, cost = Placement(torch.device("cpu"), dtype), Cost()
    compute = ComputeParams(device="cpu", image_batch=2, text_batch=2, decode_threads=1)
    table = pl.DataFrame({"id": [*"abcde"], "image_id": [*"abcde"], "text": TEXTS})
    make_job(tower, encoders.locate(tower), placement, compute, cost).texts("captions", table, tmp_path)
    assert ("changed_tops" in cost.parts["captions"]) is (dtype != torch.float32)
