"""What may be written to a terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from twinlens.apps.commands.terminal import print_table, show_work, strip_control


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("two  dogs\non a\tbeach", "two dogs on a beach"),
        ("\x1b]0;title\x07x\x9by\x00", "]0;title x y"),
        ("a\u2028b\u2029c", "a b c"),
        ("\u202eabc\u2066d", "abcd"),
        ("a\ud800b", "a b"),
        ("👩\u200d🚀 שלום café", "👩\u200d🚀 שלום café"),
    ],
)
def test_only_what_steers_is_taken_out(text: str, wanted: str) -> None:
    assert strip_control(text) == wanted


class Screen(io.StringIO):
    """Standard error, as a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_that_something_goes_on_and_a_pipe_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream, seen in ((Screen(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        with show_work("searching"):
            pass
        assert ("searching ..." in stream.getvalue()) is seen


def test_a_pipe_gets_a_heading_and_a_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "active"], [["a\tb", "yes"], ["c", "-"]])
    assert capsys.readouterr().out == "name\tactive\na b\tyes\nc\t-\n"


@pytest.mark.parametrize("starts", ["import stages", "import twinlens.apps.cli as cli; cli.main(['--version'])"])
def test_bars_of_libraries_are_silent_and_those_that_say_so_are_shown(starts: str) -> None:
    """transformers draws one over each load of weights; downloads and our own work have theirs."""
    code = (
        f"import sys\ntry:\n    {starts}\nexcept SystemExit:\n    pass\n"
        "from tqdm.auto import tqdm\n"
        "list(tqdm(range(3), desc='Loading weights'))\nlist(tqdm(range(3), desc='ours', disable=False))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, check=True, env=environment | {"PYTHONPATH": "."}
    )
    assert "Loading weights" not in done.stderr
    assert "ours" in done.stderr
