"""An independent ResNet-18 forward pass in plain `torch.nn.functional`, and random files in torchvision's format."""

import torch
from torch.nn import functional

LAYERS = ((64, 1), (128, 2), (256, 2), (512, 2))


def random_state(seed: int, *, bottleneck: bool = False, counters: bool = True) -> dict[str, torch.Tensor]:
    """Make a ResNet-18 (or ResNet-50) state dict from torchvision's published names and shapes."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def convolution(name: str, out: int, into: int, side: int) -> None:
        scale = (2 / (into * side * side)) ** 0.5
        state[f"{name}.weight"] = torch.randn(out, into, side, side, generator=generator) * scale

    def normalisation(name: str, size: int) -> None:
        state[f"{name}.weight"] = torch.rand(size, generator=generator) + 0.5
        state[f"{name}.bias"] = torch.randn(size, generator=generator) * 0.1
        state[f"{name}.running_mean"] = torch.randn(size, generator=generator) * 0.1
        state[f"{name}.running_var"] = torch.rand(size, generator=generator) + 0.5
        if counters:
            state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("conv1", 64, 3, 7)
    normalisation("bn1", 64)
    into = 64
    for stage, (width, _) in enumerate(LAYERS, start=1):
        out = width * (4 if bottleneck else 1)
        for block in range((3, 4, 6, 3)[stage - 1] if bottleneck else 2):
            name = f"layer{stage}.{block}"
            shapes = (
                [(width, into, 1), (width, width, 3), (out, width, 1)]
                if bottleneck
                else [
                    (width, into, 3),
                    (width, width, 3),
                ]
            )
            for index, (outputs, inputs, side) in enumerate(shapes, start=1):
                convolution(f"{name}.conv{index}", outputs, inputs, side)
                normalisation(f"{name}.bn{index}", outputs)
            if block == 0 and (stage > 1 or bottleneck):
                convolution(f"{name}.downsample.0", out, into, 1)
                normalisation(f"{name}.downsample.1", out)
            into = out
    state["fc.weight"] = torch.randn(1000, into, generator=generator) * 0.05
    state["fc.bias"] = torch.randn(1000, generator=generator) * 0.05
    return state


def forward(state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Logits of a ResNet-18 in evaluation mode, after He et al. (doi:10.1109/CVPR.2016.90)."""

    def normalise(values: torch.Tensor, name: str) -> torch.Tensor:
        return functional.batch_norm(
            values,
            state[f"{name}.running_mean"],
            state[f"{name}.running_var"],
            state[f"{name}.weight"],
            state[f"{name}.bias"],
            training=False,
            eps=1e-5,
        )

    values = functional.conv2d(images, state["conv1.weight"], stride=2, padding=3)
    values = functional.max_pool2d(functional.relu(normalise(values, "bn1")), 3, stride=2, padding=1)
    for stage, (_, stride) in enumerate(LAYERS, start=1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            step = stride if block == 0 else 1
            shortcut = values
            inner = functional.conv2d(values, state[f"{name}.conv1.weight"], stride=step, padding=1)
            inner = functional.relu(normalise(inner, f"{name}.bn1"))
            inner = normalise(functional.conv2d(inner, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in state:
                shortcut = functional.conv2d(values, state[f"{name}.downsample.0.weight"], stride=step)
                shortcut = normalise(shortcut, f"{name}.downsample.1")
            values = functional.relu(inner + shortcut)
    return functional.linear(values.mean(dim=(2, 3)), state["fc.weight"], state["fc.bias"])
