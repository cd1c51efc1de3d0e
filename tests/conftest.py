"""What every test has: folders of its own for unfinished work and downloads; the real data where it is; a host.

And how the tests are spread over several workers: by file, for a file's tests share fixtures that take a minute, but
for a few tests that take minutes each; the longest first, so that at the end nobody is left alone with one of them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.buckets import BucketHost, point_at, serving_buckets
from tests.web import Host, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser

settings.register_profile("no_deadline", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("no_deadline")

LONGEST = ("test_dvc_contract.py", "test_real_photos.py")  # files that begin
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
ALONE = (  # tests that any worker may run, wherever the rest of their file is; those that wait for no other come first
    "test_killed_in_caption_train_and_embed_it_resumes_and_ends_byte_identical",
    "test_600_photos_give_the_table_of_the_readme",
    "test_a_sweep_survives_a_model_that_fails_and_exp_show_has_a_row_for_each",
    "test_drawn_vehicles_are_searched_for_among_ever_more_distractors",
    "test_a_value_of_a_card_is_set_from_the_command_line_here_or_in_a_folder_of_its_own",
    "test_changing_the_captioner_reruns_only_caption_and_what_reads_captions",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which they are given out."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> tuple[bool, int, bool]:
        begins = LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST)
        return item.name in ALONE, begins, item.path not in slow

    files = sorted((item for item in items if item.name not in ALONE), key=place)
    first = [item for item in files if item.path.name in LONGEST]
    alone = sorted((item for item in items if item.name in ALONE), key=lambda item: ALONE.index(item.name))
    items[:] = [*first, *alone, *files[len(first) :]]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers get whole files, and the tests that go alone; without pytest-xdist nobody asks."""
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.rpartition("::")[2] in ALONE else str(super()._split_scope(nodeid))

    return ByFile(config, log)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("TWINLENS_DOWNLOADS", str(tmp_path / "downloads"))
    monkeypatch.setenv("TWINLENS_ENVIRONMENTS", str(tmp_path / "environments"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real samples in their publishers' layouts; they are not part of the repository."""
    named = os.environ.get("TWINLENS_SHARED_DATA")
    folder = Path(named).expanduser() if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real samples are not at {folder}: name their folder as TWINLENS_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def of_all_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of these tests share, and that is gone with them."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host on this machine that serves `host.files` and misbehaves as `host.faults` say."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        yield running


@pytest.fixture(scope="session")
def running_bucket_host() -> Iterator[BucketHost]:
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with serving_buckets() as running:
        yield running


@pytest.fixture
def bucket_host(running_bucket_host: BucketHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketHost]:
    """An S3 server on this machine with an empty `s3://photos`, whose faults `bucket_host.faults` says."""
    import requests

    host = running_bucket_host
    point_at(host, monkeypatch)
    requests.post(f"{host.url}/moto-api/reset", timeout=60)
    requests.put(f"{host.url}/photos", timeout=60)
    host.requests.clear()
    yield host
    host.faults = lambda request: None


@pytest.fixture(scope="session")
def chromium() -> str:
    """A Chromium that is installed already; without one, what needs it is skipped."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is on the PATH")
    return found


# Of a module and not of the session: while Playwright runs, its event loop runs in this thread, in which no other
# Playwright and no `asyncio.run` of a later test could begin.
@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """That Chromium, running."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield running
        running.close()
