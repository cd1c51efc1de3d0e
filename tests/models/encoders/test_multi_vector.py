"""Models of token vectors: the library's own matrices, alone and in batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import simplejpeg
import torch
from PIL import Image
from sentence_transformers import MultiVectorEncoder, SentenceTransformer

from tests.models.encoders import test_sentence_transformers
from tests.models.encoders.test_multimodal import JPEGS, decoded
from tests.tiny import CPU, TEXTS
from tests.token_models import DIM, EXPANDED, MARKS, save_colbert, save_colpali, save_colqwen, save_neomme
from twinlens.config.load import read_params
from twinlens.config.models import ModelCard
from twinlens.config.sentence_models import MultiVectorTower, Role
from twinlens.core.errors import DataError
from twinlens.models import encoders, references
from twinlens.models.encoders.base import LoadedEncoders, encode_jpegs
from twinlens.models.encoders.multi_vector import TokenPictures, TokenTexts, put_role
from twinlens.models.token_batch import TokenBatch


@pytest.fixture(scope="module")
def colqwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_colqwen(tmp_path_factory.mktemp("colqwen"))


@pytest.fixture(scope="module", params=["colqwen", "colpali", "neomme"])
def pages(request: pytest.FixtureRequest, colqwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each model of pictures in turn."""
    if request.param == "colqwen":
        return colqwen
    return (save_colpali if request.param == "colpali" else save_neomme)(tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def colbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_colbert(tmp_path_factory.mktemp("colbert"))


def card(folder: Path, **fields: Any) -> MultiVectorTower:
    return MultiVectorTower(sentence_transformers="someone/tiny", checkpoint=str(folder), token_vectors=True, **fields)


def load(folder: Path, role: Role = "query", **fields: Any) -> LoadedEncoders:
    tower = card(folder, **fields)
    return put_role(encoders.load(tower, encoders.locate(tower), CPU), role)


def texts_of(loaded: LoadedEncoders) -> TokenTexts:
    assert isinstance(loaded.text, TokenTexts)
    return loaded.text


def pictures_of(loaded: LoadedEncoders) -> TokenPictures:
    assert isinstance(loaded.native, TokenPictures)
    return loaded.native


def split(batch: TokenBatch) -> list[torch.Tensor]:
    return [vectors[kept] for vectors, kept in zip(batch.vectors, batch.kept, strict=True)]


def furthest(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    assert [one.shape for one in found] == [one.shape for one in wanted]
    return max(float((one - other).abs().max()) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("role", ["query", "item"])
@pytest.mark.parametrize("attend", [False, True])
def test_texts_have_the_librarys_matrices_alone_and_in_batches(role: Role, attend: bool, tmp_path: Path) -> None:
    folder = save_colbert(tmp_path, attend)
    library = MultiVectorEncoder(str(folder), device="cpu")
    wanted = (library.encode_query if role == "query" else library.encode_document)(TEXTS)
    text = texts_of(load(folder, role))
    with torch.inference_mode():
        assert furthest(split(text.encode_tokens(TEXTS)), wanted) < 1e-6
        assert furthest([split(text.encode_tokens([one]))[0] for one in TEXTS], wanted) < 1e-6
        pooled = torch.stack([one.mean(dim=0) for one in wanted])
        assert (text.encode(TEXTS) - pooled).abs().max() < 1e-6
    assert wanted[0].shape[1] == DIM
    assert (len({len(one) for one in wanted}) == 1) is (role == "query")  # lengthened to one length, or as long as said


def test_pictures_have_the_librarys_matrices_alone_and_in_batches(pages: Path) -> None:
    wanted = MultiVectorEncoder(str(pages), device="cpu").encode_document(decoded())
    encoder = pictures_of(load(pages, "item"))
    with torch.inference_mode():
        together = split(encoder.encode_tokens(encoder.read(JPEGS)))
        alone = [split(encoder.encode_tokens(encoder.read([jpeg])))[0] for jpeg in JPEGS]
        assert furthest(together, wanted) < 1e-6
        assert furthest(alone, wanted) < 1e-6
        pooled = encoder.encode(encoder.read(JPEGS))
    assert (len({len(one) for one in wanted}) > 1) is ("colpali" not in str(pages))  # which reads one size
    assert (pooled - torch.stack([one.mean(dim=0) for one in wanted])).abs().max() < 1e-6


def test_words_about_pictures_have_the_librarys_matrices(pages: Path, tmp_path: Path) -> None:
    wanted = MultiVectorEncoder(str(pages), device="cpu").encode_query(TEXTS)
    text = texts_of(load(pages))
    with torch.inference_mode():
        assert furthest(split(text.encode_tokens(TEXTS)), wanted) < 1e-6
    file = tmp_path / "a dog.jpg"
    file.write_bytes(simplejpeg.encode_jpeg(torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()))
    with torch.inference_mode():
        assert len(split(text.encode_tokens([str(file)]))[0]) > 3  # words, not the picture that they name


def test_what_is_skipped_or_added_is_what_the_model_says(colbert: Path) -> None:
    asks, searched = texts_of(load(colbert, "query")), texts_of(load(colbert, "item"))
    with torch.inference_mode():
        assert asks.encode_tokens(["a dog"]).kept.sum() == EXPANDED
        # begin, mark, dog, end: "a" is skipped
        assert searched.encode_tokens(["a dog"]).kept.sum() == 4
    assert (asks.prompt, searched.prompt) == (MARKS["query"], MARKS["document"])
    assert (asks.max_tokens, searched.max_tokens) == (EXPANDED, 24)
    assert asks.token_counts(["a dog", "a house"]) == searched.token_counts(["a dog", "a house"]) == [5, 5]


def test_a_prompt_on_the_card_stands_for_the_models_own(colbert: Path) -> None:
    text = texts_of(load(colbert, "query", query_prompt="green "))
    wanted = MultiVectorEncoder(str(colbert), device="cpu").encode_query(TEXTS, prompt="green ")
    with torch.inference_mode():
        assert furthest(split(text.encode_tokens(TEXTS)), wanted) < 1e-6


def test_tokens_that_a_processor_puts_around_words_are_counted(pages: Path) -> None:
    text = texts_of(load(pages))
    with torch.inference_mode():
        wanted = [int(text.encode_tokens([one]).kept.sum()) for one in TEXTS]
    assert text.token_counts(TEXTS) == wanted
    assert text.max_tokens == 512


def test_the_reference_of_pictures_is_the_librarys_own_path(pages: Path) -> None:
    _compare_with_reference(pages, reads_pictures=True)


def test_the_reference_of_texts_is_the_librarys_own_path(colbert: Path) -> None:
    _compare_with_reference(colbert, reads_pictures=False)


def _compare_with_reference(folder: Path, reads_pictures: bool) -> None:
    tower = card(folder)
    loaded = encoders.load(tower, folder, CPU)
    reference = references.build(tower, folder, loaded, CPU)
    assert reference is not None
    assert reference.text is not None
    assert (reference.picture is not None) is reads_pictures
    with torch.inference_mode():
        assert (reference.text("a dog") - texts_of(loaded).encode(["a dog"])).abs().max() < 1e-6
        if reference.picture is not None:
            ours = encode_jpegs(loaded, JPEGS[:1])
            assert (reference.picture(Image.fromarray(_first())) - ours).abs().max() < 1e-6


def _first() -> Any:
    return simplejpeg.decode_jpeg(JPEGS[0], colorspace="RGB")


def test_what_makes_one_vector_is_refused_rather_than_given_a_random_head(tmp_path: Path) -> None:
    folder = test_sentence_transformers.save(tmp_path)
    with pytest.raises(DataError, match=r"holds no model of token vectors \(model_type SentenceTransformer"):
        encoders.locate(card(folder))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="holds an adapter: name the repository in which it is merged"):
        encoders.locate(card(tmp_path / "adapter"))
    SentenceTransformer(str(folder), device="cpu")  # and is one


def test_a_model_without_some_of_its_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_colqwen(tmp_path)
    state = load_file(folder / "model.safetensors")
    gone = next(name for name in state if "embedding_proj_layer" in name)
    save_file({name: value for name, value in state.items() if name != gone}, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"lacks 1 of the model's"):
        load(folder)


def test_a_card_names_it_by_one_more_key(tmp_path: Path) -> None:
    tower = {"sentence_transformers": "someone/tiny", "token_vectors": True}
    joint = ModelCard.model_validate({"joint": tower}).joint
    assert isinstance(joint, MultiVectorTower)
    assert (
        ModelCard.model_validate(json.loads(ModelCard(joint=joint).model_dump_json(exclude_none=True))).joint == joint
    )
    with pytest.raises(ValueError, match="`dimensions` shortens one vector"):
        MultiVectorTower.model_validate(tower | {"dimensions": 8})
    assert not isinstance(read_params().models["minilm"].text, MultiVectorTower)


def test_heads_are_not_trained_on_many_vectors() -> None:
    heads = read_params().models["heads-infonce"].model_dump(mode="json", exclude_none=True)
    tower = {"sentence_transformers": "someone/tiny", "token_vectors": True}
    with pytest.raises(ValueError, match="stand on one vector for an input: leave out `token_vectors`"):
        ModelCard.model_validate(heads | {"text": tower})
