"""Golden vectors on cards: written where the checkpoint is named, and nothing else of the file moves."""

from __future__ import annotations

from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from twinlens.config.base import GOLDEN_NUMBERS, GoldenVectors
from twinlens.config.cards import Cards, Library
from twinlens.config.golden import write_golden
from twinlens.config.models import ModelCard
from twinlens.core.errors import ParamsError

GOLDEN = GoldenVectors(pictures=(0.0123, -0.5, 0.0), texts=(1e-3,))
PLAIN = "# a remark\nimage:\n  timm: resnet50.a1_in1k # of 2021\n  about:\n    licence: Apache-2.0\n\n# another\n"


def write(folder: Path, **cards: str) -> None:
    (folder / "cards/models").mkdir(parents=True, exist_ok=True)
    for name, text in cards.items():
        (folder / f"cards/models/{name}.yaml").write_text(text, encoding="utf-8")


def models(folder: Path) -> Cards[ModelCard]:
    return Cards(Library(folder / "cards"), "models", ModelCard)


def remember(folder: Path, name: str, role: str = "image", golden: GoldenVectors = GOLDEN) -> str:
    tower = models(folder)[name].towers()[role]
    path = write_golden(Library(folder / "cards"), f"models/{name}", role, tower, golden)
    found = models(folder)[name].towers()[role].about.golden
    assert found == golden
    return path.read_text(encoding="utf-8")


def test_lines_are_added_below_about_and_all_others_stay(tmp_path: Path) -> None:
    write(tmp_path, plain=PLAIN)
    added = "    golden:\n      pictures: 0.01230 -0.50000 0.00000\n      texts: 0.00100\n"
    assert remember(tmp_path, "plain") == PLAIN.replace("Apache-2.0\n", f"Apache-2.0\n{added}")
    again = remember(tmp_path, "plain", golden=GoldenVectors(pictures=(0.25,)))
    assert again == PLAIN.replace("Apache-2.0\n", "Apache-2.0\n    golden:\n      pictures: 0.25000\n")


def test_a_card_without_remarks_gets_them(tmp_path: Path) -> None:
    text = "image:\n  timm: resnet50\n  checkpoint: mine.bin\n  preprocess:\n    mean:\n    - 0.5\n    - 0.5\n"
    write(tmp_path, bare=text)
    wanted = "  about:\n    golden:\n      pictures: 0.01230 -0.50000 0.00000\n      texts: 0.00100\n"
    assert remember(tmp_path, "bare") == text + wanted


def test_they_go_where_the_checkpoint_is_named(tmp_path: Path) -> None:
    other = "image:\n  base: models/plain.image\ntext:\n  word_vectors: a.vec\n"
    mine = "image:\n  base: models/plain.image\n  checkpoint: mine.bin\n"
    write(tmp_path, plain=PLAIN, other=other, mine=mine)
    assert remember(tmp_path, "other").startswith("# a remark")
    assert (tmp_path / "cards/models/other.yaml").read_text() == other
    assert models(tmp_path)["mine"].towers()["image"].about.golden == GOLDEN  # inherited, until it has its own
    assert remember(tmp_path, "mine", golden=GoldenVectors(pictures=(0.5,), texts=(0.25,))).startswith(mine)
    assert models(tmp_path)["plain"].towers()["image"].about.golden == GOLDEN


def test_a_file_that_no_lines_fit_into_is_left_alone_and_the_lines_are_said(tmp_path: Path) -> None:
    text = "image: {timm: resnet50.a1_in1k}\n"
    write(tmp_path, flow=text)
    with pytest.raises(ParamsError, match=r"(?s)flow\.yaml: write these lines yourself, .*pictures: 0.01230"):
        remember(tmp_path, "flow")
    assert (tmp_path / "cards/models/flow.yaml").read_text() == text


def test_dvc_leaves_full_lines_of_them_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, plain=PLAIN)
    whole = (-0.12345,) * GOLDEN_NUMBERS
    text = remember(tmp_path, "plain", golden=GoldenVectors(pictures=whole, texts=whole))
    apply_overrides(tmp_path / "cards/models/plain.yaml", ["+new=1"])
    assert (tmp_path / "cards/models/plain.yaml").read_text() == text + "new: 1\n"


def test_numbers_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, plain=PLAIN.replace("Apache-2.0\n", "Apache-2.0\n    golden:\n      pictures: 0.1 much\n"))
    with pytest.raises(ParamsError, match=r"plain\.yaml, line \d+: image\.about\.golden.*found 'much'"):
        models(tmp_path)["plain"]


def test_what_a_card_remembers_decides_no_result(tmp_path: Path) -> None:
    write(tmp_path, plain=PLAIN)
    before = models(tmp_path)["plain"].model_dump(mode="json")
    remember(tmp_path, "plain")
    assert models(tmp_path)["plain"].model_dump(mode="json") == before
