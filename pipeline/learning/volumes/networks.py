"""Networks for volumes: MONAI's 3D ResNets from MedicalNet's files, or inflated from 2D networks.

Tensors have shape (batch, channels, depth, height, width); depth runs across the slices.

References
----------
Chen, Ma and Zheng, 2019, "Med3D: transfer learning for 3D medical image analysis", arXiv:1904.00625.
Carreira and Zisserman, 2017, "Quo vadis, action recognition?", arXiv:1705.07750 (inflation by the mean).
"""

import functools
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import WeightsError
from pipeline.learning.networks.backbones import head_of, replace_head
from pipeline.learning.networks.forms import Inflation, Shortcut, VolumeForm
from pipeline.learning.volumes.grey import to_one_channel
from pipeline.learning.weights.loading import VerifiedWeights, load_strictly, source_state
from pipeline.learning.weights.sources import Normalisation

if TYPE_CHECKING:
    from torch import Tensor, nn

COLOURS = 3  # channels of networks trained on photographs
VOLUME_BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101")
# MedicalNet's basic networks pad, its bottleneck networks project (MONAI: `get_medicalnet_pretrained_resnet_args`).
_MEDICALNET_PADS = frozenset({"resnet18", "resnet34"})


def build_volume_network(
    backbone: str,
    classes: int,
    *,
    channels: int = 1,
    shortcut: Shortcut = "projection",
    stem_depth: int = 7,
    stem_stride: int = 2,
) -> "nn.Module":
    """Build MONAI's 3D ResNet.

    Parameters
    ----------
    backbone
        One of `VOLUME_BACKBONES`.
    classes
        Number of logits.
    channels
        Channels of the input.
    shortcut
        Kind of shortcut.
    stem_depth, stem_stride
        Kernel and stride of the first convolution along depth; in the plane they are 7 and 2. Pooling and three
        of the four layers halve the depth once more each, so that 16 slices become one with stride 1.

    Raises
    ------
    WeightsError
        If there is no such network for volumes.
    """
    from monai.networks import nets

    if backbone not in VOLUME_BACKBONES:
        remedy = f"set train.backbone to {', '.join(VOLUME_BACKBONES)}"
        raise WeightsError(f"there is no {backbone} for volumes", where="train.backbone", remedy=remedy)
    network: nn.Module = getattr(nets, backbone)(
        spatial_dims=3,
        n_input_channels=channels,
        conv1_t_size=(stem_depth, 7, 7),
        conv1_t_stride=(stem_stride, 2, 2),
        shortcut_type="B" if shortcut == "projection" else "A",
        bias_downsample=False,
        num_classes=classes,
    )
    if shortcut == "padding":
        _let_gradients_through(network)
    return network


def build_medicalnet(backbone: str, weights: VerifiedWeights, classes: int, *, seed: int) -> "nn.Module":
    """Build a network for volumes from one of MedicalNet's files, with a fresh head.

    MONAI's network has the file's names and shapes, but halves the resolution in the last two layers where
    MedicalNet's own, made for segmentation, dilates its kernels instead: features are alike, not equal.

    Parameters
    ----------
    backbone
        One of `VOLUME_BACKBONES`.
    weights
        Of source ``medicalnet``.
    classes
        Number of logits.
    seed
        Seed of the head.

    Raises
    ------
    WeightsError
        If the file is damaged or does not fit name by name and shape by shape.
    """
    import torch

    if weights.path is None or weights.dimensions != 3:
        what = f"{weights.source} holds no network for volumes"
        raise WeightsError(what, where="train.weights.source", remedy="take medicalnet, or inflate a 2D network")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_volume_network(backbone, classes, shortcut=medicalnet_shortcut(backbone))
    pad_few_slices(network)
    load_strictly(network, source_state(weights), where=weights.path.name, backbone=backbone, has_head=False)
    replace_head(network, classes, seed)
    return network


