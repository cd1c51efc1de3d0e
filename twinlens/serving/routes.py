"""What is asked of the page over HTTP, and how: each request in its turn, in a thread, answered in a sentence."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from twinlens.errors import TwinLensError
from twinlens.serving import markup
from twinlens.serving.answers import FAILED
from twinlens.serving.bodies import BodyError
from twinlens.serving.guard import ASSETS
from twinlens.serving.page import Page
from twinlens.serving.turns import FullError, GoneError, Turns

log = logging.getLogger("twinlens")

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

# At once, over all visitors. A mark waits for no search, and a search for no picture.
SEARCHES, PICTURES, LOOKS = 8, 4, 8
BUSY = "The page has too much to do just now: try again in a minute."
COOKIE, TOKEN = "visitor", re.compile(r"[A-Za-z0-9_-]{22}")
KINDS = {"css": "text/css", "js": "text/javascript"}


def routed(page: Page) -> Starlette:
    """The page as an application, without what guards it."""
    searches, pictures, looks = Turns(SEARCHES), Turns(PICTURES), Turns(LOOKS)

    async def arrive(request: Request) -> Response:
        turns = searches if request.query_params else looks
        html = await turns.take(visitor(request), lambda: page.arrive(request.query_params), request.is_disconnected)
        answer = HTMLResponse(html)
        if known(request) is None:
            answer.set_cookie(COOKIE, secrets.token_urlsafe(16), httponly=True, samesite="strict", path="/")
        return answer

    posted = {"/search": (searches, page.search), "/tray": (looks, page.tray), "/picture": (pictures, page.picture)}
    return Starlette(
        routes=[
            Route("/", _said(arrive), methods=["GET"]),
            *(Route(path, _file(path), methods=["GET"]) for path in ASSETS),
            *(Route(path, _said(_posted(*work)), methods=["POST"]) for path, work in posted.items()),
        ]
    )


def known(request: Request) -> str | None:
    """What a visitor's browser was told to call itself, so that its requests wait for each other and nobody else."""
    token = request.cookies.get(COOKIE, "")
    return token if TOKEN.fullmatch(token) else None


def visitor(request: Request) -> str:
    """The same, or the connection of who does not say it."""
    return known(request) or f"{request.client}"


def _posted(turns: Turns, work: Callable[[bytes], dict[str, Any]]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        body = await request.body()
        return JSONResponse(await turns.take(visitor(request), lambda: work(body), request.is_disconnected))

    return endpoint


def _said(endpoint: Endpoint) -> Endpoint:
    """The same, whose failures are sentences."""

    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except TwinLensError as error:
            return _problem(422, str(error))
        except BodyError as error:
            return _problem(422, f"The page would not ask so: {error}")
        except FullError:
            return _problem(503, BUSY)
        except GoneError:
            return Response(status_code=499)  # nobody reads it
        except Exception:  # the visitor gets a sentence, the terminal what happened
            log.exception("a request failed")
            return _problem(500, FAILED)

    return answered


def _problem(status: int, sentence: str) -> Response:
    readable = sentence.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be sent
    return JSONResponse({"problem": readable}, status)


def _file(path: str) -> Endpoint:
    name = path.rpartition("/")[2]
    content = markup.asset(name)
    headers = {"etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"', "cache-control": "no-cache"}

    async def endpoint(request: Request) -> Response:
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=KINDS[name.rpartition(".")[2]], headers=headers)

    return endpoint
