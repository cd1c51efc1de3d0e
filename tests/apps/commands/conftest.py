"""The small index of the search tests, and a command line to ask it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.indexing.conftest import built, copy, root
from twinlens.apps.cli import main
from twinlens.indexing import session

__all__ = ["built", "copy", "root"]
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: int
    out: str
    err: str


@pytest.fixture
def twinlens(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """The command line, in this process; its output goes to no terminal."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(session, "_KEPT", session.SearcherCache())  # a process of its own has nothing open
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return run


def process(*arguments: str, stdin: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """The same as a process of its own, in the folder that the test is in."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, "-m", "twinlens", *arguments]
    return subprocess.run(command, text=True, capture_output=True, check=False, env=environment, input=stdin)
