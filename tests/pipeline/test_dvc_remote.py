"""Archives and lists outside DVC, and what a remote holds of them: proved by running DVC in clones of the project.

That results of the whole pipeline travel by a remote is in `test_dvc_contract`, where they are made.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.datasets.adapters.pictures import jpeg, write, zipped
from tests.web import serving
from tests.workspace import CLEAN, clone

pytestmark = pytest.mark.slow

UPSTREAM = ["validate", "download", "filter", "resize", "group"]


def digests_in(remote: Path) -> set[str]:
    """MD5 of everything in a remote, by which DVC names it."""
    return {"".join(path.relative_to(remote).parts[-2:]) for path in remote.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- archives stay out

TEXTS = {
    "Flickr8k.token.txt": b"".join(b"%d.jpg#0\tA dog and number %d .\n" % (n, n) for n in range(12)),
    "Flickr_8k.trainImages.txt": b"0.jpg\n1.jpg\n2.jpg\n3.jpg\n",
    "Flickr_8k.devImages.txt": b"4.jpg\n5.jpg\n",
    "Flickr_8k.testImages.txt": b"6.jpg\n7.jpg\n8.jpg\n9.jpg\n10.jpg\n11.jpg\n",
}
ZIPS = {
    "Flickr8k_text.zip": zipped(TEXTS),
    "Flickr8k_Dataset.zip": zipped({f"Flicker8k_Dataset/{n}.jpg": jpeg(n) for n in range(12)}),
}


def test_archives_stay_out_of_the_remote_and_a_machine_without_them_computes_and_fetches_nothing(
    tmp_path: Path,
) -> None:
    with serving({f"m/{name}": content for name, content in ZIPS.items()}) as host:
        here = clone(tmp_path / "here")
        here.variables = {"TWINLENS_DOWNLOADS": str(tmp_path / "downloads"), "NO_PROXY": "127.0.0.1"}
        here.change({"dataset": "flickr8k", "cards/datasets/flickr8k.yaml:source": f"{host.url}/m"})
        assert here.ran("dvc", "repro", "group@flickr8k") == UPSTREAM
        assert {path.name for path in (tmp_path / "downloads").rglob("*.zip")} == set(ZIPS)
        here.share(tmp_path / "remote", "--with-deps", "group@flickr8k")
        in_remote = digests_in(tmp_path / "remote")
        assert in_remote
        assert not in_remote & {hashlib.md5(archive).hexdigest() for archive in ZIPS.values()}
        asked = len(host.requests)
        there = here.elsewhere(tmp_path / "there", TWINLENS_DOWNLOADS=str(tmp_path / "none"), NO_PROXY="127.0.0.1")
        there.run("dvc", "pull", "--with-deps", "group@flickr8k")
        assert there.run("dvc", "status", "group@flickr8k") == CLEAN
        assert there.ran("dvc", "repro", "group@flickr8k") == []
        parts = ("raw", "filtered", "resized", "grouped")
        assert there.digests(*parts) == here.digests(*parts)
        assert [path.name for path in (there.folder / "data/raw/flickr8k").iterdir()] == ["manifest.json"]
        assert len(host.requests) == asked
        assert not (tmp_path / "none").exists()
        # what reads no archive runs without them; what does says which are wanted
        there.change({"group.near_duplicate_bits": 10})
        assert there.ran("dvc", "repro", "group@flickr8k") == ["validate", "group"]
        there.variables |= {"TWINLENS_OFFLINE": "1"}
        there.change({"resize.jpeg_quality": 50})
        printed = there.run("dvc", "repro", "group@flickr8k", check=False)
        assert "Flickr8k_Dataset.zip" in printed
        assert "Traceback" not in printed


# ---------------------------------------------------------------- lists of pictures


def test_a_changed_list_of_pictures_is_refused_and_once_recorded_reruns_filter(tmp_path: Path) -> None:
    rows = "query_id,document_id,relevance\nq,6.jpg,1\nq,7.jpg,1\n"
    folder = write(tmp_path / "f", ZIPS | {"qrels.csv": rows.encode()})
    here = clone(tmp_path / "here")
    changes = {"source": str(folder), "keep": {"from_qrels": str(folder / "qrels.csv")}}
    here.change(
        {"dataset": "flickr8k"} | {f"cards/datasets/flickr8k.yaml:{key}": value for key, value in changes.items()}
    )
    assert here.ran("dvc", "repro", "filter@flickr8k") == ["validate", "download", "filter"]
    (folder / "qrels.csv").write_text(rows.replace("7.jpg", "8.jpg"))
    assert here.ran("dvc", "repro", "filter@flickr8k") == []  # DVC does not look at files outside the repository
    here.change({"filter.require_caption": False})
    printed = here.run("dvc", "repro", "filter@flickr8k", check=False)
    assert "to take it as it is now: `dvc repro -f -s download@flickr8k`, then `dvc repro`" in printed
    assert here.ran("dvc", "repro", "-f", "-s", "download@flickr8k") == ["download"]
    assert here.ran("dvc", "repro", "filter@flickr8k") == ["filter"]
    assert here.ran("dvc", "repro", "-f", "-s", "download@flickr8k") == ["download"]
    assert here.ran("dvc", "repro", "filter@flickr8k") == []  # the same list again
