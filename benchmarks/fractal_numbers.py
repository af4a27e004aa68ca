"""Random numbers that need no state: a digest of who asks and which number it is, alike on every device."""

import math

import torch
from torch import Tensor

# SplitMix64: Steele, Lea and Flood (2014), doi:10.1145/2660193.2660195. PyTorch knows signed 64-bit integers only,
# whose products wrap around to the same bits.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_BITS = 24  # all that a float32 holds


def _shifted(values: Tensor, places: int) -> Tensor:
    """Shift to the right and fill with zeros, where PyTorch would repeat the sign."""
    return (values >> places) & ((1 << (64 - places)) - 1)


def mixed(values: Tensor) -> Tensor:
    """Digest 64-bit integers, each by itself: neighbours give unrelated numbers."""
    found = values + _STEP
    found = (found ^ _shifted(found, 30)) * _FIRST
    found = (found ^ _shifted(found, 27)) * _SECOND
    return found ^ _shifted(found, 31)


def keys_for(seed: int, numbers: Tensor) -> Tensor:
    """Give each number a key of its own under a seed."""
    return mixed(mixed(numbers.to(torch.int64)) + seed)


def uniform(keys: Tensor, stream: int, *shape: int) -> Tensor:
    """Give numbers from 0 to below 1.

    Parameters
    ----------
    keys
        Shape (batch,); equal keys give equal numbers.
    stream
        What for: another one gives other numbers.
    *shape
        Of the numbers of one key.

    Returns
    -------
    Tensor
        float32, shape (batch, ...), on the device of the keys.
    """
    counter = torch.arange(math.prod(shape), device=keys.device, dtype=torch.int64)
    found = mixed(mixed(keys + (stream << 32))[:, None] + counter * _STEP)
    return (_shifted(found, 64 - _BITS).to(torch.float32) * 2.0**-_BITS).view(len(keys), *shape)
