"""Mutated inputs by the thousand: none may end in a traceback, take for ever, or take much memory.

    python -m benchmarks.stress                                 # 2,000 of each kind
    python -m benchmarks.stress --kinds archives --count 100 --seed 3

Each input is a valid file of which bits, spans, lengths or numbers were changed, the same ones for the same seed. It is
read as the stages read it, in a process of its own that is ended when one input takes too many seconds of a processor.
Whatever is found lies in a folder, with the traceback beside it.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import multiprocessing
import re
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import traceback
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, features

from twinlens.config.columns import ParquetColumns
from twinlens.config.load import check_cards, read_params
from twinlens.config.params import ResizeParams
from twinlens.core.costs import peak_host_bytes
from twinlens.core.errors import TwinLensError

SECONDS = 60  # of a processor, for one input
MEMORY_MB = 1_500  # beyond what the process had before the first input
EXTREMES = ("0", "-1", "1e400", ".nan", ".inf", "", "[]", "{}", "null", "99999999999999999999", "0120", "yes", "'", '"')
JSON_VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|null|true|false|\[\]|\{\}')
JSON_EXTREMES = (
    *(
        "0",
        "-1",
        "1e400",
        "NaN",
        "99999999999999999999",
        "null",
        "true",
        '""',
        "[]",
        "{}",
        "[[[[]]]]",
        '[null, 3, "x"]',
    ),
    *('{"a": 1}', '"\\ud800"', '"\\u0000"', '"../../etc/passwd"', '"' + 300 * "x" + '"', "1.5"),
)

Seeds = dict[str, bytes]  # valid inputs by file name
Rng = np.random.Generator


@dataclass
class Findings:
    """What became of the inputs of a kind."""

    taken: int = 0
    refused: int = 0
    peak_mb: float = 0.0
    faults: list[str] = field(default_factory=list)  # tracebacks, and what ended the process


def mutate(raw: bytes, other: bytes, text: bool, rng: Rng) -> bytes:
    """Change a valid input in one to four places.

    Args:
        raw: the input.
        other: another one, of which a part may be taken.
        text: whether numbers in it are written out.
        rng: decides all.
    """
    changed = bytearray(raw)
    values_only = text and bool(rng.integers(2))  # else hardly a text would be well-formed enough to be looked into
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(max(1, len(changed))))
        span = int(2 ** rng.uniform(0, 12))
        kind = 8 if values_only else rng.integers(9 if text else 8)
        if kind == 0 and changed:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1 and changed:
            changed[at] = int(rng.integers(256))
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + span]
        elif kind == 4:
            changed[at : at + span] = bytes(min(span, max(0, len(changed) - at)))
        elif kind == 5:
            changed[at:at] = changed[at : at + span]
        elif kind == 6:
            changed[at : at + 4] = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"][
                int(rng.integers(4))
            ]
        elif kind == 7:
            start = int(rng.integers(max(1, len(other))))
            changed[at : at + span] = other[start : start + span]
        else:
            changed = bytearray(_replace_number(bytes(changed), rng))
    return bytes(changed)


def _replace_number(raw: bytes, rng: Rng) -> bytes:
    if raw.lstrip(b"\xef\xbb\xbf")[:1] in (b"{", b"["):
        values = list(JSON_VALUE.finditer(raw))
        place = values[int(rng.integers(len(values)))] if values else None
        value = JSON_EXTREMES[int(rng.integers(len(JSON_EXTREMES)))].encode()
        return raw if place is None else raw[: place.start()] + value + raw[place.end() :]
    lines = raw.split(b"\n")
    row = int(rng.integers(len(lines)))
    head, colon, _ = lines[row].partition(b":")
    value = EXTREMES[int(rng.integers(len(EXTREMES)))].encode()
    lines[row] = head + b": " + value if colon else value
    return b"\n".join(lines)


# ---------------------------------------------------------------- pictures


def picture_seeds() -> Seeds:
    """Small pictures of every format that is opened."""
    blobs = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    photo = Image.fromarray(blobs).resize((96, 72))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "plain.jpg": ("JPEG", {"exif": exif.tobytes()}),
        "progressive.jpg": ("JPEG", {"progressive": True, "icc_profile": bytes(300)}),
        "a.png": ("PNG", {}),
        "a.gif": ("GIF", {"save_all": True, "append_images": [photo.rotate(90)]}),
        "a.webp": ("WEBP", {"exif": exif.tobytes()}),
        "lossless.webp": ("WEBP", {"lossless": True}),
        "a.bmp": ("BMP", {}),
        "deflate.tif": ("TIFF", {"compression": "tiff_deflate"}),
        "jpeg.tif": ("TIFF", {"compression": "jpeg"}),
        "a.ppm": ("PPM", {}),
    }
    if features.check("avif"):
        kinds["a.avif"] = ("AVIF", {})
    found: Seeds = {}
    for name, (form, options) in kinds.items():
        file = io.BytesIO()
        (photo.convert("P") if form == "GIF" else photo).save(file, form, **options)
        found[name] = file.getvalue()
    grey = io.BytesIO()
    Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80)).save(grey, "PNG")
    return found | {"deep.png": grey.getvalue()}


def read_picture(path: Path) -> None:
    """Open a picture as `resize` does, and as a search by it does."""
    from twinlens.datasets.adapters.objectnet import crop_border
    from twinlens.images.decode import prepare_jpeg
    from twinlens.images.resize import hash_picture
    from twinlens.indexing.validate import read_image

    raw, limits = path.read_bytes(), _limits()
    crop_border(raw)
    prepare_jpeg(
        raw,
        shortest_side_px=limits.shortest_side_px,
        min_side_px=limits.min_side_px,
        max_megapixels=limits.max_megapixels,
        quality=limits.jpeg_quality,
        name=path.name,
        perceptual_hash=hash_picture,
    )
    read_image(path, limits)


def _limits() -> ResizeParams:
    return read_params().resize


# ---------------------------------------------------------------- tables


def table_seeds() -> Seeds:
    """Tables of captions as people write them."""
    csv = 'file,caption,label\na.jpg,"two dogs, one ""big""",dog\nb.jpg,"a\nred car","[""car"", ""tree""]"\nc.jpg,,\n'
    jsonl = '{"file": "a.jpg", "caption": ["a dog", "x\\u00e9"], "label": 3}\n{"file": "b.jpg", "caption": null}\n'
    return {
        "a.csv": csv.encode() * 3,
        "a.tsv": csv.replace(",", "\t").encode() * 2,
        "utf16.csv": csv.encode("utf-16"),
        "a.jsonl": jsonl.encode() * 5,
        "semicolon.csv": csv.replace(",", ";").encode(),
    }


