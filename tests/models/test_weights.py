"""Weights from the hub: a stand-in answers, the hub's own client asks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session

from tests.hub import COMMIT, GATED, Cut, Hub, Refusal, point_at, serving_hub
from twinlens.core.errors import DataError, FetchError
from twinlens.models import weights
from twinlens.models.weights import fetch_hub_weights

ROOT = Path(__file__).resolve().parents[2]
REPO = "someone/tiny"
KINDS = ("model*.safetensors", "pytorch_model*.bin")
OTHERS = ["*.json", "*.txt"]
SHARDS = {f"model-0000{n}-of-00002.safetensors": bytes([n]) * 3000 for n in (1, 2)}
FILES = {
    "config.json": b"{}",
    "vocab.txt": b"a dog",
    "README.md": b"# tiny",
    "pytorch_model.bin": b"an older copy of the same" * 100,
    **SHARDS,
}
TWO_WAYS = "fetch it elsewhere and name the folder or file as `checkpoint` on the card, or name a mirror"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the client in this process speaks to, and a cache of its own."""
    with serving_hub({REPO: FILES}) as running:
        point_at(running.url, tmp_path / "cache", monkeypatch)
        yield running
        close_session()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's pauses between its attempts take no time."""
    monkeypatch.setattr(time, "sleep", lambda _: None)


