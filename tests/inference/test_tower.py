"""A tower's vectors are kept by what decides them, so that a second card that needs them loads no model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.encoders.test_transformers import POSITIONS, save_clip
from tests.tiny import CPU, jpegs, write_shards
from twinlens.config.base import CardRemarks
from twinlens.config.models import TransformersTower
from twinlens.config.params import ComputeParams
from twinlens.core import tables
from twinlens.core.costs import Cost
from twinlens.core.device import Placement
from twinlens.inference import loop
from twinlens.inference import tower as towers
from twinlens.inference.tower import TowerJob
from twinlens.models import encoders

WORDS = ["a dog", "a red car in the snow " * 6, "a cat and a green tree", "two dogs on a beach " * 5, "a house"] * 2
LONG = 4  # of them are cut
BF16 = Placement(torch.device("cpu"), torch.bfloat16)
COMPUTE = ComputeParams(device="cpu", decode_threads=2, image_batch=None, text_batch=None)
SMALL_BATCHES = ComputeParams(device="cpu", decode_threads=1, image_batch=2, text_batch=3)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A joint model of both towers."""
    save_clip(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return tmp_path / "shards"


@pytest.fixture
def pool(shards: Path) -> pl.DataFrame:
    return write_shards(jpegs(9), shards)


def card(folder: Path, **fields: Any) -> TransformersTower:
    return TransformersTower(transformers="someone/tiny", checkpoint=str(folder), **fields)


def job(tower: TransformersTower, placement: Placement = CPU, compute: ComputeParams = COMPUTE) -> TowerJob:
    return TowerJob(tower, encoders.locate(tower), placement, compute, Cost("cpu-float32"))


def was_loaded(done: TowerJob) -> bool:
    return "loaded" in vars(done.worker)


def captions(words: list[str] = WORDS) -> pl.DataFrame:
    ids = [f"picture-{i:03d}" for i in range(len(words))]
    return pl.DataFrame({"id": [f"{i}#0" for i in ids], "image_id": ids, "text": words})


def embedded(done: TowerJob, shards: Path, pool: pl.DataFrame, out: Path) -> dict[str, bytes]:
    """Everything that a joint tower embeds, as files."""
    out.mkdir(parents=True)
    done.pictures("image", shards, pool, out)
    done.texts("caption", captions(), out)
    return {file.name: file.read_bytes() for file in sorted(out.iterdir())}


def vectors(done: TowerJob, words: list[str], out: Path) -> np.ndarray:
    out.mkdir(parents=True, exist_ok=True)
    done.texts("caption", captions(words), out)
    return np.load(out / "caption.npy")


# ---------------------------------------------------------------- the same


def test_vectors_and_ids_are_written_in_the_order_of_what_was_embedded(
    clip: Path, shards: Path, pool: pl.DataFrame, tmp_path: Path
) -> None:
    done = job(card(clip))
    files = embedded(done, shards, pool.reverse(), tmp_path / "out")
    assert [name for name in files if "probe" not in name] == [
        "caption.npy",
        "caption.parquet",
        "image.npy",
        "image.parquet",
    ]
    assert [name for name in files if "probe" in name] == ["caption.probe.npz", "image.probe.npz"]
    ids = tables.read_table(tmp_path / "out" / "image.parquet", tables.VECTORS)
    assert ids["id"].to_list() == ids["image_id"].to_list() == pool["image_id"].to_list()[::-1]
    assert tables.read_table(tmp_path / "out" / "caption.parquet", tables.VECTORS)["id"][3] == "picture-003#0"
    text, images = done.loaded.text, done.loaded.image
    assert text is not None and images is not None
    with torch.inference_mode():
        one = torch.nn.functional.normalize(text.encode([WORDS[3]]), dim=1).numpy()
    assert np.abs(np.load(tmp_path / "out" / "caption.npy")[3] - one).max() < 1e-5


@pytest.mark.parametrize(
    "same",
    [
        lambda tower: tower,
        lambda tower: tower.model_copy(update={"about": CardRemarks(licence="MIT"), "revision": "0" * 40}),
        lambda tower: card(shutil.copytree(Path(tower.checkpoint), Path(f"{tower.checkpoint} elsewhere"))),
    ],
)
def test_a_second_card_with_the_same_tower_takes_the_vectors_and_loads_no_model(
    same: Callable[[TransformersTower], TransformersTower],
    clip: Path,
    shards: Path,
    pool: pl.DataFrame,
    tmp_path: Path,
) -> None:
    first, second = job(card(clip)), job(same(card(clip)), compute=SMALL_BATCHES)
    wanted = embedded(first, shards, pool, tmp_path / "first")
    assert was_loaded(first)
    assert embedded(second, shards, pool, tmp_path / "second") == wanted
    assert not was_loaded(second)


@pytest.mark.slow
@pytest.mark.usefixtures("bucket_host")
def test_parts_in_a_bucket_give_the_same_bytes_and_are_found_again_on_another_machine(
    clip: Path, shards: Path, pool: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = embedded(job(card(clip)), shards, pool, tmp_path / "local")
    kept = COMPUTE.model_copy(update={"parts": "s3://photos/parts"})
    for machine in ("one", "another"):
        monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / machine))
        done = job(card(clip), compute=kept)
        assert embedded(done, shards, pool, tmp_path / f"{machine} out") == wanted
        assert was_loaded(done) == (machine == "one")


