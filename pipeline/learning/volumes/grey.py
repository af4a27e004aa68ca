"""Grey input: networks made for three colours take one channel and give exactly the same logits."""

import functools
from typing import TYPE_CHECKING, Any

from pipeline.learning.weights.sources import Normalisation

if TYPE_CHECKING:
    from torch import Tensor, nn


def to_one_channel(network: "nn.Module", normalisation: Normalisation | None = None) -> None:
    """Let a network take one channel instead of three equal ones; only its first convolution changes, in place.

    Without a normalisation the kernels are summed over the input channels: the input is the one channel that
    was repeated before. With it, the input is the grey image itself and the source's mean and deviation of each
    channel are folded in. A bias could not express that at the border: a colour network pads *after* the
    normalisation, so that zeros mean the mean colour, which is another grey in each channel. The first convolution
    therefore sees a second channel that is 1 inside the image and padded with zeros like the first:

        sum_c w_c * (x - m_c) / s_c  =  (sum_c w_c / s_c) * x  -  (sum_c w_c m_c / s_c) * 1

    It is the same for all images of a batch, is computed once for each, and the weights of both can be trained.

    Parameters
    ----------
    network
        Any backbone, for images (batch, 3, height, width) or volumes (batch, 3, depth, height, width), that has
        not been changed so before.
    normalisation
        Of the source, for inputs in [0, 1]; None if the input will be normalised already.
    """
    import torch

    name, old = next((name, module) for name, module in network.named_modules() if _is_convolution(module))
    shape = (1, -1, *(1,) * (old.weight.ndim - 2))
    weight = old.weight.detach().double()
    if normalisation is None:
        parts = [weight.sum(dim=1)]
    else:
        mean, deviation = (
            weight.new_tensor(values).view(shape) for values in (normalisation.mean, normalisation.deviation)
        )
        parts = [(weight / deviation).sum(dim=1), -(weight * mean / deviation).sum(dim=1)]
    base: Any = type(old)
    kind = base if normalisation is None else _with_inside(base)
    with torch.device("meta"):  # its values come from the old one
        new = kind(
            len(parts),
            old.out_channels,
            old.kernel_size,
            stride=old.stride,
            padding=old.padding,
            bias=old.bias is not None,
        )
    new.weight = torch.nn.Parameter(torch.stack(parts, dim=1).to(old.weight))
    new.bias = old.bias
    network.set_submodule(name, new.train(old.training))


def _is_convolution(module: "nn.Module") -> bool:
    from torch import nn

    return isinstance(module, (nn.Conv2d, nn.Conv3d))


@functools.cache
def _with_inside(base: Any) -> Any:
    """Derive a convolution that adds the channel which is 1 inside the image."""
    import torch

    class GreyConvolution(base):  # type: ignore[misc]
        """Takes (batch, 1, ...); its weight has two input channels: grey, and inside."""

        def forward(self, grey: "Tensor") -> "Tensor":
            inside = torch.ones_like(grey[:1])
            seen: Tensor = self._conv_forward(grey, self.weight[:, :1], self.bias)
            constant: Tensor = self._conv_forward(inside, self.weight[:, 1:], None)
            return seen + constant

    return GreyConvolution
