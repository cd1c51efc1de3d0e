"""sentence-transformers models of pictures, texts and both: the library's own vectors, alone and in batches."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import simplejpeg
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from tests.multimodal import SHAPES, WIDTH, save_embedder
from tests.tiny import CPU, TEXTS, photo
from twinlens.config.sentence_models import SentenceTransformersTower
from twinlens.core.errors import DataError, ParamsError
from twinlens.models import encoders, references
from twinlens.models.encoders.base import LoadedEncoders, NativeEncoder, encode_jpegs

PROMPT = "represent the picture"
JPEGS = [
    simplejpeg.encode_jpeg(photo(seed, *shape), quality=95, colorsubsampling="444") for seed, shape in enumerate(SHAPES)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_embedder(tmp_path_factory.mktemp("qwen"))


def card(folder: Path, **fields: Any) -> SentenceTransformersTower:
    return SentenceTransformersTower(sentence_transformers="someone/tiny", checkpoint=str(folder), **fields)


def load(folder: Path, **fields: Any) -> LoadedEncoders:
    tower = card(folder, **fields)
    return encoders.load(tower, encoders.locate(tower), CPU)


def native(loaded: LoadedEncoders) -> NativeEncoder:
    assert loaded.native is not None
    return loaded.native


def decoded() -> list[Image.Image]:
    return [Image.fromarray(simplejpeg.decode_jpeg(jpeg, colorspace="RGB")) for jpeg in JPEGS]


def by_library(folder: Path, inputs: Sequence[Any], prompt: str = "", **options: Any) -> torch.Tensor:
    found = SentenceTransformer(str(folder), device="cpu").encode(
        list(inputs), prompt=prompt, convert_to_tensor=True, show_progress_bar=False, **options
    )
    assert isinstance(found, torch.Tensor)
    return found


def encode_pictures(encoder: NativeEncoder, jpegs: Sequence[bytes], texts: Sequence[str] | None = None) -> torch.Tensor:
    with torch.inference_mode():
        return encoder.encode(encoder.read(jpegs, texts))


@pytest.mark.parametrize("prompt", ["", PROMPT])
def test_pictures_of_several_shapes_have_the_librarys_vectors_alone_and_in_batches(folder: Path, prompt: str) -> None:
    encoder, wanted = native(load(folder, prompt=prompt)), by_library(folder, decoded(), prompt)
    together = encode_pictures(encoder, JPEGS)
    alone = torch.cat([encode_pictures(encoder, [jpeg]) for jpeg in JPEGS])
    assert together.shape == (len(JPEGS), WIDTH)
    assert (together - wanted).abs().max() < 1e-6
    assert (alone - wanted).abs().max() < 1e-6
    assert (wanted[0] - wanted[1]).abs().max() > 0.05


@pytest.mark.parametrize("prompt", ["", PROMPT])
def test_texts_have_the_librarys_vectors_alone_and_in_batches(folder: Path, prompt: str) -> None:
    text, wanted = load(folder, prompt=prompt).text, by_library(folder, TEXTS, prompt)
    assert text is not None
    with torch.inference_mode():
        assert (text.encode(TEXTS) - wanted).abs().max() < 1e-6
        assert (torch.cat([text.encode([one]) for one in TEXTS]) - wanted).abs().max() < 1e-6


def test_a_picture_and_words_together_have_the_librarys_vectors(folder: Path) -> None:
    encoder = native(load(folder, item_prompt=PROMPT))
    pairs = [{"image": picture, "text": text} for picture, text in zip(decoded(), TEXTS, strict=True)]
    assert encoder.reads_pairs
    found, wanted = encode_pictures(encoder, JPEGS, TEXTS), by_library(folder, pairs, PROMPT)
    assert (found - wanted).abs().max() < 1e-6
    assert (found - encode_pictures(encoder, JPEGS)).abs().max() > 0.05


def test_a_batch_that_is_cut_in_parts_has_the_same_vectors(folder: Path) -> None:
    encoder = native(load(folder))
    whole = encoder.read(JPEGS)
    with torch.inference_mode():
        parts = torch.cat([encoder.encode(whole[:2]), encoder.encode(whole[2:])])
        assert (parts - encoder.encode(whole)).abs().max() < 1e-6
    assert whole[0:9] is whole
    assert whole[:2].features is None


def test_queries_and_items_have_prompts_of_their_own(folder: Path) -> None:
    loaded = load(folder, query_prompt="find the picture", item_prompt=PROMPT)
    assert loaded.text is not None
    with torch.inference_mode():
        assert (loaded.text.encode(TEXTS) - by_library(folder, TEXTS, "find the picture")).abs().max() < 1e-6
    assert (encode_jpegs(loaded, JPEGS) - by_library(folder, decoded(), PROMPT)).abs().max() < 1e-6
    tower = card(folder, query_prompt="find the picture", prompt=PROMPT)
    assert tower.has_roles
    assert (tower.prompt_of("query"), tower.prompt_of("item")) == ("find the picture", PROMPT)
    assert tower.in_role("item") == card(folder, prompt=PROMPT)


def test_the_first_dimensions_are_the_librarys_and_more_than_there_are_is_refused(folder: Path) -> None:
    found = encode_pictures(native(load(folder, dimensions=8)), JPEGS)
    assert found.shape == (len(JPEGS), 8)
    assert (found - by_library(folder, decoded(), truncate_dim=8)).abs().max() < 1e-6
    with pytest.raises(ParamsError, match="makes vectors of 32 dimensions, and the card asks for the first 64"):
        load(folder, dimensions=64)


def test_a_caption_that_names_a_file_or_an_address_is_read_as_words(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "a dog.jpg"
    file.write_bytes(JPEGS[0])
    text = load(folder).text
    assert text is not None
    for words in (str(file), "https://nowhere.invalid/dog.jpg"):
        assert text.encode([words]).shape == (1, WIDTH)
        assert text.token_counts([words])[0] > 3


def test_tokens_are_counted_with_the_template_and_the_prompt(folder: Path) -> None:
    text, prompted = load(folder).text, load(folder, prompt=PROMPT).text
    assert text is not None
    assert prompted is not None
    model = SentenceTransformer(str(folder), device="cpu")
    for encoder, prompt in ((text, ""), (prompted, PROMPT)):
        wanted = [int(model.preprocess([one], prompt=prompt)["attention_mask"].sum()) for one in TEXTS]
        assert encoder.token_counts(TEXTS) == wanted
    assert text.max_tokens == 512


def test_the_reference_reads_pictures_and_texts_as_the_library_does(folder: Path) -> None:
    tower = card(folder, query_prompt="find", item_prompt=PROMPT)
    loaded = encoders.load(tower, encoders.locate(tower), CPU)
    reference = references.build(tower, folder, loaded, CPU)
    assert reference is not None
    assert reference.picture is not None
    assert reference.text is not None
    opened = Image.open(io.BytesIO(JPEGS[0])).convert("RGB")
    assert (reference.picture(opened) - by_library(folder, [opened], PROMPT)).abs().max() < 1e-6
    assert (reference.text("a dog") - by_library(folder, ["a dog"], "find")).abs().max() < 1e-6


def test_a_model_without_some_of_its_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    SentenceTransformer(str(folder), device="cpu").save(str(copy))
    state = load_file(copy / "model.safetensors")
    gone = next(name for name in state if "visual" in name and state[name].ndim > 1)
    save_file({name: value for name, value in state.items() if name != gone}, copy / "model.safetensors")
    with pytest.raises(DataError, match=r"lacks 1 of the model's"):
        load(copy)


def test_weights_in_several_files_are_found(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(folder), device="cpu")
    copy = tmp_path / "copy"
    model.save(str(copy))
    (copy / "model.safetensors").unlink()
    model[0].model.save_pretrained(copy, max_shard_size="60KB")
    assert not (copy / "model.safetensors").exists()
    assert len(list(copy.glob("model-*-of-*.safetensors"))) > 1
    assert (encode_jpegs(load(copy), JPEGS) - by_library(folder, decoded())).abs().max() < 1e-6
