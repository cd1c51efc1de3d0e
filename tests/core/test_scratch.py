"""Unfinished work: a part is whole or absent, one process works at a time, and outputs appear at once or not at all."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.core import paths
from twinlens.core.part_store import DIGESTS
from twinlens.core.scratch import (
    Scratch,
    digest,
    fingerprint,
    prune,
    write_whole,
    write_whole_file,
    write_whole_text,
)

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0  # for another process; only reached when something is wrong


def text(content: str) -> Callable[[Path], None]:
    """What writes `content` into a part."""

    def write(path: Path) -> None:
        path.write_text(content)

    return write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def process(script: str) -> subprocess.Popen[str]:
    """Another Python process of the project, that answers line by line and reads lines."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def heard(running: subprocess.Popen[str], line: str) -> None:
    """Wait until another process says `line`."""
    assert running.stdout is not None
    assert running.stdout.readline() == line + "\n"


def kill(running: subprocess.Popen[str]) -> None:
    """SIGKILL: nothing of the process runs any more, no `finally` either."""
    running.kill()
    assert running.wait(PATIENCE_S) == -signal.SIGKILL
    for stream in (running.stdin, running.stdout):
        assert stream is not None
        stream.close()


# ---------------------------------------------------------------- parts


def test_a_part_is_absent_and_then_whole() -> None:
    with Scratch("work", "key") as scratch:
        assert not scratch.has("a.txt")
        assert scratch.put("a.txt", text("all of it")) == scratch.path("a.txt")
        assert scratch.has("a.txt")
        assert scratch.path("a.txt").read_text() == "all of it"


def test_a_part_outlives_the_run_that_made_it_under_its_work_and_key() -> None:
    with Scratch("work", "key") as scratch:
        scratch.put("a.txt", text("first"))
    with Scratch("work", "key") as again, Scratch("work", "other") as other, Scratch("else", "key") as third:
        assert again.has("a.txt")
        assert not other.has("a.txt")
        assert not third.has("a.txt")


def test_a_part_does_not_bear_its_name_while_it_is_written() -> None:
    with Scratch("work", "key") as scratch:

        def write(path: Path) -> None:
            path.write_text("half")
            assert not scratch.has("a.txt")

        scratch.put("a.txt", write)
        assert scratch.has("a.txt")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_a_part_is_written_leaves_nothing_of_it(error: type[BaseException]) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise error

    with Scratch("work", "key") as scratch:
        with pytest.raises(error):
            scratch.put("a.txt", fail)
        assert not scratch.has("a.txt")
        assert names(scratch.folder) == ["lock"]


def test_an_error_leaves_the_part_that_was_there_before() -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise ValueError

    with Scratch("work", "key") as scratch:
        scratch.put("a.txt", text("before"))
        with pytest.raises(ValueError):
            scratch.put("a.txt", fail)
        assert scratch.path("a.txt").read_text() == "before"


def test_a_part_may_be_a_folder() -> None:
    def write(path: Path) -> None:
        path.mkdir()
        (path / "inside").write_text("x")

    def fail(path: Path) -> None:
        write(path)
        raise ValueError

    with Scratch("work", "key") as scratch:
        with pytest.raises(ValueError):
            scratch.put("folder", fail)
        assert names(scratch.folder) == ["lock"]
        scratch.put("folder", write)
        assert names(scratch.path("folder")) == ["inside"]


def test_a_process_killed_while_it_writes_a_part_leaves_it_absent_and_the_next_run_clears_up() -> None:
    running = process("""
        import time
        from twinlens.core.scratch import Scratch

        def write(path):
            with path.open("w") as file:
                file.write("half of it")
                file.flush()
                print("half", flush=True)
                time.sleep(600)

        with Scratch("work", "key") as scratch:
            scratch.put("whole.txt", lambda path: path.write_text("whole"))
            scratch.put("half.txt", write)
    """)
    heard(running, "half")
    kill(running)
    folder = paths.scratch() / "work" / "key"
    assert [name for name in names(folder) if name.startswith(".part-")] != []  # it was in the middle of it
    with Scratch("work", "key") as scratch:
        assert scratch.has("whole.txt")
        assert not scratch.has("half.txt")
        assert names(scratch.folder) == [DIGESTS, "lock", "whole.txt"]


