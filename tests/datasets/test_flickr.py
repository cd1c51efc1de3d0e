"""Flickr30k as the hub has it and Flickr8k as its publishers shipped it: whole, damaged and partly unpacked."""

from __future__ import annotations

import json
import shutil
from collections import Counter, namedtuple
from pathlib import Path

import pytest

from tests.datasets.pictures import jpeg, write, zipped
from tests.hub import COMMIT, GATED, Cut, point_at, serving_hub
from tests.web import Host
from twinlens import fetch
from twinlens.config.datasets import Flickr8kCard, Flickr30kCard
from twinlens.config.params import FilterParams
from twinlens.datasets.flickr8k import Flickr8k
from twinlens.datasets.flickr30k import PHOTOS, TABLE, Flickr30k
from twinlens.errors import DataError, FetchError
from twinlens.filtering import RawCaption, RawImage, apply_rules

HEADER = b"raw,sentids,split,filename,img_id\n"


def row(name: str, split: str, *captions: str) -> bytes:
    cell = json.dumps(captions).replace('"', '""')
    return f'"{cell}","[0]",{split},{name},0\n'.encode()


TABLE_30K = HEADER + row("1.jpg", "train", "A dog.", 'A "big" dog.') + row("2.jpg", "test", "Un café.")
ZIP_30K = zipped(
    {
        "flickr30k-images/1.jpg": jpeg(1),
        "flickr30k-images/2.jpg": jpeg(2),
        "flickr30k-images/3.jpg": jpeg(3),
        "__MACOSX/flickr30k-images/._1.jpg": b"x",
    }
)
REPO_30K = {TABLE: TABLE_30K, PHOTOS: ZIP_30K, "README.md": b"not wanted"}


def flickr30k(source: Path | str | None) -> Flickr30k:
    return Flickr30k(Flickr30kCard(adapter="flickr30k", source=str(source) if source else None, revision=COMMIT))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


def test_photos_captions_and_karpathys_split_are_read_and_a_photo_without_a_row_is_a_listed_drop(
    tmp_path: Path, raw: Path
) -> None:
    made = flickr30k(write(tmp_path / "f", REPO_30K))
    assert made.download(raw) == 2
    found = made.annotations(raw)
    assert found.images == [
        RawImage("1", "flickr30k-images/1.jpg", "train", ()),
        RawImage("2", "flickr30k-images/2.jpg", "test", ()),
    ]
    assert [c.text for c in found.captions] == ["A dog.", 'A "big" dog.', "Un café."]
    assert found.dropped == [
        ("image", "flickr30k-images/3.jpg", "unlisted", f"in {PHOTOS}, but {TABLE} does not list it")
    ]
    assert list(made.read_pictures(raw, [i.file for i in found.images])) == [jpeg(1), jpeg(2)]
    kept = apply_rules(found, FilterParams(require_caption=True, require_label=False))
    assert kept.counts["images"] == {"found": 3, "kept": 2}


def test_a_row_whose_captions_cannot_be_read_is_a_listed_drop(tmp_path: Path, raw: Path) -> None:
    table = TABLE_30K + b'"[""cut",[0],val,4.jpg,0\n' + b'"{}",[0],val,5.jpg,0\n'
    made = flickr30k(write(tmp_path / "f", REPO_30K | {TABLE: table}))
    made.download(raw)
    found = made.annotations(raw)
    assert [i.image_id for i in found.images] == ["1", "2", "4", "5"]
    assert [drop[:3] for drop in found.dropped[:2]] == [("caption", "4", "unreadable"), ("caption", "5", "unreadable")]
    assert list(made.read_pictures(raw, ["flickr30k-images/4.jpg"])) == ["listed, but not there"]


def test_a_table_with_other_columns_is_an_error_that_names_both(tmp_path: Path, raw: Path) -> None:
    made = flickr30k(write(tmp_path / "f", REPO_30K | {TABLE: b"image,text\n1.jpg,x\n"}))
    made.download(raw)
    with pytest.raises(DataError, match="no column raw, split, filename; found image, text"):
        made.annotations(raw)


def test_an_empty_table_is_an_error_when_the_rules_are_applied(tmp_path: Path, raw: Path) -> None:
    made = flickr30k(write(tmp_path / "f", REPO_30K | {TABLE: HEADER}))
    made.download(raw)
    with pytest.raises(DataError, match=r"no picture of 3 is left .*unlisted"):
        apply_rules(made.annotations(raw), FilterParams(require_caption=True, require_label=False))


