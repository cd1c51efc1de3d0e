"""The captioning loop of models that read pictures at their own size: in order, grouped, and the same after a kill."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from tests.models.captioners.vision_language import PROMPT, build, save
from tests.tiny import CPU, jpegs, spread, write_shards
from twinlens.config.captioners import CaptionerCard
from twinlens.config.params import ComputeParams
from twinlens.core.device import Placement
from twinlens.core.errors import DataError, ResourceError
from twinlens.core.scratch import Scratch
from twinlens.inference import caption_prompted as loop
from twinlens.inference.caption_job import CaptionJob
from twinlens.inference.caption_prompted import caption_by_prompt, choose_batch_size
from twinlens.models.captioners.prompted import Caption, Inputs, PromptedCaptioner

COUNT = 14
PER_PART = 6  # so three parts, the last of two
SHAPES = [(48, 40), (96, 64), (64, 96), (48, 40), (96, 64), (80, 80), (48, 40)]  # width and height


class Counted(PromptedCaptioner):
    """A captioner that notes its batches, stops as a killed run does, and has room for so many pictures at a time."""

    batches: list[int]
    lengths: list[tuple[int, int]]  # tokens read of a batch, and with padding
    dies_after: int | None = None
    room: int = COUNT
    refused: int = 0

    def caption(self, inputs: Inputs) -> list[Caption]:
        size = len(inputs["input_ids"])
        if self.dies_after is not None and sum(self.batches) >= self.dies_after:
            raise KeyboardInterrupt
        if size > self.room:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append(size)
        self.lengths.append((int(inputs["attention_mask"].sum()), inputs["input_ids"].numel()))
        return super().caption(inputs)


def captioner(dies_after: int | None = None, kind: str = "qwen3_vl") -> Counted:
    """A tiny model with random weights."""
    model, processor = build(kind)
    card = CaptionerCard(captioner="transformers", hub="someone/tiny", prompt=PROMPT, max_new_tokens=4)
    made = Counted(spread(model, scale=0.3), processor, card, CPU)
    made.batches, made.lengths, made.dies_after = [], [], dies_after
    return made


def pictures(shapes: Sequence[tuple[int, int]]) -> list[bytes]:
    """Pictures of some shapes, each another one."""
    return [jpegs(seed + 1, *shape)[seed] for seed, shape in enumerate(shapes)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PICTURES_PER_PART", PER_PART)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return tmp_path / "shards"


@pytest.fixture
def rows(shards: Path) -> pl.DataFrame:
    return write_shards(pictures(SHAPES * 2), shards)


def run(model: PromptedCaptioner, shards: Path, rows: pl.DataFrame, key: str = "key", **settings: Any) -> list[str]:
    with Scratch("caption", key) as scratch:
        return caption_by_prompt(model, shards, rows, scratch, **settings)


def test_captions_are_those_of_the_pictures_in_the_order_of_the_rows(shards: Path, rows: pl.DataFrame) -> None:
    model = captioner()
    wanted = [run(model, shards, rows[i : i + 1], f"alone-{i}")[0] for i in range(COUNT)]
    assert len(set(wanted)) > COUNT // 2  # so that an exchange would be seen
    for batch in (1, 3, None, 100):
        assert run(model, shards, rows, f"of {batch}", batch=batch) == wanted
    assert run(model, shards, rows.reverse(), "back") == wanted[::-1]


def test_pictures_of_one_shape_make_one_batch(
    shards: Path, rows: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PICTURES_PER_PART", COUNT)
    model = captioner()
    run(model, shards, rows, batch=6)
    assert model.batches == [6, 6, 2]
    assert model.lengths[0][0] == model.lengths[0][1]  # six of 48 x 40: nothing is padded


def test_less_than_a_tenth_is_padding_where_shapes_are_those_of_photos(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every ten photos seven are 4 : 3, two 3 : 4 and one is larger; in their own order over a fifth is padding."""
    monkeypatch.setattr(loop, "PICTURES_PER_PART", 40)
    shapes = [(64, 48), (64, 48), (48, 64), (64, 48), (96, 64), (64, 48), (64, 48), (48, 64), (64, 48), (64, 48)]
    some = pictures(shapes)
    model = captioner()
    run(model, shards, write_shards(some * 4, shards), batch=8)
    read, made = (sum(counts) for counts in zip(*model.lengths, strict=True))
    assert 1 - read / made < 0.1
    mixed = [model.prepare((some * 4)[at : at + 8])["attention_mask"] for at in range(0, 40, 8)]
    assert 1 - sum(int(mask.sum()) for mask in mixed) / sum(mask.numel() for mask in mixed) > 0.2


