"""Checkpoints as trainers leave them, of every family: wrapped, prefixed, beside settings, and those that run code."""

from __future__ import annotations

import argparse
import datetime
import re
import shutil
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.models.captioners import test_transformers as captioner
from tests.models.encoders import test_open_clip as open_clip
from tests.models.encoders import test_sentence_transformers as sentences
from tests.models.encoders import test_torchvision as torchvision
from tests.models.encoders import test_transformers as transformers
from tests.models.test_classifiers import card as classifier_card
from tests.models.test_classifiers import save as save_classifier
from tests.tiny import CPU, TEXTS, photos
from twinlens.config.models import TimmTower
from twinlens.core.errors import DataError
from twinlens.models import classifiers, encoders
from twinlens.models.state_dicts import read_state, rename_to_fit
from twinlens.models.weights import give_reason

State = dict[str, torch.Tensor]


def named(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: value for name, value in state.items()}


def compiled_inside(state: State) -> State:
    """As a model names its tensors whose parts were compiled one by one."""
    return {f"module.{name.replace('.', '._orig_mod.', 1)}": value for name, value in state.items()}


# What lies in a file, made of a model's own state dict.
FORMS: dict[str, Callable[[State], Any]] = {
    "as it is": dict,
    "compiled": named("_orig_mod."),
    "of Lightning": lambda state: {"state_dict": named("model.")(state), "epoch": 3, "hyper_parameters": {"lr": 1e-4}},
    "of DDP": named("module."),
    "all three": named("module.model._orig_mod."),
    "all three, turned": named("_orig_mod.module.model."),
    "of a class of one's own": named("net.backbone."),
    "parts compiled": compiled_inside,
    "under model_state_dict": lambda state: {"model_state_dict": OrderedDict(state), "optimizer_state_dict": {}},
    "under model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
    "averaged": lambda state: {"state_dict": {k: v * 0 for k, v in state.items()}, "ema": named("module.")(state)},
    "no average": lambda state: {"state_dict": state, "ema": {"decay": torch.tensor(0.9)}},
    "of DeepSpeed": lambda state: {"module": state, "dp_world_size": 2},
    "beside a namespace": lambda state: {
        "state_dict": state,
        "args": argparse.Namespace(lr=1e-4, out=Path("runs/1"), when=datetime.datetime(2024, 1, 2)),
    },
    "beside numbers of numpy": lambda state: {
        "model": state,
        "best": np.float64(0.9),
        "epoch": np.int64(3),
        "curve": np.ones(3, dtype=np.float32),
        "by": defaultdict(list, loss=[np.float32(1)]),
        "last": deque([1.0, 2.0], maxlen=5),
    },
}  # fmt: skip
FLAT = [name for name, form in FORMS.items() if set(map(type, form({"a.b": torch.ones(1)}).values())) == {torch.Tensor}]


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_read_from_every_form(form: str, tmp_path: Path) -> None:
    state = {"stem.conv.weight": torch.ones(2, 3), "stem.bn.bias": torch.arange(3.0), "head.weight": torch.zeros(2)}
    torch.save(FORMS[form](state), tmp_path / "a.pt")
    found = rename_to_fit(read_state(tmp_path / "a.pt", "a model"), state)
    assert list(found) == list(state)
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_a_model_with_a_module_of_its_own_keeps_its_names() -> None:
    own = ["module.conv.weight", "module.module.weight", "model.bias"]
    assert list(rename_to_fit(dict.fromkeys(own), own)) == own
    assert list(rename_to_fit(dict.fromkeys([f"module.{name}" for name in own]), own)) == own
    assert list(rename_to_fit(dict.fromkeys(["a.b", "a.c"]), ["x.y"])) == ["a.b", "a.c"]  # nothing fits


def test_a_prefix_that_not_all_names_share_stays() -> None:
    names = ["model.conv.weight", "loss.weight"]
    assert list(rename_to_fit(dict.fromkeys(names), ["conv.weight"])) == names


# ---------------------------------------------------------------- families


def encode(tower: Any) -> torch.Tensor:
    loaded = encoders.load(tower, encoders.locate(tower), CPU)
    with torch.inference_mode():
        if loaded.image is not None:
            return loaded.image.encode(photos(2, loaded.image.pixels.height))
        assert loaded.text is not None
        return loaded.text.encode(TEXTS)


