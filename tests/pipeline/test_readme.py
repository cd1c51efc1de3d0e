"""What README.md says is so: its tables, its commands, its links, its example."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from tests.evaluation.test_choose import of, three
from tests.pipeline.test_dvc_contract import LEADERBOARD
from tests.workspace import ROOT, change
from tools import readme
from twinlens.config.load import check_cards, read_params
from twinlens.report.choice_text import format_choice

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
COMMANDS = [
    line.split("#")[0].strip() for line in TEXT.splitlines() if re.match(r"^    (dvc|make|python|source) ", line)
]


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_tables_show_what_the_numbers_say() -> None:
    tables = {}
    for page in readme.PAGES:
        text = page.read_text(encoding="utf-8")
        tables[page.as_posix()] = text.count("<!-- table:")
        assert readme.rewrite_page(text) == text, "run `make readme`"
    assert all(tables.values())
    assert sum(tables.values()) == 12


def test_tables_of_the_default_are_left_where_other_numbers_are_kept() -> None:
    block = "<!-- table: default -->\nof another day\n<!-- end -->"
    assert readme.rewrite_page(block, readme.OF_THE_DEFAULT) == block
    assert readme.rewrite_page(block) != block


def test_the_default_table_is_of_the_default() -> None:
    assert readme.read_numbers("default")["object_sets"]["pool"]["dataset"] == PARAMS["dataset"]


def test_numbers_that_are_kept_are_told_in_the_order_of_the_tasks() -> None:
    order = list(readme.read_numbers("default"))
    assert order[:3] == ["object_sets", "caption_to_image", "image_to_caption"]
    kept = [path.stem for path in (ROOT / readme.KEPT).glob("*.json") if path.stem not in ("training", "seeds")]
    kept = [name for name in kept if not name.startswith(readme.CHOICE)]
    assert kept
    for name in kept:
        tasks = list(readme.read_numbers(name))
        assert tasks == sorted(tasks, key=order.index), name


def test_what_choose_said_is_a_table_with_its_sentence_above() -> None:
    said = format_choice(of(three()), "json")
    table = readme.format_choice(json.loads(said)).splitlines()
    assert table[0] == json.loads(said)["sentence"]
    (taken,) = [line for line in table if line.startswith("| **>**")]
    assert [cell.strip() for cell in taken.split("|")][2] == "`b`"
    assert "| 1 ms" in taken
    assert table[-1] == "caption_to_image: 400 queries in 80 clusters."


def test_make_commands_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wanted = {shlex.split(command)[1] for command in COMMANDS if command.startswith("make ")}
    assert {"repro", "test"} <= wanted <= targets


def alternatives(setting: str) -> list[tuple[str, str]]:
    """`model=a,b` is two settings, `evaluate.ks=[1,10]` is one."""
    key, value = setting.split("=", 1)
    return [(key, value)] if value.startswith("[") else [(key, each) for each in value.split(",")]


SETTINGS = sorted(
    {
        pair
        for command in COMMANDS
        for setting in re.findall(r"-S '?([^' ]+)'?", command)
        for pair in alternatives(setting)
    }
)


@pytest.mark.parametrize(("key", "value"), SETTINGS)
def test_every_parameter_that_a_command_sets_is_valid(key: str, value: str, tmp_path: Path) -> None:
    shutil.copytree("cards", tmp_path / "cards")
    shutil.copy("params.yaml", tmp_path / "params.yaml")
    file, _, dotted = key.rpartition(":")
    node = yaml.safe_load((tmp_path / (file or "params.yaml")).read_text(encoding="utf-8"))
    *parents, last = dotted.removeprefix("+").split(".")
    for parent in parents:
        node = node[parent]
    assert (last in node) != dotted.startswith("+"), f"{key} is no parameter"
    change(tmp_path, {key.replace(":+", ":"): yaml.safe_load(value)})
    check_cards(read_params(tmp_path / "params.yaml"))


def test_every_command_with_cards_in_other_pages_is_valid(tmp_path: Path) -> None:
    pages = [ROOT / "cards/README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"]
    found = [name for page in pages for name in re.findall(r"-S '?(cards/[^:]+):", page.read_text(encoding="utf-8"))]
    assert found
    assert [name for name in found if not (ROOT / name).exists()] == []


def test_the_leaderboard_of_the_readme_is_the_one_that_was_tried() -> None:
    assert f"--drop '{LEADERBOARD}'" in TEXT


PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "cards/README.md",
    "benchmarks/RESULTS.md",
    *sorted(map(str, Path("docs").glob("*.md"))),
]


def list_headings(page: Path) -> set[str]:
    """Headings of a page, as links name them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file, _, heading = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        assert not heading or heading in list_headings(there), target
