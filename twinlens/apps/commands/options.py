"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from twinlens.apps.commands.completion import make_card_completer

Dataset = Annotated[
    str | None,
    typer.Option("--dataset", "-d", help="The active one if absent.", autocompletion=make_card_completer("datasets")),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="The active one if absent.", autocompletion=make_card_completer("models")),
]
Captioner = Annotated[
    str | None,
    typer.Option(
        "--captioner", "-c", help="The active one if absent.", autocompletion=make_card_completer("captioners")
    ),
]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
