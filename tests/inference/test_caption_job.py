"""The captioning job: finished captions load neither the captioner nor its library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import torch

from twinlens.config.captioners import CaptionerCard
from twinlens.config.params import ComputeParams
from twinlens.core.device import Placement
from twinlens.core.part_store import Receipt
from twinlens.core.scratch import Scratch
from twinlens.inference import caption
from twinlens.inference.caption_job import CaptionJob
from twinlens.inference.caption_parts import CaptionTask, put_texts
from twinlens.models.captioners import transformers as captioners

COMPUTE = ComputeParams(device="cpu", decode_threads=1, image_batch=None, text_batch=None)
CPU = Placement(torch.device("cpu"), torch.float32)


def test_a_captioner_is_loaded_once_and_not_where_all_words_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []

    def describe(model: object, tasks: Iterable[CaptionTask], *_: object) -> Iterator[list[Receipt]]:
        for task in tasks:
            yield put_texts(task.store, task.parts[0].name, ["a dog"] * task.size)

    def load(card: CaptionerCard, path: Path, placement: Placement) -> SimpleNamespace:
        loads.append(path)
        return SimpleNamespace(parameters=7)

    monkeypatch.setattr(captioners, "load", load)
    monkeypatch.setattr(caption, "stream_captions", describe)
    card = CaptionerCard.model_validate({"captioner": "blip", "checkpoint": "mine"})
    rows = pl.DataFrame({"image_id": ["a", "b"], "shard": [0, 0], "row": [0, 1]})
    for _ in range(2):
        job = CaptionJob(card, tmp_path, CPU, COMPUTE)
        for key, some in (("one", rows), ("two", rows[:1])):
            with Scratch("caption", key) as scratch:
                assert job.write(tmp_path, some, scratch) == ["a dog"] * len(some)
                assert scratch.total("parameters") == 7
    assert loads == [tmp_path]
