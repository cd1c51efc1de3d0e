"""The embedding loops: whatever the batches, the parts and the interruptions, each row has its own vector."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import polars as pl
import pytest
import torch
from jaxtyping import UInt8
from open_clip.model import CLIP

from tests.tiny import CPU, TEXTS, jpegs, spread, tokenizer, write_shards
from twinlens.core import resources
from twinlens.core.device import Placement, name_device_fault
from twinlens.core.errors import DataError, ResourceError
from twinlens.core.scratch import Scratch
from twinlens.core.vectors import normalise_rows
from twinlens.images.transforms import PixelSpec, batch_pixels, decode_and_fit
from twinlens.inference import feed, loop
from twinlens.inference.loop import (
    DeviceRoom,
    choose_batch_size,
    choose_part_size,
    collect,
    embed_pictures,
    embed_texts,
    is_complete,
)
from twinlens.inference.transfers import Fetched, Slot, Transfers
from twinlens.models.encoders.base import ImageEncoder, TextEncoder, TokenizedTexts
from twinlens.models.encoders.open_clip import wrap

SPEC = PixelSpec(16, 16, "squash", mean=(0.5,) * 3, std=(0.5,) * 3)
PART = 8  # rows of a part in these tests


class KilledError(Exception):
    """Ends a run half way."""


@dataclass
class Pictures:
    """An image tower whose vectors are a picture's mean colour and the grey of its corners."""

    pixels: PixelSpec = SPEC
    parameters: int = 1
    fits: int = 10_000  # pictures of a batch, before the device's memory is full
    ends_after: int | None = None  # batches
    useless: dict[int, float] = field(default_factory=dict)  # values put in place of the n-th vector
    batches: list[int] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def encode(self, pictures: UInt8[torch.Tensor, "images 3 height width"]) -> torch.Tensor:
        self.threads.add(threading.current_thread().name)
        if len(self.batches) == self.ends_after:
            raise KilledError
        if len(pictures) > self.fits:
            raise torch.OutOfMemoryError("as a device says it")
        before = sum(self.batches)
        self.batches.append(len(pictures))
        pixels = pictures.float()
        vectors = torch.cat([pixels.mean(dim=(2, 3)), pixels[:, 0, ::15, ::15].flatten(1)], dim=1) + 1
        for row, value in self.useless.items():
            if before <= row < before + len(vectors):
                vectors[row - before] = value
        return vectors


@dataclass
class Texts:
    """A text tower that reads letters: its vectors count them."""

    max_tokens: int = 20
    parameters: int = 1
    fits: int = 10_000
    ends_after: int | None = None
    batches: list[list[str]] = field(default_factory=list)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        if len(self.batches) == self.ends_after:
            raise KilledError
        if len(texts) > self.fits:
            raise torch.OutOfMemoryError("as a device says it")
        self.batches.append(list(texts))
        return torch.tensor([[float(text.count(letter)) for letter in "aeiou 0123456789"] for text in texts])


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PICTURES_PER_PART", PART)
    monkeypatch.setattr(loop, "TEXTS_PER_PART", PART)


def texts(count: int) -> list[str]:
    """Texts of lengths that go up and down."""
    return [f"{i} {'a dog or so ' * (i * 7 % 5)}" for i in range(count)]


def ids(count: int) -> list[str]:
    return [f"picture-{i:03d}#0" for i in range(count)]


def collected(scratch: Scratch, count: int, folder: Path) -> bytes:
    folder.mkdir(exist_ok=True)
    collect(scratch, count, folder / "found.npy")
    return (folder / "found.npy").read_bytes()


def run_texts(encoder: TextEncoder, words: list[str], key: str, folder: Path, batch: int | None = 3) -> np.ndarray:
    with Scratch("embed", key) as scratch:
        embed_texts(encoder, words, ids(len(words)), scratch, CPU, batch=batch)
        collected(scratch, len(words), folder)
    return np.load(folder / "found.npy")


def run_pictures(
    encoder: ImageEncoder, shards: Path, rows: pl.DataFrame, key: str, batch: int | None = 3, threads: int = 2
) -> np.ndarray:
    with Scratch("embed", key) as scratch:
        embed_pictures(encoder, shards, rows, scratch, CPU, batch=batch, decode_threads=threads)
        collected(scratch, len(rows), shards)
    return np.load(shards / "found.npy")


