"""HTTP routes of the page: each request waits for its turn, runs in a thread, and is answered in a sentence."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from twinlens.apps.web import markup
from twinlens.apps.web.answers import FAILED
from twinlens.apps.web.bodies import BodyError
from twinlens.apps.web.guard import ASSETS
from twinlens.apps.web.page import Page
from twinlens.apps.web.turns import FullError, GoneError, Turns
from twinlens.apps.web.visitors import COOKIE, Visitors
from twinlens.core.errors import TwinLensError

log = logging.getLogger("twinlens")

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

# At once, over all visitors, and as many again over all strangers, who can be as many as they like. A mark waits for no
# search, and a search for no picture. A picture of 100 megapixels may take 2.4 GB while it is opened.
SEARCHES, PICTURES, LOOKS = 6, 2, 6
BUSY = "The page has too much to do just now: try again in a minute."
KINDS = {"css": "text/css", "js": "text/javascript"}


class WorkQueue:
    """One kind of work: requests with our cookie wait for each other, those of strangers for strangers'."""

    def __init__(self, at_once: int) -> None:
        self._turns = {known: Turns(at_once) for known in (True, False)}

    async def take(self, request: Request, work: Callable[[], T]) -> T:
        """Do the work for a request when its turn comes; see `Turns.take`."""
        visitor = request.state.visitor
        return await self._turns[visitor.known].take(visitor.name, work, request.is_disconnected)


def build_application(page: Page, visitors: Visitors) -> Starlette:
    """Build the page's application, without the middleware that guards it.

    Args:
        page: what is answered.
        visitors: those of the guard, which says of each request whose it is.
    """
    searches, pictures, looks = WorkQueue(SEARCHES), WorkQueue(PICTURES), WorkQueue(LOOKS)

    async def arrive(request: Request) -> Response:
        kind = searches if request.query_params else looks
        answer = HTMLResponse(await kind.take(request, lambda: page.arrive(request.query_params)))
        if not request.state.visitor.known:
            answer.set_cookie(COOKIE, visitors.word(), httponly=True, samesite="strict", path="/")
        return answer

    posted = {"/search": (searches, page.search), "/tray": (looks, page.tray), "/picture": (pictures, page.picture)}
    return Starlette(
        routes=[
            Route("/", _said(arrive), methods=["GET"]),
            *(Route(path, _file(path), methods=["GET"]) for path in ASSETS),
            *(Route(path, _said(_posted(*work)), methods=["POST"]) for path, work in posted.items()),
        ]
    )


def _posted(kind: WorkQueue, work: Callable[[bytes], dict[str, Any]]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        body = await request.body()
        return JSONResponse(await kind.take(request, lambda: work(body)))

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
    content = markup.read_asset(name)
    headers = {"etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"', "cache-control": "no-cache"}

    async def endpoint(request: Request) -> Response:
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=KINDS[name.rpartition(".")[2]], headers=headers)

    return endpoint
