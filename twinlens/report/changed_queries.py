"""Queries that changed between experiments, in words."""

from __future__ import annotations

from collections.abc import Mapping

from twinlens.core import paths, tables
from twinlens.core.errors import DataError
from twinlens.evaluation.compare import Changes


def read_query_texts(dataset: str) -> dict[str, str]:
    """Read what stands for a query, by its id: the text of a caption, and of a picture its first caption.

    Nothing where the dataset's captions are not in the workspace: ids then stand alone.
    """
    try:
        captions = tables.read_table(paths.filtered(dataset) / "captions.parquet", tables.CAPTIONS)
    except DataError:
        return {}
    of_pictures: dict[str, str] = {}
    for image_id, text in captions.select("image_id", "text").iter_rows():
        of_pictures.setdefault(image_id, f"a picture: {text}")
    return of_pictures | dict(captions.select("caption_id", "text").iter_rows())


def describe_changes(changed: Changes, texts: Mapping[str, str]) -> list[str]:
    """Describe each query and what became of it, the largest change first."""
    measure = changed.measure.replace("_at_", "@")
    lines = []
    for row in changed.queries.iter_rows(named=True):
        before, after = row[changed.measure], row[f"{changed.measure}_second"]
        lines.append(
            f"{name_query(row['query_id'], texts)}: first hit at {row['first_hit_second']}, was at {row['first_hit']}; "
            f"{measure} {after:.3f}, was {before:.3f}"
        )
    return lines


def name_query(query_id: str, texts: Mapping[str, str]) -> str:
    """Name a query by its words where they are known, and its id."""
    return f"“{texts[query_id]}” ({query_id})" if query_id in texts else query_id
