"""Memory: how much a training will need, told before its first batch."""

import os
from typing import TYPE_CHECKING, NamedTuple

from pipeline.core.errors import TrainingError
from pipeline.core.progress import say
from pipeline.learning.inputs.devices import Placement

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

GIB = 1024**3


class Forecast(NamedTuple):
    """Bytes on the device.

    Attributes
    ----------
    weights
        Parameters and buffers of the network.
    training
        Gradients, the optimiser's two moments, and the moving average of what is trained.
    activations
        What one image leaves behind in the forward pass for the backward pass.
    """

    weights: int
    training: int
    activations: int

    def total(self, images: int) -> int:
        """Bytes for a step with so many images at a time."""
        return self.weights + self.training + images * self.activations


def forecast(network: "nn.Module", example: "Tensor", placement: Placement, *, is_averaged: bool) -> Forecast:
    """Estimate the memory of a training by two small forward passes, of one image and of two.

    Counted is what autograd keeps for the backward pass; the difference of the two passes is what one image
    takes. Workspace of the kernels and fragmentation come on top.

    Parameters
    ----------
    network
        With the parameters open that are trained; it is put into evaluation mode, so that nothing is learned.
    example
        Two inputs, shape (2, ...).
    placement
        Device and precision.
    is_averaged
        Whether a moving average of the weights is held.
    """
    parameters = list(network.parameters())
    trained = sum(_size(value) for value in parameters if value.requires_grad)
    everything = sum(_size(value) for value in (*parameters, *network.buffers()))
    network.eval()
    one, two = (_kept(network, example[:count].clone(), placement) for count in (1, 2))
    return Forecast(everything, trained * (4 if is_averaged else 3), max(0, two - one))


def _kept(network: "nn.Module", images: "Tensor", placement: Placement) -> int:
    """Count the bytes that a forward pass keeps for the backward pass."""
    import torch

    own = {value.untyped_storage().data_ptr() for value in network.parameters()}
    found: dict[int, int] = {}
    held = []  # so that no address is used twice

    def note(tensor: "Tensor") -> "Tensor":
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), placement.autocast():
        network(images)
    return sum(found.values())


def announce(found: Forecast, images: int, placement: Placement) -> None:
    """Say what a training needs with so many images at a time.

    Raises
    ------
    TrainingError
        If the device could not hold it with one image at a time, were it all free.
    """
    there = _capacity(placement)
    say(
        f"train: about {_in_words(found.total(images))} of memory for {images} images at a time: weights "
        f"{_in_words(found.weights)}, optimiser {_in_words(found.training)}, each image {_in_words(found.activations)}"
        f" (the device has {_in_words(there)})"
    )
    if found.total(1) > there:
        what = f"training needs {_in_words(found.total(1))} for one image, and the device has {_in_words(there)}"
        remedy = "choose a smaller train.backbone or preprocess.size, or fewer trained blocks (last_block, probe)"
        raise TrainingError(what, where="train", remedy=remedy)


def _capacity(placement: Placement) -> int:
    """Bytes of the device as a whole; what others use of it now may be free later."""
    if placement.device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _size(value: "torch.Tensor") -> int:
    return value.numel() * value.element_size()


def _in_words(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 1024**2:.0f} MiB"
