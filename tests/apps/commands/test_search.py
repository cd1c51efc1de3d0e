"""`twinlens search`: every mode, every form of answer, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.apps.commands.conftest import ROOT, Done, process
from tests.indexing.conftest import CAPTIONER, DATASET, MODEL
from twinlens import Searcher, __version__, search
from twinlens.core import paths
from twinlens.indexing.manifest import Manifest, locate_copy
from twinlens.indexing.results import Hit, Results

TEXT = "a red car in the snow"
Command = Callable[..., Done]


def ids(done: Done) -> list[str]:
    assert done.code == 0, done.err
    return [line.split("\t")[2] for line in done.out.splitlines()[1:]]


def photo(path: Path) -> Path:
    Image.new("RGB", (60, 50), (200, 30, 30)).save(path)
    return path


def expected(*arguments: Any, **query: Any) -> list[str]:
    return [hit.image_id for hit in search(*arguments, **query).hits]


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
def test_words_find_what_the_library_finds(twinlens: Command, mode: str) -> None:
    assert ids(twinlens("search", TEXT, "--mode", mode, "-k", "4")) == expected(TEXT, mode=mode, k=4)


@pytest.mark.usefixtures("root")
def test_a_picture_alone_and_with_words_and_a_weight(twinlens: Command, tmp_path: Path) -> None:
    image = photo(tmp_path / "photo.png")
    assert ids(twinlens("search", "--image", str(image))) == expected(image=image)
    both = ids(twinlens("search", TEXT, "-i", str(image), "--image-weight", "0.9"))
    assert both == expected(TEXT, image=image, image_weight=0.9)
    assert both != ids(twinlens("search", TEXT, "-i", str(image), "--image-weight", "0.1"))


@pytest.mark.usefixtures("root")
def test_pictures_like_and_unlike_by_rocchio_and_by_exemplars(twinlens: Command) -> None:
    names = Searcher().index.ids
    marks = ["--like", names[3], "--like", names[5], "--not", names[9]]
    query: dict[str, Any] = {"like": [names[3], names[5]], "unlike": [names[9]]}
    assert ids(twinlens("search", *marks)) == expected(**query)
    learned = ids(twinlens("search", *marks, "--mode", "exemplar"))
    assert learned == expected(mode="exemplar", **query)
    assert not set(learned) & {names[3], names[5], names[9]}


@pytest.mark.usefixtures("root")
def test_names_and_the_fusion_are_passed_on(twinlens: Command) -> None:
    query = {"mode": "hybrid", "fusion": "weighted", "text_weight": 0.9, "model": "apart"}
    done = twinlens(
        "search", TEXT, "--mode", "hybrid", "--fusion", "weighted", "--text-weight", "0.9", "-m", "apart",
        "-d", DATASET, "-c", CAPTIONER,
    )  # fmt: skip
    assert ids(done) == expected(TEXT, **query)


@pytest.mark.usefixtures("root")
def test_json_holds_the_whole_answer_and_nothing_else(twinlens: Command) -> None:
    done = twinlens("search", TEXT, "-k", "2", "--json")
    answer, wanted = json.loads(done.out), search(TEXT, k=2)
    assert (done.code, done.err) == (0, "")
    assert set(answer) == {"hits", "mode", "dataset", "model", "captioner", "seconds", "notes"}
    assert (answer["mode"], answer["dataset"], answer["model"], answer["captioner"]) == (
        "vector",
        DATASET,
        MODEL,
        CAPTIONER,
    )
    assert set(answer["seconds"]) == {"load", "embed", "search", "read"}
    hit = answer["hits"][0]
    assert set(hit) == {"rank", "score", "image_id", "captions", "caption_generated", "labels", "confidence"}
    assert (hit["rank"], hit["image_id"], hit["score"]) == (1, wanted.hits[0].image_id, wanted.hits[0].score)
    assert tuple(hit["captions"]) == wanted.hits[0].captions


@pytest.mark.usefixtures("root")
def test_only_a_sure_answer_is_asked_for_and_where_that_is_not_known_the_reason_is_told(twinlens: Command) -> None:
    done = twinlens("search", TEXT, "--only-if-sure", "0.9")
    assert (done.code, done.out) == (2, "")
    assert "only_if_sure: how sure an answer is, is not known here: the index was built without it" in done.err
    assert "should be from 0 to 1, found 2" in twinlens("search", TEXT, "--only-if-sure", "2").err


@pytest.mark.usefixtures("root")
def test_nothing_found_is_an_exit_code_of_its_own(twinlens: Command) -> None:
    done = twinlens("search", "zeppelin", "--mode", "text")
    assert (done.code, done.out) == (1, "")
    assert "no caption holds any of these words\nnothing found" in done.err
    done = twinlens("search", "zeppelin", "--mode", "text", "--json")
    assert (done.code, json.loads(done.out)["hits"]) == (1, [])


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["search"], "the query is empty: give words, a picture, or indexed pictures"),
        (["search", " \t "], "the query is empty"),
        (["search", TEXT, "--mode", "exemplar"], "mode 'exemplar' learns from pictures"),
        (["search", TEXT, "--like", "test-0000x"], "did you mean 'test-000"),
        (["search", TEXT, "--model", "clip-scnes"], "did you mean 'clip-scenes'?"),
        (["search", TEXT, "--mode", "vecto"], "'vecto' is not one of"),
        (["search", TEXT, "-k", "0"], "should be greater than or equal to 1"),
        (["search", TEXT, "--image-weight", "1.5"], "'--image-weight': should be from 0 to 1, found 1.5"),
        (["search", TEXT, "--text-weight", "nan"], "'--text-weight': should be from 0 to 1, found nan"),
        (["search", "--not", "test-00003"], "only what is not wanted is given: add words"),
        (["search", "--image", "nowhere.png"], "nowhere.png is not a file"),
        (["search", TEXT, "--json", "--sheet"], "two ways to write one answer"),
        (["search", TEXT, "--out", "no/such/folder.html"], "cannot be written"),
    ],
)
def test_what_cannot_be_answered_ends_with_2_and_says_why(twinlens: Command, arguments: list[str], says: str) -> None:
    done = twinlens(*arguments)
    assert (done.code, done.out) == (2, "")
    assert says in " ".join(done.err.replace("│", " ").split())
    assert "Traceback" not in done.err


@pytest.mark.usefixtures("root")
def test_an_image_that_is_a_text_file_is_refused(twinlens: Command, tmp_path: Path) -> None:
    fake = tmp_path / "photo.jpg"
    fake.write_text("these are words")
    done = twinlens("search", "--image", str(fake))
    assert done.code == 2
    assert "the query's image cannot be used" in done.err


@pytest.mark.usefixtures("root")
def test_ten_thousand_words_are_cut_and_that_is_said(twinlens: Command) -> None:
    done = twinlens("search", "car " * 10_000)
    assert len(ids(done)) == 10
    assert "note: the query is cut: 256 of its 10,000 words" in done.err


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("text", ["🐕 🏖️", "מכונית אדומה", "\u202eesrever", "car\x1b[31m\x07", "' OR 1=1; --"])
def test_any_script_and_any_sign_can_be_asked_for(twinlens: Command, text: str) -> None:
    assert len(ids(twinlens("search", text))) == 10


@pytest.mark.usefixtures("copy")
def test_a_missing_index_and_one_of_another_model_name_the_command(twinlens: Command) -> None:
    assert "`dvc exp run -S model=vit-b-32 index`" in twinlens("search", TEXT, "--model", "vit-b-32").err
    towers = Manifest.read(paths.indexed(DATASET, MODEL, CAPTIONER)).towers
    config = towers / "weights" / "open_clip_config.json"
    content = config.read_text()
    config.unlink()
    config.write_text(content + " ")
    done = twinlens("search", TEXT)
    assert (done.code, done.out) == (2, "")
    assert "other weights of clip-scenes than are here now: `dvc repro index`" in done.err
    paths.indexed(DATASET, MODEL, CAPTIONER).unlink()
    locate_copy(DATASET, MODEL, CAPTIONER).unlink()
    assert "there is no index of scenes with clip-scenes" in twinlens("search", TEXT).err


def test_outside_a_repository_the_message_says_where_to_run(
    twinlens: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = twinlens("search", TEXT)
    assert done.code == 2
    assert "run from the root of the repository" in done.err


def answer(**changed: Any) -> Results:
    plain = {"image_id": "a", "captions": ("one",), "caption_generated": None, "labels": (), "thumbnail": b"\xff\xd8"}
    hit = Hit(**(plain | {"rank": 1, "score": 0.5} | changed))
    return Results(hits=(hit,), mode="vector", dataset="d", model="m", captioner="c", seconds={"embed": 0.1}, notes=())


def test_what_comes_from_data_steers_no_terminal_and_no_page(
    twinlens: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nasty = answer(image_id="a\x1b[2J\n1\t0.9\tb", captions=("x\x9b31m [red]\u202e<script>alert(1)</script>",))
    monkeypatch.setattr("twinlens.search", lambda *_, **__: nasty, raising=False)
    done = twinlens("search", "x")
    heading, line = done.out.splitlines()
    assert heading == "#\tscore\tid\tlabels\tcaption"
    assert line == "1\t0.5000\ta [2J 1 0.9 b\t\tx 31m [red]<script>alert(1)</script>"
    assert json.loads(twinlens("search", "x", "--json").out)["hits"][0]["image_id"] == "a\x1b[2J\n1\t0.9\tb"
    twinlens("search", "<b>x</b>", "--out", str(tmp_path / "s.html"), "--no-open")
    page = (tmp_path / "s.html").read_text()
    assert "<script" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page


def test_a_terminal_gets_a_table(twinlens: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinlens.search", lambda *_, **__: answer(captions=("[bold]loud[/bold]",)), raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    done = twinlens("search", "x")
    assert "labels" in done.out
    assert "[bold]loud[/bold]" in done.out
    assert "vector, d with m, 100 ms" in done.err


@pytest.mark.usefixtures("root")
def test_a_sheet_is_one_page_with_its_pictures_opened_where_there_is_a_display(
    twinlens: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr("webbrowser.open", seen.append)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", ":0")
    out = tmp_path / "sheet.html"
    done = twinlens("search", TEXT, "-k", "3", "--out", str(out))
    assert (done.code, done.out, seen) == (0, f"{out}\n", [out.as_uri()])
    page = out.read_text()
    assert page.count('src="data:image/jpeg;base64,') == 3
    assert "http" not in page.replace("http-equiv", "")
    assert search(TEXT, k=3).hits[2].image_id in page
    twinlens("search", TEXT, "--out", str(out), "--no-open")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = Path(twinlens("search", TEXT, "--sheet").out.strip())
    assert made.parent == tmp_path
    assert made.stat().st_size > 1000
    assert len(seen) == 1


@pytest.mark.usefixtures("root")
def test_a_pipe_gets_plain_lines_and_words_need_neither_torch_nor_lancedb() -> None:
    done = process("search", TEXT, "-k", "2", FORCE_COLOR="1", TERM="xterm-256color")
    assert (done.returncode, done.stderr) == (0, "")
    assert [len(line.split("\t")) for line in done.stdout.splitlines()] == [5, 5, 5]  # heading and pictures
    assert "\x1b" not in done.stdout
    code = (
        "import sys\nfrom twinlens.apps.cli import main\n"
        "try:\n    main(['search', 'a red car', '--mode', 'hybrid'])\n"
        "except SystemExit as ended:\n    assert not ended.code\n"
        "heavy = {'torch', 'open_clip', 'transformers', 'lancedb', 'polars', 'scipy'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, check=True, env={"PYTHONPATH": str(ROOT)}
        | {name: value for name, value in os.environ.items() if name.startswith("TWINLENS")},
    )  # fmt: skip
    assert done.stderr.strip() == "set()"


@pytest.mark.usefixtures("root")
def test_a_reader_that_goes_away_is_no_error() -> None:
    piped = f"{sys.executable} -m twinlens search car -k 60 --json | head -1"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", piped], text=True, capture_output=True, check=False, env=environment)
    assert done.stdout == "{\n"
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("root")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
@pytest.mark.parametrize("more", [["--json"], []])
def test_an_answer_that_cannot_be_written_ends_with_2_and_no_traceback(more: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "twinlens", "search", "car", *more]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, text=True, stdout=full, stderr=subprocess.PIPE, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("twinlens: the disk is full")


def test_the_version_is_told_without_a_command(twinlens: Command) -> None:
    assert twinlens("--version") == Done(0, f"twinlens {__version__}\n", "")


def test_the_help_has_examples_and_exit_codes(twinlens: Command) -> None:
    for name in ("search", "show", "models", "datasets"):
        done = twinlens(name, "--help")
        assert done.code == 0
        assert f"twinlens {name}" in done.out.split("Examples", 1)[1]
    assert "0 found, 1 nothing found, 2 wrong usage" in " ".join(twinlens("search", "--help").out.split())
