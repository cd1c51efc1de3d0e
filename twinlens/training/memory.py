"""Memory that a step has freed and the next one takes again."""

from __future__ import annotations

import ctypes
import sys

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
KEPT, LARGEST = 2**30, 2**26  # bytes kept at most, and bytes of a piece that is


def keep_freed_memory(device: torch.device) -> bool:
    """Let the allocator of a process that trains on a CPU keep what a step frees; returns whether it can.

    glibc gives it back to the system, which clears every page anew: thousands a step of the default's CLIP, a twentieth
    of its time. Nothing is kept beyond what the largest step needs. Other allocators are left as they are.
    """
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*pair) for pair in ((TRIM_THRESHOLD, KEPT), (MMAP_THRESHOLD, LARGEST)))
