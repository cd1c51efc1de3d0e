"""State dicts as trainers leave them: in a wrapper's names, under a key, beside settings that are no weights."""

from __future__ import annotations

import argparse
import datetime
import logging
import pathlib
import struct
import tempfile
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from twinlens.core.errors import DataError
from twinlens.models.weights import UNREADABLE, give_reason, refuse_gaps

log = logging.getLogger("twinlens")

State = dict[str, torch.Tensor]
Value = TypeVar("Value")
Reports = list[tuple[torch.nn.Module, dict[str, Any]]]  # transformers' models with what was found of their weights

# Keys under which trainers put the weights, the first that is there is taken: averaged weights before the last ones.
KEYS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model_state", "model",
    "module", "net", "network", "weights", "params",
)  # fmt: skip
DEEPEST = 3  # wrappers in wrappers
# Names that wrappers put into names, wherever the wrapped part stands: torch.compile, FSDP, checkpointing, Fabric, DDP.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module")
MULTIARRAY = np._core.multiarray  # type: ignore[attr-defined]  # where numpy's scalars and arrays are pickled from


def _dict(factory: object = None) -> dict[Any, Any]:
    """What a defaultdict is read as: torch fills plain dicts only."""
    return {}


def _list(items: Iterable[Any] = (), longest: int | None = None) -> list[Any]:
    """What a deque is read as."""
    return list(items)


