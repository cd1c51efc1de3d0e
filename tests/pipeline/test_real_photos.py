"""Real photos and real weights through `dvc repro`: the README's second table, and photos that are broken."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.workspace import ROOT, Workspace, clone

pytestmark = pytest.mark.slow

PUBLISHED = ROOT / "docs/results/real-photos.json"
TRAINED = ROOT / "docs/results/training.json"
CLOSE = 0.004  # two of 520 queries: another release of torch may turn a photo or two


@pytest.fixture
def workspace(shared_data: Path, tmp_path: Path) -> Workspace:
    """A clone that finds the photos and the weights; pictures only unless a copy of MiniLM is named."""
    workspace = clone(tmp_path / "clone")
    workspace.variables = {"TWINLENS_SHARED_DATA": str(shared_data), "TWINLENS_WEIGHTS": str(shared_data / "weights")}
    only = {"image": {"base": "models/mobilenetv2-minilm-files.image"}}
    workspace.change({"cards/models/photos-only.yaml:": only, "captioner": "none", "model": "photos-only"})
    return workspace


def metrics(workspace: Workspace, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workspace.folder / "metrics" / name).read_text())
    return found


def test_600_photos_give_the_table_of_the_readme(workspace: Workspace) -> None:
    minilm = os.environ.get("TWINLENS_MINILM")
    if minilm:
        workspace.variables["TWINLENS_MINILM"] = str(Path(minilm).expanduser().resolve())
        workspace.change({"model": "mobilenetv2-minilm-files"})
    workspace.change({"dataset": "coco-sample"})
    workspace.run("dvc", "repro", "evaluate")
    found, published = metrics(workspace, "retrieval.json"), json.loads(PUBLISHED.read_text())
    assert found["object_sets"]["pool"]["queries"] == published["object_sets"]["pool"]["queries"] == 520
    retrievers = set(found["object_sets"]) - {"pool"}
    assert retrievers == (set(published["object_sets"]) - {"pool"} if minilm else {"image", "bm25_captions"})
    for retriever in retrievers:
        for measure in ("hit_at_10", "ndcg_at_10", "map_at_10", "mrr_at_10"):
            assert found["object_sets"][retriever][measure] == pytest.approx(
                published["object_sets"][retriever][measure], abs=CLOSE
            ), (retriever, measure)


def test_heads_on_frozen_towers_find_photos_that_were_not_trained_on(workspace: Workspace) -> None:
    minilm = os.environ.get("TWINLENS_MINILM")
    if not minilm:
        pytest.skip("name a copy of all-MiniLM-L6-v2 as TWINLENS_MINILM")
    workspace.variables["TWINLENS_MINILM"] = str(Path(minilm).expanduser().resolve())
    workspace.change({"dataset": "coco-sample-split", "model": "heads-infonce"})
    workspace.run("dvc", "repro", "evaluate")
    found = metrics(workspace, "retrieval.json")["caption_to_image"]
    chance = found["pool"]["chance_hit_at_10"]
    assert found["image"]["hit_at_10"] > 5 * chance
    assert found["image_untrained"]["hit_at_10"] < 2 * chance
    kept = json.loads(TRAINED.read_text())
    (published,) = [own["caption_to_image"]["image"] for own in kept if own["model"] == "heads-infonce"]
    assert published["low"] < found["image"]["hit_at_10"] < published["high"]


# ---------------------------------------------------------------- broken photos


def as_bytes(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def broken(photo: bytes) -> dict[str, bytes | None]:
    """Photos by file name: None is one that the annotations list and the archive lacks."""
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    deep = Image.fromarray(np.full((64, 64), 40_000, np.uint16))
    return {
        "cut.jpg": photo[: len(photo) // 2],
        "empty.jpg": b"",
        "words.jpg": b"this is no picture",
        "missing.jpg": None,
        "gigantic.png": as_bytes(Image.new("1", (20_000, 20_000)), "PNG"),
        "cmyk.jpg": as_bytes(image.convert("CMYK"), "JPEG"),
        "deep.png": as_bytes(deep, "PNG"),
        "moving.gif": as_bytes(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
        "rotated.jpg": as_bytes(image, "JPEG", exif=rotated),
        "png-inside.jpg": as_bytes(image, "PNG"),
    }


SET_ASIDE = {"cut.jpg", "empty.jpg", "words.jpg", "missing.jpg", "gigantic.png"}


def write_coco(folder: Path, photos: dict[str, bytes | None]) -> None:
    """The two archives of COCO val2017: every photo shows a dog and has a caption."""
    folder.mkdir()
    images = [{"id": n, "file_name": name, "width": 1, "height": 1} for n, name in enumerate(photos)]
    captions = [{"image_id": n, "caption": f"a dog, number {n}"} for n in range(len(photos))]
    boxes = [{"image_id": n, "category_id": 18} for n in range(len(photos))]
    with zipfile.ZipFile(folder / "val2017.zip", "w") as archive:
        for name, raw in photos.items():
            if raw is not None:
                archive.writestr(f"val2017/{name}", raw)
    with zipfile.ZipFile(folder / "annotations_trainval2017.zip", "w") as archive:
        archive.writestr("annotations/captions_val2017.json", json.dumps({"images": images, "annotations": captions}))
        archive.writestr(
            "annotations/instances_val2017.json",
            json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 18, "name": "dog"}]}),
        )


def test_broken_photos_are_mended_or_set_aside_and_listed(
    workspace: Workspace, shared_data: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(shared_data / "coco/val2017.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:12]
        photos: dict[str, bytes | None] = {Path(name).name: archive.read(name) for name in names}
    bad = broken(photos[Path(names[0]).name] or b"")
    write_coco(tmp_path / "coco", photos | bad)
    workspace.change({"dataset": "coco-sample", "cards/datasets/coco-sample.yaml:source": str(tmp_path / "coco")})
    printed = workspace.run("dvc", "repro", "evaluate")
    assert f"{len(photos | bad) - len(SET_ASIDE)} pictures ready, {len(SET_ASIDE)} set aside" in printed
    images = pl.read_parquet(workspace.folder / "data/filtered/coco-sample/images.parquet")
    notes = pl.read_parquet(workspace.folder / "data/resized/coco-sample/notes.parquet").join(images, on="image_id")
    by_file = {Path(file).name: (kept, note) for file, kept, note in notes.select("file", "kept", "note").iter_rows()}
    assert {file for file, (kept, _) in by_file.items() if not kept} == SET_ASIDE
    assert {file for file, (kept, _) in by_file.items() if kept} >= bad.keys() - SET_ASIDE
    assert all(note for _, note in by_file.values())
    pool = metrics(workspace, "retrieval.json")["object_sets"]["pool"]
    assert pool["items"] == len(photos | bad) - len(SET_ASIDE)
