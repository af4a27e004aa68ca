"""The configuration's section ``train``: a part of `pipeline.config`, in a file of its own for its size."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.core.section import Section
from pipeline.learning.strategies import Head
from pipeline.learning.volumes.networks import VOLUME_BACKBONES
from pipeline.learning.weights.loading import WeightsChoice
from pipeline.learning.weights.sources import SOURCES, Normalisation


class AugmentationSettings(Section):
    """Random changes of training images; the ranges are symmetric around no change."""

    rotation_degrees: float = Field(default=7, ge=0, le=180)
    """Largest rotation in degrees."""
    translation: float = Field(default=0.05, ge=0, le=0.5)
    """Largest shift as a fraction of the image's side."""
    scale: float = Field(default=0.1, ge=0, lt=1)
    """Largest relative change of size."""
    flip: bool = False
    """Mirror left and right half of the time; off because anatomy has sides. Not for sagittal slices of volumes."""
    contrast: float = Field(default=0.2, ge=0, lt=1)
    """Largest relative change of contrast."""
    brightness: float = Field(default=0.1, ge=0, lt=1)
    """Largest shift of brightness as a fraction of the range."""
    noise: float = Field(default=0.02, ge=0, lt=1)
    """Standard deviation of added Gaussian noise as a fraction of the range."""


Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
# What a source cannot do without; of RadImageNet no digest is published.
NEEDED = {"file": ("file", "sha256"), "run": ("file",), "radimagenet": ("sha256",)}


class WeightsSettings(Section):
    """Where the network starts from. A bare word stands for its source: `weights: imagenet`."""

    source: Literal[
        "imagenet",
        "imagenet_v2",
        "coco",
        "coco_masks",
        "radimagenet",
        "medicalnet",
        "phantom",
        "run",
        "file",
        "random",
    ]
    """A published source (`python -m pipeline weights list` shows them); `phantom`: comes with this software, made for
    the built-in study and no source for patients; `run`: the checkpoint of another study of this pipeline; `file`: any
    file in torchvision's format; `random`: no transfer."""
    file: Path | None = None
    """The weights file; published ones are otherwise searched in `weights/` and the torch hub cache."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Digest the file must have; required for `file`, and for `radimagenet`, whose authors publish none."""
    licence: str = "not stated"
    """Licence of a `file`, or of published weights that state none; printed in the report."""
    mean: tuple[Share, Share, Share] | None = None
    """Mean of red, green and blue, of values from 0 to 1, with which a `file` was trained. Not given: as the file says
    itself (those of `pretrain` do), else ImageNet's, as in torchvision's own training."""
    deviation: tuple[PositiveShare, PositiveShare, PositiveShare] | None = None
    """Their standard deviation; given with `mean`, or not at all. For values scaled to -1 to 1, both are 0.5."""
    member: int | None = Field(default=None, ge=1)
    """Which network of a `run` that trained several (`seeds`), from 1; needed then."""

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: object) -> object:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_complete(self) -> "WeightsSettings":
        missing = [f"`{key}`" for key in NEEDED.get(self.source, ()) if getattr(self, key) is None]
        if missing:
            message = f"source `{self.source}` needs {' and '.join(missing)}"
            raise ValueError(message)
        if (self.mean is None) != (self.deviation is None):
            message = "`mean` and `deviation` belong together: give both or neither"
            raise ValueError(message)
        if self.mean is not None and self.source != "file":
            message = f"`mean` and `deviation` are those of a `file`; those of source `{self.source}` are known"
            raise ValueError(message)
        if self.member is not None and self.source != "run":
            message = f"`member` is for the checkpoint of a `run`, and not for source `{self.source}`"
            raise ValueError(message)
        return self

    @property
    def normalisation(self) -> Normalisation | None:
        """How the inputs of a `file` were normalised, if it is said."""
        return Normalisation(self.mean, self.deviation) if self.mean and self.deviation else None


class VolumesSettings(Section):
    """How volumes are brought to a network; not used for images. docs/volumes.md says when to take which road."""

    road: Literal["slices_as_channels", "attention", "inflation"] = "attention"
    """`slices_as_channels`: groups of three neighbouring slices as the three colours, their features averaged;
    `attention`: every slice an image, their features averaged with learned weights; `inflation`: a 3D ResNet with the
    kernels of the 2D one, or MedicalNet's."""
    slices: int | None = Field(default=None, ge=1)
    """How many slices, or groups of three, are looked at, evenly spread over the volume. Not given: all slices."""
    inflation: Literal["centre", "mean"] = "mean"
    """How kernels get their depth: spread evenly, or all in the middle slice; then strides skip slices at first."""


StrategyName = Literal["full", "probe", "last_block", "gradual", "scratch"]


