"""Backbones: 2D networks whose weights exist in torchvision's format, each an entry of one table."""

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from pipeline.learning.networks.layouts import densenet_name, efficientnet_name, same_name
from pipeline.learning.networks.vgg import VGG11, VGG16, build_vgg, convolution_blocks

if TYPE_CHECKING:
    from torch import nn

HEAD = "head"
SLICES = "slices"  # the module of a network over slices that pools their features (`pipeline.learning.volumes.roads`)
# Steps of a forward pass that are no module of the network: one vector for each image, and from here on in 32 bits.
FLATTEN, WIDEN = "<flatten>", "<widen>"
# A file with a name too many or too few is still called by its architecture's name.
_ENOUGH_OVERLAP = 0.95
_COUNTER = ".num_batches_tracked"


class Backbone(NamedTuple):
    """Facts about a network and how to build it.

    Attributes
    ----------
    build
        Makes the network with the given number of output classes; inputs have shape (batch, 3, height, width).
    features
        Length of the vector that enters the head.
    blocks
        Names of its parts from the input to the output; a strategy names the blocks it trains. The last is `HEAD`.
    parts
        Where the blocks are: beginnings of parameter and module names. What none fits belongs to the first block.
    steps
        For each block its modules in the order in which a forward pass calls them, with `FLATTEN` and `WIDEN` between
        them. All blocks one after the other are the network's own forward pass, which `networks.blocks` cuts.
    rename
        Translates one name of torchvision's published file into the network's own; other names stay as they are.
    """

    build: Callable[[int], "nn.Module"]
    features: int
    blocks: tuple[str, ...]
    parts: dict[str, str]
    steps: tuple[tuple[str, ...], ...]
    rename: Callable[[str], str] = same_name


def _resnet(name: str, features: int) -> Backbone:
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

    layers = tuple(f"layer{number}" for number in range(1, 5))
    parts = {**{layer: layer for layer in layers}, "fc": HEAD}
    steps = (("conv1", "bn1", "act", "maxpool"), *((layer,) for layer in layers), ("avgpool", FLATTEN, "fc"))
    return Backbone(build, features, ("stem", *layers, HEAD), parts, steps)


def _build_densenet121(classes: int) -> "nn.Module":
    from monai.networks.nets import DenseNet121

    network: nn.Module = DenseNet121(spatial_dims=2, in_channels=3, out_channels=classes)
    return network


