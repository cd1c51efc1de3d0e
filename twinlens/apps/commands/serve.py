"""`twinlens serve`: the search page."""

from __future__ import annotations

from typing import Annotated

import typer

from twinlens.apps.commands.options import Dataset, Model


def serve(
    host: Annotated[str, typer.Option(help="Address of this machine. Others reach the page on any but this.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any that is free.")] = 7860,
    dataset: Dataset = None,
    model: Model = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further name by which the page may be asked for. May be repeated."),
    ] = None,
) -> None:
    """Show the search page in the browser, over the indexes that lie on this disk; it begins with `--model`.

    It asks nobody on the network for anything. Examples: `twinlens serve`, `twinlens serve --port 8080`,
    `twinlens serve --model vit-b-32`, `twinlens serve --host 0.0.0.0 --allow-host search.example`.
    """
    from twinlens.apps.web.server import serve as show
    from twinlens.apps.web.watchdog import exit_now

    show(host, port, dataset, model, allow_host or ())
    exit_now(0)
