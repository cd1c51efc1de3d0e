"""A tower's worker: it has the model, and embeds the parts that it is given, wherever it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from twinlens.config.models import Tower
from twinlens.core.device import Placement
from twinlens.core.errors import ParamsError
from twinlens.core.probes import Probe
from twinlens.engines.base import Seat
from twinlens.inference import probe
from twinlens.inference.device_pixels import DevicePixels
from twinlens.inference.loop import DeviceRoom, stream_pictures, stream_texts
from twinlens.inference.native_loop import stream_native
from twinlens.inference.parts import Finished, Part, TextPart
from twinlens.inference.threads import hold_threads
from twinlens.models import encoders
from twinlens.models.encoders.base import ImageEncoder, LoadedEncoders, put_prompt
from twinlens.models.folding import fold_blocks


@dataclass
class TowerWorker:
    """A tower with its weights, loaded at the first part; what is pickled has loaded nothing."""

    tower: Tower
    weights: Path
    placement: Placement
    image_batch: int | None
    text_batch: int | None
    _room: tuple[DeviceRoom, DeviceRoom] = field(default_factory=lambda: (DeviceRoom(), DeviceRoom()), compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: the fields."""
        return {name: value for name, value in vars(self).items() if name not in ("loaded", "_prompted", "_pixels")}

    @property
    def paths(self) -> tuple[Path, ...]:
        """What every machine has to see."""
        return (self.weights,)

    @cached_property
    def loaded(self) -> LoadedEncoders:
        """The encoders, their blocks folded where they can be."""
        return fold_blocks(encoders.load(self.tower, self.weights, self.placement))

    def prompted(self, prompt: str | None) -> LoadedEncoders:
        """The encoders with another prompt than the tower's own; None: with that."""
        if prompt is None:
            return self.loaded
        if prompt not in self._prompted:
            self._prompted[prompt] = put_prompt(self.loaded, prompt)
        return self._prompted[prompt]

    @cached_property
    def _prompted(self) -> dict[str, LoadedEncoders]:
        return {}

    def __call__(self, parts: Iterable[Part], seat: Seat) -> Iterator[Finished]:
        """Embed parts of pictures, of pictures with texts, or of texts, all of one source.

        Raises:
            ParamsError: the tower reads no such thing.
            DataError: a vector is NaN, infinite or zero, or a picture is not as it was written.
            ResourceError: the device is no longer there, or memory or disk are full.
        """
        rest = iter(parts)
        if (first := next(rest, None)) is None:
            return
        loaded, room = self.prompted(first.source.prompt), self._room
        if isinstance(first, TextPart):
            assert loaded.text is not None
            texts: Any = chain_parts(first, rest)
            found = stream_texts(loaded.text, texts, self.placement, seat, batch=self.text_batch, room=room[1])
            parameters = loaded.text.parameters
        elif loaded.native is not None:
            pictures: Any = chain_parts(first, rest)
            found = stream_native(loaded.native, pictures, self.placement, seat, batch=self.image_batch, room=room[0])
            parameters = loaded.native.parameters
        else:
            pictures = chain_parts(first, rest)
            encoder, read = self._image(loaded), self._pixels
            found = stream_pictures(
                encoder, pictures, self.placement, seat, batch=self.image_batch, room=room[0], read=read
            )
            parameters = encoder.parameters
        for finished in found:
            yield replace(finished, parameters=parameters)

    @cached_property
    def _pixels(self) -> DevicePixels | None:
        if self.placement.pixels != "device":
            return None
        return DevicePixels(self._image(self.loaded).pixels, self.placement)

    def _image(self, loaded: LoadedEncoders) -> ImageEncoder:
        if loaded.image is None:
            raise ParamsError(
                f"{getattr(self.tower, self.tower.family)} reads no pictures: name it as `text:` on the card"
            )
        return loaded.image


def chain_parts(first: Part, rest: Iterator[Part]) -> Iterator[Part]:
    """A part, and those that follow it."""
    yield first
    yield from rest


def probe_pictures(worker: TowerWorker, shards: Path, rows: pl.DataFrame, contents: int, prompt: str | None) -> Probe:
    """Make the probe of pictures, or of pictures with texts; a question to a worker."""
    loaded = worker.prompted(prompt)
    with hold_threads(worker.placement, few=True):
        if loaded.native is not None:
            return probe.probe_native(loaded.native, shards, rows, worker.placement, contents)
        assert loaded.image is not None
        return probe.probe_pictures(loaded.image, shards, rows, worker.placement, contents)


def probe_texts(worker: TowerWorker, chosen: probe.ChosenTexts, prompt: str | None) -> Probe:
    """Make the probe of texts; a question to a worker."""
    encoder = worker.prompted(prompt).text
    assert encoder is not None
    with hold_threads(worker.placement, few=True):
        return probe.probe_texts(encoder, chosen, worker.placement)
