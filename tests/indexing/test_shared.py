"""Tables of the search index in a bucket: another machine fetches one, compares it, and answers the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.buckets import BucketHost
from tests.indexing.test_blocks import index_of
from twinlens.config.load import read_params
from twinlens.core.buckets import Bucket
from twinlens.core.errors import DataError
from twinlens.core.scratch import Scratch
from twinlens.indexing import build, postings
from twinlens.indexing import open as opening
from twinlens.indexing.index import Index, WeightedVector
from twinlens.indexing.manifest import FOLDER, TOWERS, Manifest
from twinlens.indexing.shared import LISTING, fetch_table, put_table

PARTS = "s3://photos/parts"
pytestmark = pytest.mark.slow  # they start a server


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket_host: BucketHost) -> Index:
    """An index on one machine, put into the bucket; then another machine is looked at."""
    monkeypatch.setattr("tests.indexing.test_blocks.COUNT", 300)
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "one"))
    rows = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    found = index_of(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    postings.write(found.manifest.folder / FOLDER, [["red", "car"]] * 300)
    (found.manifest.folder / TOWERS / "weights").mkdir(parents=True)
    (found.manifest.folder / TOWERS / "weights" / "model.bin").write_bytes(b"weights")
    put_table(found.manifest, PARTS)
    bucket_host.requests.clear()
    put_table(found.manifest, PARTS)  # is there already
    assert bucket_host.count("PUT") == 0
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "other"))
    return found


def test_another_machine_fetches_a_table_once_and_answers_the_same(made: Index, bucket_host: BucketHost) -> None:
    assert fetch_table(made.manifest, PARTS)
    with Scratch("index", made.manifest.key) as scratch:
        assert scratch.has(FOLDER)
        assert scratch.has(TOWERS)
    assert (made.manifest.folder / TOWERS / "weights" / "model.bin").read_bytes() == b"weights"
    query = [WeightedVector("image_vector", np.eye(8, dtype=np.float32)[0])]
    answers = [index.nearest(query, 5, [], read_params().search) for index in (made, Index(made.manifest))]
    assert np.array_equal(answers[0], answers[1])
    bucket_host.requests.clear()
    assert fetch_table(made.manifest, PARTS)
    assert bucket_host.count("GET") == 1  # the listing


def test_an_index_that_lies_in_the_bucket_is_opened_without_what_it_was_built_of(
    made: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = read_params()
    params = params.model_copy(update={"compute": params.compute.model_copy(update={"parts": PARTS})})
    monkeypatch.setattr(opening, "_manifest", lambda *names: made.manifest)
    monkeypatch.setattr(opening, "_is_kept", lambda manifest: True)
    monkeypatch.setattr(build, "make_table", None)
    assert opening.open_index(params, "dataset", "model", "captioner").ids == [f"p{row}" for row in range(300)]


@pytest.mark.parametrize("fault", ["damaged", "gone"])
def test_a_file_that_is_not_as_it_was_put_is_told_and_the_table_counts_as_absent(made: Index, fault: str) -> None:
    bucket = Bucket(f"{PARTS}/index/{made.manifest.key}")
    listing = json.loads(bucket.read(LISTING) or b"")
    sha256 = listing[FOLDER]["image_vector.npy"]
    bucket.remove([sha256])
    if fault == "damaged":
        bucket.write(sha256, b"something else")
    with pytest.raises(DataError, match=r"\(image_vector.npy\) is not as it was put.*`dvc repro -f index`"):
        fetch_table(made.manifest, PARTS)
    assert not (made.manifest.folder / FOLDER).exists()
    assert not fetch_table(made.manifest, PARTS)


def test_no_file_of_a_listing_leaves_the_index_and_no_other_listing_is_read(made: Index) -> None:
    bucket = Bucket(f"{PARTS}/index/{made.manifest.key}")
    for listing, words in (('{"index": {"../elsewhere": "0"}}', "which is no file of an index"), ("[]", "is damaged")):
        bucket.write(LISTING, listing.encode())
        with pytest.raises(DataError, match=words):
            fetch_table(made.manifest, PARTS)


def test_without_a_bucket_nothing_is_put_or_fetched(tmp_path: Path) -> None:
    manifest = Manifest("key", "dataset", "model", "captioner", 1, {}, {}, {})
    for parts in (None, str(tmp_path)):
        put_table(manifest, parts)
        assert not fetch_table(manifest, parts)