def build_form(form: VolumeForm, backbone: str, classes: int, rest: Normalisation, *, seed: int) -> "nn.Module":
    """Build a network of a form with random weights: the architecture that `inflate` or MedicalNet's file would have.

    Parameters
    ----------
    form
        Of an inflated network (one grey channel), or of one made for volumes.
    backbone
        One of `VOLUME_BACKBONES`.
    classes
        Number of logits.
    rest
        What is left of the normalisation of three colours when the grey channel is normalised; see `to_one_channel`.
        Only inflated networks have it.
    seed
        Of the weights, which MONAI draws for a network with depth (He et al., arXiv:1502.01852): spread over the depth,
        random kernels for images would look at means of slices only, which is no usual start.
    """
    import torch

    is_inflated = form.inflation is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_volume_network(
            backbone,
            classes,
            channels=COLOURS if is_inflated else 1,
            shortcut=form.shortcut,
            stem_depth=form.stem_depth,
            stem_stride=form.stem_stride,
        )
    if form.inflation == "mean":
        repeat_end_slices(network)
    if is_inflated:
        to_one_channel(network, rest)
    else:
        pad_few_slices(network)
    return network


def load_form(form: VolumeForm, backbone: str, weights: VerifiedWeights, classes: int, *, seed: int) -> "nn.Module":
    """Build the network for volumes of a run's checkpoint, with a fresh head.

    Raises
    ------
    WeightsError
        If the file is damaged or does not fit name by name and shape by shape.
    """
    output_classes, own = weights.output_classes or 0, weights.normalisation
    network = build_form(form, backbone, output_classes or 2, own, seed=seed)
    where = weights.path.name if weights.path else weights.source
    load_strictly(network, source_state(weights), where=where, backbone=backbone, has_head=output_classes > 0)
    replace_head(network, classes, seed)
    return network


def medicalnet_form(backbone: str) -> VolumeForm:
    """Tell the form of MedicalNet's networks."""
    return VolumeForm(inflation=None, stem_depth=7, stem_stride=2, shortcut=medicalnet_shortcut(backbone))


def medicalnet_shortcut(backbone: str) -> Shortcut:
    """Tell the kind of shortcut of MedicalNet's file for a backbone."""
    return "padding" if backbone in _MEDICALNET_PADS else "projection"


def inflate(
    network: "nn.Module",
    backbone: str,
    manner: Inflation = "mean",
    *,
    stem_depth: int = 7,
    stem_stride: int = 1,
) -> "nn.Module":
    """Make a network for volumes out of one for images; a volume constant along depth has the image's logits.

    Each kernel is spread over depth: its middle slice is the 2D kernel and the others are 0 (``centre``), or all
    slices are the 2D kernel divided by their number (``mean``). With the mean, slices beyond the first and last
    are taken to repeat them: zeros, as in the plane, would darken both ends. The centre needs nothing of the kind.

    Parameters
    ----------
    network
        A 2D ResNet with its head, on any number of channels.
    backbone
        One of `VOLUME_BACKBONES`.
    manner
        How kernels are spread.
    stem_depth, stem_stride
        As for `build_volume_network`.

    Returns
    -------
    nn.Module
        A new network in evaluation mode; `network` is not changed.

    Raises
    ------
    WeightsError
        If there is no such network for volumes.
    """
    import torch

    flat = network.state_dict()
    with torch.random.fork_rng(devices=[]):
        volume = build_volume_network(
            backbone,
            head_of(network).out_features,
            channels=flat["conv1.weight"].shape[1],
            stem_depth=stem_depth,
            stem_stride=stem_stride,
        ).to(flat["conv1.weight"])
    own = volume.state_dict()
    spread = {name: value if value.ndim < 4 else _spread(value, own[name], manner) for name, value in flat.items()}
    volume.load_state_dict(spread, strict=True)
    if manner == "mean":
        repeat_end_slices(volume)
    return volume.eval()


def repeat_end_slices(network: "nn.Module") -> None:
    """Let every 3D convolution take slices beyond the ends to be the end slices; names and weights stay."""
    import torch
    from torch import nn

    found = [(name, module) for name, module in network.named_modules() if type(module) is nn.Conv3d]
    for name, old in found:
        if old.padding[0] == 0:
            continue
        kind: Any = _depth_padded_class()
        with torch.device("meta"):  # its values come from the old one
            new = kind(
                old.in_channels,
                old.out_channels,
                old.kernel_size,
                stride=old.stride,
                padding=old.padding,
                bias=old.bias is not None,
            )
        new.weight, new.bias = old.weight, old.bias
        network.set_submodule(name, new)


