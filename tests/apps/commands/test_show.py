"""`twinlens show`: what is known of one picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.apps.commands.conftest import Done
from tests.indexing.conftest import CAPTIONER, DATASET, MODEL
from twinlens import Searcher, search
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.evaluation.card_figures import HeldFigure, write_figures

Command = Callable[..., Done]


@pytest.mark.usefixtures("root")
def test_a_picture_is_shown_with_captions_labels_split_and_the_nearest(twinlens: Command, tmp_path: Path) -> None:
    name = Searcher().index.ids[4]
    picture = Searcher().picture(name)
    done = twinlens("show", name, "--near", "2", "--thumbnail", str(tmp_path / "small.jpg"))
    assert done.code == 0, done.err
    rows = [tuple(line.split("\t")) for line in done.out.splitlines()]
    near = search(like=name, mode="vector", k=2).hits
    assert rows == [
        ("what", "value"),
        ("id", name),
        ("split", "test"),
        ("labels", ", ".join(picture.labels)),
        *(("caption", caption) for caption in picture.captions),
        (f"caption by {CAPTIONER}", picture.caption_generated),
        ("thumbnail", str(tmp_path / "small.jpg")),
        *(("near", f"{hit.image_id} {hit.score:.4f} {', '.join(hit.labels)}") for hit in near),
    ]
    assert (tmp_path / "small.jpg").read_bytes() == picture.thumbnail
    found = json.loads(twinlens("show", name, "--json", "--near", "0").out)
    assert (found["image_id"], found["split"], found["nearest"]) == (name, "test", [])


@pytest.mark.usefixtures("copy")
def test_where_the_tables_are_not_here_the_split_is_unknown(twinlens: Command) -> None:
    name = Searcher().index.ids[4]
    (paths.grouped(DATASET) / "images.parquet").unlink()
    assert "split\tunknown" in twinlens("show", name).out


@pytest.mark.usefixtures("root")
def test_an_unknown_id_and_a_file_that_cannot_be_written_end_with_2(twinlens: Command) -> None:
    done = twinlens("show", "test-0000x")
    assert (done.code, done.out) == (2, "")
    assert "there is no picture 'test-0000x' among the 60 indexed: did you mean" in done.err
    name = Searcher().index.ids[0]
    assert "cannot be written" in twinlens("show", name, "--thumbnail", "no/such/folder.jpg").err


@pytest.mark.usefixtures("copy")
def test_what_papers_report_of_the_model_stands_beside_what_was_measured(twinlens: Command) -> None:
    figure = HeldFigure(
        *("a paper", "flickr30k, test", "caption_to_image", "hit_at_1", 0.6678, 0.61, 0.59, 0.63),
        ["prompt: none here, 'a photo of ' there"],
    )
    folder = paths.evaluated(DATASET, MODEL)
    folder.mkdir(parents=True, exist_ok=True)
    write_figures([figure], folder, Gates(read_params().gates))
    done = twinlens("show", "--published")
    assert done.code == 0, done.err
    values = done.out.splitlines()[1].split("\t")
    assert values[4:] == ["0.6678", "0.6100", "0.5900 to 0.6300", "prompt: none here, 'a photo of ' there"]
    assert json.loads(twinlens("show", "--published", "--json").out)[0]["differs"] == figure.differs
    (folder / "published.json").write_text("[]")
    assert f"the card of {MODEL} has no figures that are about the pictures of {DATASET}" in (
        twinlens("show", "--published").err
    )


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name a picture by its id, or write `--published` without one"),
        (("test-00000", "--published"), "name a picture by its id, or write `--published` without one"),
        (("--published", "-m", "vit-b-32"), f"vit-b-32 was not measured on {DATASET} here: `dvc exp run"),
        (("--published", "-m", "vit-b-23"), "did you mean 'vit-b-32'?"),
    ],
)
def test_a_question_that_is_about_neither_is_answered(twinlens: Command, arguments: tuple[str, ...], told: str) -> None:
    done = twinlens("show", *arguments)
    assert done.code == 2
    assert told in done.err