@pytest.mark.parametrize("fault", ["a bit", "cut", "empty", "longer"])
@pytest.mark.parametrize("which", ["part-0.npy", "part-0.npy.note"])
def test_a_damaged_part_counts_as_absent_and_is_made_again(which: str, fault: str) -> None:
    with Scratch("work", "key") as scratch:
        for name in ("part-0.npy", "part-1.npy"):
            scratch.note(name, seconds=2.0)
            scratch.put(name, text("vectors of pictures"))
    path = scratch.path(which)
    raw, stat = bytearray(path.read_bytes()), path.stat()
    changed = {"a bit": bytes([raw[0] ^ 1, *raw[1:]]), "cut": raw[:-3], "empty": b"", "longer": raw + b"\0"}
    path.write_bytes(bytes(changed[fault]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a disk changes it: nothing else tells
    with Scratch("work", "key") as again:
        assert not again.has("part-0.npy")
        assert again.has("part-1.npy")
        again.note("part-0.npy", seconds=3.0)
        again.put("part-0.npy", text("vectors of pictures"))
        assert again.has("part-0.npy")
        assert again.total("seconds") == 5.0


@pytest.mark.parametrize("fault", ["a bit", "cut", "missing"])
def test_a_damaged_file_of_a_folder_is_found_when_its_time_or_size_is_another(fault: str) -> None:
    def write(path: Path) -> None:
        path.mkdir()
        (path / "rows").write_bytes(b"rows of a table")
        (path / "words").write_bytes(b"words")

    with Scratch("work", "key") as scratch:
        scratch.put("folder", write)
        assert scratch.has("folder")
    rows = scratch.path("folder") / "rows"
    if fault == "missing":
        rows.unlink()
    else:
        rows.write_bytes(b"rows of b table" if fault == "a bit" else b"rows")
    with Scratch("work", "key") as again:
        assert not again.has("folder")
        again.put("folder", write)
        assert again.has("folder")
        assert names(again.path("folder")) == ["rows", "words"]


def test_a_copied_folder_is_compared_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path) -> None:
        path.mkdir()
        (path / "rows").write_bytes(b"rows")

    with Scratch("work", "key") as scratch:
        scratch.put("folder", write)
    shutil.copytree(paths.scratch(), tmp_path / "elsewhere", copy_function=shutil.copyfile)
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "elsewhere"))
    assert Scratch("work", "key").has("folder")


def test_digests_that_are_damaged_themselves_cost_a_part_and_no_traceback() -> None:
    with Scratch("work", "key") as scratch:
        scratch.put("a.txt", text("a"))
        scratch.put("b.txt", text("b"))
    noted = scratch.path(DIGESTS)
    noted.write_bytes(noted.read_bytes()[:-30] + b"\xff{[\n[1]\n{}\n")
    with Scratch("work", "key") as again:
        assert again.has("a.txt")
        assert not again.has("b.txt")
        again.put("b.txt", text("b"))
    with Scratch("work", "key") as third:
        assert third.has("b.txt")


def test_figures_of_all_parts_are_summed_whichever_run_made_them() -> None:
    with Scratch("work", "key") as scratch:
        assert scratch.total("seconds") == 0.0
        scratch.note("a", seconds=1.5, truncated=2)
    with Scratch("work", "key") as scratch:
        scratch.note("b", seconds=2.0)
        assert scratch.total("seconds") == 3.5
        assert scratch.total("truncated") == 2.0
        assert scratch.total("unheard") == 0.0


def test_parts_are_listed_by_their_numbers_however_many_there_are() -> None:
    with Scratch("work", "key") as scratch:
        for number in (100_000, 9, 99_999):
            scratch.put(f"part-{number:05d}.npy", text("x"))
        assert scratch.list_parts("part-*.npy") == ["part-00009.npy", "part-99999.npy", "part-100000.npy"]
        assert [path.name for path in scratch.iter_paths(["part-00009.npy"])] == ["part-00009.npy"]


def test_a_part_that_is_made_again_counts_once() -> None:
    with Scratch("work", "key") as scratch:
        scratch.note("a", seconds=1.5)  # killed before the part was put: the next run notes it again
        scratch.note("a", seconds=2.0)
        assert scratch.total("seconds") == 2.0


