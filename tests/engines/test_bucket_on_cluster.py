"""Workers of a cluster that keep parts in a bucket, which is busy for a while: the same bytes as in this process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.buckets import BucketHost, point_at
from tests.datasets.test_resizing import COMPUTE as LOCAL
from tests.datasets.test_resizing import PICTURES, contents, make_job, write
from twinlens.core.buckets import Bucket
from twinlens.core.scratch import Scratch
from twinlens.datasets import resizing
from twinlens.engines import LocalEngine, open_engine

pytestmark = pytest.mark.slow

PARTS = "s3://photos/parts"
COMPUTE = LOCAL.model_copy(update={"engine": "ray", "decode_threads": 1, "parts": PARTS})


@pytest.fixture(scope="module", autouse=True)
def known_to_workers(running_bucket_host: BucketHost) -> Iterator[None]:
    """The server's address and credentials in the environment that the nodes are started with."""
    with pytest.MonkeyPatch.context() as patch:
        point_at(running_bucket_host, patch)
        yield


def test_parts_go_through_a_bucket_that_is_busy(
    cluster: Any, bucket_host: BucketHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, PICTURES, images_per_shard=2)
    write(job, tmp_path / "here")
    turns = itertools.count()
    bucket_host.faults = lambda request: (None, None, 503, 500, 0)[next(turns) % 5]
    with open_engine(COMPUTE, device="cpu") as engine, Scratch("resize", "other", PARTS) as scratch:
        job.write(scratch, engine, tmp_path / "there")
        assert engine.workers >= 1
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    bucket_host.faults = lambda request: None
    assert len(Bucket(f"{PARTS}/resize/other").list_objects()) > 5

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(resizing, "write_shards", refuse)
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "another machine"))
    with LocalEngine(COMPUTE, engine.placement) as local, Scratch("resize", "other", PARTS) as scratch:
        job.write(scratch, local, tmp_path / "again")
    assert contents(tmp_path / "here") == contents(tmp_path / "again")