class TrainSettings(Section):
    """How the network is fine-tuned."""

    strategy: StrategyName = "full"
    """`full`: every layer is fine-tuned; `probe`: only a linear head; `last_block`: the last block of layers and the
    head; `gradual`: one block after the other joins, from the head downwards; `scratch`: all layers from random
    weights."""
    compare: tuple[StrategyName, ...] = ()
    """Other strategies trained on the same folds, so that the report can say whether transfer helped."""
    backbone: Literal[
        "resnet18", "resnet34", "resnet50", "resnet101", "densenet121", "efficientnet_b0", "vgg11_bn", "vgg16_bn"
    ] = "resnet18"
    """The network, as torchvision published it: MONAI's, and for VGG our own."""
    volumes: VolumesSettings = VolumesSettings()
    """How volumes are brought to the network."""
    weights: WeightsSettings = WeightsSettings(source="imagenet")
    """Where the network starts from: a published source, another study, a file, or `random`."""
    head: Head = "last"
    """What the head looks at: `last`: the pooled features of the last block, as in the published network; `joined`:
    those of all blocks, for signals that the last block no longer holds. `probe` chooses by itself, and `last_block`
    keeps to the last."""
    epochs: int = Field(default=20, ge=1, le=1000)
    """Most passes over the training images."""
    patience: int = Field(default=6, ge=1)
    """Epochs without a better validation loss after which training stops."""
    batch_size: int = Field(default=32, ge=2)
    """Images in a step."""
    learning_rate: float = Field(default=3e-5, gt=0, lt=1)
    """Highest learning rate of AdamW for pre-trained weights; from random weights ten times as much is used."""
    block_rate_factor: float = Field(default=1.0, gt=0, le=1)
    """Learning rate of a block of layers as a share of the next one's towards the head; 1: the same for all."""
    unfreeze_every: int = Field(default=1, ge=1)
    """Epochs between the opening of two blocks (strategy `gradual`)."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Weight decay of AdamW."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of all steps in which the learning rate rises."""
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    """Share of each label that is spread over all classes."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """`focal`: cross-entropy that turns down images already told rightly, for rare classes."""
    focal_gamma: float = Field(default=2.0, ge=0, le=10)
    """Exponent of the focal loss; 0 is cross-entropy."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a moving average of the weights, for example 0.99; the average is then what is validated, kept and
    predicted with. 0: none."""
    balance_classes: bool = True
    """Weight classes by the inverse of their frequency in the training part."""
    augmentation: AugmentationSettings = AugmentationSettings()
    """Random changes of training images."""
    views: int = Field(default=0, ge=0, le=100)
    """Randomly changed variants of each image that are predicted beside it; the logits of all are averaged."""
    seeds: int = Field(default=1, ge=1, le=50)
    """How many networks each strategy trains in a fold, each with seeds of its own; their probabilities are averaged.
    A probe of source weights has nothing random and is trained once."""
    state_minutes: float = Field(default=10.0, gt=0)
    """Time after which the state of a training is saved in the middle of an epoch; it is saved after epochs, too."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: a GPU if there is one."""
    devices: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = "auto"
    """How many GPUs train one network together, each with its part of every batch. `auto`: as many as the job is given
    (its resource `gpu`: one, if nothing else is said), and without GPUs one process. Results depend on the number."""
    compile: Literal["auto", "off"] = "auto"
    """`auto`: long trainings on a GPU are compiled, if a compiler is there."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 where the hardware multiplies it fast (recent GPUs, processors with AMX), else float32."""

    @property
    def dimensions(self) -> Literal[2, 3]:
        """Whether weights for volumes can be used: 3 on the road of inflation."""
        return 3 if self.volumes.road == "inflation" else 2

    @property
    def weights_choice(self) -> WeightsChoice:
        """The weights that are asked for."""
        return WeightsChoice(
            source=self.weights.source,
            backbone=self.backbone,
            file=self.weights.file,
            sha256=self.weights.sha256,
            licence=self.weights.licence,
            dimensions=self.dimensions,
            normalisation=self.weights.normalisation,
            inflation=self.volumes.inflation,
            member=self.weights.member,
        )

    @model_validator(mode="after")
    def _roads_lead_somewhere(self) -> "TrainSettings":
        if self.volumes.road == "inflation" and self.backbone not in VOLUME_BACKBONES:
            message = (
                f"there is no {self.backbone} for volumes: the road `inflation` takes {', '.join(VOLUME_BACKBONES)}"
            )
            raise ValueError(message)
        source = SOURCES.get(self.weights.source)
        if source is not None and source.dimensions > self.dimensions:
            message = f"`{self.weights.source}` holds networks for volumes: set train.volumes.road to inflation"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _source_has_the_backbone(self) -> "TrainSettings":
        source = SOURCES.get(self.weights.source)
        if source is not None and self.backbone not in source.files:
            message = f"source `{self.weights.source}` has no {self.backbone}; it has {', '.join(source.files)}"
            raise ValueError(message)
        return self
