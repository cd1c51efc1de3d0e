"""Our own BLIP loop, tiny and with random weights, against the token numbers of transformers' `generate`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.models.captioners.test_transformers import build
from tests.tiny import spread
from twinlens.models.captioners import blip, search
from twinlens.models.captioners.blip import BlipGenerator, encode_patches, read_blip_settings
from twinlens.models.captioners.search import Run, SearchSettings, find_unsupported, make_search


@pytest.fixture
def model() -> Any:
    return spread(build("blip")[0], scale=0.3)


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, 3, 32, 32), generator=torch.Generator().manual_seed(seed))


def settings_of(model: Any, max_new_tokens: int = 8, num_beams: int = 1) -> SearchSettings:
    found = read_blip_settings(model, max_new_tokens, num_beams)
    assert found is not None
    return found


def library(model: Any, seen: torch.Tensor, max_new_tokens: int = 8, num_beams: int = 1, **others: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.generate(
            pixel_values=seen, max_new_tokens=max_new_tokens, num_beams=num_beams, do_sample=False, **others
        )


def assert_same(found: torch.Tensor, wanted: torch.Tensor, settings: SearchSettings) -> None:
    """Ours are as long as a caption may be; the library's end with the longest."""
    filler = settings.pad if settings.num_beams == 1 else settings.pad or settings.end  # as the library has it
    assert found[:, : wanted.shape[1]].tolist() == wanted.tolist()
    assert bool((found[:, wanted.shape[1] :] == filler).all())


def make_end_likely(model: Any, by: float) -> None:
    with torch.no_grad():
        model.text_decoder.cls.predictions.decoder.bias[model.config.text_config.sep_token_id] += by


# ---------------------------------------------------------------- the library's numbers


@pytest.mark.parametrize("images", [1, 7])
@pytest.mark.parametrize("max_new_tokens", [1, 2, 12])
@pytest.mark.parametrize("num_beams", [1, 2, 4])
def test_tokens_are_the_librarys(images: int, max_new_tokens: int, num_beams: int, model: Any) -> None:
    settings = settings_of(model, max_new_tokens, num_beams)
    found = BlipGenerator(model, settings).generate(pixels(images))
    assert_same(found, library(model, pixels(images), max_new_tokens, num_beams), settings)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("by", [2.5, 4.0, 100.0])
def test_captions_that_end_early_are_the_librarys(by: float, num_beams: int, model: Any) -> None:
    make_end_likely(model, by)
    settings = settings_of(model, 12, num_beams)
    wanted = library(model, pixels(9), 12, num_beams)
    ended = (wanted == settings.end).any(dim=1)
    assert bool(ended.all()) if by == 100.0 else bool(ended.any())
    assert_same(BlipGenerator(model, settings).generate(pixels(9)), wanted, settings)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_prompt_goes_before(num_beams: int, model: Any) -> None:
    plain = settings_of(model, 6, num_beams)
    (start,) = plain.prompt
    settings = replace(plain, prompt=(start, 7, 9))
    asked = torch.tensor([[start, 7, 9, plain.end]]).repeat(5, 1)
    found = BlipGenerator(model, settings).generate(pixels(5))
    assert_same(found, library(model, pixels(5), 6, num_beams, input_ids=asked), settings)
    assert found[:, :3].tolist() == [[start, 7, 9]] * 5


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_end_comes_not_before_the_fewest_tokens(num_beams: int, model: Any) -> None:
    make_end_likely(model, 100.0)
    model.text_decoder.generation_config.min_new_tokens = 4
    settings = settings_of(model, 8, num_beams)
    found = BlipGenerator(model, settings).generate(pixels(5))
    assert_same(found, library(model, pixels(5), 8, num_beams), settings)
    assert {row.index(settings.end) for row in found.tolist()} == {5}  # start, four tokens, end


