"""The captioning loop: in order, part by part, and the same after a kill."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

from tests.tiny import CPU, jpegs, sizes, special_tokens, spread, tokenizer, write_shards
from twinlens.config.captioners import CaptionerCard
from twinlens.core.device import Placement
from twinlens.core.errors import DataError, ResourceError
from twinlens.core.part_store import FolderStore
from twinlens.core.scratch import Scratch
from twinlens.engines import Seat
from twinlens.inference import caption as loop
from twinlens.inference.caption import caption_pictures, choose_batch_size
from twinlens.inference.caption_parts import CaptionPart, CaptionTask
from twinlens.models.captioners.transformers import Captioner

COUNT = 22
PER_PART = 8  # so three parts, the last of six


class Counted(Captioner):
    """A captioner that notes its batches, stops as a killed run does, and has room for so many pictures at a time."""

    batches: list[int]
    dies_after: int | None = None
    room: int = COUNT
    refused: int = 0

    def start(self, pictures: torch.Tensor) -> Callable[[], list[str]]:
        if self.dies_after is not None and sum(self.batches) >= self.dies_after:
            raise KeyboardInterrupt
        if len(pictures) > self.room:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append(len(pictures))
        return super().start(pictures)


class Silent(Counted):
    """A captioner that has nothing to say of some pictures."""

    def start(self, pictures: torch.Tensor) -> Callable[[], list[str]]:
        texts = super().start(pictures)()
        return lambda: ["" if i % 2 else text for i, text in enumerate(texts)]


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
    assert model.batches == [min(batch, COUNT - at) for at in range(0, COUNT, batch)]  # whatever a part holds


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
    cuda = Placement(torch.device("cuda"), torch.bfloat16)
    assert choose_batch_size(CPU) == 32
    assert choose_batch_size(cuda, free_bytes=80 * 10**9) == 512
    assert choose_batch_size(cuda, free_bytes=8 * 10**9) == 128  # a power of two, so that it divides a task
    assert choose_batch_size(cuda, free_bytes=20 * 10**9) == 256
    assert choose_batch_size(cuda, free_bytes=10**8) == 32


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_the_size_is_remembered(
    shards: Path, rows: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = run(captioner(), shards, rows, "wanted")
    small = captioner()
    small.room = 5
    with caplog.at_level(logging.WARNING):
        assert run(small, shards, rows, batch=16) == wanted
    assert (small.batches, small.refused, small.largest_batch) == ([4, 4, 4, 4, 4, 2], 2, 4)
    assert "16 pictures at a time do not fit into the device's memory: 8 from now on" in caplog.text
    small.batches.clear()
    assert run(small, shards, rows[:9], "more", batch=16) == wanted[:9]
    assert (small.batches, small.refused) == ([4, 4, 1], 2)


def test_a_device_without_room_for_one_picture_ends_the_run(shards: Path, rows: pl.DataFrame) -> None:
    none = captioner()
    none.room = 0
    with pytest.raises(ResourceError, match="one picture do not fit into the memory of cpu"):
        run(none, shards, rows, batch=2)


def test_words_are_read_by_another_thread_while_the_next_batch_is_begun(
    shards: Path, rows: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch's words are not there before the second batch was begun: who waits for them never ends."""
    second_began = threading.Event()

    class Slow(Counted):
        def start(self, pictures: torch.Tensor) -> Callable[[], list[str]]:
            texts = super().start(pictures)()
            if len(self.batches) == 2:
                second_began.set()

            def words() -> list[str]:
                assert second_began.wait(60)
                assert threading.current_thread() is not threading.main_thread()
                return texts

            return words

    wanted = run(captioner(), shards, rows, "wanted")
    assert run(captioner(Slow), shards, rows, batch=6) == wanted


def test_what_the_device_waited_for_pixels_is_noted(shards: Path, rows: pl.DataFrame) -> None:
    with Scratch("caption", "key") as scratch:
        caption_pictures(captioner(), shards, rows, scratch, batch=6)
        assert 0 < scratch.total("waiting_s") < scratch.total("seconds")


def test_pixels_that_come_while_the_device_works_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("twinlens.inference.caption.time.perf_counter", lambda: clock[0])
    rows = pl.DataFrame({"image_id": ["a", "b"], "shard": [0, 0], "row": [0, 1]})
    with Scratch("caption", "key") as scratch:
        writer, store = loop._Writer(Seat(1, lambda _: None)), scratch.open_store()
        one, two, three = (CaptionPart(name, rows[:size]) for name, size in (("one", 1), ("two", 2), ("three", 1)))
        writer.expect(CaptionTask((one, two), Path("shards"), store, 4))
        writer.expect(CaptionTask((three,), Path("shards"), store, 4))
        clock[0] = 5.0  # asked for at the start, there after two seconds
        assert writer.write(loop._Started([lambda: ["a"]], asked=0.0, ready=2.0)) == []
        clock[0] = 11.0  # asked for early, and there a second after the batch before had ended
        (receipts,) = writer.write(loop._Started([lambda: ["b", "c"]], asked=3.0, ready=6.0))
        assert [receipt.name for receipt in receipts] == ["one.note", "one", "two.note", "two"]
        clock[0] = 13.0  # there before that
        writer.write(loop._Started([lambda: ["d"]], asked=7.0, ready=10.0))
        notes = {name: json.loads(scratch.path(f"{name}.note").read_text()) for name in ("one", "two", "three")}
    assert notes == {
        "one": {"seconds": 5.0, "waiting_s": 2.0},
        "two": {"seconds": 6.0, "waiting_s": 1.0},
        "three": {"seconds": 2.0, "waiting_s": 0.0},
    }


def test_a_batch_of_several_parts_writes_them_all_and_a_fault_of_the_disk_is_not_lost(
    shards: Path, rows: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*others: Any) -> None:
        raise ResourceError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(ResourceError, match="the disk is full"):
        patch.setattr(FolderStore, "put", full)
        run(captioner(), shards, rows, batch=4)
    whole = captioner()
    run(whole, shards, rows, batch=COUNT)
    with Scratch("caption", "key") as scratch:
        assert [scratch.has(f"part-{n:05d}.json") for n in range(4)] == [True, True, True, False]
    assert whole.batches == [COUNT]


def test_nothing_to_describe_is_no_work(shards: Path, rows: pl.DataFrame) -> None:
    machine = captioner()
    with Scratch("caption", "none") as scratch:
        assert caption_pictures(machine, shards, rows[:0], scratch) == []
        assert scratch.total("seconds") == 0
    assert machine.batches == []
