"""Whoever misses an output is told to make it, or to wait for the dvc that is at work."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from twinlens.core.absence import LOCKS, advise
from twinlens.core.errors import DataError
from twinlens.core.tables import IMAGES, read_table

REMEDY = "`dvc repro train` makes it"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)


def lock(process: int) -> None:
    """Write what dvc notes while it runs a stage."""
    LOCKS.parent.mkdir(parents=True, exist_ok=True)
    writes = {str(Path("data/trained/scenes/clip").absolute()): {"pid": process, "cmd": "/bin/dvc repro"}}
    LOCKS.write_text(json.dumps({"write": writes, "read": {}}))


def test_where_nobody_is_at_work_the_remedy_is_named() -> None:
    assert advise(REMEDY) == REMEDY


def test_while_dvc_is_at_work_one_waits_for_it() -> None:
    lock(os.getpid())
    wanted = f"`dvc` is at work (process {os.getpid()}, on data/trained/scenes/clip): try again when that has ended"
    assert advise(REMEDY) == wanted
    with pytest.raises(DataError, match=r"images\.parquet is not here: `dvc` is at work \(process "):
        read_table(Path("images.parquet"), IMAGES)


def test_the_lock_of_a_dvc_that_was_killed_says_nothing() -> None:
    lock(2**22 + 1)  # no process has such a number
    assert advise(REMEDY) == REMEDY


def test_a_stage_does_not_wait_for_its_own_dvc(monkeypatch: pytest.MonkeyPatch) -> None:
    lock(os.getpid())
    monkeypatch.setenv("DVC_STAGE", "embed")
    assert advise(REMEDY) == REMEDY


OTHER_FORMS = ("[]", '{"write": []}', '{"write": {"a": {"pid": "x"}}}', '{"write": {"a": 1}}')


@pytest.mark.parametrize("content", ["", '{"write": {"data'])
def test_a_lock_that_a_killed_dvc_left_cut_short_has_to_go_first(content: str) -> None:
    lock(os.getpid())
    LOCKS.write_text(content)
    assert advise(REMEDY) == (
        "a killed `dvc` left .dvc/tmp/rwlock cut short, so that no dvc runs: remove that file; "
        "then `dvc repro train` makes it"
    )


@pytest.mark.parametrize("content", OTHER_FORMS)
def test_a_lock_of_another_form_says_nothing(content: str) -> None:
    lock(os.getpid())
    LOCKS.write_text(content)
    assert advise(REMEDY) == REMEDY
