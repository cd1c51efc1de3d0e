"""The captioning loop: in order, part by part, and the same after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

from tests.tiny import CPU, jpegs, sizes, special_tokens, spread, tokenizer, write_shards
from twinlens.config.captioners import CaptionerCard
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.core.scratch import Scratch
from twinlens.inference import caption as loop
from twinlens.inference.caption import caption_pictures, choose_batch_size
from twinlens.models.captioners.transformers import Captioner

COUNT = 22
PER_PART = 8  # so three parts, the last of six


class Counted(Captioner):
    """A captioner that notes its batches, and stops as a killed run does."""

    batches: list[int]
    dies_after: int | None = None

    def caption(self, pictures: torch.Tensor) -> list[str]:
        if self.dies_after is not None and sum(self.batches) >= self.dies_after:
            raise KeyboardInterrupt
        self.batches.append(len(pictures))
        return super().caption(pictures)


class Silent(Counted):
    """A captioner that has nothing to say of some pictures."""

    def caption(self, pictures: torch.Tensor) -> list[str]:
        return ["" if i % 2 else text for i, text in enumerate(super().caption(pictures))]


def captioner(kind: type[Counted] = Counted, dies_after: int | None = None) -> Counted:
    """A tiny BLIP with random weights."""
    words = tokenizer()
    text = sizes(vocab_size=len(words), max_position_embeddings=24, **special_tokens(words))
    config = BlipConfig(
        text_config=text | {"sep_token_id": words.eos_token_id}, vision_config=sizes(image_size=32, patch_size=16)
    )
    made = kind(
        spread(BlipForConditionalGeneration(config), scale=0.3),
        words,
        BlipImageProcessor(size={"height": 32, "width": 32}),
        CaptionerCard(captioner="blip", hub="someone/tiny", max_new_tokens=6),
        CPU,
    )
    made.batches, made.dies_after = [], dies_after
    return made


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PICTURES_PER_PART", PER_PART)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return tmp_path / "shards"


@pytest.fixture
def rows(shards: Path) -> pl.DataFrame:
    return write_shards(jpegs(COUNT), shards)


def run(model: Captioner, shards: Path, rows: pl.DataFrame, key: str = "key", **settings: Any) -> list[str]:
    with Scratch("caption", key) as scratch:
        return caption_pictures(model, shards, rows, scratch, **settings)


def alone(model: Captioner, shards: Path, rows: pl.DataFrame) -> list[str]:
    """Every picture captioned by itself."""
    return [run(model, shards, rows[i : i + 1], f"alone-{i}")[0] for i in range(len(rows))]


def test_captions_are_those_of_the_pictures_in_the_order_of_the_rows(shards: Path, rows: pl.DataFrame) -> None:
    wanted = alone(captioner(), shards, rows)
    assert len(set(wanted)) > COUNT // 2  # so that an exchange would be seen
    assert run(captioner(), shards, rows, "there") == wanted
    assert run(captioner(), shards, rows.reverse(), "back") == wanted[::-1]
    assert run(captioner(), shards, rows[5:16:3], "some") == wanted[5:16:3]


@pytest.mark.parametrize("batch", [1, 3, PER_PART, 100])
@pytest.mark.parametrize("decode_threads", [1, 3])
def test_batch_size_and_threads_change_nothing(
    batch: int, decode_threads: int, shards: Path, rows: pl.DataFrame
) -> None:
    model = captioner()
    found = run(model, shards, rows, batch=batch, decode_threads=decode_threads)
    assert found == run(captioner(), shards, rows, "default")
    assert max(model.batches) == min(batch, PER_PART)
    assert sum(model.batches) == COUNT


@pytest.mark.parametrize("dies_after", [0, 3, 8, 9, 16, 21])
def test_a_killed_run_goes_on_after_its_last_finished_part(dies_after: int, shards: Path, rows: pl.DataFrame) -> None:
    undisturbed = run(captioner(), shards, rows, "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        run(captioner(dies_after=dies_after), shards, rows, batch=1)
    second = captioner()
    assert run(second, shards, rows, batch=1) == undisturbed
    assert sum(second.batches) == COUNT - dies_after // PER_PART * PER_PART


def test_a_part_that_is_lost_is_made_again_and_no_other(shards: Path, rows: pl.DataFrame) -> None:
    first = run(captioner(), shards, rows)
    with Scratch("caption", "key") as scratch:
        scratch.path("part-00001.json").unlink()
    second = captioner()
    assert run(second, shards, rows) == first
    assert sum(second.batches) == PER_PART


def test_finished_work_needs_neither_model_nor_pictures(shards: Path, rows: pl.DataFrame) -> None:
    first = run(captioner(), shards, rows)
    for shard in shards.iterdir():
        shard.unlink()
    assert run(captioner(dies_after=0), shards, rows) == first


def test_the_seconds_of_all_parts_are_kept_whichever_run_made_them(shards: Path, rows: pl.DataFrame) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(captioner(dies_after=8), shards, rows, batch=4)
    with Scratch("caption", "key") as scratch:
        before = scratch.total("seconds")
    assert before > 0
    run(captioner(), shards, rows, batch=4)
    with Scratch("caption", "key") as scratch:
        notes = {path.name: json.loads(path.read_text()) for path in scratch.folder.glob("*.note")}
        assert sorted(notes) == [f"part-{n:05d}.json.note" for n in range(3)]
        assert notes["part-00000.json.note"]["seconds"] == before
        assert scratch.total("seconds") > before


def test_a_picture_of_which_nothing_is_said_has_an_empty_caption_and_keeps_its_place(
    shards: Path, rows: pl.DataFrame
) -> None:
    full = run(captioner(), shards, rows, "full", batch=4)
    found = run(captioner(Silent), shards, rows, "silent", batch=4)
    assert found == ["" if i % 2 else text for i, text in enumerate(full)]  # parts and batches begin at even rows
    assert run(captioner(dies_after=0), shards, rows, "silent") == found  # empty is not the same as missing


def test_no_picture_gives_no_caption(shards: Path, rows: pl.DataFrame) -> None:
    assert run(captioner(), shards, rows[:0]) == []


def test_a_picture_that_is_not_where_the_rows_say_is_named_and_the_parts_before_it_are_kept(
    shards: Path, rows: pl.DataFrame
) -> None:
    names = [*rows["image_id"][:18], "picture-999", *rows["image_id"][19:]]
    with pytest.raises(DataError, match="row 3 is picture-018, expected picture-999"):
        run(captioner(), shards, rows.with_columns(image_id=pl.Series(names)), batch=2, decode_threads=1)
    second = captioner()
    run(second, shards, rows)
    assert sum(second.batches) < COUNT


def test_the_batch_suits_the_device() -> None:
    assert choose_batch_size(CPU) == 32
    assert choose_batch_size(Placement(torch.device("cuda"), torch.bfloat16)) == 128


def test_nothing_to_describe_is_no_work(shards: Path, rows: pl.DataFrame) -> None:
    machine = captioner()
    with Scratch("caption", "none") as scratch:
        assert caption_pictures(machine, shards, rows[:0], scratch) == []
        assert scratch.total("seconds") == 0
    assert machine.batches == []
