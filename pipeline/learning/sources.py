"""Sources of weights: where each file comes from, how it is recognised, what its licence says (DESIGN, D1)."""

from typing import NamedTuple


class Normalisation(NamedTuple):
    """Mean and standard deviation per colour channel of inputs in [0, 1] that a network was trained with."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


class SourceFile(NamedTuple):
    """A published weights file for one backbone.

    `digest_prefix` holds the first eight hexadecimal digits of its SHA-256: torchvision publishes no more,
    and puts them into the file name.
    """

    name: str
    url: str
    digest_prefix: str


class Source(NamedTuple):
    """A registry entry: everything about a source of weights but the file itself."""

    title: str
    licence: str
    normalisation: Normalisation
    output_classes: int
    files: dict[str, SourceFile]  # by backbone


# The values of torchvision's reference preprocessing, with which its files were trained.
IMAGENET_NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_TORCHVISION = "https://download.pytorch.org/models"


def _torchvision(name: str, prefix: str) -> SourceFile:
    file = f"{name}-{prefix}.pth"
    return SourceFile(file, f"{_TORCHVISION}/{file}", prefix)


SOURCES: dict[str, Source] = {
    "imagenet": Source(
        title="ImageNet-1k classification, published with torchvision (IMAGENET1K_V1)",
        licence="BSD-3-Clause (torchvision); the training images are under ImageNet's terms for research",
        normalisation=IMAGENET_NORMALISATION,
        output_classes=1000,
        files={
            "resnet18": _torchvision("resnet18", "f37072fd"),
            "resnet34": _torchvision("resnet34", "b627a593"),
            "resnet50": _torchvision("resnet50", "0676ba61"),
        },
    ),
}
