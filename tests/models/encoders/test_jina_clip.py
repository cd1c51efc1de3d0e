from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import transforms

from tests.models import jina_published
from tests.models.jina_published import CONFIG, MEAN, PREPROCESSOR, STD, tiny_config
from tests.tiny import CPU, TEXTS, jpegs, photo, photos, write_json
from tools import check_jina_clip
from twinlens.config.load import read_params
from twinlens.config.models import JinaClipTower, ModelCard
from twinlens.config.params import ComputeParams
from twinlens.core.costs import Cost
from twinlens.core.device import Placement
from twinlens.core.errors import DataError, FetchError, ParamsError
from twinlens.images.transforms import batch_pixels, fit_picture, to_tensor
from twinlens.inference.tower import TowerJob
from twinlens.models import encoders, jina_checkpoint
from twinlens.models.encoders.base import ImageEncoder, LoadedEncoders, TextEncoder, normalise_pixels
from twinlens.models.encoders.jina_clip import MAX_TOKENS, read_pixel_spec
from twinlens.models.sizes import count_parameters


def card(folder: Path, **fields: Any) -> JinaClipTower:
    return JinaClipTower(jina_clip="someone/tiny", checkpoint=str(folder), **fields)


def load(tower: JinaClipTower, random_weights: bool = False) -> LoadedEncoders:
    return encoders.load(tower, encoders.locate(tower), CPU, random_weights)


def image_of(tower: JinaClipTower) -> ImageEncoder:
    image = load(tower).image
    assert image is not None
    return image


def text_of(tower: JinaClipTower) -> TextEncoder:
    text = load(tower).text
    assert text is not None
    return text


def encoded(text: TextEncoder, texts: list[str]) -> torch.Tensor:
    with torch.inference_mode():
        return text.encode(texts)


def ids_of(text: Any, one: str) -> list[int]:
    found: list[int] = text.tokenizer(one).input_ids
    return found


def towers_of(config: dict[str, Any], folder: Path) -> tuple[torch.nn.Module, torch.nn.Module, Any]:
    """The two towers, without a number, of a configuration."""
    write_json(config, folder / "config.json")
    read = jina_checkpoint.read_config(folder)
    with torch.device("meta"):
        return *jina_checkpoint.build_towers(read), read


# ------------------------------------------------------------------ the published checkpoint


def test_every_name_of_the_published_layout_is_taken_and_none_is_left_over(tmp_path: Path) -> None:
    pictures, texts, config = towers_of(CONFIG, tmp_path)
    laid_out = jina_checkpoint.lay_out(pictures, texts, config)
    wanted = jina_published.published_shapes(CONFIG)
    assert {name: tuple(value.shape) for name, value in laid_out.items()} == wanted
    assert sum(math.prod(shape) for shape in wanted.values()) == 865_278_477


