"""Backbones: MONAI's 2D ResNets in torchvision's layout, so that ImageNet weights fit by name."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn

# From the input to the output; a strategy names the blocks it trains.
BLOCKS = ("stem", "layer1", "layer2", "layer3", "layer4", "head")


class Backbone(NamedTuple):
    """Facts about a network and how to build it.

    `build` makes it with the given number of output classes; `features` is the length of the pooled vector
    before the head; `layers` counts the residual blocks of each stage, by which weights files are recognised.
    """

    build: Callable[[int], "nn.Module"]
    features: int
    layers: tuple[int, int, int, int]
    is_bottleneck: bool


def _monai_resnet(name: str) -> Callable[[int], "nn.Module"]:
    def build(classes: int) -> "nn.Module":
        from monai.networks import nets

        # These arguments turn MONAI's ResNet (made for MedicalNet's 3D files) into torchvision's architecture:
        # stride 2 in a 7 x 7 stem, projection shortcuts (type B) without bias. With the defaults of
        # `bias_downsample` and `conv1_t_stride` the names or the function would differ.
        network: nn.Module = getattr(nets, name)(
            spatial_dims=2,
            n_input_channels=3,
            conv1_t_size=7,
            conv1_t_stride=2,
            shortcut_type="B",
            bias_downsample=False,
            num_classes=classes,
        )
        return network

    return build


BACKBONES: dict[str, Backbone] = {
    "resnet18": Backbone(_monai_resnet("resnet18"), 512, (2, 2, 2, 2), is_bottleneck=False),
    "resnet34": Backbone(_monai_resnet("resnet34"), 512, (3, 4, 6, 3), is_bottleneck=False),
    "resnet50": Backbone(_monai_resnet("resnet50"), 2048, (3, 4, 6, 3), is_bottleneck=True),
}


def block_of(parameter: str) -> str:
    """Name the block that a parameter or module belongs to.

    Examples
    --------
    >>> block_of("layer3.0.conv1.weight"), block_of("bn1.bias"), block_of("fc.weight")
    ('layer3', 'stem', 'head')
    """
    first = parameter.split(".", maxsplit=1)[0]
    if first == "fc":
        return "head"
    return first if first in BLOCKS else "stem"


def head_of(network: "nn.Module") -> "nn.Linear":
    """Give the linear layer that makes the logits."""
    head: nn.Linear = network.fc  # type: ignore[assignment]
    return head


def pooling_of(network: "nn.Module") -> "nn.Module":
    """Give the module that averages the last feature maps to one vector per image."""
    pooling: nn.Module = network.avgpool  # type: ignore[assignment]
    return pooling


def replace_head(network: "nn.Module", classes: int, seed: int) -> None:
    """Put a fresh linear head with `classes` outputs in place of the old one.

    Weights are drawn from a normal distribution with standard deviation 0.01, biases are 0, as is usual for
    the head of a fine-tuned network: the first logits are small and do not disturb the features.
    """
    import torch

    head = torch.nn.Linear(head_of(network).in_features, classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.normal_(0, 0.01, generator=generator)
        head.bias.zero_()
    network.fc = head


def recognise(keys: set[str]) -> str:
    """Say in words which known architecture a set of state-dict keys belongs to.

    Examples
    --------
    >>> recognise({"layer1.0.conv1.weight", "layer1.1.conv1.weight", "fc.weight"})
    'an unknown ResNet (2, 0, 0, 0)'
    >>> recognise({"layer1.0.conv1.weight", "features.0.weight"})
    'an unknown ResNet (1, 0, 0, 0)'
    """
    counts = tuple(_blocks_in(keys, stage) for stage in range(1, 5))
    if not any(counts):
        return "no ResNet in torchvision's layout"
    is_bottleneck = "layer1.0.conv3.weight" in keys
    for name, facts in BACKBONES.items():
        if facts.layers == counts and facts.is_bottleneck == is_bottleneck:
            return name
    return f"an unknown ResNet {counts}"


def _blocks_in(keys: set[str], stage: int) -> int:
    prefix = f"layer{stage}."
    return len({key.split(".")[1] for key in keys if key.startswith(prefix)})