def test_a_joint_model_is_loaded_once_for_both_towers(
    clip: Path, shards: Path, pool: pl.DataFrame, tmp_path: Path
) -> None:
    done = job(card(clip))
    tmp_path.joinpath("out").mkdir()
    done.pictures("image", shards, pool, tmp_path / "out")
    model = done.loaded
    vectors(done, WORDS, tmp_path / "out")
    assert done.loaded is model


# ---------------------------------------------------------------- another


def other_weights(folder: Path) -> TransformersTower:
    path = folder / "model.safetensors"
    state = load_file(path)
    save_file({name: value * 1.5 for name, value in state.items()}, path, metadata={"format": "pt"})
    return card(folder)


CHANGES: dict[str, Callable[[Path], TowerJob]] = {
    "weights": lambda folder: job(other_weights(folder)),
    "prompt": lambda folder: job(card(folder, prompt="there is ")),
    "placement": lambda folder: job(card(folder), BF16),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_decides_a_vector_makes_it_anew(change: str, clip: Path, tmp_path: Path) -> None:
    before = vectors(job(card(clip)), WORDS, tmp_path / "out")
    changed = CHANGES[change](clip)
    after = vectors(changed, WORDS, tmp_path / "out")
    assert was_loaded(changed)
    assert before.shape == after.shape
    assert np.abs(before - after).max() > 1e-4


def test_going_back_to_an_earlier_tower_loads_no_model(clip: Path, tmp_path: Path) -> None:
    before = vectors(job(card(clip)), WORDS, tmp_path / "out")
    vectors(job(card(clip, prompt="there is ")), WORDS, tmp_path / "out")
    back = job(card(clip))
    assert np.array_equal(vectors(back, WORDS, tmp_path / "out"), before)
    assert not was_loaded(back)


@pytest.mark.parametrize("changed", [WORDS[::-1], [*WORDS[:-1], "a Dog"], WORDS[:-1], ["a dogtwo", *WORDS[1:]]])
def test_other_texts_are_embedded_anew(changed: list[str], clip: Path, tmp_path: Path) -> None:
    vectors(job(card(clip)), WORDS, tmp_path / "out")
    second = job(card(clip))
    assert len(vectors(second, changed, tmp_path / "out")) == len(changed)
    assert was_loaded(second)


@pytest.mark.parametrize(
    "change",
    [lambda pool: pool.reverse(), lambda pool: pool[:-1]],
)
def test_other_pictures_are_embedded_anew(
    change: Callable[[pl.DataFrame], pl.DataFrame], clip: Path, shards: Path, pool: pl.DataFrame, tmp_path: Path
) -> None:
    job(card(clip)).pictures("image", shards, pool, tmp_path)
    second = job(card(clip))
    second.pictures("image", shards, change(pool), tmp_path)
    assert was_loaded(second)


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_another_release_of_a_library_makes_the_vectors_anew(
    name: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors(job(card(clip)), WORDS, tmp_path / "out")
    monkeypatch.setattr(towers, "version", lambda package: "99.0" if package == name else version(package))
    upgraded = job(card(clip))
    vectors(upgraded, WORDS, tmp_path / "out")
    assert was_loaded(upgraded)


# ---------------------------------------------------------------- figures


def test_what_a_tower_took_is_recorded_and_the_same_when_its_vectors_are_taken_again(
    clip: Path, shards: Path, pool: pl.DataFrame, tmp_path: Path
) -> None:
    first, second = job(card(clip)), job(card(clip))
    embedded(first, shards, pool, tmp_path / "first")
    embedded(second, shards, pool, tmp_path / "second")
    assert second.cost.parts == first.cost.parts
    image, text = first.cost.parts["image"], first.cost.parts["caption"]
    assert first.loaded.image is not None and first.loaded.text is not None
    assert (image["items"], image["dim"], image["vector_bytes"]) == (9, 16, 64)
    assert (text["items"], text["dim"], text["vector_bytes"]) == (10, 16, 64)
    assert (image["parameters"], text["parameters"]) == (first.loaded.image.parameters, first.loaded.text.parameters)
    assert 0 <= text["seconds"] < 60
    assert text["items_per_s"] > 0


def test_the_number_of_texts_that_were_cut_survives_a_killed_run(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop, "TEXTS_PER_PART", 4)
    killed = job(card(clip))
    text = killed.loaded.text
    assert text is not None and text.max_tokens == POSITIONS
    encode, parts = text.encode, list[list[str]]()

    def encode_two_parts(words: list[str]) -> torch.Tensor:
        if len(parts) == 2:
            raise KeyboardInterrupt
        parts.append(words)
        return encode(words)

    monkeypatch.setattr(text, "encode", encode_two_parts)
    with pytest.raises(KeyboardInterrupt):
        vectors(killed, WORDS, tmp_path / "out")
    assert killed.cost.parts == {}
    resumed = job(card(clip))
    with caplog.at_level("INFO", logger="twinlens"):
        found = vectors(resumed, WORDS, tmp_path / "out")
    assert resumed.cost.parts["caption"]["truncated"] == LONG
    assert f"caption: {LONG} of 10 texts are longer than the tower reads" in caplog.text
    assert resumed.cost.parts["caption"]["items"] == len(found) == 10
