"""Device and dtype selection."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from twinlens.core.errors import ParamsError, ResourceError

log = logging.getLogger("twinlens")

DEVICE_FAULT = re.compile(
    r"CUDA (driver )?error|CUDNN_STATUS|CUBLAS_STATUS|device (is )?lost|MPS backend", re.IGNORECASE
)
Pixels = Literal["cpu", "device"]


@dataclass(frozen=True)
class Placement:
    """The device a model runs on and the numbers it computes with."""

    device: torch.device
    dtype: torch.dtype
    pixels: Pixels = "cpu"  # where pictures are decoded and resized

    @property
    def name(self) -> str:
        """Name for fingerprints and records, of all that can change a result's last digits."""
        name = f"{self.device.type}-{str(self.dtype).removeprefix('torch.')}"
        return name if self.pixels == "cpu" else f"{name}-pixels"  # of other decoders, a grey level or two apart


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself, as far as torch says; elsewhere it is emulated, and slow.

    GPUs from Ampere on do; older ones only claim to. CPUs do with AVX512-BF16 or AMX, unless torch is told to leave
    AVX512 alone (`ATEN_CPU_CAPABILITY`). Of other architectures torch gives too little away, so they count as without.
    """
    if device.type == "cuda" and torch.cuda.is_available():
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_matrix_dtype(device: torch.device) -> torch.dtype:
    """Choose the dtype of Muon's products: float32 on CPUs, lest a result depend on which; bfloat16 on GPUs with it."""
    return torch.bfloat16 if device.type == "cuda" and has_bfloat16(device) else torch.float32


def warn_of_emulation(device: torch.device, asked_by: str) -> None:
    """Say aloud that a card asks for bfloat16 where it is only emulated."""
    if not has_bfloat16(device):
        log.warning(
            "%s is bfloat16, which this %s has no units for: it is emulated, often many times slower than float32, "
            "and gains nothing. Leave it out, or train on a GPU that has it",
            asked_by,
            "processor" if device.type == "cpu" else device.type,
        )


def choose_device(device: str, pixels: Pixels = "cpu") -> Placement:
    """Choose device and dtype: bfloat16 on a CUDA GPU that computes in it, float32 everywhere else.

    Args:
        device: `auto`, or a torch device.
        pixels: where pictures are decoded and resized, by stages that can do it on the device.

    Raises:
        ParamsError: there is no such device here, or it cannot decode pictures.
    """
    if device == "auto":
        device = "cuda" if _has_cuda() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ParamsError(f"compute.device: '{device}' is not here ({_first_line(error)}); try `auto`") from None
    bf16 = chosen.type == "cuda" and has_bfloat16(chosen)
    if pixels == "device" and chosen.type != "cuda":
        raise ParamsError(
            f"compute.pixels: device wants a CUDA GPU, which has a decoder for JPEGs; this is {chosen.type}. "
            "Write `pixels: cpu`"
        )
    return Placement(chosen, torch.bfloat16 if bf16 else torch.float32, pixels)


def _has_cuda() -> bool:
    """Whether there is a GPU that torch can use; one that it cannot (its driver is too old, say) is told of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    for one in told:
        log.warning("there is a GPU, which torch cannot use, so that the CPU is taken: %s", _first_line(one.message))
    return found


@contextmanager
def name_device_fault(placement: Placement) -> Iterator[None]:
    """Name the device where it fails, or goes away, in the middle of work.

    Raises:
        ResourceError: it did; a device whose memory is full is another matter.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if placement.device.type == "cpu" or not DEVICE_FAULT.search(str(error)):
            raise
        raise ResourceError(
            f"the device {placement.device} failed in the middle of the work ({_first_line(error)}). What is finished "
            "is kept: see whether it is still there (`nvidia-smi`) and run the stage again, or set compute.device: cpu"
        ) from error


def _first_line(error: object) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
