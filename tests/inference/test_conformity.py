"""Drawn pictures and texts by our path and by the libraries' own: clean ones agree, and planted faults are seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm.utils as timm_utils
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file, save_file
from tokenizers.normalizers import NFC

from tests.models import jina_published
from tests.models.encoders import (
    test_jina_clip,
    test_open_clip,
    test_sentence_transformers,
    test_timm,
    test_transformers,
)
from tests.tiny import CPU
from twinlens.config.base import CardRemarks, GoldenVectors
from twinlens.config.load import read_params
from twinlens.config.models import Tower, WordVectorsTower
from twinlens.config.params import ComputeParams
from twinlens.core.costs import Cost
from twinlens.images import transforms
from twinlens.inference.conformity import (
    PICTURES,
    TEXTS,
    Comparison,
    compute_golden,
    count_untouched_norms,
    inspect_tower,
    needs_inspection,
)
from twinlens.inference.tower import TowerJob
from twinlens.models import encoders
from twinlens.models.encoders import jina_clip, open_clip, timm, transformers
from twinlens.models.encoders.base import TokenizedTexts, normalise_pixels

COMPUTE = ComputeParams(device="cpu", decode_threads=1, image_batch=None, text_batch=None)
Patch = pytest.MonkeyPatch


def write_open_clip(folder: Path) -> Tower:
    test_open_clip.write_folder(folder)
    return test_open_clip.custom(folder)


def write_siglip_of_open_clip(folder: Path) -> Tower:
    """A tower whose texts are lower-cased and lose their punctuation, by a tokenizer that would keep both."""
    test_open_clip.write_folder(
        folder,
        no_causal_mask=True,
        pool_type="last",
        proj_bias=True,
        tokenizer_kwargs={"clean": "canonicalize"},
    )
    keep_capitals(folder)
    return test_open_clip.custom(folder)


def keep_capitals(folder: Path) -> None:
    words = test_transformers.words_of(folder)
    words.backend_tokenizer.normalizer = NFC()
    words.save_pretrained(folder)


def write_clip(folder: Path) -> Tower:
    test_transformers.save_clip(folder)
    return test_transformers.card(folder)


def write_siglip(folder: Path) -> Tower:
    test_transformers.save_siglip(folder)
    return test_transformers.card(folder)


def write_metaclip2(folder: Path) -> Tower:
    test_transformers.save_metaclip2(folder)
    return test_transformers.card(folder)


def write_tipsv2(folder: Path) -> Tower:
    test_transformers.save_tipsv2(folder)
    return test_transformers.card(folder)


def write_chinese_clip(folder: Path) -> Tower:
    test_transformers.save_chinese_clip(folder)
    return test_transformers.card(folder)


def write_bert(folder: Path) -> Tower:
    test_transformers.save_bert(folder)
    return test_transformers.card(folder, pooling="mean")


def write_cased_bert(folder: Path) -> Tower:
    """A text model to which capitals are other words: those of the texts that it knows are small."""
    tower = write_bert(folder)
    keep_capitals(folder)
    return tower


def write_timm(folder: Path) -> Tower:
    return test_timm.save("test_vit", folder)


def write_foldable(folder: Path) -> Tower:
    """Blocks of MobileCLIP's kind: branches that become one convolution."""
    return test_timm.save("fastvit_t8", folder, layers=[1, 1, 1, 1], embed_dims=[16, 32, 64, 128])


def write_sentences(folder: Path) -> Tower:
    return test_sentence_transformers.card(test_sentence_transformers.save(folder))


def write_jina_clip(folder: Path) -> Tower:
    jina_published.save(folder)
    return test_jina_clip.card(folder, prompt="there is ", dimensions=24)


KINDS: dict[str, Callable[[Path], Tower]] = {
    "open_clip": write_open_clip,
    "siglip of open_clip": write_siglip_of_open_clip,
    "clip": write_clip,
    "siglip": write_siglip,
    "metaclip2": write_metaclip2,
    "tipsv2": write_tipsv2,
    "chinese clip": write_chinese_clip,
    "bert": write_bert,
    "cased bert": write_cased_bert,
    "timm": write_timm,
    "foldable": write_foldable,
    "sentences": write_sentences,
    "jina_clip": write_jina_clip,
}


