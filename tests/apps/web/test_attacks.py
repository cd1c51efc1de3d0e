"""What somebody tries who wants a file of this machine: every route, with everything that a body can name.

A running page is asked, as a program would ask it. Nothing from outside may come back, nobody may be asked, nothing
may be left on the disk, every answer comes in time, and afterwards the page still answers.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import unescape
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import pytest
import requests
from PIL import Image

from tests.apps.web.conftest import Served
from twinlens.apps.web.shelf import Shelf
from twinlens.config.load import read_params

pytestmark = pytest.mark.slow

ANSWERS_WITHIN_S = 120.0  # of an answer that takes milliseconds; what hangs takes for ever
SECRET = "the-words-that-nobody-may-read"
VARIABLE = "TWINLENS_SCRATCH="  # stands in the environment of the page
COLOUR = (255, 0, 140)  # of the private picture, and of none that is drawn
JPEG = re.compile(rb"data:image/[a-z]+;base64,([A-Za-z0-9+/=]+)")


@dataclass(frozen=True)
class Attack:
    """A page, what lies around it, and a server that it must not ask."""

    served: Served
    names: dict[str, str]  # what must not come back, by how it is named
    asked: list[str]

    def post(
        self, path: str, content: bytes, kind: str = "application/octet-stream", **headers: str
    ) -> requests.Response:
        sent = {"content-type": kind} | headers
        return requests.post(f"{self.served.url}{path}", content, headers=sent, timeout=ANSWERS_WITHIN_S)

    def left(self) -> list[Path]:
        """What came to lie in the page's folder for temporary files."""
        return [path for path in self.served.temporary.rglob("*") if path.is_file() and not path.is_symlink()]

    def check(self, *answers: requests.Response) -> None:
        """Nothing of what is outside is in these answers, and nothing happened besides."""
        for answer in answers:
            body = answer.content.replace(b"\\/", b"/")
            assert SECRET not in answer.text
            assert VARIABLE not in answer.text
            for picture in JPEG.findall(unescape(body.decode("utf-8", "replace")).encode()):
                assert not shows_secret(base64.b64decode(picture))
            assert not shows_secret(answer.content)
        assert self.asked == []
        assert self.left() == []
        assert requests.get(self.served.url, timeout=ANSWERS_WITHIN_S).status_code == 200


def shows_secret(picture: bytes) -> bool:
    """Whether this is the private picture, or a small one of it."""
    try:
        pixel = Image.open(io.BytesIO(picture)).convert("RGB").resize((1, 1)).getpixel((0, 0))
    except OSError:
        return False
    assert isinstance(pixel, tuple)
    return all(abs(int(found) - wanted) < 25 for found, wanted in zip(pixel, COLOUR, strict=True))


