"""Sources of weights: where each file comes from, how it is recognised, what its licence says (decision 0019)."""

from typing import Literal, NamedTuple

from pipeline.learning.networks.layouts import Layout


class Normalisation(NamedTuple):
    """What a network's inputs looked like when it was trained.

    Attributes
    ----------
    mean, deviation
        Per channel, of inputs scaled as `of` says.
    of
        ``range``: inputs in [0, 1]. ``volume``: each volume has mean 0 and standard deviation 1 by itself.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    of: Literal["range", "volume"] = "range"

    def in_words(self) -> str:
        """Say it for people.

        Examples
        --------
        >>> Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).in_words()
        'mean 0.5, 0.5, 0.5 and deviation 0.25, 0.25, 0.25 of values from 0 to 1'
        """
        mean, deviation = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.deviation))
        what = "values from 0 to 1" if self.of == "range" else "each volume brought to mean 0 and deviation 1 by itself"
        return f"mean {mean} and deviation {deviation} of {what}"


class SourceFile(NamedTuple):
    """A published weights file for one backbone.

    Attributes
    ----------
    name
        Its name in the folder ``weights``.
    url
        Where it is fetched; empty if it cannot be fetched without a person (see the source's `page`).
    sha256
        As published: 64 hexadecimal digits, the first eight where only these are published (torchvision puts
        them into file names), or empty where nothing is; then a study has to name the digest itself.
    megabytes
        Its size in 10^6 bytes, to tell before fetching; None if it is not published.
    """

    name: str
    url: str
    sha256: str
    megabytes: float | None


class Source(NamedTuple):
    """A registry entry: everything about a source of weights but the file itself.

    Attributes
    ----------
    title, licence, page
        For people: what it is, what may be done with it, where it is described.
    output_classes
        Classes of the head in the file; 0 if the file has none.
    files
        By backbone.
    dimensions
        2 for images, 3 for volumes.
    layout
        How names are arranged in the file.
    epsilon
        Constant of batch normalisation that the network was trained with.
    is_embedded
        Whether the files are part of this software, in the folder `embedded` beside this module.
    """

    title: str
    licence: str
    page: str
    normalisation: Normalisation
    output_classes: int
    files: dict[str, SourceFile]
    dimensions: Literal[2, 3] = 2
    layout: Layout = "plain"
    epsilon: float = 1e-5
    is_embedded: bool = False


# The values of torchvision's reference preprocessing, with which its files were trained.
IMAGENET_NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# (image - 127.5) * 2 / 255 in the authors' example (`pytorch_example.ipynb` in their repository).
_RADIMAGENET_NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Mean and deviation of each volume's voxels above 0 (`datasets/brains18.py` in their repository).
_MEDICALNET_NORMALISATION = Normalisation((0.0,), (1.0,), of="volume")
# Of the rendered pictures that our own source is trained on: their grey values spread over the whole range.
PHANTOM_NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
_TORCHVISION = "https://download.pytorch.org/models"
_TORCHVISION_LICENCE = "BSD-3-Clause (torchvision); the training images are under ImageNet's terms for research"
_COCO_LICENCE = (
    "BSD-3-Clause (torchvision); the training images are under ImageNet's terms for research and COCO's terms of use"
)
_MEBIBYTE = 1.048576  # torchvision publishes sizes in MiB


def _torchvision(name: str, sha256: str, mebibytes: float) -> SourceFile:
    file = f"{name}-{sha256[:8]}.pth"
    return SourceFile(file, f"{_TORCHVISION}/{file}", sha256, mebibytes * _MEBIBYTE)


def _medicalnet(depth: int, name: str, revision: str, sha256: str, size: int) -> SourceFile:
    """Give a file of the authors' repository at the revision whose digest is published with it."""
    page = f"https://huggingface.co/TencentMedicalNet/MedicalNet-Resnet{depth}"
    return SourceFile(f"medicalnet-{name}", f"{page}/resolve/{revision}/{name}", sha256, size / 1e6)


SOURCES: dict[str, Source] = {
    "imagenet": Source(
        title="ImageNet-1k classification, published with torchvision (IMAGENET1K_V1)",
        licence=_TORCHVISION_LICENCE,
        page="https://docs.pytorch.org/vision/stable/models.html",
        normalisation=IMAGENET_NORMALISATION,
        output_classes=1000,
        files={
            "resnet18": _torchvision("resnet18", "f37072fd", 44.661),
            "resnet34": _torchvision("resnet34", "b627a593", 83.275),
            "resnet50": _torchvision("resnet50", "0676ba61", 97.781),
            "resnet101": _torchvision("resnet101", "63fe2227", 170.511),
            "densenet121": _torchvision("densenet121", "a639ec97", 30.845),
            # Named 3dd342df before, wrongly; the whole digest stands in pytorch/vision#7744.
            "efficientnet_b0": _torchvision(
                "efficientnet_b0_rwightman", "7f5810bc96def8f7552d5b7e68d53c4786f81167d28291b21c0d90e1fca14934", 20.451
            ),
            "vgg11_bn": _torchvision("vgg11_bn", "6002323d", 506.881),
            "vgg16_bn": _torchvision("vgg16_bn", "6c64b313", 527.866),
        },
    ),
    "imagenet_v2": Source(
        title="ImageNet-1k classification, torchvision's later recipe (IMAGENET1K_V2)",
        licence=_TORCHVISION_LICENCE,
        page="https://docs.pytorch.org/vision/stable/models.html",
        normalisation=IMAGENET_NORMALISATION,
        output_classes=1000,
        files={
            "resnet50": _torchvision("resnet50", "11ad3fa6", 97.79),
            "resnet101": _torchvision("resnet101", "cd907fc2", 170.53),
        },
    ),
    "coco": Source(
        title="COCO detection (the backbone of torchvision's Faster R-CNN, which itself started from ImageNet)",
        licence=_COCO_LICENCE,
        page="https://docs.pytorch.org/vision/stable/models.html",
        normalisation=IMAGENET_NORMALISATION,
        output_classes=0,
        files={"resnet50": _torchvision("fasterrcnn_resnet50_fpn_coco", "258fb6c6", 159.743)},
        layout="detection",
        epsilon=0.0,
    ),
    "coco_masks": Source(
        title="COCO instance segmentation (the backbone of torchvision's Mask R-CNN, which started from ImageNet)",
        licence=_COCO_LICENCE,
        page="https://docs.pytorch.org/vision/stable/models.html",
        normalisation=IMAGENET_NORMALISATION,
        output_classes=0,
        files={"resnet50": _torchvision("maskrcnn_resnet50_fpn_coco", "bf2d0c1e", 169.84)},
        layout="detection",
        epsilon=0.0,
    ),
    # The archive is handed out by a page for people, its licence is not stated, and no digest is published.
    "radimagenet": Source(
        title="RadImageNet: 1.35 million CT, MR and ultrasound images, 165 findings (doi:10.1148/ryai.210315)",
        licence="not stated",
        page="https://github.com/BMEII-AI/RadImageNet",
        normalisation=_RADIMAGENET_NORMALISATION,
        output_classes=0,
        files={
            "resnet50": SourceFile("radimagenet-ResNet50.pt", "", "", None),
            "densenet121": SourceFile("radimagenet-DenseNet121.pt", "", "", None),
        },
        layout="sequential",
    ),
    "medicalnet": Source(
        title="MedicalNet: segmentation of 23 sets of CT and MR volumes (8 for ResNet-101), arXiv:1904.00625",
        licence="MIT",
        page="https://github.com/Tencent/MedicalNet",
        normalisation=_MEDICALNET_NORMALISATION,
        output_classes=0,
        files={
            "resnet18": _medicalnet(
                18,
                "resnet_18_23dataset.pth",
                "758fe285bc8ab565eb4f9f965810f1d1a3f79491",
                "61224f9317fcce873366deb3703183e92cc47325b726b69691b33536244e10f4",
                131_992_196,
            ),
            "resnet34": _medicalnet(
                34,
                "resnet_34_23dataset.pth",
                "38043c1af39ac39e70de7c92a4af8013eb275b31",
                "3ea7188e396774e4ef95b66e5e90a78273bb33f6e58d3d717bf24f5f1aaeaa28",
                253_276_232,
            ),
            "resnet50": _medicalnet(
                50,
                "resnet_50_23dataset.pth",
                "7cd767ef5bbc0bf26e691b04bc0d25df6d3cbc4b",
                "ff48a62219073fb977fd3f4ddfb8dc1367f0ec156c8d6f6c37e205bd683a246e",
                184_885_051,
            ),
            "resnet101": _medicalnet(
                101,
                "resnet_101.pth",
                "7609a48246ec6bdd4ed2d2ad4f48fac05978ba67",
                "a26bbcf9b2ad35f048b0fa317234c003f171a4d719760e5c4aff9f793654ebcf",
                341_330_267,
            ),
        },
        dimensions=3,
    ),
    "phantom": Source(
        title="rendered radiographs of made-up bodies, for the built-in study: no substitute for ImageNet on patients",
        licence="Apache-2.0 (this project's own; see the data sheet beside the file)",
        page="docs/embedded-weights.md",
        normalisation=PHANTOM_NORMALISATION,
        output_classes=31,
        files={
            "resnet18": SourceFile(
                "phantom-resnet18.safetensors",
                "",
                "35582be5a54c52979d6b103a3e90410a41cdef858c4ae912d0c7a1b89503257c",
                22.45,
            ),
        },
        is_embedded=True,
    ),
}


def entry(name: str) -> tuple[str, str] | None:
    """Find an entry by what people call it: ``SOURCE/BACKBONE`` or a file name; None if there is none.

    Examples
    --------
    >>> entry("imagenet/resnet18"), entry("resnet50-11ad3fa6.pth"), entry("resnet18")
    (('imagenet', 'resnet18'), ('imagenet_v2', 'resnet50'), None)
    """
    return next((pair for pair in entries() if name in {"/".join(pair), SOURCES[pair[0]].files[pair[1]].name}), None)


def entries() -> list[tuple[str, str]]:
    """List every published file as source and backbone."""
    return [(source, backbone) for source, facts in SOURCES.items() for backbone in facts.files]