def read_table(path: Path) -> None:
    """Read a table's cells as the adapter of one's own folder does."""
    from twinlens.datasets.readers.tabular import read_rows

    for row in read_rows(path, ["file", "caption", "label"]):
        row.text("file")
        row.texts("caption")
        row.texts("label", ",")


# ---------------------------------------------------------------- captions


def caption_seeds() -> Seeds:
    """JSON of every shape that is read, and lists that other programs write."""
    coco = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in (1, 2.0, "3")],
        "annotations": [{"image_id": n % 3 + 1, "caption": f"a dog {n}", "category_id": 7} for n in range(5)],
        "categories": [{"id": 7, "name": "dog"}],
    }
    rows = [{"file": f"{n}.jpg", "caption": ["a dog", "two \U0001f415"], "label": n % 2} for n in range(4)]
    named = {f"{n}.jpg": ["a dog", "x\u00e9"] if n % 2 else "one" for n in range(4)}
    return {
        "coco.json": json.dumps(coco).encode(),
        "rows.json": json.dumps(rows, indent=1).encode(),
        "names.json": json.dumps(named, ensure_ascii=False).encode("utf-8-sig"),
        "a.jsonl": "\n".join(map(json.dumps, rows)).encode(),
    }


def read_captions(path: Path) -> None:
    """Read a file's cells, by the names that it has, as the adapter of one's own folder does."""
    from twinlens.datasets.readers.tabular import read_rows

    names = ("file_name" if path.name == "coco.json" else "file", "caption", "label")
    for row in read_rows(path, names):
        row.text(names[0])
        row.texts("caption")
        row.texts("label", ",")


# ---------------------------------------------------------------- archives


