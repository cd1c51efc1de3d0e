"""A port of this machine that shows the page."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from twinlens.apps.commands.terminal import show_work
from twinlens.apps.web.hosts import list_hosts
from twinlens.apps.web.shelf import Shelf
from twinlens.apps.web.watchdog import watch_signals
from twinlens.config.load import read_params
from twinlens.core.errors import ParamsError, require_extra

if TYPE_CHECKING:
    from twinlens.apps.web.guard import Guard

STOPS_WITHIN_S = 2  # what is asked then may still be answered; an open page is not waited for


def serve(
    host: str, port: int, dataset: str | None = None, model: str | None = None, allowed: Sequence[str] = ()
) -> None:
    """Show the page until it is interrupted.

    Args:
        host: an address of this machine; only 127.0.0.1 keeps the page to it.
        port: 0 for any that is free.
        dataset: the active one if absent.
        model: to begin with; the active one if absent.
        allowed: further names by which the page may be asked for.

    Raises:
        ParamsError: the address cannot be had, or a name is none.
        QueryError: there is no index to search.
        ExtraError: a library that carries the page is not installed.
    """
    with watch_signals():
        with require_extra("serve", "the search page"):
            import uvicorn

            from twinlens.apps.web.connections import make_patient_protocol

        shelf = Shelf(read_params(), dataset)
        with _listening(host, port) as listener:
            with show_work("opening the index"):
                app = make_server_application(shelf, host, model, allowed)
            shown = host if ":" not in host else f"[{host}]"
            typer.echo(f"TwinLens: http://{shown}:{listener.getsockname()[1]} (Ctrl-C ends it)")
            config = uvicorn.Config(
                app,
                http=make_patient_protocol(),
                ws="none",
                proxy_headers=False,  # whoever asks could say to be somebody else
                loop="asyncio",  # others take the wake-up of signals for themselves
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=STOPS_WITHIN_S,
            )
            with suppress(KeyboardInterrupt):  # uvicorn raises the signal that ended it once more
                uvicorn.Server(config).run(sockets=[listener])


def make_server_application(shelf: Shelf, host: str, model: str | None = None, allowed: Sequence[str] = ()) -> Guard:
    """Build the page as an application for any ASGI server, its first model loaded.

    Args:
        shelf: the indexes that it searches.
        host: the name or address under which it will be asked for.
        model: to begin with; the active one if absent.
        allowed: further names.

    Raises:
        ParamsError: one of those is no name.
        QueryError: there is no index to search.
        ExtraError: a library that carries the page is not installed.
    """
    with require_extra("serve", "the search page"):
        from twinlens.apps.web.guard import Guard
        from twinlens.apps.web.page import Page
        from twinlens.apps.web.routes import build_application
        from twinlens.apps.web.visitors import Visitors

    ours, visitors = list_hosts(host, allowed), Visitors()
    first = shelf.first(model)
    shelf.searcher(first).warm()
    return Guard(build_application(Page(shelf, first), visitors), ours, visitors)


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
