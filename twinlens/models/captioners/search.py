"""Greedy and beam search over a decoder of fixed shapes, without a word between host and device at each token.

transformers' `generate` asks the device after every token whether all captions have ended, and lets its tensors grow
with the caption. Here everything has its final size from the start and the work of a step depends on nothing that the
device knows, so the steps are queued without waiting, and on a GPU recorded once (a CUDA graph) and repeated for every
batch. Whether all have ended is asked after every `STEPS_BETWEEN_CHECKS` tokens.

What is found is what `generate` finds: the greedy loop of its `_sample`, and its `_beam_search` with one end token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int64

STEPS_BETWEEN_CHECKS = 4  # on a GPU, where a check costs a wait; elsewhere it is free and made after each
NEVER = -1e9  # a score below all others, as the library has it

# Settings of generation that change nothing here, or that `SearchSettings` has.
WITHOUT_EFFECT = {
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "max_length", "max_new_tokens",
    "num_beams", "min_new_tokens", "length_penalty", "early_stopping", "do_sample", "temperature", "top_k", "top_p",
    "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "use_cache", "output_attentions", "output_hidden_states",
    "output_scores", "output_logits", "return_dict_in_generate", "transformers_version", "_from_model_config",
}  # fmt: skip
NEUTRAL = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "diversity_penalty": 0.0,
    "encoder_no_repeat_ngram_size": 0, "min_length": 0, "num_beam_groups": 1, "num_return_sequences": 1,
    "guidance_scale": 1.0,
}  # fmt: skip


class Decoder(Protocol):
    """A text decoder that is given one token of every row at a time."""

    def step(
        self, tokens: Int64[torch.Tensor, " rows"], position: int, state: Any, logits: bool
    ) -> Float[torch.Tensor, "rows words"] | None:
        """Take the tokens at `position`; returns the logits of what follows, if they are asked for."""
        ...

    def reorder(self, state: Any, rows: Int64[torch.Tensor, " rows"], length: int) -> None:
        """Let each row go on from what the row that it names has read in its first `length` positions."""
        ...


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search: what it begins with, where it ends, and how wide it is."""

    prompt: tuple[int, ...]  # tokens that every caption begins with, the start token among them
    end: int
    pad: int
    max_new_tokens: int
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    @property
    def length(self) -> int:
        """Tokens of a caption at most, prompt included."""
        return len(self.prompt) + self.max_new_tokens


def find_unsupported(settings: dict[str, Any]) -> list[str]:
    """Find the settings of a `GenerationConfig` that ask for something other than this search.

    Args:
        settings: those that differ from the library's defaults (`to_diff_dict`).
    """
    others = {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT}
    return sorted(name for name, value in others.items() if value not in (None, False, [], NEUTRAL.get(name)))


class Search(Protocol):
    """A search in progress over one batch; all its tensors keep their place and size from batch to batch."""

    state: Any

    def begin(self) -> None:
        """Forget the batch before."""
        ...

    def advance(self, position: int) -> None:
        """Read the tokens at `position` and choose those that follow."""
        ...

    def is_over(self) -> Bool[torch.Tensor, ""]:
        """Whether no further token changes a caption, on the device."""
        ...

    def found(self) -> Int64[torch.Tensor, "images tokens"]:
        """The captions with their prompt, padded at the end."""
        ...


