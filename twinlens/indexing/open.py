"""Index opening: the table that a manifest names, or a plain reason why it may not answer."""

from __future__ import annotations

import logging
import os
from contextlib import suppress

from twinlens.config.params import Params
from twinlens.core import paths
from twinlens.core.absence import advise
from twinlens.core.errors import DataError, QueryError, TwinLensError
from twinlens.core.hashing import recall_digest
from twinlens.core.scratch import Scratch
from twinlens.indexing.index import Index
from twinlens.indexing.manifest import FOLDER, Manifest, digest_files, list_vector_files, locate_copy, name_vector_file
from twinlens.indexing.shared import fetch_table

log = logging.getLogger("twinlens")

SHOWN = 3  # indexes that a message names


def format_rebuild_command(params: Params, dataset: str, model: str, captioner: str) -> str:
    """Format the command that builds this index: DVC's stages are those of the names in params.yaml at the moment."""
    wanted = {"dataset": dataset, "model": model, "captioner": captioner}
    others = [f"-S {key}={name}" for key, name in wanted.items() if getattr(params, key) != name]
    return f"dvc exp run {' '.join(others)} index" if others else "dvc repro index"


def open_index(params: Params, dataset: str, model: str, captioner: str) -> Index:
    """Open an index.

    A table that was built elsewhere (the manifest came by `dvc pull`) is fetched first where `compute.parts` is a
    bucket that has it; else it is built here, out of the vectors that came with it. While DVC makes the manifest anew,
    the one last published answers.

    Args:
        params: params.yaml.
        dataset: a key of its cards, as the others.
        model: see `dataset`.
        captioner: see `dataset`.

    Raises:
        QueryError: there is no such index, or it was made of other vectors than lie in data/embedded; the
            message has the command that builds it.
        DataError: the table has to be built here, and what it is built of is not here.
    """
    command = format_rebuild_command(params, dataset, model, captioner)
    manifest = _manifest(dataset, model, captioner)
    if manifest is None:
        remedy = advise(f"`{command}` makes it, and what it needs")
        missing = f"there is no index of {dataset} with {model} and captions by {captioner}"
        raise QueryError(f"{missing}: {remedy}{_tell_others(params)}")
    _refuse_other_vectors(manifest, command)
    if not Scratch("index", manifest.key).has(FOLDER) and not fetch_table(manifest, params.compute.parts):
        log.info(
            "the index of %s with %s was built on another machine, cleared away or damaged: building it", dataset, model
        )
        from twinlens.indexing.build import make_table
        from twinlens.indexing.material import gather

        try:
            material = gather(dataset, model, captioner, params.models[model])
            make_table(manifest, material, params.compute.decode_threads)
        except DataError as error:
            raise DataError(f"the index's table is not on this machine, and cannot be built: {error}") from None
    if not _is_kept(manifest):
        from twinlens.indexing.build import keep_restored

        with suppress(OSError, TwinLensError):  # it answers all the same
            keep_restored(manifest, params.models[model])
    with suppress(OSError):  # a folder that may only be read is pruned by nobody here
        os.utime(manifest.folder)  # in use: not to be pruned
    try:
        return Index(manifest)
    except FileNotFoundError as error:
        raise QueryError(
            f"the index's table in {manifest.folder} is not whole, or being removed: once that folder is gone it is "
            f"built again ({error.strerror}: {error.filename})"
        ) from None


def can_answer(dataset: str, model: str, captioner: str) -> bool:
    """Whether there is an index that can be opened and asked here, by what is quick to see: which files there are.

    Its table is on this machine, or all that it is built of; and so are the weights that embed queries, or the note
    that names them.
    """
    try:
        manifest = _manifest(dataset, model, captioner)
    except DataError:  # it is none
        return False
    if manifest is None or not manifest.towers.is_dir():
        return False
    if (manifest.folder / FOLDER).exists():
        return True
    made_of = (paths.grouped(dataset), paths.filtered(dataset), paths.resized(dataset))
    vectors = {name_vector_file(file) for file in list_vector_files(dataset, model, manifest.form)}
    return vectors == set(manifest.vectors) and all(
        path.is_dir() for path in (*made_of, paths.captioned(dataset, captioner))
    )


def list_indexes(params: Params, dataset: str | None = None) -> list[tuple[str, str, str]]:
    """List the indexes on this disk that can answer: dataset, model and captioner of each, sorted.

    Args:
        params: params.yaml; what has no card any more is left out.
        dataset: of this one only; of all if absent.
    """
    folders = (paths.DATA / "indexed", locate_copy("", "", "").parent)
    files = {file for folder in folders for file in folder.glob(f"{dataset or '*'}/*/*.json")}
    names = {(file.parent.parent.name, file.parent.name, file.stem) for file in files}
    cards = (params.datasets, params.models, params.captioners)
    return sorted(
        each
        for each in names
        if all(name in known for name, known in zip(each, cards, strict=True)) and can_answer(*each)
    )


def _tell_others(params: Params) -> str:
    """What can be asked instead: after a run that failed, params.yaml names what has no index yet."""
    others = [f"--dataset {name} --model {model} --captioner {by}" for name, model, by in list_indexes(params)]
    if not others:
        return ""
    more = f", and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    return f"; what can answer here: {', or '.join(others[:SHOWN])}{more}"


def _manifest(dataset: str, model: str, captioner: str) -> Manifest | None:
    for path in (paths.indexed(dataset, model, captioner), locate_copy(dataset, model, captioner)):
        with suppress(FileNotFoundError):  # asked before, it could still be removed before it is read
            return Manifest.read(path)
    return None


def _is_kept(manifest: Manifest) -> bool:
    """Whether the index stays where DVC leaves it alone, for when it takes its own files out of the workspace."""
    with suppress(FileNotFoundError, DataError):
        return Manifest.read(locate_copy(manifest.dataset, manifest.model, manifest.captioner)) == manifest
    return False


def _refuse_other_vectors(manifest: Manifest, command: str) -> None:
    files = list_vector_files(manifest.dataset, manifest.model, manifest.form)
    if not files:  # being made anew, or never pulled: the table holds its own
        return
    try:
        found = digest_files(files, recall_digest)
    except FileNotFoundError as error:  # of a file that was there a moment ago
        raise QueryError(
            f"the vectors of {manifest.dataset} with {manifest.model} are being made anew, and {error.filename} is "
            f"gone by now: {advise(f'once they are there, `{command}` builds the index')}"
        ) from None
    if found != manifest.vectors:
        other = sorted(name for name in {*found, *manifest.vectors} if found.get(name) != manifest.vectors.get(name))
        raise QueryError(
            f"the index of {manifest.dataset} with {manifest.model} was built from other vectors than now lie in "
            f"{paths.embedded(manifest.dataset, manifest.model)} ({', '.join(other)}): "
            f"{advise(f'`{command}` builds it anew')}. "
            "Where DVC finds nothing to do, these vectors are damaged: `dvc repro -f -s embed`"
        )