# ---------------------------------------------------------------- one at a time


def test_a_second_process_waits_until_the_first_has_finished(caplog: pytest.LogCaptureFixture) -> None:
    running = process("""
        from twinlens.core.scratch import Scratch

        with Scratch("work", "key") as scratch:
            print("in", flush=True)
            input()
            scratch.put("a.txt", lambda path: path.write_text("made by the first"))
    """)
    heard(running, "in")
    found: list[bool] = []

    def second() -> None:
        with Scratch("work", "key") as scratch:
            found.append(scratch.has("a.txt"))

    with caplog.at_level(logging.INFO, "twinlens"):
        waiting = threading.Thread(target=second)
        waiting.start()
        until(lambda: "another process is doing this work" in caplog.text)
        assert found == []
        running.communicate("go on\n", PATIENCE_S)
        waiting.join(PATIENCE_S)
    assert running.returncode == 0
    assert found == [True]


def test_a_killed_process_holds_up_nobody() -> None:
    running = process("""
        from twinlens.core.scratch import Scratch

        with Scratch("work", "key"):
            print("in", flush=True)
            input()
    """)
    heard(running, "in")
    kill(running)
    entered = threading.Event()

    def second() -> None:
        with Scratch("work", "key"):
            entered.set()

    threading.Thread(target=second, daemon=True).start()
    assert entered.wait(PATIENCE_S)


def test_other_work_does_not_wait() -> None:
    with Scratch("work", "key"), Scratch("work", "other") as other:
        other.put("a.txt", text("x"))


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# ---------------------------------------------------------------- outputs


def test_an_output_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "data" / "made"
    with write_whole(out) as draft:
        (draft / "a").write_text("x")
        assert not out.exists()
    assert names(out) == ["a"]
    assert names(out.parent) == ["made"]