def _harmless() -> list[Any]:
    """Types that stand beside weights and do nothing when they are read: settings, numbers, names of files, dates."""
    numbers = [np.dtype, np.ndarray, *(type(np.dtype(code)) for code in "?bBhHiIlLqQefdFDSUmM")]
    moved = [(MULTIARRAY.scalar, "numpy.core.multiarray.scalar"), MULTIARRAY.scalar]  # numpy 1 and 2
    moved += [(MULTIARRAY._reconstruct, "numpy.core.multiarray._reconstruct"), MULTIARRAY._reconstruct]
    # a path of another system cannot be made here: any path is read as a pure one
    files: list[Any] = [
        (pathlib.PureWindowsPath if "Windows" in name else pathlib.PurePosixPath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ]
    dates = [datetime.datetime, datetime.date, datetime.timedelta, datetime.timezone]
    return [
        argparse.Namespace, types.SimpleNamespace, dict, list, set, complex,
        (_dict, "collections.defaultdict"), (_list, "collections.deque"),
        *numbers, *moved, *files, *dates,
    ]  # fmt: skip


def allow_harmless_types() -> AbstractContextManager[None]:
    """Let torch read harmless types beside the weights; any other still stops it, since reading it may run code."""
    allowed: AbstractContextManager[None] = torch.serialization.safe_globals(_harmless())
    return allowed


def read_state(path: Path, what: str) -> State:
    """Read the weights of a file (safetensors or torch), by name; nothing in it is run.

    Args:
        path: the file.
        what: the model that they are wanted for, for the message.

    Raises:
        DataError: it cannot be read, holds objects that only their own code can read, or no weights.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with allow_harmless_types():
            found = _unpickle(path, "cpu")
    except UNREADABLE as error:
        raise DataError(f"{path} does not hold the weights of {what}: {give_reason(error)}") from None
    state = _unwrap(found)
    if not state:
        keys = ", ".join(str(key) for key in list(found)[:8]) if isinstance(found, dict) else type(found).__name__
        raise DataError(
            f"{path} does not hold the weights of {what}: found {keys or 'nothing'}; wanted tensors by name, or such "
            f"under one of {', '.join(KEYS)}. Save them with `torch.save(model.state_dict(), file)`"
        )
    return state


def read_names(path: Path) -> list[str]:
    """Read the names in a file of weights without the numbers, as a library finds them; empty if they are wrapped.

    Raises:
        OSError, ValueError, ...: one of UNREADABLE.
    """
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return list(file.keys())
    found = _unpickle(path, "meta")
    plain = isinstance(found, dict) and all(isinstance(value, torch.Tensor) for value in found.values())
    return list(found) if plain else []


def _unpickle(path: Path, device: str) -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (TypeError, AttributeError, IndexError, AssertionError, OverflowError, struct.error) as error:
        # what a damaged file of an old torch leads its reader to
        raise UnpicklingError(f"it is damaged ({' '.join(str(error).split())[:120]})") from None


def _unwrap(found: Any, depth: int = DEEPEST) -> State:
    """The tensors of a dict, or of what is under one of KEYS; empty where there are none."""
    if not isinstance(found, dict):
        return {}
    under = [_unwrap(found[key], depth - 1) for key in (KEYS if depth else ()) if isinstance(found.get(key), dict)]
    most = max((len(inner) for inner in under), default=0)
    for inner in under if most else ():
        if 2 * len(inner) >= most:  # a count of steps under `ema` is no average of the weights
            return inner
    return {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}


def rename_to_fit(state: Mapping[str, Value], wanted: Collection[str]) -> dict[str, Value]:
    """Take off what trainers put in front of all names, or into them, where the rest fits better.

    Tried are the names as they are, without wrappers' parts anywhere (`_orig_mod`, `module`, ...), and each of
    both without the parts that all names begin with, one after the other: `model.` of Lightning, or any other.

    Args:
        state: tensors (or whatever else) by name.
        wanted: the model's names, or some of them.

    Returns:
        The tensors under the names of which most are wanted; as they are, where no others fit better.
    """
    known = set(wanted)
    best, most = list(state), len(known & set(state))
    for renamed in _renamings(list(state)):
        fitting = len(known & set(renamed))
        if fitting > most and len(set(renamed)) == len(renamed):
            best, most = renamed, fitting
    if best != list(state):
        old, new = next((a, b) for a, b in zip(state, best, strict=True) if a != b)
        log.info("weights are named as a trainer's wrapper names them: %s is taken for %s, and so on", old, new)
    return dict(zip(best, state.values(), strict=True))


def _renamings(names: list[str]) -> Iterator[list[str]]:
    bare = [".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names]
    inner = [".".join(part for part in name.split(".") if part not in WRAPPERS[:-1]) for name in names]
    for some in (names, inner, bare):  # some models have a `module` of their own
        yield some
        parts = [name.split(".") for name in some]
        while parts and len({row[0] for row in parts}) == 1 and all(len(row) > 1 for row in parts):
            parts = [row[1:] for row in parts]
            yield [".".join(row) for row in parts]


def load_state(model: torch.nn.Module, state: State, what: str, path: Path) -> None:
    """Load weights into a model, all of them, once their names are the model's.

    Args:
        model: gets the weights.
        state: of `read_state`.
        what: the model, for the message.
        path: where the weights are from, for the message.

    Raises:
        DataError: a tensor is missing, has another shape, or is unknown to the model.
    """
    wanted = model.state_dict()
    state = rename_to_fit(state, wanted)
    refuse_misfit(state, wanted, what, path)
    model.load_state_dict(state)


def refuse_misfit(state: State, wanted: State, what: str, path: Path) -> None:
    """Refuse weights that are not exactly those that a model has.

    Args:
        state: the weights.
        wanted: tensors of the model's names and shapes, on any device.
        what: the model, for the message.
        path: where the weights are from, for the message.

    Raises:
        DataError: a tensor is missing, has another shape, or is unknown to the model.
    """
    lacking = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    shapes = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    faults = []
    if lacking:
        faults.append(f"lacks {len(lacking):,} of its {len(wanted):,} tensors (the first is {lacking[0]})")
    if unknown:
        faults.append(f"has {len(unknown):,} that it does not know (the first is {unknown[0]})")
    if shapes:
        sizes = [" x ".join(map(str, of[shapes[0]].shape)) or "one number" for of in (state, wanted)]
        more = f", and {len(shapes) - 1:,} more differ" if len(shapes) > 1 else ""
        faults.append(f"has {shapes[0]} of {sizes[0]} where it has {sizes[1]}{more}")
    if faults:
        raise DataError(f"{path} does not hold the weights of {what}: it {'; '.join(faults)}")


@contextmanager
def named_plainly(path: Path, wanted: Collection[str], what: str) -> Iterator[Path]:
    """Lend a file of weights that a library reads by itself, with a trainer's wrappings taken off.

    Args:
        path: the file.
        wanted: names that the library's format has.
        what: the model, for the message.

    Yields:
        `path` itself where nothing is to be taken off, else a copy that is gone afterwards.

    Raises:
        DataError: it cannot be read.
    """
    if path.suffix in (".npz", ".npy") or _is_plain(path, wanted):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "weights.pt"  # not safetensors, which refuses tensors that share memory
        torch.save(rename_to_fit(read_state(path, what), wanted), copy)
        yield copy


def _is_plain(path: Path, wanted: Collection[str]) -> bool:
    """Whether the weights have names that fit as they are, and torch reads the file without our leave."""
    try:
        names = read_names(path)
    except UNREADABLE:
        return False
    return bool(names) and list(rename_to_fit(dict.fromkeys(names), wanted)) == names


def load_transformers(kind: Any, path: Path, unused: str | None = None, **options: Any) -> Any:
    """Load a transformers model from a folder, also from one whose weights a trainer's wrapper named.

    Args:
        kind: a class of the library with `from_pretrained`.
        path: the folder.
        unused: start of the names of parts that are not used and may be missing.
        options: for `from_pretrained`.

    Raises:
        DataError: a matrix is missing, which the library would fill with random numbers, or of another shape.
        OSError, ValueError, ...: one of UNREADABLE, of the library's own.
    """
    # dtype is given because the default is the checkpoint's, half precision for many
    # shapes that differ are for us to tell: the library tells them in a table on the terminal, not in its error
    options = {
        "dtype": torch.float32, "local_files_only": True, "output_loading_info": True, "ignore_mismatched_sizes": True
    } | options  # fmt: skip
    with allow_harmless_types(), without_reports():
        model, report = kind.from_pretrained(path, **options)
    _refuse_other_shapes(report, path)
    try:
        refuse_gaps(model, report, path, unused)
        return model
    except DataError:
        plain = _plain_state(path, model)
        if plain is None:
            raise
    with without_reports():
        model, report = type(model).from_pretrained(None, config=model.config, state_dict=plain, **options)
    _refuse_other_shapes(report, path)
    refuse_gaps(model, report, path, unused)
    return model


@contextmanager
def collect_reports() -> Iterator[Reports]:
    """Collect what transformers finds of the weights of each model that is loaded meanwhile.

    sentence-transformers loads models itself and asks for no report.
    """
    from transformers import PreTrainedModel

    reports: Reports = []
    original: Any = PreTrainedModel.__dict__["from_pretrained"]

    def load_with_report(cls: type, *args: Any, **options: Any) -> Any:
        if options.pop("output_loading_info", False):
            return original.__func__(cls, *args, output_loading_info=True, **options)
        model, report = original.__func__(cls, *args, output_loading_info=True, **options)
        reports.append((model, report))
        return model

    PreTrainedModel.from_pretrained = classmethod(load_with_report)  # type: ignore[method-assign,assignment]
    try:
        yield reports
    finally:
        PreTrainedModel.from_pretrained = original


@contextmanager
def without_reports() -> Iterator[None]:
    """Keep transformers from printing a line for every tensor that is not where it looks: we tell what is wrong."""
    from transformers.utils import logging as library

    before = library.get_verbosity()
    library.set_verbosity_error()
    try:
        yield
    finally:
        library.set_verbosity(before)


def _refuse_other_shapes(report: dict[str, Any], path: Path) -> None:
    if unlike := sorted(report.get("mismatched_keys") or ()):
        name, *shapes = unlike[0]
        found, wanted = (" x ".join(map(str, shape)) for shape in shapes)
        more = f" (and {len(unlike) - 1:,} more differ)" if len(unlike) > 1 else ""
        raise DataError(
            f"{path} holds {name} of {found} where its config.json asks for {wanted}{more}: weights and config.json "
            "are of two models"
        )


def _plain_state(folder: Path, model: torch.nn.Module) -> State | None:
    """The weights of a folder under the model's names; None where no renaming makes them fit better."""
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    state = {name: value for file in files for name, value in read_state(file, type(model).__name__).items()}
    wanted = model.state_dict()
    renamed = rename_to_fit(state, wanted)
    return renamed if len(wanted.keys() & renamed.keys()) > 0 else None
