"""Weights: find, verify, and load them strictly; there is no silent fall-back (decision 0019).

A file is used only if its digest is the expected one, if it can be read without executing anything it
contains, and if every name and shape fits the network.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.core.errors import WeightsError
from pipeline.core.places import standing_at
from pipeline.core.progress import say
from pipeline.learning.networks.backbones import BACKBONES, HEAD, SLICES, block_of, recognise
from pipeline.learning.networks.forms import Inflation, VolumeForm
from pipeline.learning.networks.layouts import Layout, unwrap, with_usual_epsilon
from pipeline.learning.weights.files import (
    file_digest,
    read_state,
    require_digest,
    require_finite,
    require_statistics,
    some_names,
)
from pipeline.learning.weights.runs import own_normalisation, read_run, require_form, require_member
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION, SOURCES, Normalisation

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS_FOLDER = Path("weights")
EMBEDDED_FOLDER = Path(__file__).with_name("embedded")
# Counters of training steps; files written before PyTorch 0.4.1 lack them, and nothing here reads them.
_OPTIONAL_SUFFIX = ".num_batches_tracked"


@dataclass(frozen=True, kw_only=True)
class WeightsChoice:
    """Which weights a study asks for.

    Attributes
    ----------
    source
        A registry entry, ``run`` (a checkpoint of this pipeline), ``file`` (one of the user's) or ``random``.
    dimensions
        2 for images, 3 for volumes. Networks for images can be inflated to volumes, not the other way.
    normalisation
        What the inputs of a ``file`` looked like when it was trained; None: as it says itself (files that this software
        has made do), else as ImageNet's with torchvision.
    inflation
        How this study would give kernels their depth; a ``run`` on whole volumes must have done it alike.
    member
        Which network of a run's ensemble, from 1; None: it holds one only.
    """

    source: str
    backbone: str
    file: Path | None = None
    sha256: str | None = None
    licence: str = "not stated"
    dimensions: Literal[2, 3] = 2
    normalisation: Normalisation | None = None
    inflation: Inflation = "mean"
    member: int | None = None


@dataclass(frozen=True, kw_only=True)
class VerifiedWeights:
    """A file whose digest is the expected one, with the facts that the report prints.

    Attributes
    ----------
    output_classes
        Classes of the head in the file; 0: it has none, and the network's own is drawn at random. None: as many as
        the file turns out to hold.
    layout, epsilon
        How names are arranged and which constant batch normalisation was trained with (`Source`).
    ancestry
        For a run's checkpoint: what it started from, with its digest.
    dimensions
        2 for images, 3 for volumes.
    left_out
        Beginnings of names that are not taken: the head of a run that looked at other blocks than the last.
    form
        Of a run on whole volumes: how its network is built.
    member
        Of a run's ensemble: which of its networks, from 1.
    seen
        For a run's checkpoint: beginnings of the pixel digests of all images it and its sources in other runs were
        trained or chosen on.
    """

    source: str
    path: Path | None
    sha256: str
    licence: str
    normalisation: Normalisation
    output_classes: int | None
    layout: Layout = "plain"
    epsilon: float = 1e-5
    ancestry: str = ""
    dimensions: Literal[2, 3] = 2
    left_out: tuple[str, ...] = ()
    seen: frozenset[str] = frozenset()
    form: VolumeForm | None = None
    member: int | None = None

    @property
    def name(self) -> str:
        """The file's name without its folder, and which of its networks; empty for random weights."""
        which = f", network {self.member}" if self.member else ""
        return f"{self.path.name}{which}" if self.path else ""

    @property
    def identity(self) -> str:
        """The file's digest, and which of its networks: what banks and states are told apart by."""
        return f"{self.sha256}/{self.member}" if self.member else self.sha256

    def untrained(self) -> "VerifiedWeights":
        """Give random weights for the network that these would be put into, with inputs normalised as theirs.

        What differs between a training from these and one from those is then the transfer and nothing else.
        """
        return replace(RANDOM, normalisation=self.normalisation, dimensions=self.dimensions, form=self.form)


RANDOM = VerifiedWeights(
    source="random", path=None, sha256="", licence="", normalisation=IMAGENET_NORMALISATION, output_classes=0
)


def verify(choice: WeightsChoice) -> VerifiedWeights:
    """Find the file of a choice and check its digest; nothing of it is loaded.

    Order of search for published files: the configured file, the folder ``weights``, the torch hub cache.

    Raises
    ------
    WeightsError
        If no file is found, its digest is another, or the source does not fit; the message says what was found
        and what to do.
    """
    if choice.source == "random":
        return RANDOM
    if choice.source == "file":
        path = _existing(choice.file)
        return VerifiedWeights(
            source="file",
            path=path,
            sha256=require_digest(path, choice.sha256 or ""),
            licence=choice.licence,
            normalisation=_normalisation_of(path, choice.normalisation),
            output_classes=None,
        )
    return _verify_run(choice) if choice.source == "run" else _verify_published(choice)


def build_network(backbone: str, weights: VerifiedWeights, *, seed: int) -> "nn.Module":
    """Build a backbone with the given weights; its head is still that of the source.

    Parameters
    ----------
    backbone
        A key of `pipeline.learning.networks.backbones.BACKBONES`.
    weights
        Verified weights; `RANDOM` draws the network's own initialisation from `seed`.

    Raises
    ------
    WeightsError
        If the file is damaged, holds more than tensors, or does not fit name by name and shape by shape.
    """
    import torch

    if weights.dimensions != 2:
        what = f"{weights.source} holds networks for volumes"
        raise WeightsError(what, where="train.weights.source", remedy="take a source for images")
    state = source_state(weights)
    classes = _classes_in(state, backbone) if weights.output_classes is None else weights.output_classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BACKBONES[backbone].build(classes or 2)
    if weights.path is not None:
        load_strictly(network, state, where=weights.path.name, backbone=backbone, has_head=classes > 0)
    return network


def _classes_in(state: Mapping[str, "Tensor"], backbone: str) -> int:
    """Count the classes of the head that a file holds; 0: it holds none."""
    rename = BACKBONES[backbone].rename
    heads = [
        value
        for name, value in state.items()
        if block_of(rename(name), backbone) == HEAD and name.endswith(".weight") and value.ndim == 2
    ]
    return len(heads[0]) if heads else 0


def source_state(weights: VerifiedWeights) -> dict[str, "Tensor"]:
    """Read the tensors of a verified file by torchvision's names, for PyTorch's usual batch normalisation.

    Of a run on slices of volumes, the pooling is left out: like the head, it belongs to the task.
    """
    if weights.path is None:
        return {}
    left_out = (*weights.left_out, f"{SLICES}.")
    state = unwrap(read_state(weights.path), weights.layout)
    if weights.member:
        own = f"network{weights.member}/"
        state = {name.removeprefix(own): value for name, value in state.items() if name.startswith(own)}
    state = {name: value for name, value in state.items() if not name.startswith(left_out)}
    return with_usual_epsilon(state, weights.epsilon)


def load_strictly(
    network: "nn.Module", state: dict[str, "Tensor"], *, where: str, backbone: str, has_head: bool = True
) -> None:
    """Copy a state dict into a network; every name and every shape must fit, nothing may be left over.

    Only ``num_batches_tracked`` may be absent, and the head if the source has none.

    Parameters
    ----------
    network
        Built by `BACKBONES`.
    state
        Tensors by torchvision's names or the network's own.
    where
        Name of the file, for messages.
    backbone
        Key of `BACKBONES` by which names are translated.
    has_head
        Whether the file is expected to hold a head.

    Raises
    ------
    WeightsError
        Naming what is missing, unexpected or of another shape, and the architecture the file was made for.
    """
    own = network.state_dict()
    given = require_fit(own, state, where=where, backbone=backbone, has_head=has_head)
    network.load_state_dict({**own, **given}, strict=True)


def require_fit(
    own: Mapping[str, "Tensor"], state: Mapping[str, "Tensor"], *, where: str, backbone: str, has_head: bool
) -> dict[str, "Tensor"]:
    """Give a file's tensors by the names of the network's state dict `own`; see `load_strictly`."""
    rename = BACKBONES[backbone].rename
    given = {rename(name): value for name, value in state.items()}
    left_out = set() if has_head else {name for name in own if block_of(name, backbone) == HEAD}
    missing = [
        name for name in own if name not in given and name not in left_out and not name.endswith(_OPTIONAL_SUFFIX)
    ]
    unexpected = [name for name in given if name not in own or name in left_out]
    reshaped = [name for name in own if name in given and own[name].shape != given[name].shape]
    if missing or unexpected or reshaped:
        found = recognise(state)
        what = (
            f"the file does not fit {backbone}: it holds {found}; {some_names('missing', missing)}, "
            f"{some_names('unexpected', unexpected)}, {some_names('of another shape', reshaped)}"
        )
        is_other = found in BACKBONES and found != backbone
        remedy = f"set train.backbone to {found}" if is_other else f"use a file made for {backbone}"
        raise WeightsError(what, where=where, remedy=remedy)
    require_finite(given, where)
    require_statistics(given, where)
    return given


def places_of(source: str, backbone: str) -> list[Path]:
    """List where a file is looked for: in the software, or in the folder ``weights`` and then the torch hub cache."""
    name = SOURCES[source].files[backbone].name
    if SOURCES[source].is_embedded:
        return [EMBEDDED_FOLDER / name]
    return [WEIGHTS_FOLDER / name, _hub_cache() / name]


def _normalisation_of(path: Path, stated: Normalisation | None) -> Normalisation:
    """Take what the configuration states of a file, else what that says itself, else ImageNet's."""
    own = own_normalisation(path)
    if stated and own and stated != own:
        say(
            f"train.weights: inputs are normalised by {stated.in_words()}, as the configuration states; "
            f"{path.name} says of itself {own.in_words()}"
        )
    return stated or own or IMAGENET_NORMALISATION


def _verify_published(choice: WeightsChoice) -> VerifiedWeights:
    source = SOURCES[choice.source]
    if choice.backbone not in source.files:
        what = f"{choice.source} has no file for {choice.backbone}"
        remedy = f"set train.backbone to {' or '.join(source.files)}, or take another source"
        raise WeightsError(what, where="train.weights.source", remedy=remedy)
    if source.dimensions > choice.dimensions:
        what = f"{choice.source} holds networks for volumes, and this study has images"
        raise WeightsError(what, where="train.weights.source", remedy="take a source for images, such as imagenet")
    path = _existing(choice.file) if choice.file else _first_existing(choice.source, choice.backbone)
    registered = source.files[choice.backbone].sha256
    if registered:
        require_digest(path, registered)  # a study may pin the rest of a digest, and not take another file by this name
    expected = choice.sha256 or registered
    if not expected:
        what = f"no digest is published for {choice.source}, so the study has to name it"
        remedy = f"if the file is the right one, write it into the configuration: sha256: {file_digest(path)}"
        raise WeightsError(what, where="train.weights.sha256", remedy=remedy)
    return VerifiedWeights(
        source=choice.source,
        path=path,
        sha256=require_digest(path, expected),
        licence=choice.licence if source.licence == "not stated" else source.licence,
        normalisation=source.normalisation,
        output_classes=source.output_classes,
        layout=source.layout,
        epsilon=source.epsilon,
        dimensions=source.dimensions,
    )


def _verify_run(choice: WeightsChoice) -> VerifiedWeights:
    """Take a checkpoint of this pipeline; normalisation and licence are those of the first source."""
    path = _existing(choice.file)
    digest = require_digest(path, choice.sha256 or "")
    run = read_run(path)
    require_member(run, choice.member, path)
    require_form(run, choice.dimensions, choice.inflation, path)
    if run.backbone != choice.backbone:
        what = f"the checkpoint holds {run.backbone}, and the study asks for {choice.backbone}"
        raise WeightsError(what, where=str(path), remedy=f"set train.backbone to {run.backbone}")
    blocks, parts = BACKBONES[run.backbone].blocks, BACKBONES[run.backbone].parts
    has_usual_head = run.head_blocks == blocks[-2:-1]
    return VerifiedWeights(
        source="run",
        path=path,
        sha256=digest,
        licence=run.licence,
        normalisation=run.normalisation,
        dimensions=2 if run.form is None else 3,
        form=run.form,
        member=choice.member if run.networks > 1 else None,
        output_classes=run.classes if has_usual_head else 0,
        left_out=() if has_usual_head else tuple(part for part, block in parts.items() if block == HEAD),
        ancestry=run.ancestry,
        seen=run.seen,
    )


def _existing(path: Path | None) -> Path:
    standing = "nothing" if path is None else standing_at(path)
    if standing == "closed":
        remedy = "ask for the permission to enter every folder on the way to it"
        raise WeightsError("the weights file cannot be looked up", where=str(path), remedy=remedy)
    if path is None or standing != "file":
        what = "the weights file does not exist"
        raise WeightsError(what, where=str(path), remedy="check train.weights.file in the configuration")
    return path


def _first_existing(source: str, backbone: str) -> Path:
    looked = places_of(source, backbone)
    for path in looked:
        if standing_at(path) == "file":
            return path
    what = f"the weights file was found neither as {' nor as '.join(str(path) for path in looked)}"
    url = SOURCES[source].files[backbone].url
    if SOURCES[source].is_embedded:
        remedy = "it comes with this software: install it again, whole"
    elif url:
        remedy = (
            f"python -m pipeline weights fetch {source}/{backbone}; without network, fetch {url} on a connected "
            f"machine and bring it in with python -m pipeline weights import FILE; or set train.weights: random"
        )
    else:
        remedy = f"get it from {SOURCES[source].page} and bring it in with python -m pipeline weights import FILE"
    raise WeightsError(what, where="train.weights", remedy=remedy)


def _hub_cache() -> Path:
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "torch"
    return Path(home) / "hub" / "checkpoints"
