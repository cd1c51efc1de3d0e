"""The leaderboard's page: it says what the text says, stands alone, and escapes what comes from data."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.test_choose import MEASURE, of, three
from twinlens.evaluation.candidates import Candidate
from twinlens.evaluation.entries import Limits
from twinlens.report.choice_text import write_sentence
from twinlens.report.leaderboard import render
from twinlens.report.leaders import Material


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
def test_a_browser_sorts_it_by_a_click(tmp_path: Path) -> None:
    browser = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
    if browser is None:
        pytest.skip("no Chromium here: `apt-get install chromium`")
    page = render(of(three(), costs=["vector_bytes"]))
    click = '<script>document.querySelectorAll(".board button")[3].click()</script></body>'
    path = tmp_path / "leaderboard.html"
    path.write_text(page.replace("</body>", click), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    done = subprocess.run([browser, *flags, path.as_uri()], capture_output=True, text=True, timeout=600, check=True)
    assert re.findall(r'<th scope="row" data-value="(\w+)">', done.stdout) == ["c", "b", "a"]
