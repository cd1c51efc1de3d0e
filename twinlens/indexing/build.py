"""Index building: the pool as searchable files, in a folder named by its content."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from twinlens.config.models import ModelCard
from twinlens.config.params import IndexParams
from twinlens.config.vector_forms import VectorForm
from twinlens.core import paths
from twinlens.core.code import code_digest
from twinlens.core.errors import DataError, remake
from twinlens.core.progress import Progress
from twinlens.core.scratch import Scratch, digest, fingerprint
from twinlens.core.shards import iter_pixels
from twinlens.images.thumbnails import make_thumbnail
from twinlens.indexing import postings
from twinlens.indexing.candidates import check_candidates, write_candidates
from twinlens.indexing.manifest import (
    FOLDER,
    PUBLISHED,
    TOWERS,
    Manifest,
    digest_files,
    list_named_keys,
    list_vector_files,
    locate_copy,
)
from twinlens.indexing.material import IndexContent, gather
from twinlens.indexing.store import CAPTION_VECTOR, IMAGE_VECTOR, write_rows, write_space
from twinlens.retrieval.known import check_form
from twinlens.retrieval.tokenize import tokenize
from twinlens.tasks.inputs import NEGATIVES

log = logging.getLogger("twinlens")

BATCH = 256  # pictures
IDENTITY = ("dataset", "model", "captioner", "key")  # of an index, in its rows' schema
ROWS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),  # in the pool's order, which orders equal scores
        pa.field("thumbnail", pa.binary(), nullable=False),  # JPEG
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("caption_generated", pa.string()),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
    ]
)
UNUSED_DAYS = 7.0  # after which a table that no manifest names is removed; it can be built anew


def publish(dataset: str, model: str, captioner: str, card: ModelCard, settings: IndexParams, threads: int) -> Manifest:
    """Build the table unless it is there, then let the manifest name it.

    Args:
        dataset: a name, as the others.
        model: its vectors are taken.
        captioner: its captions are taken.
        card: of the model.
        settings: what the table holds.
        threads: that make thumbnails.

    Raises:
        DataError: an output of the pipeline is not here, or outputs do not belong together.
    """
    from twinlens.models.checkpoints import identify_all_weights

    material = gather(dataset, model, captioner, card)
    vectors = digest_files(list_vector_files(dataset, model, settings.form))
    weights = identify_all_weights(card, paths.trained(dataset, model))
    key = fingerprint(
        names=[dataset, model, captioner],
        ids=digest(material.pool["image_id"]),
        pictures=digest(material.pool["sha256"]),
        texts=digest(
            "\n".join([*human, *labels, machine or ""]) for human, machine, labels in material.texts.iter_rows()
        ),
        vectors=vectors,
        weights=weights,
        settings=settings.model_dump(),
        code=code_digest(__name__),
    )
    confidence = _read_confidence(paths.calibrated(dataset, model))
    manifest = Manifest(
        key, dataset, model, captioner, len(material), settings.model_dump(), vectors, weights, confidence
    )
    make_table(manifest, material, threads)
    keep_towers(manifest)
    manifest.write(locate_copy(dataset, model, captioner))
    manifest.write(paths.indexed(dataset, model, captioner))
    for folder in prune_tables():
        log.info("removed %s: no manifest names it", folder)
    return manifest


def _read_confidence(path: Path) -> dict[str, Any]:
    """What `calibrate` found; nothing where it has not run, as where an index is built by hand."""
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{path} is damaged ({str(error)[:120]}): {remake('calibrate')}") from None
    return {name: told[name] for name in ("rule", "why", "vectors") if name in told}


def make_table(manifest: Manifest, material: IndexContent, threads: int) -> None:
    """Build the table that a manifest names, unless it is there; a second process waits for the first."""
    with Scratch("index", manifest.key) as scratch:
        if scratch.has(FOLDER):
            log.info("the index of %s with %s is there already", manifest.dataset, manifest.model)
            return
        shards = paths.resized(manifest.dataset)
        scratch.put(FOLDER, lambda path: write_table(manifest, material, shards, path, threads))


def keep_towers(manifest: Manifest) -> None:
    """Keep what embeds queries with the table, unless it is there: links to the files, or copies where links cannot be.

    What the training began with is left out, as no query needs it.
    """
    trained = paths.trained(manifest.dataset, manifest.model)
    with Scratch("index", manifest.key) as scratch:
        if scratch.has(TOWERS):
            return

        def put(folder: Path) -> None:
            folder.mkdir()
            for name in ("weights.json", "weights"):
                if (source := trained / name).is_dir():
                    shutil.copytree(source, folder / name, copy_function=_link)
                elif source.exists():
                    _link(source, folder / name)

        scratch.put(TOWERS, put)


def keep_restored(manifest: Manifest, card: ModelCard) -> None:
    """Keep an index that DVC pulled, or restored from its cache, as `publish` keeps one that it makes.

    Unless its weights are not here. DVC takes all of it out of the workspace when it applies another experiment.

    Args:
        manifest: its table is there.
        card: of the model.
    """
    from twinlens.models.checkpoints import identify_all_weights

    try:
        weights = identify_all_weights(card, paths.trained(manifest.dataset, manifest.model))
    except DataError:  # not here
        return
    if weights == manifest.weights:
        keep_towers(manifest)
        manifest.write(locate_copy(manifest.dataset, manifest.model, manifest.captioner))


def _link(source: str | Path, target: str | Path) -> None:
    """Give a file a further name: no stage writes into a file of data/trained, each makes its folder anew."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy(source, target)


