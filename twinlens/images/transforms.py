"""Image transforms: pixels from bytes, in the size and form that models read.

Two jobs, both on uint8 pixels, because that is where the time goes: a float path through PIL costs
twice as much and ends within one grey level of the same picture.

*Opening* (`open_picture`, `prepare_jpeg`) turns any file into upright 8-bit RGB, or says why not.
*Fitting* (`PixelSpec`, `fit_picture`) resizes and crops to what a model reads; the model's mean and standard
deviation are applied on the device, to the whole batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import simplejpeg
import torch
from jaxtyping import UInt8
from PIL import Image

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked from the header, before any pixel is decoded


# ---------------------------------------------------------------- fitting

Interpolation = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class PixelSpec:
    """Pixel specification of a model: the picture's size and how a picture is brought to it.

    * `shortest`: the shorter side is scaled to `resize_px`, then the middle is cropped (CLIP, most of timm).
    * `squash`: both sides are scaled to the size, whatever the shape (SigLIP, BLIP, some of timm).
    * `longest`: the longer side is scaled to the size, the rest filled with `fill`.
    """

    height: int
    width: int
    mode: Literal["shortest", "squash", "longest"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    resize_px: int | None = None  # what the (shorter) side is scaled to before the crop; the size itself if absent
    fill: int = 0
    crop_rounds_down: bool = False  # an odd surplus: as transformers does; torchvision and timm round half to even


Resize = Callable[[torch.Tensor, int, int, Interpolation], torch.Tensor]  # pixels, height, width, how


def to_tensor(picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[torch.Tensor, "3 height width"]:
    """View the same bytes as a tensor, channels first."""
    return torch.from_numpy(picture).permute(2, 0, 1)


def to_numpy(picture: UInt8[torch.Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """View the same bytes as an array, channels last."""
    return picture.permute(1, 2, 0).numpy()


def scale_size(height: int, width: int, shorter_px: int) -> tuple[int, int]:
    """Compute height and width for a shorter side of `shorter_px` (the longer rounded down, as torchvision does)."""
    if height <= width:
        return shorter_px, int(shorter_px * width / height)
    return int(shorter_px * height / width), shorter_px


def resize(
    picture: UInt8[torch.Tensor, "3 h w"], height: int, width: int, interpolation: Interpolation = "bicubic"
) -> UInt8[torch.Tensor, "3 height width"]:
    """Resize with antialiasing on uint8, horizontally first.

    PIL gives the same picture within one grey level when it works in that order too (two, in a few
    samples of a million, when a picture is enlarged). It may take the vertical pass first when that
    is cheaper, which moves a few pixels at hard edges further.
    """
    if picture.shape[1:] == (height, width):
        return picture
    return torch.nn.functional.interpolate(
        picture[None], size=(height, width), mode=interpolation, antialias=True, align_corners=False
    )[0]


def fit_picture(
    picture: UInt8[torch.Tensor, "*pictures 3 h w"], spec: PixelSpec, resize_by: Resize | None = None
) -> UInt8[torch.Tensor, "*pictures 3 height width"]:
    """Bring an upright RGB picture, or several of one size, to what a model reads.

    Args:
        picture: its pixels.
        spec: the model's.
        resize_by: how a size is changed; if absent on the CPU, by `resize`, which takes one picture.
    """
    change = resize_by or resize
    height, width = picture.shape[-2:]
    if spec.mode == "squash":
        scaled_px = spec.resize_px or spec.height
        squashed = change(picture, scaled_px, scaled_px * spec.width // spec.height, spec.interpolation)
        return _crop_middle(_pad(squashed, spec), spec)
    if spec.mode == "longest":
        scale = min(spec.height / height, spec.width / width)
        inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
        return _pad(change(picture, inner_height, inner_width, spec.interpolation), spec)
    shorter = spec.resize_px or min(spec.height, spec.width)
    picture = change(picture, *scale_size(height, width, shorter), spec.interpolation)
    return _crop_middle(_pad(picture, spec), spec)


def _crop_middle(
    picture: UInt8[torch.Tensor, "*pictures 3 h w"], spec: PixelSpec
) -> UInt8[torch.Tensor, "*pictures 3 height width"]:
    def start(surplus: int) -> int:
        return surplus // 2 if spec.crop_rounds_down else round(surplus / 2.0)

    top, left = start(picture.shape[-2] - spec.height), start(picture.shape[-1] - spec.width)
    return picture[..., top : top + spec.height, left : left + spec.width]


def _pad(picture: UInt8[torch.Tensor, "*pictures 3 h w"], spec: PixelSpec) -> UInt8[torch.Tensor, "*pictures 3 h2 w2"]:
    down, right = spec.height - picture.shape[-2], spec.width - picture.shape[-1]
    if down <= 0 and right <= 0:
        return picture
    down, right = max(down, 0), max(right, 0)
    sides = (right // 2, right - right // 2, down // 2, down - down // 2)
    return torch.nn.functional.pad(picture, sides, value=spec.fill)


def decode_and_fit(jpeg: bytes, spec: PixelSpec) -> UInt8[torch.Tensor, "3 height width"]:
    """Decode the JPEG bytes of a shard to the pixels a model reads."""
    return fit_picture(to_tensor(simplejpeg.decode_jpeg(jpeg, colorspace="RGB")), spec)


def batch_pixels(jpegs: Sequence[bytes], spec: PixelSpec) -> UInt8[torch.Tensor, "images 3 height width"]:
    """Stack a batch into one block of memory."""
    batch = torch.empty((len(jpegs), 3, spec.height, spec.width), dtype=torch.uint8)
    for i, jpeg in enumerate(jpegs):
        batch[i] = decode_and_fit(jpeg, spec)
    return batch


# ---------------------------------------------------------------- ahead of the model

MAX_WAITING_BYTES = 2**29

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(
    work: Callable[[T], R],
    tasks: Iterable[T],
    threads: int,
    waiting: int | None = None,
    bytes_of: Callable[[T], int] = lambda _: 0,
) -> Iterator[R]:
    """Iterate over the results of `work` in order, computed by threads a little ahead of the caller.

    Decoding and resizing leave the interpreter's lock, so threads suffice; measured on two cores,
    worker processes cost more than they give. At most `waiting` results are held (twice the threads
    if absent), and fewer where their tasks have over `MAX_WAITING_BYTES` by `bytes_of`, so memory does not grow with
    the data.
    """
    waiting = waiting or 2 * threads
    pending: deque[tuple[Future[R], int]] = deque()
    held = 0  # bytes of the tasks that are pending: counted on, as adding all up for each would take ever longer
    source = iter(tasks)
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead", initializer=use_one_core) as pool:
        try:
            for task in source:
                pending.append((pool.submit(work, task), bytes_of(task)))
                held += pending[-1][1]
                del task  # the thread has it, until it is done
                while len(pending) > waiting or (len(pending) > 1 and held > MAX_WAITING_BYTES):
                    held -= pending[0][1]
                    yield pending.popleft()[0].result()
            while pending:
                yield pending.popleft()[0].result()
        finally:
            for future, _ in pending:
                future.cancel()


def use_one_core() -> None:
    """Let a thread or process resize on one core: a team of OpenMP threads of its own would fight the model's."""
    torch.set_num_threads(1)
