"""Encoders of a model that runs in a process of its own: pixels and texts go there by a pipe, vectors come back.

None of the model's code is imported here. Pictures are decoded and resized by us, as for any other model; the child
normalises them. A batch is waited for: the child computes, while our threads make the next one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from twinlens.config.models import OwnCodeTower
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.images.transforms import PixelSpec
from twinlens.models.child import program
from twinlens.models.child.process import Child, DeviceMemoryError
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.models.image_processor import read_pixel_spec
from twinlens.models.locations.own_code import open_environment


def load(card: OwnCodeTower, path: Path, placement: Placement, random_weights: bool = False) -> LoadedEncoders:
    """Start a model's process and load the model there, both towers or the text tower.

    Raises:
        FetchError: its environment cannot be made.
        DataError: the model cannot be loaded, does not run with the libraries of its environment, crashes or hangs.
        ResourceError: there is too little memory.
    """
    made = open_environment(card)
    python = Path(sys.executable) if made is None else made.python
    child = Child(python, f"{card.transformers} (code of its own)")
    try:
        return _open(child, card, path, placement, random_weights)
    except BaseException:
        child.close()
        raise


def _open(child: Child, card: OwnCodeTower, path: Path, placement: Placement, random_weights: bool) -> LoadedEncoders:
    hello = {
        "ask": "hello",
        "protocol": program.PROTOCOL,
        "path": str(path.absolute()),
        "trust_remote_code": card.trust_remote_code,
        "code_revision": card.code_revision,
        "random_weights": random_weights,
        "pooling": card.pooling,
        "prompt": card.prompt,
        "device": str(placement.device),
        "dtype": str(placement.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "image_call": card.calls.image,
        "text_call": card.calls.text,
    }
    found, _ = child.ask(hello, "loaded the model", card.limits.start_s)
    if found.get("protocol") != program.PROTOCOL:
        raise DataError(f"{child.name}: its process speaks protocol {found.get('protocol')}, not {program.PROTOCOL}")
    pixels = None if found["processor"] is None else read_pixel_spec(_Processor(found["processor"]))
    begin: dict[str, Any] = {"ask": "begin"}
    if pixels is not None:
        begin |= {"mean": pixels.mean, "std": pixels.std, "size": [pixels.height, pixels.width]}
    dims, _ = child.ask(begin, "encoded a trial input", card.limits.start_s)
    run = _Run(child, card, placement, int(found["parameters"]), dims["dims"])
    image = None if pixels is None else _Image(run, pixels)
    return LoadedEncoders(image, _Text(run, int(found["max_tokens"])))


class _Processor:
    """The settings of the child's image processor, read as those of one that is here."""

    size: dict[str, int] | None = None

    def __init__(self, settings: dict[str, Any]) -> None:
        self.__dict__.update(settings)


@dataclass(frozen=True)
class _Run:
    child: Child
    card: OwnCodeTower
    placement: Placement
    parameters: int
    dims: dict[str, int | None]

    def encode(self, message: dict[str, Any], kind: str, count: int, array: np.ndarray | None = None) -> torch.Tensor:
        doing = f"encoded {count:,} {'pictures' if kind == 'image' else 'texts'}"
        try:
            _, vectors = self.child.ask(message, doing, self.card.limits.batch_s, array)
        except DeviceMemoryError as error:
            raise torch.OutOfMemoryError(str(error)) from None  # the loops halve the batch
        wanted = (count, self.dims[kind])
        if vectors is None or vectors.shape != wanted:
            found = "nothing" if vectors is None else " x ".join(map(str, vectors.shape))
            raise DataError(f"{self.child.name} gives {found} for {wanted[0]} inputs of {wanted[1]} dimensions")
        return torch.from_numpy(vectors).to(self.placement.device)


class _Image:
    def __init__(self, run: _Run, pixels: PixelSpec) -> None:
        self.run, self.pixels, self.parameters = run, pixels, run.parameters

    def encode(self, pictures: UInt8[torch.Tensor, "images 3 height width"]) -> Float32[torch.Tensor, "images dim"]:
        """Raw vectors of a batch."""
        return self.run.encode({"ask": "pictures"}, "image", len(pictures), pictures.cpu().numpy())

    def encode_picture(self, picture: UInt8[np.ndarray, "height width 3"]) -> Float32[torch.Tensor, "1 dim"]:
        """Raw vector of one picture of any size, by the model's own image processor."""
        return self.run.encode({"ask": "picture"}, "image", 1, picture)


class _Text:
    def __init__(self, run: _Run, max_tokens: int) -> None:
        self.run, self.max_tokens, self.parameters = run, max_tokens, run.parameters

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before anything is cut off."""
        counted: Callable[..., tuple[dict[str, Any], Any]] = self.run.child.ask
        found, _ = counted({"ask": "count", "texts": list(texts)}, "counted tokens", self.run.card.limits.start_s)
        return [int(count) for count in found["counts"]]

    def encode(self, texts: Sequence[str]) -> Float32[torch.Tensor, "texts dim"]:
        """Raw vectors of a batch."""
        return self.run.encode({"ask": "texts", "texts": list(texts)}, "text", len(texts))