def test_a_file_of_this_layout_has_as_many_bytes_as_the_published_one() -> None:
    """Its header holds every name, shape and place: a name that is a letter longer would show."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in sorted(jina_published.published_shapes(CONFIG).items()):
        end = at + 2 * math.prod(shape)  # float16
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, end]}
        at = end
    written = len(json.dumps(header, separators=(",", ":")))
    assert 8 + math.ceil(written / 8) * 8 + at == 1_730_688_642  # model.safetensors of the card's revision


def test_the_towers_have_the_parameters_of_the_published_ones(tmp_path: Path) -> None:
    pictures, texts, config = towers_of(CONFIG, tmp_path)
    counts = [sum(value.numel() for value in tower.parameters()) for tower in (pictures, texts)]
    assert counts == [304_382_912, 558_314_496]
    added = sum(math.prod(s) for name, s in jina_published.published_shapes(CONFIG).items() if "lora" in name)
    assert sum(counts) + added + 1 == 865_278_477  # the adapter, and the temperature
    assert config.dim == 1024
    assert config.scale == 1.0
    assert count_parameters(card(tmp_path)) == sum(counts)


def test_the_card_names_the_published_model() -> None:
    found = read_params().models["jina-clip-v2"]
    assert isinstance(found.joint, JinaClipTower)
    assert found.joint.jina_clip == "jinaai/jina-clip-v2"
    assert found.joint.about.licence == "CC-BY-NC-4.0"
    assert (found.joint.prompt, found.joint.dimensions) == ("", None)
    assert found.matryoshka == [512, 256, 128, 64]


# ------------------------------------------------------------------ vectors


def test_picture_vectors_are_those_of_the_published_code(tmp_path: Path) -> None:
    state = jina_published.save(tmp_path)
    image, pictures = image_of(card(tmp_path)), photos(3, 32)
    pixels = normalise_pixels(pictures, image.pixels, CPU)
    with torch.inference_mode():
        found = image.encode(pictures)
        wanted = jina_published.embed_pictures(pixels, state, tiny_config())
    assert found.shape == (3, 32)
    assert (found - wanted).abs().max() < 2e-5
    assert (found[0] - found[1]).abs().max() > 0.1


def test_text_vectors_are_those_of_the_published_code_with_its_adapter_not_merged(tmp_path: Path) -> None:
    state = jina_published.save(tmp_path)
    text = text_of(card(tmp_path))
    found = encoded(text, TEXTS)
    with torch.inference_mode():
        rows = {
            adapter: torch.stack(
                [jina_published.embed_text(ids_of(text, one), state, tiny_config(), adapter) for one in TEXTS]
            )
            for adapter in (None, 0, 1)
        }
    assert found.shape == (len(TEXTS), 32)
    assert (found - rows[1]).abs().max() < 2e-5
    assert (found - rows[0]).abs().max() > 0.1  # of another adapter
    assert (found - rows[None]).abs().max() > 0.1  # of none


def test_without_a_task_no_adapter_is_added(tmp_path: Path) -> None:
    config = tiny_config()
    config["text_config"]["default_lora_task"] = None
    state = jina_published.save(tmp_path, config)
    text = text_of(card(tmp_path))
    with torch.inference_mode():
        wanted = jina_published.embed_text(ids_of(text, TEXTS[1]), state, config, adapter=None)
    assert (encoded(text, TEXTS[1:2])[0] - wanted).abs().max() < 2e-5


@pytest.mark.parametrize(
    ("embedding", "wanted"),
    [(False, [[1.0, 6.0], [3.0, 22.0]]), (True, [[13.0, 2.0], [27.0, 4.0]])],
)
def test_an_adapter_by_hand(embedding: bool, wanted: list[list[float]]) -> None:
    """W + 2 B A with A = (0 1), B = (2 9)', and W + 2 A B with A = (2 4)', B = (3 0): the factors change places."""
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    if embedding:
        a, b = torch.tensor([[2.0], [4.0]]), torch.tensor([[3.0, 0.0]])
    else:
        a, b = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0], [9.0]])
    jina_checkpoint.add_adapter(matrix, a, b, 2.0, embedding)
    assert matrix.tolist() == wanted


def test_half_precision_is_merged_in_float32(tmp_path: Path) -> None:
    state = {name: value.half() for name, value in jina_published.save(tmp_path).items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    text = text_of(card(tmp_path))
    wide = {name: value.float() for name, value in state.items()}
    with torch.inference_mode():
        wanted = jina_published.embed_text(ids_of(text, TEXTS[1]), wide, tiny_config())
    assert (encoded(text, TEXTS[1:2])[0] - wanted).abs().max() < 2e-5


def test_a_text_has_the_same_vector_in_any_batch(tmp_path: Path) -> None:
    jina_published.save(tmp_path)
    text = text_of(card(tmp_path))
    apart = torch.cat([encoded(text, [one]) for one in TEXTS])
    assert (encoded(text, TEXTS) - apart).abs().max() < 1e-5


def test_a_text_is_cut_at_512_tokens(tmp_path: Path) -> None:
    jina_published.save(tmp_path)
    text = text_of(card(tmp_path))
    assert text.max_tokens == MAX_TOKENS == 512
    long = "a red car " * 300
    assert text.token_counts([long]) == [902]
    whole, cut = encoded(text, [long, long[: len("a red car ") * 170]])
    assert (whole - cut).abs().max() < 1e-5  # the start token, 510 words and the end token of both
    longer = encoded(text, ["a red car " * 169])[0]
    assert (whole - longer).abs().max() > 1e-4


def test_half_precision_leaves_the_positions_of_words_alone(tmp_path: Path) -> None:
    jina_published.save(tmp_path)
    half = encoders.load(card(tmp_path), tmp_path, Placement(torch.device("cpu"), torch.bfloat16)).text
    model: Any = getattr(half, "model")  # noqa: B009
    whole: Any = getattr(text_of(card(tmp_path)), "model")  # noqa: B009
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(model.rotary_emb.inv_freq, whole.rotary_emb.inv_freq)
    assert half is not None
    long = ["a red car " * 169, TEXTS[1]]
    apart = 1 - torch.cosine_similarity(encoded(half, long), encoded(text_of(card(tmp_path)), long))
    assert apart.max() < 1e-3


def test_a_prompt_stands_in_front_of_each_text(tmp_path: Path) -> None:
    jina_published.save(tmp_path)
    plain, asked = text_of(card(tmp_path)), text_of(card(tmp_path, prompt="there is "))
    assert torch.equal(encoded(asked, ["a dog"]), encoded(plain, ["there is a dog"]))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of towers that are as wide as the published ones, and as thin as can be."""
    config = tiny_config(hidden_size=1024, num_hidden_layers=1, num_attention_heads=16)
    config["vision_config"] |= {"width": 1024, "embed_dim": 1024, "head_width": 64, "layers": 1, "mlp_ratio": 0.05}
    config["text_config"]["embed_dim"] = 1024
    folder = tmp_path_factory.mktemp("wide")
    jina_published.save(folder, config)
    return folder


