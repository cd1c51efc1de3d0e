"""The leaderboard's page: it says what the text says, stands alone, and escapes what comes from data."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
import pytest
import simplejpeg

from tests import experiments
from tests.evaluation import drawn
from tests.evaluation.test_choose import IMAGE, MEASURE, TASK, costs, of, three, with_costs
from tests.experiments import experiment
from twinlens.core import tables
from twinlens.core.shards import shard_path
from twinlens.evaluation.candidates import Candidate
from twinlens.evaluation.choose import Choice
from twinlens.evaluation.entries import Limits
from twinlens.report import charts
from twinlens.report.choice_text import write_sentence
from twinlens.report.leaderboard import render
from twinlens.report.leaders import Material, list_rivals, say_swap, tell_slices
from twinlens.tasks.base import Task

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_the_page_says_what_to_take_and_has_a_line_a_candidate_with_its_interval_drawn() -> None:
    found = of(three())
    page = render(found)
    assert f'<p class="verdict">{write_sentence(found)}</p>' in page
    rows = re.findall(r'<tr class="(\w*)"><th scope="row" data-value="(\w+)">', page)
    assert [name for _, name in rows] == [entry.name for entry in found.entries]
    assert [name for style, name in rows if style == "taken"] == ["b"]
    assert page.count('<path class="interval l0"') == 3
    for entry in found.entries:
        assert f'<td class="" data-value="{entry.mean:.6f}">{entry.mean:.3f}</td>' in page
        assert f"<small>{entry.interval.low:.3f} to {entry.interval.high:.3f}</small>" in page


def test_it_draws_quality_against_each_cost_that_is_compared_and_measures_against_k() -> None:
    page = render(of(three(), costs=["vector_bytes", "embed_ms"]))
    assert "<figcaption>bytes of a picture&#39;s vectors</figcaption>" in page
    assert "<figcaption>milliseconds to index one more picture</figcaption>" in page
    assert "<figcaption>nDCG against k</figcaption>" in page


def test_it_lists_the_queries_on_which_the_leaders_differ_most() -> None:
    found = of(three())
    page = render(found, Material({"p0000#0": "a red boat"}))
    assert "Where the leaders disagree" in page
    assert found.rival is not None
    assert f"between {found.chosen.name} and {found.rival.name}" in page


def test_what_may_not_be_taken_says_why() -> None:
    page = render(of(three(), limits=Limits(max_bytes=300)))
    assert page.count('<tr class="refused">') == 1
    assert ">vector_bytes 2048 over 300</td>" in page


def test_it_opens_without_a_network_and_escapes_names() -> None:
    made = three()
    bad = "<script>x</script>"
    page = render(of([Candidate(bad, (replace(made[0].first, name=bad),)), *made[1:]]))
    assert bad not in page
    assert "&lt;script&gt;x" in page
    assert "http" not in page
    assert page.count("<script>") == 1
    assert "nan" not in page.lower().replace("isnan", "")
    assert MEASURE not in page


@pytest.mark.slow
def test_a_browser_sorts_it_by_a_click(chromium: str, tmp_path: Path) -> None:
    page = render(of(three(), costs=["vector_bytes"]))
    click = '<script>document.querySelectorAll(".board button")[3].click()</script></body>'
    path = tmp_path / "leaderboard.html"
    path.write_text(page.replace("</body>", click), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    done = subprocess.run([chromium, *flags, path.as_uri()], capture_output=True, text=True, timeout=600, check=True)
    assert re.findall(r'<th scope="row" data-value="(\w+)">', done.stdout) == ["c", "b", "a"]


def many(count: int = 40) -> tuple[Choice, Task]:
    """A leaderboard of as many models, of which one is a little better and the others much alike."""
    task, runs = drawn.draw_captions(np.random.default_rng(5), 60, count, 0.6)
    made = [
        with_costs(experiment(f"model-{n:02d}", task, {IMAGE: rows}), f"model-{n:02d}", costs(1.0 + n))
        for n, rows in enumerate(runs)
    ]
    return of(experiments.alone(*made)), task


def material_of(task: Task, folder: Path, side_px: int = 320) -> Material:
    """What a workspace would have of its pictures: one in two shows a boat, captions of two to seven words, noise."""
    ids, rng = task.item_ids, np.random.default_rng(0)
    jpegs = [
        simplejpeg.encode_jpeg(rng.integers(0, 256, (side_px, side_px, 3), dtype=np.uint8), quality=90) for _ in ids
    ]
    tables.write_table(pl.DataFrame({"image_id": ids, "jpeg": jpegs}), shard_path(folder, 0), tables.PIXELS)
    places = pl.DataFrame({"image_id": ids, "shard": 0, "row": range(len(ids))})
    labels = {image_id: ["boat"] if n % 2 else ["car", "dog"] for n, image_id in enumerate(ids)}
    texts = {query_id: "a " + "very " * (n % 6) + "boat" for n, query_id in enumerate(task.query_ids)}
    return Material(texts, labels, places, folder)


def test_forty_models_are_a_page_of_bounded_size_and_few_elements(tmp_path: Path) -> None:
    choice, task = many()
    page = render(choice, material_of(task, tmp_path))
    assert page.count('<tr class="') >= 40
    assert 40 < page.count("data:image/jpeg;base64,") <= 6 * 9
    assert (
        len(page.encode()) < 1_500_000
    )  # of noise, which no real picture is worse than; those of photos are a quarter
    assert page.count("<") / 2 < 5_000
    for told in ("boat", "car", "dog", "2 to 3 words", "6 to 7 words"):
        assert f'<th scope="row">{told}</th>' in page
    assert page.count('<li class="hit">') + page.count('<li class="miss">') == 6 * 2 * 4


def test_without_the_dataset_in_the_workspace_the_page_says_what_would_fetch_it() -> None:
    page = render(of(three()))
    assert "Not told: the workspace has no captions and labels of these queries (`dvc pull filter`)" in page
    assert "The pictures are not in the workspace: `dvc pull resize group` fetches them." in page
    assert "<img" not in page


def test_a_swap_is_said_in_words_and_has_another_marker(tmp_path: Path) -> None:
    choice, task = many(3)
    found = tell_slices(choice, material_of(task, tmp_path))
    (row, *_) = found["pairs"][0]["rows"]
    swapped = replace(row, effect=0.05, elsewhere=-0.02, p_holm=0.003)
    assert swapped.swaps
    assert say_swap(swapped, "a", "b") == (
        f"pictures with {row.of.name} ({row.queries} queries): b is better by 0.050, on all others a by 0.020 "
        "(p = 0.003 by Holm)"
    )
    assert charts.draw_marker(4, 1, 1).split('class="')[1][:2] not in found["pairs"][0]["chart"]


def test_one_that_never_differs_is_no_rival() -> None:
    made = three()
    same = replace(made[1].first, name="same", runs=[(TASK, "other")])
    table = same.read(TASK, IMAGE)
    same = replace(
        same, open_table=lambda file: table, open_run=lambda task, row: made[1].first.open_run(task, IMAGE), tables={}
    )
    choice = of([*made, Candidate("same", (same,))])
    assert any(entry.name.startswith("same") for entry in choice.entries)
    assert not any(one.name.startswith(("same", "b")) for one in list_rivals(choice))


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_browser_shows_forty_models_within_its_width_with_every_picture(
    browser: Browser, tmp_path: Path, width: int, scheme: Literal["dark", "light"]
) -> None:
    choice, task = many()
    (tmp_path / "leaderboard.html").write_text(render(choice, material_of(task, tmp_path)), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "leaderboard.html").as_uri())
    wide = page.evaluate("document.documentElement.scrollWidth")
    elements = page.evaluate("document.querySelectorAll('*').length")
    decoded = page.evaluate(
        "Promise.all([...document.images].map(one => { one.loading = 'eager'; return one.decode(); }))"
        ".then(() => [...document.images].every(one => one.naturalWidth > 0))"
    )
    page.close()
    assert said == []
    assert wide == width
    assert elements < 3_000
    assert decoded
