"""The study as training sees it: what all strategies of a fold share."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.core.records import FoldRole
from pipeline.core.states import LabelKind
from pipeline.learning.bank.files import BankManifest
from pipeline.learning.inputs.augmentation import Augmentation
from pipeline.learning.inputs.devices import Placement
from pipeline.learning.recipes import Recipe
from pipeline.learning.strategies import Head
from pipeline.learning.volumes.roads import Road


@dataclass(frozen=True, kw_only=True)
class Study:
    """What all strategies of a fold share.

    Attributes
    ----------
    classes
        Names of the classes, or of the findings, in the order of the logits.
    roles
        The rows of the fold table that belong to this fold.
    pixels
        Stored images, shape (images, height, width), or volumes, (volumes, slices, height, width).
    pixels_sha256
        Digest of the stored images, part of the resumable state's key.
    code
        Fingerprint of the code, part of the key as well.
    bank_code
        Fingerprint of the code that banks are made by now.
    views
        Random variants of each image that are predicted beside it.
    networks
        How many networks each strategy trains with different seeds.
    head
        What the head of strategies that train all blocks looks at.
    state_minutes
        Time after which a state is written in the middle of an epoch.
    bank
        What frozen blocks make of the images, for the strategies that it serves; None: there is none.
    road
        How volumes are looked at; None for images.
    devices
        How many processes train a network by gradients together, each with its part of every batch.
    compile
        Whether long trainings on a GPU are compiled.
    kind
        Whether an image has one of the classes, or any of the findings.
    """

    classes: tuple[str, ...]
    roles: tuple[FoldRole, ...]
    fold: int
    seed: int
    pixels: np.ndarray
    pixels_sha256: str
    backbone: str
    recipe: Recipe
    augmentation: Augmentation
    placement: Placement
    code: str
    bank_code: str = ""
    views: int = 0
    networks: int = 1
    head: Head = "last"
    state_minutes: float = 10.0
    bank: BankManifest | None = None
    road: Road | None = None
    devices: int = 1
    compile: Literal["auto", "off"] = "auto"
    kind: LabelKind = "classes"
