"""Checkpoints: tensors as safetensors with their facts as JSON, written whole or not at all; nothing is pickled.

The state of a running training lies outside the workflow's declared outputs, which Snakemake deletes when it
starts a job again. Two states are kept, so that a damaged last one costs one epoch and no more. No state of a
random generator is among them: all randomness comes from seeds named after what they are for.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.core.artefacts import replacing
from pipeline.core.errors import TrainingError
from pipeline.core.progress import say

if TYPE_CHECKING:
    from torch import Tensor

_GO_ON = "delete it; training goes on from the one before"
_FACTS, _DIGEST = "facts", "tensors_sha256"
# Epochs shorter than this share a state: writing one takes about half a second for a ResNet-18.
SECONDS_BETWEEN_STATES = 10.0


class Checkpoint(NamedTuple):
    """Named tensors and the facts that belong to them (plain JSON values)."""

    tensors: dict[str, "Tensor"]
    facts: dict[str, Any]


def write_checkpoint(path: Path, tensors: Mapping[str, "Tensor"], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts as `write_tensors`, with a digest of the values by which damage is found.

    Raises
    ------
    ArtefactError
        If the disk is full or the folder cannot be written.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_tensors(path, plain, {**facts, _DIGEST: _digest(plain)})


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts atomically; equal contents give equal bytes.

    Raises
    ------
    ArtefactError
        If the disk is full or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in sorted(tensors.items())}
    with replacing(path) as temporary:
        try:
            # One entry only: safetensors writes several in an order that differs from run to run.
            save_file(plain, temporary, metadata={_FACTS: json.dumps(facts, sort_keys=True)})
        except SafetensorError as error:
            # The library has one exception for everything; what the system refused it quotes with its number.
            found = re.search(r"(.*)\(os error (\d+)\)", str(error))
            if found is None and "I/O" not in str(error):
                raise
            number = int(found[2]) if found else errno.EIO
            raise OSError(number, os.strerror(number)) from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what `write_checkpoint` wrote.

    Raises
    ------
    TrainingError
        If the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[_FACTS])
            digest = facts.pop(_DIGEST)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        what = f"the checkpoint is damaged ({type(error).__name__})"
        raise TrainingError(what, where=str(path), remedy=_GO_ON) from error
    # safetensors looks at lengths only: a sector of zeros, or a flipped bit, would go on as a network.
    if _digest(tensors) != digest:
        what = "the checkpoint is damaged (its values are not those written)"
        raise TrainingError(what, where=str(path), remedy=_GO_ON)
    return Checkpoint(tensors, facts)


def _digest(tensors: Mapping[str, "Tensor"]) -> str:
    """Digest names, kinds, shapes and values."""
    import torch

    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


class StateFolder:
    """The resumable state of one training: the two most recent ones.

    Parameters
    ----------
    folder
        Folder of this training alone.
    key
        Digest of everything the training depends on; states of another key are never resumed.
    minutes
        Time after which a state is written in the middle of an epoch.
    is_read_only
        Nothing is written: another process of the same training does it.
    """

    def __init__(self, folder: Path, key: str, minutes: float = 10.0, *, is_read_only: bool = False) -> None:
        self.is_read_only = is_read_only
        self.folder = folder
        self.key = key
        self.minutes = minutes
        self._saved = time.monotonic()

    def latest(self) -> Checkpoint | None:
        """Read the most recent undamaged state of this key, or None; damaged ones are reported and passed over."""
        for path in sorted(self.folder.glob("epoch-*.safetensors"), reverse=True):
            try:
                state = read_checkpoint(path)
            except TrainingError as error:
                say(f"training state passed over: {error}")
                continue
            if state.facts.get("key") == self.key:
                return state
            say(f"training state passed over: {path.name} was made from other data, settings, code or versions")
        return None

    def is_due(self) -> bool:
        """Tell whether enough time has passed since the last state."""
        return time.monotonic() - self._saved >= SECONDS_BETWEEN_STATES

    def is_overdue(self) -> bool:
        """Tell whether a state has to be written before the epoch ends."""
        return time.monotonic() - self._saved >= 60 * self.minutes

    def save(self, epoch: int, tensors: Mapping[str, "Tensor"], facts: Mapping[str, Any], step: int = 0) -> None:
        """Write the state after an epoch, or after some steps of the next, and keep one older state beside it."""
        self._saved = time.monotonic()
        if self.is_read_only:
            return
        before = sorted(self.folder.glob("epoch-*.safetensors"))
        # In the order of their names, states are in the order of time: `.safetensors` stands before `.step`.
        path = self.folder / f"epoch-{epoch:05d}{f'.step-{step:07d}' if step else ''}.safetensors"
        write_checkpoint(path, tensors, {**facts, "key": self.key})
        self._saved = time.monotonic()
        older = [other for other in before if other.name < path.name]
        for other in before:
            if other != path and other not in older[-1:]:
                other.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process, so that an orphaned job and its successor never train into one state.

    Raises
    ------
    TrainingError
        If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            what = "another process is training into this folder"
            remedy = "wait for it, or end it (a job of an interrupted Snakemake may still run on the cluster)"
            raise TrainingError(what, where=str(folder), remedy=remedy) from error
        yield
