"""Pixels made on a CUDA device: its decoder opens the JPEGs, and it resizes them, for machines with few cores.

Other decoders and other arithmetic give other pixels, a grey level or two apart, so that where pixels were made is part
of a result's identity (`Placement.name`). What the device's decoder does not take, or takes for something else, goes by
the CPU: progressive JPEGs, grey ones, CMYK, RGB without a transform, more than 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
import simplejpeg
import torch
from jaxtyping import UInt8

from twinlens.core.device import Placement
from twinlens.images.transforms import Interpolation, PixelSpec, batch_pixels, fit_picture, to_tensor

BASELINE = (0xC0, 0xC1)  # frames of 8-bit samples coded in one go
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
SCAN, ADOBE = 0xDA, 0xEE
MOST_SAMPLES = 2**27  # of the pictures that are resized together: half a gigabyte as float32

Decode = Callable[[list[torch.Tensor], torch.device], list[torch.Tensor]]


def decode_on_device(jpegs: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Decode JPEGs by the device's own decoder (nvJPEG, by torchvision).

    Args:
        jpegs: their bytes, on the CPU.
        device: a CUDA device.

    Returns:
        RGB pixels on the device, each 3 x height x width, uint8.

    Raises:
        RuntimeError: it refuses one of them.
    """
    from torchvision.io import ImageReadMode, decode_jpeg  # takes a second, and most runs decode on the CPU

    decoded: list[torch.Tensor] = decode_jpeg(jpegs, mode=ImageReadMode.RGB, device=device)
    return decoded


class DevicePixels:
    """Batches of pixels, from JPEG bytes, made on the device of a placement; as `batch_pixels`, but there.

    `refused` counts the pictures that the CPU decoded, which the device's decoder does not take.
    """

    def __init__(self, spec: PixelSpec, placement: Placement, decode: Decode = decode_on_device) -> None:
        self.spec, self.device, self.decode = spec, placement.device, decode
        self.refused = 0
        self._counting = Lock()  # threads may share this

    def __call__(self, jpegs: Sequence[bytes]) -> UInt8[torch.Tensor, "images 3 height width"]:
        """Decode and fit a batch; it stays on the device."""
        out = torch.empty((len(jpegs), 3, self.spec.height, self.spec.width), dtype=torch.uint8, device=self.device)
        pictures = self._decoded(jpegs)
        by_size: dict[torch.Size, list[int]] = {}
        for place, picture in enumerate(pictures):
            by_size.setdefault(picture.shape, []).append(place)
        for shape, places in by_size.items():
            step = max(1, MOST_SAMPLES // max(1, shape.numel()))
            for start in range(0, len(places), step):
                some = places[start : start + step]
                fitted = fit_picture(torch.stack([pictures[place] for place in some]), self.spec, resize_on_device)
                out[torch.tensor(some, device=self.device)] = fitted
        return out

    def take_refused(self) -> int:
        """Take the number of pictures that the device did not take, which begins anew."""
        with self._counting:
            count, self.refused = self.refused, 0
        return count

    def _decoded(self, jpegs: Sequence[bytes]) -> list[torch.Tensor]:
        takes = [place for place, jpeg in enumerate(jpegs) if takes_device(jpeg)]
        found: dict[int, torch.Tensor] = {}
        if takes:
            raws = [_view(jpegs[place]) for place in takes]
            try:
                found = dict(zip(takes, self.decode(raws, self.device), strict=True))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # of one, which says not which
                found = {place: one for place, raw in zip(takes, raws, strict=True) for one in self._try(raw)}
        left = [place for place in range(len(jpegs)) if place not in found]
        with self._counting:
            self.refused += len(left)
        for place in left:
            pixels = simplejpeg.decode_jpeg(jpegs[place], colorspace="RGB")
            found[place] = to_tensor(pixels).to(self.device)
        return [found[place].contiguous() for place in range(len(jpegs))]

    def _try(self, raw: torch.Tensor) -> list[torch.Tensor]:
        try:
            return self.decode([raw], self.device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return []


def make_reader(spec: PixelSpec, placement: Placement) -> Callable[[Sequence[bytes]], torch.Tensor]:
    """Make what turns JPEG bytes into a batch of pixels, where the placement says that they are made."""
    return DevicePixels(spec, placement) if placement.pixels == "device" else lambda jpegs: batch_pixels(jpegs, spec)


def resize_on_device(
    pictures: UInt8[torch.Tensor, "*images 3 h w"], height: int, width: int, interpolation: Interpolation = "bicubic"
) -> UInt8[torch.Tensor, "*images 3 height width"]:
    """Resize with antialiasing as on the CPU: horizontally first, rounded to whole grey levels after each pass.

    CUDA resizes no whole numbers, so that the passes are made in float32.
    """
    for size in ((pictures.shape[-2], width), (height, width)):
        if pictures.shape[-2:] != size:
            resized = torch.nn.functional.interpolate(
                pictures.to(torch.float32), size=size, mode=interpolation, antialias=True, align_corners=False
            )
            pictures = resized.round_().clamp_(0, 255).to(torch.uint8)
    return pictures


def takes_device(jpeg: bytes) -> bool:
    """Whether the device's decoder takes a JPEG for what it is: 8-bit, coded in one go, in YCbCr."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        code = jpeg[at + 1]
        if code == 0xFF:  # a filling byte
            at += 1
            continue
        length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        payload = jpeg[at + 4 : at + 2 + length]
        if code == ADOBE and payload[:5] == b"Adobe" and payload[11:12] != b"\x01":
            return False
        if code in FRAMES:
            ids = payload[6::3][:3]
            return code in BASELINE and payload[:1] == b"\x08" and payload[5:6] == b"\x03" and ids != b"RGB"
        if code == SCAN:
            return False
        at += 2 + length
    return False


def _view(jpeg: bytes) -> torch.Tensor:
    """The bytes as a tensor; a copy, as torch takes no memory that may only be read."""
    return torch.from_numpy(np.frombuffer(jpeg, dtype=np.uint8).copy())
