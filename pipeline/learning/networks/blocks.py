"""Blocks: a backbone cut at a freeze boundary, and its pooled features after every block.

A boundary is named by the first block behind it: everything before `layer4` is the lower part at the boundary
`layer4`, and `layer4` with the head is the upper part. Parts share their modules, and the names of their parameters,
with the whole network: to train the upper part is to train the network.

A network over slices (one with a module `SLICES`) takes bags of images, (batch, slices, channels, height, width); its
blocks see the slices of a batch as so many images, until the head pools them.
"""

import functools
from typing import TYPE_CHECKING

from pipeline.learning.networks.backbones import (
    BACKBONES,
    FLATTEN,
    HEAD,
    SLICES,
    WIDEN,
    fresh_head,
    head_of,
    pooling_of,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


def lower(network: "nn.Module", backbone: str, boundary: str) -> "nn.Module":
    """Give the part of a network before a boundary: images (batch, channels, height, width) to maps."""
    blocks = BACKBONES[backbone].blocks
    return part(network, backbone, blocks[: blocks.index(boundary)])


def upper(network: "nn.Module", backbone: str, boundary: str) -> "nn.Module":
    """Give the part of a network from a boundary on: maps (batch, channels, height, width) to logits."""
    blocks = BACKBONES[backbone].blocks
    return part(network, backbone, blocks[blocks.index(boundary) :])


def feature_blocks(backbone: str) -> tuple[str, ...]:
    """Name the blocks after which features can be taken: all but the head."""
    return tuple(block for block in BACKBONES[backbone].blocks if block != HEAD)


def boundary_of(trained: frozenset[str], backbone: str) -> str:
    """Name the boundary below which nothing is trained: the first of the trained blocks, the head if there is none.

    Examples
    --------
    >>> boundary_of(frozenset({"layer4", "head"}), "resnet18"), boundary_of(frozenset(), "resnet18")
    ('layer4', 'head')
    """
    return next((block for block in BACKBONES[backbone].blocks if block in trained), HEAD)


def features_after_blocks(
    network: "nn.Module", backbone: str, images: "Tensor", *, keep: str | None = None, until: str | None = None
) -> tuple[list["Tensor"], "Tensor | None"]:
    """Compute the features after every block in one forward pass.

    Parameters
    ----------
    network
        In evaluation mode, on the device of the images.
    images
        Shape (batch, channels, height, width), normalised.
    keep
        A boundary whose maps are wanted too; None: no maps.
    until
        The last block whose features are wanted; None: all.

    Returns
    -------
    tuple
        For each of `feature_blocks` a float32 tensor (batch, features): the mean of each map over its pixels, and of
        a bag also over its slices, and after the last block exactly what enters the head. Then the maps at the
        boundary `keep`, or None.
    """
    blocks = BACKBONES[backbone].blocks
    found: list[Tensor] = []
    kept: Tensor | None = None
    values = images
    for block in blocks[:-1]:
        kept = values if block == keep else kept
        values = _run_blocks(network, backbone, (block,), values)
        if block != blocks[-2]:
            found.append(_mean_of_maps(values.float().mean(dim=1) if is_over_slices(network) else values))
            if block == until:
                return found, kept
    kept = values if keep == HEAD else kept
    if kept is values:
        kept = values.clone()  # the head's first step may work in place
    found.append(_enters_head(network, backbone, values))
    return found, kept


def early_network(network: "nn.Module", backbone: str, used: tuple[str, ...], head: "nn.Linear") -> "nn.Module":
    """Give a network that ends early: the blocks up to the last of `used`, their pooled features, a linear head.

    It bears all of the network's own names; its head has another shape.

    Parameters
    ----------
    network
        Its modules are shared.
    used
        Blocks, in their order, after which features are taken; those of several blocks are joined.
    head
        Takes the features of `used` one after the other, shape (classes, features).
    """
    return _early_class()(network, backbone, used, head)


def joined_network(network: "nn.Module", backbone: str, example: "Tensor", seed: int) -> "nn.Module":
    """Give a network whose fresh head takes the pooled features of all blocks joined.

    What an early block sees reaches the head directly, and the head's gradient that block (Evci et al., 2022,
    arXiv:2201.03529, for features that are not trained).

    Parameters
    ----------
    network
        With a head of the right number of classes; its other modules are shared, and left in evaluation mode.
    example
        An input, shape (1, channels, height, width): how many features each block gives is looked up with it.
    seed
        Seed of the head.
    """
    import torch

    old = head_of(network)
    with torch.inference_mode():
        found, _ = features_after_blocks(network.eval(), backbone, example.to(old.weight.device))
    head = fresh_head(sum(one.shape[1] for one in found), old.out_features, seed)
    return early_network(network, backbone, feature_blocks(backbone), head.to(old.weight.device))


def _mean_of_maps(values: "Tensor") -> "Tensor":
    wide = values.float()
    return wide.flatten(2).mean(dim=2) if wide.ndim > 2 else wide


def _enters_head(network: "nn.Module", backbone: str, values: "Tensor") -> "Tensor":
    """Run the head but for its linear layer; maps are averaged in 32 bits, as `pipeline.learning.inference` does."""
    if is_over_slices(network):
        slices = values.shape[1]
        each = _of_each(network, backbone, values.flatten(0, 1))
        pooled: Tensor = network.get_submodule(SLICES)(_as_bags(each, slices))
        return pooled
    return _of_each(network, backbone, values)


def _of_each(network: "nn.Module", backbone: str, values: "Tensor") -> "Tensor":
    if values.ndim == 2:
        return values.float()
    linear, pooling = head_of(network), pooling_of(network)
    for name in BACKBONES[backbone].steps[-1]:
        module = None if name in (FLATTEN, WIDEN) else network.get_submodule(name)
        if module is linear:
            break
        values = values.float() if module is pooling else values
        values = values.flatten(1) if module is None else module(values)
    return values.float()


def part(network: "nn.Module", backbone: str, blocks: tuple[str, ...]) -> "nn.Module":
    """Give consecutive blocks of a network as a network of their own, with the same modules and names."""
    over_slices = is_over_slices(network)
    return _part_class()(network, _steps_of(backbone, blocks, over_slices=over_slices), takes_slices=over_slices)


def _steps_of(backbone: str, blocks: tuple[str, ...], *, over_slices: bool) -> tuple[str, ...]:
    facts = BACKBONES[backbone]
    steps = [step for block, steps in zip(facts.blocks, facts.steps, strict=True) if block in blocks for step in steps]
    if over_slices and HEAD in blocks:
        steps.insert(len(steps) - 1, SLICES)  # before the linear layer, which is the last step of every backbone
    return tuple(steps)


def _run_blocks(network: "nn.Module", backbone: str, blocks: tuple[str, ...], values: "Tensor") -> "Tensor":
    """Run consecutive blocks where they are; no module is made, so that a compiler sees one graph."""
    over_slices = is_over_slices(network)
    return _pass(network, values, _steps_of(backbone, blocks, over_slices=over_slices), takes_slices=over_slices)


def is_over_slices(network: "nn.Module") -> bool:
    """Tell whether a network takes bags of slices."""
    return getattr(network, "takes_slices", False) or SLICES in dict(network.named_children())


def _place(root: "nn.Module", name: str, module: "nn.Module") -> None:
    """Register a module under a dotted name, making the modules above it."""
    from torch import nn

    *above, last = name.split(".")
    for word in above:
        if word not in root._modules:
            root.add_module(word, nn.Module())
        root = root.get_submodule(word)
    root.add_module(last, module)


def _as_images(bags: "Tensor") -> "Tensor":
    """Let slices be images: (batch, slices, ...) becomes (batch times slices, ...), maps in channels-last order."""
    import torch

    images = bags.flatten(0, 1)
    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images


def _as_bags(images: "Tensor", slices: int) -> "Tensor":
    return images.reshape(-1, slices, *images.shape[1:])


def _run(network: "nn.Module", values: "Tensor", steps: tuple[str, ...], slices: int) -> "Tensor":
    """Run steps of a network, of bags with so many slices."""
    for step in steps:
        if step == FLATTEN:
            values = values.flatten(1)
        elif step == SLICES:
            values = network.get_submodule(SLICES)(_as_bags(values, slices))
        elif step != WIDEN:
            values = network.get_submodule(step)(values)
    return values


def _pass(network: "nn.Module", values: "Tensor", steps: tuple[str, ...], *, takes_slices: bool) -> "Tensor":
    """Run steps of a network on images, or on bags of slices."""
    if not takes_slices:
        return _whole(network, values, steps, 1)
    slices = values.shape[1]
    found = _whole(network, _as_images(values), steps, slices)
    return found if SLICES in steps else _as_bags(found, slices)


def _whole(network: "nn.Module", values: "Tensor", steps: tuple[str, ...], slices: int) -> "Tensor":
    import torch

    cut = steps.index(WIDEN) if WIDEN in steps else len(steps)
    values = _run(network, values, steps[:cut], slices)
    if cut == len(steps):
        return values
    with torch.autocast(device_type=values.device.type, enabled=False):
        return _run(network, values.float(), steps[cut:], slices)


@functools.cache
def _part_class() -> "type[nn.Module]":
    from torch import nn

    class Part(nn.Module):
        """Consecutive steps of a network's forward pass, under the network's own names."""

        def __init__(self, network: nn.Module, steps: tuple[str, ...], *, takes_slices: bool) -> None:
            super().__init__()
            self.steps = steps
            self.takes_slices = takes_slices
            for name in dict.fromkeys(step for step in steps if step not in (FLATTEN, WIDEN)):
                _place(self, name, network.get_submodule(name))

        def forward(self, values: "Tensor") -> "Tensor":
            return _pass(self, values, self.steps, takes_slices=self.takes_slices)

    return Part


@functools.cache
def _early_class() -> "type[nn.Module]":
    import torch
    from torch import nn

    class EarlyNetwork(nn.Module):
        """A backbone whose head sits on the pooled features of chosen blocks."""

        def __init__(self, network: nn.Module, backbone: str, used: tuple[str, ...], head: nn.Linear) -> None:
            super().__init__()
            self.backbone = backbone
            self.used = used
            self.takes_slices = is_over_slices(network)
            if self.takes_slices:
                self.add_module(SLICES, network.get_submodule(SLICES))
            old = head_of(network)
            for name in (step for steps in BACKBONES[backbone].steps for step in steps):
                if name not in (FLATTEN, WIDEN):
                    module = network.get_submodule(name)
                    _place(self, name, head if module is old else module)

        def forward(self, images: "Tensor") -> "Tensor":
            parts, _ = features_after_blocks(self, self.backbone, images, until=self.used[-1])
            names = feature_blocks(self.backbone)
            joined = torch.cat([parts[names.index(name)] for name in self.used], dim=1)
            logits: Tensor = head_of(self)(joined)
            return logits

    return EarlyNetwork
