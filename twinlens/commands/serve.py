"""`twinlens serve`: the search page."""

from __future__ import annotations

from typing import Annotated

import typer

from twinlens.commands.options import Dataset, Model


def serve(
    host: Annotated[str, typer.Option(help="Address of this machine. Others reach the page on any but this.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any that is free.")] = 7860,
    dataset: Dataset = None,
    model: Model = None,
) -> None:
    """Show the search page in the browser, over the indexes that lie on this disk; it begins with `--model`.

    It asks nobody on the network for anything. Examples: `twinlens serve`, `twinlens serve --port 8080`,
    `twinlens serve --model vit-b-32`.
    """
    from twinlens.serving.server import serve as show

    show(host, port, dataset, model)