def job(tower: Tower) -> TowerJob:
    return TowerJob(tower, encoders.locate(tower), CPU, COMPUTE, Cost())


def compared(done: TowerJob) -> dict[str, Comparison]:
    return {one.kind: one for one in inspect_tower(done, (PICTURES, TEXTS)).comparisons}


def troubles(done: TowerJob) -> list[str]:
    """What is wrong with how a tower is fed."""
    found = inspect_tower(done, (PICTURES, TEXTS)).troubles(done)
    return [trouble for gate, trouble in found if gate == "conformity" and trouble is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tower_that_is_fed_rightly_gives_the_librarys_own_vectors(kind: str, tmp_path: Path) -> None:
    done = job(KINDS[kind](tmp_path))
    assert troubles(done) == []
    found = compared(done)
    reads = {"timm": {PICTURES}, "foldable": {PICTURES}, "bert": {TEXTS}, "cased bert": {TEXTS}, "sentences": {TEXTS}}
    assert set(found) == reads.get(kind, {PICTURES, TEXTS})
    for one in found.values():
        assert len(one.apart) == len(one.names) > 5
        assert one.spread > 1e-6  # or it would say nothing
        assert max(one.apart) < 1e-5


# ------------------------------------------------------------------ pixels


def swap_channels(patch: Patch) -> None:
    right = transforms.decode_and_fit
    patch.setattr(transforms, "decode_and_fit", lambda jpeg, spec: right(jpeg, spec).flip(0))


def forget_mean_and_deviation(patch: Patch) -> None:
    for module in (open_clip, timm, transformers, jina_clip):
        patch.setattr(module, "normalise_pixels", lambda pictures, spec, placement: pictures.float() / 255)


def forget_deviation(patch: Patch) -> None:
    right = normalise_pixels

    def plain(pictures: torch.Tensor, spec: Any, placement: Any) -> torch.Tensor:
        return right(pictures, replace(spec, std=(1.0, 1.0, 1.0)), placement)

    for module in (open_clip, timm, transformers, jina_clip):
        patch.setattr(module, "normalise_pixels", plain)


def crop_for_squash(patch: Patch) -> None:
    """And the other way round."""
    right = transforms.fit_picture
    other = {"squash": "shortest", "shortest": "squash"}
    patch.setattr(transforms, "fit_picture", lambda picture, spec: right(picture, replace(spec, mode=other[spec.mode])))


def leave_out_antialias(patch: Patch) -> None:
    def plain(picture: torch.Tensor, height: int, width: int, interpolation: str = "bicubic") -> torch.Tensor:
        found = torch.nn.functional.interpolate(picture[None].float(), size=(height, width), mode=interpolation)
        return found[0].round().clamp(0, 255).to(torch.uint8)

    right = transforms.fit_picture
    patch.setattr(transforms, "fit_picture", lambda picture, spec: right(picture, spec, plain))


def interpolate_otherwise(patch: Patch) -> None:
    right, other = transforms.fit_picture, {"bicubic": "bilinear", "bilinear": "bicubic"}
    patch.setattr(
        transforms,
        "fit_picture",
        lambda picture, spec: right(picture, replace(spec, interpolation=other[spec.interpolation])),
    )


def enlarge_from_half(patch: Patch) -> None:
    """A copy of the pictures at half the resolution that the model reads."""
    right = transforms.fit_picture

    def small(picture: torch.Tensor, spec: Any) -> torch.Tensor:
        fitted = right(picture, spec)
        half = torch.nn.functional.avg_pool2d(fitted[None].float(), 2)
        return torch.nn.functional.interpolate(half, scale_factor=2.0)[0].round().to(torch.uint8)

    patch.setattr(transforms, "fit_picture", small)


def crop_less(patch: Patch) -> None:
    """Or more: the picture is scaled to a quarter more than the model's size, and its middle kept."""
    right = transforms.fit_picture
    patch.setattr(
        transforms,
        "fit_picture",
        lambda picture, spec: right(picture, replace(spec, resize_px=(spec.resize_px or spec.height) * 5 // 4)),
    )


PIXEL_FAULTS = [
    *(swap_channels, forget_mean_and_deviation, forget_deviation, crop_for_squash, crop_less),
    *(leave_out_antialias, interpolate_otherwise, enlarge_from_half),
]


@pytest.mark.parametrize("kind", ["open_clip", "clip", "siglip", "timm", "jina_clip"])
@pytest.mark.parametrize("plant", PIXEL_FAULTS)
def test_pixels_that_are_fed_wrongly_are_seen(
    kind: str, plant: Callable[[Patch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = job(KINDS[kind](tmp_path))
    plant(monkeypatch)
    (told,) = troubles(done)
    assert "drawn pictures have other vectors by our path than by" in told
    assert "the order of channels, mean and deviation, crop or squash, and the interpolation" in told


# ------------------------------------------------------------------ words


def read_one_token_early(patch: Patch) -> None:
    def early(x: torch.Tensor, text: torch.Tensor, pool_type: str, eos_token_id: int | None = None) -> torch.Tensor:
        return x[torch.arange(len(x)), text.argmax(dim=-1) - 1]

    patch.setattr(open_clip, "text_global_pool", early)


def forget_the_mask(patch: Patch) -> None:
    right = transformers.PooledText.encode_tokens

    def unmasked(self: Any, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        return right(self, tokens | {"attention_mask": torch.ones_like(tokens["input_ids"])})

    patch.setattr(transformers.PooledText, "encode_tokens", unmasked)


def pad_to_the_longest(patch: Patch) -> None:
    right, encode = transformers._Tokens.tokenize, transformers._Text.encode_tokens

    def shorter(self: Any, texts: Sequence[str]) -> TokenizedTexts:
        self.siglip = False
        return right(self, texts)

    patch.setattr(transformers._Tokens, "tokenize", shorter)
    patch.setattr(
        transformers._Text, "encode_tokens", lambda self, tokens: encode(self, {"input_ids": tokens["input_ids"]})
    )


def write_small(patch: Patch) -> None:
    right = transformers._Tokens.tokenize
    patch.setattr(transformers._Tokens, "tokenize", lambda self, texts: right(self, [text.lower() for text in texts]))


def cut_too_early(patch: Patch) -> None:
    right = transformers._Tokens.tokenize

    def cut(self: Any, texts: Sequence[str]) -> TokenizedTexts:
        self.max_tokens -= 4
        found = right(self, texts)
        self.max_tokens += 4
        return found

    patch.setattr(transformers._Tokens, "tokenize", cut)


@pytest.mark.parametrize(
    ("kind", "plant"),
    [
        ("open_clip", read_one_token_early),
        ("bert", forget_the_mask),
        ("bert", cut_too_early),
        ("clip", cut_too_early),
        ("siglip", pad_to_the_longest),
        ("cased bert", write_small),
    ],
)
def test_texts_that_are_fed_wrongly_are_seen(
    kind: str, plant: Callable[[Patch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = job(KINDS[kind](tmp_path))
    plant(monkeypatch)
    (told,) = troubles(done)
    assert "drawn texts have other vectors by our path than by" in told
    assert "capitals, special tokens, padding and its mask" in told


def test_a_prompt_that_is_left_out_and_capitals_that_are_lost_are_seen(tmp_path: Path) -> None:
    folder = test_sentence_transformers.save(tmp_path)
    done = job(test_sentence_transformers.card(folder, prompt="there is "))
    text: Any = done.loaded.text
    text.prompt = ""
    (told,) = troubles(done)
    assert "someone/tiny: 7 of 7 drawn texts have other vectors by our path than by sentence-transformers's own" in told


def test_a_prompt_that_a_text_tower_of_transformers_leaves_out_is_seen(tmp_path: Path) -> None:
    test_transformers.save_bert(tmp_path)
    done = job(test_transformers.card(tmp_path, pooling="mean", prompt="there is "))
    text: Any = done.loaded.text
    text.prompt = ""
    (told,) = troubles(done)
    assert "7 of 7 drawn texts have other vectors" in told


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (str, "capitals"),
        (lambda text: clean_text(text, keep_capitals=True), "capitals"),
        (str.lower, "punctuation"),
    ],
    ids=["as it is", "capitals kept", "punctuation kept"],
)
def test_text_that_is_not_brought_to_the_canonical_form_is_seen(
    fault: Callable[[str], str], seen: str, tmp_path: Path
) -> None:
    done = job(write_siglip_of_open_clip(tmp_path))
    text: Any = done.loaded.text
    text.tokenizer.clean_fn = fault
    (told,) = troubles(done)
    assert "drawn texts have other vectors by our path than by open_clip's own" in told
    one = compared(done)[TEXTS]
    assert one.apart[one.names.index(seen)] > 1e-4


def clean_text(text: str, keep_capitals: bool) -> str:
    clean = "".join(sign for sign in text if sign.isalnum() or sign.isspace())
    return clean if keep_capitals else clean.lower()


def test_an_architecture_with_another_gelu_is_seen(tmp_path: Path) -> None:
    done = job(write_open_clip(tmp_path))
    model: Any = done.loaded.image.model  # type: ignore[union-attr]
    for block in model.transformer.resblocks:
        block.mlp.gelu = QuickGELU()
    (told,) = troubles(done)  # the towers share nothing: pictures go as before
    assert "drawn texts have other vectors by our path than by open_clip's own" in told
    for block in model.visual.transformer.resblocks:
        block.mlp.gelu = QuickGELU()
    assert isinstance(model.transformer.resblocks[0].mlp.gelu, QuickGELU)  # as it was before it was looked at


def test_blocks_that_are_folded_wrongly_are_seen(tmp_path: Path, monkeypatch: Patch) -> None:
    tower = write_foldable(tmp_path)
    right = timm_utils.reparameterize_model

    def forget_a_scale(model: Any, inplace: bool) -> Any:
        right(model, inplace=inplace)
        model.stem[0].reparam_conv.weight.data *= 1.5

    monkeypatch.setattr(timm_utils, "reparameterize_model", forget_a_scale)
    (told,) = troubles(job(tower))
    assert "drawn pictures have other vectors by our path than by timm's own" in told


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_a_model_that_puts_everything_close_together_is_judged_by_what_it_tells_apart(noise: float) -> None:
    apart = [noise, 1e-9, 1e-9]
    one = Comparison(PICTURES, "exact", "timm", ["a", "b", "c"], apart, spread=1e-3, golden=[0.1])
    assert (one.trouble("some") is None) is (noise == 0)
    rounded = replace(one, precision="rounded")
    assert rounded.trouble("some") is None  # what bfloat16 makes of equal vectors
    assert replace(rounded, apart=[0.03, 0, 0], spread=0.5).trouble("some") is not None


def test_vectors_that_are_nan_are_no_agreement() -> None:
    one = Comparison(TEXTS, "exact", "timm", ["a", "b"], [float("nan"), 0.0], spread=0.5, golden=[0.1])
    assert one.trouble("some") is not None


def test_a_tower_is_looked_at_once(tmp_path: Path) -> None:
    tower = write_clip(tmp_path / "clip")
    first, second, pictures = job(tower), job(tower), job(tower)
    found = inspect_tower(first, (PICTURES, TEXTS))
    assert inspect_tower(second, (PICTURES, TEXTS)) == found
    assert "loaded" in vars(first.worker)
    assert "loaded" not in vars(second.worker)
    assert [one.kind for one in inspect_tower(pictures, (PICTURES,)).comparisons] == [PICTURES]


def test_families_whose_library_has_no_path_of_its_own_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "words.vec").write_text("2 3\na 1 2 3\ndog 3 2 1\n", encoding="utf-8")
    tower = WordVectorsTower(word_vectors=str(tmp_path / "words.vec"))
    assert not needs_inspection(job(tower))
    assert needs_inspection(job(tower.model_copy(update={"about": CardRemarks(golden=GoldenVectors(texts=(0.1,)))})))


# ------------------------------------------------------------------ weights


def remember(tower: Tower, role: str = "joint") -> Tower:
    """The tower with what its card can remember of its weights."""
    golden = compute_golden(role, tower, CPU, COMPUTE)
    assert golden is not None
    return tower.model_copy(update={"about": CardRemarks(golden=golden)})


def found_by(gate: str, done: TowerJob) -> list[str]:
    found = inspect_tower(done, (PICTURES, TEXTS)).troubles(done)
    return [trouble for name, trouble in found if name == gate and trouble is not None]


@pytest.mark.parametrize("kind", ["open_clip", "clip", "timm", "bert"])
def test_another_checkpoint_under_the_same_name_is_seen(kind: str, tmp_path: Path) -> None:
    tower = remember(KINDS[kind](tmp_path / "weights"), {"timm": "image", "bert": "text"}.get(kind, "joint"))
    assert found_by("golden", job(tower)) == []
    (path,) = (tmp_path / "weights").glob("*model.safetensors")
    draw = torch.Generator().manual_seed(1)
    moved = {name: value + 0.1 * torch.randn(value.shape, generator=draw) for name, value in load_file(path).items()}
    save_file(moved, path, metadata={"format": "pt"})
    told = found_by("golden", job(tower))
    assert len(told) == len(tower.about.golden.model_dump(exclude_none=True))  # type: ignore[union-attr]
    assert "the card remembers" in told[0]
    assert "other weights under the same name" in told[0]


def test_golden_vectors_bear_the_rounding_of_a_card_and_not_another_number_of_them() -> None:
    kept = [0.0312, -0.0117, 0.0005, 0.0881, -0.0404, 0.0009, 0.0102]
    one = Comparison(PICTURES, "exact", None, ["a"], [], spread=0.5, golden=kept)
    assert one.golden_trouble("some", [round(number, 5) + 4e-6 for number in kept]) is None
    assert one.golden_trouble("some", [number * 1.1 for number in kept]) is not None
    assert one.golden_trouble("some", kept[:3]) is not None
    assert replace(one, precision="rounded").golden_trouble("some", [number * 1.1 for number in kept]) is None


def test_a_model_as_it_was_made_is_told_from_one_that_was_trained() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.BatchNorm1d(4))
    assert count_untouched_norms(model) == 2
    assert count_untouched_norms(torch.nn.Linear(4, 4)) == 0  # nothing to tell by
    model.train()(torch.randn(8, 4))  # statistics of a batch norm
    assert count_untouched_norms(model) == 0
    norm = torch.nn.LayerNorm(4)
    assert count_untouched_norms(torch.nn.Sequential(norm, torch.nn.LayerNorm(4))) == 2
    torch.nn.init.constant_(norm.bias, 1e-3)
    assert count_untouched_norms(torch.nn.Sequential(norm, torch.nn.LayerNorm(4))) == 0


def test_random_weights_in_a_checkpoint_are_told(tmp_path: Path) -> None:
    (told,) = found_by("no_better_than_random", job(write_clip(tmp_path)))
    assert "all 11 norms of the model have the scale 1 and the shift 0" in told
    path = tmp_path / "model.safetensors"
    moved = {name: value + 0.01 if "norm" in name else value for name, value in load_file(path).items()}
    save_file(moved, path, metadata={"format": "pt"})
    assert found_by("no_better_than_random", job(write_clip(tmp_path / "same"))) != []
    assert found_by("no_better_than_random", job(test_transformers.card(tmp_path))) == []


# ------------------------------------------------------------------ real ones


def test_a_real_image_tower_and_its_golden_vectors_pass(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINLENS_WEIGHTS", str(shared_data / "weights"))
    tower = read_params().models["mobilenetv2-minilm-files"].image
    assert tower is not None and tower.about.golden is not None
    done = job(tower)
    assert [told for _, told in inspect_tower(done, (PICTURES,)).troubles(done) if told is not None] == []
    (one,) = inspect_tower(done, (PICTURES,)).comparisons
    assert max(one.apart) < 1e-4
    assert one.spread > 0.1


@pytest.mark.skipif(test_sentence_transformers.minilm() is None, reason="no MiniLM here: name it as TWINLENS_MINILM")
def test_a_real_text_tower_and_its_golden_vectors_pass() -> None:
    tower = read_params().models["minilm"].text
    assert tower is not None and tower.about.golden is not None
    done = job(tower.model_copy(update={"checkpoint": str(test_sentence_transformers.minilm()), "revision": None}))
    assert [told for _, told in inspect_tower(done, (TEXTS,)).troubles(done) if told is not None] == []
