"""What a stage's work took: whole, readable by any program, and not less because an earlier run did half of it."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from twinlens.core import costs
from twinlens.core.costs import MB, Cost
from twinlens.core.scratch import Scratch

ROOT = Path(__file__).resolve().parents[2]


class Clock:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(costs, "time", made)
    return made


def no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def read(path: Path) -> dict[str, Any]:
    """A record as a strict reader takes it."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=no_constant)
    return found


def test_a_record_holds_time_items_rate_memory_and_device(clock: Clock, tmp_path: Path) -> None:
    cost = Cost("cpu-float32")
    clock.now += 2.5
    cost.write(tmp_path / "deep" / "cost.json", items=1000)
    record = read(tmp_path / "deep" / "cost.json")
    assert list(record)[:5] == ["seconds", "items", "items_per_s", "peak_host_mb", "device"]
    assert (record["seconds"], record["items"], record["items_per_s"]) == (2.5, 1000, 400.0)
    assert record["device"] == "cpu-float32"
    assert (tmp_path / "deep" / "cost.json").read_text().endswith("}\n")


@pytest.mark.parametrize("held_mb", [100, 300])
def test_the_peak_of_memory_is_what_this_process_held_and_not_the_one_that_started_it(
    held_mb: int, tmp_path: Path
) -> None:
    here = np.ones(400 * MB, dtype=np.uint8)
    script = f"""
        from pathlib import Path
        from twinlens.core.costs import Cost, peak_host_bytes
        before = peak_host_bytes()
        held = b"x" * ({held_mb} * 1_000_000)
        del held
        Cost().write(Path({str(tmp_path / "cost.json")!r}), items=1)
        print(before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 100 * MB < len(here)
    risen = read(tmp_path / "cost.json")["peak_host_mb"] - int(done.stdout) / MB
    assert held_mb - 10 < risen < held_mb + 10


def test_the_peak_of_a_gpus_memory_is_there_where_a_gpu_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Cost().write(tmp_path / "without.json", items=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1_234_567_890)
    Cost("cuda-bfloat16").write(tmp_path / "with.json", items=1)
    assert "peak_gpu_mb" not in read(tmp_path / "without.json")
    assert read(tmp_path / "with.json")["peak_gpu_mb"] == 1234.568


def test_parts_have_figures_of_their_own_and_add_up(tmp_path: Path) -> None:
    cost = Cost()
    cost.add("image", seconds=2.0, items=100, parameters=1_000_000, bytes_per_vector=512)
    cost.add("captions", seconds=0.5, items=500, tower="text", share=1 / 3)
    cost.write(tmp_path / "cost.json", items=100, seconds=cost.seconds_of_parts())
    record = read(tmp_path / "cost.json")
    assert (record["seconds"], record["items_per_s"]) == (2.5, 40.0)
    assert record["parts"] == {
        "image": {
            "seconds": 2.0, "items": 100, "items_per_s": 50.0, "parameters": 1_000_000, "bytes_per_vector": 512,
        },
        "captions": {"seconds": 0.5, "items": 500, "items_per_s": 1000.0, "tower": "text", "share": 0.333},
    }  # fmt: skip


def test_a_record_without_parts_has_no_empty_place_for_them(tmp_path: Path) -> None:
    cost = Cost()
    assert cost.seconds_of_parts() == 0.0
    cost.write(tmp_path / "cost.json", items=1)
    assert "parts" not in read(tmp_path / "cost.json")


def test_a_part_that_is_recorded_again_is_counted_once() -> None:
    cost = Cost()
    cost.add("image", seconds=2.0, items=100)
    cost.add("image", seconds=3.0, items=100)
    assert cost.seconds_of_parts() == 3.0


@pytest.mark.parametrize("seconds", [0.0, -0.0])
def test_work_that_was_none_has_a_rate_that_is_a_number(seconds: float, clock: Clock, tmp_path: Path) -> None:
    cost = Cost()
    cost.add("image", seconds=seconds, items=5)
    cost.write(tmp_path / "cost.json", items=0)
    record = read(tmp_path / "cost.json")
    assert (record["seconds"], record["items_per_s"], record["parts"]["image"]["items_per_s"]) == (0.0, 0.0, 0.0)


def test_a_record_replaces_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "cost.json").write_text("{" * 5000)
    Cost().write(tmp_path / "cost.json", items=3, seconds=1.0)
    assert read(tmp_path / "cost.json")["items"] == 3


# ---------------------------------------------------------------- resumed


def work(cost: Cost, clock: Clock, dies_after: int | None = None) -> None:
    """Four parts of ten items and two seconds each, as `caption`, `train` and `embed` do them."""
    with Scratch("embed", "key") as scratch:
        for number in range(4):
            name = f"part-{number}.json"
            if scratch.has(name):
                continue
            if number == dies_after:
                raise KeyboardInterrupt
            clock.now += 2.0
            scratch.note(name, seconds=2.0)
            scratch.put(name, Path.touch)
        cost.add("image", seconds=scratch.total("seconds"), items=40)


@pytest.mark.parametrize("deaths", [(), (1,), (3,), (1, 2, 3), (4,)])
def test_a_record_of_a_resumed_run_is_that_of_one_that_was_never_stopped(
    deaths: tuple[int, ...], clock: Clock, tmp_path: Path
) -> None:
    for dies_after in deaths:
        if dies_after < 4:
            with pytest.raises(KeyboardInterrupt):
                work(Cost(), clock, dies_after)
        else:
            work(Cost(), clock)  # finished, but killed before its output was there
        clock.now += 3600  # until it is started again
    cost = Cost()
    work(cost, clock)
    cost.write(tmp_path / "cost.json", items=40, seconds=cost.seconds_of_parts())
    record = read(tmp_path / "cost.json")
    assert (record["seconds"], record["items"], record["items_per_s"]) == (8.0, 40, 5.0)
    assert record["parts"]["image"] == {"seconds": 8.0, "items": 40, "items_per_s": 5.0}
