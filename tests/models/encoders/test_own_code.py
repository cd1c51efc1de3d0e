"""Models with code of their own: in a process and an environment of their own, with the vectors that they have."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import close_session

from tests.hub import COMMIT, Hub, point_at, serving_hub
from tests.models.encoders.test_transformers import save_bert, save_clip
from tests.strangers import CODE, save_stranger, write_wheel
from tests.tiny import CPU, TEXTS, jpegs, photos, write_json, write_shards
from twinlens.config.models import ModelCard, OwnCodeTower, TransformersTower
from twinlens.config.params import ComputeParams
from twinlens.core.costs import Cost
from twinlens.core.errors import DataError, FetchError, ResourceError
from twinlens.inference.conformity import PICTURES, inspect_tower, needs_inspection
from twinlens.inference.conformity import TEXTS as KIND_TEXTS
from twinlens.inference.tower import TowerJob
from twinlens.models import encoders
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.models.locations.own_code import list_code_repositories

COMPUTE = ComputeParams(device="cpu", decode_threads=1, image_batch=4, text_batch=None)
# `weigh` is in colours 1.0 only; what it does by the words of a text is what goes wrong in real models
NEEDS_OLD = f"""
import os, signal, sys
from colours import weigh
{CODE}
def encode_text(self, texts):
    print("a line of the model's on its standard output")
    if "out of memory" in texts[0]:
        raise MemoryError("of the model")
    if "killed" in texts[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    if "another width" in texts[0]:
        return torch.ones(len(texts), 7)
    return _encode_text(self, texts) * weigh()

_encode_text, TinyModel.encode_text = TinyModel.encode_text, encode_text
"""


def tower(repo: str = "someone/tiny", **fields: Any) -> OwnCodeTower:
    found = ModelCard.model_validate({"joint": {"transformers": repo, **fields}}).joint
    assert isinstance(found, OwnCodeTower)
    return found


def in_hub(folder: Path) -> dict[str, dict[str, bytes]]:
    """The stranger as two repositories: its weights, and its code, as several models of today have it."""
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    config = json.loads(files["config.json"])
    config["auto_map"] = {key: f"someone/code--{name}" for key, name in config["auto_map"].items()}
    code = {"modeling_tiny.py": files.pop("modeling_tiny.py")}
    return {"someone/tiny": files | {"config.json": json.dumps(config).encode()}, "someone/code": code}


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Path]]:
    """A hub with the stranger, and a folder of wheels; caches and environments are of these tests alone."""
    folder = tmp_path_factory.mktemp("own_code")
    for release, code in (("1.0", "def weigh(): return 2.0"), ("2.0", "def weigh_all(): return 2.0")):
        write_wheel(folder / "wheels", "colours", release, code)
    with pytest.MonkeyPatch.context() as patch, serving_hub(in_hub(save_stranger(folder / "a", NEEDS_OLD))) as hub:
        point_at(hub.url, folder / "cache", patch)
        patch.setenv("HF_HUB_CACHE", str(folder / "cache"))
        patch.setenv("HF_MODULES_CACHE", str(folder / "modules"))
        patch.setenv("TWINLENS_ENVIRONMENTS", str(folder / "environments"))
        patch.setenv("TWINLENS_WHEELS", str(folder / "wheels"))
        patch.setenv("UV_OFFLINE", "1")  # all that is wanted lies in the folder
        yield hub, folder
        close_session()


@pytest.fixture(autouse=True)
def caches(surroundings: tuple[Hub, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINLENS_ENVIRONMENTS", str(surroundings[1] / "environments"))


def stranger(colours: str = "1.0") -> OwnCodeTower:
    environment: dict[str, Any] = {"packages": [f"colours=={colours}"], "inherits": True}
    pinned: dict[str, Any] = {"revision": COMMIT, "code_revision": COMMIT, "trust_remote_code": True}
    return tower(environment=environment, prompt="e ", **pinned)


@pytest.fixture(scope="module")
def job(surroundings: tuple[Hub, Path]) -> TowerJob:
    card = stranger()
    return TowerJob(card, encoders.locate(card), CPU, COMPUTE, Cost("cpu-float32"))


@pytest.fixture(scope="module")
def loaded(job: TowerJob) -> LoadedEncoders:
    return job.loaded


@pytest.mark.slow
def test_its_code_runs_with_its_own_version_of_a_library_and_not_here(
    loaded: LoadedEncoders, surroundings: tuple[Hub, Path]
) -> None:
    assert loaded.image is not None and loaded.text is not None
    assert loaded.text.encode(["a dog"]).tolist() == [[2 * 14.0, 2 * 3.0, 2 * 4.0, 2 * 5.0]]
    assert loaded.text.token_counts(["a dog", ""])[0] > loaded.text.token_counts(["a dog", ""])[1]
    found = loaded.image.encode(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    assert found.tolist() == [[2.0, 3.0, 4.0, 5.0]]
    assert "colours" not in sys.modules
    assert not [name for name in sys.modules if "modeling_tiny" in name]
    assert "modeling_tiny.py" in surroundings[0].fetched()  # by us: the child asks no network


@pytest.mark.slow
def test_the_pipeline_embeds_with_it(job: TowerJob, loaded: LoadedEncoders, tmp_path: Path) -> None:
    pool = write_shards(jpegs(9), tmp_path / "shards")
    job.pictures("image", tmp_path / "shards", pool, tmp_path)
    rows = np.load(tmp_path / "image.npy")
    assert rows.shape == (9, 4)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)


@pytest.mark.slow
def test_our_pixels_are_compared_with_those_of_its_own_processor(job: TowerJob, loaded: LoadedEncoders) -> None:
    assert needs_inspection(job)
    found = inspect_tower(job, (PICTURES, KIND_TEXTS))
    assert [(one.kind, one.library) for one in found.comparisons] == [
        (PICTURES, "the model"),
        (KIND_TEXTS, "the model"),
    ]
    assert not [trouble for _, trouble in found.troubles(job) if trouble]


@pytest.mark.slow
def test_what_goes_wrong_is_one_clear_message(loaded: LoadedEncoders) -> None:
    assert loaded.text is not None
    name = r"someone/tiny \(code of its own\)"
    with pytest.raises(ResourceError, match=rf"{name}: .*too little memory while it encoded 1 texts .*of the model"):
        loaded.text.encode(["out of memory"])
    with pytest.raises(DataError, match=rf"{name} gives 1 x 7 for 1 inputs of 4 dimensions"):
        loaded.text.encode(["another width"])
    with pytest.raises(ResourceError, match=rf"{name}: its process was ended by signal 9.*It wrote last: .*a line of"):
        loaded.text.encode(["killed"])


@pytest.mark.slow
def test_with_another_version_it_is_told_what_is_missing() -> None:
    card = stranger("2.0")
    with pytest.raises(DataError, match=r"does not run with the libraries of its environment while it loaded the model"
                       r".*weigh.*`environment\.packages`"):  # fmt: skip
        encoders.load(card, encoders.locate(card), CPU)


@pytest.mark.slow
def test_a_plain_model_has_the_same_vectors_there_as_here(tmp_path: Path) -> None:
    cases: list[tuple[Callable[[Path], object], dict[str, Any]]]
    cases = [(save_clip, {}), (save_bert, {"pooling": "mean"}), (save_bert, {"pooling": "cls"})]
    for number, (save, fields) in enumerate(cases):
        folder = tmp_path / f"{number}"
        save(folder)
        here = TransformersTower(transformers="someone/tiny", checkpoint=str(folder), prompt="a ", **fields)
        there = OwnCodeTower.model_validate(here.model_dump() | {"environment": {"inherits": True}})
        ours, theirs = (encoders.load(card, folder, CPU) for card in (here, there))
        texts = [*TEXTS, "a red car in the snow " * 6]
        with torch.inference_mode():
            assert torch.allclose(ours.text.encode(texts), theirs.text.encode(texts), atol=1e-6)  # type: ignore[union-attr]
            assert ours.text.token_counts(texts) == theirs.text.token_counts(texts)  # type: ignore[union-attr]
            assert ours.text.max_tokens == theirs.text.max_tokens  # type: ignore[union-attr]
            if ours.image is not None and theirs.image is not None:
                assert ours.image.pixels == theirs.image.pixels
                pictures = photos(5, ours.image.pixels.height)
                assert torch.allclose(ours.image.encode(pictures), theirs.image.encode(pictures), atol=1e-6)
        assert (ours.image is None) == (theirs.image is None)


def test_a_vector_is_known_by_its_code_its_weights_and_all_that_is_installed() -> None:
    cards = {
        "as it is": stranger(),
        "another version": stranger("2.0"),
        "other code": stranger().model_copy(update={"code_revision": "1" * 40}),
        "another call": tower(**stranger().model_dump() | {"calls": {"text": "other"}}),
    }
    path = encoders.locate(stranger())
    jobs = {name: TowerJob(card, path, CPU, COMPUTE, Cost()) for name, card in cards.items()}
    assert len({json.dumps(one.identity, sort_keys=True) for one in jobs.values()}) == len(cards)
    found: Any = jobs["as it is"].identity["weights"]
    assert found["commit"] == COMMIT
    assert found["environment"]["installed"] == {
        "colours": "1.0", **{name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
    }  # fmt: skip
    slower = stranger().model_copy(update={"limits": stranger().limits.model_copy(update={"batch_s": 9.0})})
    assert TowerJob(slower, path, CPU, COMPUTE, Cost()).identity == jobs["as it is"].identity


def test_code_that_cannot_be_had_is_told(surroundings: tuple[Hub, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    card = stranger().model_copy(update={"code_revision": "2" * 40})
    with pytest.raises(FetchError, match=f"the hub has no someone/code at revision {'2' * 40}"):
        encoders.locate(card)


def test_repositories_of_code_are_listed(tmp_path: Path) -> None:
    write_json({"auto_map": {"AutoModel": "a/b--m.M", "AutoConfig": "m.C"}}, tmp_path / "config.json")
    write_json({"auto_map": {"AutoTokenizer": ["c/d--t.T", None]}}, tmp_path / "tokenizer_config.json")
    (tmp_path / "preprocessor_config.json").write_text("no json", encoding="utf-8")
    assert list_code_repositories(tmp_path) == {"a/b", "c/d"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"environment": {"packages": ["transformers>=4"]}}, "'transformers>=4' names no exact version"),
        ({"environment": {"packages": ["--index-url==1"]}}, "names no exact version"),
        ({"environment": {"packages": ["a-b==1", "A_B==2"]}}, "`packages` names a-b twice"),
        ({"environment": {}}, "name `packages`, torch and transformers among them"),
        ({"environment": {"inherits": True, "python": "3.11"}}, "leave out `python`"),
        ({"environment": {"packages": ["a==1"], "python": "2.7"}}, "python"),
        ({"calls": {"image": "a.b"}}, "calls"),
        ({"trust_remote_code": True}, "pin `revision` and `code_revision`"),
    ],
)
def test_a_card_that_cannot_be_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tower(**fields)


def test_a_card_chooses_where_a_model_runs() -> None:
    def kind(**fields: Any) -> type:
        return type(ModelCard.model_validate({"joint": {"transformers": "a/b", **fields}}).joint)

    assert kind() is kind(trust_remote_code=False) is TransformersTower
    assert kind(environment={"inherits": True}) is kind(trust_remote_code=True, checkpoint="x") is OwnCodeTower
    card = ModelCard.model_validate({"joint": {"transformers": "a/b", "environment": {"inherits": True}}})
    recipe = {"objective": "clip", "epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
    assert ModelCard.model_validate(card.model_dump(mode="json")) == card
    with pytest.raises(ValueError, match="a model with code of its own, or an `environment`, cannot be trained here"):
        ModelCard.model_validate(card.model_dump(mode="json") | {"train": recipe})


@pytest.mark.slow
@pytest.mark.network
def test_code_written_for_transformers_4_runs_beside_transformers_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_OFFLINE", raising=False)
    removed = "from transformers.pytorch_utils import find_pruneable_heads_and_indices"  # much code on the hub has it
    folder = save_stranger(tmp_path / "stranger", f"{removed}\n{CODE}")
    settings = folder / "tokenizer_config.json"  # as transformers 4 wrote it
    write_json(json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}, settings)
    common: dict[str, Any] = {"trust_remote_code": True, "checkpoint": str(folder)}
    with pytest.raises(DataError, match=r"does not run with the libraries of its environment .*find_pruneable_heads"):
        encoders.load(tower(**common), folder, CPU)
    card = tower(**common, environment={"packages": ["transformers==4.51.3"], "inherits": True})
    found = encoders.load(card, folder, CPU)
    assert found.text is not None
    assert found.text.encode(["a dog"]).tolist() == [[10.0, 3.0, 0.0, 5.0]]
