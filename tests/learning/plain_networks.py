"""Independent forward passes in plain `torch.nn.functional`, and random files with torchvision's published names.

Written from the papers and from the names and shapes of torchvision's files; MONAI is not used.
"""

import torch
from torch.nn import functional

State = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]
DENSE_BLOCKS = (6, 12, 24, 16)
# Expansion, kernel, stride, input channels, output channels, blocks (Tan and Le, 2019, arXiv:1905.11946, table 1).
MBCONV = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
VGG_WIDTHS = {
    "vgg11_bn": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg16_bn": ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
}


def random_values(shapes: Shapes, seed: int) -> State:
    """Draw values of a size that neither vanishes nor explodes over many layers."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape in shapes.items():
        if name.endswith("running_var") or (name.endswith(".weight") and len(shape) == 1):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        elif len(shape) > 1:
            fan_in = torch.Size(shape[1:]).numel()
            state[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        else:
            state[name] = torch.randn(shape, generator=generator) * 0.1
    return state


def _normalisation(shapes: Shapes, name: str, size: int) -> None:
    for part in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"{name}.{part}"] = (size,)


def _normalise(values: torch.Tensor, state: State, name: str, eps: float = 1e-5) -> torch.Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scale = state[f"{name}.weight"] / (variance + eps).sqrt()
    shape = (1, -1, *(1,) * (values.ndim - 2))
    return (values - mean.view(shape)) * scale.view(shape) + state[f"{name}.bias"].view(shape)


def densenet121_shapes() -> Shapes:
    """Names as in the published file, whose layers are still called ``norm.1``."""
    shapes: Shapes = {"features.conv0.weight": (64, 3, 7, 7)}
    _normalisation(shapes, "features.norm0", 64)
    channels = 64
    for block, layers in enumerate(DENSE_BLOCKS, start=1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            _normalisation(shapes, f"{name}.norm.1", channels)
            shapes[f"{name}.conv.1.weight"] = (128, channels, 1, 1)
            _normalisation(shapes, f"{name}.norm.2", 128)
            shapes[f"{name}.conv.2.weight"] = (32, 128, 3, 3)
            channels += 32
        if block < 4:
            _normalisation(shapes, f"features.transition{block}.norm", channels)
            shapes[f"features.transition{block}.conv.weight"] = (channels // 2, channels, 1, 1)
            channels //= 2
    _normalisation(shapes, "features.norm5", channels)
    return {**shapes, "classifier.weight": (1000, channels), "classifier.bias": (1000,)}


def densenet121(state: State, images: torch.Tensor) -> torch.Tensor:
    """Logits after Huang et al. (arXiv:1608.06993)."""
    values = functional.conv2d(images, state["features.conv0.weight"], stride=2, padding=3)
    values = functional.relu(_normalise(values, state, "features.norm0"))
    values = functional.max_pool2d(values, 3, stride=2, padding=1)
    for block, layers in enumerate(DENSE_BLOCKS, start=1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            new = functional.relu(_normalise(values, state, f"{name}.norm.1"))
            new = functional.conv2d(new, state[f"{name}.conv.1.weight"])
            new = functional.relu(_normalise(new, state, f"{name}.norm.2"))
            values = torch.cat([values, functional.conv2d(new, state[f"{name}.conv.2.weight"], padding=1)], dim=1)
        if block < 4:
            name = f"features.transition{block}"
            values = functional.relu(_normalise(values, state, f"{name}.norm"))
            values = functional.avg_pool2d(functional.conv2d(values, state[f"{name}.conv.weight"]), 2)
    values = functional.relu(_normalise(values, state, "features.norm5")).mean(dim=(2, 3))
    return functional.linear(values, state["classifier.weight"], state["classifier.bias"])


def efficientnet_b0_shapes() -> Shapes:
    shapes: Shapes = {"features.0.0.weight": (32, 3, 3, 3)}
    _normalisation(shapes, "features.0.1", 32)
    for group, (expansion, kernel, _, into, out, blocks) in enumerate(MBCONV, start=1):
        for block in range(blocks):
            channels = into if block == 0 else out
            wide, squeezed = channels * expansion, channels // 4
            parts = [("conv", (wide, channels, 1, 1))] if expansion > 1 else []
            parts += [("conv", (wide, 1, kernel, kernel)), ("squeeze", ()), ("conv", (out, wide, 1, 1))]
            for index, (kind, shape) in enumerate(parts):
                name = f"features.{group}.{block}.block.{index}"
                if kind == "conv":
                    shapes[f"{name}.0.weight"] = shape
                    _normalisation(shapes, f"{name}.1", shape[0])
                else:
                    shapes |= {f"{name}.fc1.weight": (squeezed, wide, 1, 1), f"{name}.fc1.bias": (squeezed,)}
                    shapes |= {f"{name}.fc2.weight": (wide, squeezed, 1, 1), f"{name}.fc2.bias": (wide,)}
    shapes["features.8.0.weight"] = (1280, 320, 1, 1)
    _normalisation(shapes, "features.8.1", 1280)
    return {**shapes, "classifier.1.weight": (1000, 1280), "classifier.1.bias": (1000,)}


def efficientnet_b0(state: State, images: torch.Tensor) -> torch.Tensor:
    """Logits with torchvision's padding, the same on both sides."""

    def unit(values: torch.Tensor, name: str, stride: int = 1, *, depthwise: bool = False) -> torch.Tensor:
        weight = state[f"{name}.0.weight"]
        groups = len(weight) if depthwise else 1
        found = functional.conv2d(values, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        return _normalise(found, state, f"{name}.1")

    values = functional.silu(unit(images, "features.0", 2))
    for group, (expansion, _, first_stride, into, out, blocks) in enumerate(MBCONV, start=1):
        for block in range(blocks):
            name = f"features.{group}.{block}.block"
            first = 1 if expansion > 1 else 0
            stride = first_stride if block == 0 else 1
            inner = functional.silu(unit(values, f"{name}.0")) if first else values
            inner = functional.silu(unit(inner, f"{name}.{first}", stride, depthwise=True))
            squeeze = f"{name}.{first + 1}"
            gate = inner.mean(dim=(2, 3), keepdim=True)
            gate = functional.conv2d(gate, state[f"{squeeze}.fc1.weight"], state[f"{squeeze}.fc1.bias"])
            gate = functional.conv2d(
                functional.silu(gate), state[f"{squeeze}.fc2.weight"], state[f"{squeeze}.fc2.bias"]
            )
            inner = unit(inner * torch.sigmoid(gate), f"{name}.{first + 2}")
            values = inner + values if stride == 1 and (block > 0 or into == out) else inner
    pooled = functional.silu(unit(values, "features.8")).mean(dim=(2, 3))
    return functional.linear(pooled, state["classifier.1.weight"], state["classifier.1.bias"])


def vgg_shapes(name: str, hidden: int = 4096) -> Shapes:
    shapes: Shapes = {}
    index, channels = 0, 3
    for block in VGG_WIDTHS[name]:
        for width in block:
            shapes |= {f"features.{index}.weight": (width, channels, 3, 3), f"features.{index}.bias": (width,)}
            _normalisation(shapes, f"features.{index + 1}", width)
            index, channels = index + 3, width
        index += 1
    for layer, (out, into) in {0: (hidden, channels * 49), 3: (hidden, hidden), 6: (1000, hidden)}.items():
        shapes |= {f"classifier.{layer}.weight": (out, into), f"classifier.{layer}.bias": (out,)}
    return shapes


def vgg(name: str, state: State, images: torch.Tensor) -> torch.Tensor:
    """Logits after Simonyan and Zisserman (arXiv:1409.1556)."""
    values, index = images, 0
    for block in VGG_WIDTHS[name]:
        for _ in block:
            weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
            values = _normalise(functional.conv2d(values, weight, bias, padding=1), state, f"features.{index + 1}")
            values, index = functional.relu(values), index + 3
        values, index = functional.max_pool2d(values, 2), index + 1
    values = functional.adaptive_avg_pool2d(values, 7).flatten(1)
    for layer in (0, 3, 6):
        values = functional.linear(values, state[f"classifier.{layer}.weight"], state[f"classifier.{layer}.bias"])
        values = functional.relu(values) if layer < 6 else values
    return values


def resnet50_features(state: State, images: torch.Tensor, eps: float) -> torch.Tensor:
    """Pooled features (batch, 2048) of a bottleneck ResNet whose batch normalisation has the constant `eps`."""
    values = functional.conv2d(images, state["conv1.weight"], stride=2, padding=3)
    values = functional.max_pool2d(functional.relu(_normalise(values, state, "bn1", eps)), 3, stride=2, padding=1)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if block == 0 and stage > 1 else 1
            inner = functional.conv2d(values, state[f"{name}.conv1.weight"])
            inner = functional.relu(_normalise(inner, state, f"{name}.bn1", eps))
            inner = functional.conv2d(inner, state[f"{name}.conv2.weight"], stride=stride, padding=1)
            inner = functional.relu(_normalise(inner, state, f"{name}.bn2", eps))
            inner = _normalise(functional.conv2d(inner, state[f"{name}.conv3.weight"]), state, f"{name}.bn3", eps)
            shortcut = values
            if block == 0:
                shortcut = functional.conv2d(values, state[f"{name}.downsample.0.weight"], stride=stride)
                shortcut = _normalise(shortcut, state, f"{name}.downsample.1", eps)
            values = functional.relu(inner + shortcut)
    return values.mean(dim=(2, 3))


def medicalnet_shapes(layers: tuple[int, ...], *, bottleneck: bool) -> Shapes:
    """Names of MedicalNet's files inside their ``module.``: no head, and no shortcuts with weights if basic."""
    shapes: Shapes = {"conv1.weight": (64, 1, 7, 7, 7)}
    _normalisation(shapes, "bn1", 64)
    into = 64
    for stage, (width, blocks) in enumerate(zip((64, 128, 256, 512), layers, strict=True), start=1):
        out = width * 4 if bottleneck else width
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            kernels = [(width, into, 1), (width, width, 3), (out, width, 1)]
            kernels = kernels if bottleneck else [(width, into, 3), (width, width, 3)]
            for index, (outputs, inputs, side) in enumerate(kernels, start=1):
                shapes[f"{name}.conv{index}.weight"] = (outputs, inputs, side, side, side)
                _normalisation(shapes, f"{name}.bn{index}", outputs)
            if block == 0 and bottleneck:
                shapes[f"{name}.downsample.0.weight"] = (out, into, 1, 1, 1)
                _normalisation(shapes, f"{name}.downsample.1", out)
            into = out
    return shapes
