"""The engine that is a Ray cluster: the same results as here, whatever happens to its workers and nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from tests.engines.work import Adder, drive_sums, list_sums, read_log, tell_process
from tests.inference.test_tower import LONG, WORDS, captions
from tests.models.encoders.test_transformers import save_clip
from tests.multimodal import save_embedder
from tests.tiny import CPU, jpegs, write_shards
from twinlens.config.models import TransformersTower
from twinlens.config.params import ComputeParams
from twinlens.config.sentence_models import SentenceTransformersTower
from twinlens.core.costs import Cost
from twinlens.core.errors import ClusterError, DataError
from twinlens.core.progress import Progress
from twinlens.core.scratch import Scratch
from twinlens.engines import Engine, open_engine, sites
from twinlens.engines.sites import Sight, Site
from twinlens.inference import loop
from twinlens.inference.embed import _reads_pairs
from twinlens.inference.tower import TowerJob
from twinlens.models import encoders

pytestmark = pytest.mark.slow

COMPUTE = ComputeParams(device="cpu", engine="ray", decode_threads=1, image_batch=None, text_batch=None)
SUMS = [sum(range(number)) for number in range(200)]


@pytest.fixture
def engine(cluster: Any) -> Iterator[Engine]:
    with open_engine(COMPUTE) as found:
        yield found


def test_parts_are_made_by_workers_that_are_kept(engine: Engine, tmp_path: Path) -> None:
    worker = Adder(tmp_path, meet=2)
    with Progress("add", total=40) as bar:
        assert sorted(engine.map(worker, list_sums(40), bar)) == SUMS[:40]
        assert bar.count == 40
    first = {file.name for file in tmp_path.glob("*.log")}
    assert sorted(engine.map(worker, list_sums(40))) == SUMS[:40]
    assert {file.name for file in tmp_path.glob("*.log")} == first
    assert len(first) == engine.workers == 2
    assert engine.ask(worker, tell_process) != os.getpid()


def test_what_the_user_can_mend_arrives_as_it_is(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(DataError) as told:
        list(engine.map(Adder(tmp_path, wrong="part-00005"), list_sums(9)))
    assert str(told.value) == "part-00005 is not what it should be"
    assert sorted(engine.map(Adder(tmp_path), list_sums(9))) == SUMS[:9]  # the workers go on


def test_a_passing_fault_passes_and_one_that_stays_ends_with_the_part_and_the_reason(
    engine: Engine, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    once.mkdir()
    assert sorted(engine.map(Adder(once, fails_once="part-00003"), list_sums(20))) == SUMS[:20]
    assert Counter(read_log(once)).most_common(1)[0][1] <= 2
    with pytest.raises(ClusterError, match=r"part part-00003 failed 3 times.*RuntimeError: part-00003 is too much"):
        list(engine.map(Adder(tmp_path, broken="part-00003"), list_sums(20)))


def test_a_part_that_ends_its_process_is_named_and_all_others_are_made_once(engine: Engine, tmp_path: Path) -> None:
    found: list[int] = []
    with pytest.raises(ClusterError, match=r"part part-00007 failed 3 times"), Scratch("add", "poison") as scratch:
        for receipts in engine.map(Adder(tmp_path, poison="part-00007"), list_sums(30, scratch.open_store())):
            found.append(len(receipts))
            scratch.accept(receipts[0])
    with Scratch("add", "poison") as scratch:
        missing = [task for task in list_sums(30, scratch.open_store()) if not scratch.has(task.name)]
        assert 1 <= len(missing) <= 30 - len(found)
        before = read_log(tmp_path)
        for receipts in engine.map(Adder(tmp_path), missing):
            scratch.accept(receipts[0])
        assert len(read_log(tmp_path)) - len(before) == len(missing)
        assert [int(scratch.path(task.name).read_text()) for task in list_sums(30)] == SUMS[:30]


def list_workers(folder: Path) -> list[int]:
    """Processes that have made a part."""
    return [int(log.stem) for log in folder.glob("*.log")]


def find_parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_workers_and_nodes_may_be_lost_and_nodes_may_join(cluster: Any, engine: Engine, tmp_path: Path) -> None:
    lost = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    raylet = lost.all_processes["raylet"][0].process.pid
    results: list[int] = []
    worker = Adder(tmp_path, seconds=0.02, meet=3, joined=5)
    for place, result in enumerate(engine.map(worker, list_sums(200))):
        results.append(result)
        if place == 20:  # on a node that stays, so that another takes its place there
            os.kill(next(pid for pid in list_workers(tmp_path) if find_parent(pid) != raylet), signal.SIGKILL)
        if place == 60:
            os.kill(raylet, signal.SIGKILL)
        if place == 100:
            cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    assert sorted(results) == SUMS
    made = Counter(read_log(tmp_path))
    assert len(made) == 200
    assert sum(made.values()) <= 200 + 2 * 3  # what was under way on those two


def test_a_driver_that_was_killed_is_followed_by_one_that_makes_the_rest(
    cluster: Any, engine: Engine, tmp_path: Path
) -> None:
    code = f"""
        from pathlib import Path
        from tests.engines.test_cluster import COMPUTE
        from tests.engines.work import drive_sums
        from twinlens.engines import open_engine
        with open_engine(COMPUTE.model_copy(update={{"address": "{cluster.address}"}})) as engine:
            drive_sums(engine, Path({str(tmp_path)!r}), 100, "killed")
    """
    driver = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    parts = tmp_path / "scratch" / "add" / "killed"
    while len(list(parts.glob("part-*"))) < 20:
        assert driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    assert drive_sums(engine, tmp_path, 100, "killed") == SUMS[:100]
    made = Counter(read_log(tmp_path))
    assert len(made) == 100
    assert sum(made.values()) <= 100 + 2 * 3 * 2  # what was under way, and what the workers of the first one still had


# ---------------------------------------------------------------- embedding


def embed(clip: Path, shards: Path, pool: pl.DataFrame, out: Path, engine: Engine | None) -> TowerJob:
    """Everything that a joint tower embeds, as files."""
    tower = TransformersTower(transformers="someone/tiny", checkpoint=str(clip))
    done = TowerJob(tower, encoders.locate(tower), CPU, COMPUTE, Cost(), engine)
    out.mkdir()
    done.pictures("image", shards, pool, out)
    done.texts("caption", captions(), out)
    return done


@pytest.mark.parametrize("threads", [1, 2])
def test_vectors_are_the_same_to_the_byte_and_no_model_is_loaded_here(
    threads: int, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PICTURES_PER_PART", 4)
    monkeypatch.setattr(loop, "TEXTS_PER_PART", 4)
    save_clip(tmp_path / "clip")
    pool = write_shards(jpegs(21), tmp_path / "shards")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        embed(tmp_path / "clip", tmp_path / "shards", pool, tmp_path / "here", None)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "another"))
    done = embed(tmp_path / "clip", tmp_path / "shards", pool, tmp_path / "there", engine)
    assert "loaded" not in vars(done.worker)
    here, there = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("here", "there"))
    assert len(here) == 6 and here == there
    image = done.cost.parts["image"]
    assert (image["items"], image["workers"]) == (21, engine.workers)
    assert image["parameters"] > 0 and done.cost.parts["caption"]["truncated"] == LONG
    again = embed(tmp_path / "clip", tmp_path / "shards", pool, tmp_path / "again", None)  # the parts count here too
    assert "loaded" not in vars(again.worker)


def test_a_tower_that_reads_pictures_with_texts_is_asked_where_it_is_loaded(engine: Engine, tmp_path: Path) -> None:
    folder = save_embedder(tmp_path / "qwen")
    tower = SentenceTransformersTower(sentence_transformers="someone/tiny", checkpoint=str(folder))
    pool = write_shards(jpegs(6), tmp_path / "shards")
    pairs = pool.with_columns(pl.Series("text", WORDS[:6]), pl.format("{}#0", "image_id").alias("id"))
    for name, who in (("here", None), ("there", engine)):
        job = TowerJob(tower, encoders.locate(tower), CPU, COMPUTE, Cost(), who)
        assert job.ask(_reads_pairs) is True
        (tmp_path / name).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TWINLENS_SCRATCH", str(tmp_path / f"scratch {name}"))
            job.pictures("pairs", tmp_path / "shards", pairs, tmp_path / name)
    assert (tmp_path / "here/pairs.npy").read_bytes() == (tmp_path / "there/pairs.npy").read_bytes()


# ---------------------------------------------------------------- what is refused


def test_workers_of_another_version_are_refused_with_both(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sites.list_versions()
    monkeypatch.setattr("twinlens.engines.cluster.list_versions", lambda: real | {"torch": "1.0"})
    with pytest.raises(ClusterError, match=rf"other versions: torch 1\.0 \({real['torch'].replace('+', '.')} there\)"):
        list(engine.map(Adder(tmp_path), list_sums(3)))


def test_a_path_that_workers_do_not_see_is_named(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights"
    weights.write_text("as the driver sees it")
    seen = sites.see
    monkeypatch.setattr(
        "twinlens.engines.cluster.see", lambda paths: tuple(Sight(one.path, "other") for one in seen(paths))
    )
    with pytest.raises(ClusterError, match=rf"does not see what the driver sees at {weights}.*NFS"):
        list(engine.map(Adder(tmp_path, paths=(weights,)), list_sums(3)))


def test_a_gpu_that_nobody_has_is_asked_for_in_vain(cluster: Any) -> None:
    with (
        pytest.raises(ClusterError, match="no node of the cluster has a GPU: write auto or cpu"),
        open_engine(COMPUTE.model_copy(update={"device": "cuda"})) as found,
    ):
        _ = found.placement
    with open_engine(COMPUTE.model_copy(update={"device": "auto"})) as found:
        assert found.placement.name == "cpu-float32"


def test_differences_are_told_with_both_versions() -> None:
    one, other = Site("a", {"torch": "2.11", "timm": "1.0"}), Site("b", {"torch": "2.12", "timm": "1.0"})
    assert one.tell_differences(other) == "torch 2.11 (2.12 there)"
    assert one.tell_differences(one) == ""


def test_an_address_where_nobody_answers_is_named(tmp_path: Path) -> None:
    from twinlens.engines.connection import _await_answer

    with pytest.raises(ClusterError, match=r"nobody answers at 127\.0\.0\.1:9 within 10 s"):
        _await_answer("127.0.0.1:9")