@pytest.mark.parametrize("dimensions", [64, 128, 256, 512, 768, 1024])
def test_the_first_dimensions_are_brought_to_unit_length(dimensions: int, wide: Path, tmp_path: Path) -> None:
    """As `embed` keeps them: taken from whole vectors of unit length they would be shorter than that."""
    compute = ComputeParams(device="cpu", decode_threads=1, image_batch=None, text_batch=None)
    texts = pl.DataFrame({"id": list("abcde"), "image_id": list("abcde"), "text": TEXTS})
    rows = []
    for fields in ({}, {"dimensions": dimensions}):
        job = TowerJob(card(wide, **fields), wide, CPU, compute, Cost())
        job.texts("text", texts, tmp_path)
        rows.append(np.load(tmp_path / "text.npy"))
    whole, short = rows
    assert short.shape == (5, dimensions)
    assert np.linalg.norm(short, axis=1) == pytest.approx(1, abs=1e-6)
    wanted = whole[:, :dimensions] / np.linalg.norm(whole[:, :dimensions], axis=1, keepdims=True)
    assert np.abs(short - wanted).max() < 1e-6
    image = image_of(card(wide, dimensions=dimensions))
    with torch.inference_mode():
        assert image.encode(photos(2, 32)).shape == (2, dimensions)


def test_more_than_1024_dimensions_are_refused(wide: Path) -> None:
    assert refused(wide, dimensions=1025) == "someone/tiny has 1024 dimensions: `dimensions: 1025` is more"


def test_random_weights_have_the_shape_and_read_no_file(tmp_path: Path) -> None:
    jina_published.save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    found = load(card(tmp_path), random_weights=True)
    assert found.image is not None
    with torch.inference_mode():
        assert found.image.encode(photos(2, 32)).shape == (2, 32)


def test_weights_under_a_trainers_names_are_read(tmp_path: Path) -> None:
    state = jina_published.save(tmp_path)
    wanted = encoded(text_of(card(tmp_path)), TEXTS)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "pytorch_model.bin")
    assert torch.equal(encoded(text_of(card(tmp_path)), TEXTS), wanted)


# ------------------------------------------------------------------ pixels


