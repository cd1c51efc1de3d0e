"""Captioning on a device: our loop beside transformers' `generate`, over tensors in its memory, and from shards."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import torch
from tokenizers import Tokenizer, models
from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, PreTrainedTokenizerFast

from benchmarks.paired import Row, alternate, median, ratio
from twinlens.config.captioners import CaptionerCard
from twinlens.core.device import Placement
from twinlens.core.scratch import Scratch
from twinlens.inference.caption import caption_pictures
from twinlens.models.captioners.blip import BlipGenerator, encode_patches, read_blip_settings
from twinlens.models.captioners.transformers import Captioner

TOKENS = 20  # of every caption: none may end before, so that all have the same work
COCO = 123_287
COMPARED = 256


def measure(placement: Placement, prepared: Path, index: pl.DataFrame, small: bool) -> Iterator[Row]:
    """Measure BLIP-base with random weights; yields each row as soon as it is known.

    Args:
        placement: where it runs.
        prepared: shards of the `resize` stage.
        index: their pictures.
        small: a tiny model and few pictures, to try the script on a CPU.
    """
    model = _build(placement, small)
    batches, ours_at = ((2, 4, 8), (4,)) if small else ((128, 512, 1024), (512, 1024))
    largest = max(batches)
    side = model.config.vision_config.image_size
    coarse = torch.randn((largest, 3, 6, 6), device=placement.device, dtype=placement.dtype)  # each another picture
    pixels = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")

    ways: dict[str, Callable[[], object]] = {}
    for batch in ours_at:
        ways[f"ours, batch {batch}"] = _ours(model, pixels[:batch])
    for batch in batches:
        ways[f"generate, batch {batch}"] = lambda batch=batch: _generate(model, pixels[:batch])  # type: ignore[misc]
    for name in [name for name in ways if not _fits(ways[name])]:
        del ways[name]
        yield Row(f"BLIP-base, {TOKENS} tokens, {name}", "does not fit into the device's memory", "", "")
    taken = alternate(ways, rounds=2)
    rates = {name: int(name.split()[-1]) / median(taken, name) for name in ways}
    best = max((name for name in ways if name.startswith("generate")), key=rates.__getitem__)
    for name in sorted(ways, key=rates.__getitem__, reverse=True):
        beside = f"{rates[name] / rates[best]:.2f} x" if name.startswith("ours") else ""
        wanted = ">= 1.5 x" if beside else ""
        yield Row(f"BLIP-base, {TOKENS} tokens, {name}", f"{rates[name]:,.0f} img/s", best, beside, wanted)
    ways.clear()  # with what is recorded, and its buffers

    yield _from_shards(model, placement, prepared, index, rates[best], small)
    yield from _compare_words(model, pixels[: 4 if small else COMPARED])

    some = pixels[: ours_at[0]]
    vision: dict[str, Callable[[], object]] = {
        "ours": lambda: _encode(model, some),
        "library": lambda: _see(model, some),
    }
    taken = alternate(vision, rounds=3)
    yield Row(
        f"BLIP-base's vision tower, batch {ours_at[0]}",
        f"{ours_at[0] / median(taken, 'ours'):,.0f} img/s",
        f"the library's, {ours_at[0] / median(taken, 'library'):,.0f} img/s",
        f"{ratio(taken, of='library', to='ours'):.2f} x",
    )
    few = pixels[: 2 if small else 128]
    beams: dict[str, Callable[[], object]] = {
        "ours": _ours(model, few, num_beams=3),
        "library": lambda: _generate(model, few, num_beams=3),
    }
    taken = alternate(beams, rounds=2)
    yield Row(
        f"BLIP-base, three beams, batch {len(few)}",
        f"{len(few) / median(taken, 'ours'):,.0f} img/s",
        f"generate, {len(few) / median(taken, 'library'):,.0f} img/s",
        f"{ratio(taken, of='library', to='ours'):.2f} x",
    )


def _build(placement: Placement, small: bool) -> Any:
    text: dict[str, Any] = {"num_attention_heads": 12}
    vision: dict[str, Any] = {"image_size": 384, "initializer_range": 0.02}  # which the library sets to nearly nothing
    if small:
        tiny = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
        text, vision = text | tiny | {"encoder_hidden_size": 48}, vision | {"image_size": 64} | tiny
    torch.manual_seed(0)
    with torch.device(placement.device):
        model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    # New weights are so small that all pictures would have one caption.
    larger = 83 / model.config.text_config.hidden_size**0.5
    with torch.no_grad():
        for matrix in {id(p): p for p in model.parameters() if p.ndim > 1}.values():
            matrix.mul_(larger)
    model.text_decoder.generation_config.min_new_tokens = TOKENS
    return model.eval().to(placement.device, placement.dtype)


def _ours(model: Any, pixels: torch.Tensor, num_beams: int = 1) -> Callable[[], torch.Tensor]:
    settings = read_blip_settings(model, TOKENS, num_beams)
    assert settings is not None
    generator = BlipGenerator(model, settings)
    generator.expect(len(pixels))
    return lambda: generator.generate(pixels)


@torch.inference_mode()
def _generate(model: Any, pixels: torch.Tensor, num_beams: int = 1) -> torch.Tensor:
    return model.generate(pixel_values=pixels, max_new_tokens=TOKENS, num_beams=num_beams, do_sample=False)


@torch.no_grad()
def _encode(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return encode_patches(model.vision_model, pixels)


@torch.inference_mode()
def _see(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model.vision_model(pixel_values=pixels)[0]


def _fits(way: Callable[[], object]) -> bool:
    try:
        way()
        return True
    except torch.OutOfMemoryError:
        pass
    torch.cuda.empty_cache()
    return False


def _from_shards(
    model: Any, placement: Placement, prepared: Path, index: pl.DataFrame, bare: float, small: bool
) -> Row:
    """The stage's own loop, from JPEG to words, with what it records and the threads that the machine has."""
    words = Tokenizer(models.WordLevel({f"word{n}": n for n in range(model.config.text_config.vocab_size)}))
    side = model.config.vision_config.image_size
    captioner = Captioner(
        model,
        PreTrainedTokenizerFast(tokenizer_object=words),
        BlipImageProcessor(size={"height": side, "width": side}),
        CaptionerCard(captioner="blip", hub="random/weights", max_new_tokens=TOKENS),
        placement,
    )
    before = os.environ.get("TWINLENS_SCRATCH")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TWINLENS_SCRATCH"] = folder
        try:
            with Scratch("caption", "benchmark") as scratch:
                threads = len(os.sched_getaffinity(0))
                batch = 8 if small else None
                caption_pictures(captioner, prepared, index, scratch, batch=batch, decode_threads=threads)
                seconds, waiting = scratch.total("seconds"), scratch.total("waiting_s")
        finally:
            del os.environ["TWINLENS_SCRATCH"]
            if before is not None:
                os.environ["TWINLENS_SCRATCH"] = before
    captioner.release()
    rate = len(index) / seconds
    return Row(
        f"BLIP-base, {TOKENS} tokens, {len(index):,} photos from shards, {threads} threads",
        f"{rate:,.0f} img/s, {waiting / seconds:.1%} waiting for pixels; COCO in {COCO / rate / 60:.1f} min",
        "best `generate`",
        f"{rate / bare:.2f} x",
        ">= 1.5 x, COCO in 3 min",
    )


def _compare_words(model: Any, pixels: torch.Tensor) -> Iterator[Row]:
    """How many captions have other words: ours beside the library's, and each beside float32's."""
    exact = copy.deepcopy(model).float()
    right, ours = _generate(exact, pixels.float()), _ours(exact, pixels.float())()
    distinct = len(set(map(tuple, right.tolist())))
    what = (
        f"captions with other words, random weights (near ties), {len(pixels)} pictures, {distinct} distinct captions"
    )
    yield Row(f"{what}, float32", _share(ours, right), "generate", "", "0.0%")
    if pixels.dtype == torch.float32:
        return
    name = str(pixels.dtype).removeprefix("torch.")
    wanted, found = _generate(model, pixels), _ours(model, pixels)()
    halves = torch.cat([_generate(model, half) for half in pixels.chunk(2)])
    yield Row(f"{what}, {name}", _share(found, wanted), "generate at half the batch", _share(halves, wanted))
    yield Row(f"{what}, {name} beside float32", _share(found, right), "generate", _share(wanted, right))


def _share(found: torch.Tensor, wanted: torch.Tensor) -> str:
    return f"{(found != wanted).any(dim=1).float().mean().item():.1%}"
