"""A port of this machine that shows the page."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from twinlens.errors import ParamsError
from twinlens.indexing.queries import MAX_IMAGE_BYTES
from twinlens.params import read_params
from twinlens.serving.guard import Guard
from twinlens.serving.shelf import Shelf

if TYPE_CHECKING:
    from fastapi import FastAPI

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
STOPS_WITHIN_S = 2  # an open page holds a connection; it is not waited for


def serve(host: str, port: int, dataset: str | None = None, model: str | None = None) -> None:
    """Show the page until it is interrupted. Uploads lie in a folder that goes when the page does.

    Args:
        host: an address of this machine; only 127.0.0.1 keeps the page to it.
        port: 0 for any that is free.
        dataset: the active one if absent.
        model: to begin with; the active one if absent.

    Raises:
        ParamsError: the address cannot be had.
        QueryError: there is no index to search.
    """
    import uvicorn

    shelf = Shelf(read_params(), dataset)
    with _listening(host, port) as listener, tempfile.TemporaryDirectory(prefix="twinlens-page-") as folder:
        app = application(shelf, host, Path(folder), model)
        shown = host if ":" not in host else f"[{host}]"
        typer.echo(f"TwinLens: http://{shown}:{listener.getsockname()[1]} (Ctrl-C ends it)")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=STOPS_WITHIN_S, lifespan="on"
        )
        # uvicorn raises the signal that ended it once more; left to itself, SIGTERM would end us with the folder there.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def application(shelf: Shelf, host: str, uploads: Path, model: str | None = None) -> FastAPI:
    """The page as an application for any ASGI server, its first model loaded.

    Args:
        shelf: the indexes that it searches.
        host: the name or address under which it will be asked for.
        uploads: a folder for what visitors upload.
        model: to begin with; the active one if absent.

    Raises:
        QueryError: there is no index to search.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # read when a component is made
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.middleware.trustedhost import TrustedHostMiddleware

    from twinlens.serving import markup
    from twinlens.serving.page import build, theme

    first = shelf.first(model)
    shelf.searcher(first).warm()
    app = FastAPI(openapi_url=None)
    # A page from elsewhere may not reach this one by a name that it has pointed here.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"] if host in LOOPBACK else ["*"])
    app.add_middleware(Guard, uploads=uploads)
    return gr.mount_gradio_app(
        app,
        build(shelf, first, uploads),
        path="",
        show_error=False,
        max_file_size=MAX_IMAGE_BYTES,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=markup.asset("page.css"),
        js=markup.asset("load.js"),
    )


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # whoever asks before the page is up waits for it, and is not refused
    except OSError as error:
        raise ParamsError(
            f"the page cannot be shown at {host}, port {port}: {error.strerror}; another port is free: --port 0"
        ) from None
    return listener
