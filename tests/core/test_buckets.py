"""Objects of a real S3 server: what it refuses is told at once, what passes is waited for, secrets stay secret."""

from __future__ import annotations

import logging
import pickle
import sys
import threading
from pathlib import Path

import pytest

from tests.buckets import KEY, SECRET, BucketHost, Request
from twinlens.core import buckets, paths
from twinlens.core.buckets import Bucket, is_bucket
from twinlens.core.errors import BucketError, ExtraError, FetchError, ParamsError

pytestmark = pytest.mark.slow  # they start a server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(buckets, "LONGEST_WAIT_S", 0.02)


def test_what_is_put_is_listed_described_read_and_removed(bucket_host: BucketHost, tmp_path: Path) -> None:
    bucket = pickle.loads(pickle.dumps(Bucket("s3://photos/some/folder/")))
    (tmp_path / "file").write_bytes(b"0123456789")
    bucket.put(tmp_path / "file", "a/one.tar")
    bucket.write("two", b"22")
    assert [(one.name, one.size) for one in bucket.list_objects()] == [("a/one.tar", 10), ("two", 2)]
    assert [one.name for one in bucket.list_objects("a/")] == ["a/one.tar"]
    assert bucket.list_folders() == ["a"]
    assert bucket.list_objects("none/") == []
    assert bucket.list_folders("none/") == []
    described = bucket.describe("two")
    assert described == bucket.list_objects()[1]
    assert described is not None
    assert described.etag == "b6d767d2f8ed5d21a44b0e5886680cb9"  # MD5 of 22
    assert bucket.read("a/one.tar", 3, 6) == b"345"
    assert bucket.fetch("a/one.tar", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"0123456789"
    bucket.remove(["two", "a/one.tar", "none"])
    assert bucket.list_objects() == []
    assert bucket.describe("two") is None
    assert bucket.read("two") is None
    assert not bucket.fetch("two", tmp_path / "copy")


def test_an_object_is_made_only_where_there_is_none_and_replaced_only_as_it_was(bucket_host: BucketHost) -> None:
    bucket = Bucket("s3://photos/x")
    assert bucket.create("lock", b"1")
    assert not bucket.create("lock", b"2")
    first = bucket.describe("lock")
    assert first is not None
    assert bucket.replace("lock", b"3", first.etag)
    assert not bucket.replace("lock", b"4", first.etag)
    assert bucket.read("lock") == b"3"


@pytest.mark.parametrize("status", [503, 500, 0])
def test_a_store_that_is_busy_is_asked_again_and_that_is_said_once(
    status: int, bucket_host: BucketHost, caplog: pytest.LogCaptureFixture
) -> None:
    bad = iter([status] * 6)
    bucket_host.faults = lambda request: next(bad, None)
    bucket = Bucket("s3://photos/x")
    with caplog.at_level(logging.WARNING, "twinlens"):
        bucket.write("a", b"1")
        assert bucket.read("a") == b"1"
    assert len([line for line in caplog.messages if "asking again for up to 120 s" in line]) == 1
    assert bucket_host.count("PUT") == 7


def test_a_store_that_stays_away_is_given_up_with_the_place(
    bucket_host: BucketHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "PATIENCE_S", 0.1)
    bucket_host.faults = lambda request: 503
    with pytest.raises(
        BucketError, match=r"s3://photos/x/a \(PutObject\): the store did not answer .*AWS_ENDPOINT_URL"
    ):
        Bucket("s3://photos/x").write("a", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(BucketError, match=r"Could not connect"):
        Bucket("s3://photos/x").read("a")


def test_a_minute_is_less_than_the_patience() -> None:
    assert buckets.PATIENCE_S > 60


def test_what_is_refused_is_told_at_once_with_call_bucket_identity_and_remedy(bucket_host: BucketHost) -> None:
    bucket_host.faults = lambda request: 403
    for ask, call in (
        (lambda bucket: bucket.write("a", b"1"), "PutObject"),
        (lambda bucket: bucket.list_objects("a/"), "ListObjectsV2"),
        (lambda bucket: bucket.read("a"), "GetObject"),
        (lambda bucket: bucket.create("a", b"1"), "PutObject"),
    ):
        bucket_host.requests.clear()
        with pytest.raises(BucketError) as caught:
            ask(Bucket("s3://photos/x"))
        told = str(caught.value)
        assert told.startswith("s3://photos/x")
        assert f"({call})" in told
        assert f"ends in {KEY[-4:]} (from env" in told
        assert "AWS_PROFILE" in told
        assert KEY not in told
        assert SECRET not in told
        assert len(bucket_host.requests) == 1


def test_a_bucket_that_is_not_there_is_told_at_once(bucket_host: BucketHost) -> None:
    for ask in (lambda bucket: bucket.list_objects(), lambda bucket: bucket.write("a", b"1"), Bucket.list_folders):
        with pytest.raises(BucketError, match="there is no bucket nowhere"):
            ask(Bucket("s3://nowhere/x"))


def test_without_credentials_the_message_says_where_they_are_looked_for(
    bucket_host: BucketHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(BucketError, match=r"Unable to locate credentials\. Set AWS_ACCESS_KEY_ID"):
        Bucket("s3://photos/x").write("a", b"1")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://AKIA:secret@photos/x", "a URL with credentials"),
        ("s3:///x", "names no bucket"),
        ("s4://photos/x", "s4:// is no store that is known here"),
        ("gs://photos/x", "gcsfs"),
    ],
)
def test_a_url_that_names_no_store_is_refused(url: str, told: str) -> None:
    with pytest.raises(ParamsError, match=told) as caught:
        Bucket(url)
    assert "secret" not in str(caught.value)


def test_without_its_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    buckets._find_class.cache_clear()
    with pytest.raises(ExtraError, match=r"twinlens\[s3\]"):
        Bucket("s3://photos/x")


def test_what_is_a_bucket_and_what_a_folder() -> None:
    assert is_bucket("s3://photos/x")
    assert not any(map(is_bucket, ("/data/x", "data", "file:///data/x", "https://mirror/x")))
    assert paths.expand("file:///data/x") == Path("/data/x")
    with pytest.raises(FetchError, match="wanted a folder or file of this machine"):
        paths.expand("s3://photos/x")


def test_a_large_file_goes_in_pieces_and_shows_only_when_whole(bucket_host: BucketHost, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(101 * 2**20)  # s3fs puts at once what has under two pieces of 50 MiB
    seen: list[list[str]] = []
    bucket = Bucket("s3://photos/x")
    spoilt = threading.Event()

    def spoil(request: Request) -> int | None:
        if "partNumber=2" in request.path and not spoilt.is_set():
            spoilt.set()
            return 403
        return None

    bucket_host.faults = spoil
    with pytest.raises(BucketError, match="UploadPart"):
        bucket.put(big, "big")
    seen.append([one.name for one in bucket.list_objects()])
    assert bucket_host.count("DELETE", "uploadId=") == 1  # the pieces are not left to be paid for
    bucket.put(big, "big")
    seen.append([one.name for one in bucket.list_objects()])
    assert seen == [[], ["big"]]
