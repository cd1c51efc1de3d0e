"""Training on a device: ViT-B-32 and the default's CLIP through the pipeline's loop, beside the bare step."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import open_clip
import polars as pl
import torch
from open_clip.model import CLIP

from benchmarks import step
from benchmarks.paired import Row
from twinlens.config.load import read_params
from twinlens.config.models import OpenClipTower
from twinlens.config.training import TowerRecipe
from twinlens.core.device import Placement
from twinlens.core.scratch import Scratch
from twinlens.training import dual_encoder, loop
from twinlens.training.contrastive import Inputs, train_dual_encoder
from twinlens.training.data import PixelStore
from twinlens.training.numbers import fix_numbers
from twinlens.training.optim import make_optimisers

LENGTH = 77
TINY: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": LENGTH, "vocab_size": 1000, "width": 32, "heads": 2, "layers": 1},
}


@dataclass
class _Work:
    """A model in training, with pictures and texts."""

    model: dual_encoder.JointModel
    recipe: TowerRecipe
    taught: Inputs
    held_out: Inputs
    placement: Placement
    begin: dict[str, torch.Tensor]

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self.taught.pictures) // self.recipe.batch_size

    def train(self, epochs: int) -> list[dict[str, float]]:
        """Train by the pipeline's loop from the same weights; gives the seconds of each epoch, and its validation's."""
        self.model.module.load_state_dict(self.begin)
        recipe = self.recipe.model_copy(update={"epochs": epochs})
        pair = dual_encoder._pair(self.model, recipe, self.placement)
        torch.manual_seed(0)
        with Scratch("train", f"run-{time.monotonic_ns()}") as scratch:
            train_dual_encoder(pair, recipe, self.taught, self.held_out, self.placement, scratch)
            return [json.loads(path.read_text()) for path in sorted(scratch.folder.glob("epoch-*.note"))]

    def digest(self) -> str:
        """SHA-256 of the weights."""
        found = hashlib.sha256()
        for value in self.model.module.state_dict().values():
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()


def measure(placement: Placement, prepared: Path, index: pl.DataFrame, small: bool) -> Iterator[Row]:
    """The step of ViT-B-32, whether it repeats and what that costs, and the default's CLIP; most important first."""
    exact = Placement(placement.device, torch.float32)  # as `train` does
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {"TWINLENS_SCRATCH": folder}):
        work = _vit(exact, prepared, index, small)
        name, batch = ("a tiny ViT" if small else "ViT-B-32"), work.recipe.batch_size
        bare = _bare(work, 3 if small else 30)
        notes = work.train(2 if small else 3)[1:]  # the first epoch loads kernels
        ours = sum(note["seconds"] - note["validate"] for note in notes) / len(notes) / work.steps
        bare = (bare + _bare(work, 3 if small else 30)) / 2  # before and after
        yield Row(
            f"training {name}, batch {batch}, {LENGTH} tokens, mixed bfloat16",
            f"{batch / ours:,.0f} pairs/s, validation {sum(note['validate'] for note in notes) / len(notes):.2f} s",
            f"bare step: {batch / bare:,.0f} pairs/s",
            f"{bare / ours:.2f} of the bare step's rate",
            "at least 0.80",
        )
        yield from _busy(work, name)
        yield from _repeats(work, name)
        yield from _default(exact, prepared, index, small)


def _vit(placement: Placement, prepared: Path, index: pl.DataFrame, small: bool) -> _Work:
    config: Any = TINY if small else open_clip.get_model_config("ViT-B-32")
    batch = 8 if small else 256
    torch.manual_seed(0)
    with torch.device(placement.device):
        module = CLIP(**config)
    size = config["vision_cfg"]["image_size"]
    preprocess = dual_encoder.make_preprocess(OpenClipTower(open_clip="custom", architecture=config))
    assert preprocess["size"] == [size, size]
    from twinlens.models.encoders.open_clip import read_pixel_spec

    model = dual_encoder._of_open_clip(
        module, read_pixel_spec(preprocess), lambda texts: _tokens(len(texts), config), config, preprocess, None, None
    )
    recipe = TowerRecipe(objective="clip", epochs=3, batch_size=batch, learning_rate=1e-5, precision="bfloat16")
    return _prepare(model, recipe, placement, prepared, index, held_out=batch, texts=None)


def _tokens(count: int, config: dict[str, Any]) -> torch.Tensor:
    """Texts of full length: the last token is the highest, which ends them."""
    words = config["text_cfg"]["vocab_size"]
    tokens = torch.randint(1, words - 2, (count, LENGTH), generator=torch.Generator().manual_seed(0))
    tokens[:, -1] = words - 1
    return tokens