@pytest.mark.parametrize("size", [(640, 480), (400, 700), (512, 512), (300, 300)])
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_pixels_are_those_of_the_published_transform(size: tuple[int, int], mode: str, tmp_path: Path) -> None:
    write_json(CONFIG, tmp_path / "config.json")
    write_json(PREPROCESSOR | {"resize_mode": mode}, tmp_path / "preprocessor_config.json")
    spec = read_pixel_spec(tmp_path, jina_checkpoint.read_config(tmp_path))
    assert (spec.height, spec.width, spec.mode, spec.interpolation) == (512, 512, mode, "bicubic")
    picture = photo(3, *size)
    bicubic = transforms.InterpolationMode.BICUBIC
    shape = [transforms.Resize(512, bicubic), transforms.CenterCrop(512)]
    if mode == "squash":
        shape = [transforms.Resize((512, 512), bicubic)]
    steps = transforms.Compose([*shape, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    theirs = steps(Image.fromarray(picture))
    ours = normalise_pixels(fit_picture(to_tensor(picture), spec)[None], spec, CPU)[0]
    assert ours.shape == theirs.shape == (3, 512, 512)
    levels = ((ours - theirs).abs() * torch.tensor(STD)[:, None, None] * 255).numpy()
    assert np.quantile(levels, 0.999) < 1.01
    assert levels.max() < 3


# ------------------------------------------------------------------ refusals


def refused(folder: Path, **fields: Any) -> str:
    with pytest.raises((DataError, ParamsError)) as caught:
        load(card(folder, **fields))
    return str(caught.value)


def change_config(folder: Path, name: str, value: Any) -> None:
    path = folder / "config.json"
    config = node = json.loads(path.read_text(encoding="utf-8"))
    *parts, last = name.split(".")
    for part in parts:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    write_json(config, path)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("vision_model.blocks.1.mlp.w2.bias", "the first is vision_model.blocks.1.mlp.w2.bias"),
        ("mixer.Wqkv.parametrizations.weight.0.lora_A", "lacks 2 of its 97 tensors (the first is text_model."),
        ("logit_scale", "lacks 1 of its 97 tensors (the first is logit_scale)"),
    ],
)
def test_a_checkpoint_that_lacks_keys_is_refused(part: str, expected: str, tmp_path: Path) -> None:
    jina_published.save(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if part not in name}, path)
    told = refused(tmp_path)
    assert told.startswith(f"{path} does not hold the weights of a jina-clip-v2: it lacks ")
    assert expected in told


def test_a_checkpoint_with_more_keys_or_other_shapes_is_refused(tmp_path: Path) -> None:
    state = jina_published.save(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(state | {"text_projection.weight": torch.ones(2, 2)}, path)
    assert "it has 1 that it does not know (the first is text_projection.weight)" in refused(tmp_path)
    save_file(state | {"vision_model.pos_embed": torch.ones(1, 5, 32)}, path)
    assert "it has vision_model.pos_embed of 1 x 5 x 32 where it has 1 x 17 x 32" in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("vision_config", None, "is not that of a jina-clip-v2: wanted `vision_config` and `text_config`"),
        ("vision_config.subln", False, "says vision_config.subln: false; only true is known here"),
        ("vision_config.rope_embeddings", None, "says vision_config.rope_embeddings: false; only true is known"),
        ("vision_config.post_norm", True, "says vision_config.post_norm: true; only false is known here"),
        ("vision_config.layers", None, "says vision_config.layers: null; wanted a number above 0"),
        ("vision_config", [1], "is not that of a jina-clip-v2"),
        ("vision_config.width", "wide", 'says vision_config.width: "wide"; wanted a number above 0'),
        ("add_projections", True, "says add_projections: true; only false is known here"),
        ("text_config.pooler_type", "cls_pooler", 'pooler_type: "cls_pooler"; only null or "mean_pooler" is known'),
        ("text_config.embed_dim", 16, "only towers of one width are known here"),
        ("text_config.default_lora_task", "x", "has adapters for separation, retrieval.query, none for"),
        ("text_config.hf_model_config_kwargs.lora_alpha", None, "does not say lora_alpha, so the text tower's adapter"),
        ("text_config.hf_model_config_kwargs.hidden_size", "big", "hf_model_config_kwargs: "),
    ],
)
def test_a_configuration_of_another_kind_is_refused(name: str, value: Any, expected: str, tmp_path: Path) -> None:
    jina_published.save(tmp_path)
    change_config(tmp_path, name, value)
    told = refused(tmp_path)
    assert str(tmp_path / "config.json") in told
    assert expected in told


