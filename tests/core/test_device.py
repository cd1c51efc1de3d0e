"""Where a model runs: the choice of a device, and that half precision gives the vectors of full precision nearly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from tests.models.encoders import test_open_clip, test_sentence_transformers, test_timm, test_transformers
from tests.tiny import CPU, TEXTS, photos
from twinlens.config.models import Tower
from twinlens.core import device as placement
from twinlens.core.device import Placement, choose_device, choose_matrix_dtype, has_bfloat16, warn_of_emulation
from twinlens.core.errors import ParamsError
from twinlens.models import encoders
from twinlens.models.encoders.base import LoadedEncoders

BF16 = Placement(torch.device("cpu"), torch.bfloat16)


def test_auto_takes_what_is_here() -> None:
    found = choose_device("auto")
    assert torch.zeros(1, device=found.device).device.type == found.device.type
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert found == CPU


def test_a_cpu_computes_in_full_precision() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("cpu").name == "cpu-float32"
    assert BF16.name == "cpu-bfloat16"


@pytest.mark.parametrize(
    ("capability", "has_avx512_bf16", "has_amx", "wanted"),
    [
        ("AVX512", True, False, True),
        ("AVX512", False, True, True),
        ("AVX512", False, False, False),
        ("AVX2", True, True, False),  # torch was told to leave AVX512 alone, and bfloat16 with it
        ("DEFAULT", False, False, False),
        ("SVE256", True, False, False),
    ],
)
def test_a_cpu_has_bfloat16_where_torch_has_units_for_it(
    capability: str, has_avx512_bf16: bool, has_amx: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    assert has_bfloat16(torch.device("cpu")) is wanted
    assert choose_matrix_dtype(torch.device("cpu")) == torch.float32  # whichever processor it is
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize(("native", "wanted"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_that_only_emulates_bfloat16_is_not_taken_for_one_that_has_it(
    native: bool, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turing and Volta say yes unless they are asked without their emulation."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    monkeypatch.setattr(torch, "empty", lambda *shape, **where: None)
    assert has_bfloat16(torch.device("cuda:1")) is native
    assert choose_matrix_dtype(torch.device("cuda:1")) == wanted
    assert choose_device("cuda:1").dtype == wanted


def test_what_would_be_emulated_is_said_aloud_and_what_is_there_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(placement, "has_bfloat16", lambda device: True)
    warn_of_emulation(torch.device("cpu"), "train.precision")
    assert caplog.messages == []
    monkeypatch.setattr(placement, "has_bfloat16", lambda device: False)
    warn_of_emulation(torch.device("cpu"), "train.precision")
    (message,) = caplog.messages
    assert message.startswith("train.precision is bfloat16, which this processor has no units for")


def test_a_gpu_that_torch_cannot_use_is_told_of_and_the_cpu_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def too_old() -> bool:
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).\nUpdate",
            stacklevel=1,
        )
        return False

    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    (message,) = caplog.messages
    assert message.startswith("there is a GPU, which torch cannot use, so that the CPU is taken: CUDA initialization")
    assert message.endswith("too old (found version 11040).")


@pytest.mark.gpu
def test_a_gpu_computes_in_half_precision_where_it_can() -> None:
    found = choose_device("cuda")
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    assert found.dtype == (torch.bfloat16 if native else torch.float32)
    assert choose_device("auto") == found
    assert choose_device("cuda:0").name == found.name  # which of several cards it was decides no digit


@pytest.mark.parametrize("device", ["cupboard", "cuda:99", "cpu:x", "", "xla"])
def test_a_device_that_is_not_here_is_refused_in_one_line(device: str) -> None:
    with pytest.raises(ParamsError, match=f"compute.device: '{device}' is not here") as caught:
        choose_device(device)
    assert str(caught.value).endswith("try `auto`")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- half precision


def open_clip_tower(folder: Path) -> Tower:
    test_open_clip.write_folder(folder)
    return test_open_clip.custom(folder)


def clip_tower(folder: Path) -> Tower:
    test_transformers.save_clip(folder)
    return test_transformers.card(folder)


def siglip_tower(folder: Path) -> Tower:
    test_transformers.save_siglip(folder)
    return test_transformers.card(folder)


def bert_tower(folder: Path) -> Tower:
    test_transformers.save_bert(folder)
    return test_transformers.card(folder, pooling="mean")


def sentence_tower(folder: Path) -> Tower:
    return test_sentence_transformers.card(test_sentence_transformers.save(folder))


TOWERS: dict[str, Callable[[Path], Tower]] = {
    "open_clip": open_clip_tower,
    "timm, convolutions": lambda folder: test_timm.save("test_efficientnet", folder),
    "timm, transformer": lambda folder: test_timm.save("test_vit", folder),
    "sentence-transformers": sentence_tower,
    "transformers, CLIP": clip_tower,
    "transformers, SigLIP": siglip_tower,
    "transformers, BERT": bert_tower,
}


def vectors(towers: LoadedEncoders) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        if towers.image is not None:
            found["image"] = towers.image.encode(photos(4, towers.image.pixels.height))
        if towers.text is not None:
            found["text"] = towers.text.encode(TEXTS)
    return found


@pytest.mark.parametrize("name", TOWERS)
def test_half_precision_gives_nearly_the_same_vectors_in_float32(name: str, tmp_path: Path) -> None:
    tower = TOWERS[name](tmp_path)
    path = encoders.locate(tower)
    full, half = (vectors(encoders.load(tower, path, placement)) for placement in (CPU, BF16))
    assert full.keys() == half.keys() != set()
    for side, wanted in full.items():
        found = half[side]
        assert found.dtype == wanted.dtype == torch.float32
        assert found.device.type == "cpu"
        assert torch.cosine_similarity(found, wanted).min() > 0.99
        assert not torch.equal(found, wanted)  # it was half precision
        assert torch.linalg.matrix_rank(wanted, atol=1e-3) == len(wanted)  # other input, other vectors