def _prepare(
    model: dual_encoder.JointModel,
    recipe: TowerRecipe,
    placement: Placement,
    prepared: Path,
    index: pl.DataFrame,
    held_out: int,
    texts: Callable[[int], list[str]] | None,
) -> _Work:
    taught, val = index[held_out:], index[:held_out]

    def read(pictures: pl.DataFrame) -> Inputs:
        words = [""] * len(pictures) if texts is None else texts(len(pictures))
        store = PixelStore(prepared, pictures, model.pixels, os.cpu_count() or 1)
        rows = list(np.arange(len(pictures))[:, None])
        return Inputs(store, dual_encoder.TokenRows(model, words), rows)

    begin = {name: value.detach().clone() for name, value in model.module.state_dict().items()}
    recipe = recipe.model_copy(update={"on_collapse": "record"})
    return _Work(model, recipe, read(taught), read(val), placement, begin)


def _bare(work: _Work, steps: int) -> float:
    """Seconds of a step over tensors that are in the device's memory: forward, backward, fused AdamW, autocast."""
    model, device, size = work.model, work.placement.device, work.recipe.batch_size
    rows = np.arange(size)
    pictures = work.taught.pictures[rows].to(device).float() / 127.5 - 1.0
    tokens = work.taught.texts[rows].to(device)
    trained = [p for p in model.module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    own = torch.arange(size, device=device)
    model.module.train()

    def one() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            image = torch.nn.functional.normalize(model.encode_image(pictures), dim=-1)
            text = torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
            logits = 14.0 * image @ text.T
        entropy = torch.nn.functional.cross_entropy
        loss = (entropy(logits.float(), own) + entropy(logits.T.float(), own)) / 2
        loss.backward()
        optimiser.step()

    for _ in range(3):
        one()
    _wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        one()
    _wait(device)
    return (time.perf_counter() - started) / steps


def _busy(work: _Work, name: str) -> Iterator[Row]:
    """The share of an epoch's steps in which the device computes."""
    if work.placement.device.type != "cuda":
        return
    activity = torch.profiler.ProfilerActivity
    with patch.object(loop._Keeper, "keep", _note_only), torch.profiler.profile(activities=[activity.CUDA]) as seen:
        (note,) = work.train(1)
    kernels = sum(e.self_device_time_total for e in seen.key_averages() if not e.key.startswith("Mem")) / 1e6
    yield Row(
        f"training {name}: the device at work",
        f"{kernels / (note['seconds'] + note['validate']):.2f} of an epoch's time",  # with the one before it
        "",
        "",
    )


def _note_only(self: Any, epoch: int, model: Any, optimisers: Any, rows: Any, best: bool, figures: Any) -> None:
    self.scratch.note(f"epoch-{epoch:04d}", **figures)


def _repeats(work: _Work, name: str) -> Iterator[Row]:
    """Two trainings each, by repeatable kernels and by the fastest: whether the weights have the same bytes."""
    digests: dict[bool, list[str]] = {True: [], False: []}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with patch.object(loop._Keeper, "keep", _note_only):
        for _ in range(2):
            for repeatable in (True, False):
                with _kernels(repeatable):
                    (note,) = work.train(1)
                digests[repeatable].append(work.digest())
                seconds[repeatable].append(note["seconds"] - note["validate"])
    same = {kind: "the same bytes twice" if len(set(found)) == 1 else "other bytes" for kind, found in digests.items()}
    price = median(seconds[True]) / median(seconds[False])
    yield Row(
        f"training {name}, {work.steps} steps by repeatable kernels",
        f"{same[True]}, {median(seconds[True]):.2f} s",
        f"the fastest kernels: {same[False]}, {median(seconds[False]):.2f} s",
        f"{price:.2f} of the time",
        "the same bytes",
    )


@contextmanager
def _kernels(repeatable: bool) -> Iterator[None]:
    with patch.object(loop, "fix_numbers", partial(fix_numbers, repeatable=repeatable)):
        yield


def _default(placement: Placement, prepared: Path, index: pl.DataFrame, small: bool) -> Iterator[Row]:
    """The default's CLIP: a step through the loop on the device, beside the same step on one thread of the CPU."""
    card = read_params().models["clip-scenes"]
    recipe = card.train
    assert isinstance(card.joint, OpenClipTower) and isinstance(recipe, TowerRecipe)
    size = min(recipe.batch_size, len(index) // 3)
    recipe = recipe.model_copy(update={"batch_size": size})
    model = dual_encoder.build(card.joint, recipe, step.CAPTIONS, placement)
    texts = partial(_captions, step.CAPTIONS)
    work = _prepare(model, recipe, placement, prepared, index, size, texts)
    note = work.train(2)[-1]
    ours = (note["seconds"] - note["validate"]) / work.steps
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    on_cpu, _, loss = step.towers_of(read_params())
    cpu = step.measure(on_cpu, make_optimisers(on_cpu, recipe), loss, 1 if small else 4)[2]
    torch.set_num_threads(before)
    yield Row(
        f"training the default's CLIP, batch {size}",
        f"{ours * 1e3:,.1f} ms a step, {size / ours:,.0f} pairs/s",
        f"one CPU thread, batch 128: {cpu * 1e3:,.0f} ms",
        f"{ours / cpu:.2f} of the time",
        "at most 0.33",
    )


def _captions(captions: list[str], count: int) -> list[str]:
    return [captions[row % len(captions)] for row in range(count)]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
