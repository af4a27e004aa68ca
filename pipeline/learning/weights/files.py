"""Weights files: digest, names and numbers, read without executing anything a file contains."""

import hashlib
import json
import pickle
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

_MOST_NAMES_SHOWN = 4
# A header of this size holds the names of about a million tensors.
_LONGEST_HEADER = 100_000_000


def file_digest(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits.

    Raises
    ------
    WeightsError
        If it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        what = f"the file cannot be read ({error.strerror})"
        raise WeightsError(what, where=str(path), remedy="check the path and the permissions") from error


def require_digest(path: Path, expected: str) -> str:
    """Give the digest of a file if it starts with the expected one.

    Raises
    ------
    WeightsError
        With both digests.
    """
    found = file_digest(path)
    if not found.startswith(expected):
        what = f"wrong digest: expected SHA-256 {expected}{'...' if len(expected) < 64 else ''}, found {found}"
        size = path.stat().st_size
        remedy = f"the file ({size} bytes) is truncated, altered or another one; copy or download it again"
        raise WeightsError(what, where=path.name, remedy=remedy)
    return found


def read_state(path: Path) -> dict[str, "Tensor"]:
    """Read a state dict without executing anything the file contains.

    Safetensors files and PyTorch files (zip or older format) are accepted; the latter only if they hold
    nothing but tensors and plain containers.

    Raises
    ------
    WeightsError
        If the file is truncated, damaged, or holds other Python objects.
    """
    import torch

    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged files
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            what = "the file holds Python objects besides tensors; nothing of it was executed"
            remedy = "use the published file, or one that holds only a state dict (safetensors is best)"
        else:
            what = f"the file is truncated or damaged ({path.stat().st_size} bytes, {type(error).__name__})"
            remedy = "copy or download it again and compare its SHA-256"
        raise WeightsError(what, where=path.name, remedy=remedy) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    is_plain = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not is_plain:
        what = f"the file holds {type(state).__name__} where a state dict (names and tensors) was expected"
        raise WeightsError(what, where=path.name, remedy="save the network's state_dict")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def read_facts(path: Path) -> dict[str, Any]:
    """Read what `pipeline.learning.loop.checkpoints.write_checkpoint` wrote beside the tensors; no tensor is read.

    The layout of a safetensors file is: length of the header in 8 bytes, the header as JSON, the tensors.

    Raises
    ------
    WeightsError
        If it is no checkpoint of a run.
    """
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, _LONGEST_HEADER)))
        facts = json.loads(header["__metadata__"]["facts"])
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        what = f"the file is no checkpoint of a run, or damaged ({type(error).__name__})"
        remedy = "name the checkpoint.safetensors in the folder of a fold; other files are source `file`"
        raise WeightsError(what, where=str(path), remedy=remedy) from error
    if not isinstance(facts, dict):
        what = "the checkpoint holds no facts about itself"
        raise WeightsError(what, where=str(path), remedy="train it again")
    return facts


def require_finite(state: dict[str, "Tensor"], where: str) -> None:
    """Refuse values that are not finite."""
    import torch

    bad = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise WeightsError(some_names("not finite", bad), where=where, remedy="use an undamaged file")


def require_statistics(state: dict[str, "Tensor"], where: str) -> None:
    """Refuse folded batch normalisation: right in evaluation mode, wrong as soon as the network trains.

    No trained layer has a mean of exactly 0 and a variance of exactly 1 in every channel, so one such layer is
    enough to refuse.
    """
    names = [name.removesuffix(".running_mean") for name in state if name.endswith(".running_mean")]
    folded = [
        name
        for name in names
        if bool((state[f"{name}.running_mean"] == 0).all()) and bool((state[f"{name}.running_var"] == 1).all())
    ]
    if folded:
        what = (
            f"{len(folded)} of {len(names)} batch normalisations hold mean 0 and variance 1 (folded or never trained)"
        )
        raise WeightsError(what, where=where, remedy="use the file as published, with its own statistics")


def some_names(what: str, names: list[str]) -> str:
    """Count names and show the first few.

    Examples
    --------
    >>> some_names("missing", ["a", "b"]), some_names("unexpected", [])
    ('2 missing (a, b)', '0 unexpected')
    """
    shown = ", ".join(names[:_MOST_NAMES_SHOWN]) + (", ..." if len(names) > _MOST_NAMES_SHOWN else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")


def _read_safetensors(path: Path) -> dict[str, "Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, struct.error, json.JSONDecodeError) as error:
        what = f"the file is truncated or damaged ({path.stat().st_size} bytes)"
        raise WeightsError(what, where=path.name, remedy="copy or download it again") from error
