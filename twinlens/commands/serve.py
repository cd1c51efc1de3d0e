"""`twinlens serve`: the search page."""

from __future__ import annotations

from typing import Annotated

import typer


def serve(
    host: Annotated[str, typer.Option(help="Address of this machine. Others reach the page on any but this.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any that is free.")] = 7860,
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", help="The active one if absent.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="To begin with; the active one if absent."),
    ] = None,
) -> None:
    """Show the search page in the browser, over the indexes that lie on this disk.

    It asks nobody on the network for anything. Examples: `twinlens serve`, `twinlens serve --port 8080`,
    `twinlens serve --model vit-b-32`.
    """
    from twinlens.serving.server import serve as show

    show(host, port, dataset, model)
