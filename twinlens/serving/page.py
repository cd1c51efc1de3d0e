"""The page itself: Gradio's components, and what happens when one of them is used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from twinlens.errors import QueryError, TwinLensError
from twinlens.indexing.queries import MAX_IMAGE_BYTES, MODES
from twinlens.serving import markup
from twinlens.serving.answers import FAILED, Asked, Wanted, again, answer, mode_left, some_pictures, take_picture
from twinlens.serving.guard import KEPT_S
from twinlens.serving.shelf import Name, Shelf

log = logging.getLogger("twinlens")

NO_OTHER = ""  # of the second model
COUNTS = [12, 24, 48]
EXAMPLES = 3
CLIENTS = 8  # searches at once
WAITING = 256  # events that may wait; more are refused
MAX_TYPED = 100_000  # characters; more could be too large a request, which Gradio says nothing about
SWEPT_S = 60  # uploads that nobody searched by are looked for so often
MODE_NAMES = {
    "auto": "Auto",
    "vector": "Vector",
    "text": "Words (BM25)",
    "hybrid": "Hybrid",
    "exemplar": "Exemplars (SVM)",
}
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
SYSTEM_MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Gradio's own colours in the fonts that a machine has anyway: nothing is fetched."""
    return gr.themes.Default(primary_hue="blue", font=SYSTEM_FONTS, font_mono=SYSTEM_MONO)