def write_table(manifest: Manifest, material: IndexContent, shards: Path, folder: Path, threads: int) -> None:
    """Write the pool's rows, words and vectors and, where the settings ask for it, a table for approximate search.

    The rows' schema says in its metadata which dataset, model and captioner they are of, and the key.
    """
    settings = IndexParams.model_validate(manifest.settings)
    form, approximate = settings.form, settings.approximate(len(material))
    given = {IMAGE_VECTOR: material.image_vectors, CAPTION_VECTOR: material.caption_vectors}
    spaces = {name: rows for name, rows in given.items() if rows is not None}
    known = {name: material.learn(name, rows) for name, rows in spaces.items() if form != VectorForm()}
    for name, one in known.items():
        check_form(form, spaces[name].shape[1], one, f"{manifest.model} ({name})")
    if approximate:
        dims = {name: form.dimensions or rows.shape[1] for name, rows in spaces.items()}
        check_candidates(settings.vector_index, dims)
    folder.mkdir(parents=True)
    schema = ROWS.with_metadata({name: getattr(manifest, name) for name in IDENTITY})
    write_rows(folder, _batches(material, shards, settings.thumbnail_px, schema, threads), schema)
    postings.write(folder, _words_of_each(material))
    none = np.zeros(0, dtype=np.int64)
    absent = {IMAGE_VECTOR: none, CAPTION_VECTOR: np.flatnonzero(~material.described)}
    for name, rows in spaces.items():
        write_space(folder, name, rows, absent[name], form, known.get(name))
    if material.negatives is not None:
        write_space(folder, NEGATIVES, material.negatives, none)
    if approximate:
        write_candidates(folder, settings.vector_index)


def _batches(
    material: IndexContent, shards: Path, side_px: int, schema: pa.Schema, threads: int
) -> Iterator[pa.RecordBatch]:
    from twinlens.images.transforms import map_ahead

    jpegs = (jpeg for _, jpeg in iter_pixels(shards, material.pool))
    small = map_ahead(lambda jpeg: make_thumbnail(jpeg, side_px), jpegs, threads)
    with Progress("index", total=len(material), unit="img") as bar:
        for start in range(0, len(material), BATCH):
            ids, texts = material.pool["image_id"][start : start + BATCH], material.texts[start : start + BATCH]
            columns = {"image_id": ids.to_list(), "thumbnail": [next(small) for _ in ids]}
            columns |= texts.to_dict(as_series=False)
            arrays = [pa.array(columns[field.name], field.type) for field in schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            bar.add(len(ids))


def _words_of_each(material: IndexContent) -> Iterator[list[str]]:
    for captions, generated, _ in material.texts.iter_rows():
        yield [word for text in (*captions, generated or "") for word in tokenize(text)]


def prune_tables(unused_days: float = UNUSED_DAYS) -> list[Path]:
    """Remove tables that no manifest names and that nobody has opened for a while; returns the folders removed."""
    oldest, named = time.time() - unused_days * 86_400, list_named_keys() | {PUBLISHED}
    folders = [folder for folder in paths.index_tables().glob("*") if folder.is_dir()]
    stale = [folder for folder in folders if folder.name not in named and folder.stat().st_mtime < oldest]
    for folder in stale:
        shutil.rmtree(folder, ignore_errors=True)
    return stale