class GreedySearch:
    """A search that takes the most probable token each time (`GenerationMixin._sample` without sampling)."""

    def __init__(self, decoder: Decoder, settings: SearchSettings, state: Any, images: int, device: torch.device):
        self.decoder, self.settings, self.state = decoder, settings, state
        self.ids = torch.empty((images, settings.length), dtype=torch.int64, device=device)
        self.ended = torch.empty(images, dtype=torch.bool, device=device)

    def begin(self) -> None:
        """Forget the batch before."""
        self.ids.fill_(self.settings.pad)
        for place, token in enumerate(self.settings.prompt):
            self.ids[:, place].fill_(token)
        self.ended.zero_()

    def advance(self, position: int) -> None:
        """Read the tokens at `position` and choose those that follow; pads after the end."""
        of_prompt = len(self.settings.prompt) - 1
        logits = self.decoder.step(self.ids[:, position], position, self.state, logits=position >= of_prompt)
        if logits is None:
            return
        if position - of_prompt < self.settings.min_new_tokens:
            logits[:, self.settings.end].fill_(-torch.inf)
        # float32 holds every value of bfloat16, so the largest is the same, with ties, without the library's conversion
        chosen = logits.argmax(dim=-1).masked_fill_(self.ended, self.settings.pad)
        self.ids[:, position + 1] = chosen
        self.ended |= chosen == self.settings.end

    def is_over(self) -> Bool[torch.Tensor, ""]:
        """Whether all have ended."""
        return self.ended.all()

    def found(self) -> Int64[torch.Tensor, "images tokens"]:
        """The captions with their prompt, padded at the end."""
        return self.ids


class BeamSearch:
    """A search that keeps several beginnings of each caption (`GenerationMixin._beam_search`, one end token)."""

    def __init__(self, decoder: Decoder, settings: SearchSettings, state: Any, images: int, device: torch.device):
        self.decoder, self.settings, self.state = decoder, settings, state
        beams = (images, settings.num_beams)
        self.running = torch.empty((*beams, settings.length), dtype=torch.int64, device=device)
        self.running_scores = torch.empty(beams, dtype=torch.float32, device=device)
        self.ended = torch.empty((*beams, settings.length), dtype=torch.int64, device=device)
        self.ended_scores = torch.empty(beams, dtype=torch.float32, device=device)
        self.is_filled = torch.empty(beams, dtype=torch.bool, device=device)
        self.is_open = torch.empty((images, 1), dtype=torch.bool, device=device)
        self._first_row = torch.arange(images, device=device)[:, None] * settings.num_beams

    def begin(self) -> None:
        """Forget the batch before: only the first beam of each counts at the first token, or all would be the same."""
        self.running.fill_(self.settings.pad or self.settings.end)  # with a pad of 0 the library fills with ends
        for place, token in enumerate(self.settings.prompt):
            self.running[:, :, place].fill_(token)
        self.ended.copy_(self.running)
        self.running_scores.fill_(NEVER)
        self.running_scores[:, 0].zero_()
        self.ended_scores.fill_(NEVER)
        self.is_filled.zero_()
        self.is_open.fill_(True)

    def advance(self, position: int) -> None:
        """Read the tokens at `position` and choose the beams that go on and those that have ended."""
        settings, beams = self.settings, self.settings.num_beams
        of_prompt = len(settings.prompt) - 1
        tokens = self.running[:, :, position].flatten()
        logits = self.decoder.step(tokens, position, self.state, logits=position >= of_prompt)
        if logits is None:
            return
        new = position - of_prompt + 1  # tokens that were found, with this one
        probable = logits.float().log_softmax(dim=-1)
        if new - 1 < settings.min_new_tokens:
            probable[:, settings.end].fill_(-torch.inf)
        words = probable.shape[1]
        sums = (probable.unflatten(0, (-1, beams)) + self.running_scores[:, :, None]).flatten(1)
        scores, places = sums.topk(2 * beams)  # should the best all end, as many are left to go on
        sources = places // words
        candidates = _take(self.running, sources)
        candidates[:, :, position + 1] = places % words
        ends = candidates[:, :, position + 1] == settings.end
        if new == settings.max_new_tokens:
            ends = torch.ones_like(ends)

        going_on = scores + ends * NEVER
        chosen = going_on.topk(beams)[1]
        self.running.copy_(_take(candidates, chosen))
        self.running_scores.copy_(going_on.gather(1, chosen))

        among_best = torch.arange(2 * beams, device=ends.device) < beams
        final = scores / new**settings.length_penalty
        if settings.early_stopping is True:
            final = final + self.is_filled.all(dim=1, keepdim=True) * NEVER
        final = final + ~self.is_open * NEVER + ~(ends & among_best) * NEVER
        scored, kept = torch.cat([self.ended_scores, final], dim=1).topk(beams)
        self.ended.copy_(_take(torch.cat([self.ended, candidates], dim=1), kept))
        self.is_filled.copy_(torch.cat([self.is_filled, ends & among_best], dim=1).gather(1, kept))
        self.ended_scores.copy_(scored)

        never = settings.early_stopping == "never" and settings.length_penalty > 0
        hoped_for = settings.max_new_tokens if never else new
        hope = self.running_scores[:, :1] / hoped_for**settings.length_penalty
        worst = torch.where(self.is_filled, self.ended_scores.min(dim=1, keepdim=True)[0], NEVER)
        self.is_open &= (hope > worst).any(dim=1, keepdim=True)

        if new < settings.max_new_tokens:
            rows = sources.gather(1, chosen) + self._first_row
            self.decoder.reorder(self.state, rows.flatten(), position + 1)

    def is_over(self) -> Bool[torch.Tensor, ""]:
        """Whether no beam that goes on can still become one of the best."""
        closed = ~self.is_open.any()
        return closed | self.is_filled.all() if self.settings.early_stopping is True else closed

    def found(self) -> Int64[torch.Tensor, "images tokens"]:
        """The best caption of each with its prompt, padded at the end."""
        return self.ended[:, 0]


