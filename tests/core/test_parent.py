"""A stage whose dvc was killed ends and overwrites nothing; one that a person started is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from twinlens.core import parent
from twinlens.core.parent import OrphanError, end_with_dvc, refuse_orphan
from twinlens.core.scratch import write_whole, write_whole_file, write_whole_text

ROOT = Path(__file__).resolve().parents[2]

STAGE = """
    import os
    PARENT = os.getppid()
    import signal, sys, time
    from pathlib import Path
    from twinlens.core.parent import end_with_dvc
    from twinlens.core.scratch import write_whole_text

    end_with_dvc(PARENT)
    print(PARENT, os.getpid(), flush=True)
    deadline = time.monotonic() + 60
    while not Path("go").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    write_whole_text(Path("out"), "old settings")
"""
# Starts the stage as dvc does, and goes on until it is killed. With `; true` the shell stays between the two.
DVC = """
    import os, subprocess, sys
    subprocess.Popen(["/bin/sh", "-c", sys.argv[1]], close_fds=True).communicate()
"""

COMMAND = f"{sys.executable} stage.py -m stages.x"


def start(folder: Path, command: str, **variables: str) -> subprocess.Popen[str]:
    (folder / "stage.py").write_text(textwrap.dedent(STAGE))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DVC_")}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DVC), command],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_alone(dvc: subprocess.Popen[str]) -> str:
    """Kill dvc and nothing else, once the stage is at work; returns what was said until the stage had ended."""
    assert dvc.stdout is not None
    above, stage = map(int, dvc.stdout.readline().split())
    assert dvc.pid not in (above, stage) or above == dvc.pid
    dvc.send_signal(signal.SIGKILL)
    return dvc.stdout.read()  # to the end: the stage holds the other side until it ends


@pytest.mark.parametrize("ending", ["", "; true"])
def test_a_stage_ends_with_its_dvc_and_leaves_what_a_later_one_made(ending: str, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("new settings")
    dvc = start(tmp_path, f"{COMMAND}{ending}", DVC_STAGE="x")
    said = kill_alone(dvc)
    assert not (tmp_path / "go").exists()
    assert (tmp_path / "out").read_text() == "new settings"
    assert said == "" or "the dvc that started this stage was killed" in said  # the kernel ends it without a word
    dvc.wait()


def test_a_stage_that_a_person_started_outlives_its_shell(tmp_path: Path) -> None:
    shell = start(tmp_path, COMMAND)
    assert shell.stdout is not None
    shell.stdout.readline()
    shell.send_signal(signal.SIGKILL)
    shell.wait()
    (tmp_path / "go").touch()
    assert shell.stdout.read() == ""
    assert (tmp_path / "out").read_text() == "old settings"


def test_a_stage_publishes_while_its_dvc_is_there(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    dvc = start(tmp_path, f"{COMMAND}; true", DVC_STAGE="x")
    dvc.communicate()
    assert (tmp_path / "out").read_text() == "old settings"


def test_an_orphan_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole_text(tmp_path / "file", "new")
    with write_whole(tmp_path / "folder") as draft:
        (draft / "a").write_text("new")
    monkeypatch.setattr(parent, "_chain", [os.getpid(), 2**22 + 1])  # no process has such a number
    with pytest.raises(OrphanError, match="`dvc repro` goes on from there"):
        write_whole_text(tmp_path / "file", "old")
    with pytest.raises(OrphanError), write_whole_file(tmp_path / "file") as draft:
        draft.write_text("old")
    with pytest.raises(OrphanError), write_whole(tmp_path / "folder") as draft:
        (draft / "a").write_text("old")
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "a").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_stage_that_begins_after_its_dvc_was_killed_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes a while to start, and by then its parent is whoever takes in orphans: of another session."""
    monkeypatch.setattr(parent, "_chain", [])
    monkeypatch.setenv("DVC_STAGE", "x")
    monkeypatch.setattr(os, "getsid", lambda process: 7 if process == 0 else 1)
    with pytest.raises(OrphanError):
        end_with_dvc(os.getppid())


def test_a_fork_of_a_stage_is_no_orphan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent, "_chain", [os.getppid(), 2**22 + 1])  # as it was handed on
    refuse_orphan()
