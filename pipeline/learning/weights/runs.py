"""Runs as sources: what a checkpoint of this pipeline says about the network that it holds."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.core.errors import WeightsError
from pipeline.learning.networks.forms import Inflation, VolumeForm, form_from
from pipeline.learning.weights.files import read_facts
from pipeline.learning.weights.sources import PHANTOM_NORMALISATION, Normalisation


class RunFacts(NamedTuple):
    """What has to be known of a run's checkpoint to start from it.

    Attributes
    ----------
    classes
        Of its head.
    head_blocks
        After which its head takes its features.
    networks
        How many the file holds.
    normalisation
        Of its inputs.
    licence
        Of the first source; what was trained by the user from random weights is the user's own.
    ancestry
        What it started from, with its digest, and what that started from.
    seen
        Beginnings of the pixel digests of all images that it and its sources in other runs were trained or chosen on.
    road
        How it looks at volumes; empty for images.
    form
        How its network is built, if that takes whole volumes; None for others, and where older versions did not say.
    """

    backbone: str
    classes: int
    head_blocks: tuple[str, ...]
    networks: int
    normalisation: Normalisation
    licence: str
    ancestry: str
    seen: frozenset[str]
    road: str
    form: VolumeForm | None


def read_run(path: Path) -> RunFacts:
    """Read the facts of a checkpoint; no tensor is read.

    Raises
    ------
    WeightsError
        If it is no checkpoint of a run, or lacks what has to be known.
    """
    facts = read_facts(path)
    try:
        first, first_digest = str(facts["weights_source"]), str(facts["weights_sha256"])
        origin = f"{first} (SHA-256 {first_digest})" if first_digest else first
        before = str(facts.get("ancestry", ""))
        volumes = facts.get("volumes") or {}
        return RunFacts(
            backbone=str(facts["backbone"]),
            classes=len(facts["classes"]),
            head_blocks=tuple(map(str, facts["head_blocks"])),
            networks=int(facts.get("networks", 1)),
            normalisation=_normalisation_from(facts["normalisation"]),
            licence=str(facts["weights_licence"]) or ("own" if first == "random" else "not stated"),
            ancestry=f"{origin}, which started from {before}" if before else origin,
            seen=frozenset(map(str, facts.get("seen", ()))),
            road=str(volumes.get("road", "")),
            form=form_from(volumes["form"]) if "form" in volumes else None,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = "the checkpoint does not say what it was made from and how its inputs were normalised"
        remedy = "train it again with this version"
        raise WeightsError(what, where=str(path), remedy=remedy) from error


def require_member(run: RunFacts, member: int | None, path: Path) -> None:
    """Make sure that a network of an ensemble is named, and that it is there.

    Raises
    ------
    WeightsError
        If it is not.
    """
    if member is None and run.networks == 1:
        return
    if member is None or member > run.networks:
        held, remedy = "one network", "leave train.weights.member out"
        if run.networks > 1:
            held = f"an ensemble of {run.networks} networks, and a network starts from one"
            remedy = f"set train.weights.member to one of 1 to {run.networks}"
        asked = f"; there is no network {member}" if member else ""
        raise WeightsError(f"the checkpoint holds {held}{asked}", where=str(path), remedy=remedy)


def require_form(run: RunFacts, dimensions: Literal[2, 3], inflation: Inflation, path: Path) -> None:
    """Make sure that a run's network for whole volumes can be built, and that a study goes the same road.

    Parameters
    ----------
    run
        Its facts.
    dimensions, inflation
        Whether the study looks at whole volumes, and how it would give kernels their depth.
    path
        Of the checkpoint, for messages.

    Raises
    ------
    WeightsError
        If not.
    """
    if run.road != "inflation":
        return
    if run.form is None:
        what = "the checkpoint holds a network for whole volumes and does not say how it is built"
        remedy = "train it again with this version"
    elif dimensions != 3:
        what = "the checkpoint holds a network for whole volumes, and this study looks at images or slices"
        remedy = "set train.volumes.road to inflation, or start from a run on another road"
    elif run.form.inflation not in (None, inflation):
        what = f"the checkpoint's kernels were inflated by {run.form.inflation}, and this study says {inflation}"
        remedy = f"set train.volumes.inflation to {run.form.inflation}"
    else:
        return
    raise WeightsError(what, where=str(path), remedy=remedy)


def own_normalisation(path: Path) -> Normalisation | None:
    """Read how the inputs of a file were normalised, if that was made by this software; None: it does not say.

    `pretrain` writes it beside the tensors, and so do runs. The first files of `pretrain` only said what they are.

    Raises
    ------
    WeightsError
        If it says something that three colours cannot be normalised with.
    """
    if path.suffix != ".safetensors":
        return None
    try:
        facts = read_facts(path)
    except WeightsError:  # made elsewhere: whether it can be read at all is found when its tensors are
        return None
    if "normalisation" not in facts:
        return PHANTOM_NORMALISATION if facts.get("source") == "phantom" else None
    try:
        found = _normalisation_from(facts["normalisation"])
        numbers = (*found.mean, *found.deviation)
        is_usable = all(map(math.isfinite, numbers)) and min(found.deviation) > 0
    except (AttributeError, KeyError, TypeError, ValueError):
        is_usable = False
    if not is_usable or found.of != "range" or (len(found.mean), len(found.deviation)) != (3, 3):
        what = "the file does not say how the colours of its inputs were normalised"
        raise WeightsError(what, where=path.name, remedy="make it again; a run's checkpoint is source `run`")
    return found


def _normalisation_from(facts: Mapping[str, Any]) -> Normalisation:
    mean, deviation = (tuple(map(float, facts[key])) for key in ("mean", "deviation"))
    return Normalisation(mean, deviation, "volume" if facts.get("of") == "volume" else "range")