def test_missing_files_are_all_named_at_once(tmp_path: Path, raw: Path) -> None:
    folder = write(tmp_path / "f", {"other.txt": b""})
    with pytest.raises(FetchError) as caught:
        flickr30k(folder).download(raw)
    assert str(caught.value) == (
        f"{folder / TABLE}, {folder / PHOTOS} are not there. "
        f"The dataset's card names the folder; it must hold {TABLE}, {PHOTOS}"
    )


def test_the_hub_is_asked_for_the_two_files_at_the_pinned_commit_and_only_once(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_hub({"nlphuji/flickr30k": REPO_30K}) as hub:
        point_at(hub.url, tmp_path / "cache", monkeypatch)
        hub.faults[PHOTOS] = [Cut(after=500)]  # the connection breaks half way
        made = flickr30k(None)
        made.download(raw)
        images = made.annotations(raw).images
        assert list(made.read_pictures(raw, [images[0].file])) == [jpeg(1)]
        assert sorted(set(hub.fetched())) == [PHOTOS, TABLE]
        assert all(f"/resolve/{COMMIT}/" in r for r in hub.requests if "/resolve/" in r)
        bodies = [r for r in hub.requests if r.startswith("GET") and r.endswith(PHOTOS)]
        assert len(bodies) == 2  # the cut one, and the rest
    # the hub has gone: what was fetched stays usable
    monkeypatch.setattr("twinlens.hub.ANSWERS_IN_S", 0.3)
    assert len(made.annotations(raw).images) == 2


def test_a_gated_dataset_names_the_page_where_its_terms_are_accepted(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_hub({"nlphuji/flickr30k": REPO_30K}) as hub:
        hub.refused_files["nlphuji/flickr30k"] = GATED
        point_at(hub.url, tmp_path / "cache", monkeypatch)
        with pytest.raises(
            FetchError, match=r"do so at https://huggingface.co/datasets/nlphuji/flickr30k, then `hf auth"
        ):
            flickr30k(None).download(raw)
    assert not raw.exists()


def test_a_hub_out_of_reach_is_one_error_with_the_way_on(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    with pytest.raises(
        FetchError,
        match=r"nlphuji/flickr30k at revision .*put flickr_annotations_30k.csv, flickr30k-images.zip into a fo",
    ):
        flickr30k(None).download(raw)


def test_a_disk_without_room_is_an_error_before_anything_is_fetched_from_the_hub(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    with serving_hub({"nlphuji/flickr30k": REPO_30K}) as hub:
        point_at(hub.url, tmp_path / "cache", monkeypatch)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, len(ZIP_30K)))
        needed = len(ZIP_30K) + len(TABLE_30K)
        with pytest.raises(FetchError, match=rf"needs {needed:,} bytes in .* and {len(ZIP_30K):,} are free: make room"):
            flickr30k(None).download(raw)
        assert hub.fetched() == []
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, needed))
        flickr30k(None).download(raw)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 0))
        flickr30k(None).download(raw)  # it is all in the cache


