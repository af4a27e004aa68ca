"""Transfer: tensors on their way to the device."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def on_device(values: "Tensor", device: "str | torch.device") -> "Tensor":
    """Move a tensor without making the processor wait: only page-locked memory is copied in the background."""
    if str(device).startswith("cuda") and not values.is_cuda:
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
