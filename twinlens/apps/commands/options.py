"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from twinlens.apps.commands.completion import cards

Dataset = Annotated[
    str | None,
    typer.Option("--dataset", "-d", help="The active one if absent.", autocompletion=cards("datasets")),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="The active one if absent.", autocompletion=cards("models")),
]
Captioner = Annotated[
    str | None,
    typer.Option("--captioner", "-c", help="The active one if absent.", autocompletion=cards("captioners")),
]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