@pytest.mark.parametrize("form", FORMS)
def test_timm_takes_every_form(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = timm.create_model("test_vit").state_dict()
    vectors = []
    for number, content in enumerate((state, FORMS[form](state))):
        torch.save(content, tmp_path / f"{number}.pth.tar")
        vectors.append(encode(TimmTower(timm="test_vit", checkpoint=str(tmp_path / f"{number}.pth.tar"))))
    assert torch.equal(*vectors)


def rewritten(folder: Path, name: str, form: str, to: str | None = None) -> Path:
    """A copy of a model's folder with its weights in another form."""
    copy = folder.with_name("rewritten")
    shutil.copytree(folder, copy)
    content = FORMS[form](load_file(folder / name))
    (copy / name).unlink()
    if to is None:
        save_file(content, copy / name, metadata={"format": "pt"})
    else:
        torch.save(content, copy / to)
    return copy


@pytest.mark.parametrize("form", FORMS)
def test_open_clip_takes_every_form_in_its_folder(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    open_clip.write_folder(folder)
    copy = rewritten(folder, "open_clip_model.safetensors", form, "open_clip_pytorch_model.bin")
    assert torch.equal(encode(open_clip.custom(copy)), encode(open_clip.custom(folder)))


def test_open_clip_takes_safetensors_of_a_wrapper(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    open_clip.write_folder(folder)
    copy = rewritten(folder, "open_clip_model.safetensors", "all three")
    assert torch.equal(encode(open_clip.custom(copy)), encode(open_clip.custom(folder)))


@pytest.mark.parametrize("form", ["all three", "beside a namespace"])
def test_a_torchvision_detector_takes_them_too(form: str, tmp_path: Path) -> None:
    state = torchvision.random_detector(torchvision.MOBILE, classes=4).state_dict()
    vectors = []
    for number, content in enumerate((state, FORMS[form](state))):
        torch.save(content, tmp_path / f"{number}.pth")
        vectors.append(encode(torchvision.card(tmp_path / f"{number}.pth")))
    assert torch.equal(*vectors)


@pytest.mark.parametrize("form", FORMS)
def test_transformers_takes_every_form(form: str, tmp_path: Path) -> None:
    transformers.save_clip(tmp_path / "clip")
    copy = rewritten(tmp_path / "clip", "model.safetensors", form, "pytorch_model.bin")
    assert torch.equal(encode(transformers.card(copy)), encode(transformers.card(tmp_path / "clip")))


@pytest.mark.parametrize("form", FLAT)
def test_transformers_takes_safetensors_of_a_wrapper(form: str, tmp_path: Path) -> None:
    transformers.save_clip(tmp_path / "clip")
    copy = rewritten(tmp_path / "clip", "model.safetensors", form)
    assert torch.equal(encode(transformers.card(copy)), encode(transformers.card(tmp_path / "clip")))


@pytest.mark.parametrize("form", FLAT)
def test_sentence_transformers_takes_the_weights_of_a_wrapper_rather_than_random_ones(
    form: str, tmp_path: Path
) -> None:
    folder = sentences.save(tmp_path)
    copy = rewritten(folder, "model.safetensors", form)
    assert torch.equal(encode(sentences.card(copy)), encode(sentences.card(folder)))


def test_sentence_transformers_refuses_weights_of_something_else(tmp_path: Path) -> None:
    folder = sentences.save(tmp_path)
    save_file({"some.thing": torch.ones(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lacks \d+ of the model's \d+ parameters"):
        encode(sentences.card(folder))


@pytest.mark.parametrize("form", ["all three", "of Lightning"])
def test_a_captioner_and_a_classifier_take_them_too(form: str, tmp_path: Path) -> None:
    captioner.save("blip", tmp_path / "blip")
    copy = rewritten(tmp_path / "blip", "model.safetensors", form, "pytorch_model.bin")
    words = [captioner.load("blip", folder).caption(photos(2, 32)) for folder in (tmp_path / "blip", copy)]
    assert words[0] == words[1]
    shutil.rmtree(copy)
    folder = save_classifier(tmp_path / "vit")
    copy = rewritten(folder, "model.safetensors", form, "pytorch_model.bin")
    shares = []
    for one in (folder, copy):
        tower = classifier_card(one)
        shares.append(classifiers.load(tower, classifiers.locate(tower), CPU).shares(photos(2, 32), [1, 2, 3]))
    np.testing.assert_array_equal(shares[0], shares[1])


# ---------------------------------------------------------------- refusals

FOREIGN = ("weights_only", "trust_remote_code", "safe_globals", "ignore_mismatched_sizes", "pip install", "allowlist")


class Settings:
    """A class of whoever trained."""

    ran = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        Settings.ran = True


def refused(load: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        load()
    message = str(caught.value)
    assert not any(word in message for word in FOREIGN), message
    return message


def test_a_class_of_others_beside_the_weights_is_not_read_and_what_to_do_is_said(tmp_path: Path) -> None:
    state = timm.create_model("test_vit").state_dict()
    settings = Settings()
    settings.lr = 1.0  # type: ignore[attr-defined]
    torch.save({"state_dict": state, "cfg": settings}, tmp_path / "a.pt")
    transformers.save_clip(tmp_path / "clip")
    (tmp_path / "clip/model.safetensors").unlink()
    shutil.copy(tmp_path / "a.pt", tmp_path / "clip/pytorch_model.bin")
    for tower in (
        TimmTower(timm="test_vit", checkpoint=str(tmp_path / "a.pt")),
        torchvision.card(tmp_path / "a.pt"),
        transformers.card(tmp_path / "clip"),
    ):
        message = refused(lambda tower=tower: encode(tower))  # type: ignore[misc]
        assert "it holds a tests.models.test_state_dicts.Settings beside or around the weights" in message
        assert message.endswith("save the weights alone (`torch.save(model.state_dict(), file)`), and name that")
    assert not Settings.ran


def test_a_whole_model_that_was_pickled_is_refused_in_the_same_way(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit"), tmp_path / "a.pt")
    tower = TimmTower(timm="test_vit", checkpoint=str(tmp_path / "a.pt"))
    assert "it holds a timm.models.vision_transformer.VisionTransformer" in refused(lambda: encode(tower))


def test_a_file_of_an_old_torch_that_is_damaged_anywhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"a": torch.ones(2, 3), "b": torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    key = list(re.finditer(rb"\d{6,}", whole))[-1].start()  # of a storage, in the list at the end
    other_key = whole[:key] + bytes([whole[key] ^ 1]) + whole[key + 1 :]
    for damaged in (other_key, *(whole[:end] for end in range(0, len(whole), 13))):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"old\.pt does not hold the weights of a model"):
            read_state(path, "a model")


def test_a_file_without_tensors_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "note": "none"}, tmp_path / "a.pt")
    assert "found epoch, note; wanted tensors by name" in refused(lambda: read_state(tmp_path / "a.pt", "it"))
    torch.save([torch.ones(1)], tmp_path / "a.pt")
    assert "found list; wanted tensors by name" in refused(lambda: read_state(tmp_path / "a.pt", "it"))
    (tmp_path / "a.pt").write_bytes(b"")
    assert refused(lambda: read_state(tmp_path / "a.pt", "it")).endswith("the file is empty, or ends too early")


def test_what_does_not_fit_is_counted_and_named(tmp_path: Path) -> None:
    state = timm.create_model("test_vit").state_dict()
    state["blocks.0.mlp.fc1.weight"] = torch.ones(7, 5)
    del state["blocks.0.norm1.weight"]
    torch.save(state | {"loss.weight": torch.ones(1)}, tmp_path / "a.pt")
    message = refused(lambda: encode(TimmTower(timm="test_vit", checkpoint=str(tmp_path / "a.pt"))))
    assert "lacks 1 of its 80 tensors (the first is blocks.0.norm1.weight)" in message
    assert "has 1 that it does not know (the first is loss.weight)" in message
    assert "has blocks.0.mlp.fc1.weight of 7 x 5 where it has 192 x 64" in message


def test_another_number_of_classes_is_said_with_the_line_for_the_card(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=10).state_dict()
    torch.save(named("module.")(state), tmp_path / "a.pt")
    tower = TimmTower(timm="test_vit", checkpoint=str(tmp_path / "a.pt"))
    assert "tells 10 classes apart, the model 1,000; write `kwargs: {num_classes: 10}`" in refused(
        lambda: encode(tower)
    )
    assert encode(tower.model_copy(update={"kwargs": {"num_classes": 10}})).shape == (2, 64)


def test_a_configuration_of_another_size_is_said_by_its_shapes(tmp_path: Path) -> None:
    transformers.save_clip(tmp_path)
    config = (tmp_path / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(config.replace('"projection_dim": 16', '"projection_dim": 8'), "utf-8")
    message = refused(lambda: encode(transformers.card(tmp_path)))
    assert (
        "holds text_projection.weight of 16 x 32 where its config.json asks for 8 x 32 (and 1 more differ)" in message
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("It does not fit. Set `weights_only=False` if you trust the source.", "It does not fit."),
        ("A repository wants `trust_remote_code=True`.\nIts code is old.", "Its code is old."),
        ('Missing: "a", "b", "c", "d".\n size mismatch for e', 'Missing: "a" and 3 more. size mismatch for e'),
        ("\x1b[1mcut\x1b[0m short", "cut short"),
        ("", "ValueError"),
    ],
)  # fmt: skip
def test_a_reason_is_what_is_wrong_without_lists_and_advice_for_programmers(text: str, reason: str) -> None:
    assert give_reason(ValueError(text)) == reason


def test_a_long_reason_keeps_its_beginning_and_its_end() -> None:
    found = give_reason(ValueError(f"it began so {'and on ' * 200} and that is why"))
    assert found.startswith("it began so") and found.endswith("and that is why") and len(found) <= 300
