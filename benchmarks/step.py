"""What a training step of the default costs, on random pixels.

python -m benchmarks.step towers                # CPU seconds of the pass and of the optimisers, seconds of both
python -m benchmarks.step captioner --threads 2 --steps 200
python -m benchmarks.step towers --muon torch   # with torch's own Muon, which computes in bfloat16

Each is the median of some steps of the model that params.yaml names, with as many pictures as its card asks for. It is
a script of its own because torch chooses its instructions and its threads when it is imported.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from twinlens.config.load import read_params
from twinlens.config.params import Params
from twinlens.config.training import Recipe, TowerRecipe
from twinlens.core.device import Placement
from twinlens.models.encoders.base import normalise_pixels
from twinlens.training import captioning, dual_encoder
from twinlens.training.data import Split
from twinlens.training.optim import make_optimisers

CPU = Placement(torch.device("cpu"), torch.float32)
CAPTIONS = [
    f"a {colour} {thing} on a {place}"
    for colour in ("red", "blue")
    for thing in ("boat", "bus", "cat")
    for place in ("beach", "street", "meadow", "lake")
]
Loss = Callable[[], torch.Tensor]


def towers_of(params: Params) -> tuple[torch.nn.Module, Recipe, Loss]:
    """The default's model."""
    card = params.model_card
    assert card.joint is not None and isinstance(card.train, TowerRecipe)
    model = dual_encoder.build(card.joint, card.train, CAPTIONS, CPU)  # type: ignore[arg-type]
    rows = card.train.batch_size
    tokens = model.tokenize([CAPTIONS[row % len(CAPTIONS)] for row in range(rows)])
    pictures = torch.randint(0, 256, (rows, 3, model.pixels.height, model.pixels.width), dtype=torch.uint8)

    def loss() -> torch.Tensor:
        image, text = (
            model.encode_image(normalise_pixels(pictures, model.pixels, CPU)),
            model.encode_text(model.cut(tokens)),
        )
        return torch.nn.functional.cross_entropy(image @ text.T, torch.arange(rows))

    return model.module, card.train, loss


def captioner_of(params: Params) -> tuple[torch.nn.Module, Recipe, Loss]:
    """The default's captioner."""
    card = params.captioner_card
    assert card.train is not None
    texts = Split(None, CAPTIONS, [np.arange(len(CAPTIONS))])  # type: ignore[arg-type]
    trainer = captioning._Trainer(card, texts, texts, CPU)
    rows = card.train.batch_size
    pictures = torch.randint(0, 256, (rows, 3, trainer.pixels.height, trainer.pixels.width), dtype=torch.uint8)
    return (
        trainer.model,
        card.train,
        lambda: trainer._loss(pictures, trainer._cut(trainer.tokens[torch.arange(rows) % len(CAPTIONS)])),
    )


def with_torchs_muon(optimisers: list[torch.optim.Optimizer], recipe: Recipe) -> list[torch.optim.Optimizer]:
    """The same optimisers, but for ours of the matrices."""
    muon, *others = optimisers
    matrices = [matrix for group in muon.param_groups for matrix in group["params"]]
    decay = recipe.weight_decay
    theirs = torch.optim.Muon(matrices, recipe.learning_rate, decay, adjust_lr_fn="match_rms_adamw")
    return [theirs, *others]


def measure(
    model: torch.nn.Module, optimisers: list[torch.optim.Optimizer], loss: Loss, steps: int
) -> tuple[float, float, float]:
    """CPU seconds of a forward and backward pass, of the optimisers' step after it, and seconds of both."""
    taken = []
    for _ in range(steps):
        started, begun = time.perf_counter(), time.process_time()
        loss().backward()
        passed = time.process_time()
        for optimiser in optimisers:
            optimiser.step()
        taken.append((passed - begun, time.process_time() - passed, time.perf_counter() - started))
        model.zero_grad(set_to_none=True)
    passes, optimising, whole = zip(*taken, strict=True)
    return median(passes), median(optimising), median(whole)


def main() -> None:
    """Print the three figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["towers", "captioner"])
    parser.add_argument("--muon", choices=["ours", "torch"], default="ours")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model, recipe, loss = {"towers": towers_of, "captioner": captioner_of}[options.kind](read_params())
    optimisers = make_optimisers(model, recipe)
    if options.muon == "torch":
        optimisers = with_torchs_muon(optimisers, recipe)
    print(*measure(model, optimisers, loss, options.steps))


if __name__ == "__main__":
    main()
