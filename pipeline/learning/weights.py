"""Weights files: find, verify, and load them strictly; there is no silent fall-back (DESIGN, D1).

A file is used only if its digest is the expected one, if it can be read without executing anything it
contains, and if every name and shape fits the network.
"""

import hashlib
import json
import pickle
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import WeightsError
from pipeline.learning.backbones import BACKBONES, recognise
from pipeline.learning.sources import IMAGENET_NORMALISATION, SOURCES, Normalisation

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS_FOLDER = Path("weights")
# Counters of training steps; files written before PyTorch 0.4.1 lack them, and nothing here reads them.
_OPTIONAL_SUFFIX = ".num_batches_tracked"
_MOST_NAMES_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class WeightsChoice:
    """Which weights a study asks for: a registry entry, a file of the user's, or none (`random`)."""

    source: str
    backbone: str
    file: Path | None = None
    sha256: str | None = None
    licence: str = "not stated"


@dataclass(frozen=True, kw_only=True)
class VerifiedWeights:
    """A file whose digest is the expected one, with the facts that the report prints."""

    source: str
    path: Path | None
    sha256: str
    licence: str
    normalisation: Normalisation
    output_classes: int


RANDOM = VerifiedWeights(
    source="random", path=None, sha256="", licence="", normalisation=IMAGENET_NORMALISATION, output_classes=0
)


def verify(choice: WeightsChoice) -> VerifiedWeights:
    """Find the file of a choice and check its digest.

    Order of search: the configured file, the folder ``weights``, the torch hub cache.

    Raises
    ------
    WeightsError
        If no file is found or its digest is another; the message says what was found and what to do.
    """
    if choice.source == "random":
        return RANDOM
    if choice.source == "file":
        path = _existing(choice.file)
        expected = choice.sha256 or ""
        found = _require_digest(path, expected)
        return VerifiedWeights(
            source="file",
            path=path,
            sha256=found,
            licence=choice.licence,
            normalisation=IMAGENET_NORMALISATION,
            output_classes=1000,
        )
    source = SOURCES[choice.source]
    published = source.files[choice.backbone]
    candidates = [WEIGHTS_FOLDER / published.name, _hub_cache() / published.name]
    path = _existing(choice.file) if choice.file else _first_existing(candidates, published.url)
    found = _require_digest(path, choice.sha256 or published.digest_prefix)
    return VerifiedWeights(
        source=choice.source,
        path=path,
        sha256=found,
        licence=source.licence,
        normalisation=source.normalisation,
        output_classes=source.output_classes,
    )


def build_network(backbone: str, weights: VerifiedWeights, *, seed: int) -> "nn.Module":
    """Build a backbone with the given weights; its head is still that of the source.

    Parameters
    ----------
    backbone
        A key of `pipeline.learning.backbones.BACKBONES`.
    weights
        Verified weights; `RANDOM` draws MONAI's own initialisation from `seed`.

    Raises
    ------
    WeightsError
        If the file is damaged, holds more than tensors, or does not fit name by name and shape by shape.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BACKBONES[backbone].build(weights.output_classes or 2)
    if weights.path is not None:
        load_strictly(network, read_state(weights.path), where=weights.path.name, backbone=backbone)
    return network


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


def load_strictly(network: "nn.Module", state: dict[str, "Tensor"], *, where: str, backbone: str) -> None:
    """Copy a state dict into a network; every name and every shape must fit, nothing may be left over.

    Only ``num_batches_tracked`` may be absent.

    Raises
    ------
    WeightsError
        Naming what is missing, unexpected or of another shape, and the architecture the file was made for.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in state and not name.endswith(_OPTIONAL_SUFFIX)]
    unexpected = [name for name in state if name not in own]
    reshaped = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unexpected or reshaped:
        found = recognise(set(state))
        what = (
            f"the file does not fit {backbone}: it holds {found}; "
            f"{_names('missing', missing)}, {_names('unexpected', unexpected)}, {_names('of another shape', reshaped)}"
        )
        remedy = f"set train.backbone to {found}" if found in BACKBONES else f"use a file made for {backbone}"
        raise WeightsError(what, where=where, remedy=remedy)
    _require_finite(state, where)
    _require_statistics(state, where)
    network.load_state_dict({**own, **state}, strict=True)


def file_digest(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _require_finite(state: dict[str, "Tensor"], where: str) -> None:
    import torch

    bad = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise WeightsError(_names("not finite", bad), where=where, remedy="use an undamaged file")


def _require_statistics(state: dict[str, "Tensor"], where: str) -> None:
    """Refuse folded batch normalisation: right in evaluation mode, wrong as soon as the network trains."""
    names = [name.removesuffix(".running_mean") for name in state if name.endswith(".running_mean")]
    folded = [
        name
        for name in names
        if bool((state[f"{name}.running_mean"] == 0).all()) and bool((state[f"{name}.running_var"] == 1).all())
    ]
    if names and len(folded) == len(names):
        what = f"all {len(names)} batch normalisations hold mean 0 and variance 1 (folded or never trained)"
        raise WeightsError(what, where=where, remedy="use the file as published, with its own statistics")


def _read_safetensors(path: Path) -> dict[str, "Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, struct.error, json.JSONDecodeError) as error:
        what = f"the file is truncated or damaged ({path.stat().st_size} bytes)"
        raise WeightsError(what, where=path.name, remedy="copy or download it again") from error


def _existing(path: Path | None) -> Path:
    if path is None or not path.is_file():
        what = "the weights file does not exist"
        raise WeightsError(what, where=str(path), remedy="check train.weights.file in the configuration")
    return path


def _first_existing(candidates: Iterable[Path], url: str) -> Path:
    looked = list(candidates)
    for path in looked:
        if path.is_file():
            return path
    what = f"the weights file was found neither as {' nor as '.join(str(path) for path in looked)}"
    remedy = f"fetch {url} on a connected machine and copy it to {looked[0]}, or set train.weights: random"
    raise WeightsError(what, where="train.weights", remedy=remedy)


def _hub_cache() -> Path:
    import os

    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "torch"
    return Path(home) / "hub" / "checkpoints"


def _require_digest(path: Path, expected: str) -> str:
    found = file_digest(path)
    if not found.startswith(expected):
        what = f"wrong digest: expected SHA-256 {expected}{'...' if len(expected) < 64 else ''}, found {found}"
        size = path.stat().st_size
        remedy = f"the file ({size} bytes) is truncated, altered or another one; copy or download it again"
        raise WeightsError(what, where=path.name, remedy=remedy)
    return found


def _names(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES_SHOWN]) + (", ..." if len(names) > _MOST_NAMES_SHOWN else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")
