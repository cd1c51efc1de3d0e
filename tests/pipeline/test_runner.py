"""The start of every stage: a disk that cannot be written and memory that runs out end it with one sentence."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from stages.runner import run_stage
from twinlens.config.watched import add_watched
from twinlens.core.errors import ResourceError
from twinlens.core.scratch import Scratch, write_whole
from twinlens.core.tables import DROPPED, write_table
from twinlens.core.watch import write_state

SPACE = errno.ENOSPC


def ended(error: Exception, monkeypatch: pytest.MonkeyPatch) -> str:
    def main() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["stages/embed.py"])
    with pytest.raises(SystemExit) as told:
        run_stage(main)
    return str(told.value)


def test_a_full_disk_is_said_with_what_is_free_wherever_a_stage_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ended(OSError(SPACE, os.strerror(SPACE)), monkeypatch)
    assert re.match(r"embed: the disk is full; free are [\d,]+ bytes in /.*, [\d,]+ bytes in /.*\. Make room", said)
    assert "Make room, or let TWINLENS_SCRATCH" in said


def test_a_disk_that_may_only_be_read_is_said_with_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ended(OSError(errno.EROFS, "Read-only file system", "data/cards/x.json"), monkeypatch)
    assert said.startswith("embed: the disk may only be read (data/cards/x.json): mend its owner or permissions")


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 8 GiB"), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")]
)
def test_memory_that_runs_out_is_said_with_what_to_lower(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ended(error, monkeypatch)
    assert said.startswith("embed: memory ran out (")
    assert "compute.image_batch" in said


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(sys, "argv", ["stages/embed.py"])
    with pytest.raises(ValueError, match="a defect"):
        run_stage(main)


def test_an_interrupt_while_a_stage_still_imports_is_a_sentence() -> None:
    for error, said in (
        ("KeyboardInterrupt", "interrupted; finished parts are kept, run again to go on\n"),
        ("1 / 0", ""),
    ):
        code = f"import stages\nraise {error}" if said else f"import stages\n{error}"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ended.returncode != 0
        assert ended.stderr == said if said else ended.stderr.endswith("ZeroDivisionError: division by zero\n")


# ---------------------------------------------------------------- a disk of one megabyte


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 1 MB of its own, where this process may mount one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if mount is None or umount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run([umount, "-l", str(folder)], check=False)


def test_an_output_on_a_full_disk_is_named_and_nothing_half_written_bears_its_name(tiny: Path) -> None:
    out = tiny / "data" / "embedded"
    said = rf"the disk is full: {out} needs more than [\d,]+ bytes, of which [\d,]+ were written and [\d,]+ are free"
    with pytest.raises(ResourceError, match=said), write_whole(out) as draft:
        for n in range(9):
            np.save(draft / f"{n}.npy", np.zeros(50_000, np.float32))
    assert list(out.parent.iterdir()) == []


def test_what_is_no_output_of_dvc_is_whole_on_a_full_disk_too(tiny: Path) -> None:
    cards, state = tiny / "cards", tiny / "watched" / "files.json"
    cards.mkdir()
    (cards / "watched.yaml").write_text("# mine\nwatched: []\n", encoding="utf-8")
    with (tiny / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(tiny).free)
    for path, write in (
        (cards / "watched.yaml", lambda: add_watched("a", cards)),
        (state, lambda: write_state({}, state)),
    ):
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(ResourceError, match=f"the disk is full: {path} needs"):
            write()
        assert (path.read_bytes() if path.exists() else None) == before
        assert [one.name for one in path.parent.iterdir()] == ([] if before is None else [path.name])


def test_a_part_and_a_table_on_a_full_disk_are_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tiny))
    with Scratch("parts", "key") as scratch:
        with pytest.raises(ResourceError, match=r"the disk is full: .*/parts/key/a.npy needs more than"):
            scratch.put("a.npy", lambda path: np.zeros(2_000_000, np.uint8).tofile(path))
        assert not scratch.has("a.npy")
    rows = pl.DataFrame({"kind": "x", "id": [os.urandom(500).hex() for _ in range(4_000)], "rule": "x", "reason": "x"})
    with pytest.raises(ResourceError, match=r"the disk is full: .*/t.parquet needs more than"):
        write_table(rows, tiny / "t.parquet", DROPPED)


@pytest.mark.parametrize(("told", "found"), [({}, "1"), ({"THP_MEM_ALLOC_ENABLE": "0"}, "0")])
def test_huge_pages_are_asked_for_before_torch_can_look_unless_somebody_said_otherwise(
    told: dict[str, str], found: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"} | told
    code = "import stages, os, sys; print(os.environ['THP_MEM_ALLOC_ENABLE'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{found} False\n"