def _build_efficientnet_b0(classes: int) -> "nn.Module":
    from monai.networks.nets import EfficientNetBN
    from torch import nn

    # torchvision's EfficientNet-B0 differs from MONAI's in two things that no name or shape shows: its batch
    # normalisation has PyTorch's usual constants, and it pads both sides alike where MONAI follows TensorFlow
    # and computes the padding once, for 224 pixels.
    norm = ("batch", {"eps": 1e-5, "momentum": 0.1})
    network: nn.Module = EfficientNetBN(
        "efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=3, num_classes=classes, norm=norm
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            rows, columns = module.kernel_size
            module.padding = (rows // 2, columns // 2)
    for name in [name for name, _ in network.named_modules() if name.endswith("_padding")]:
        network.set_submodule(name, nn.Identity())
    return network


_DENSE_BLOCKS = tuple(f"denseblock{number}" for number in range(1, 5))
_DENSE_PARTS = {
    **{f"features.{block}": block for block in _DENSE_BLOCKS},
    **{f"features.transition{block[-1]}": block for block in _DENSE_BLOCKS[:3]},
    "features.norm5": "denseblock4",
    "class_layers": HEAD,
}
_DENSE_STEPS = (
    ("features.conv0", "features.norm0", "features.relu0", "features.pool0"),
    *((f"features.denseblock{number}", f"features.transition{number}") for number in range(1, 4)),
    ("features.denseblock4", "features.norm5"),
    ("class_layers.relu", "class_layers.pool", FLATTEN, "class_layers.out"),
)
# MONAI counts MBConv groups from 0; those at one resolution form a stage (112, 56, 28, 14, 7 pixels for 224).
_EFFICIENT_PARTS = {
    "_blocks.0": "stage1",
    "_blocks.1": "stage2",
    "_blocks.2": "stage3",
    "_blocks.3": "stage4",
    "_blocks.4": "stage4",
    "_blocks.5": "stage5",
    "_blocks.6": "stage5",
    "_conv_head": "stage5",
    "_bn1": "stage5",
    "_dropout": HEAD,
    "_fc": HEAD,
}
_EFFICIENT_STEPS = (
    ("_conv_stem_padding", "_conv_stem", "_bn0", "_swish"),
    ("_blocks.0",),
    ("_blocks.1",),
    ("_blocks.2",),
    ("_blocks.3", "_blocks.4"),
    ("_blocks.5", "_blocks.6", "_conv_head_padding", "_conv_head", "_bn1", "_swish"),
    ("_avg_pooling", FLATTEN, "_dropout", "_fc"),
)


def _vgg(widths: tuple[tuple[int, ...], ...]) -> Backbone:
    def build(classes: int) -> "nn.Module":
        return build_vgg(widths, classes)

    parts = convolution_blocks(widths)
    convolutions = tuple(dict.fromkeys(parts.values()))
    hidden = tuple(f"classifier.{number}" for number in range(6))
    steps = (
        *(tuple(name for name, block in parts.items() if block == wanted) for wanted in convolutions),
        ("avgpool", FLATTEN, WIDEN, *hidden),
        (WIDEN, "classifier.6"),
    )
    found = {**parts, "classifier.6": HEAD, "classifier": "classifier"}
    return Backbone(build, 4096, (*convolutions, "classifier", HEAD), found, steps)


BACKBONES: dict[str, Backbone] = {
    "resnet18": _resnet("resnet18", 512),
    "resnet34": _resnet("resnet34", 512),
    "resnet50": _resnet("resnet50", 2048),
    "resnet101": _resnet("resnet101", 2048),
    "densenet121": Backbone(
        _build_densenet121, 1024, ("stem", *_DENSE_BLOCKS, HEAD), _DENSE_PARTS, _DENSE_STEPS, rename=densenet_name
    ),
    "efficientnet_b0": Backbone(
        _build_efficientnet_b0,
        1280,
        ("stem", *dict.fromkeys(_EFFICIENT_PARTS.values())),
        _EFFICIENT_PARTS,
        _EFFICIENT_STEPS,
        rename=efficientnet_name,
    ),
    "vgg11_bn": _vgg(VGG11),
    "vgg16_bn": _vgg(VGG16),
}


def block_of(name: str, backbone: str) -> str:
    """Name the block that a parameter or module belongs to.

    Examples
    --------
    >>> block_of("layer3.0.conv1.weight", "resnet18"), block_of("fc.weight", "resnet18")
    ('layer3', 'head')
    >>> block_of("bn1.bias", "resnet18"), block_of("features.transition2.conv.weight", "densenet121")
    ('stem', 'denseblock2')
    >>> block_of("slices.gate.bias", "densenet121")
    'head'
    """
    facts = BACKBONES[backbone]
    if name.split(".", maxsplit=1)[0] == SLICES:
        return HEAD
    for start, block in facts.parts.items():
        if name == start or name.startswith(f"{start}."):
            return block
    return facts.blocks[0]


def head_of(network: "nn.Module") -> "nn.Linear":
    """Give the linear layer that makes the logits: the last one of every backbone, in 2D and 3D, but for attention."""
    from torch import nn

    modules = network.named_modules()
    return [one for name, one in modules if isinstance(one, nn.Linear) and not name.startswith(SLICES)][-1]


def pooling_of(network: "nn.Module") -> "nn.Module":
    """Give the module that averages the last feature maps: the last adaptive pooling of every backbone."""
    from torch import nn

    kinds = (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
    return [module for module in network.modules() if isinstance(module, kinds)][-1]


def replace_head(network: "nn.Module", classes: int, seed: int) -> None:
    """Put a `fresh_head` with `classes` outputs in place of the old one."""
    old = head_of(network)
    name = next(name for name, module in network.named_modules() if module is old)
    network.set_submodule(name, fresh_head(old.in_features, classes, seed))


def fresh_head(features: int, classes: int, seed: int) -> "nn.Linear":
    """Make a linear head.

    Weights are drawn from a normal distribution with standard deviation 0.01, biases are 0, as is usual for
    the head of a fine-tuned network: the first logits are small and do not disturb the features.
    """
    import torch

    head = torch.nn.Linear(features, classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.normal_(0, 0.01, generator=generator)
        head.bias.zero_()
    return head


@functools.cache
def published_shapes(backbone: str, classes: int) -> dict[str, tuple[int, ...]]:
    """List names and shapes of a network's state dict; nothing is allocated for it."""
    import torch

    with torch.device("meta"):
        state = BACKBONES[backbone].build(classes).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def recognise(names: Iterable[str]) -> str:
    """Say in words which known architecture a set of state-dict names belongs to.

    Names may be torchvision's or the network's own; the head is not looked at.

    Examples
    --------
    >>> recognise({"layer1.0.conv1.weight", "layer1.1.conv1.weight", "fc.weight"})
    'an unknown ResNet (2, 0, 0, 0)'
    >>> recognise({"layer1.0.conv1.weight", "features.0.weight"})
    'an unknown ResNet (1, 0, 0, 0)'
    """
    given = list(names)
    for backbone, facts in BACKBONES.items():
        found = _body({facts.rename(name) for name in given}, backbone)
        wanted = _body(published_shapes(backbone, 2), backbone)
        if len(found & wanted) >= _ENOUGH_OVERLAP * len(found | wanted):
            return backbone
    counts = tuple(_blocks_in(given, stage) for stage in range(1, 5))
    return f"an unknown ResNet {counts}" if any(counts) else "no known network in torchvision's layout"


def _body(names: Iterable[str], backbone: str) -> set[str]:
    return {name for name in names if not name.endswith(_COUNTER) and block_of(name, backbone) != HEAD}


def _blocks_in(names: Iterable[str], stage: int) -> int:
    prefix = f"layer{stage}."
    return len({name.split(".")[1] for name in names if name.startswith(prefix)})
