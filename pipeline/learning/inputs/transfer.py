"""Transfer: tensors on their way to the device."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def on_device(values: "Tensor", device: "str | torch.device") -> "Tensor":
    """Move a tensor without making the processor wait: only page-locked memory is copied in the background."""
    if str(device).startswith("cuda") and not values.is_cuda:
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def network_on_device(network: "nn.Module", device: "str | torch.device") -> None:
    """Move a network, in place, with its kernels in channels-last order, for images or for volumes."""
    import torch

    has_depth = any(parameter.ndim == 5 for parameter in network.parameters())
    order = torch.channels_last_3d if has_depth else torch.channels_last
    network.to(device, memory_format=order)  # type: ignore[call-overload]
