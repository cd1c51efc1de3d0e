"""A process that begins with its libraries loaded is what python would have started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.preloaded import FOLDER, start_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a library may not live through a fork"),
]

TOLD = """
import atexit, os, signal, sys, threading, time
from pathlib import Path

class Word(str): pass

def end():
    {end}

if __name__ == "__main__":
    atexit.register(print, "at the end")
    threading.Thread(target=lambda: print("a thread ends", threading.main_thread().join())).start()
    ours = [name for name in sys.modules if name.split(".")[0] in ("twinlens", "stages", "tests")]
    print(sys.argv, sys.path[:2], Path.cwd(), os.environ.get("TQDM_DISABLE"))
    print(os.environ["WORD"], sys.stdin.read(), Word.__module__, ours)
    end()
"""


def run(first: Path, folder: Path) -> tuple[int, str, str]:
    """How `python -m told` ends, and what it says, where python is that of a folder."""
    environment = {"PATH": f"{first}{os.pathsep}{os.environ['PATH']}", "WORD": "käse", "PYTHONPATH": "/nowhere"}
    command = ["python", "-m", "told", "--a", "b c", ""]
    done = subprocess.run(
        command, cwd=folder, env=environment, input="given", text=True, capture_output=True, check=False
    )
    return done.returncode, done.stdout, done.stderr.splitlines()[-1] if done.stderr else ""


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "sys.exit(3)",
        "sys.exit('told: this is not there')",
        "raise ValueError('a defect')",
        "sys.stdout.flush(); os.kill(os.getpid(), signal.SIGTERM); time.sleep(600)",
    ],
)
def test_it_says_and_ends_as_python_does(end: str, tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(TOLD.format(end=end), encoding="utf-8")
    server = start_server()
    assert server is not None
    told = run(server, tmp_path)
    assert told == run(Path(sys.executable).parent, tmp_path)
    assert "käse given __main__ []\n" in told[1]


def test_it_ends_with_who_asked_for_it(tmp_path: Path) -> None:
    forever = "import os, time, pathlib; pathlib.Path('begun').write_text(str(os.getpid())); time.sleep(600)"
    (tmp_path / "forever.py").write_text(forever, encoding="utf-8")
    client = subprocess.Popen([f"{start_server()}/python", "-m", "forever"], cwd=tmp_path)
    while not (tmp_path / "begun").exists() or not (tmp_path / "begun").read_text():
        time.sleep(0.01)
    process = Path("/proc") / (tmp_path / "begun").read_text()
    assert process.exists()
    client.send_signal(signal.SIGKILL)
    client.wait()
    while process.exists():
        time.sleep(0.01)


def test_libraries_are_there_when_it_begins(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text("import sys; print('torch' in sys.modules)", encoding="utf-8")
    done = subprocess.run([f"{start_server()}/python", "-m", "told"], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == b"True\n"


def test_anything_but_a_module_is_pythons_own(tmp_path: Path) -> None:
    command = [f"{start_server()}/python", "-c", "import sys; print(sys.executable, 'torch' in sys.modules)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{sys.executable} False\n"


def test_where_no_server_could_begin_python_is_started(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    command = [
        sys.executable,
        "-IS",
        str(FOLDER / "client.py"),
        str(tmp_path / "socket"),
        str(gone.pid),
        sys.executable,
    ]
    done = subprocess.run([*command, "-m", "calendar", "2026", "11"], capture_output=True, text=True, check=True)
    assert "November 2026" in done.stdout
