"""HTML of the parts of the page that data decides. The templates escape whatever comes from data."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from twinlens.apps.web.answers import Column
from twinlens.indexing.results import Hit, Picture, Results
from twinlens.report.templates import load_template

ASSETS = Path(__file__).parent / "assets"
SCORES = {"vector": "cosine", "exemplar": "cosine with the learned weights", "text": "BM25", "hybrid": "fused"}


def read_asset(name: str) -> bytes:
    """Read a script or style sheet of the page."""
    return (ASSETS / name).read_bytes()


def encode_data_uri(jpeg: bytes) -> str:
    """Encode a picture as a data URI, so that nothing is left to be fetched."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def describe_picture(picture: Picture) -> str:
    """Describe a picture in words, for where it cannot be seen."""
    captions = [*picture.captions, *([picture.caption_generated] if picture.caption_generated else [])]
    if captions:
        return captions[0]
    return f"a picture labelled {', '.join(picture.labels)}" if picture.labels else "a picture without a caption"


def format_score(value: float) -> str:
    """Format a score with three significant digits: fused scores are small, those of BM25 are not."""
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.4f}"


def format_milliseconds(seconds: float) -> str:
    """Format a duration for people."""
    return f"{seconds * 1e3:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def format_parts(results: Results) -> str:
    """Format the time of each part of a search; parts that took nothing are left out."""
    names = {"load": "loading the model", "embed": "the query", "search": "search", "read": "reading"}
    return ", ".join(
        f"{names[part]} {format_milliseconds(seconds)}"
        for part, seconds in results.seconds.items()
        if seconds >= 0.0005
    )


def render_results(columns: Sequence[Column]) -> str:
    """Render what was found, one column per index."""
    return _render("results.html.j2", columns=columns)


def render_beginning(pictures: Sequence[Picture], examples: Sequence[str]) -> str:
    """Render the page's state before the first search: queries to try, and some pictures of the pool."""
    return _render("beginning.html.j2", pictures=pictures, examples=examples)


def summarise_search(columns: Sequence[Column]) -> str:
    """Summarise a search in one sentence, to be read out."""
    return "; ".join(_said(column, len(columns) > 1) for column in columns)


def _said(column: Column, several: bool) -> str:
    whose = f"{column.name}: " if several else ""
    if column.results is None:
        return f"{whose}no answer"
    count = len(column.results.hits)
    found = "nothing found" if not count else f"{count:,} picture{'s' * (count > 1)}"
    return f"{whose}{found} in {format_milliseconds(column.seconds)}"


def render_message(sentence: str) -> str:
    """Render a message to the visitor."""
    return _render("told.html.j2", sentence=sentence, problem=False)


def render_problem(sentence: str) -> str:
    """Render an error message to the visitor."""
    return _render("told.html.j2", sentence=sentence, problem=True)


def render_tray(marked: Sequence[tuple[Picture, bool]]) -> str:
    """Render the marked pictures, each with a button that takes the mark away."""
    return _render("tray.html.j2", marked=marked)


def render_drop(jpeg: bytes | None) -> str:
    """Render the area that takes a picture, or the picture it took."""
    return _render("drop.html.j2", jpeg=jpeg)


def render_page(parts: Mapping[str, str], **settings: Any) -> str:
    """Render the whole page.

    Args:
        parts: what the functions above wrote: `header`, `drop`, `tray`, `status` and `results`.
        settings: of the form: what can be chosen, and what is.
    """
    return _render("page.html.j2", **{name: Markup(html) for name, html in parts.items()}, **settings)


def render_header(dataset: str, pictures: int) -> str:
    """Render the page's head."""
    return _render("header.html.j2", dataset=dataset, pictures=pictures)


def _render(name: str, **values: object) -> str:
    tools = (encode_data_uri, describe_picture, is_hit, format_score, format_milliseconds, format_parts)
    return _template(name).render(values | {tool.__name__: tool for tool in tools} | {"SCORES": SCORES})


@cache
def _template(name: str) -> Template:
    return load_template(name, ASSETS)


def is_hit(picture: Picture) -> bool:
    """Whether a picture was found by a search, and so has a rank and a score."""
    return isinstance(picture, Hit)