@pytest.mark.parametrize("dies_after", [0, 5, 6, 13])
def test_a_killed_run_goes_on_after_its_last_finished_part(dies_after: int, shards: Path, rows: pl.DataFrame) -> None:
    undisturbed = run(captioner(), shards, rows, "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        run(captioner(dies_after), shards, rows, batch=1)
    second = captioner()
    assert run(second, shards, rows, batch=1) == undisturbed
    assert sum(second.batches) == COUNT - dies_after // PER_PART * PER_PART
    for shard in shards.iterdir():
        shard.unlink()
    assert run(captioner(dies_after=0), shards, rows) == undisturbed  # finished: neither model nor pictures


def test_seconds_and_tokens_of_all_parts_are_kept_whichever_run_made_them(shards: Path, rows: pl.DataFrame) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(captioner(7), shards, rows, batch=2)
    model = captioner()
    run(model, shards, rows, batch=2)
    whole = captioner()
    run(whole, shards, rows, "whole")
    with Scratch("caption", "key") as scratch, Scratch("caption", "whole") as other:
        read = sum(tokens for tokens, _ in whole.lengths)
        assert scratch.total("tokens") == other.total("tokens") > read
        assert 0 < scratch.total("waiting_s") < scratch.total("seconds")


def test_captions_that_were_cut_are_told_also_by_a_run_that_finds_them_finished(
    shards: Path, rows: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    model = captioner()
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            run(model, shards, rows)
        assert f"13 of {COUNT} captions were cut at max_new_tokens, 4" in caplog.text  # and one ended by itself


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_the_size_is_remembered(
    shards: Path, rows: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = run(captioner(), shards, rows, "wanted")
    small = captioner()
    small.room = 2
    with caplog.at_level(logging.WARNING):
        assert run(small, shards, rows, batch=5) == wanted
    assert (small.batches, small.refused, small.largest_batch) == ([2, 2, 1, 1, 2, 2, 1, 1, 2], 1, 2)
    assert "5 pictures at a time do not fit into the device's memory: 2 from now on" in caplog.text


def test_a_device_without_room_for_one_picture_ends_the_run(shards: Path, rows: pl.DataFrame) -> None:
    none = captioner()
    none.room = 0
    with pytest.raises(ResourceError, match=r"one picture do not fit into the memory of cpu.*max_side_px"):
        run(none, shards, rows, batch=2)


def test_no_picture_gives_no_caption(shards: Path, rows: pl.DataFrame) -> None:
    assert run(captioner(dies_after=0), shards, rows[:0]) == []


def test_a_picture_that_is_not_where_the_rows_say_is_named(shards: Path, rows: pl.DataFrame) -> None:
    names = [*rows["image_id"][:8], "picture-999", *rows["image_id"][9:]]
    with pytest.raises(DataError, match="row 3 is picture-008, expected picture-999"):
        run(captioner(), shards, rows.with_columns(image_id=pl.Series(names)), batch=2)


def test_the_batch_suits_the_device() -> None:
    cuda = Placement(torch.device("cuda"), torch.bfloat16)
    assert choose_batch_size(CPU) == 4
    assert [choose_batch_size(cuda, free_bytes=gigabytes * 10**9) for gigabytes in (80, 8, 0)] == [32, 16, 1]


# ---------------------------------------------------------------- job and key


def test_the_job_takes_the_loop_of_its_card_and_loads_nothing_for_finished_work(
    shards: Path, rows: pl.DataFrame, tmp_path: Path
) -> None:
    save("llava", tmp_path / "weights")
    card = CaptionerCard(captioner="transformers", checkpoint=str(tmp_path / "weights"), prompt=PROMPT)
    compute = ComputeParams(device="cpu", decode_threads=1, image_batch=3, text_batch=None)
    job = CaptionJob(card, tmp_path / "weights", CPU, compute)
    with Scratch("caption", "key") as scratch:
        words = job.write(shards, rows, scratch)
        assert (len(words), scratch.total("parameters")) == (COUNT, job.worker.loaded.parameters)
        again = CaptionJob(card, tmp_path / "nowhere", CPU, compute)
        assert again.write(shards, rows, scratch) == words
        assert "loaded" not in vars(again)


def test_what_decides_the_words_is_in_their_key(rows: pl.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    usual = {"captioner": "transformers", "checkpoint": str(tmp_path), "prompt": PROMPT}
    changes: list[dict[str, Any]] = [
        {},
        {"prompt": "Describe."},
        {"system": "Be brief."},
        {"max_side_px": 64},
        {"max_new_tokens": 40},
        {"num_beams": 3},
    ]
    compute = ComputeParams(device="cpu", decode_threads=1, image_batch=3, text_batch=None)

    def key(change: dict[str, Any], compute: ComputeParams = compute) -> str:
        return CaptionJob(CaptionerCard.model_validate(usual | change), tmp_path, CPU, compute).key(rows)

    keys = [key(change) for change in changes]
    assert len(set(keys)) == len(keys)
    assert key({"about": {"note": "another"}}) == key({}) == keys[0]
    assert key({}, compute.model_copy(update={"image_batch": 1})) == keys[0]  # speed is no part of it
