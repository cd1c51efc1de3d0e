"""The command line: a list of commands, each in its module in `commands`.

typer rather than argparse: a command is a typed function, its help comes from its own docstring, and
huggingface-hub brings the library anyway.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from twinlens.apps.commands.catalogue import datasets, models
from twinlens.apps.commands.choose import choose, plan
from twinlens.apps.commands.experiments import compare, export
from twinlens.apps.commands.new_dataset import new_dataset
from twinlens.apps.commands.search import search
from twinlens.apps.commands.serve import serve
from twinlens.apps.commands.show import show
from twinlens.apps.commands.sweep import sweep
from twinlens.core.errors import TwinLensError
from twinlens.core.resources import explain_disk_fault

NO_ANSWER = 2  # as for wrong usage; 1 is a search that found nothing

QUIET = {  # libraries that talk while they load weights
    "TQDM_DISABLE": "1",  # of bars that do not say themselves whether they are shown
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        from twinlens import __version__

        typer.echo(f"twinlens {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Which image-text embedding, fed with what, finds the right picture in your data, and what it costs."""


for command in (search, serve, show, models, datasets, new_dataset, compare, choose, plan, sweep, export):
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a mistake that the user can mend ends it with one message.

    Args:
        arguments: those of the process if absent.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("twinlens").setLevel(logging.INFO)
    try:
        app(args=arguments, prog_name="twinlens")
    except TwinLensError as error:
        typer.echo(f"twinlens: {error}", err=True)
        sys.exit(NO_ANSWER)
    except OSError as error:  # a full disk, a folder that may not be read: 1 would say that nothing was found
        where = f": {error.filename}" if error.filename else ""
        typer.echo(f"twinlens: {explain_disk_fault(error) or f'{error.strerror or error}{where}'}", err=True)
        _drop_unwritten()
        sys.exit(NO_ANSWER)


def _drop_unwritten() -> None:
    # What standard output would not take, Python tries to write once more as it ends: a traceback, and exit code 120.
    with suppress(OSError):
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
