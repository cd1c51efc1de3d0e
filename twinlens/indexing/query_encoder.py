"""Query encoder: the towers that embedded the index, loaded when the first query needs them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from twinlens.config.models import ModelCard, OpenClipTower, VectorsTower
from twinlens.config.training import HeadsRecipe
from twinlens.core.absence import advise
from twinlens.core.errors import QueryError
from twinlens.indexing import clip_text
from twinlens.indexing.clip_text import ClipText
from twinlens.indexing.manifest import Manifest

if TYPE_CHECKING:
    from twinlens.core.device import Placement
    from twinlens.models.encoders.base import LoadedEncoders

Vector = Float32[np.ndarray, " dim"]
WORDS_KEPT = 10_000  # by a tokenizer
NAMED, LETTERS = 8, 40  # unknown words that a note names, and as much of each


class QueryEncoder:
    """Encoder of queries by a model's towers; safe to be used by several threads."""

    def __init__(self, card: ModelCard, manifest: Manifest, device: str, command: str) -> None:
        self.card, self.manifest, self.device, self.command = card, manifest, device, command
        self.lock = Lock()
        self._loaded: dict[str, LoadedEncoders] = {}

    @property
    def reads_text(self) -> bool:
        """Whether words can be embedded."""
        return self._embeds("text")

    @property
    def reads_pictures(self) -> bool:
        """Whether pictures can be embedded."""
        return self._embeds("image")

    @property
    def stored(self) -> bool:
        """Whether vectors come from files, so that nothing new can be embedded."""
        return any(isinstance(tower, VectorsTower) for tower in self.card.towers().values())

    def _embeds(self, kind: str) -> bool:
        tower = self.card.towers().get("joint" if self.card.joint is not None else kind)
        return tower is not None and not isinstance(tower, VectorsTower)

    @property
    def joint(self) -> bool:
        """Whether words and pictures share one space."""
        return self.card.shares_a_space

    @property
    def light(self) -> bool:
        """Whether words are embedded without torch."""
        return self.reads_text and self._light is not None

    def text(self, text: str) -> tuple[Vector, list[str]]:
        """The unit vector of a text, and notes where the tower cannot read to its end or does not know words of it.

        Words are looked up where the tower is read without its library: larger ones spell what they do not know.
        """
        unknown: list[str] = []
        if (light := self._light) is not None:  # nothing in it changes: no query waits for another's
            count, most, unknown = light.token_count(text), light.max_tokens, light.unknown(text)
            raw = light.encode(text)
        else:
            with self.lock:
                import torch

                encoder = self._of("text").text
                assert encoder is not None
                count, most = encoder.token_counts([text])[0], encoder.max_tokens
                with torch.inference_mode():
                    raw = encoder.encode([text]).cpu().numpy()
                _forget_words(encoder)
        cut = f"the query is cut: {self.manifest.model} reads {most} of its {count} tokens"
        notes = [cut] if count > most else []
        if unknown:
            more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
            named = ", ".join(_short(word) for word in unknown[:NAMED])
            notes.append(f"{self.manifest.model} does not know: {named}{more}")
        return _unit(raw), notes

    def picture(self, jpeg: bytes) -> Vector:
        """The unit vector of a picture, from JPEG bytes such as `resize` makes."""
        with self.lock:
            import torch

            from twinlens.models.encoders.base import encode_jpegs

            with torch.inference_mode():
                return _unit(encode_jpegs(self._of("image"), [jpeg]).cpu().numpy())

    def stands_for(self, other: QueryEncoder) -> bool:
        """Whether these would embed as `other` does: the same weights by the same libraries on the same device."""
        same = self.manifest.weights == other.manifest.weights and self.device == other.device
        return same and self.card.towers() == other.card.towers()

    def load(self, *, text: bool, pictures: bool) -> None:
        """Load what a query of this kind needs, unless it is there."""
        kinds = ["text"] * (text and self.reads_text and self._light is None)
        kinds += ["image"] * (pictures and self.reads_pictures)
        if kinds:
            with self.lock:
                for kind in kinds:
                    self._of(kind)

    @cached_property
    def _light(self) -> ClipText | None:
        """The text tower without torch, where it is small and nothing asks for another device."""
        role = "joint" if self.card.joint is not None else "text"
        if self.device not in ("auto", "cpu") or not isinstance(self.card.towers()[role], OpenClipTower):
            return None
        folder = self._weights[role]
        return clip_text.load(folder) if folder.is_dir() else None

    def _of(self, kind: str) -> LoadedEncoders:
        role = "joint" if self.card.joint is not None else kind
        if role not in self._loaded:
            from twinlens.core.device import choose_device
            from twinlens.models import encoders
            from twinlens.models.folding import fold_blocks

            placement = choose_device(self.device)
            loaded = fold_blocks(encoders.load(self.card.towers()[role], self._weights[role], placement))
            if isinstance(self.card.train, HeadsRecipe):
                loaded = self._with_heads(loaded, placement)
            self._loaded[role] = loaded
        return self._loaded[role]

    def _with_heads(self, loaded: LoadedEncoders, placement: Placement) -> LoadedEncoders:
        from twinlens.models.checkpoints import locate_heads
        from twinlens.models.encoders.with_heads import attach_heads
        from twinlens.models.heads import CAPTION_TO_IMAGE, ProjectionHeads

        table = getattr(loaded.text, "table", None)  # of words: the text tower's, not the head's
        pairs = ProjectionHeads.read(locate_heads(self.manifest.towers), table)
        return attach_heads(loaded, pairs, CAPTION_TO_IMAGE, placement)

    @cached_property
    def _weights(self) -> dict[str, Path]:
        from twinlens.models.checkpoints import identify_all_weights, locate_weights

        dataset, model, trained = self.manifest.dataset, self.manifest.model, self.manifest.towers
        if not trained.is_dir():
            raise QueryError(
                f"the weights of {model} that embedded {dataset} are not here ({trained}): `{self.command}` makes or "
                "restores them; words alone (mode 'text') are found without"
            )
        if identify_all_weights(self.card, trained) != self.manifest.weights:
            raise QueryError(
                f"the index of {dataset} was built with other weights of {model} than are here now: "
                f"{advise(f'`{self.command}` builds it anew')}"
            )
        return {role: locate_weights(role, self.card, trained) for role in self.card.towers()}


def _short(word: str) -> str:
    return word if len(word) <= LETTERS else f"{word[: LETTERS - 1]}…"


def _forget_words(encoder: object) -> None:
    """Bound what a tokenizer keeps of the words that it met: open_clip's keeps each for ever, whoever typed it."""
    kept = getattr(getattr(encoder, "tokenizer", None), "cache", None)
    if isinstance(kept, dict) and len(kept) > WORDS_KEPT:
        for word in list(kept)[WORDS_KEPT // 10 :]:  # the first are the tokenizer's own special tokens
            del kept[word]


def _unit(raw: Float32[np.ndarray, "1 dim"]) -> Vector:
    length = np.linalg.norm(raw[0].astype(np.float64))
    if not np.isfinite(length) or length == 0:
        raise QueryError("the model makes nothing of the query: its vector is zero or not finite")
    return np.asarray(raw[0] / length, dtype=np.float32)