def held(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


# ---------------------------------------------------------------- from the hub


@pytest.mark.parametrize("revision", [COMMIT, None])
def test_the_wanted_files_and_the_first_kind_of_weights_are_fetched_and_nothing_else(
    revision: str | None, hub: Hub
) -> None:
    folder = fetch_hub_weights(REPO, revision, KINDS, OTHERS)
    wanted = {"config.json": FILES["config.json"], "vocab.txt": FILES["vocab.txt"], **SHARDS}
    assert held(folder) == wanted
    assert hub.fetched() == sorted(wanted)


def test_the_second_kind_of_weights_is_taken_where_the_first_is_not_there(hub: Hub) -> None:
    for name in SHARDS:
        del hub.repos[REPO][name]
    folder = fetch_hub_weights(REPO, COMMIT, KINDS, OTHERS)
    assert sorted(held(folder)) == ["config.json", "pytorch_model.bin", "vocab.txt"]


def test_a_repository_without_weights_is_named(hub: Hub) -> None:
    hub.repos[REPO] = {"config.json": b"{}"}
    with pytest.raises(DataError, match=r"someone/tiny, .* holds none of model\*.safetensors, pytorch_model\*.bin"):
        fetch_hub_weights(REPO, COMMIT, KINDS, OTHERS)


@pytest.mark.parametrize("revision", [COMMIT, None])
def test_what_was_fetched_once_is_not_fetched_again_and_needs_no_hub(
    revision: str | None, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch_hub_weights(REPO, revision, KINDS, OTHERS)
    fetched = hub.fetched()
    assert fetch_hub_weights(REPO, revision, KINDS, OTHERS) == folder
    assert hub.fetched() == fetched
    point_at(closed_port(), tmp_path / "cache", monkeypatch)
    assert fetch_hub_weights(REPO, revision, KINDS, OTHERS) == folder


def test_a_pinned_copy_outlives_a_repository_that_was_taken_down(hub: Hub) -> None:
    folder = fetch_hub_weights(REPO, COMMIT, KINDS, OTHERS)
    del hub.repos[REPO]
    assert fetch_hub_weights(REPO, COMMIT, KINDS, OTHERS) == folder


@pytest.mark.parametrize(
    ("repo", "revision", "message"),
    [
        ("someone/tyni", COMMIT, "the hub has no someone/tyni, or it is private: check the name on the card"),
        ("someone/tyni", None, "the hub has no someone/tyni, or it is private"),
        (REPO, COMMIT[::-1], f"the hub has no someone/tiny at revision {COMMIT[::-1]}: `revision` is the full hash"),
        ("no name at all", None, "no name at all"),
    ],
)
def test_what_the_hub_does_not_have_is_said(repo: str, revision: str | None, message: str, hub: Hub) -> None:
    with pytest.raises(FetchError, match=message):
        fetch_hub_weights(repo, revision, KINDS, OTHERS)
    assert hub.fetched() == []


@pytest.mark.parametrize("everything", [True, False])
def test_terms_that_have_to_be_accepted_are_pointed_at(everything: bool, hub: Hub) -> None:
    if everything:
        hub.down = GATED
    else:  # as the hub does it: who may not have the files may still read about them
        hub.refused_files[REPO] = GATED
    with pytest.raises(FetchError, match="asks for its terms to be accepted: do so at https://hugging"):
        fetch_hub_weights(REPO, COMMIT, KINDS, OTHERS)


def test_an_unreachable_hub_ends_soon_in_one_message_with_the_two_ways_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(closed_port(), tmp_path, monkeypatch)
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(FetchError) as caught:
        fetch_hub_weights(REPO, COMMIT, KINDS, OTHERS)
    assert sum(waited) < 10  # the client alone waits 23 seconds between its tries
    message = str(caught.value)
    assert f"{REPO} at revision {COMMIT} is not in the local cache, and the hub cannot be reached: " in message
    assert TWO_WAYS in message
    assert "HF_ENDPOINT=https://" in message
    assert "\n" not in message


def test_a_hub_that_accepts_and_never_answers_is_given_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "HUB_ANSWERS_IN_S", 0.3)
    hub.silent = True
    with pytest.raises(FetchError, match=f"the hub cannot be reached: .*{TWO_WAYS}"):
        fetch_hub_weights(REPO, COMMIT, KINDS, OTHERS)
    while not hub.requests:  # the hub's thread may hear of it later
        time.sleep(0.01)
    assert len(hub.requests) == 1  # not asked again and again


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_out_of_order_is_asked_again_before_it_is_given_up(status: int, hub: Hub) -> None:
    hub.down = Refusal(status)
    with pytest.raises(FetchError, match=f"could not be had from the hub: .*{status}.*{TWO_WAYS}"):
        fetch_hub_weights(REPO, COMMIT, KINDS, OTHERS)
    assert len(hub.requests) > 3


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("revision", [COMMIT, None])
def test_what_is_in_the_cache_is_taken_while_the_hub_is_out_of_order(revision: str | None, hub: Hub) -> None:
    folder = fetch_hub_weights(REPO, revision, KINDS, OTHERS)
    hub.down = Refusal(503)
    assert fetch_hub_weights(REPO, revision, KINDS, OTHERS) == folder


# ---------------------------------------------------------------- interruptions

FIRST = "model-00001-of-00002.safetensors"


@pytest.mark.usefixtures("hasty")
def test_a_connection_that_breaks_once_is_taken_up_where_it_broke(hub: Hub) -> None:
    hub.faults[FIRST] = [Cut(after=1000)]
    folder = fetch_hub_weights(REPO, COMMIT, KINDS, OTHERS)
    assert (folder / FIRST).read_bytes() == SHARDS[FIRST]
    assert hub.fetched().count(FIRST) == 2


@pytest.mark.usefixtures("hasty")
def test_an_interrupted_download_is_not_taken_as_complete(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults[FIRST] = [Cut(after=1000)] + [Cut(after=0)] * 30
    with pytest.raises(FetchError, match=f"could not be had from the hub: .*{TWO_WAYS}"):
        fetch_hub_weights(REPO, COMMIT, KINDS, OTHERS)
    with monkeypatch.context() as offline:
        point_at(closed_port(), tmp_path / "cache", offline)
        with pytest.raises(FetchError, match=f"is not in the local cache, .*{TWO_WAYS}"):
            fetch_hub_weights(REPO, COMMIT, KINDS, OTHERS)
    close_session()
    hub.faults.clear()
    assert (fetch_hub_weights(REPO, COMMIT, KINDS, OTHERS) / FIRST).read_bytes() == SHARDS[FIRST]


SCRIPT = f"""
from twinlens.models.weights import fetch_hub_weights
print(fetch_hub_weights({REPO!r}, {COMMIT!r}, {KINDS!r}, {OTHERS!r}))
"""


def elsewhere(hub: Hub, home: Path) -> subprocess.Popen[str]:
    """A process that fetches from the hub which its environment names."""
    names = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=kept | names, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_mirror_named_in_the_environment_is_used_and_a_killed_download_is_made_again(
    hub: Hub, tmp_path: Path
) -> None:
    hub.faults[FIRST] = [Cut(after=1000, silent=True)]
    killed = elsewhere(hub, tmp_path / "home")
    assert hub.half_way.wait(600)
    killed.kill()
    killed.communicate()
    assert not list((tmp_path / "home").rglob(FIRST))
    again = elsewhere(hub, tmp_path / "home")
    said, _ = again.communicate(timeout=600)
    assert again.returncode == 0
    assert (Path(said.strip()) / FIRST).read_bytes() == SHARDS[FIRST]
    assert Path(said.strip()).is_relative_to(tmp_path / "home")
