"""Pictures in a bucket: the same as in a folder, known by their etags, and no more fetched than is wanted."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.buckets import BucketHost, Request
from tests.datasets.adapters.pictures import jpeg, tarred
from twinlens.config.datasets import FolderCard, HubCard, WebDatasetCard, list_places
from twinlens.core import buckets
from twinlens.core.bucket_files import BucketFolder, expand_ranges, find_files
from twinlens.core.buckets import Bucket
from twinlens.core.download import RemoteFile
from twinlens.core.errors import BucketError, DataError, FetchError
from twinlens.core.watch import describe_state
from twinlens.datasets.adapters.folder import Folder
from twinlens.datasets.adapters.hub import Hub
from twinlens.datasets.adapters.webdataset import WebDataset
from twinlens.datasets.readers.archives import hold_archives, open_tree
from twinlens.datasets.readers.files import Files

pytestmark = pytest.mark.slow  # they start a server
MB = 2**20


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, bucket_host: BucketHost) -> None:
    monkeypatch.setattr(buckets, "FIRST_WAIT_S", 0.01)


def fill(files: dict[str, bytes]) -> None:
    for name, content in files.items():
        Bucket("s3://photos").write(name, content)


def sample(number: int, extra: bytes = b"") -> dict[str, bytes]:
    return {f"s/{number}.jpg": jpeg(number) + extra, f"s/{number}.txt": f"Picture {number}.".encode()}


def shards(**changes: Any) -> WebDataset:
    card = {
        "adapter": "webdataset",
        "source": "s3://photos/set",
        "shards": {"train": "{00..01}.tar", "test": "t-*.tar"},
    }
    return WebDataset(WebDatasetCard.model_validate(card | changes))


SHARDS = {
    "set/00.tar": tarred(sample(1)),
    "set/01.tar": tarred(sample(2) | sample(3)),
    "set/t-5.tar": tarred(sample(4)),
    "set/other.txt": b"",
}


def test_shards_in_a_bucket_give_what_they_give_in_a_folder(tmp_path: Path) -> None:
    fill(SHARDS)
    for name, content in SHARDS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    remote, local = shards(), shards(source=str(tmp_path / "set"))
    assert remote.download(tmp_path / "raw") == local.download(tmp_path / "other") == 3
    found = remote.annotations(tmp_path / "raw")
    assert found == local.annotations(tmp_path / "other")
    files = [image.file for image in found.images]
    assert list(remote.read_pictures(tmp_path / "raw", files)) == [jpeg(number) for number in (1, 2, 3, 4)]
    recorded = json.loads((tmp_path / "raw" / "manifest.json").read_text())["files"]
    assert {key: type(value) for key, value in recorded[0].items()} == {
        "part": str,
        "file": str,
        "bytes": int,
        "etag": str,
    }


def test_recording_shards_reads_none_of_their_bytes(tmp_path: Path, bucket_host: BucketHost) -> None:
    fill(SHARDS)
    bucket_host.requests.clear()
    shards().download(tmp_path / "raw")
    assert bucket_host.count("GET", ".tar") == 0


def test_a_few_members_of_a_large_shard_are_read_where_they_lie(tmp_path: Path, bucket_host: BucketHost) -> None:
    content = tarred({key: raw for number in range(20) for key, raw in sample(number, bytes(2 * MB)).items()})
    fill({"set/00.tar": content, "set/01.tar": tarred(sample(100)), "set/t-5.tar": tarred(sample(101))})
    made = shards()
    made.download(tmp_path / "raw")
    made.annotations(tmp_path / "raw")
    bucket_host.requests.clear()
    read = list(made.read_pictures(tmp_path / "raw", ["00.tar/s/17.jpg", "00.tar/s/19.jpg"]))
    assert read == [jpeg(number) + bytes(2 * MB) for number in (17, 19)]
    asked = [request.range for request in bucket_host.requests if request.method == "GET" and request.range]
    assert sum(map(length_of, asked)) < 6 * MB < len(content) / 6


def length_of(asked: str | None) -> int:
    start, _, stop = (asked or "").removeprefix("bytes=").partition("-")
    return int(stop) - int(start) + 1


def test_a_shard_that_is_read_through_takes_few_requests(tmp_path: Path, bucket_host: BucketHost) -> None:
    content = tarred({key: raw for number in range(100, 300) for key, raw in sample(number, bytes(MB // 10)).items()})
    fill({"set/00.tar": content, "set/01.tar": tarred(sample(1000)), "set/t-5.tar": tarred(sample(1001))})
    made = shards()
    made.download(tmp_path / "raw")
    bucket_host.requests.clear()
    found = made.annotations(tmp_path / "raw")
    assert len(found.images) == 202
    assert bucket_host.count("GET", "/set/00.tar") < 15  # once through 20 MB: what there is, and the captions
    bucket_host.requests.clear()
    assert sum(1 for _ in made.read_pictures(tmp_path / "raw", [image.file for image in found.images])) == 202
    assert bucket_host.count("GET", "/set/00.tar") < 20


def test_who_comes_back_to_a_shard_again_and_again_lists_and_opens_it_once(
    tmp_path: Path, bucket_host: BucketHost
) -> None:
    fill(SHARDS)
    made = shards()
    made.download(tmp_path / "raw")
    files = [image.file for image in made.annotations(tmp_path / "raw").images]
    bucket_host.requests.clear()
    with hold_archives():
        for _ in range(5):
            assert len(list(made.read_pictures(tmp_path / "raw", files))) == 4
    assert bucket_host.count("GET", "list-type") == 0
    assert bucket_host.count("GET", "/set/01.tar") <= 4


def test_shards_that_changed_or_went_are_refused(tmp_path: Path) -> None:
    fill(SHARDS)
    made = shards()
    made.download(tmp_path / "raw")
    changed = bytearray(SHARDS["set/01.tar"])
    changed[600] ^= 1  # of the same size: only the etag tells
    fill({"set/01.tar": bytes(changed)})
    with pytest.raises(DataError, match=r"s3://photos/set/01\.tar .* is not what was recorded"):
        shards().annotations(tmp_path / "raw")
    Bucket("s3://photos").remove(["set/01.tar"])
    with pytest.raises(FetchError, match=r"s3://photos/set holds no 01\.tar, which \{00\.\.01\}\.tar names"):
        shards().annotations(tmp_path / "raw")
    with pytest.raises(FetchError, match="holds no shard like"):
        shards(source="s3://photos/empty", shards={"train": "*.tar"}).download(tmp_path / "raw")


def test_a_shard_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    fill({"a.tar": tarred(sample(1, bytes(MB)))})
    file = BucketFolder("s3://photos") / "a.tar"
    tree = open_tree(file)
    fill({"a.tar": b"short"})
    read = tree.read("s/1.jpg")
    assert isinstance(read, str)
    assert "changed meanwhile" in read


def test_a_store_that_refuses_is_no_damaged_picture(tmp_path: Path, bucket_host: BucketHost) -> None:
    fill(SHARDS | {"pics/1.jpg": jpeg(1)})
    made = shards()
    made.download(tmp_path / "raw")
    made.annotations(tmp_path / "raw")
    own = Folder(FolderCard.model_validate({"adapter": "folder", "images": "s3://photos/pics"}))

    def refuse(request: Request) -> int | None:
        return 403 if request.method == "GET" and "list-type" not in request.path else None

    bucket_host.faults = refuse
    with pytest.raises(BucketError, match=r"00\.tar \(GetObject\): refused"):
        list(made.read_pictures(tmp_path / "raw", ["00.tar/s/1.jpg"]))
    with pytest.raises(BucketError, match="refused"):
        list(own.read_pictures(tmp_path / "raw", ["1.jpg"]))


def test_a_packed_shard_and_a_damaged_one(tmp_path: Path) -> None:
    fill({"a.tar.gz": gzip.compress(tarred(sample(1))), "b.tar": b"no tar at all", "c.zip": b""})
    folder = BucketFolder("s3://photos")
    assert open_tree(folder / "a.tar.gz").read("s/1.jpg") == jpeg(1)
    with pytest.raises(FetchError, match=r"s3://photos/b\.tar is not a whole tar archive"):
        open_tree(folder / "b.tar")
    with pytest.raises(FetchError, match="a zip in a bucket is not read"):
        open_tree(folder / "c.zip")


def parquet(rows: int) -> bytes:
    table = pa.table(
        {
            "image": pa.array([{"bytes": jpeg(row) + bytes(MB), "path": f"{row}.jpg"} for row in range(rows)]),
            "caption": [f"Picture {row}." for row in range(rows)],
        }
    )
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=2, compression="none", use_dictionary=False)
    return out.getvalue()


def test_of_parquet_in_a_bucket_the_captions_are_read_without_the_pixels(
    tmp_path: Path, bucket_host: BucketHost
) -> None:
    content = parquet(12)
    fill({"set/data/train-0.parquet": content})
    card = HubCard.model_validate(
        {
            "adapter": "hub",
            "repository": "a/b",
            "source": "s3://photos/set",
            "files": {"train": "data/train-*.parquet"},
            "columns": {"image": "image", "caption": "caption"},
            "pool": "train",
        }
    )
    made = Hub(card)
    bucket_host.requests.clear()
    assert made.download(tmp_path / "raw") == 1
    found = made.annotations(tmp_path / "raw")
    assert [caption.text for caption in found.captions] == [f"Picture {row}." for row in range(12)]
    asked = [one.range for one in bucket_host.requests if one.range]
    assert sum(map(length_of, asked)) < len(content) / 2
    files = [found.images[row].file for row in (3, 11)]
    assert list(made.read_pictures(tmp_path / "raw", files)) == [jpeg(row) + bytes(MB) for row in (3, 11)]
    fill({"set/data/train-0.parquet": content[:-1] + b"2"})
    with pytest.raises(DataError, match="is not the file that was recorded"):
        Hub(card).annotations(tmp_path / "raw")


def test_a_folder_of_pictures_and_its_table_may_be_in_a_bucket(tmp_path: Path, bucket_host: BucketHost) -> None:
    fill(
        {
            "pics/a/1.jpg": jpeg(1),
            "pics/2.jpg": jpeg(2),
            "pics/.hidden.jpg": b"",
            "t.csv": b"file,text\na/1.jpg,One.\n2.jpg,Two.\n",
        }
    )
    card = FolderCard.model_validate(
        {
            "adapter": "folder",
            "images": "s3://photos/pics/",
            "table": "s3://photos/t.csv",
            "columns": {"file": "file", "caption": "text"},
        }
    )
    made = Folder(card)
    assert made.download(tmp_path / "raw") == 2
    found = made.annotations(tmp_path / "raw")
    assert [caption.text for caption in found.captions] == ["One.", "Two."]
    assert list(made.read_pictures(tmp_path / "raw", ["2.jpg", "a/1.jpg", "gone.jpg"]))[:2] == [jpeg(2), jpeg(1)]
    assert bucket_host.count("GET", "/t.csv") == 1
    state = describe_state(list_places(card))
    assert state is not None
    assert state["s3://photos/pics/"]["files"] == 2
    fill({"pics/2.jpg": jpeg(3)})
    assert describe_state(list_places(card)) != state
    with pytest.raises(DataError, match="is not what was recorded"):
        Folder(card).annotations(tmp_path / "raw")
    bucket_host.faults = lambda request: 403
    assert describe_state(list_places(card)) is None  # what was recorded counts


def test_a_publishers_files_may_be_in_a_bucket(tmp_path: Path) -> None:
    fill({"mirror/words.txt": b"words"})
    files = Files("own", [RemoteFile("words.txt")], "s3://photos/mirror/", {"words.txt": "http://nowhere"})
    assert files.record(tmp_path / "raw") == 1
    assert files.path(tmp_path / "raw", "words.txt").read_bytes() == b"words"
    with pytest.raises(FetchError, match=r"s3://photos/mirror/none\.txt is not there"):
        Files("own", [RemoteFile("none.txt")], "s3://photos/mirror", {}).record(tmp_path / "raw")


def test_patterns_name_the_same_in_a_bucket_as_in_a_folder(tmp_path: Path) -> None:
    names = ["a-1.tar", "a-2.tar", "b/a-3.tar", "b/c/a-4.tar", "b/ä[1].tar"]
    fill({f"x/{name}": b"1" for name in names})
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    for pattern in ("*.tar", "a-[2-9].tar", "a-[!2].tar", "**/*.tar", "b/*", "b/**/*.tar", "?-1.tar", "a-{1..2}.tar"):
        remote = [name for name, _ in find_files(BucketFolder("s3://photos/x"), pattern)]
        assert remote == [name for name, place in find_files(tmp_path, pattern) if not place.is_dir()], pattern


def test_ranges_keep_their_zeros() -> None:
    assert expand_ranges("{08..10}.tar") == ["08.tar", "09.tar", "10.tar"]
    assert expand_ranges("{0..1}/{0..1}") == ["0/0", "0/1", "1/0", "1/1"]
    assert expand_ranges("x-*.tar") == ["x-*.tar"]
