"""A model in a process of its own against the same model in this one: what pipes and frames cost.

    python -m benchmarks.child [ROUNDS]

Both embed the same batches of pixels and the same texts, by turns, with one thread each. Counted are seconds of a
processor, of both processes together: a session of its own may get another share of a busy machine (Linux).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessor

from benchmarks.paired import alternate, median, ratio
from tests.tiny import CPU, TEXTS, tokenizer
from twinlens.config.environments import Environment
from twinlens.config.models import OwnCodeTower, TransformersTower
from twinlens.models import encoders

BATCH = 32
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def save_configuration(folder: Path) -> None:
    """Save a ViT-B/32 CLIP without weights, which decide no speed."""
    words = tokenizer()
    for part in (CLIPConfig(projection_dim=512), words, CLIPImageProcessor()):
        part.save_pretrained(folder)


def read_processor_s(process: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def main(rounds: int) -> None:
    """Print the ratios."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_configuration(folder)
        here = TransformersTower(transformers="a/b", checkpoint=name)
        there = OwnCodeTower(transformers="a/b", checkpoint=name, environment=Environment(inherits=True))
        loaded = {"here": encoders.load(here, folder, CPU, True), "there": encoders.load(there, folder, CPU, True)}
        child = loaded["there"].image.run.child.pid  # type: ignore[union-attr]
        pixels = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)

        def pictures(where: str) -> None:
            encoder = loaded[where].image
            assert encoder is not None
            with torch.inference_mode():
                encoder.encode(pixels)

        def texts(where: str) -> None:
            encoder = loaded[where].text
            assert encoder is not None
            with torch.inference_mode():
                encoder.encode((list(TEXTS) * 64)[:64])

        for what, work in (("pictures", pictures), ("texts", texts)):
            sides: dict[str, Callable[[], object]] = {side: partial(work, side) for side in loaded}
            taken = alternate(sides, rounds, lambda: time.process_time() + read_processor_s(child))
            seconds = {side: median(taken, side) for side in loaded}
            print(f"{what}: {seconds['here']:.3f} s here, {seconds['there']:.3f} s there", end=", ")
            print(f"ratio {ratio(taken, 'there', 'here'):.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
