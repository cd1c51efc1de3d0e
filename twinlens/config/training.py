"""Training recipes, as cards give them.

A recipe decides the weights: the same recipe on the same pictures gives the same ones. The fields'
defaults are what a new card should start from; the cards of the source projects say what those did.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from twinlens.config.base import Card
from twinlens.config.numbers import LARGEST, LARGEST_SEED, Count, Flag, Positive, PositiveOrZero, Seed, Several, Share

MOST_SEEDS = 100  # of one recipe
Part = Annotated[float, Field(strict=True, ge=0, lt=1)]  # never the whole
Tiny = Annotated[float, Field(strict=True, gt=0, le=1)]  # of what is added lest something be divided by zero


class Recipe(Card):
    """Fields of every training: batches, optimiser, schedule and seed."""

    epochs: Count
    batch_size: Several
    samples_per_epoch: Count | None = None  # pictures drawn each epoch; null: all of them
    replacement: Flag = False  # whether a picture may be drawn twice in an epoch
    drop_last: Flag = True  # leave out the pictures that fill no whole batch; false: only a single one
    captions: Literal["first", "random"] = "random"  # of each picture: always the first, or a new draw an epoch

    learning_rate: Positive
    optimizer: Literal["adamw", "muon"] = (
        "adamw"  # muon for matrices and convolutions, adamw for the rest; Adam is adamw without decay
    )
    betas: tuple[Part, Part] = (0.9, 0.98)
    eps: Tiny = 1e-8
    weight_decay: PositiveOrZero = 0.0
    max_grad_norm: Positive | None = None  # longer gradients are scaled down to it
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"  # after warm-up; the first two end at zero
    warmup_share: Part = 0.05  # of all steps
    step_epochs: Count = 8  # of `step`: after so many epochs the rate is
    step_factor: Part = 0.1  # multiplied by this, and again

    keep: Literal["last", "best"] = "last"  # the epoch whose weights are kept; best: by the validation split
    patience: Count | None = None  # epochs without a better one after which training stops
    seed: Seed = 0
    # By how many seeds, from `seed` on, `twinlens sweep` trains: an experiment each. No single training depends on it.
    seeds: Annotated[int, Field(strict=True, ge=1, le=MOST_SEEDS)] | None = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def _draws_fit(self) -> Self:
        if self.replacement and self.samples_per_epoch is None:
            raise ValueError("`replacement` needs `samples_per_epoch`")
        if self.seed + (self.seeds or 1) > LARGEST_SEED + 1:
            raise ValueError(f"`seed` {self.seed} and {self.seeds} `seeds` go beyond {LARGEST_SEED}, the largest seed")
        return self


class CaptioningRecipe(Recipe):
    """Next-word cross entropy given the picture (the LM loss of BLIP, Li et al. 2022)."""

    objective: Literal["captioning"]


class ContrastiveRecipe(Recipe):
    """Contrastive training of pictures and their captions in one space; `training.losses` has the objectives.

    * `clip`: symmetric InfoNCE over the batch;
    * `siglip`: a sigmoid for every pair of the batch;
    * `margin`: pairs that match pulled together, all others pushed beyond the margin;
    * `triplet`: an anchor nearer to its match than to a negative, by the margin.
    """

    objective: Literal["clip", "siglip", "margin", "triplet"]
    temperature: Positive | None = None  # to begin with; null: the model's own, or 0.07 (siglip: 0.1)
    max_logit_scale: Positive | None = 100.0  # the inverse of the temperature is clipped to it; null: never
    margin: Positive = 0.2
    distance: Literal["cosine", "euclidean", "squared_euclidean"] = "cosine"  # of `margin` and `triplet`
    negatives: Literal["random", "all", "semi_hard", "hardest"] = "hardest"  # of `triplet`, within the batch
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"  # the others are for GPUs: bfloat16 is mixed, most
    # CPUs emulate it; tf32 is float32 whose products have ten bits of mantissa, and on a CPU the same as float32
    on_collapse: Literal["stop", "record"] = "stop"  # when all pictures or all captions become one point


class TowerRecipe(ContrastiveRecipe):
    """Training of both towers of a joint model, from nothing or from pretrained weights."""

    # Captions are cut there while training.
    caption_tokens: Annotated[int, Field(strict=True, ge=3, le=LARGEST)] | None = None
    joined_share: Share = 0.0  # of the batches, in which a picture's text is all of its captions, joined
    freeze: Literal["image", "text"] | None = None  # a tower that keeps its weights
    part_size: Count | None = None  # a batch is computed in parts of so many: the same loss in less memory
    checkpointing: Flag = False  # layers are computed again instead of being kept: slower, less memory


class HeadsArchitecture(Card):
    """Two small networks that bring frozen vectors of pictures and of words into one space."""

    dim: Count  # of that space
    image_hidden: list[Count] = []  # widths between the tower's vector and `dim`
    text_hidden: list[Count] = []
    activation: Literal["prelu", "relu", "gelu"] = "prelu"
    image_dropout: Part = 0.0  # of the outcome, while training
    text_dropout: Part = 0.0
    batch_norm: Flag = False  # of the towers' vectors
    unit_input: Flag = True  # the towers' vectors are brought to unit length first
    unit_length: Flag = True  # the outcome too
    text: Literal["mlp", "lstm"] = "mlp"  # lstm: over the words, of a text tower with `word_vectors`
    lstm_width: Count = 512
    directions: Literal["one", "each"] = "one"  # one pair for both, or one each: picture to caption, caption to picture
    image_width: Count | None = None  # what the towers' vectors must have; null: whatever they have
    text_width: Count | None = None


class HeadsRecipe(ContrastiveRecipe):
    """Training of heads on the vectors of towers that stay as they are."""

    heads: HeadsArchitecture

    @property
    def by_length(self) -> bool:
        """Whether the vectors' lengths matter to what is learnt, and not only their directions."""
        distances = self.objective in ("margin", "triplet") and self.distance != "cosine"
        return distances and not self.heads.unit_length


def _kind(value: Any) -> str:
    has_heads = "heads" in value if isinstance(value, dict) else hasattr(value, "heads")
    return "of_heads" if has_heads else "of_towers"  # no key of a recipe: error messages leave tags out


ModelRecipe = Annotated[
    Annotated[TowerRecipe, Tag("of_towers")] | Annotated[HeadsRecipe, Tag("of_heads")], Discriminator(_kind)
]
