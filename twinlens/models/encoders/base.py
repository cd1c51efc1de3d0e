"""Protocols of encoders.

An encoder is one tower with its weights. Adapters, one per library family, give the raw vectors;
the loops in `embed` make the batches and the unit length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8

from twinlens.core.device import Placement
from twinlens.images.transforms import PixelSpec, batch_pixels
from twinlens.models.native import NativeBatch, Size


class ImageEncoder(Protocol):
    """An image tower."""

    pixels: PixelSpec
    parameters: int

    def encode(self, pictures: UInt8[torch.Tensor, "images 3 height width"]) -> Float32[torch.Tensor, "images dim"]:
        """Raw vectors of a batch, on the device where they were computed: nobody has waited for them yet.

        Args:
            pictures: pixels, on the CPU or already on the tower's device.
        """
        ...


class TextEncoder(Protocol):
    """A text tower. One that also offers `tokenize` reads each text once (`read_texts`)."""

    max_tokens: int
    parameters: int

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before anything is cut off, special ones included; 0 where it knows no word of it."""
        ...

    def encode(self, texts: Sequence[str]) -> Float32[torch.Tensor, "texts dim"]:
        """Raw vectors of a batch, on the device where they were computed; texts over `max_tokens` are cut."""
        ...


@dataclass(frozen=True)
class TokenizedTexts:
    """Some texts as a tower reads them, before they are batched.

    Attributes:
        counts: tokens of each text before anything is cut off, as of `TextEncoder.token_counts`.
        encode: the raw vectors of some of them by their places, on the device where they were computed.
    """

    counts: Int64[np.ndarray, " texts"]
    encode: Callable[[Int64[np.ndarray, " some"]], Float32[torch.Tensor, "some dim"]]


def read_texts(encoder: TextEncoder, texts: Sequence[str]) -> TokenizedTexts:
    """Read texts as a tower does: each is tokenized once, where the tower can count and encode the same tokens."""
    tokenize: Callable[[Sequence[str]], TokenizedTexts] | None = getattr(encoder, "tokenize", None)
    if tokenize is not None:
        return tokenize(texts)
    counts = np.asarray(encoder.token_counts(texts), dtype=np.int64)
    return TokenizedTexts(counts, lambda places: encoder.encode([texts[place] for place in places]))


class PictureFileEncoder(Protocol):
    """An image tower that reads files rather than pixels, as services do."""

    def encode_files(self, jpegs: Sequence[bytes]) -> Float32[torch.Tensor, "images dim"]:
        """Raw vectors of a batch, on the CPU."""
        ...


class NativeEncoder(Protocol):
    """An image tower that reads pictures at their own size or shape, by its library's processor."""

    parameters: int
    reads_pairs: bool  # whether a picture and a text together make one vector
    fewest_pixels: int  # a picture with fewer is enlarged; 0 where none is, or where it is not known
    threads: int | None  # that may read at one time; None: as many as one likes

    def count_tokens(self, sizes: Sequence[Size]) -> Int64[np.ndarray, " pictures"]:
        """How long pictures of some heights and widths are to the model: those as long go together."""
        ...

    def read(self, jpegs: Sequence[bytes], texts: Sequence[str] | None = None) -> NativeBatch:
        """Read a batch as the model does, on the CPU; texts only where `reads_pairs`."""
        ...

    def encode(self, batch: NativeBatch) -> Float32[torch.Tensor, "inputs dim"]:
        """Raw vectors of a batch, on the device where they were computed."""
        ...


@dataclass(frozen=True)
class LoadedEncoders:
    """The loaded encoders of a tower, those that were asked for; a joint model is loaded once.

    Pictures are read by one of `image`, `files` and `native`.
    """

    image: ImageEncoder | None
    text: TextEncoder | None
    files: PictureFileEncoder | None = None
    folded: bool = False  # whether blocks were folded for inference, see `models/folding.py`
    native: NativeEncoder | None = None

    @property
    def reads_pictures(self) -> bool:
        """Whether pictures can be read at all."""
        return any(one is not None for one in (self.image, self.files, self.native))

    @property
    def reads_pairs(self) -> bool:
        """Whether a picture and a text together make one vector."""
        return self.native is not None and self.native.reads_pairs


def put_prompt(loaded: LoadedEncoders, prompt: str) -> LoadedEncoders:
    """The encoders of the same model with another prompt, those that have one."""

    def prompted(encoder: Any) -> Any:
        return encoder.with_prompt(prompt) if hasattr(encoder, "with_prompt") else encoder

    return replace(loaded, text=prompted(loaded.text), native=prompted(loaded.native))


def encode_jpegs(loaded: LoadedEncoders, jpegs: Sequence[bytes]) -> Float32[torch.Tensor, "images dim"]:
    """Raw vectors of a few pictures, whichever way the tower reads them."""
    if loaded.files is not None:
        return loaded.files.encode_files(jpegs)
    if loaded.native is not None:
        return loaded.native.encode(loaded.native.read(jpegs))
    assert loaded.image is not None
    return loaded.image.encode(batch_pixels(jpegs, loaded.image.pixels))


def normalise_pixels(
    pictures: UInt8[torch.Tensor, "images 3 height width"], spec: PixelSpec, placement: Placement
) -> torch.Tensor:
    """Normalise pixels as a model reads them: on its device, in its dtype, mean and standard deviation applied."""
    pixels = pictures.to(placement.device, non_blocking=True).to(torch.float32)
    mean, std = _scale(spec.mean, spec.std, placement.device)
    return ((pixels - mean) / std).to(placement.dtype)


@lru_cache(maxsize=64)
def _scale(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Float32[torch.Tensor, "3 1 1"], Float32[torch.Tensor, "3 1 1"]]:
    # Made once: a number that goes to a GPU anew with each batch is waited for each time.
    with torch.inference_mode(False):  # training takes them too
        return tuple(torch.tensor(numbers, device=device)[:, None, None] * 255.0 for numbers in (mean, std))  # type: ignore[return-value]


ROTARY = "inv_freq"  # part of the names that transformers gives to tables of rotary frequencies

M = TypeVar("M", bound=torch.nn.Module)


def place(model: M, placement: Placement) -> M:
    """Place a model for embedding: in eval mode, on a device and in a dtype, but for its rotary frequencies.

    Those stay float32: positions are multiplied with them, and bfloat16 is off by up to 1/256, which turns the 500th
    token by a radian and more. transformers reads them as float32 in any case.
    """
    tables = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if ROTARY in name and buffer.is_floating_point()
    ]
    model.eval().to(placement.device, placement.dtype)
    for module, name, buffer in tables:
        setattr(module, name, buffer.to(placement.device))
    return model


def count_parameters(*modules: torch.nn.Module) -> int:
    """Count the parameters of some modules, shared ones once."""
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())


def upload(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Upload a small array, tokens for instance, without waiting for it."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
