"""How many cores this process may use: those it is bound to, within its container's quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from twinlens.config.params import ComputeParams
from twinlens.core import cores
from twinlens.core.cores import choose_threads, count_cores, read_quota


def groups(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_max", ".max")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def own(folder: Path, text: str) -> Path:
    path = folder / "own"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("told", "quota"),
    [("400000 100000\n", 4.0), ("150000 100000", 1.5), ("max 100000", None), ("", None), ("x y", None)],
)
def test_the_quota_is_work_allowed_over_its_period(told: str, quota: float | None, tmp_path: Path) -> None:
    groups(tmp_path, a__cpu_max=told)
    assert read_quota(tmp_path, own(tmp_path, "0::/a\n")) == quota


def test_the_smallest_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    groups(tmp_path, cpu_max="200000 100000", a__cpu_max="800000 100000", a__b__cpu_max="max 100000")
    assert read_quota(tmp_path, own(tmp_path, "0::/a/b\n")) == 2.0


def test_a_container_that_sees_its_own_group_as_the_root_has_its_quota(tmp_path: Path) -> None:
    groups(tmp_path, cpu_max="300000 100000")
    assert read_quota(tmp_path, own(tmp_path, "0::/../../elsewhere\n")) == 3.0


def test_the_first_version_of_control_groups_has_one_too(tmp_path: Path) -> None:
    folder = tmp_path / "cpu" / "mine"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("250000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert read_quota(tmp_path, own(tmp_path, "4:memory:/x\n1:cpu,cpuacct:/mine\n0::/\n")) == 2.5
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert read_quota(tmp_path, own(tmp_path, "1:cpu,cpuacct:/mine\n")) is None


def test_elsewhere_there_is_no_quota(tmp_path: Path) -> None:
    assert read_quota(tmp_path, tmp_path / "not there") is None


@pytest.mark.parametrize(
    ("bound", "quota", "count"),
    [(16, None, 16), (16, 4.0, 4), (2, 8.0, 2), (16, 2.5, 2), (16, 0.2, 1), (400, None, 400)],
)
def test_the_fewer_of_both_count(bound: int, quota: float | None, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)
    monkeypatch.setattr(cores, "read_quota", lambda: quota)
    assert count_cores() == count
    assert choose_threads() == min(256, count)


def test_settings_left_empty_are_read_as_what_suits_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinlens.config.params.choose_threads", lambda: 12)
    given = {"device": "cpu", "image_batch": None, "text_batch": None}
    assert ComputeParams.model_validate(given | {"decode_threads": None}).decode_threads == 12
    assert ComputeParams.model_validate(given | {"decode_threads": 3}).decode_threads == 3
    with pytest.raises(ValueError, match="decode_threads"):
        ComputeParams.model_validate(given | {"decode_threads": 0})