class Handlers:
    """What happens when something on the page is used. Whoever uses it meets sentences, never a traceback."""

    def __init__(self, shelf: Shelf, first: Name, uploads: Path) -> None:
        self.shelf, self.first, self.uploads = shelf, first, uploads

    def search(
        self, text: str, mode: str, image_weight: float, k: int, model: str, other: str, asked: Asked
    ) -> tuple[Any, Any]:
        """Results and the sentence on them."""
        return self._found(Wanted(text or "", asked, mode, image_weight, k), model, other)

    def changed(
        self, text: str, mode: str, image_weight: float, k: int, model: str, other: str, asked: Asked
    ) -> tuple[Any, Any]:
        """The same after a setting changed; nothing happens where nothing is searched for yet."""
        if Wanted(text or "", asked, mode, image_weight, k).empty:
            return gr.skip(), gr.skip()
        return self.search(text, mode, image_weight, k, model, other, asked)

    def again(
        self, text: str, mode: str, image_weight: float, k: int, model: str, other: str, asked: Asked
    ) -> tuple[Any, Any, str]:
        """Results by the marks, and the mode that this takes."""
        wanted = again(Wanted(text or "", asked, mode, image_weight, k))
        return (*self._found(wanted, model, other), wanted.mode)

    def search_by(self, renewed: int, event: gr.EventData) -> tuple[Any, ...]:
        """A picture of the pool that was clicked is the whole query from here on."""
        try:
            asked = Asked().marked(self._known(event.id), True)
        except TwinLensError as error:
            return *[gr.skip()] * 5, markup.problem(str(error)), gr.skip()
        return "", "auto", asked, markup.drop(None), self._tray(asked), gr.skip(), renewed + 1

    def mark(self, asked: Asked, mode: str, event: gr.EventData) -> tuple[Any, Any, Any, Any]:
        """One mark set, turned or taken away."""
        try:
            relevant = {"yes": True, "no": False}.get(str(event.relevant))
            after = asked.marked(self._known(event.id), relevant)
        except TwinLensError as error:
            return gr.skip(), gr.skip(), markup.problem(str(error)), gr.skip()
        count = len(after.marks)
        said = f"{count} picture{'s' * (count != 1)} marked" if count else "No picture is marked"
        return after, self._tray(after), markup.told(said), mode_left(mode, after)

    def clear(self, asked: Asked, mode: str) -> tuple[Asked, str, str]:
        """No marks."""
        after = replace(asked, marks=())
        return after, "", mode_left(mode, after)

    def picture(self, asked: Asked, renewed: int, event: gr.EventData) -> tuple[Any, Any, Any, Any]:
        """A visitor's own picture has arrived."""
        try:
            jpeg, mended = take_picture(self.shelf, event.path, self.uploads)
        except TwinLensError as error:
            return gr.skip(), gr.skip(), self._not_taken(str(error), asked), gr.skip()
        except Exception:
            log.exception("an upload failed")
            return gr.skip(), gr.skip(), self._not_taken(FAILED, asked), gr.skip()
        return Asked(jpeg, asked.marks, tuple(mended)), markup.drop(jpeg), gr.skip(), renewed + 1

    def _not_taken(self, reason: str, asked: Asked) -> str:
        stays = "" if asked.picture is None else "; the picture before it is still searched by"
        return markup.problem(f"{reason}{stays}")

    def failed(self, event: gr.EventData) -> str:
        """A picture did not arrive."""
        limit = MAX_IMAGE_BYTES // 2**20
        too_large = "maximum allowed size" in str(event.reason)
        if too_large:
            return markup.problem(f"the picture has over {limit} MB: make it smaller")
        return markup.problem("the picture did not arrive: drop it once more, or look whether the page still runs")

    def remove(self, asked: Asked, mode: str) -> tuple[Asked, str, str]:
        """Without the visitor's own picture."""
        after = Asked(marks=asked.marks)
        return after, markup.drop(None), mode_left(mode, after)

    def say(self, event: gr.EventData) -> str:
        """The words of an example."""
        return str(event.text)

    def arrive(self, request: gr.Request) -> tuple[Any, ...]:
        """What the address asks for: `?q=words&like=id&unlike=id&mode=hybrid`."""
        query = request.query_params
        asked, mode = Asked(), query.get("mode", "auto")
        try:
            for key, relevant in (("like", True), ("unlike", False)):
                for image_id in query.getlist(key):
                    asked = asked.marked(self._known(image_id), relevant)
            if mode not in MODES:
                raise QueryError(f"mode: no such one as '{mode}' (known: {', '.join(MODES)})")
        except TwinLensError as error:
            return query.get("q", ""), "auto", asked, self._tray(asked), self._beginning(), markup.problem(str(error))
        wanted = Wanted(query.get("q", ""), asked, mode, self.shelf.params.rank.image_weight, COUNTS[0])
        found = (self._beginning(), "") if wanted.empty else self._found(wanted, self.first.key, NO_OTHER)
        return wanted.text, mode, asked, self._tray(asked), *found

    def _found(self, wanted: Wanted, model: str, other: str) -> tuple[Any, Any]:
        if wanted.empty:
            return gr.skip(), markup.problem("The query is empty: type some words, drop a picture, or click a result")
        try:
            names = [self.shelf.find(key) for key in dict.fromkeys((model, other)) if key != NO_OTHER]
        except TwinLensError as error:
            return gr.skip(), markup.problem(str(error))
        columns = answer(self.shelf, names, wanted)
        if len(columns) == 1 and columns[0].problem is not None:
            return gr.skip(), markup.problem(columns[0].problem)
        return markup.results(columns), markup.told(markup.status(columns))

    def _beginning(self) -> str:
        pictures = some_pictures(self.shelf, self.first, COUNTS[0])
        captions = [picture.captions[0] for picture in pictures if picture.captions]
        return markup.beginning(pictures, captions[:EXAMPLES])

    def _known(self, image_id: object) -> str:
        """The id, if it is in the index; else a QueryError."""
        return self.shelf.searcher(self.first).picture(str(image_id)).image_id

    def _tray(self, asked: Asked) -> str:
        searcher = self.shelf.searcher(self.first)
        return markup.tray([(searcher.picture(image_id), relevant) for image_id, relevant in asked.marks])