def test_sizes_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    jina_published.save(tmp_path)
    change_config(tmp_path, "vision_config.head_width", 64)
    assert "no towers can be built of the sizes in config.json: " in refused(tmp_path)


def test_a_folder_without_its_other_files_is_refused(tmp_path: Path) -> None:
    jina_published.save(tmp_path)
    settings = tmp_path / "preprocessor_config.json"
    kept = settings.read_text(encoding="utf-8")
    settings.unlink()
    assert f"{settings} does not say how pictures are prepared: wanted size, mean and std" in refused(tmp_path)
    write_json(json.loads(kept) | {"size": 48}, settings)
    assert "prepares 48 x 48 px (shortest); the picture tower reads 32 x 32" in refused(tmp_path)
    settings.write_text(kept, encoding="utf-8")
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    assert "lacks the weights: wanted model.safetensors or pytorch_model.bin" in refused(tmp_path)
    (tmp_path / "weights.safetensors").rename(tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.json").unlink()
    assert f"{tmp_path} lacks the tokenizer" in refused(tmp_path)


def test_a_file_for_a_folder_is_refused(tmp_path: Path) -> None:
    jina_published.save(tmp_path)
    with pytest.raises(FetchError, match=r"is a file: name the folder of a jina-clip-v2, with config\.json"):
        encoders.locate(card(tmp_path / "model.safetensors"))


def test_its_towers_are_not_trained(tmp_path: Path) -> None:
    trained = read_params().models["vit-b-32-finetuned"].train
    with pytest.raises(ValueError, match="a `jina_clip` model cannot be trained here"):
        ModelCard(joint=card(tmp_path), train=trained)


def test_nothing_asks_for_the_publishers_code(tmp_path: Path) -> None:
    jina_published.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "XLMRobertaTokenizer"}
    write_json(copy.deepcopy(settings), path)
    found = encoded(text_of(card(tmp_path)), TEXTS)
    write_json(settings | {"tokenizer_class": "PreTrainedTokenizerFast"}, path)
    assert torch.equal(found, encoded(text_of(card(tmp_path)), TEXTS))


# ------------------------------------------------------------------ the check of real weights


def test_the_check_of_real_weights_tells_others_from_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jina_published.save(tmp_path)
    assert not check_jina_clip.check(card(tmp_path), jpegs(2))
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(";")[0] for line in told] == ["sentences: WRONG", "pictures: WRONG"]
    assert "of 9 cosines the furthest from those published is" in told[0]
    assert "of 20 cosines the furthest" in told[1]


def test_the_check_of_real_weights_takes_what_is_near_and_no_nan() -> None:
    wanted = np.asarray([check_jina_clip.WITH_SENTENCES], dtype=np.float32)
    assert check_jina_clip.compare("sentences", wanted + 0.0009, wanted)
    assert not check_jina_clip.compare("sentences", wanted + 0.0011, wanted)
    assert not check_jina_clip.compare("sentences", np.full_like(wanted, np.nan), wanted)
    assert np.asarray(check_jina_clip.WITH_PICTURES).shape == (len(check_jina_clip.SENTENCES), 2)


def test_the_check_of_real_weights_measures_the_cosines_it_says(tmp_path: Path) -> None:
    jina_published.save(tmp_path)
    loaded, files = load(card(tmp_path)), jpegs(2)
    assert loaded.image is not None
    assert loaded.text is not None
    first, seen = check_jina_clip.measure_cosines(loaded, files)
    with torch.inference_mode():
        texts = loaded.text.encode(list(check_jina_clip.SENTENCES))
        picture = loaded.image.encode(batch_pixels(files[1:], loaded.image.pixels))
    assert seen is not None
    assert first[0, 3] == pytest.approx(float(torch.cosine_similarity(texts[0], texts[4], dim=0)), abs=1e-6)
    assert seen[2, 1] == pytest.approx(float(torch.cosine_similarity(texts[2], picture[0], dim=0)), abs=1e-6)
