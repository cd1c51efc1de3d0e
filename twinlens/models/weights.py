"""Location of a tower's weights: a file or folder the card names, or the hub at a pinned revision."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from twinlens.config.base import Weights
from twinlens.core import paths
from twinlens.core.errors import DataError, FetchError
from twinlens.core.hashing import recall_digest

if TYPE_CHECKING:
    import torch

# What the libraries raise for weights that do not fit, are cut short, or are something else.
UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, EOFError, UnpicklingError, SafetensorError)

ENOUGH = 300  # characters of a library's reason
# What libraries advise their own callers, who can pass arguments to them; a user of a card cannot.
ADVICE = re.compile(
    r"weights_only|trust_remote_code|safe_globals|ignore_mismatched_sizes|force_download|local_files_only|from_tf"
    r"|pip install|HF_[A-Z]|huggingface-cli|hf auth|token=|allowlist|you have two options|check the documentation"
    r"|trust the source|trusted source|is trusted|pickle fallback|https?://|weights only load failed"
    r"|internal miniz error|look at the above",
    re.IGNORECASE,
)
SILENT: dict[type[BaseException], str] = {EOFError: "the file is empty, or ends too early"}  # errors without a word
LISTED = re.compile(r"""((?P<quote>["'])[^"'\n]+(?P=quote))(?:, (?P=quote)[^"'\n]+(?P=quote)){2,}""")
UNKNOWN_TYPE = re.compile(r"Unsupported global: GLOBAL (\S+)")

HUB_ANSWERS_IN_S = 10.0  # or counts as out of reach
HUB_COPY = re.compile(r"/models--[^/]+/snapshots/(?P<commit>[0-9a-f]{40})(?:/(?P<file>.*))?$")
HIDDEN = re.compile(r"(^|/)\.")


def find_local_checkpoint(card: Weights) -> Path | None:
    """Find the file or folder that the card names as `checkpoint`, checked; None where it names none.

    Raises:
        FetchError: it is not there.
        DataError: its SHA-256 is not the card's.
    """
    if card.checkpoint is None:
        return None
    path = paths.expand(card.checkpoint)
    if not path.exists():
        raise FetchError(f"checkpoint {card.checkpoint} is not there (looked for {path})")
    if card.sha256 is not None:
        found = recall_digest(path) if path.is_file() else "that of a folder"
        if found != card.sha256:
            raise DataError(f"{path} has SHA-256 {found}, the card says {card.sha256}")
    return path


def give_reason(error: BaseException) -> str:
    """The reason in a library's error, short: what is wrong is kept, long lists and advice to programmers are not.

    What was pickled from a class that is not known here can only be read by running its code, which is not done;
    that is said with what to do instead.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    if unknown := UNKNOWN_TYPE.search(text):
        return (
            f"it holds a {unknown[1]} beside or around the weights, and reading that would run code of whoever wrote "
            "it. Where it was trained, save the weights alone (`torch.save(model.state_dict(), file)`), and name that"
        )
    text = LISTED.sub(lambda listed: f"{listed[1]} and {listed[0].count(', ')} more", text)
    sentences = [part.strip() for part in re.split(r"(?<=[.!?])\s+|\s*\n\s*", text)]
    kept = " ".join(part for part in sentences if part and not ADVICE.search(part)) or SILENT.get(
        type(error), type(error).__name__
    )
    if len(kept) <= ENOUGH:
        return kept
    half = (ENOUGH - 5) // 2  # the reason may stand first or last
    return f"{kept[:half].rstrip()} ... {kept[-half:].lstrip()}"


def refuse_gaps(model: torch.nn.Module, report: dict[str, Any], path: Path, unused: str | None = None) -> None:
    """Refuse a transformers model of which a part was not in its files: the library fills it with numbers of its own.

    Matrices become random, biases zero and scales one, without more than a line in a log. What the files hold under
    names that the model does not have is named too, as that is often the same part.

    Args:
        model: as loaded.
        report: the library's own, of `output_loading_info`.
        path: where it was loaded from, for the message.
        unused: start of the names of parts that are not used.

    Raises:
        DataError: a parameter is missing, single numbers (a temperature) aside.
    """
    own = {name: value for name, value in model.named_parameters() if value.numel() > 1}  # buffers can be made anew
    gaps = [name for name in report["missing_keys"] if name in own and (unused is None or unused not in name)]
    if gaps:
        first = min(gaps, key=lambda name: (-own[name].ndim, name))  # a matrix says more than its bias
        strange = sorted(report.get("unexpected_keys", ()))
        instead = f"; it holds {len(strange)} that are not the model's, such as {strange[0]}" if strange else ""
        raise DataError(
            f"{path} lacks {len(gaps)} of the model's {len(own)} parameters, the first is {first}{instead}: "
            "another kind of model, or its parts were renamed?"
        )


def refuse_wordless(tokenizer: Any, path: Path) -> None:
    """Refuse a tokenizer whose files are missing: transformers then makes one to which every word is unknown.

    Raises:
        DataError: it knows nothing but its special tokens.
    """
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise DataError(f"{path} lacks the tokenizer's files (tokenizer.json, or a vocabulary)")


def fetch_hub_weights(repo: str, revision: str | None, weights: Sequence[str], others: list[str]) -> Path:
    """Fetch the first kind of weights that a hub repository holds, and no other, into a local folder.

    Args:
        repo: `owner/name`.
        revision: a commit; without one, whatever the hub serves today.
        weights: file names, with wildcards, best first.
        others: the files wanted besides.

    Raises:
        FetchError: the hub cannot be reached, has no such repository or wants its terms accepted.
        DataError: the repository holds none of `weights`.
    """
    for name in weights:
        folder = fetch_weights_folder(repo, revision, [*others, name])
        if any(folder.glob(name)):
            return folder
    raise DataError(f"{repo}, as copied to {folder}, holds none of {', '.join(weights)}")


def fetch_weights_folder(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Fetch the wanted files of a hub repository of weights into a local folder, see `twinlens.core.hub`.

    Raises:
        FetchError: the hub cannot be reached, has no such repository or wants its terms accepted.
    """
    from twinlens.core import hub  # here, because who asks what weights are wants no network

    return hub.fetch_hub_folder(repo, revision, patterns, answers_in_s=HUB_ANSWERS_IN_S)


def identify_weights(path: Path) -> dict[str, Any]:
    """Identify weights wherever they lie: the commit of a hub copy, the SHA-256 of anything else."""
    if hub_copy := HUB_COPY.search(path.as_posix()):
        return {"commit": hub_copy["commit"], "file": hub_copy["file"] or ""}
    if path.is_file():
        return {"sha256": {path.name: recall_digest(path)}}
    files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
    # names with a dot in front (.cache, .gitattributes) are notes of whoever fetched the folder
    return {"sha256": {name: recall_digest(file) for name, file in files.items() if not HIDDEN.search(name)}}
