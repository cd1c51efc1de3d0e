from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from tests.tiny import CPU, TEXTS, photo, photos, spread, tokenizer, write_json
from twinlens.config.models import OpenClipTower
from twinlens.core.errors import DataError, ParamsError
from twinlens.images.transforms import fit_picture, to_tensor
from twinlens.models import encoders
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.models.encoders.open_clip import encode_text, read_pixel_spec, wrap

LENGTH = 20
VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
PREPROCESS = {
    "size": [32, 32],
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def architecture(**text: Any) -> dict[str, Any]:
    words = {"context_length": LENGTH, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2} | text
    return {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": words}


def numbers(*lengths: int, end: int = 49) -> torch.Tensor:
    """Texts of given lengths as an open_clip tokenizer gives them: words, the end token, padding."""
    tokens = torch.zeros(len(lengths), LENGTH, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(1, 49, (length,), generator=generator)
        tokens[row, length] = end
    return tokens


def positions_computed(model: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, int]:
    """What `encode_text` gives, and how many positions of each text went through the transformer."""
    lengths: list[int] = []
    transformer = getattr(model, "transformer", None) or model.text.transformer
    handle = transformer.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    with torch.inference_mode():
        vectors = encode_text(model, tokens)
    handle.remove()
    assert len(lengths) == 1
    return vectors, lengths[0]


@pytest.mark.parametrize("pooling", ["argmax", "eos"])
@pytest.mark.parametrize("longest", [3, 11, LENGTH - 1])
def test_a_clip_text_cut_to_the_longest_of_its_batch_has_the_vector_of_full_padding(pooling: str, longest: int) -> None:
    model = spread(CLIP(**architecture(pool_type=pooling, eos_id=49)))
    tokens = numbers(1, longest, 2)
    vectors, computed = positions_computed(model, tokens)
    with torch.inference_mode():
        whole = model.encode_text(tokens)
    assert computed == longest + 1
    assert (vectors - whole).abs().max() < 1e-5
    assert (whole[0] - whole[1]).abs().max() > 1e-2  # the texts differ, so the comparison says something


def test_the_end_token_may_be_any_number_where_the_pooling_looks_for_it() -> None:
    model = spread(CLIP(**architecture(pool_type="eos", eos_id=7)))
    tokens = numbers(5, 2, end=7).where(numbers(5, 2) != 7, 8)  # no 7 among the words
    tokens[0, 5], tokens[1, 2] = 7, 7
    vectors, computed = positions_computed(model, tokens)
    assert computed == 6
    with torch.inference_mode():
        assert (vectors - model.encode_text(tokens)).abs().max() < 1e-5


@pytest.mark.parametrize("custom_text", [False, True])
def test_a_text_tower_of_the_siglip_kind_is_never_cut(custom_text: bool) -> None:
    config = architecture(no_causal_mask=True, pool_type="last", proj_bias=True)
    kind = open_clip.model.CustomTextCLIP if custom_text else CLIP
    model = spread(kind(**config, init_logit_bias=-10.0))
    tokens = numbers(2, 3)
    vectors, computed = positions_computed(model, tokens)
    with torch.inference_mode():
        whole = model.encode_text(tokens)
    assert computed == LENGTH
    assert torch.equal(vectors, whole)


@pytest.mark.parametrize(
    ("name", "tag"), [("ViT-B-32", "laion2b_s34b_b79k"), ("ViT-B-16-SigLIP", "webli"), ("ViT-B-32", "openai")]
)
@pytest.mark.parametrize(("width", "height"), [(400, 300), (260, 512), (224, 224), (150, 120)])
def test_a_picture_is_fitted_as_open_clip_does_it(name: str, tag: str, width: int, height: int) -> None:
    size = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    known = get_pretrained_cfg(name, tag)
    config = {"size": size} | {key: known[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    picture = photo(0, width, height)
    theirs = image_transform_v2(PreprocessCfg(**config), is_train=False)(Image.fromarray(picture))
    spec = read_pixel_spec(config)
    ours = fit_picture(to_tensor(picture), spec)
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    apart = ((theirs * std + mean) * 255 - ours).abs()  # in grey levels
    assert apart.max() < 2.01
    assert (apart > 1.01).float().mean() < 1e-4
    assert spec.mean == pytest.approx(known["mean"])
    assert spec.std == pytest.approx(known["std"])


# ---------------------------------------------------------------- folders


def write_folder(folder: Path, seed: int = 0, **text: Any) -> Any:
    """A tiny CLIP in open_clip's own layout, as `training.contrastive` writes it; returns the model."""
    words = tokenizer()
    config = architecture(vocab_size=len(words), hf_tokenizer_name="beside the weights", **text)
    model = spread(CLIP(**copy.deepcopy(config)), seed)
    write_json({"model_cfg": config, "preprocess_cfg": PREPROCESS}, folder / "open_clip_config.json")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    words.save_pretrained(folder)
    return model


def custom(folder: Path) -> OpenClipTower:
    return OpenClipTower(open_clip="custom", architecture={}, checkpoint=str(folder))


def loaded(folder: Path) -> LoadedEncoders:
    return encoders.load(custom(folder), encoders.locate(custom(folder)), CPU)


def test_a_folder_in_open_clips_layout_gives_the_vectors_of_the_model_that_was_saved(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "weights")
    towers = loaded(tmp_path / "weights")
    assert towers.image is not None and towers.text is not None
    words = tokenizer()(TEXTS, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    with torch.inference_mode():
        assert (towers.text.encode(TEXTS) - model.encode_text(words)).abs().max() < 1e-5
        pixels = photos(3, 32) / 127.5 - 1
        assert (towers.image.encode(photos(3, 32)) - model.encode_image(pixels)).abs().max() < 1e-5
    assert (towers.image.pixels.height, towers.image.pixels.mode) == (32, "squash")


def test_a_folder_without_weights_is_refused_rather_than_filled_with_random_ones(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(DataError, match=r"holds no weights; looked for open_clip_model.safetensors"):
        loaded(tmp_path)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(DataError, match="does not hold the weights of custom"):
        loaded(tmp_path)


def damage(how: str, path: Path) -> None:
    if how == "of another size":
        save_file(CLIP(**architecture(vocab_size=30, width=16)).state_dict(), path)
    elif how == "incomplete":
        state = CLIP(**architecture(vocab_size=len(tokenizer()))).state_dict()
        save_file({name: value for name, value in state.items() if name != "ln_final.weight"}, path)
    else:
        path.write_bytes(path.read_bytes()[:1000] if how == "cut short" else b"a web page about weights")


@pytest.mark.parametrize("how", ["of another size", "incomplete", "cut short", "something else"])
def test_weights_that_do_not_fit_are_refused(how: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    damage(how, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(DataError, match="does not hold the weights of custom"):
        loaded(tmp_path)


def test_the_checkpoint_of_a_custom_architecture_is_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(ParamsError, match="is a folder in open_clip's own layout"):
        encoders.locate(custom(tmp_path / "open_clip_model.safetensors"))


def test_tokens_are_counted_before_a_text_is_cut_and_what_is_cut_changes_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path)
    text = loaded(tmp_path).text
    assert text is not None
    long = "a dog and " * 30
    assert text.max_tokens == LENGTH
    assert text.token_counts(["a dog", long]) == [4, 92]  # start and end count
    with torch.inference_mode():
        assert torch.equal(text.encode([long]), text.encode([long + "a house"]))
        assert not torch.allclose(text.encode([long]), text.encode(["a dog"]))


def test_clips_own_tokenizer_counts_its_tokens_and_cuts_at_its_length() -> None:
    config = architecture(context_length=77, vocab_size=49408)
    model = spread(CLIP(**config))
    open_clip.model.set_model_preprocess_cfg(model, PREPROCESS)
    text = wrap(model, open_clip.get_tokenizer("ViT-B-32"), CPU).text
    assert text is not None
    long = "a dog " * 60
    assert text.max_tokens == 77
    assert text.token_counts(["a dog", "", long]) == [4, 2, 122]
    with torch.inference_mode():
        assert torch.equal(text.encode([long]), text.encode([long + "in the snow"]))


# ---------------------------------------------------------------- names and tags


@pytest.fixture
def tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> str:
    """`tiny-clip`, an architecture of open_clip's with two tags, as far as open_clip knows."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-clip", architecture())
    squash = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    monkeypatch.setitem(
        open_clip.pretrained._PRETRAINED,
        "tiny-clip",
        {"webli": {"hf_hub": "timm/tiny/"} | squash, "quick": {"quick_gelu": True}},
    )
    return "tiny-clip"


def test_an_unknown_architecture_is_refused_with_the_nearest() -> None:
    with pytest.raises(ParamsError, match=r"open_clip has no 'ViT-B-23' .did you mean 'ViT-B-32'"):
        encoders.locate(OpenClipTower(open_clip="ViT-B-23", pretrained="openai"))


def test_an_unknown_tag_is_refused_with_the_nearest() -> None:
    with pytest.raises(ParamsError, match=r"no weights 'laion2b_s34b' .did you mean 'laion2b_s34b_b79k'"):
        encoders.locate(OpenClipTower(open_clip="ViT-B-32", pretrained="laion2b_s34b"))


def test_a_card_without_a_tag_and_without_a_checkpoint_is_refused() -> None:
    with pytest.raises(ParamsError, match="neither `pretrained` nor `checkpoint`"):
        encoders.locate(OpenClipTower(open_clip="ViT-B-32"))


def test_a_tag_trained_with_the_quick_gelu_is_refused_on_a_plain_architecture() -> None:
    with pytest.raises(ParamsError, match="trained with the quick GELU: use the architecture 'ViT-B-32-quickgelu'"):
        encoders.locate(OpenClipTower(open_clip="ViT-B-32", pretrained="openai"))


def test_a_tag_trained_with_the_plain_gelu_is_refused_on_a_quick_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {"hf_hub": "someone/something/"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["ViT-B-32-quickgelu"], "plain", plain)
    with pytest.raises(ParamsError, match="trained with the plain GELU: use the architecture 'ViT-B-32'"):
        encoders.locate(OpenClipTower(open_clip="ViT-B-32-quickgelu", pretrained="plain"))


def test_a_tag_is_checked_where_its_weights_are_in_a_file_too(tiny_architecture: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.safetensors").touch()
    card = OpenClipTower(open_clip=tiny_architecture, pretrained="webi", checkpoint=str(tmp_path / "tiny.safetensors"))
    with pytest.raises(ParamsError, match="did you mean 'webli'"):
        encoders.locate(card)
    with pytest.raises(ParamsError, match="use the architecture 'tiny-clip-quickgelu'"):
        encoders.locate(card.model_copy(update={"pretrained": "quick"}))


@pytest.mark.parametrize("tag", ["webli", None])
def test_weights_in_a_bare_file_get_the_transform_of_their_tag_or_architecture(
    tag: str | None, tiny_architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = open_clip.pretrained._PRETRAINED[tiny_architecture]
    monkeypatch.delitem(tags, "quick")
    model = spread(CLIP(**architecture(vocab_size=49408)))
    save_file(model.state_dict(), tmp_path / "tiny.safetensors")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS[tiny_architecture]["text_cfg"], "vocab_size", 49408)
    card = OpenClipTower(open_clip=tiny_architecture, pretrained=tag, checkpoint=str(tmp_path / "tiny.safetensors"))
    towers = encoders.load(card, encoders.locate(card), CPU)
    assert towers.image is not None and towers.text is not None
    spec = towers.image.pixels
    assert (spec.mode, spec.interpolation, spec.mean, spec.std) == ("squash", "bilinear", (0.5,) * 3, (0.25,) * 3)
    with torch.inference_mode():
        assert (
            towers.image.encode(photos(2, 32)) - model.encode_image((photos(2, 32) / 255 - 0.5) / 0.25)
        ).abs().max() < 1e-5


def test_random_weights_need_no_file_and_are_those_of_the_architecture(tiny_architecture: str, tmp_path: Path) -> None:
    card = OpenClipTower(open_clip=tiny_architecture, checkpoint="anywhere")
    towers = encoders.load(card, tmp_path / "nothing", CPU, random_weights=True)
    assert towers.image is not None and towers.text is not None
    model = CLIP(**architecture())
    assert towers.image.parameters == sum(p.numel() for p in model.visual.parameters())
    assert towers.image.parameters + towers.text.parameters == sum(p.numel() for p in model.parameters())


def test_a_vector_does_not_depend_on_what_shares_its_batch(tmp_path: Path) -> None:
    write_folder(tmp_path)
    towers = loaded(tmp_path)
    assert towers.image is not None and towers.text is not None
    with torch.inference_mode():
        together, apart = towers.text.encode(TEXTS), torch.cat([towers.text.encode([text]) for text in TEXTS])
        assert (together - apart).abs().max() < 1e-5
        pictures = photos(4, 32)
        assert (towers.image.encode(pictures)[2:3] - towers.image.encode(pictures[2:3])).abs().max() < 1e-5
    assert np.linalg.matrix_rank(together.numpy(), tol=1e-3) == len(TEXTS)