def pad_few_slices(network: "nn.Module") -> None:
    """Let the first convolution pad volumes with fewer slices than its kernel by itself; names and weights stay.

    On processors the gradient of such a convolution is wrong in oneDNN (PyTorch 2.13): for a kernel of 7 with stride 2
    it is made of unwritten memory with 6 or 7 slices, and the process dies with 5.
    """
    import torch

    old: Any = network.get_submodule("conv1")
    kind: Any = _few_slices_class()
    with torch.device("meta"):  # its values come from the old one
        new = kind(
            old.in_channels, old.out_channels, old.kernel_size, stride=old.stride, padding=old.padding, bias=False
        )
    new.weight = old.weight
    network.set_submodule("conv1", new)


def _spread(flat: "Tensor", like: "Tensor", manner: Inflation) -> "Tensor":
    """Spread a kernel (out, in, rows, columns) over the depth of `like` (out, in, depth, rows, columns)."""
    depth = like.shape[2]
    if manner == "mean":
        return flat.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth
    spread = like.new_zeros(like.shape, dtype=flat.dtype)
    spread[:, :, depth // 2] = flat
    return spread


@functools.cache
def _depth_padded_class() -> "type[nn.Conv3d]":
    """Make the class when it is first needed, so that importing this module does not import PyTorch."""
    import torch
    from torch import nn

    class DepthPaddedConv3d(nn.Conv3d):
        """Zeros around the plane, repeated slices before the first and after the last."""

        def _conv_forward(self, input: "Tensor", weight: "Tensor", bias: "Tensor | None") -> "Tensor":  # noqa: A002
            depth, rows, columns = (int(side) for side in self.padding)
            # Joined and not padded by `torch.nn.functional.pad`, whose gradient for repeated values is not
            # deterministic on GPUs.
            first, last = (end.expand(-1, -1, depth, -1, -1) for end in (input[:, :, :1], input[:, :, -1:]))
            padded = torch.cat([first, input, last], dim=2)
            return nn.functional.conv3d(
                padded, weight, bias, self.stride, (0, rows, columns), self.dilation, self.groups
            )

    return DepthPaddedConv3d


@functools.cache
def _few_slices_class() -> "type[nn.Conv3d]":
    from torch import nn

    class FewSlicesConv3d(nn.Conv3d):
        """Pads along depth before the convolution where a volume is no deeper than the kernel."""

        def _conv_forward(self, input: "Tensor", weight: "Tensor", bias: "Tensor | None") -> "Tensor":  # noqa: A002
            depth, rows, columns = (int(side) for side in self.padding)
            padded = input
            if input.shape[2] <= self.kernel_size[0]:
                padded, depth = nn.functional.pad(input, (0, 0, 0, 0, depth, depth)), 0
            return nn.functional.conv3d(
                padded, weight, bias, self.stride, (depth, rows, columns), self.dilation, self.groups
            )

    return FewSlicesConv3d


def _let_gradients_through(network: "nn.Module") -> None:
    """Replace MONAI's padding shortcut, which detaches its input (`out.data`), by one that gradients pass."""
    for module in network.modules():
        shortcut = getattr(module, "downsample", None)
        if isinstance(shortcut, functools.partial):
            module.downsample = functools.partial(  # type: ignore[assignment]
                _padding_shortcut, planes=shortcut.keywords["planes"], stride=shortcut.keywords["stride"]
            )


def _padding_shortcut(values: "Tensor", *, planes: int, stride: int) -> "Tensor":
    """Take every `stride`-th voxel and fill up with channels of zeros."""
    from torch.nn import functional

    thinned = values[:, :, ::stride, ::stride, ::stride]
    return functional.pad(thinned, (0, 0, 0, 0, 0, 0, 0, planes - thinned.shape[1]))
