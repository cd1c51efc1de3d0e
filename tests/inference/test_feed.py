"""The feed of picture towers: the same pixels in the same order, whoever decodes them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch

from twinlens.core.device import Placement
from twinlens.core.errors import ResourceError
from twinlens.images import workers
from twinlens.images.transforms import PixelSpec, batch_pixels
from twinlens.inference import feed
from twinlens.inference.feed import Feed
from twinlens.inference.transfers import Transfers, open_transfers

SPEC = PixelSpec(24, 32, "squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SIZES = [20, 20, 20, 20, 20, 7]  # more batches than places


def jpegs() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [simplejpeg.encode_jpeg(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(sum(SIZES))]


def open_feed(threads: int = 3) -> Feed:
    return Feed(SPEC, max(SIZES), open_transfers(Placement(torch.device("cpu"), torch.float32)), threads)


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "threads_suffice", lambda cores: False)


@pytest.fixture(params=["threads", "processes"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(feed, "threads_suffice", lambda cores: request.param == "threads")
    return str(request.param)


def test_batches_come_in_order_with_the_pixels_that_a_model_reads(either_way: str) -> None:
    raws, made = jpegs(), open_feed()
    assert made.by_processes == (either_way == "processes")
    batches = [batch.clone() for batch in made.batches(iter(raws), SIZES)]
    assert [len(batch) for batch in batches] == SIZES
    assert torch.equal(torch.cat(batches), batch_pixels(raws, SPEC))


def test_pictures_larger_than_the_shared_room_are_sent(in_processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    raws = jpegs()
    monkeypatch.setattr(feed, "JPEG_BYTES", len(raws[0]) // 2)
    batches = [batch.clone() for batch in open_feed().batches(iter(raws), SIZES)]
    assert torch.equal(torch.cat(batches), batch_pixels(raws, SPEC))


def test_what_cannot_be_read_is_told_where_batches_are_asked_for(either_way: str) -> None:
    def failing() -> Iterator[bytes]:
        yield from jpegs()[:30]
        raise ValueError("the shard is gone")

    batches = open_feed().batches(failing(), SIZES)
    assert len(next(batches)) == SIZES[0]
    with pytest.raises(ValueError, match="the shard is gone"):
        list(batches)


def test_a_feed_that_is_left_in_the_middle_ends_its_workers(
    in_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[ProcessPoolExecutor] = []

    def keep(*given: Any) -> ProcessPoolExecutor:
        opened.append(workers.open_workers(*given))
        return opened[-1]

    monkeypatch.setattr(feed, "open_workers", keep)
    batches = open_feed().batches(iter(jpegs()), SIZES)
    next(batches)
    processes = list(opened[0]._processes.values())
    assert len(processes) == 3
    batches.close()
    assert not any(process.is_alive() for process in processes)


def test_a_worker_that_the_system_ends_is_told_with_what_to_lower(
    in_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killing() -> Iterator[bytes]:
        for place, raw in enumerate(jpegs()):
            yield raw if place < 30 else b"kill"

    whole = feed._decode

    def decode(jpegs: list[bytes], spec: PixelSpec, out: torch.Tensor) -> None:
        if b"kill" in jpegs:
            os.kill(os.getpid(), signal.SIGKILL)
        whole(jpegs, spec, out)

    monkeypatch.setattr(feed, "_decode", decode)
    with pytest.raises(ResourceError, match=r"compute.decode_threads \(now 3\)"):
        list(open_feed().batches(killing(), SIZES))


def test_places_are_given_back(either_way: str) -> None:
    class Counted(Transfers):
        freed = 0

        def free(self, slot: object) -> None:
            Counted.freed += 1

    made = Feed(SPEC, max(SIZES), Counted(torch.device("cpu")), 3)
    list(made.batches(iter(jpegs()), SIZES))
    assert Counted.freed == len(made._slots) == feed.SLOTS
