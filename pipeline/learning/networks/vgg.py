"""VGG with batch normalisation, name for name as torchvision's files have it; MONAI has none.

References
----------
Simonyan and Zisserman, 2015, "Very deep convolutional networks for large-scale image recognition",
arXiv:1409.1556; the variants with batch normalisation are torchvision's.
"""

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

# Output channels of the convolutions of each block; a block ends with pooling by 2 (configurations A and D).
VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
HIDDEN = 4096
_POOLED_SIDE = 7
_LAYERS_PER_CONVOLUTION = 3  # convolution, batch normalisation, rectifier


def build_vgg(widths: tuple[tuple[int, ...], ...], classes: int, *, hidden: int = HIDDEN) -> "nn.Module":
    """Build a VGG for images of shape (batch, 3, height, width), both at least 32 pixels.

    Parameters
    ----------
    widths
        Output channels of each convolution, block by block (`VGG11`, `VGG16`).
    classes
        Number of logits.
    hidden
        Length of the two hidden vectors; published files have 4096.
    """
    from torch import nn

    layers: list[nn.Module] = []
    channels = 3
    for block in widths:
        for width in block:
            convolution = nn.Conv2d(channels, width, kernel_size=3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
    classifier = [
        nn.Linear(channels * _POOLED_SIDE**2, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, classes),
    ]
    for layer in classifier:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)
    network: nn.Module = _vgg_class()(nn.Sequential(*layers), nn.Sequential(*classifier))
    return network


def convolution_blocks(widths: tuple[tuple[int, ...], ...]) -> dict[str, str]:
    """Tell which block each layer of ``features`` belongs to.

    Examples
    --------
    >>> [name for name, block in convolution_blocks(VGG11).items() if block == "conv2"]
    ['features.4', 'features.5', 'features.6', 'features.7']
    """
    found: dict[str, str] = {}
    for number, block in enumerate(widths, start=1):
        for _ in range(_LAYERS_PER_CONVOLUTION * len(block) + 1):
            found[f"features.{len(found)}"] = f"conv{number}"
    return found


@functools.cache
def _vgg_class() -> "type[nn.Module]":
    """Make the class when it is first needed, so that importing this module does not import PyTorch."""
    import torch
    from torch import nn

    class VGG(nn.Module):
        """Convolutions, pooling to 7 x 7, three linear layers."""

        def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
            super().__init__()
            self.features = features
            self.avgpool = nn.AdaptiveAvgPool2d(_POOLED_SIDE)
            self.classifier = classifier

        def forward(self, images: "Tensor") -> "Tensor":
            pooled = torch.flatten(self.avgpool(self.features(images)), 1)
            # What enters the head is kept in 32 bits (see `pipeline.learning.inference`); here that begins after
            # the pooling, because two more layers lie between.
            with torch.autocast(device_type=images.device.type, enabled=False):
                logits: Tensor = self.classifier(pooled.float())
            return logits

    return VGG
