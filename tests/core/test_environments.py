"""Environments of exact versions: made once, found again, never taken for whole when they are not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.strangers import write_wheel
from twinlens.core import environments, paths
from twinlens.core.environments import make_environment
from twinlens.core.errors import FetchError


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWINLENS_OFFLINE", "1")
    folder = tmp_path / "wheels"
    for version in ("1.0", "2.0"):
        write_wheel(folder, "colours", version, f"VERSION = {version!r}")
    return folder


def run(python: Path, code: str) -> str:
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_run", lambda *_: pytest.fail("it was made again"))


def test_two_versions_lie_beside_each_other_and_are_found_again(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [make_environment([f"colours=={version}"], wheels=wheels) for version in ("1.0", "2.0")]
    assert [run(one.python, "import colours; print(colours.VERSION)") for one in made] == ["1.0", "2.0"]
    assert [one.installed for one in made] == [{"colours": "1.0"}, {"colours": "2.0"}]
    assert made[0].digest != made[1].digest
    assert made[0].python.parents[1] == paths.environments() / made[0].digest
    forbid(monkeypatch)
    assert make_environment(["colours==1.0"]) == made[0]  # nor are the wheels asked for


def test_what_is_not_named_is_inherited_or_not(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINLENS_WHEELS", str(wheels))
    write_wheel(wheels, "numpy", "0.0.1", "__version__ = '0.0.1'")
    found = make_environment(["numpy==0.0.1"], inherits=True)
    assert found.installed == {"numpy": "0.0.1"}
    code = "import numpy, pydantic, importlib.metadata as m; print(numpy.__version__, m.version('numpy'))"
    assert run(found.python, code) == "0.0.1 0.0.1"
    alone = make_environment(["numpy==0.0.1"])
    with pytest.raises(subprocess.CalledProcessError):
        run(alone.python, "import pydantic")
    assert make_environment([], inherits=True).installed == {}


def test_half_an_environment_is_made_again(wheels: Path) -> None:
    made = make_environment(["colours==1.0"], wheels=wheels)
    folder = made.python.parents[1]
    (folder / environments.NOTE).unlink()
    (folder / "rest").write_text("of a killed installation")
    assert make_environment(["colours==1.0"], wheels=wheels) == made
    assert not (folder / "rest").exists()
    made.python.unlink()  # the Python that it was made of has gone
    made.python.symlink_to("/nowhere/python")
    assert run(make_environment(["colours==1.0"], wheels=wheels).python, "import colours") == ""


def test_what_no_run_uses_any_more_goes_when_another_is_made(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(folder: Path, *_: object) -> None:  # nothing is installed
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").symlink_to(sys.executable)

    def ask(version: str) -> Path:
        return make_environment([f"colours=={version}"], wheels=wheels).python.parents[1]

    monkeypatch.setattr(environments, "_make", make)
    monkeypatch.setattr(environments, "_run", lambda *_: '{"folder": "", "python": "3.11.7", "installed": {}}')
    first = ask("1.0")
    os.utime(first / environments.NOTE, (0, 0))
    assert ask("1.0") == first
    assert (first / environments.NOTE).stat().st_mtime > 0  # its use is noted
    half = paths.environments() / "half"  # of a killed run
    half.mkdir()
    assert environments.prune_environments() == []
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 91 * 86_400)
    assert set(environments.prune_environments()) == {first, half}
    assert list(paths.environments().iterdir()) == []
    monkeypatch.setattr(time, "time", lambda: now)
    assert ask("1.0").exists()


def test_offline_it_says_what_to_place_where(wheels: Path) -> None:
    with pytest.raises(FetchError) as told:
        make_environment(["colours==1.0", "shapes==3.1"], python="3.10")
    message = str(told.value)
    assert "offline, and the environment of colours==1.0, shapes==3.1 is not made" in message
    assert "python3.10 -m pip download --only-binary :all: -d wheels colours==1.0 shapes==3.1" in message
    assert "name it in TWINLENS_WHEELS or as `environment.wheels`" in message
    assert str(paths.environments()) in message
    assert not list(paths.environments().glob("*/"))


def test_a_version_that_is_not_there_is_told(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FetchError, match=r"installing the environment failed: .*colours.*3\.0.*TWINLENS_WHEELS"):
        make_environment(["colours==3.0"], wheels=wheels)
    with pytest.raises(FetchError, match="nowhere, named as a folder of wheels, is not there"):
        make_environment(["colours==3.0"], wheels=wheels / "nowhere")
    monkeypatch.setattr(environments, "_find_uv", lambda: None)
    with pytest.raises(FetchError, match=r"there is no python3\.77 here"):
        make_environment(["colours==1.0"], python="3.77", wheels=wheels)


@pytest.mark.slow
def test_without_uv_pip_makes_the_same(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_find_uv", lambda: None)
    made = make_environment(["colours==2.0"], wheels=wheels)
    assert run(made.python, "import colours; print(colours.VERSION)") == "2.0"
    assert made.installed["colours"] == "2.0"
    with pytest.raises(FetchError, match=r"installing the environment failed: .*colours==3\.0"):
        make_environment(["colours==3.0"], wheels=wheels)


def test_a_source_is_not_built(wheels: Path, tmp_path: Path) -> None:
    """Whatever a source distribution does while it is built is done as this user."""
    source = tmp_path / "shapes-1.0"
    source.mkdir()
    (source / "setup.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')")
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: shapes\nVersion: 1.0\n")
    subprocess.run(["tar", "czf", wheels / "shapes-1.0.tar.gz", "-C", tmp_path, "shapes-1.0"], check=True)
    with pytest.raises(FetchError, match="installing the environment failed"):
        make_environment(["shapes==1.0"], wheels=wheels)
    assert not (tmp_path / "it ran").exists()


def test_our_own_python_path_does_not_reach_the_installer(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    real = subprocess.run

    def spy(command: list[str], **options: object) -> object:
        seen.append(dict(options["env"]))  # type: ignore[call-overload]
        return real(command, **options)  # type: ignore[call-overload]

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(subprocess, "run", spy)
    make_environment(["colours==1.0"], wheels=wheels)
    assert seen and not any("PYTHONPATH" in one for one in seen)
