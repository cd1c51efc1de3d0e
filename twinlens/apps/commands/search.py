"""`twinlens search`: pictures by words, by a picture, by pictures like and unlike those wanted."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import webbrowser
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinlens.apps.commands.completion import complete_image_ids
from twinlens.apps.commands.options import Captioner, Dataset, Json, Model
from twinlens.apps.commands.terminal import note, print_table, show_work, strip_control
from twinlens.core.errors import QueryError

if TYPE_CHECKING:
    from twinlens.indexing.results import Results

NOTHING_FOUND = 1


class Mode(StrEnum):
    """Ways to search; see `Searcher.search`."""

    AUTO = "auto"
    VECTOR = "vector"
    TEXT = "text"
    HYBRID = "hybrid"
    EXEMPLAR = "exemplar"


class Fusion(StrEnum):
    """Ways to fuse the two lists of a hybrid."""

    RRF = "rrf"
    WEIGHTED = "weighted"


def _share(value: float | None) -> float | None:
    # A range of typer's says of "nan" that it should be less than or equal to 1.
    if value is not None and not 0.0 <= value <= 1.0:
        raise typer.BadParameter(f"should be from 0 to 1, found {value:g}")
    return value


def search(
    text: Annotated[str | None, typer.Argument(help="What is looked for, in words.", show_default=False)] = None,
    image: Annotated[Path | None, typer.Option("--image", "-i", help="A picture to search by.")] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(
            "--like",
            help="Id of an indexed picture that is wanted; may be repeated.",
            autocompletion=complete_image_ids,
        ),
    ] = None,
    unlike: Annotated[
        list[str] | None,
        typer.Option("--not", help="Id of one that is not; may be repeated.", autocompletion=complete_image_ids),
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(
            help="vector: by embeddings. text: by the words of captions (BM25). hybrid: both, fused. exemplar: by an "
            "SVM fitted on --like, --not and --image. auto: vector, where the model has vectors for what is asked."
        ),
    ] = Mode.AUTO,
    k: Annotated[int, typer.Option("-k", min=1, help="Pictures wanted.")] = 10,
    image_weight: Annotated[
        float | None,
        typer.Option(callback=_share, help="Share of the picture beside words, 0 to 1; rank.image_weight if absent."),
    ] = None,
    text_weight: Annotated[
        float | None,
        typer.Option(callback=_share, help="Share of BM25 in a weighted hybrid, 0 to 1; search.text_weight if absent."),
    ] = None,
    fusion: Annotated[Fusion | None, typer.Option(help="Of a hybrid; search.fusion if absent.")] = None,
    only_if_sure: Annotated[
        float | None,
        typer.Option(
            callback=_share,
            help="Answer only where at least this share of such answers has the right picture first, as validation "
            "captions showed. No answer does not mean that it is not there: that cannot be told.",
        ),
    ] = None,
    dataset: Dataset = None,
    model: Model = None,
    captioner: Captioner = None,
    as_json: Json = False,
    sheet: Annotated[bool, typer.Option("--sheet", help="As a page of pictures, opened in the browser.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page's file; implies --sheet.", show_default=False)
    ] = None,
    opened: Annotated[bool, typer.Option("--open/--no-open", help="Whether the page is opened.")] = True,
) -> None:
    """Find pictures by words, by a picture, or by both.

    On a terminal the answer is a table. In a pipe it is a heading and one line a picture: rank, score, id, labels and
    caption, with tabs between them.

    Examples:
    * twinlens search "a red boat on a beach"

    * twinlens search "at night" --image photo.jpg --image-weight 0.7

    * twinlens search --like test-00012 --like test-00040 --not test-00007 --mode exemplar

    * twinlens search "a red car" --mode hybrid -k 50 --sheet

    * twinlens search "a red car" --only-if-sure 0.9

    * twinlens search "a red car" --json | jq -r '.hits[].image_id'

    Exit codes: 0 found, 1 nothing found, 2 wrong usage or no answer possible; standard error says why.
    """
    if as_json and (sheet or out):
        raise QueryError("--json and --sheet are two ways to write one answer: take one")
    with show_work("searching"):
        from twinlens import search as ask  # takes a second or more

        found = ask(
            text,
            dataset=dataset,
            model=model,
            captioner=captioner,
            image=image,
            like=like or (),
            unlike=unlike or (),
            mode=mode.value,
            k=k,
            image_weight=image_weight,
            text_weight=text_weight,
            fusion=None if fusion is None else fusion.value,
            only_if_sure=only_if_sure,
        )
    if as_json:
        # ASCII, with the rest escaped: no terminal obeys it, and no locale spoils it
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        for line in found.notes:
            note(f"note: {line}")
        if not found.hits:
            note("nothing found" if only_if_sure is None else "no sure answer")  # which is not that nothing is there
        elif sheet or out:
            _show(_asked(text, image, like or [], unlike or []), found, out, opened)
        else:
            _print(found)
    if not found.hits:
        raise typer.Exit(NOTHING_FOUND)


def _print(found: Results) -> None:
    rows = [
        [
            str(hit.rank),
            f"{hit.score:.4f}",
            hit.image_id,
            ", ".join(hit.labels),
            next((caption for caption in (*hit.captions, hit.caption_generated) if caption), ""),
        ]
        for hit in found.hits
    ]
    print_table(["#", "score", "id", "labels", "caption"], rows)
    if sys.stdout.isatty():
        milliseconds = 1000 * sum(seconds for part, seconds in found.seconds.items() if part != "load")
        note(f"{found.mode}, {found.dataset} with {found.model}, {milliseconds:.0f} ms{_say_sure(found)}")


def _say_sure(found: Results) -> str:
    sure = found.hits[0].confidence
    return f"; of answers as sure, at least {100 * sure:g} % have the right picture first" if sure else ""


def _asked(text: str | None, image: Path | None, like: list[str], unlike: list[str]) -> str:
    parts = [text or "", f"a picture ({image.name})" if image else ""]
    parts += [f"like {', '.join(like)}" if like else "", f"unlike {', '.join(unlike)}" if unlike else ""]
    return strip_control("; ".join(part for part in parts if part))


def _show(asked: str, found: Results, out: Path | None, opened: bool) -> None:
    from twinlens.report.sheet import render

    if out is None:
        descriptor, name = tempfile.mkstemp(prefix="twinlens-", suffix=".html")
        os.close(descriptor)
        out = Path(name)
    try:
        out.write_text(render(asked, found), encoding="utf-8")
    except OSError as error:
        raise QueryError(f"{out} cannot be written: {error.strerror}; name another file with --out") from None
    typer.echo(str(out))
    if opened and _has_display():
        webbrowser.open(out.resolve().as_uri())


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
