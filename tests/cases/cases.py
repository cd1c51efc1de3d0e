"""The cases, by their numbers: each makes its files, runs them and asserts what has to come out."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from tests.cases.run import refusal, run, table, table_refusal
from tests.datasets.adapters.pictures import encoded, jpeg, parquet, pixels, tarred, zipped

Check = Callable[[Path], None]
Listed = list[dict[str, Any]]
CASES: dict[str, Check] = {}


def case(name: str) -> Callable[[Check], Check]:
    """Enter a case under its number and what it is about."""

    def enter(check: Check) -> Check:
        CASES[name] = check
        return check

    return enter


def photos(count: int) -> dict[str, bytes]:
    return {f"{n}.jpg": jpeg(n) for n in range(count)}


def shards(folder: Path, files: dict[str, bytes], **card: Any) -> dict[str, Any]:
    return {"adapter": "webdataset", "source": str(folder / "files"), "shards": {"test": "*.tar"}} | card


def rows(folder: Path, **card: Any) -> dict[str, Any]:
    """A card of Parquet files."""
    named = {"adapter": "hub", "repository": "me/x", "source": str(folder / "files"), "files": {"test": "*.parquet"}}
    return named | {"columns": {"image": "image", "caption": "caption"}} | card


@case("01 two shards that count from 0")
def same_keys(folder: Path) -> None:
    files = {
        f"part-{n}.tar": tarred({"0000.jpg": jpeg(n), "0000.txt": f"a {what}".encode()})
        for n, what in enumerate(("dog", "tram"))
    }
    found = run(folder, files, **shards(folder, files))
    assert found.captions == {"part-0.tar/0000.jpg": ["a dog"], "part-1.tar/0000.jpg": ["a tram"]}
    assert not found.dropped
    for n in range(2):
        assert close(found.pixels[f"part-{n}.tar/0000.jpg"], jpeg(n))


@case("02 dots in the names of a shard")
def dots(folder: Path) -> None:
    names = ["beach", "beach.1", "beach.2", "v1.0.final"]
    members = {f"{name}.{e}": c for n, name in enumerate(names) for e, c in (("jpg", jpeg(n)), ("txt", name.encode()))}
    found = run(folder, {"0.tar": tarred(members)}, **shards(folder, {}))
    assert found.captions == {f"0.tar/{name}.jpg": [name] for name in names}


@case("04 Parquet of the same name in each split")
def same_file_names(folder: Path) -> None:
    files = {
        f"default/{split}/0000.parquet": parquet(
            [{"image": {"bytes": jpeg(n + 5 * (split == "test")), "path": f"{n}.jpg"}, "caption": f"{split} {n}"}
             for n in range(2)]
        )
        for split in ("train", "test")
    }  # fmt: skip
    by_split = {split: f"default/{split}/*.parquet" for split in ("train", "test")}
    found = run(folder, files, **rows(folder, files=by_split))
    assert found.captions == {f"{name}#{n}": [f"{name.split('/')[1]} {n}"] for name in files for n in range(2)}
    assert sorted(found.splits.values()) == ["test", "test", "train", "train"]


@case("05 JSONL with line separators in its captions")
def line_separators(folder: Path) -> None:
    said = ["A dog.", "Old tram\u2028in the rain", "Market\u0085at noon", "Two\x0bboats."]
    lines = [json.dumps({"file": f"{n}.jpg", "caption": t}, ensure_ascii=False) for n, t in enumerate(said)]
    found = table(folder, "t.jsonl", "\n".join(lines) + "\n", photos(4))
    assert found.captions == {
        "0.jpg": ["A dog."], "1.jpg": ["Old tram in the rain"], "2.jpg": ["Market at noon"], "3.jpg": ["Two boats."]
    }  # fmt: skip


@case("06 commas in captions that nothing quotes")
def unquoted(folder: Path) -> None:
    content = "file,caption\n0.jpg,A dog.\n1.jpg,A man, a woman and a child\n"
    message = table_refusal(folder, "t.txt", content, photos(2))
    assert "t.txt, line 3: 3 cells, its heading has 2" in message and "has to be quoted" in message


@case("08 missing values that are written NaN")
def missing(folder: Path) -> None:
    lines: Listed = [
        {"caption": "A dog.", "label": "dog"},
        {"caption": float("nan"), "label": float("nan")},
        {"caption": None},
    ]
    content = "\n".join(json.dumps({"file": f"{n}.jpg"} | line) for n, line in enumerate(lines))
    columns = {"file": "file", "caption": "caption", "label": "label"}
    found = table(folder, "t.jsonl", content, photos(3), columns=columns)
    assert found.captions == {"0.jpg": ["A dog."], "1.jpg": [], "2.jpg": []}
    assert list(found.labels.values()) == [["dog"], [], []]


@case("09 pictures and class folders that are links")
def links(folder: Path) -> None:
    (folder / "blobs/cats").mkdir(parents=True)
    for n in range(2):
        (folder / f"blobs/{n}").write_bytes(jpeg(n))
        (folder / f"blobs/cats/{n}.jpg").write_bytes(jpeg(7 + n))
    tree = folder / "files/pictures"
    (tree / "dogs").mkdir(parents=True)
    for n in range(2):
        (tree / f"dogs/{n}.jpg").symlink_to(folder / f"blobs/{n}")
    (tree / "cats").symlink_to(folder / "blobs/cats", target_is_directory=True)
    found = run(folder, {}, adapter="folder", images=str(tree), pool="all")
    assert found.labels == {f"{kind}/{n}.jpg": [kind] for kind in ("cats", "dogs") for n in range(2)}
    assert not found.aside and len(found.pixels) == 4


@case("10 names in another spelling")
def spellings(folder: Path) -> None:
    there = ["plain.jpg", "caf\u00e9.jpg", "sub/windows.jpg", "dot.jpg", "absolute.jpg", "blank.jpg"]
    listed = [
        "plain.jpg", "cafe\u0301.jpg", "sub\\windows.jpg", "./dot.jpg",
        str(folder / "files/photos/absolute.jpg"), "blank.jpg ",
    ]  # fmt: skip
    lines = [f"{name}\tof {n}" for n, name in enumerate(listed)]
    found = table(
        folder, "t.tsv", "\n".join(["file\tcaption", *lines]), {name: jpeg(n) for n, name in enumerate(there)}
    )
    assert sorted(said for texts in found.captions.values() for said in texts) == [f"of {n}" for n in range(6)]
    assert not found.aside


@case("12 endings that are on no list")
def endings(folder: Path) -> None:
    kinds = {"jfif": "JPEG", "jpe": "JPEG", "JPG": "JPEG", "avif": "AVIF", "ppm": "PPM", "webp": "WEBP"}
    files = {f"p/dogs/{n}.{end}": encoded(pixels(n), kind) for n, (end, kind) in enumerate(kinds.items())}
    passed = {"p/dogs/x.heic": b"?", "p/dogs/y": b"?", "p/dogs/notes.txt": b"a note"}
    found = run(folder, files | passed, adapter="folder", images=str(folder / "files/p"), pool="all")
    assert set(found.pixels) == {name.removeprefix("p/") for name in files}
    assert sorted(found.dropped) == [("dogs/x.heic", "ending"), ("dogs/y", "ending")]


@case("13 pictures out of the ordinary")
def odd_pictures(folder: Path) -> None:
    ramp = np.tile(np.linspace(0, 1, 80), (60, 1))
    whole = encoded(pixels(1))
    tables = whole.index(b"\xff\xdb")
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray((np.stack([ramp] * 3, 2) * 255).astype(np.uint8)).rotate(90, expand=True).save(
        turned, "JPEG", quality=95, exif=exif
    )
    made = {
        "ramp12in16.png": encoded(Image.fromarray((ramp * 4095).astype(np.uint16)), "PNG"),
        "ramp8in32.tif": encoded(Image.fromarray((ramp * 255).astype(np.int32)), "TIFF"),
        "turned.jpg": turned.getvalue(),
        "filled.jpg": whole[:-2] + bytes(20) + whole[-2:],
        "stray.jpg": whole[:tables] + b"\r\n" + whole[tables:],
        "whole.jpg": whole,
        "half.jpg": whole[: len(whole) // 2],
        "page.jpg": b"<!DOCTYPE html>",
        "dot.png": encoded(Image.new("RGB", (1, 1)), "PNG"),
    }
    found = table(folder, "t.csv", "\n".join(["file,caption", *(f"{name},x" for name in made)]), made)
    assert set(found.aside) == {"half.jpg", "page.jpg", "dot.png"}
    for name in ("ramp12in16.png", "ramp8in32.tif", "turned.jpg"):
        np.testing.assert_allclose(found.pixels[name][..., 0], ramp * 255, atol=6, err_msg=name)
    for name in ("filled.jpg", "stray.jpg"):
        assert close(found.pixels[name], whole)
    assert found.mended["stray.jpg"] == ["stray bytes between its segments left out"]


@case("15 tables and texts as other systems save them")
def encodings(folder: Path) -> None:
    said = ["A dog on a beach.", "Una calle; de noche, a pie.", "Ein Caf\u00e9 am Flu\u00df."]

    def content(sep: str) -> str:
        quoted = [f'"{text}"' if sep in text else text for text in said]
        return "\r\n".join([f"file{sep}caption", *(f"{n}.jpg{sep}{text}" for n, text in enumerate(quoted))]) + "\r\n"

    forms: dict[str, bytes] = {
        "semicolons.csv": content(";").encode("utf-8-sig"),
        "sep-line.csv": ("sep=,\r\n" + content(",")).encode("utf-8-sig"),
        "unicode-text.txt": content("\t").encode("utf-16"),
        "old-mac.csv": content(",").replace("\r\n", "\r").encode(),
        "blank-lines.csv": ("\r\n\r\n" + content(",")).encode(),
    }
    for name, raw in forms.items():
        found = table(folder / name, name, raw, photos(3))
        assert found.captions == {f"{n}.jpg": [text] for n, text in enumerate(said)}, name
    latin = table(folder / "cp1252", "t.csv", content(",").encode("cp1252"), photos(3))
    assert latin.captions["2.jpg"] == [] and ("2.jpg", "not_utf8") in latin.dropped
    message = table_refusal(folder / "case", "t.csv", content(",").replace("file,", "File,"), photos(3))
    assert "no column file; found File, caption" in message and "'File'" in message
    members = {f"{n}.jpg": jpeg(n) for n in range(2)}
    members |= {"0.txt": "A dog.\r\n".encode("utf-8-sig"), "1.txt": "A tram.\r\n".encode("utf-16")}
    found = run(folder / "sidecar", {"0.tar": tarred(members)}, **shards(folder / "sidecar", {}))
    assert found.captions == {"0.tar/0.jpg": ["A dog."], "0.tar/1.jpg": ["A tram."]}


def coco(folder: Path, images: Listed, said: Listed, boxes: Listed, members: list[str]) -> dict[str, bytes]:
    kinds = [{"id": 1, "name": "dog"}, {"id": 2, "name": "tram"}]
    described = {
        "annotations/captions_val2017.json": {"images": images, "annotations": said},
        "annotations/instances_val2017.json": {"images": images, "annotations": boxes, "categories": kinds},
    }
    return {
        "annotations_trainval2017.zip": zipped({name: json.dumps(c).encode() for name, c in described.items()}),
        "val2017.zip": zipped({name: jpeg(n + 1) for n, name in enumerate(members)}),
    }


@case("16 COCO files as labelling tools write them")
def coco_of_ones_own(folder: Path) -> None:
    ids = [1, 2, 3]
    images: Listed = [{"id": n, "file_name": f"{n}.jpg"} for n in ids]
    said: Listed = [{"image_id": n, "caption": f"of {n}"} for n in ids]
    boxes: Listed = [{"image_id": n, "category_id": 1 + n % 2} for n in ids]
    plain = [f"val2017/{n}.jpg" for n in ids]
    card = {"adapter": "coco", "parts": ["val2017"], "verify": False, "pool": "all"}
    whole = {f"val2017/{n}.jpg": [f"of {n}"] for n in ids}

    def ran(name: str, files: dict[str, bytes], **more: Any) -> Any:
        return run(folder / name, files, **card, source=str(folder / name / "files"), **more)

    def refused(name: str, files: dict[str, bytes], **more: Any) -> str:
        return refusal(folder / name, files, **card, source=str(folder / name / "files"), **more)

    texts = [row | {"id": str(row["id"])} for row in images], [row | {"image_id": str(row["image_id"])} for row in said]
    assert ran("ids as texts", coco(folder, *texts, boxes, plain)).captions == whole
    floats = [row | {"image_id": float(row["image_id"])} for row in said]
    assert ran("ids as floats", coco(folder, images, floats, boxes, plain)).captions == whole
    huge = (
        [row | {"id": 10**20 + row["id"]} for row in images],
        [row | {"image_id": 10**20 + row["image_id"]} for row in said],
    )
    assert ran("huge ids", coco(folder, *huge, [], plain)).captions == whole
    null = [*said, {"image_id": 1, "caption": None}, {"image_id": 77, "caption": "nobody"}]
    found = ran("null and nobody", coco(folder, images, null, boxes, plain))
    assert found.captions == whole and found.dropped == [("000000000077", "unknown_image")]
    twice = [*images, images[0]]
    assert ran("an image twice", coco(folder, twice, said, boxes, plain)).captions == whole
    unlisted = [*boxes, {"image_id": 1, "category_id": 90}]
    assert "category 90, which its `categories` do not list" in refused(
        "unlisted", coco(folder, images, said, unlisted, plain)
    )
    for name, members, within in (
        ("no folder", [f"{n}.jpg" for n in ids], ""),
        ("another folder", [f"my/val2017/{n}.jpg" for n in ids], "my/{part}"),
    ):
        files = coco(folder, images, said, boxes, members)
        assert f"there is {members[0]} (looked for val2017/1.jpg" in refused(name, files)
        assert ran(name, files, folder=within).captions == whole
    inside = [row | {"file_name": f"val2017/{row['file_name']}"} for row in images]
    found = ran("a folder in file_name", coco(folder, inside, said, boxes, plain), folder="")
    assert list(found.captions.values()) == list(whole.values())


@case("18 a stage run by hand on files that DVC's cache shares")
def by_hand(folder: Path) -> None:
    from twinlens.core import tables
    from twinlens.core.scratch import write_whole

    out, cache = folder / "data/filtered/bug/captions.parquet", folder / "cache"
    out.parent.mkdir(parents=True)
    cache.write_bytes(b"as DVC holds it")
    os.link(cache, out)
    os.link(cache, out.parent.parent / "of-another-dataset")
    row = pl.DataFrame({"caption_id": ["a#0"], "image_id": ["a"], "text": ["A dog."]})
    with write_whole(out.parent) as draft:  # as the stage does
        tables.write_table(row, draft / out.name, tables.CAPTIONS)
    assert cache.read_bytes() == b"as DVC holds it"
    assert (out.parent.parent / "of-another-dataset").exists()
    assert pl.read_parquet(out)["text"].to_list() == ["A dog."]


@case("19 captions in scripts without blanks")
def no_blanks(folder: Path) -> None:
    from twinlens.retrieval.bm25 import Bm25
    from twinlens.retrieval.tokenize import tokenize

    said = ["\u4e00\u53ea\u9ed1\u72d7\u5728\u6d77\u6ee9\u4e0a", "\u96e8\u4e2d\u7684\u7535\u8f66", "\u4e24\u53ea\u72d7"]
    said += ["\u0e2b\u0e21\u0e32\u0e2a\u0e2d\u0e07\u0e15\u0e31\u0e27", "\u8d64\u3044\u96fb\u8eca"]
    lines = [f"{n}.jpg,{text}" for n, text in enumerate(said)]
    found = table(folder, "t.csv", "\n".join(["file,caption", *lines]), photos(5))
    index = Bm25.of([tokenize(texts[0]) for texts in found.captions.values()])
    wanted = {"\u72d7": [0, 2], "\u7535\u8f66": [1], "\u0e2b\u0e21\u0e32": [3], "\u96fb\u8eca": [4], "\u732b": []}
    scores = index.scores(index.queries([tokenize(query) for query in wanted]))
    assert [np.flatnonzero(row).tolist() for row in scores] == list(wanted.values())


@case("21 every row twice")
def twice(folder: Path) -> None:
    lines = [f"{n}.jpg,A {what} in the rain." for n, what in enumerate(("dog", "tram", "boat"))]
    nearly = [line.upper().replace(".JPG", ".jpg").rstrip(".") for line in lines]
    once = table(folder / "once", "t.csv", "\n".join(["file,caption", *lines]), photos(3))
    for name, more in (("twice", lines), ("nearly", nearly)):
        found = table(folder / name, "t.csv", "\n".join(["file,caption", *lines, *more]), photos(3))
        assert found.captions == once.captions
        assert [rule for _, rule in found.dropped] == ["repeated"] * 3


@case("23 Parquet that holds no pictures")
def no_bytes(folder: Path) -> None:
    cells: dict[str, tuple[list[Any], str]] = {
        "path": (
            [{"bytes": None, "path": f"{n}.jpg"} for n in range(2)],
            "the name of a file, '0.jpg': write the pict",
        ),
        "list": ([[{"bytes": jpeg(n), "path": None}] for n in range(2)], "a list of 1, no bytes: write a row for each"),
        "base64": ([base64.b64encode(jpeg(n)).decode() for n in range(2)], "decode them (`base64.b64decode`)"),
    }
    for name, (images, reason) in cells.items():
        made = {"0.parquet": parquet([{"image": image, "caption": f"of {n}"} for n, image in enumerate(images)])}
        assert reason in refusal(folder / name, made, **rows(folder / name)), name
    ids = [
        {"image": {"bytes": jpeg(n), "path": None}, "caption": f"of {n}", "id": i} for n, i in enumerate((7.0, None))
    ]
    columns = {"image": "image", "caption": "caption", "id": "id"}
    found = run(folder / "ids", {"0.parquet": parquet(ids)}, **rows(folder / "ids", columns=columns))
    assert found.captions == {"0.parquet#0": ["of 0"], "0.parquet#1": ["of 1"]}


@case("24 checkpoints as trainers leave them")
def checkpoints(folder: Path) -> None:
    import timm
    import torch
    from safetensors.torch import load_file, save_file

    from tests.models.encoders import test_transformers as clips
    from tests.models.test_state_dicts import FORMS, encode
    from twinlens.config.models import TimmTower
    from twinlens.core.errors import DataError

    state = timm.create_model("test_vit", num_classes=10).state_dict()
    torch.save({"state_dict": state, "epoch": 3, "arch": "test_vit"}, folder / "10.pth.tar")
    tower = TimmTower(timm="test_vit", checkpoint=str(folder / "10.pth.tar"))
    with raises(DataError, "write `kwargs: {num_classes: 10}`"):
        encode(tower)
    own = tower.model_copy(update={"kwargs": {"num_classes": 10}})
    right = encode(own)
    for name, form in FORMS.items():
        torch.save(form(state), folder / "10.pth.tar")
        assert torch.equal(encode(own), right), name
    clips.save_clip(folder / "clip")
    right = encode(clips.card(folder / "clip"))
    shutil.copytree(folder / "clip", folder / "ddp")
    weights = load_file(folder / "clip/model.safetensors")
    prefixed = {f"module.{name}": value for name, value in weights.items()}
    save_file(prefixed, folder / "ddp/model.safetensors", metadata={"format": "pt"})
    assert torch.equal(encode(clips.card(folder / "ddp")), right)
    for file in (folder / "ddp").glob("tokenizer*"):
        file.unlink()
    with raises(DataError, "lacks the tokenizer's files"):
        encode(clips.card(folder / "ddp"))


@case("26 a shard of img2dataset")
def img2dataset(folder: Path) -> None:
    def note(caption: str | None) -> bytes:
        return json.dumps({"caption": caption, "url": "x"}).encode()

    members = {
        "0.jpg": jpeg(0), "0.json": note("A dog."),
        "1.jpg": jpeg(1), "1.json": note(None),
        "2.jpg": encoded(pixels(2), "WEBP"), "2.json": note("Two boats."),
        "3.json": note("Gone."),
        "4.JPEG": jpeg(4), "4.json": note("First line\nsecond line"),
    }  # fmt: skip
    found = run(folder, {"0.tar": tarred(members)}, **shards(folder, {}, caption_key="caption", metadata="json"))
    assert found.captions == {
        "0.tar/0.jpg": ["A dog."], "0.tar/1.jpg": [], "0.tar/2.jpg": ["Two boats."],
        "0.tar/4.JPEG": ["First line second line"],
    }  # fmt: skip
    assert found.dropped == [("3", "no_picture")] and found.mended == {"0.tar/2.jpg": ["WEBP named .jpg"]}


@contextlib.contextmanager
def raises(kind: type[Exception], part: str) -> Any:
    try:
        yield
    except kind as error:
        assert part in str(error), str(error)
    else:
        raise AssertionError(f"wanted an error that says {part!r}")


def close(found: np.ndarray, raw: bytes) -> bool:
    wanted = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")).astype(int)
    return found.shape == wanted.shape and bool(np.abs(found - wanted).mean() < 8)
