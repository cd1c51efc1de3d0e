"""Pixels made on the device, with torchvision's CPU decoder (libjpeg, as ours) standing in for the device's."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from torchvision.io import ImageReadMode

from tests.tiny import CPU, photo
from twinlens.core.device import Placement, choose_device
from twinlens.core.errors import ParamsError
from twinlens.images.transforms import PixelSpec, batch_pixels
from twinlens.inference.device_pixels import DevicePixels, make_reader, takes_device

HALF = (0.5, 0.5, 0.5)
SPECS = {
    "shortest": PixelSpec(64, 64, "shortest", HALF, HALF),
    "shortest with a border": PixelSpec(64, 64, "shortest", HALF, HALF, resize_px=72),
    "squash": PixelSpec(64, 48, "squash", HALF, HALF),
    "longest": PixelSpec(64, 64, "longest", HALF, HALF, interpolation="bilinear", fill=114),
}
SIZES = ((160, 120), (120, 160), (160, 120), (200, 200), (40, 50), (64, 64))


def encode(picture: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=95, **options)  # type: ignore[arg-type]
    return out.getvalue()


def jpegs() -> list[bytes]:
    return [simplejpeg.encode_jpeg(photo(n, width, height), quality=95) for n, (width, height) in enumerate(SIZES)]


def standing_in(raws: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """libjpeg's decoder, by torchvision."""
    return [torch.ops.image.decode_jpeg(raw, ImageReadMode.RGB.value, False).to(device) for raw in raws]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_batch_has_the_pixels_of_the_cpu_within_a_grey_level(spec: PixelSpec) -> None:
    raws = jpegs()
    made, wanted = DevicePixels(spec, CPU, standing_in)(raws), batch_pixels(raws, spec)
    assert made.dtype == torch.uint8 and made.shape == wanted.shape
    apart = (made.int() - wanted.int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 0.05


def test_pictures_of_one_size_are_resized_together_and_stay_in_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    interpolate = torch.nn.functional.interpolate

    def count(pictures: torch.Tensor, **options: object) -> torch.Tensor:
        calls.append(len(pictures))
        return interpolate(pictures, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "interpolate", count)
    spec = SPECS["shortest"]
    same = [simplejpeg.encode_jpeg(photo(n, 160, 120), quality=95) for n in range(5)]
    made = DevicePixels(spec, CPU, standing_in)(same)
    assert calls == [5, 5]  # two passes
    assert (made.int() - batch_pixels(same, spec).int()).abs().max() <= 1
    calls.clear()
    monkeypatch.setattr("twinlens.inference.device_pixels.MOST_SAMPLES", 3 * 160 * 120 * 2)
    assert torch.equal(DevicePixels(spec, CPU, standing_in)(same), made)
    assert calls == [2, 2, 2, 2, 1, 1]


ODD = {
    "progressive": encode(photo(1, 90, 70), progressive=True),
    "grey": encode(photo(2, 90, 70)[..., 0]),
    "rgb": encode(photo(4, 90, 70), keep_rgb=True),
}


def test_what_the_device_does_not_take_is_seen_in_its_header() -> None:
    out = io.BytesIO()
    Image.fromarray(photo(3, 90, 70)).convert("CMYK").save(out, "JPEG")
    deep = bytearray(jpegs()[0])
    frame = deep.index(b"\xff\xc0")
    deep[frame + 4] = 12  # bits a sample
    assert all(
        takes_device(jpeg) for jpeg in (*jpegs(), encode(photo(0, 90, 70)), encode(photo(0, 9, 7), subsampling=0))
    )
    strange = [
        ODD["progressive"],
        ODD["grey"],
        ODD["rgb"],
        out.getvalue(),
        bytes(deep),
        b"",
        b"\xff\xd8",
        jpegs()[0][:90],
    ]
    assert not any(map(takes_device, strange))


def test_what_it_does_not_take_is_decoded_on_the_cpu_and_counted() -> None:
    raws = [jpegs()[0], ODD["progressive"], jpegs()[1], ODD["grey"], ODD["rgb"]]
    pixels = DevicePixels(SPECS["shortest"], CPU, standing_in)
    made = pixels(raws)
    assert pixels.refused == 3
    assert (made.int() - batch_pixels(raws, SPECS["shortest"]).int()).abs().max() <= 1


def test_a_picture_that_is_refused_costs_the_others_nothing() -> None:
    raws = jpegs()
    bad = raws[2]

    def picky(found: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        if any(raw.numpy().tobytes() == bad for raw in found):
            raise RuntimeError("nvjpegDecode failed: 5")
        return standing_in(found, device)

    pixels = DevicePixels(SPECS["shortest"], CPU, picky)
    assert (pixels(raws).int() - batch_pixels(raws, SPECS["shortest"]).int()).abs().max() <= 1
    assert pixels.refused == 1


def test_memory_that_runs_out_is_no_picture_refused() -> None:
    def full(raws: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        DevicePixels(SPECS["shortest"], CPU, full)(jpegs())


def test_where_pixels_are_made_is_part_of_a_placements_name() -> None:
    gpu = torch.device("cuda")
    assert Placement(gpu, torch.bfloat16).name == "cuda-bfloat16"
    assert Placement(gpu, torch.bfloat16, "device").name == "cuda-bfloat16-pixels"


def test_without_a_cuda_gpu_the_choice_is_refused() -> None:
    with pytest.raises(
        ParamsError, match=r"compute\.pixels: device wants a CUDA GPU.*this is cpu. Write `pixels: cpu`"
    ):
        choose_device("cpu", "device")


def test_by_default_pixels_are_those_of_the_cpu() -> None:
    raws: Sequence[bytes] = jpegs()
    assert torch.equal(make_reader(SPECS["squash"], CPU)(raws), batch_pixels(raws, SPECS["squash"]))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")
def test_on_a_gpu_pixels_are_a_grey_level_or_two_apart() -> None:
    raws = [*jpegs(), ODD["progressive"], ODD["grey"]]
    pixels = DevicePixels(SPECS["shortest"], choose_device("cuda", "device"))
    made = pixels(raws)
    assert made.is_cuda and pixels.refused == 2
    assert (made.cpu().int() - batch_pixels(raws, SPECS["shortest"]).int()).abs().float().mean() < 1.5