def _take(
    beams: Int64[torch.Tensor, "images beams tokens"], which: Int64[torch.Tensor, "images others"]
) -> Int64[torch.Tensor, "images others tokens"]:
    return beams.gather(1, which[:, :, None].expand(-1, -1, beams.shape[2]))


def make_search(
    decoder: Decoder, settings: SearchSettings, state: Any, images: int, device: torch.device
) -> GreedySearch | BeamSearch:
    """Make the search that the settings ask for, for batches of `images`."""
    kind = GreedySearch if settings.num_beams == 1 else BeamSearch
    return kind(decoder, settings, state, images, device)


class Run:
    """The steps of a search in pieces between two checks, as they are or recorded."""

    def __init__(self, search: Search, settings: SearchSettings, device: torch.device) -> None:
        self.search, self._device = search, device
        every = STEPS_BETWEEN_CHECKS if device.type == "cuda" else 1
        last = settings.length - 1  # the last token is chosen and never read
        first = min(len(settings.prompt) - 1 + every, last)
        bounds = [0, first, *range(first + every, last, every)]
        self._spans = [
            range(start, stop) for start, stop in zip(bounds, [*bounds[1:], last], strict=True) if start < stop
        ]
        self._pieces: list[Callable[[], None]] = [lambda span=span: self._advance(span) for span in self._spans]  # type: ignore[misc]

    def record(self) -> None:
        """Record the steps as CUDA graphs: from now on a piece is one call, whatever Python is busy with.

        Raises:
            OutOfMemoryError: the device's memory does not suffice.
        """
        graphs: list[torch.cuda.CUDAGraph] = []
        with torch.cuda.device(self._device):
            pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
            for span in self._spans:
                graphs.append(torch.cuda.CUDAGraph())
                # Threads that decode pictures allocate pinned memory meanwhile, which is no part of what is recorded.
                with torch.cuda.graph(graphs[-1], pool=pool, stream=stream, capture_error_mode="thread_local"):
                    self._advance(span)
        self._pieces = [graph.replay for graph in graphs]

    def __call__(self) -> Int64[torch.Tensor, "images tokens"]:
        """Search from the beginning; what is found keeps its place, and is overwritten by the next batch."""
        self.search.begin()
        for number, piece in enumerate(self._pieces):
            piece()
            if number + 1 < len(self._pieces) and bool(self.search.is_over()):
                break
        return self.search.found()

    def _advance(self, span: range) -> None:
        for position in span:
            self.search.advance(position)