@pytest.mark.parametrize("variable", ["TWINLENS_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_the_hubs_cache_is_used_and_what_it_lacks_is_named(
    variable: str, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_hub({"nlphuji/flickr30k": REPO_30K}) as hub:
        point_at(hub.url, tmp_path / "cache", monkeypatch)
        monkeypatch.setenv(variable, "1")
        with pytest.raises(FetchError, match=rf"put {TABLE}, {PHOTOS} into a folder and name it as `source`"):
            flickr30k(None).download(raw)
        assert hub.requests == []
        monkeypatch.delenv(variable)
        flickr30k(None).download(raw)
        asked = len(hub.requests)
        monkeypatch.setenv(variable, "1")
        assert flickr30k(None).download(raw) == 2
        assert len(hub.requests) == asked


def test_the_real_sample_of_flickr30k(shared_data: Path, raw: Path) -> None:
    made = flickr30k(shared_data / "flickr30k")
    made.download(raw)
    found = made.annotations(raw)
    assert len(found.images) == 91
    assert len(found.captions) == 455
    assert Counter(image.split for image in found.images) == {"train": 87, "val": 4}
    assert found.dropped == []
    assert all(isinstance(b, bytes) for b in made.read_pictures(raw, [image.file for image in found.images]))


# ---------------------------------------------------------------- Flickr8k

TEXTS_8K = {
    "Flickr8k.token.txt": b"1.jpg#0\tA dog .\n1.jpg#1\tA big dog .\n2.jpg#0\tA cat .\n9.jpg#0\tNobody .\nno tab here\n",
    "Flickr_8k.trainImages.txt": b"1.jpg\n",
    "Flickr_8k.devImages.txt": b"2.jpg\n",
    "Flickr_8k.testImages.txt": b"3.jpg\n",
}
PHOTOS_8K = {f"Flicker8k_Dataset/{n}.jpg": jpeg(n) for n in (1, 2, 3, 7)}
ZIPS_8K = {"Flickr8k_text.zip": zipped(TEXTS_8K), "Flickr8k_Dataset.zip": zipped(PHOTOS_8K)}


def flickr8k(source: Path | str | None) -> Flickr8k:
    return Flickr8k(Flickr8kCard(adapter="flickr8k", source=str(source) if source else None))


@pytest.mark.parametrize("files", [TEXTS_8K | PHOTOS_8K, ZIPS_8K], ids=["unpacked", "zips"])
def test_flickr8k_is_read_packed_and_unpacked(files: dict[str, bytes], tmp_path: Path, raw: Path) -> None:
    made = flickr8k(write(tmp_path / "f", files))
    made.download(raw)
    found = made.annotations(raw)
    assert [(i.image_id, i.split) for i in found.images] == [("1", "train"), ("2", "val"), ("3", "test")]
    assert found.captions[:2] == [RawCaption("1", "A dog ."), RawCaption("1", "A big dog .")]
    assert sorted(drop[2] for drop in found.dropped) == ["unlisted", "unreadable"]
    assert list(made.read_pictures(raw, [i.file for i in found.images])) == [jpeg(1), jpeg(2), jpeg(3)]
    kept = apply_rules(found, FilterParams(require_caption=True, require_label=False))
    assert {(d[0], d[1], d[2]) for d in kept.dropped.rows()} >= {
        ("caption", "9", "unknown_image"),
        ("image", "3", "require_caption"),
    }


def test_a_photo_in_two_lists_is_an_error(tmp_path: Path, raw: Path) -> None:
    twice = TEXTS_8K | {"Flickr_8k.testImages.txt": b"1.jpg\n"}
    made = flickr8k(write(tmp_path / "f", twice | PHOTOS_8K))
    made.download(raw)
    with pytest.raises(DataError, match=r"1.jpg stands in the lists of train and of test"):
        made.annotations(raw)


def test_half_of_flickr8k_is_an_error_that_says_what_must_be_there(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(FetchError, match=r"holds photos but not the other half; it must hold Flickr8k.token.txt"):
        flickr8k(write(tmp_path / "f", PHOTOS_8K)).download(raw)


def test_a_folder_that_changed_after_download_is_refused(tmp_path: Path, raw: Path) -> None:
    folder = write(tmp_path / "f", ZIPS_8K)
    made = flickr8k(folder)
    made.download(raw)
    (folder / "Flickr8k_text.zip").write_bytes(zipped({"x": b"y"}))
    with pytest.raises(DataError, match="is not the file that was recorded: `dvc repro -f download`"):
        made.annotations(raw)


def test_a_mirror_serves_the_two_zips(host: Host, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 0.001)
    host.files.update({f"m/{name}": content for name, content in ZIPS_8K.items()})
    made = flickr8k(f"{host.url}/m")
    assert made.download(raw) == 2
    assert len(made.annotations(raw).images) == 3


def test_offline_every_missing_file_and_its_place_is_named(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINLENS_OFFLINE", "1")
    with pytest.raises(FetchError) as caught:
        flickr8k(None).download(raw)
    assert str(caught.value) == (
        "offline, and 2 file(s) of flickr8k are not here: Flickr8k_text.zip, Flickr8k_Dataset.zip. Place them into "
        f"{tmp_path / 'downloads' / 'flickr8k'}, or into any folder that `source` on the dataset's card names"
    )
    write(tmp_path / "downloads" / "flickr8k", ZIPS_8K)
    assert flickr8k(None).download(raw) == 2  # once they are there, no request is made
