"""Heads: small networks that bring the frozen vectors of two towers into one space.

`train` fits them, `embed` applies them; a folder holds their weights and what they were made for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from twinlens.config.training import HeadsArchitecture
from twinlens.core.errors import DataError

CONFIG, WEIGHTS = "heads.json", "heads.safetensors"
ACTIVATIONS: dict[str, type[nn.Module]] = {"prelu": nn.PReLU, "relu": nn.ReLU, "gelu": nn.GELU}
AT_ONCE = 4096

BOTH = "both"
IMAGE_TO_CAPTION, CAPTION_TO_IMAGE = "image_to_caption", "caption_to_image"


class Head(nn.Module):
    """Network from a tower's vectors (rows, width) into the space (rows, dim)."""

    def __init__(self, heads: HeadsArchitecture, width: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm1d(width)] if heads.batch_norm else []
        for wide in hidden:
            layers += [nn.Linear(width, wide), ACTIVATIONS[heads.activation]()]
            width = wide
        self.layers = nn.Sequential(*layers, nn.Linear(width, heads.dim), nn.Dropout(dropout))
        self.unit_input, self.unit_length = heads.unit_input, heads.unit_length

    def forward(self, vectors: Float[torch.Tensor, "rows width"]) -> Float[torch.Tensor, "rows dim"]:
        """Map to vectors of the space."""
        if self.unit_input:
            vectors = nn.functional.normalize(vectors, dim=-1)
        found: torch.Tensor = self.layers(vectors)
        return nn.functional.normalize(found, dim=-1) if self.unit_length else found


class WordsHead(nn.Module):
    """Network from the words of a text (rows, words), as rows of a table that stays as it is, into the space.

    An LSTM reads the words in order; its state after the last one goes through a head. Row 0 of the
    table stands for no word.
    """

    def __init__(self, heads: HeadsArchitecture, table: Float32[torch.Tensor, "words width"]) -> None:
        super().__init__()
        # No buffer: the table is the text tower's, and is not written beside the weights.
        self.table = table
        self.lstm = nn.LSTM(table.shape[1], heads.lstm_width, batch_first=True)
        # What a state is fed as is not a tower's vector, so it is neither scaled nor normalised first.
        plain = heads.model_copy(update={"unit_input": False, "batch_norm": False})
        self.head = Head(plain, heads.lstm_width, heads.text_hidden, heads.text_dropout)

    def forward(self, words: Int[torch.Tensor, "rows words"]) -> Float[torch.Tensor, "rows dim"]:
        """Map texts, given as rows of the table padded with 0 at the end, to vectors of the space."""
        lengths = (words != 0).sum(dim=1).clamp(min=1)  # a text of unknown words is read as one word that says nothing
        vectors = self.table[words.cpu()].to(words.device)
        packed = nn.utils.rnn.pack_padded_sequence(vectors, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (state, _) = self.lstm(packed)
        found: torch.Tensor = self.head(state[-1])
        return found


class ProjectionHeads(nn.Module):
    """Projection heads: one for pictures and one for texts, once for both directions or once for each."""

    def __init__(
        self,
        heads: HeadsArchitecture,
        image_width: int,
        text_width: int,
        table: Float32[torch.Tensor, "words width"] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.widths = heads, {"image": image_width, "text": text_width}

        def pair() -> nn.ModuleDict:
            text: nn.Module
            if heads.text == "mlp":
                text = Head(heads, text_width, heads.text_hidden, heads.text_dropout)
            else:  # without the words' table it is there to be loaded, not to be used
                text = WordsHead(heads, torch.zeros(1, text_width) if table is None else table)
            image = Head(heads, image_width, heads.image_hidden, heads.image_dropout)
            return nn.ModuleDict({"image": image, "text": text})

        names = (BOTH,) if heads.directions == "one" else (IMAGE_TO_CAPTION, CAPTION_TO_IMAGE)
        self.pairs = nn.ModuleDict({name: pair() for name in names})

    @property
    def directions(self) -> list[str]:
        """`both`, or `image_to_caption` and `caption_to_image`."""
        return list(self.pairs)

    def serving(self, direction: str) -> str:
        """The pair that serves a direction: its own, or `both`."""
        return direction if direction in self.pairs else BOTH

    def head(self, direction: str, side: str) -> nn.Module:
        """The head of a direction and a side, `image` or `text`."""
        found: nn.Module = self.pairs[direction][side]  # type: ignore[index]
        return found

    @torch.inference_mode()
    def apply_to(
        self, vectors: np.ndarray, direction: str, side: str, device: torch.device
    ) -> Float32[np.ndarray, "rows dim"]:
        """Pass all rows of a side through its head, in eval mode.

        Raises:
            DataError: the rows are not as wide as those the head was trained on.
        """
        if vectors.dtype.kind == "f" and vectors.shape[1] != self.widths[side]:
            raise DataError(
                f"the {side} tower's vectors have {vectors.shape[1]} dimensions, its head was trained on "
                f"{self.widths[side]}: `dvc repro -f train`, or put the tower back that it was trained with"
            )
        head = self.head(direction, side).eval().to(device)
        parts = [
            head(torch.from_numpy(np.array(vectors[start : start + AT_ONCE])).to(device)).float().cpu()
            for start in range(0, len(vectors), AT_ONCE)
        ]
        return torch.cat(parts).numpy()

    def write(self, out: Path) -> None:
        """Write the weights and what they were made for."""
        out.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {"heads": self.config.model_dump(mode="json"), "widths": self.widths}
        (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file({name: value.cpu().contiguous() for name, value in self.state_dict().items()}, out / WEIGHTS)

    @classmethod
    def read(cls, folder: Path, table: Float32[torch.Tensor, "words width"] | None = None) -> ProjectionHeads:
        """Read what `write` wrote.

        Raises:
            DataError: the files are not there or do not belong together.
        """
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            pairs = cls(
                HeadsArchitecture.model_validate(config["heads"]),
                config["widths"]["image"],
                config["widths"]["text"],
                table,
            )
            pairs.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise DataError(
                f"{folder} holds no heads that can be read ({str(error)[:200]}): `dvc repro -f train`"
            ) from None
        return pairs
