"""Forms of networks for volumes: what neither the names nor the shapes of their weights tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Inflation = Literal["centre", "mean"]
Shortcut = Literal["projection", "padding"]
"""How a residual block changes its width: `projection`: convolution (type B); `padding`: zeros (type A)."""


@dataclass(frozen=True, kw_only=True)
class VolumeForm:
    """How a 3D ResNet is built; with a backbone's name it is all that has to be known besides its weights.

    Attributes
    ----------
    inflation
        How its kernels got their depth from a network for images: by ``mean`` it repeats end slices, and by either its
        first convolution takes grey values and knows where the image ends. None: it was made for volumes.
    stem_depth, stem_stride
        Kernel and stride of the first convolution along depth.
    shortcut
        Kind of shortcut.
    """

    inflation: Inflation | None
    stem_depth: int
    stem_stride: int
    shortcut: Shortcut


def form_from(facts: Mapping[str, Any]) -> VolumeForm:
    """Read a form as it was written down.

    Raises
    ------
    ValueError, KeyError, TypeError
        If something is missing or makes no sense.

    Examples
    --------
    >>> form_from({"inflation": None, "stem_depth": 7, "stem_stride": 2, "shortcut": "padding"}).shortcut
    'padding'
    """
    form = VolumeForm(
        inflation=facts["inflation"],
        stem_depth=int(facts["stem_depth"]),
        stem_stride=int(facts["stem_stride"]),
        shortcut=facts["shortcut"],
    )
    is_known = form.inflation in (None, *get_args(Inflation)) and form.shortcut in get_args(Shortcut)
    if not is_known or form.stem_depth < 1 or form.stem_stride < 1:
        message = f"there is no such form: {form}"
        raise ValueError(message)
    return form