def units(vectors: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(vectors.double(), dim=1).numpy()


# ---------------------------------------------------------------- order


@pytest.mark.parametrize("count", [1, PART - 1, PART, PART + 1, 3 * PART + 2])
def test_each_text_has_its_own_vector_though_texts_are_batched_by_length(count: int, tmp_path: Path) -> None:
    encoder, words = Texts(), texts(count)
    found = run_texts(encoder, words, "a", tmp_path)
    assert np.abs(found - units(Texts().encode(words))).max() < 1e-6
    assert found.dtype == np.float32
    first_part = [len(text) for batch in encoder.batches[: -(-min(count, PART) // 3)] for text in batch]
    assert first_part == sorted(len(text) for text in words[:PART])


@pytest.mark.parametrize("count", [1, PART, 3 * PART + 2])
@pytest.mark.parametrize("threads", [1, 3])
def test_each_picture_has_its_own_vector_in_the_order_of_the_rows(count: int, threads: int, tmp_path: Path) -> None:
    files = jpegs(30)
    rows = write_shards(files, tmp_path)
    wanted = rows.reverse()[:count]  # another order than that of the shards
    encoder = Pictures()
    found = run_pictures(encoder, tmp_path, wanted, "a", threads=threads)
    pixels = batch_pixels(list(reversed(files))[:count], SPEC)
    assert np.abs(found - units(Pictures().encode(pixels))).max() < 1e-6
    assert max(encoder.batches) <= 3
    assert encoder.threads == {"MainThread"}  # threads decode; only one talks to the device


def test_the_decoding_keeps_the_order_even_where_an_early_picture_takes_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_shards(jpegs(12), tmp_path)
    wanted = run_pictures(Pictures(), tmp_path, rows, "a")
    third = threading.Event()
    decoded: list[int] = []

    def late(file: bytes, spec: PixelSpec) -> torch.Tensor:
        number = jpegs(12).index(file)
        if number == 0:
            assert third.wait(300)  # until one of the batch after it is there
        pixels = decode_and_fit(file, spec)
        decoded.append(number)
        if number == 2:
            third.set()
        return pixels

    monkeypatch.setattr(feed, "decode_and_fit", late)
    assert np.array_equal(run_pictures(Pictures(), tmp_path, rows, "b", batch=2), wanted)
    assert decoded.index(2) < decoded.index(0)


def test_shards_that_do_not_belong_to_the_rows_are_refused(tmp_path: Path) -> None:
    rows = write_shards(jpegs(6), tmp_path)
    other = rows.with_columns(pl.col("image_id").reverse())
    with pytest.raises(DataError, match="the shards and their index do not belong together"):
        run_pictures(Pictures(), tmp_path, other, "a")


# ---------------------------------------------------------------- batches


@pytest.fixture(scope="module")
def clip() -> tuple[ImageEncoder, TextEncoder]:
    """A real model of random weights."""
    words = tokenizer(TEXTS)
    vision = {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 20, "vocab_size": len(words), "width": 32, "heads": 2, "layers": 2}
    model = spread(CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text))
    open_clip.model.set_model_preprocess_cfg(model, {"size": 16, "mean": [0.5] * 3, "std": [0.5] * 3})
    hugging = open_clip.tokenizer.HFTokenizer.__new__(open_clip.tokenizer.HFTokenizer)
    hugging.tokenizer, hugging.context_length, hugging.clean_fn = words, 20, str.strip
    hugging.tokenizer_mode, hugging.strip_sep_token, hugging.set_lang_fn = "default", False, None
    towers = wrap(model, hugging, CPU)
    assert towers.image is not None and towers.text is not None
    return towers.image, towers.text


# A model adds the same numbers in another order when its batch or its padding has another shape. What that
# moves is a few units in the last place of float32: below 1e-6 in a vector of length one.
LAST_PLACES = 1e-6


def test_the_batch_changes_no_more_than_the_last_places(clip: tuple[ImageEncoder, TextEncoder], tmp_path: Path) -> None:
    image, text = clip
    rows = write_shards(jpegs(20), tmp_path)
    many = [TEXTS[i % 5] + " and a dog" * (i % 3) for i in range(20)]
    by_picture = [run_pictures(image, tmp_path, rows, f"image {batch}", batch) for batch in (1, 7, 20)]
    by_text = [run_texts(text, many, f"text {batch}", tmp_path, batch) for batch in (1, 7, 20)]
    for one, *others in (by_picture, by_text):
        assert all(np.abs(one - other).max() < LAST_PLACES for other in others)
        assert np.linalg.matrix_rank(one, tol=1e-3) > 5  # the vectors differ, so the comparison says something


def test_a_batch_that_does_not_fit_is_halved_until_it_does(tmp_path: Path) -> None:
    rows = write_shards(jpegs(20), tmp_path)
    image, text, words = Pictures(fits=3), Texts(fits=3), texts(20)
    assert np.array_equal(run_pictures(image, tmp_path, rows, "a", 8), run_pictures(Pictures(), tmp_path, rows, "b", 8))
    assert image.batches == [2] * 10
    wanted = run_texts(Texts(), words, "d", tmp_path, 8)
    assert np.array_equal(run_texts(text, words, "c", tmp_path, 8), wanted)
    assert [len(batch) for batch in text.batches] == [2] * 10


def noted(encode: Callable[[Any], torch.Tensor], tried: list[int]) -> Callable[[Any], torch.Tensor]:
    def encode_and_note(batch: Any) -> torch.Tensor:
        tried.append(len(batch))
        return encode(batch)

    return encode_and_note


def test_the_batch_that_fits_is_remembered_by_all_that_follows_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, words, tried = write_shards(jpegs(20), tmp_path), texts(20), list[int]()
    image, text, room = Pictures(fits=3), Texts(fits=3), DeviceRoom()
    for encoder in (image, text):
        monkeypatch.setattr(encoder, "encode", noted(encoder.encode, tried))
    for key in ("first", "second"):
        with Scratch("embed", key) as scratch:
            embed_pictures(image, tmp_path, rows, scratch, CPU, batch=8, room=room)
    assert tried == [8, 4] + [2] * 20  # two sources: only the first batch of the first was too large
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "a batch of 8 does not fit into the device's memory; going on with 2"
    ]
    tried.clear()
    run_texts(text, words, "texts", tmp_path, 8)
    assert tried == [8, 4] + [2] * 10
    assert room.most == 2


def test_a_device_that_goes_away_is_named(tmp_path: Path) -> None:
    rows = write_shards(jpegs(4), tmp_path)
    gone = RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be")
    with (
        pytest.raises(
            ResourceError, match=r"the device cuda failed in the middle of the work \(CUDA error: an illegal"
        ),
        name_device_fault(Placement(torch.device("cuda"), torch.bfloat16)),
    ):
        raise gone
    for placement, error in ((CPU, gone), (Placement(torch.device("cuda"), torch.bfloat16), RuntimeError("shapes"))):
        with pytest.raises(RuntimeError, match=str(error).splitlines()[0]), name_device_fault(placement):
            raise error
    with pytest.raises(torch.OutOfMemoryError):
        run_pictures(Pictures(fits=0), tmp_path, rows, "a")


# ---------------------------------------------------------------- a device that is not waited for


class Lagging(Transfers):
    """A device whose copies are on their way until they are waited for, as a GPU's are."""

    behind = 1

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.told: list[str] = []
        self.slots: list[Slot] = []

    def allocate(self, shape: tuple[int, ...], host: torch.Tensor | None = None) -> Slot:
        slot = Slot(torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape, dtype=torch.uint8))
        self.slots.append(slot)
        return slot

    def send(self, slot: Slot, count: int) -> torch.Tensor:
        assert slot.used is not True  # what was sent last has been handed to the device
        slot.pixels[:count] = slot.host[:count]
        slot.host.fill_(255)  # who reads the host's memory from here on reads nonsense
        slot.used = slot.copied = True
        self.told.append("send")
        return slot.pixels[:count]

    def release(self, slot: Slot) -> None:
        slot.used = None

    def wait_until_free(self, slot: Slot) -> None:
        assert slot.used is None
        slot.copied = None

    def fetch(self, vectors: Sequence[torch.Tensor]) -> Fetched:
        self.told.append("fetch")
        rows = super().fetch(vectors)

        def wait() -> np.ndarray:
            self.told.append("wait")
            return rows()

        return wait


def test_a_part_comes_back_while_the_next_is_computed_and_buffers_are_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, words = write_shards(jpegs(30), tmp_path), texts(30)
    wanted = run_pictures(Pictures(), tmp_path, rows, "a"), run_texts(Texts(), words, "b", tmp_path)
    lagging = Lagging(CPU.device)
    monkeypatch.setattr(loop, "open_transfers", lambda placement: lagging)
    assert np.array_equal(run_pictures(Pictures(), tmp_path, rows, "c"), wanted[0])
    batches = ["send"] * 3  # of a part of 8
    first = [*batches, "fetch"]
    assert lagging.told == [*first, *first, "wait", *first, "wait", "send", "send", "fetch", "wait", "wait"]
    assert len(lagging.slots) == feed.SLOTS  # for ten batches and more
    lagging.told.clear()
    assert np.array_equal(run_texts(Texts(), words, "d", tmp_path), wanted[1])
    assert lagging.told == ["fetch", "fetch", "wait", "fetch", "wait", "fetch", "wait", "wait"]


@pytest.mark.gpu
def test_a_gpu_gives_each_picture_its_own_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PICTURES_PER_PART_ON_GPU", PART)
    rows = write_shards(jpegs(30), tmp_path)
    wanted = run_pictures(Pictures(), tmp_path, rows, "a")
    with Scratch("embed", "b") as scratch:
        embed_pictures(Pictures(), tmp_path, rows, scratch, Placement(torch.device("cuda"), torch.float32), batch=3)
        collected(scratch, 30, tmp_path)
        assert 0 < scratch.total("idle") <= scratch.total("seconds")
    assert np.abs(np.load(tmp_path / "found.npy") - wanted).max() < 1e-6


def test_the_time_in_which_the_device_had_nothing_to_do_is_noted(tmp_path: Path) -> None:
    rows = write_shards(jpegs(20), tmp_path)
    with Scratch("embed", "a") as scratch:
        embed_pictures(Pictures(), tmp_path, rows, scratch, CPU, batch=3)
        assert 0 < scratch.total("idle") < scratch.total("seconds")


def test_pixels_may_be_made_where_the_tower_is(tmp_path: Path) -> None:
    rows, asked = write_shards(jpegs(20), tmp_path), list[int]()

    def read(files: Sequence[bytes]) -> torch.Tensor:
        asked.append(len(files))
        return batch_pixels(files, SPEC)

    wanted = run_pictures(Pictures(), tmp_path, rows, "a")
    with Scratch("embed", "b") as scratch:
        embed_pictures(Pictures(), tmp_path, rows, scratch, CPU, batch=3, read=read)
        collected(scratch, 20, tmp_path)
    assert np.array_equal(np.load(tmp_path / "found.npy"), wanted)
    assert asked == [3, 3, 2, 3, 3, 2, 3, 1]


def test_texts_are_tokenized_once_ahead_of_the_model(tmp_path: Path) -> None:
    read: list[str] = []

    class Once(Texts):
        def tokenize(self, some: Sequence[str]) -> TokenizedTexts:
            read.extend(some)
            counts = np.array(self.token_counts(some))
            return TokenizedTexts(counts, lambda places: self.encode([some[int(place)] for place in places]))

    words = texts(30)
    assert np.array_equal(run_texts(Once(), words, "a", tmp_path), run_texts(Texts(), words, "b", tmp_path))
    assert read == words


def test_parts_of_a_gpu_hold_several_batches() -> None:
    gpu = Placement(torch.device("cuda"), torch.bfloat16)
    for of_texts in (False, True):
        assert choose_part_size(gpu, of_texts) >= 4 * choose_batch_size(gpu, of_texts)


# ---------------------------------------------------------------- one that does not fit


def test_one_picture_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    rows = write_shards(jpegs(4), tmp_path)
    with pytest.raises(torch.OutOfMemoryError):
        run_pictures(Pictures(fits=0), tmp_path, rows, "a")


def test_the_device_decides_the_batch_where_the_parameters_do_not(tmp_path: Path) -> None:
    encoder = Texts()
    run_texts(encoder, texts(PART), "a", tmp_path, batch=None)
    assert [len(batch) for batch in encoder.batches] == [PART]
    assert choose_batch_size(CPU, texts=True) >= PART


# ---------------------------------------------------------------- interruptions


@pytest.mark.parametrize("ends_after", [0, 2, 3, 4, 7])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(ends_after: int, tmp_path: Path) -> None:
    rows, words = write_shards(jpegs(20), tmp_path), texts(20)
    for run, whole, killed, again in (
        (lambda encoder, key: run_pictures(encoder, tmp_path, rows, key), Pictures(), Pictures(), Pictures()),
        (lambda encoder, key: run_texts(encoder, words, key, tmp_path), Texts(), Texts(), Texts()),
    ):
        kind = type(whole).__name__
        wanted = run(whole, f"{kind} at once")
        wanted_bytes = (tmp_path / "found.npy").read_bytes()
        killed.ends_after = ends_after
        with pytest.raises(KilledError):
            run(killed, f"{kind} in two goes")
        (tmp_path / "found.npy").unlink()
        assert np.array_equal(run(again, f"{kind} in two goes"), wanted)
        assert (tmp_path / "found.npy").read_bytes() == wanted_bytes
        finished = ends_after // 3  # parts of three batches
        assert len(again.batches) == len(whole.batches) - 3 * finished


def test_a_part_that_is_gone_is_made_again_and_the_others_are_not(tmp_path: Path) -> None:
    rows = write_shards(jpegs(3 * PART), tmp_path)
    wanted = run_pictures(Pictures(), tmp_path, rows, "a")
    with Scratch("embed", "a") as scratch:
        assert is_complete(scratch, 3 * PART, PART)
        scratch.path("part-00001.npy").unlink()
        assert not is_complete(scratch, 3 * PART, PART)
    encoder = Pictures()
    assert np.array_equal(run_pictures(encoder, tmp_path, rows, "a"), wanted)
    assert sum(encoder.batches) == PART


def test_seconds_and_truncated_texts_are_noted_by_part_and_survive_a_killed_run(tmp_path: Path) -> None:
    words = texts(20)
    long = sum(len(text) > 20 for text in words)
    assert 0 < sum(len(text) > 20 for text in words[:PART]) < long < 20
    with pytest.raises(KilledError):
        run_texts(Texts(ends_after=4), words, "a", tmp_path)
    run_texts(Texts(), words, "a", tmp_path)
    with Scratch("embed", "a") as scratch:
        assert scratch.total("truncated") == long
        assert 0 < scratch.total("seconds") < 60


# ---------------------------------------------------------------- useless vectors


@pytest.mark.parametrize(
    ("value", "what"), [(0.0, "zero"), (float("nan"), "NaN or infinite"), (float("-inf"), "NaN or infinite")]
)
def test_useless_vectors_are_refused_and_named(value: float, what: str, tmp_path: Path) -> None:
    rows = write_shards(jpegs(20), tmp_path)
    encoder = Pictures(useless={9: value, 12: value})
    with pytest.raises(DataError, match=f"2 of 8 vectors are useless, the first is {what}: picture-009, picture-012$"):
        run_pictures(encoder, tmp_path, rows, "a")
    with Scratch("embed", "a") as scratch:
        assert scratch.has("part-00000.npy")
        assert not scratch.has("part-00001.npy")


def test_a_text_without_a_vector_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 3 vectors are useless, the first is zero: picture-001#0\Z"):
        run_texts(Texts(), ["a dog", "xyz", "a cat"], "a", tmp_path)


def test_rows_are_scaled_to_length_one_whatever_their_length() -> None:
    wanted = np.array([[0.6, 0.8], [0.6, -0.8], [1.0, 0.0], [0.0, 1.0]])
    rows = (wanted * np.array([[1.0], [1e-30], [3e38], [1e-42]])).astype(np.float32)
    assert np.abs(normalise_rows(rows, ["a", "b", "c", "d"]) - wanted).max() < 1e-3  # the last is a subnormal
    assert np.abs(np.linalg.norm(normalise_rows(rows, list("abcd")), axis=1) - 1).max() < 1e-6


def test_many_useless_rows_are_counted_and_five_are_named() -> None:
    with pytest.raises(DataError, match=r"9 of 9 vectors are useless, the first is zero: 0, 1, 2, 3, 4\Z"):
        normalise_rows(np.zeros((9, 4), dtype=np.float32), [str(i) for i in range(9)])


def test_unit_vectors_are_written_as_numpy_writes_them_and_never_through_a_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped file on a full disk ends the process by SIGBUS, which no `except` sees."""
    monkeypatch.setattr(np.lib.format, "open_memmap", None)
    monkeypatch.setattr(np, "memmap", None)
    rows = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    with Scratch("embed", "written") as scratch:
        for n, part in enumerate(np.array_split(rows, 3)):
            scratch.put(f"part-{n:05d}.npy", writing(part))
        assert collect(scratch, 20, tmp_path / "found.npy") == 6
    unit = (rows / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]).astype(np.float32)
    assert (tmp_path / "found.npy").read_bytes() == as_npy(unit)


def writing(rows: np.ndarray) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(as_npy(rows))

    return write


def as_npy(rows: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_disk_without_room_for_the_vectors_says_how_much_they_need(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Scratch("embed", "full") as scratch:
        scratch.put("part-00000.npy", writing(np.ones((20, 6), np.float32)))
        if when == "before":
            monkeypatch.setattr(resources, "measure_free", lambda path: 100)
        else:
            monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
        with pytest.raises(ResourceError, match=r"disk is full: .*found\.npy needs (608 bytes and 100 are|more than)"):
            collect(scratch, 20, tmp_path / "found.npy")


def test_parts_that_are_not_all_there_are_not_collected(tmp_path: Path) -> None:
    run_texts(Texts(), texts(2 * PART), "a", tmp_path)
    with Scratch("embed", "a") as scratch, pytest.raises(AssertionError, match="holds 16 rows of 20"):
        collect(scratch, 20, tmp_path / "more.npy")