@pytest.fixture(scope="module")
def attack(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    outside = tmp_path_factory.mktemp("private")
    picture, words, asked = outside / "mine.png", outside / "mine.txt", list[str]()
    Image.new("RGB", (64, 48), COLOUR).save(picture)
    words.write_text(SECRET)
    link = served.temporary / "link.png"
    link.symlink_to(picture)

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(picture.read_bytes())

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        names = {
            "picture": str(picture),
            "words": str(words),
            "environment": "/proc/self/environ",
            "endless": "/dev/zero",
            "address": f"http://127.0.0.1:{other.server_port}/mine.png",
            "file address": picture.as_uri(),
            "symlink": str(link),
            "dots": str(served.temporary / ".." / ".." / outside.relative_to(served.temporary.parents[1]) / "mine.png"),
            "relative": "params.yaml",
            "deleted": str(served.temporary / "gone" / "mine.png"),
        }
        assert Path(names["dots"]).resolve() == picture.resolve()
        yield Attack(served, names, asked)
        other.shutdown()
    link.unlink()


FORMS: dict[str, Callable[[str], Any]] = {
    "plain": lambda path: path,
    "file data": lambda path: {"path": path, "meta": {"_type": "gradio.FileData"}},
    "another type": lambda path: {"path": path, "url": path, "meta": {"_type": "gradio.ImageData"}, "__type__": "file"},
    "nested": lambda path: {"a": [[{"b": [FORMS["file data"](path)]}]]},
    "list": lambda path: [FORMS["file data"](path), path],
    "json in a string": lambda path: json.dumps(FORMS["file data"](path)),
    "percent-encoded": lambda path: quote(path, safe=""),
    "twice encoded": lambda path: quote(quote(path, safe=""), safe=""),
}
WHAT = (
    "picture", "words", "environment", "address", "symlink", "dots", "file address", "relative", "deleted", "endless",
)  # fmt: skip
NAMED = list(product(WHAT, FORMS))


# ---------------------------------------------------------------- as it was: any file came back


def config(attack: Attack) -> dict[str, Any]:
    """What Gradio's page tells of its events; nothing where there is no such page."""
    answer = requests.get(f"{attack.served.url}/config", timeout=ANSWERS_WITHIN_S)
    return dict(answer.json()) if answer.status_code == 200 else {"dependencies": []}


def join(attack: Attack, event: int, data: list[Any], **more: Any) -> str:
    """Everything that an event of Gradio's answers."""
    body = {"data": data, "fn_index": event, "session_hash": "mallory", "event_data": None, "trigger_id": None} | more
    url = f"{attack.served.url}/gradio_api/queue"
    joined = requests.post(f"{url}/join", json=body, timeout=ANSWERS_WITHIN_S)
    if joined.status_code != 200:
        return joined.text
    said = requests.get(f"{url}/data", {"session_hash": str(body["session_hash"])}, timeout=ANSWERS_WITHIN_S)
    return joined.text + said.text


@pytest.mark.parametrize("name", ["picture", "symlink", "dots", "address"])
def test_no_event_brings_a_file_back(attack: Attack, name: str) -> None:
    """The fault of the page before: one event copied the file and told where to, another one showed it."""
    events = {event["api_name"]: event["id"] for event in config(attack)["dependencies"]}
    search, show = events.get("search", 0), events.get("picture", 3)
    told = join(attack, search, ["boat", FORMS["file data"](attack.names[name]), 0.5, 12, "", "", None])
    copied = re.search(r"'path': '([^']+)'", told)
    path = copied[1] if copied else attack.names[name]
    shown = join(attack, show, [None, 0], event_data={"path": path}, trigger_id=13)
    pictures = [base64.b64decode(one) for one in JPEG.findall(shown.replace("\\/", "/").encode())]
    assert not any(map(shows_secret, pictures)), "the private picture came back"
    assert copied is None, "the file was copied"
    attack.check()


@pytest.mark.parametrize("place", ["data", "event_data", "trigger_id", "session_hash", "fn_index"])
def test_no_event_may_name_what_the_page_did_not_give(attack: Attack, place: str) -> None:
    usual = {"data": [None] * 7, "fn_index": 0, "session_hash": "mallory", "event_data": None, "trigger_id": None}
    answers = []
    for name, form in NAMED:
        value = FORMS[form](attack.names[name])
        body = usual | {place: [value] * 7 if place == "data" else value}
        url = f"{attack.served.url}/gradio_api/queue/join"
        answers.append(requests.post(url, json=body, timeout=ANSWERS_WITHIN_S))
        assert 400 <= answers[-1].status_code < 500, f"{form} of {name} in {place}"
    attack.check(*answers)


POSTED = """
queue/join upload run/search run/search/ api/search api/predict/ call/search call/v2/search cancel reset
component_server process_recording stream/x stream/x/close run-history/connect vibe-edit undo-vibe-edit vibe-code
vibe-starter-queries
"""
READ = """
queue/data?session_hash={} queue/status upload_progress?upload_id={} file={} file/{} proxy={} call/search/{}
custom_component/{}/client/component/{} stream/{}/1/1/playlist.m3u8 heartbeat/{} run-history/records/{}/1/assets/{}
run-history/buckets user token app_id dev/reload runs info openapi.json deep_link?session_hash={} startup-events
theme.css vibe-code login_check
"""
BESIDE = """
config static/{} assets/{} svelte/{} favicon.ico theme.css robots.txt pwa_icon/{} manifest.json monitoring/{}
openapi.json docs redoc logout file={} {}
"""
GRADIO = [
    ("POST", "/login"),
    *(("POST", f"/gradio_api/{path}") for path in POSTED.split()),
    *(("GET", f"/gradio_api/{path}") for path in READ.split()),
    *(("GET", f"/{path}") for path in BESIDE.split()),
]


@pytest.mark.parametrize(("method", "route"), GRADIO)
def test_what_gradio_answered_is_answered_no_more(attack: Attack, method: str, route: str) -> None:
    answers = []
    for name, form in NAMED:
        value = FORMS[form](attack.names[name])
        path = route.format(*[value if isinstance(value, str) else quote(json.dumps(value))] * 2)
        body = {"data": [value] * 7, "fn_index": 0, "event_data": value, "trigger_id": value, "session_hash": value}
        answers.append(
            requests.request(
                method,
                f"{attack.served.url}{path}",
                json=body if method == "POST" else None,
                timeout=ANSWERS_WITHIN_S,
                allow_redirects=False,
            )
        )
        assert 400 <= answers[-1].status_code < 500, f"{method} {path}"
    attack.check(*answers)


# ---------------------------------------------------------------- as it is

ASKED: dict[str, Any] = {
    "words": "a boat", "mode": "auto", "weight": 0.5, "count": 12, "model": "", "other": "",
    "marks": [], "mended": [], "again": False,
}  # fmt: skip
MARKED: dict[str, Any] = {"marks": [], "pictured": False, "mode": "auto"}
FOREIGN = ("data", "event_data", "trigger_id", "session_hash", "state", "path", "url", "picture", "image", "meta")


def places(asked: dict[str, Any], value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same request with the value at each place that it has, and at some that it has not."""
    for key in (*asked, *FOREIGN):
        yield key, asked | {key: value}
    for key in ("id", "relevant", "path"):
        yield f"a mark's {key}", asked | {"marks": [{"id": "test-00000", "relevant": True} | {key: value}]}
    yield "a mark", asked | {"marks": [value]}


def attacked_search(attack: Attack) -> Iterator[tuple[bool, requests.Response]]:
    asked = ASKED | {"model": first_model(attack)}
    for name, form in NAMED:
        value = FORMS[form](attack.names[name])
        for place, body in places(asked, value):
            # What is typed is searched for, as any words are; no mended picture comes with it that could be noted.
            said = isinstance(value, str) and place == "words"
            yield said, attack.post("/search", json.dumps(body).encode())
        for wrong in (value, [value], {"data": [value]}, asked | {"mended": value}):
            yield False, attack.post("/search", json.dumps(wrong).encode())
        yield False, attack.post("/search", json.dumps(asked).encode() + b"\n" + json.dumps(value).encode())


def attacked_tray(attack: Attack) -> Iterator[tuple[bool, requests.Response]]:
    for name, form in NAMED:
        value = FORMS[form](attack.names[name])
        for _, body in places(MARKED, value):
            yield False, attack.post("/tray", json.dumps(body).encode())


def attacked_picture(attack: Attack) -> Iterator[tuple[bool, requests.Response]]:
    for name, form in NAMED:
        value = FORMS[form](attack.names[name])
        for body in (value, {"path": value}, {"data": [value]}):
            yield False, attack.post("/picture", json.dumps(body).encode())
        if isinstance(value, str):
            yield False, attack.post("/picture", value.encode())
            svg = f"<svg xmlns='http://www.w3.org/2000/svg'><image href='{value}'/></svg>"
            yield False, attack.post("/picture", svg.encode())
            pointing = {"content-location": value, "x-file": value, "content-disposition": f'filename="{value}"'}
            yield False, attack.post("/picture", b"", **pointing)


def attacked_page(attack: Attack) -> Iterator[tuple[bool, requests.Response]]:
    for name, form in NAMED:
        value = FORMS[form](attack.names[name])
        text = value if isinstance(value, str) else json.dumps(value)
        queries = [{key: text} for key in ("q", "like", "unlike", "mode", "path", "file", "url", "state", "__theme")]
        headers = {
            "referer": text,
            "x-original-url": text,
            "x-forwarded-host": text,
            "cookie": f"visitor={quote(text)}",
        }
        for query in queries:
            yield True, requests.get(attack.served.url, query, headers=headers, timeout=ANSWERS_WITHIN_S)


def attacked_asset(path: str) -> Callable[[Attack], Iterator[tuple[bool, requests.Response]]]:
    def attacked(attack: Attack) -> Iterator[tuple[bool, requests.Response]]:
        for name, form in NAMED:
            value = FORMS[form](attack.names[name])
            text = value if isinstance(value, str) else json.dumps(value)
            url = f"{attack.served.url}{path}"
            yield True, requests.get(url, {"path": text}, headers={"if-none-match": text}, timeout=ANSWERS_WITHIN_S)
            yield False, requests.get(f"{url}/{quote(text)}", timeout=ANSWERS_WITHIN_S)
            yield False, requests.get(f"{attack.served.url}/assets/{quote(text)}", timeout=ANSWERS_WITHIN_S)

    return attacked


ROUTES: dict[tuple[str, str], Callable[[Attack], Iterator[tuple[bool, requests.Response]]]] = {
    ("GET", "/"): attacked_page,
    ("GET", "/assets/page.css"): attacked_asset("/assets/page.css"),
    ("GET", "/assets/page.js"): attacked_asset("/assets/page.js"),
    ("POST", "/search"): attacked_search,
    ("POST", "/tray"): attacked_tray,
    ("POST", "/picture"): attacked_picture,
}


def first_model(attack: Attack) -> str:
    page = requests.get(attack.served.url, timeout=ANSWERS_WITHIN_S).text
    found = re.search(r'<option value="([^"]+)" selected', page)
    return unescape(found[1]) if found else ""


@pytest.mark.usefixtures("root")
def test_every_route_of_the_page_is_attacked_here() -> None:
    from starlette.routing import Route

    from twinlens.apps.web import guard
    from twinlens.apps.web.server import make_server_application

    application_ = make_server_application(Shelf(read_params()), "127.0.0.1")
    found = set()
    for route in application_.app.routes:
        assert isinstance(route, Route), "a route of another kind needs an attack of its own"
        found |= {(method, route.path) for method in route.methods or ()}
    assert found - {("HEAD", path) for _, path in ROUTES} == set(ROUTES)
    assert {(method, path) for path, methods in guard.METHODS.items() for method in methods} == found


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_no_route_gives_out_or_fetches_what_is_named(attack: Attack, route: tuple[str, str]) -> None:
    answers = []
    for allowed, answer in ROUTES[route](attack):
        assert answer.status_code == 200 if allowed else 400 <= answer.status_code < 500, answer.text[:500]
        answers.append(answer)
    assert answers
    attack.check(*answers)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[" * 300_000,
        b'{"a":' * 100_000,
        b"[" * 300_000 + b"]" * 300_000,
        b"9" * 100_000,
        b'"' + b"x" * 2**20 + b'"',
        json.dumps(ASKED).replace("0.5", "NaN").encode(),
        json.dumps(ASKED).replace("0.5", "Infinity").encode(),
        json.dumps(ASKED).replace("0.5", "1e999").encode(),
        json.dumps(ASKED).replace("0.5", "-0.1").encode(),
        json.dumps(ASKED).replace("0.5", "true").encode(),
        json.dumps(ASKED).replace("0.5", "9" * 4_000).encode(),
        json.dumps(ASKED).replace("12", "13").encode(),
        json.dumps(ASKED).replace("12", '"12"').encode(),
        json.dumps(ASKED).replace("{", '{"words": "two", ', 1).encode(),
        json.dumps(ASKED | {"words": "\ud83d"}).encode(),
        json.dumps(ASKED | {"\ud83d": 1}).encode(),
        json.dumps(ASKED | {"words": "x" * 100_001}).encode(),
        json.dumps(ASKED | {"mode": "magic"}).encode(),
        json.dumps(ASKED | {"again": 1}).encode(),
        json.dumps(ASKED | {"mended": ["x"] * 9}).encode(),
        json.dumps(ASKED | {"mended": ["x" * 501]}).encode(),
        json.dumps(ASKED | {"marks": [{"id": "a", "relevant": True}] * 2}).encode(),
        json.dumps(ASKED | {"marks": [{"id": str(i), "relevant": True} for i in range(65)]}).encode(),
        json.dumps({**ASKED, "marks": [{"id": "a"}]}).encode(),
        json.dumps({key: value for key, value in ASKED.items() if key != "other"}).encode(),
        json.dumps(ASKED).encode("utf-16"),
        json.dumps(ASKED | {"words": "  "}).encode(),
        json.dumps(ASKED | {"model": "nobody/git"}).encode(),
    ],
    ids=range(31),
)
def test_what_the_page_would_not_say_is_refused_in_a_sentence(attack: Attack, line: bytes) -> None:
    for path in ("/search", "/tray"):
        answer = attack.post(path, line)
        assert answer.status_code in (413, 422), answer.text[:500]  # 413: the tray's limit
        if answer.status_code == 422:
            assert answer.json()["problem"]
    attack.check(answer)


def test_what_one_visitor_dropped_is_had_by_no_other_and_lies_nowhere(attack: Attack) -> None:
    mine, other = (f"visitor={letter * 22}" for letter in "ab")
    raw = Path(attack.names["picture"]).read_bytes()
    shown = attack.post("/picture", raw, cookie=mine)
    assert shown.status_code == 200
    (uri,) = JPEG.findall(shown.json()["drop"].encode())
    jpeg = base64.b64decode(uri)
    assert shows_secret(jpeg)  # to whom it belongs
    asked = json.dumps(ASKED | {"model": first_model(attack)}).encode()
    assert attack.post("/search", asked + b"\n" + jpeg, cookie=mine).status_code == 200
    attack.check(
        *(
            answer
            for cookie in (mine, other)
            for answer in (
                requests.get(attack.served.url, headers={"cookie": cookie}, timeout=ANSWERS_WITHIN_S),
                attack.post("/search", asked, cookie=cookie),
                attack.post("/search", asked + b"\n", cookie=cookie),
                attack.post("/tray", json.dumps(MARKED | {"pictured": True}).encode(), cookie=cookie),
                attack.post("/picture", b"", cookie=cookie),
            )
        )
    )


def test_many_at_once_get_no_more(attack: Attack) -> None:
    names = [FORMS[form](attack.names[name]) for name, form in NAMED]

    def tried(value: Any) -> list[requests.Response]:
        return [attack.post(path, json.dumps({"data": [value]}).encode()) for path in ("/search", "/tray", "/picture")]

    with ThreadPoolExecutor(16) as visitors:
        answers = [answer for tries in visitors.map(tried, names) for answer in tries]
    assert {answer.status_code for answer in answers} == {422}
    attack.check(*answers)


def test_another_name_and_another_page_are_refused_at_every_route(attack: Attack) -> None:
    for method, path in ROUTES:
        url = f"{attack.served.url}{path}"
        kind = {"content-type": "application/octet-stream"}
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "192.168.0.1", "[::2]"):
            answer = requests.request(method, url, headers=kind | {"host": host}, data=b"", timeout=ANSWERS_WITHIN_S)
            assert answer.status_code == 400, host
            attack.check(answer)
        if method == "GET":
            continue
        for headers in (
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"content-type": "text/plain"},
            {"content-type": "multipart/form-data; boundary=b"},
        ):
            answer = requests.post(url, b"", headers=kind | headers, timeout=ANSWERS_WITHIN_S)
            assert answer.status_code in (403, 415), headers
            attack.check(answer)
