"""The tiny study trained by two processes, and small things that a team of two does."""

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.core.errors import TrainingError
from pipeline.learning import training
from pipeline.learning.loop.launching import together
from pipeline.learning.loop.statistics import shared_statistics
from pipeline.learning.networks.backbones import BACKBONES
from tests.learning import tiny_study
from tests.learning.tiny_study import RECIPE, build_tiny

_follow = training.follow_training


def follow_tiny(team, *order):
    """Train as `follow_training` does, with the tiny network."""
    if seconds := os.environ.get("TINY_TEAM_DELAY"):
        time.sleep(float(seconds))
    BACKBONES["resnet18"] = BACKBONES["resnet18"]._replace(build=build_tiny, features=6)
    (Path(order[4].states) / f"process-{team.number}").write_text(str(os.getpid()))
    _follow(team, *order)


def train_together(name, source, folder, devices, batch_size=5):
    """Train the tiny study with so many processes."""
    training.follow_training = follow_tiny
    plain = tiny_study.make_study
    recipe = RECIPE.__class__(**{**vars(RECIPE), "batch_size": batch_size, "epochs": 3})
    tiny_study.make_study = lambda **changes: plain(recipe, **changes, devices=devices, networks=1)
    (folder / "states").mkdir(parents=True, exist_ok=True)
    tiny_study.train_tiny(name, source, folder)


def start_together(name, source, folder, devices, batch_size=5):
    """Train in a process of its own, which starts the others."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.learning.tiny_team", "scipy.optimize", "sklearn.linear_model"])
    process = context.Process(target=train_together, args=(name, source, folder, devices, batch_size))
    process.start()
    return process


def normalised():
    """Make inputs, a network with normalisation, and weights for a loss."""
    generator = torch.Generator().manual_seed(1)
    images = 3 + 2 * torch.randn(7, 4, 5, 3, generator=generator)
    network = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2))
    with torch.no_grad():
        for value in network.parameters():
            value.uniform_(0.5, 1.5, generator=generator)
    return images, network, torch.randn(7, 2, 3, 1, generator=generator)


def outcome(network, images, factors):
    """Give output, gradients of the inputs and of the weights, and statistics after one pass."""
    given = images.clone().requires_grad_()
    output = network(given)
    (output * factors).sum().backward()
    return output.detach(), given.grad, [value.grad for value in network.parameters()], list(network.buffers())


def normalise(team):
    """Pass a part of a batch through shared normalisation, and check it against the whole batch with the plain one."""
    images, network, factors = normalised()
    part = team.part.within(len(images))
    kinds = [type(module) for module in network]
    with shared_statistics(network, team):
        assert [type(module) for module in network] != kinds
        output, inner, weights, statistics = outcome(network, images[part], factors[part])
        network.eval()
        plain_eval = network(images)
    assert [type(module) for module in network] == kinds
    assert plain_eval.equal(network(images))
    expected = outcome(normalised()[1], images, factors)
    assert torch.allclose(output, expected[0][part], atol=1e-5)
    assert torch.allclose(inner, expected[1][part], atol=1e-5)
    for one, other in zip(statistics, expected[3], strict=True):
        assert torch.allclose(one, other, atol=1e-6), (one, other)
    for parameter, one in zip(network.parameters(), weights, strict=True):
        parameter.grad = one
    total = team.add_up(network, torch.tensor(float(team.number + 1)))
    assert float(total) == sum(range(1, team.size + 1))
    for parameter, other in zip(network.parameters(), expected[2], strict=True):
        assert torch.allclose(parameter.grad, other, atol=1e-4)


def spread(team):
    """Check that all have the first one's weights, in whatever order they lie in memory."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        for value in network.state_dict().values():
            value.fill_(team.number + 1)
    network.to(memory_format=torch.channels_last)
    team.spread(network)
    assert all(bool((value == 1).all()) for value in network.state_dict().values())
    assert team.gather(team.number) == list(range(team.size))


def fail(team, *_):
    """Be a process that finds something wrong."""
    team.gather(0)
    raise TrainingError("the wind has turned", where="train", remedy="wait")


def stumble(team, *_):
    team.gather(0)
    message = "no such thing"
    raise KeyError(message)


def die(team, *_):
    team.gather(0)
    os.kill(os.getpid(), signal.SIGKILL)


def differ(team, *_):
    team.require_equal(team.number, "numbers")


def listening_addresses():
    """Find the addresses at which this process listens, as the kernel writes them."""
    sockets = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            sockets.add(path.readlink().name)
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return [line[1].split(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets]


def tell_addresses(team):
    """Tell where each process listens."""
    return team.gather(listening_addresses())


def read_map(team, pixels):
    """Tell how the pixels came and what they are."""
    team.gather((type(pixels).__name__, str(getattr(pixels, "filename", "")), np.asarray(pixels).tolist()))


def both(function, *arguments, size=2):
    """Do the same in all processes, this one among them."""
    with together(size, "cpu", function, *arguments) as team:
        function(team, *arguments)
