"""Memory that runs out while pictures are opened: the stage ends with what to lower, and no picture is set aside."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageFile

from twinlens.config.load import read_params
from twinlens.core.errors import QueryError, ResourceError
from twinlens.datasets.adapters import objectnet
from twinlens.images import decode
from twinlens.images.decode import BadPictureError, open_picture
from twinlens.images.resize import resize_pictures
from twinlens.indexing.validate import read_image


def saved(kind: str, size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, kind, **options)
    return file.getvalue()


def no_memory(*_: object, **__: object) -> None:
    raise MemoryError("Unable to allocate 286. MiB for an array")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_memory_that_runs_out_ends_the_stage_and_sets_no_picture_aside(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, params = saved(kind), read_params().resize
    monkeypatch.setattr(simplejpeg, "decode_jpeg", no_memory)
    monkeypatch.setattr(Image.Image, "convert", no_memory)
    with pytest.raises(ResourceError, match=r"memory ran out while a\.x \([\d,]+ bytes\) was being opened") as told:
        resize_pictures(iter([("a", "a.x", raw)]), 1, params, tmp_path, 2)
    for key in ("compute.decode_threads (now 2)", "resize.max_megapixels (now 100)"):
        assert key in str(told.value)


def test_memory_that_runs_out_in_the_header_is_no_damage_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", no_memory)
    with pytest.raises(MemoryError):
        open_picture(saved("PNG"))


@pytest.mark.parametrize("words", ["Insufficient memory (case 4)", "out of memory when reading image file"])
def test_a_decoder_that_speaks_of_memory_is_asked_again_alone(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = simplejpeg.decode_jpeg, []

    def once(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError(words)
        return real(*args, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", once)
    assert open_picture(saved("JPEG"))[0].shape == (30, 40, 3)
    assert len(calls) == 2


def test_where_there_is_room_and_it_says_so_again_the_picture_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    def says_so(*_: object) -> None:
        raise OSError("out of memory when reading image file")  # libtiff, of a tile larger than can be

    monkeypatch.setattr(ImageFile.ImageFile, "load", says_so)
    with pytest.raises(BadPictureError, match="damaged: out of memory"):
        open_picture(saved("TIFF"))


def test_where_there_is_no_room_what_it_says_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def says_so(*_: object, **__: object) -> None:
        raise ValueError("Insufficient memory (case 4)")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", says_so)
    monkeypatch.setattr(decode, "DECODED_BYTES", 2**50)
    with pytest.raises(MemoryError):
        open_picture(saved("JPEG"))


def test_a_query_and_a_border_say_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = read_params().resize
    monkeypatch.setattr(simplejpeg, "decode_jpeg", no_memory)
    with pytest.raises(QueryError, match="needs more memory than there is just now: make it smaller"):
        read_image(saved("JPEG"), limits)
    monkeypatch.setattr(Image.Image, "convert", no_memory)
    with pytest.raises(ResourceError, match="memory ran out while the border of a picture of 40 x 30 px"):
        objectnet.crop_border(saved("PNG"))


SCRIPT = """
import resource, sys
from pathlib import Path
from twinlens.config.load import read_params
from twinlens.core.errors import ResourceError
from twinlens.images.resize import resize_pictures
from twinlens.images import decode
raw = Path(sys.argv[1]).read_bytes()
decode.open_picture(Path(sys.argv[2]).read_bytes())  # libraries are loaded by now
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 120_000_000,) * 2)
try:
    resize_pictures(iter([("a", "photo", raw)]), 1, read_params().resize, Path(sys.argv[3]), 1)
except ResourceError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="address space is measured as Linux tells it")
@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG", "TIFF", "WEBP"])
def test_a_healthy_photo_is_never_damaged_for_want_of_memory(kind: str, tmp_path: Path) -> None:
    """A process that may take 120 MB more opens a picture of 48 megapixels, which takes at least 144."""
    grey = Image.new("RGB", (8000, 6000), "grey")  # flat, so that it is written quickly
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 50},
        "progressive": {"progressive": True},
        "TIFF": {"compression": "tiff_deflate"},
    }
    grey.save(tmp_path / "large", "JPEG" if kind == "progressive" else kind, **options.get(kind, {}))
    (tmp_path / "small").write_bytes(saved("JPEG" if kind == "progressive" else kind))
    command = [sys.executable, "-c", SCRIPT, *(str(tmp_path / name) for name in ("large", "small", "out"))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout.startswith("memory ran out while photo ("), ended.stderr[-2000:] + ended.stdout
    assert "Lower compute.decode_threads" in ended.stdout


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}])
def test_a_webp_tells_its_size_before_memory_is_taken_for_it(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = saved("WEBP", (400, 300), **options)
    assert decode._read_webp_size(raw) == (400, 300)
    monkeypatch.setattr(Image, "open", no_memory)
    with pytest.raises(BadPictureError, match=r"400 x 300 px: over 0\.1 megapixels"):
        open_picture(raw, max_megapixels=0.1)
