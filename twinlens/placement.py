"""Where a model runs, and the numbers it computes with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from twinlens.errors import ParamsError


@dataclass(frozen=True)
class Placement:
    """The device a model runs on and the numbers it computes with."""

    device: torch.device
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """For fingerprints and records: what can change a result's last digits."""
        return f"{self.device.type}-{str(self.dtype).removeprefix('torch.')}"


def place(device: str) -> Placement:
    """Choose device and dtype.

    bf16 on a CUDA GPU that has it; float32 elsewhere (on CPUs without matrix units for bf16 it was
    measured ten times slower than float32).

    Args:
        device: `auto`, or a torch device.

    Raises:
        ParamsError: there is no such device here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ParamsError(
            f"compute.device: '{device}' is not here ({str(error).splitlines()[0]}); try `auto`"
        ) from None
    bf16 = chosen.type == "cuda" and torch.cuda.is_bf16_supported()
    return Placement(chosen, torch.bfloat16 if bf16 else torch.float32)
