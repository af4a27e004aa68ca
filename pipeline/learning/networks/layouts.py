"""Names in weights files: from what was published to what our networks call it, without looking at numbers."""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

V = TypeVar("V")
Layout = Literal["plain", "detection", "sequential"]
"""`plain`: names as they are; `detection`: the backbone inside a torchvision detector; `sequential`: children of a
torchvision network by number, as RadImageNet's files have them."""

# torchvision's files hold `norm.1`, its networks since 2018 `norm1`; both occur.
_DENSE_LAYER = re.compile(r"^(.*\.denselayer\d+\.)(norm|conv)\.?([12]\..+)$")
_MBCONV = re.compile(r"^features\.([1-7])\.(\d+)\.block\.(\d)\.(0|1|fc1|fc2)\.(.+)$")
# First block of each MBConv group in a count over all groups, which is how MONAI numbers them.
_FIRST_BLOCK = (0, 1, 3, 5, 8, 11, 15)
_MBCONV_PARTS = (
    {"0": "_expand_conv", "1": "_bn0"},
    {"0": "_depthwise_conv", "1": "_bn1"},
    {"fc1": "_se_reduce", "fc2": "_se_expand"},
    {"0": "_project_conv", "1": "_bn2"},
)
_EFFICIENT_ENDS = {
    "features.0.0.": "_conv_stem.",
    "features.0.1.": "_bn0.",
    "features.8.0.": "_conv_head.",
    "features.8.1.": "_bn1.",
    "classifier.1.": "_fc.",
}
_DETECTOR = "backbone.body."
_RESNET_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_DENSENET_CHILDREN = ("conv0", "norm0", "norm5", "denseblock", "transition")


def same_name(name: str) -> str:
    """Give a name as it is: MONAI's ResNet and our VGG bear torchvision's names."""
    return name


def densenet_name(name: str) -> str:
    """Translate a name of torchvision's DenseNet into MONAI's.

    Examples
    --------
    >>> densenet_name("features.denseblock1.denselayer2.norm.1.weight")
    'features.denseblock1.denselayer2.layers.norm1.weight'
    >>> densenet_name("classifier.bias")
    'class_layers.out.bias'
    """
    if name.startswith("classifier."):
        return f"class_layers.out.{name.removeprefix('classifier.')}"
    return _DENSE_LAYER.sub(r"\1layers.\2\3", name)


def efficientnet_name(name: str) -> str:
    """Translate a name of torchvision's EfficientNet-B0 into MONAI's.

    Examples
    --------
    >>> efficientnet_name("features.1.0.block.0.0.weight"), efficientnet_name("features.2.1.block.2.fc1.bias")
    ('_blocks.0.0._depthwise_conv.weight', '_blocks.1.2._se_reduce.bias')
    """
    found = _MBCONV.match(name)
    if found is None:
        for start, own in _EFFICIENT_ENDS.items():
            if name.startswith(start):
                return own + name.removeprefix(start)
        return name
    group, block, part, layer, rest = found.groups()
    index = int(group) - 1
    # The first group expands nothing and lacks that part; the others have all four.
    own = _MBCONV_PARTS[int(part) + (index == 0)].get(layer, layer)
    return f"_blocks.{index}.{_FIRST_BLOCK[index] + int(block)}.{own}.{rest}"


def unwrap(state: Mapping[str, V], layout: Layout) -> dict[str, V]:
    """Take the network out of what a file has around it; the names become torchvision's.

    Parameters
    ----------
    state
        Values by name as read; parts of a detector that are no backbone are left out.
    layout
        How the file is arranged.
    """
    rename = _UNWRAPPERS[layout]
    found = ((rename(name), value) for name, value in state.items())
    return {name: value for name, value in found if name is not None}


def layout_of(names: Mapping[str, V]) -> Layout:
    """Tell the arrangement of a file by its names."""
    if any(name.startswith(_DETECTOR) for name in names):
        return "detection"
    return "sequential" if any(name.startswith("backbone.") for name in names) else "plain"


def with_usual_epsilon(state: Mapping[str, "Tensor"], epsilon: float) -> dict[str, "Tensor"]:
    """Express batch normalisation that was trained with another `epsilon` with PyTorch's usual 1e-5.

    w (x - m) / sqrt(v + e) = w sqrt((v + 1e-5) / (v + e)) (x - m) / sqrt(v + 1e-5): only the weight changes.
    torchvision's detectors were trained with epsilon 0 (`overwrite_eps` in its source, pytorch/vision#2940).
    """
    usual = 1e-5
    found = dict(state)
    if epsilon == usual:
        return found
    for name in [name.removesuffix(".running_var") for name in state if name.endswith(".running_var")]:
        variance = state[f"{name}.running_var"].double()
        weight = state[f"{name}.weight"]
        factor = ((variance + usual) / (variance + epsilon)).sqrt()
        found[f"{name}.weight"] = (weight.double() * factor).to(weight.dtype)
    return found


def _body_of_detector(name: str) -> str | None:
    return name.removeprefix(_DETECTOR) if name.startswith(_DETECTOR) else None


def _child_by_number(name: str) -> str | None:
    """Name the children of ``nn.Sequential(*children)``; of a DenseNet the first child is all of ``features``."""
    parts = name.removeprefix("backbone.").split(".", maxsplit=1)
    if len(parts) < 2 or not name.startswith("backbone."):
        return name
    number, rest = parts
    if number == "0" and rest.startswith(_DENSENET_CHILDREN):
        return f"features.{rest}"
    return f"{_RESNET_CHILDREN[number]}.{rest}" if number in _RESNET_CHILDREN else name


_UNWRAPPERS: dict[Layout, Callable[[str], str | None]] = {
    "plain": same_name,
    "detection": _body_of_detector,
    "sequential": _child_by_number,
}