def archive_seeds() -> Seeds:
    """Zips and tars, packed in every way that is read."""
    members = {
        "photos/a.jpg": picture_seeds()["plain.jpg"],
        "photos/\u00e9.txt": b"words\n" * 30,
        "b.json": b'{"a": [1]}',
    }
    found: Seeds = {}
    methods = {"stored": zipfile.ZIP_STORED, "deflate": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2}
    for name, method in (methods | {"lzma": zipfile.ZIP_LZMA}).items():
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for member, raw in members.items():
                archive.writestr(member, raw)
        found[f"{name}.zip"] = file.getvalue()
    forms = {"": tarfile.GNU_FORMAT, ".gz": tarfile.PAX_FORMAT, ".bz2": tarfile.PAX_FORMAT, ".xz": tarfile.GNU_FORMAT}
    for ending, form in forms.items():
        file = io.BytesIO()
        mode: Any = f"w:{ending[1:]}"
        with tarfile.open(fileobj=file, mode=mode, format=form) as packed:
            for member, raw in (members | {f"{'long/' * 30}name.jpg": b"x"}).items():
                info = tarfile.TarInfo(member)
                info.size = len(raw)
                packed.addfile(info, io.BytesIO(raw))
            link = tarfile.TarInfo("link.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "photos/a.jpg"
            packed.addfile(link)
        found[f"a.tar{ending}"] = file.getvalue()
    return found


def read_archive(path: Path) -> None:
    """List an archive and read every member."""
    from twinlens.datasets.readers.archives import open_tree

    tree = open_tree(path)
    try:
        for name in tree.names():
            tree.read(name)
        tree.read("not/there.jpg")
    finally:
        tree.close()


# ---------------------------------------------------------------- Parquet


def parquet_seeds() -> Seeds:
    """Files of pictures, captions and labels, in the layouts that are found on the hub."""
    raw = picture_seeds()["plain.jpg"]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = pa.array([{"bytes": raw, "path": f"{n}.jpg"} for n in range(6)], kind)
    columns = {
        "image": pictures,
        "caption": [["a dog", "two"], None, [], ["x"], ["a", "a"], ["b"]],
        "label": [0, 1, 0, 1, None, 0],
        "file": [f"{n}.jpg" for n in range(6)],
    }
    found: Seeds = {}
    options: dict[str, dict[str, Any]] = {
        "snappy": {"compression": "snappy"},
        "zstd": {"compression": "zstd", "row_group_size": 2},
        "plain": {"compression": "none", "use_dictionary": False},
        "pages": {"data_page_version": "2.0", "data_page_size": 64},
    }
    for name, how in options.items():
        file = io.BytesIO()
        pq.write_table(pa.table(columns), file, **how)
        found[f"{name}.parquet"] = file.getvalue()
    return found


def read_parquet(path: Path) -> None:
    """Read a file's captions, labels and pictures, as the adapter of the hub does, and as a table."""
    from twinlens.datasets.readers.parquet import read_annotations
    from twinlens.datasets.readers.parquet_pictures import read_pictures
    from twinlens.datasets.readers.tabular import read_rows

    columns = ParquetColumns(image="image", caption="caption", label="label")
    found = read_annotations({"test": [(path.name, path)]}, columns, ["dog", "cat"])
    for _ in read_pictures({path.name: path}, [image.file for image in found.images], "image"):
        pass
    for row in read_rows(path, ["file", "caption"]):
        row.texts("caption")


# ---------------------------------------------------------------- shards


def shard_seeds() -> Seeds:
    """Shards of pictures with their captions beside them or in them: tars of samples, a zip of a folder."""
    photo = picture_seeds()["plain.jpg"]
    members: dict[str, bytes] = {}
    for n in range(3):
        beside = {"caption": f"a dog {n}", "labels": ["dog"]}
        sample = {"jpg": photo, "txt": f"a dog\ntwo {n}".encode(), "json": json.dumps(beside).encode()}
        members |= {f"photos/{n:04d}.{ending}": raw for ending, raw in sample.items()}
    tar, zipped = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as packed:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            packed.addfile(info, io.BytesIO(raw))
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return {"a.tar": tar.getvalue(), "b.tar": tar.getvalue(), "folder.zip": zipped.getvalue()}


def read_shard(path: Path) -> None:
    """List the samples of a shard and read their pictures, as the adapters do."""
    from twinlens.config.datasets import FolderCard, WebDatasetCard
    from twinlens.datasets.adapters.folder import Folder
    from twinlens.datasets.adapters.webdataset import WebDataset

    adapter: Folder | WebDataset
    if path.suffix == ".zip":
        adapter = Folder(FolderCard.model_validate({"adapter": "folder", "pool": "test", "images": str(path)}))
    else:
        ways: dict[str, dict[str, Any]] = {"a.tar": {}, "b.tar": {"caption": None, "metadata": "json"}}
        keys = {"caption_key": "caption", "label_key": "labels"} if path.name == "b.tar" else {}
        card = {"adapter": "webdataset", "pool": "test", "source": str(path.parent), "shards": {"test": path.name}}
        adapter = WebDataset(WebDatasetCard.model_validate(card | ways[path.name] | keys))
    found = adapter.list_all()
    for _ in adapter.read_pictures(path.parent, [image.file for image in found.images]):
        pass


# ---------------------------------------------------------------- vectors


def vector_seeds() -> Seeds:
    """Vectors that were made elsewhere, in every form that is read; ids; word vectors; what `embed` keeps."""
    rows = np.random.default_rng(0).standard_normal((48, 32)).astype(np.float32)
    ids = np.array([f"{n}.jpg" for n in range(48)])
    found: Seeds = {}
    matrix, named, arrays, probe = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(matrix, rows)
    np.save(named, ids)
    np.savez_compressed(arrays, vectors=rows, ids=ids, texts=np.array(["a dog"] * 48))
    np.savez(probe, ids=ids[:3], alone=rows[:3], beside=rows[:3], figures=np.array([0.5, 3.0, 1.0]))
    columns = {"image_id": ids.tolist(), "caption": ["a dog"] * 48, "vector": rows.tolist()}
    table = io.BytesIO()
    pq.write_table(pa.table(columns), table)
    words = "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in zip(("a", "dog"), rows, strict=False))
    found = {"rows.npy": matrix.getvalue(), "ids.npy": named.getvalue(), "both.npz": arrays.getvalue()}
    found |= {"ids.txt": "\n".join(ids).encode(), "table.parquet": table.getvalue(), "probe.npz": probe.getvalue()}
    found |= {"words.vec": f"2 32\n{words}".encode(), "words.txt.gz": gzip.compress(words.encode(), mtime=0)}
    manifest = {"rows": 48, "dim": 32, "rows_per_file": 48, "dtype": "float32"}
    return found | {"manifest.json": json.dumps(manifest).encode(), "part-00000.npy": matrix.getvalue()}


def read_vectors(path: Path) -> None:
    """Read vectors and find rows in them, as `embed` does with files of one's own and with what it kept itself."""
    from twinlens.core.probes import Probe
    from twinlens.core.row_sources import FileRows
    from twinlens.models.encoders.vectors import find_pictures, find_texts, find_useless
    from twinlens.models.encoders.word_table import read_words
    from twinlens.models.vector_files import read_vector_file

    if path.name.startswith("words"):
        read_words(path)
        return
    if path.name == "probe.npz":
        Probe.read(path)
        return
    beside = {name: raw for name, raw in vector_seeds().items() if not (path.parent / name).exists()}
    for name, raw in beside.items():
        (path.parent / name).write_bytes(raw)
    if path.name in ("manifest.json", "part-00000.npy"):
        source = FileRows.open(path.parent)
        source.take(np.arange(len(source)))
        source.read(0, len(source))
        return
    own = {"rows.npy": "ids.txt", "ids.npy": "ids.npy", "ids.txt": "ids.txt"}.get(path.name)
    file = path.parent / "rows.npy" if own is not None else path
    found = read_vector_file(file, None if own is None else path.parent / own)
    names = [f"{n}.jpg" for n in range(48)]
    chosen, _ = find_pictures(found, names)
    find_useless(found, chosen[chosen >= 0], False)
    find_texts(found, [*names[1:], None], ["a dog"] * 48)


# ---------------------------------------------------------------- weights


def weight_seeds() -> Seeds:
    """Weights as trainers save them."""
    import torch
    from safetensors.torch import save

    state = {f"model.{n}.weight": torch.full((4, 8), float(n)) for n in range(6)}
    found = {"a.safetensors": save(state, {"format": "pt"})}
    kept = {"zip.pt": {"state_dict": state, "epoch": 3}, "plain.pth": state}
    for name, content in kept.items():
        file = io.BytesIO()
        torch.save(content, file)
        found[name] = file.getvalue()
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    return found | {"old.pt": old.getvalue()}


def read_weights(path: Path) -> None:
    """Read weights by name."""
    from twinlens.models.state_dicts import read_state

    read_state(path, "a model")


# ---------------------------------------------------------------- settings


def settings_seeds() -> Seeds:
    """params.yaml and cards of three kinds."""
    names = ("models/clip-scenes", "captioners/blip-scenes", "datasets/scenes", "models/effnetv2-s-mpnet-heads")
    cards = {f"{name.replace('/', '+')}.yaml": Path("cards", f"{name}.yaml") for name in names}
    there = {name: path.read_bytes() for name, path in cards.items() if path.is_file()}
    return {"params.yaml": Path("params.yaml").read_bytes()} | there


def read_settings(path: Path) -> None:
    """Check settings and cards as `validate` does."""
    folder = path.parent / "project"
    shutil.copytree("cards", folder / "cards", dirs_exist_ok=True)
    shutil.copy("params.yaml", folder)
    target = folder / path.name if path.name == "params.yaml" else folder / "cards" / path.name.replace("+", "/")
    shutil.copy(path, target)
    check_cards(read_params(folder / "params.yaml"))


KINDS: dict[str, tuple[Callable[[], Seeds], Callable[[Path], None]]] = {
    "pictures": (picture_seeds, read_picture),
    "tables": (table_seeds, read_table),
    "archives": (archive_seeds, read_archive),
    "parquet": (parquet_seeds, read_parquet),
    "params": (settings_seeds, read_settings),
    "captions": (caption_seeds, read_captions),
    "shards": (shard_seeds, read_shard),
    "vectors": (vector_seeds, read_vectors),
    "weights": (weight_seeds, read_weights),
}
TEXT = (".csv", ".tsv", ".json", ".jsonl", ".yaml", ".txt", ".vec")


# ---------------------------------------------------------------- running


def run(kind: str, count: int, seed: int, kept: Path) -> Findings:
    """Read mutated inputs of a kind.

    Args:
        kind: a key of `KINDS`.
        count: inputs.
        seed: decides how they are mutated.
        kept: folder of those that are not taken or refused in a sentence.
    """
    findings, done = Findings(), 0
    spawned = multiprocessing.get_context("spawn")
    while done < count:
        ours, theirs = spawned.Pipe()
        worker = spawned.Process(target=_work, args=(kind, done, count, seed, kept, theirs))
        worker.start()
        theirs.close()
        ended = _listen(ours, findings)
        worker.join()
        if ended:
            break
        done = findings.taken + findings.refused + len(findings.faults)
        findings.faults.append(f"{kind} {seed}/{done}: the process ended with {worker.exitcode}")
        done += 1
    return findings


def _listen(pipe: Any, findings: Findings) -> bool:
    """Hear of each input; False where the process ended before its last."""
    try:
        while (told := pipe.recv()) is not None:
            what, value = told
            if what == "peak":
                findings.peak_mb = max(findings.peak_mb, value)
            elif what == "fault":
                findings.faults.append(value)
            else:
                setattr(findings, what, getattr(findings, what) + 1)
    except EOFError:
        return False
    return True


def _work(kind: str, start: int, count: int, seed: int, kept: Path, pipe: Any) -> None:
    make, read = KINDS[kind]
    seeds, names = make(), list(make())
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, whichever library it is in
    with tempfile.TemporaryDirectory() as scratch:
        first = Path(scratch) / names[0]
        first.write_bytes(seeds[names[0]])
        read(first)  # so that libraries are loaded
        before = peak_host_bytes()
        for number in range(start, count):
            rng = np.random.default_rng([seed, number, zlib.crc32(kind.encode())])
            name, other = (names[int(rng.integers(len(names)))] for _ in range(2))
            raw = mutate(seeds[name], seeds[other], name.endswith(TEXT), rng)
            folder = Path(scratch) / str(number)
            folder.mkdir()
            (folder / name).write_bytes(raw)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            pipe.send(_outcome(read, folder / name, f"{kind} {seed}/{number} ({name})", kept))
            signal.setitimer(signal.ITIMER_PROF, 0)
            shutil.rmtree(folder)
        pipe.send(("peak", (peak_host_bytes() - before) / 2**20))
    pipe.send(None)


def _outcome(read: Callable[[Path], None], path: Path, named: str, kept: Path) -> tuple[str, Any]:
    try:
        read(path)
    except TwinLensError as error:
        return ("refused", None) if str(error).strip() else ("fault", f"{named}: refused without a word")
    except BaseException:
        told = f"{named}:\n{traceback.format_exc()}"
        place = kept / named.replace(" ", "-").replace("/", "-")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
        (place / "traceback.txt").write_text(told, encoding="utf-8")
        return "fault", told
    return "taken", None


def main() -> None:
    """Say what was found; the exit code is 1 where anything was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--count", type=int, default=2_000, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "twinlens-stress")
    chosen = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulty = False
    for kind in chosen.kinds:
        found = run(kind, chosen.count, chosen.seed, chosen.kept)
        too_much = found.peak_mb > MEMORY_MB
        faulty |= bool(found.faults) or too_much
        print(
            f"{kind}: {found.taken:,} taken, {found.refused:,} refused in a sentence, {len(found.faults)} faults, "
            f"{found.peak_mb:,.0f} MB more than before{' (too much)' if too_much else ''}"
        )
        for fault in found.faults[:20]:
            print(f"  {fault.strip().splitlines()[0]} {fault.strip().splitlines()[-1]}")
    sys.exit(faulty)


if __name__ == "__main__":
    main()