def build(shelf: Shelf, first: Name, uploads: Path) -> gr.Blocks:
    """The page.

    Args:
        shelf: the indexes that it searches.
        first: the one to begin with, open.
        uploads: the folder in which Gradio puts what visitors upload.
    """
    handlers = Handlers(shelf, first, uploads)
    with gr.Blocks(
        analytics_enabled=False, title="TwinLens", delete_cache=(SWEPT_S, KEPT_S), fill_width=True
    ) as blocks:
        _part(markup.header(shelf.dataset, shelf.searcher(first).index.manifest.rows), "head")
        asked = gr.State(Asked(), time_to_live=24 * 3600)
        renewed = gr.State(0, time_to_live=24 * 3600)  # a search follows whenever it changes
        with gr.Row(elem_id="ask"):
            with gr.Column(scale=3, min_width=280):
                with gr.Row(elem_id="line"):
                    words = gr.Textbox(
                        label="What are you looking for?",
                        placeholder="in your own words",
                        lines=1,
                        max_lines=1,
                        max_length=MAX_TYPED,
                        elem_id="words",
                        autofocus=True,
                    )
                    button = gr.Button("Search", variant="primary", elem_id="search", scale=0, min_width=100)
                mode = gr.Radio(_modes(shelf, first), value="auto", label="Mode", elem_id="mode")
            with gr.Column(scale=2, min_width=280):
                drop = _part(markup.drop(None), "drop", _script("drop.js"))
                weight = gr.Slider(
                    0,
                    1,
                    value=shelf.params.rank.image_weight,
                    step=0.05,
                    label="Words (0) or picture (1), where both are given",
                    elem_id="weight",
                    buttons=[],
                )
        model, other, count = _choices(shelf, first)
        tray = _part("", "tray", _script("tray.js"))
        status = _part("", "status", markup.asset("status.js"))
        results = _part("", "results", _script("results.js"))

        settings = [words, mode, weight, count, model, other, asked]
        found = [results, status]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        # What changes a visitor's picture and marks goes one after another: none of several quick clicks is lost.
        instant = quiet | {"trigger_mode": "multiple", "concurrency_limit": 1, "concurrency_id": "asked"}
        busy = quiet | {"concurrency_limit": CLIENTS, "concurrency_id": "search", "trigger_mode": "always_last"}

        gr.on([words.submit, button.click], handlers.search, settings, found, **busy)
        # The mode is also set by the page itself, which is no wish; a dropdown calls it input when Tab passes by.
        gr.on(
            [mode.input, weight.release, count.change, model.change, other.change],
            handlers.changed,
            settings,
            found,
            **busy,
        )
        # A click on a result, a dropped picture and an example first change the query, then search. The first two may
        # fail, which an event that follows them cannot see: it would search by the old query, and wipe the reason away.
        results.search_by(handlers.search_by, renewed, [words, mode, asked, drop, tray, status, renewed], **instant)
        drop.picture(handlers.picture, [asked, renewed], [asked, drop, status, renewed], **instant)
        renewed.change(handlers.changed, settings, found, **busy)
        results.say(handlers.say, None, words, **quiet).then(handlers.search, settings, found, **busy)
        drop.remove(handlers.remove, [asked, mode], [asked, drop, mode], **instant).then(
            handlers.changed, settings, found, **busy
        )
        drop.failed(handlers.failed, None, status, **quiet)
        for marking in (results.mark, tray.unmark):
            marking(handlers.mark, [asked, mode], [asked, tray, status, mode], **instant)
        tray.clear(handlers.clear, [asked, mode], [asked, tray, mode], **instant)
        tray.again(handlers.again, settings, [*found, mode], **busy)
        blocks.load(handlers.arrive, None, [words, mode, asked, tray, *found], **quiet)
    blocks.queue(max_size=WAITING, default_concurrency_limit=CLIENTS, api_open=False)
    return blocks


def _modes(shelf: Shelf, first: Name) -> Sequence[tuple[str, str]]:
    possible = ("auto", *shelf.searcher(first).modes)
    return [(MODE_NAMES[mode], mode) for mode in possible]


def _choices(shelf: Shelf, first: Name) -> tuple[gr.Dropdown, gr.Dropdown, gr.Dropdown]:
    indexes = [(shelf.label(name), name.key) for name in shelf.names()]
    with gr.Row(elem_id="choices"):
        model = gr.Dropdown(indexes, value=first.key, label="Model", elem_id="model", filterable=False, min_width=100)
        other = gr.Dropdown(
            [("nothing", NO_OTHER), *indexes],
            value=NO_OTHER,
            label="Compare with",
            elem_id="other",
            filterable=False,
            min_width=100,
        )
        count = gr.Dropdown(COUNTS, value=COUNTS[0], label="Results", elem_id="count", filterable=False, min_width=100)
    return model, other, count


def _part(html: str, name: str, script: str | None = None) -> gr.HTML:
    return gr.HTML(html, elem_id=name, js_on_load=script, apply_default_css=False)


def _script(name: str) -> str:
    return markup.asset(name) + markup.asset("buttons.js")
