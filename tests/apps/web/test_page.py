"""The page in a real browser: what a person types, drops, clicks and marks, and what then stands there."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.apps.web.conftest import HOSTILE, Served
from tests.indexing.conftest import MODEL
from twinlens import Searcher
from twinlens.apps.web.markup import format_score
from twinlens.indexing.results import Results

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow  # a browser

TEXT = "a red boat on a beach"
SHOWN = 12


def ids(page: Page, column: int = 0) -> list[str]:
    cards = page.locator("#results .column").nth(column).locator("[data-card]")
    return [str(card) for card in cards.evaluate_all("cards => cards.map(card => card.dataset.card)")]


def wanted(found: Results) -> list[str]:
    return [hit.image_id for hit in found.hits]


def expect_ids(page: Page, found: Results, column: int = 0) -> None:
    """Wait until a column shows these pictures, in this order."""
    page.wait_for_function(
        """([column, wanted]) => {
          const cards = document.querySelectorAll('#results .column')[column]?.querySelectorAll('[data-card]') ?? [];
          return JSON.stringify([...cards].map(card => card.dataset.card)) === wanted
            && document.querySelector('#results .latency') !== null;
        }""",
        arg=[column, json.dumps(wanted(found), separators=(",", ":"))],
    )


def ask(page: Page, text: str) -> None:
    page.fill("#words input", text)
    page.press("#words input", "Enter")


def problem(page: Page) -> str:
    return page.locator("#status .problem").inner_text()


def choose(page: Page, dropdown: str, option: str) -> None:
    page.locator(f"#{dropdown} select").select_option(label=option)


def drop(page: Page, raw: bytes, name: str, kind: str) -> None:
    """Let go of a file over the drop area."""
    transfer = page.evaluate_handle(
        """([text, name, kind]) => {
          const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name, { type: kind }));
          return transfer;
        }""",
        [base64.b64encode(raw).decode(), name, kind],
    )
    page.dispatch_event("#drop .drop", "drop", {"dataTransfer": transfer})


def paste(page: Page, raw: bytes, name: str, kind: str) -> None:
    """Paste a file, which the page takes wherever it is."""
    page.evaluate(
        """([text, name, kind]) => {
          const transfer = new DataTransfer();
          const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
          transfer.items.add(new File([bytes], name, { type: kind }));
          document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer }));
        }""",
        [base64.b64encode(raw).decode(), name, kind],
    )


@pytest.fixture
def searcher(root: Any) -> Searcher:
    return Searcher()


@pytest.fixture
def photo(searcher: Searcher) -> bytes:
    """A picture that is not in the pool: one of it, mirrored."""
    picture = Image.open(io.BytesIO(searcher.picture(searcher.index.ids[20]).thumbnail))
    out = io.BytesIO()
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(out, "PNG")
    return out.getvalue()


def test_words_typed_into_the_box_find_what_the_library_finds(page: Page, searcher: Searcher) -> None:
    ask(page, TEXT)
    found = searcher.search(TEXT, k=SHOWN)
    expect_ids(page, found)
    first, hit = page.locator("#results .card").first, found.hits[0]
    text = first.inner_text()
    assert "#1" in text
    assert format_score(hit.score) in text
    assert hit.captions[0] in text
    assert first.locator(".labels li").all_inner_texts() == list(hit.labels)
    latency = page.locator("#results .latency").inner_text()
    assert " ms" in latency
    assert "vector" in latency
    assert "12 pictures in" in page.locator("#status").inner_text()


def test_a_dropped_picture_is_searched_by_and_no_file_of_it_is_left(
    page: Page, searcher: Searcher, photo: bytes, served: Served
) -> None:
    drop(page, photo, "mine.png", "image/png")
    expect_ids(page, searcher.search(image=photo, k=SHOWN))
    assert page.locator("#drop .taken img").get_attribute("alt")
    assert served.written() == []
    page.get_by_role("button", name="Remove").click()
    page.wait_for_selector("#drop input")


def test_words_and_picture_are_weighed_by_the_slider(page: Page, searcher: Searcher, photo: bytes) -> None:
    page.set_input_files("#drop input", {"name": "mine.png", "mimeType": "image/png", "buffer": photo})
    page.wait_for_selector("#drop .taken")
    ask(page, TEXT)
    half = searcher.search(TEXT, image=photo, k=SHOWN, image_weight=0.5)
    expect_ids(page, half)
    slider = page.locator("#weight input[type=range]")
    words, picture = (searcher.search(TEXT, image=photo, k=SHOWN, image_weight=weight) for weight in (0.0, 1.0))
    assert wanted(picture) not in (wanted(half), wanted(words))
    for key, found in (("End", picture), ("Home", words)):
        slider.press(key)
        slider.dispatch_event("pointerup")
        expect_ids(page, found)


def test_a_click_on_a_result_searches_by_it(page: Page, searcher: Searcher) -> None:
    ask(page, TEXT)
    expect_ids(page, searcher.search(TEXT, k=SHOWN))
    third = ids(page)[2]
    page.locator("#results .look").nth(2).click()
    expect_ids(page, searcher.search(like=third, k=SHOWN))
    assert page.locator("#tray [data-marked]").get_attribute("data-marked") == third
    page.wait_for_function("() => document.querySelector('#words input').value === ''")


def test_marked_results_are_examples_for_the_next_search(page: Page, searcher: Searcher) -> None:
    ask(page, TEXT)
    before = searcher.search(TEXT, k=SHOWN)
    expect_ids(page, before)
    good, bad = wanted(before)[1], wanted(before)[3]
    for place, name in ((1, "Relevant"), (3, "Not")):
        page.locator("#results .card").nth(place).get_by_role("button", name=name).click()
    page.wait_for_function("() => document.querySelectorAll('#tray [data-marked]').length === 2")
    assert page.locator("#results [aria-pressed=true]").count() == 2
    page.get_by_role("button", name="Search again").click()
    after = searcher.search(TEXT, like=good, unlike=bad, mode="exemplar", k=SHOWN)
    expect_ids(page, after)
    assert not {good, bad} & set(ids(page))
    assert page.locator("#mode input[value=exemplar]").is_checked()
    page.locator(f"#tray [data-id='{bad}']").click()
    page.wait_for_function("() => document.querySelectorAll('#tray [data-marked]').length === 1")
    page.get_by_role("button", name="Clear marks").click()
    page.wait_for_selector("#tray .tray", state="detached")
    page.wait_for_selector("#mode input[value=auto]:checked")
    ask(page, TEXT)  # words alone have nothing that exemplars could be
    expect_ids(page, before)


def test_a_removed_picture_takes_the_exemplar_mode_with_it(page: Page, searcher: Searcher, photo: bytes) -> None:
    drop(page, photo, "mine.png", "image/png")
    page.wait_for_selector("#drop .taken")
    page.locator("#mode input[value=exemplar]").check()
    page.wait_for_selector("#results .mode:has-text('exemplar')")
    page.get_by_role("button", name="Remove").click()
    page.wait_for_selector("#mode input[value=auto]:checked")
    ask(page, TEXT)
    expect_ids(page, searcher.search(TEXT, k=SHOWN))


def test_a_second_click_takes_a_mark_away_and_the_other_button_turns_it(page: Page) -> None:
    card = page.locator("#results .card").first
    card.get_by_role("button", name="Relevant").click()
    page.wait_for_selector("#tray li.yes")
    card.get_by_role("button", name="Not").click()
    page.wait_for_selector("#tray li.no")
    assert page.locator("#tray li").count() == 1
    card.get_by_role("button", name="Not").click()
    page.wait_for_selector("#tray .tray", state="detached")
    assert page.locator("#results [aria-pressed=true]").count() == 0


@pytest.mark.parametrize("mode", ["text", "hybrid"])
def test_the_mode_is_switched(page: Page, searcher: Searcher, mode: str) -> None:
    ask(page, TEXT)
    expect_ids(page, searcher.search(TEXT, k=SHOWN))
    page.locator(f"#mode input[value={mode}]").check()
    expect_ids(page, searcher.search(TEXT, mode=mode, k=SHOWN))
    assert mode in page.locator("#results .latency").inner_text()


def test_two_models_answer_side_by_side(page: Page, searcher: Searcher) -> None:
    ask(page, TEXT)
    expect_ids(page, searcher.search(TEXT, k=SHOWN))
    choose(page, "other", "apart")
    for column, model in enumerate((MODEL, "apart")):
        expect_ids(page, Searcher(model=model).search(TEXT, k=SHOWN), column)
        assert page.locator("#results h2").nth(column).inner_text() == model
    boxes = [page.locator("#results .column").nth(column).bounding_box() for column in (0, 1)]
    assert boxes[0] is not None and boxes[1] is not None
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]


def test_a_model_that_cannot_answer_says_so_in_its_column(page: Page, searcher: Searcher, photo: bytes) -> None:
    choose(page, "other", "words")
    drop(page, photo, "mine.png", "image/png")
    expect_ids(page, searcher.search(image=photo, k=SHOWN))
    assert "no image tower" in page.locator("#results .column").nth(1).inner_text()


def test_the_page_fits_a_phone(phone: Page, searcher: Searcher) -> None:
    def overflows() -> bool:
        return bool(phone.evaluate("document.documentElement.scrollWidth > window.innerWidth"))

    assert not overflows()
    ask(phone, TEXT)
    expect_ids(phone, searcher.search(TEXT, k=SHOWN))
    assert not overflows()
    choose(phone, "other", "apart")
    expect_ids(phone, Searcher(model="apart").search(TEXT, k=SHOWN), 1)
    for place in range(4):
        phone.locator("#results .card").nth(place).get_by_role("button", name="Relevant").click()
    phone.wait_for_function("() => document.querySelectorAll('#tray [data-marked]').length === 4")
    assert not overflows()
    phone.mouse.wheel(0, 1200)
    phone.wait_for_function("() => window.scrollY > 1000")
    tray = phone.locator("#tray .again").bounding_box()
    assert tray is not None
    assert 0 <= tray["y"] < 740  # the marks stay in sight
    phone.get_by_role("button", name="Search again").click()
    phone.wait_for_selector("#results .mode:has-text('exemplar')")
    head = phone.locator("#results h2").first.bounding_box()
    assert head is not None
    assert tray["y"] + tray["height"] <= head["y"] < 740 * 0.6  # results begin at their head, not under the marks
    size = phone.locator("#results .marks button").first.bounding_box()
    assert size is not None
    assert size["height"] >= 32  # a thumb's target


def test_a_word_without_an_end_does_not_widen_the_page(phone: Page) -> None:
    ask(phone, "boat" * 1_000 + " x" * 300)
    phone.wait_for_selector("#results .note:has-text('the query is cut')")
    phone.locator("#results .note").first.evaluate("note => { note.textContent += ' ' + 'boat'.repeat(1000); }")
    wide = "[...document.querySelectorAll('#results .note, #results header')].map(one => one.scrollWidth)"
    assert max(phone.evaluate(wide)) <= 360


def test_everything_is_done_by_keyboard(page: Page, searcher: Searcher) -> None:
    page.wait_for_function("() => document.activeElement === document.querySelector('#words input')")
    page.keyboard.type(TEXT)
    page.keyboard.press("Enter")
    found = searcher.search(TEXT, k=SHOWN)
    expect_ids(page, found)

    def tab_to(description: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches({description!r})"):
                return
        raise AssertionError(f"no way to {description} by Tab")

    tab_to("#drop input")
    tab_to("#weight input")
    tab_to("#other select")
    tab_to(f"#results .look[data-id='{wanted(found)[0]}']")
    tab_to(f"#results [data-relevant=yes][data-id='{wanted(found)[0]}']")
    page.keyboard.press("Space")
    page.wait_for_selector("#tray li.yes")
    tab_to(f"#results .look[data-id='{wanted(found)[1]}']")
    page.keyboard.press("Enter")
    expect_ids(page, searcher.search(like=wanted(found)[1], k=SHOWN))
    assert page.evaluate("document.querySelector('#results').contains(document.activeElement)")


def test_what_is_shown_can_be_heard(page: Page, searcher: Searcher, photo: bytes) -> None:
    drop(page, photo, "mine.png", "image/png")
    expect_ids(page, searcher.search(image=photo, k=SHOWN))
    page.locator("#results .card").first.get_by_role("button", name="Relevant").click()
    page.wait_for_selector("#tray li.yes")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('img, button, input')].filter((one) => one.checkVisibility()
          && !(one.alt || one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length))
          .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    captions = searcher.picture(ids(page)[0]).captions
    assert page.locator("#results .look img").first.get_attribute("alt") == captions[0]
    assert page.locator("#status [aria-live=polite], #status[aria-live=polite]").count() == 1


def test_captions_are_shown_as_text_never_as_html(page: Page, searcher: Searcher) -> None:
    ask(page, TEXT)
    found = searcher.search(TEXT, k=SHOWN)
    expect_ids(page, found)
    assert all(any(start in (hit.caption_generated or "") for hit in found.hits) for start in HOSTILE)
    for card, hit in zip(page.locator("#results .card").all(), found.hits, strict=True):
        shown = card.locator(".machine")
        assert " ".join(shown.inner_text().split()) == f"generated {' '.join((hit.caption_generated or '').split())}"
        assert card.locator("img").count() == 1
        assert shown.locator(":not(.by)").count() == 0


def huge_png() -> bytes:
    """30,000 x 30,000 pixels in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\x00" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_bad_pictures_are_refused_with_a_reason(page: Page, served: Served) -> None:
    for raw, name, kind, reason in (
        (b"these are words, not a picture", "photo.jpg", "image/jpeg", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing.svg", "image/svg+xml", "export it as PNG"),
        (huge_png(), "huge.png", "image/png", "30000 x 30000 px: over"),
        (b"", "nothing.png", "image/png", "empty file"),
    ):
        drop(page, raw, name, kind)
        page.wait_for_selector(f"#status .problem:has-text('{reason}')")
        assert "Traceback" not in page.locator("body").inner_text()
        assert page.locator("#drop input").count() == 1
        assert served.written() == []


def test_the_reason_of_a_failed_drop_outlasts_the_search_that_was_there(
    page: Page, searcher: Searcher, photo: bytes
) -> None:
    def settled() -> str:
        page.wait_for_timeout(1_500)  # a search that should not follow takes less
        return problem(page)

    ask(page, TEXT)
    found = searcher.search(TEXT, k=SHOWN)
    expect_ids(page, found)
    drop(page, b"these are words, not a picture", "photo.png", "image/png")
    page.wait_for_selector("#status .problem:has-text('not a picture')")
    assert "before it" not in settled()
    assert page.locator("#drop input").count() == 1  # nothing was taken
    expect_ids(page, found)

    drop(page, photo, "mine.png", "image/png")
    both = searcher.search(TEXT, image=photo, k=SHOWN)
    expect_ids(page, both)
    page.wait_for_selector("#status .told:has-text('12 pictures')")
    paste(page, b"words again", "photo.png", "image/png")
    page.wait_for_selector("#status .problem:has-text('not a picture')")
    assert "the picture before it is still searched by" in settled()
    assert page.locator("#drop .taken").count() == 1
    expect_ids(page, both)


def test_a_reason_is_brought_into_sight(phone: Page, searcher: Searcher) -> None:
    ask(phone, TEXT)
    expect_ids(phone, searcher.search(TEXT, k=SHOWN))
    phone.mouse.wheel(0, 1200)
    phone.wait_for_function("() => window.scrollY > 1000")
    paste(phone, b"these are words, not a picture", "photo.png", "image/png")
    phone.wait_for_selector("#status .problem")
    phone.wait_for_function(
        """() => {
          const { top, bottom } = document.querySelector('#status .problem').getBoundingClientRect();
          return top >= 0 && bottom <= window.innerHeight;
        }"""
    )


def test_what_was_mended_in_a_picture_is_said_beside_what_it_found(
    page: Page, searcher: Searcher, photo: bytes
) -> None:
    out = io.BytesIO()
    Image.open(io.BytesIO(photo)).convert("RGBA").save(out, "PNG")
    ask(page, TEXT)
    expect_ids(page, searcher.search(TEXT, k=SHOWN))
    drop(page, out.getvalue(), "mine.png", "image/png")
    found = searcher.search(TEXT, image=out.getvalue(), k=SHOWN)
    (note,) = found.notes
    assert "RGBA" in note
    page.wait_for_selector("#results .note")
    expect_ids(page, found)
    assert page.locator("#results .note").all_inner_texts() == [note]
    page.locator("#results .card").first.get_by_role("button", name="Relevant").click()
    page.wait_for_selector("#tray li.yes")
    page.get_by_role("button", name="Clear marks").click()
    page.wait_for_selector("#tray .tray", state="detached")
    choose(page, "count", "24")  # the picture is still searched by, and still mended
    expect_ids(page, searcher.search(TEXT, image=out.getvalue(), k=24))
    assert page.locator("#results .note").all_inner_texts() == [note]
    page.get_by_role("button", name="Remove").click()
    page.wait_for_selector("#results .note", state="detached")
    expect_ids(page, searcher.search(TEXT, k=24))


def test_a_click_on_a_picture_that_is_gone_says_so_and_leaves_the_query(page: Page, searcher: Searcher) -> None:
    ask(page, TEXT)
    found = searcher.search(TEXT, k=SHOWN)
    expect_ids(page, found)
    page.locator("#results .look").first.evaluate("button => { button.dataset.id = 'nobody'; }")
    page.locator("#results .look").first.click()
    page.wait_for_selector("#status .problem:has-text('nobody')")
    page.wait_for_timeout(1_500)
    assert "there is no picture 'nobody'" in problem(page)
    assert page.input_value("#words input") == TEXT
    expect_ids(page, found)


def test_a_picture_over_the_limit_is_refused(page: Page, served: Served) -> None:
    page.evaluate(
        """() => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(65 * 2 ** 20)], 'large.png', { type: 'image/png' }));
          document.querySelector('#drop .drop').dispatchEvent(
            new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }"""
    )
    page.wait_for_selector("#status .problem:has-text('over 64 MB')")
    assert served.written() == []


def test_odd_words_are_answered_or_refused_in_a_sentence(page: Page, searcher: Searcher) -> None:
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_selector("#status .problem:has-text('The query is empty')")
    ask(page, "   ")
    page.wait_for_selector("#status .problem:has-text('The query is empty')")
    long = " ".join(["boat"] * 10_000)
    ask(page, long)
    expect_ids(page, searcher.search(long, k=SHOWN))
    assert "256 of its 10,000 words" in page.locator("#results .note").first.inner_text()
    for text in ("\U0001f6a4\U0001f3d6\ufe0f", HOSTILE[2], HOSTILE[0]):
        ask(page, text)
        expect_ids(page, searcher.search(text, k=SHOWN))
    page.fill("#words input", HOSTILE[2])
    assert page.evaluate("getComputedStyle(document.querySelector('#words input')).direction") == "rtl"
    page.locator("#mode input[value=text]").check()
    ask(page, "\U0001f6a4")
    page.wait_for_selector("#status .problem:has-text('holds no word')")


def test_an_address_asks(page: Page, searcher: Searcher) -> None:
    start = page.url.split("?")[0]
    liked = searcher.index.ids[7]
    page.goto(f"{start}?q={TEXT}&like={liked}&mode=hybrid")
    expect_ids(page, searcher.search(TEXT, like=liked, mode="hybrid", k=SHOWN))
    assert page.input_value("#words input") == TEXT
    for query, reason in (("like=nobody", "there is no picture 'nobody'"), ("q=boat&mode=magic", "magic")):
        page.goto(f"{start}?{query}")
        page.wait_for_selector(f'#status .problem:has-text("{reason}")')
