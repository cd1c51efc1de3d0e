"""Several visitors at once, and answers that come late: nobody waits for another, and nothing is lost or outdated."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.apps.web.conftest import Served, large_picture, opened, sending
from tests.apps.web.test_page import SHOWN, TEXT, ask, drop, expect_ids, ids, paste, problem, wanted
from twinlens import Searcher

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route


pytestmark = pytest.mark.slow  # a browser


@pytest.fixture
def searcher(root: Any) -> Searcher:
    return Searcher()


@pytest.fixture
def other(browser: Browser, served: Served) -> Iterator[Page]:
    """Another visitor, in a browser of their own."""
    yield from opened(browser, served, 1280, 900)


def photo(searcher: Searcher, row: int) -> bytes:
    """A picture that is not in the pool: one of it, mirrored."""
    out = io.BytesIO()
    picture = Image.open(io.BytesIO(searcher.picture(searcher.index.ids[row]).thumbnail))
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(out, "PNG")
    return out.getvalue()


@contextmanager
def held(
    page: Page, path: str, which: Callable[[int], bool] = lambda place: place == 0
) -> Iterator[Callable[[], None]]:
    """Hold back the answers to some requests, by their number, until told to let them go."""
    waiting: list[Route] = []
    seen = 0

    def hold(route: Route) -> None:
        nonlocal seen
        seen += 1
        if which(seen - 1):
            waiting.append(route)
        else:
            route.continue_()

    def release() -> None:
        while waiting:
            waiting.pop(0).continue_()

    page.route(f"**{path}", hold)
    yield release
    release()
    page.unroute(f"**{path}")


def mark(page: Page, place: int, name: str = "Relevant") -> None:
    page.locator("#results .card").nth(place).get_by_role("button", name=name).click()


def marked(page: Page, count: int) -> None:
    page.wait_for_function("count => document.querySelectorAll('#tray [data-marked]').length === count", arg=count)


def test_a_visitor_who_sends_large_pictures_and_clicks_much_holds_up_nobody(
    page: Page, other: Page, searcher: Searcher, served: Served
) -> None:
    ask(other, TEXT)
    expect_ids(other, searcher.search(TEXT, k=SHOWN))
    (cookie,) = [cookie for cookie in page.context.cookies() if cookie["name"] == "visitor"]
    with sending(served.url, 10, cookie["value"]) as answers:  # as if from the page: they are opened one after another
        with page.expect_request("**/picture"):
            drop(page, large_picture(), "large.png", "image/png")
        for place in range(6):
            mark(page, place)

        mine = photo(searcher, 20)
        for place in range(2):
            mark(other, place)
        marked(other, 2)
        other.get_by_role("button", name="Clear marks").click()
        marked(other, 0)
        drop(other, mine, "mine.png", "image/png")
        expect_ids(other, searcher.search(TEXT, image=mine, k=SHOWN))
        other.locator("#results .look").nth(1).click()
        marked(other, 1)
        marked(page, 6)  # not held up by the same visitor's pictures either
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers if answer)  # each was opened, or will be
    page.wait_for_selector("#drop .taken", timeout=120_000)
    page.wait_for_selector("#results .latency")
    marked(page, 6)


def test_an_answer_that_comes_late_is_not_shown_over_a_newer_one(page: Page, searcher: Searcher) -> None:
    with held(page, "/search") as release:
        with page.expect_request("**/search"):
            ask(page, "a green house")
        ask(page, "a blue fish")
        ask(page, TEXT)
        release()
        expect_ids(page, searcher.search(TEXT, k=SHOWN))
    page.wait_for_timeout(500)
    expect_ids(page, searcher.search(TEXT, k=SHOWN))
    assert "12 pictures in" in page.locator("#status").inner_text()
    assert page.locator("#results[aria-busy]").count() == 0


def test_what_was_marked_and_chosen_meanwhile_survives_an_answer_that_comes_late(
    page: Page, searcher: Searcher
) -> None:
    ask(page, TEXT)
    found = searcher.search(TEXT, k=SHOWN)
    expect_ids(page, found)
    good, bad = wanted(found)[0], wanted(found)[1]
    with held(page, "/search") as release:
        with page.expect_request("**/search"):
            page.locator("#count select").select_option(label="24")
        mark(page, 0)
        mark(page, 1, "Not")
        marked(page, 2)
        page.locator("#mode input[value=hybrid]").check()  # one more wish, behind the one on its way
        page.fill("#words input", "words that are being typed")
        release()
        expect_ids(page, searcher.search(TEXT, like=good, unlike=bad, mode="hybrid", k=24))
    assert page.locator("#mode input[value=hybrid]").is_checked()
    assert page.input_value("#words input") == "words that are being typed"
    marked(page, 2)
    assert page.locator("#results [aria-pressed=true]").count() == 0  # what is marked is not found again


def test_none_of_several_quick_clicks_is_lost_where_answers_come_late(page: Page) -> None:
    with held(page, "/tray", lambda place: place in (0, 2)) as release:
        for place in range(5):
            mark(page, place)
        mark(page, 0)  # a second click takes it away again
        mark(page, 1, "Not")
        while page.locator("#tray li.no").count() != 1:  # the held ones come one after the other
            page.wait_for_timeout(100)
            release()
    marked(page, 4)
    pressed = page.locator("#results [aria-pressed=true]").evaluate_all("all => all.map(one => one.dataset.relevant)")
    assert pressed == ["no", "yes", "yes", "yes"]


def test_of_two_pictures_the_later_one_is_searched_by(page: Page, searcher: Searcher) -> None:
    first, second = photo(searcher, 20), photo(searcher, 31)
    with held(page, "/picture") as release:
        with page.expect_request("**/picture"):
            drop(page, first, "first.png", "image/png")
        paste(page, second, "second.png", "image/png")
        expect_ids(page, searcher.search(image=second, k=SHOWN))
        release()
        page.wait_for_timeout(500)
    expect_ids(page, searcher.search(image=second, k=SHOWN))


def test_a_result_that_was_clicked_is_the_whole_query_whatever_still_arrives(page: Page, searcher: Searcher) -> None:
    ask(page, TEXT)
    expect_ids(page, searcher.search(TEXT, k=SHOWN))
    clicked = ids(page)[2]
    with held(page, "/picture") as release:
        with page.expect_request("**/picture"):
            drop(page, photo(searcher, 20), "mine.png", "image/png")
        page.locator("#results .look").nth(2).click()
        expect_ids(page, searcher.search(like=clicked, k=SHOWN))
        release()
        page.wait_for_timeout(500)
    assert page.locator("#drop input").count() == 1
    assert page.locator("#drop[aria-busy]").count() == 0
    expect_ids(page, searcher.search(like=clicked, k=SHOWN))


def test_a_page_that_no_longer_runs_is_said_so_and_goes_on_when_it_does(page: Page, searcher: Searcher) -> None:
    page.route("**/search", lambda route: route.abort())
    page.route("**/picture", lambda route: route.abort())
    page.route("**/tray", lambda route: route.abort())
    ask(page, TEXT)
    page.wait_for_selector("#status .problem:has-text('does not answer')")
    drop(page, photo(searcher, 20), "mine.png", "image/png")
    page.wait_for_selector("#status .problem:has-text('did not arrive')")
    assert "look whether the page still runs" in problem(page)
    assert page.locator("[aria-busy]").count() == 0
    mark(page, 0)
    page.wait_for_selector("#status .problem:has-text('does not answer')")
    page.unroute_all()
    mark(page, 1)
    marked(page, 1)
    page.locator("#tray [data-action=clear]").click()
    marked(page, 0)
    ask(page, TEXT)
    expect_ids(page, searcher.search(TEXT, k=SHOWN))


def test_the_keyboard_stays_where_it_was_when_a_mark_is_taken_away(page: Page) -> None:
    for place in range(3):
        mark(page, place)
    marked(page, 3)
    page.locator("#tray [data-action=unmark]").nth(1).focus()
    for left in (2, 1):
        page.keyboard.press("Enter")
        marked(page, left)
        assert page.evaluate("document.activeElement.dataset.action") in ("unmark", "again")
    page.locator("#tray [data-action=clear]").focus()
    page.keyboard.press("Enter")
    marked(page, 0)
    assert page.evaluate("document.activeElement.id") == "results"


def test_there_are_only_so_many_marks(page: Page) -> None:
    page.locator("#tray").evaluate("tray => { tray.dataset.most = '2'; }")
    for place in range(3):
        mark(page, place)
    page.wait_for_selector("#status .problem:has-text('take a mark away first')")
    marked(page, 2)


def test_a_file_that_misses_the_area_does_not_replace_the_page(page: Page) -> None:
    prevented = page.evaluate(
        """() => ['dragover', 'drop'].map((name) => {
          const event = new DragEvent(name, { bubbles: true, cancelable: true, dataTransfer: new DataTransfer() });
          document.querySelector('.head').dispatchEvent(event);
          return event.defaultPrevented;
        })"""
    )
    assert prevented == [True, True]


def test_without_scripts_words_are_searched_for(browser: Browser, served: Served, searcher: Searcher) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(served.url)
    page.fill("#words input", TEXT)
    page.locator("#mode input[value=hybrid]").check()
    page.click("#search")
    found = page.locator("#results [data-card]")
    assert [card.get_attribute("data-card") for card in found.all()] == wanted(
        searcher.search(TEXT, mode="hybrid", k=SHOWN)
    )
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_written_can_be_read_in_light_and_dark(browser: Browser, served: Served, scheme: Any) -> None:
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(served.url)
    drop(page, b"words", "a.png", "image/png")
    page.wait_for_selector("#status .problem")
    low = page.evaluate(
        """() => {
          const channels = (text) => {
            const [r, g, b, opacity = 1] = text.match(/[\\d.]+/g).map(Number);
            return [...[r, g, b].map((one) => (text.startsWith('color(') ? one : one / 255)), opacity];
          };
          const linear = (one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
          const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
          const ground = (element) => {
            for (let one = element; one; one = one.parentElement) {
              const found = channels(getComputedStyle(one).backgroundColor);
              if (found[3] > 0.99) return found;
            }
            return [1, 1, 1];
          };
          return [...document.querySelectorAll('p, label, button, h1, h2, legend, summary, li, input, select, span')]
            .filter((one) => one.checkVisibility() && one.textContent.trim())
            .map((one) => {
              const [a, b] = [light(channels(getComputedStyle(one).color)), light(ground(one))].sort((x, y) => y - x);
              return [(a + 0.05) / (b + 0.05), one.outerHTML.slice(0, 80)];
            })
            .filter(([ratio]) => ratio < 4.5);
        }"""
    )
    assert low == []
    context.close()


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 200, "content_type": "text/html", "body": "<h1>Log in to the network</h1>"},
        {"status": 502, "content_type": "text/html", "body": "<h1>Bad gateway</h1>"},
        {"status": 200, "content_type": "application/json", "body": "{"},
    ],
)
def test_what_somebody_else_answers_is_not_taken_for_an_answer(
    page: Page, searcher: Searcher, answer: dict[str, Any]
) -> None:
    ask(page, TEXT)
    found = searcher.search(TEXT, k=SHOWN)
    expect_ids(page, found)
    page.route("**/search", lambda route: route.fulfill(**answer))
    ask(page, "a green house")
    page.wait_for_selector("#status .problem:has-text('the page does not answer')")
    assert ids(page) == wanted(found)
    page.unroute("**/search")
    ask(page, TEXT)
    page.wait_for_selector("#status .told:has-text('12 pictures')")