def test_a_new_output_replaces_the_old_one_whole(tmp_path: Path) -> None:
    out = tmp_path / "made"
    for name in ("old", "new"):
        with write_whole(out) as draft:
            assert names(draft) == []
            (draft / name).write_text("x")
    assert names(out) == ["new"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_output_and_no_draft(error: type[BaseException], tmp_path: Path) -> None:
    out = tmp_path / "data" / "made"
    out.mkdir(parents=True)
    (out / "old").write_text("x")
    with pytest.raises(error), write_whole(out) as draft:
        (draft / "new").write_text("half")
        raise error
    assert names(out.parent) == ["made"]
    assert names(out) == ["old"]


def test_a_failure_without_an_old_output_leaves_none(tmp_path: Path) -> None:
    out = tmp_path / "data" / "made"
    with pytest.raises(ValueError), write_whole(out) as draft:
        (draft / "new").write_text("half")
        raise ValueError
    assert names(out.parent) == []


def test_a_process_killed_while_it_publishes_leaves_the_old_output_and_the_next_run_clears_up(tmp_path: Path) -> None:
    out = tmp_path / "data" / "made"
    out.mkdir(parents=True)
    (out / "old").write_text("x")
    running = process(f"""
        import time
        from pathlib import Path
        from twinlens.core.scratch import write_whole

        with write_whole(Path({str(out)!r})) as draft:
            (draft / "new").write_text("half")
            print("half", flush=True)
            time.sleep(600)
    """)
    heard(running, "half")
    kill(running)
    assert names(out) == ["old"]
    assert len(names(out.parent)) == 2  # the draft of the dead
    with write_whole(out) as draft:
        (draft / "newer").write_text("x")
    assert names(out.parent) == ["made"]
    assert names(out) == ["newer"]


def test_the_draft_of_a_process_that_still_runs_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / f".draft-{os.getppid()}-made"
    theirs.mkdir()
    with write_whole(tmp_path / "made"):
        pass
    assert theirs.exists()


def test_what_is_linked_elsewhere_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    """As DVC links files of its cache into the workspace, where only their owner may not write either."""
    cache, out = tmp_path / "cache", tmp_path / "made"
    cache.mkdir()
    for name in ("a", "b", "c"):
        (cache / name).write_text("cached")
        (cache / name).chmod(0o444)
    out.mkdir()
    (out / "a").hardlink_to(cache / "a")
    (tmp_path / "b.json").hardlink_to(cache / "b")
    (tmp_path / "c.json").symlink_to(cache / "c")  # `cache.type symlink`
    with write_whole(out) as draft:
        (draft / "a").write_text("new")
    for name in ("b", "c"):
        write_whole_text(tmp_path / f"{name}.json", "new")
    assert [(cache / name).read_text() for name in "abc"] == ["cached"] * 3
    assert [path.read_text() for path in (out / "a", tmp_path / "b.json", tmp_path / "c.json")] == ["new"] * 3
    assert names(tmp_path) == ["b.json", "c.json", "cache", "made"]


def test_a_folder_that_is_a_link_is_replaced_and_what_it_leads_to_is_left_alone(tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "made"
    other.mkdir()
    (other / "old").write_text("x")
    out.symlink_to(other)
    with write_whole(out) as draft:
        (draft / "new").write_text("x")
    assert [names(out), names(other)] == [["new"], ["old"]]
    assert names(tmp_path) == ["made", "other"]


def test_a_file_that_fails_leaves_the_old_one_and_no_draft(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "made.csv"
    write_whole_text(out, "old")
    with pytest.raises(ValueError), write_whole_file(out) as draft:
        draft.write_text("half")
        raise ValueError
    assert out.read_text() == "old"
    assert names(out.parent) == ["made.csv"]


def test_the_drafts_of_the_dead_are_cleared_away_whatever_they_are(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".draft-{dead.pid}-made").write_text("half")
    (tmp_path / f".draft-{dead.pid}-old-made").mkdir()
    write_whole_text(tmp_path / "made", "x")
    assert names(tmp_path) == ["made"]


# ---------------------------------------------------------------- fingerprints


def test_a_fingerprint_is_the_same_everywhere() -> None:
    # Another value here loses every user's finished parts: change it only with a change of what is written.
    assert fingerprint(tower={"timm": "a"}, ids=["x", "y"], size=3) == "67abb41332b331faf816"


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint(a=1, b={"x": 1, "y": None}) == fingerprint(b={"y": None, "x": 1}, a=1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(JSON, JSON)
def test_a_fingerprint_tells_different_contents_apart_and_the_same_ones_not(one: object, other: object) -> None:
    assert fingerprint(part=one) == fingerprint(part=one)
    assert (fingerprint(part=one) == fingerprint(part=other)) == (repr_of(one) == repr_of(other))


def repr_of(value: object) -> str:
    """A way of writing JSON values that tells 1 from True and 1.0, with the keys of dictionaries sorted."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{repr_of(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(repr_of, value)) + "]"
    return repr(value)


def test_what_is_no_json_has_no_fingerprint() -> None:
    with pytest.raises(TypeError):
        fingerprint(part=Path("a"))


def test_a_digest_knows_boundaries_order_and_broken_text() -> None:
    assert digest(["ab", "c"]) != digest(["a", "bc"])
    assert digest(["a", "b"]) != digest(["b", "a"])
    assert digest([""]) != digest([])
    assert digest(["\udce9"]) != digest(["é"])
    assert digest(iter(["a", "b"])) == digest(["a", "b"])


# ---------------------------------------------------------------- pruning


def work_unused_for(days: float, key: str) -> Path:
    with Scratch("work", key) as scratch:
        scratch.put("a.txt", text("x"))
    then = time.time() - days * 86_400
    os.utime(scratch.folder, (then, then))
    return scratch.folder


def test_pruning_removes_what_was_not_used_for_long_and_nothing_else() -> None:
    old, recent = work_unused_for(40, "old"), work_unused_for(20, "recent")
    assert prune(keep_days=30) == [old]
    assert not old.exists()
    assert names(recent) == ["a.txt", DIGESTS, "lock"]


def test_using_old_work_again_keeps_it() -> None:
    work_unused_for(40, "old")
    with Scratch("work", "old") as scratch:
        assert prune(keep_days=30) == []
        assert scratch.has("a.txt")


def test_pruning_before_there_is_any_work_is_nothing() -> None:
    assert not paths.scratch().exists()
    assert prune() == []