@pytest.mark.parametrize("length_penalty", [0.0, 2.0, -1.0])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_beams_are_weighed_as_the_model_says(length_penalty: float, early_stopping: Any, model: Any) -> None:
    make_end_likely(model, 3.0)
    generation = model.text_decoder.generation_config
    generation.length_penalty, generation.early_stopping = length_penalty, early_stopping
    settings = settings_of(model, 8, 3)
    assert (settings.length_penalty, settings.early_stopping) == (length_penalty, early_stopping)
    assert_same(BlipGenerator(model, settings).generate(pixels(6)), library(model, pixels(6), 8, 3), settings)


def test_a_batch_leaves_nothing_to_the_next_of_its_size_or_another(model: Any) -> None:
    make_end_likely(model, 2.5)
    for num_beams in (1, 3):
        settings = settings_of(model, 8, num_beams)
        generator = BlipGenerator(model, settings)
        for count, seed in [(4, 0), (4, 1), (3, 2), (4, 3)]:
            seen = pixels(count, seed)
            assert_same(generator.generate(seen), library(model, seen, 8, num_beams), settings)


def test_patches_are_the_librarys(model: Any) -> None:
    with torch.inference_mode():
        wanted, found = model.vision_model(pixels(3))[0], encode_patches(model.vision_model, pixels(3))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_padded_patches_are_not_attended_to(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU patches are padded to a multiple of eight; five of them here."""

    class Padded(blip.BlipState):
        def __init__(self, *others: Any) -> None:
            super().__init__(*others)
            self.patches = torch.cat([self.patches, torch.zeros_like(self.patches[:, :3])], dim=1)

    monkeypatch.setattr(blip, "BlipState", Padded)
    settings = settings_of(model)
    assert_same(BlipGenerator(model, settings).generate(pixels(4)), library(model, pixels(4)), settings)


def test_bfloat16_is_no_further_from_float32_than_the_librarys(model: Any) -> None:
    """Words may differ where two are nearly as probable, so the logits of the first token are compared."""
    short = copy.deepcopy(model).bfloat16()
    seen, start = pixels(64), model.config.text_config.bos_token_id
    tokens = torch.full((64, 1), start)

    def library_logits(chosen: Any, images: torch.Tensor) -> torch.Tensor:
        patches = chosen.vision_model(pixel_values=images)[0]
        return chosen.text_decoder(input_ids=tokens, encoder_hidden_states=patches).logits[:, -1].float()

    with torch.no_grad():
        exact, theirs = library_logits(model, seen), library_logits(short, seen.bfloat16())
        patches, decoder = encode_patches(short.vision_model, seen.bfloat16()), blip.BlipDecoder(short.text_decoder)
        state = blip.BlipState(decoder, patches, settings_of(short))
        state.load(patches)
        logits = decoder.step(tokens[:, 0], 0, state, logits=True)
    assert logits is not None
    faults = [(found - exact).pow(2).mean().sqrt().item() for found in (logits.float(), theirs)]
    assert faults[0] < 1.25 * faults[1]
    assert faults[1] > 0


# ---------------------------------------------------------------- what is asked of the device


@contextmanager
def counted(patch: pytest.MonkeyPatch, owner: Any, name: str) -> Iterator[list[None]]:
    calls: list[None] = []
    original = getattr(owner, name)

    def count(*others: Any, **named: Any) -> Any:
        calls.append(None)
        return original(*others, **named)

    with patch.context() as inner:
        inner.setattr(owner, name, count)
        yield calls


def test_attention_among_patches_is_fused_and_no_layer_maps_them(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = BlipGenerator(model, settings_of(model, 5))
    mapped = [map for layer in model.text_decoder.bert.encoder.layer for map in (
        layer.crossattention.self.key, layer.crossattention.self.value)]  # fmt: skip
    for linear in mapped:
        linear.register_forward_hook(lambda *others: pytest.fail("keys or values of patches were computed"))
    with counted(monkeypatch, functional, "scaled_dot_product_attention") as calls:
        generator.generate(pixels(4))
    assert len(calls) == 2 + 5 * 2  # layers of the tower, and tokens times layers of the decoder


def test_steps_end_with_the_last_caption(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_end_likely(model, 100.0)
    generator = BlipGenerator(model, settings_of(model, 12))
    with counted(monkeypatch, generator.decoder, "step") as steps:
        generator.generate(pixels(4))
    assert len(steps) == 1


@pytest.mark.parametrize(("max_new_tokens", "checks"), [(1, 0), (4, 0), (5, 1), (20, 4), (30, 7)])
def test_a_gpu_is_asked_once_in_four_tokens_whether_all_have_ended(
    max_new_tokens: int, checks: int, model: Any
) -> None:
    settings = replace(settings_of(model), max_new_tokens=max_new_tokens)
    found: list[int] = []

    class Steps:
        def begin(self) -> None: ...

        def advance(self, position: int) -> None:
            found.append(position)

        def is_over(self) -> torch.Tensor:
            asked.append(len(found))
            return torch.tensor(False)

        def found(self) -> torch.Tensor:
            return torch.tensor(found)

    asked: list[int] = []
    Run(Steps(), settings, torch.device("cuda"))()  # type: ignore[arg-type]
    assert found == list(range(max_new_tokens))  # the last token is chosen and not read
    assert len(asked) == checks
    assert asked == [search.STEPS_BETWEEN_CHECKS * (n + 1) for n in range(checks)]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_tensors_keep_their_place_from_batch_to_batch(num_beams: int, model: Any) -> None:
    """As a recorded graph reads and writes where it did when it was recorded."""
    settings = settings_of(model, 6, num_beams)
    generator = BlipGenerator(model, settings)
    generator.generate(pixels(4))
    (batch,) = generator._runs.values()

    def places() -> dict[str, int]:
        owners = {**vars(batch.state), **vars(batch.run.search)}
        tensors = {name: value for name, value in owners.items() if isinstance(value, torch.Tensor)}
        tensors |= {f"keys-{n}": keys for n, keys in enumerate(batch.state.keys)}
        return {name: tensor.data_ptr() for name, tensor in tensors.items()}

    before = places()
    generator.generate(pixels(4, seed=1))
    assert places() == before


@pytest.mark.gpu
@pytest.mark.parametrize("num_beams", [1, 3])
def test_recorded_steps_give_the_tokens_of_those_that_are_not(num_beams: int, model: Any) -> None:
    device = torch.device("cuda")
    settings, there = settings_of(model, 12, num_beams), model.to(device)
    plain, recorded = BlipGenerator(there, settings), BlipGenerator(there, settings)
    recorded.expect(6)
    for seed in range(4):
        seen = pixels(6, seed).to(device)
        assert recorded.generate(seen).tolist() == plain.generate(seen).tolist()
    assert next(iter(recorded._runs.values())).is_recorded


# ---------------------------------------------------------------- what is left to the library


@pytest.mark.parametrize(
    ("setting", "value"),
    [("repetition_penalty", 1.3), ("no_repeat_ngram_size", 2), ("min_length", 5), ("bad_words_ids", [[7]])],
)
def test_a_model_that_asks_for_more_than_a_search_is_left_to_the_library(setting: str, value: Any, model: Any) -> None:
    setattr(model.text_decoder.generation_config, setting, value)
    assert find_unsupported(model.text_decoder.generation_config.to_diff_dict()) == [setting]
    assert read_blip_settings(model, 8, 1) is None


def test_settings_that_ask_for_nothing_are_none(model: Any) -> None:
    generation = model.text_decoder.generation_config
    generation.repetition_penalty, generation.min_length, generation.temperature = 1.0, 0, 0.7
    assert read_blip_settings(model, 8, 1) is not None


def test_more_tokens_than_the_model_has_places_for_are_left_to_the_library(model: Any) -> None:
    places = model.config.text_config.max_position_embeddings
    assert read_blip_settings(model, places - 1, 1) is not None
    assert read_blip_settings(model, places, 1) is None


def test_one_beam_is_greedy(model: Any) -> None:
    settings = settings_of(model)
    kinds = {beams: type(make_search(None, replace(settings, num_beams=beams), None, 2, torch.device("cpu"))).__name__  # type: ignore[arg-type]
             for beams in (1, 2)}  # fmt: skip
    assert kinds == {1: "GreedySearch", 2: "BeamSearch"}
