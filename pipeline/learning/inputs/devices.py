"""Where a network runs and in which precision, decided once and recorded."""

import os
from typing import TYPE_CHECKING, Literal, NamedTuple

from pipeline.core.errors import TrainingError

if TYPE_CHECKING:
    import torch


class Placement(NamedTuple):
    """A device, the type of its matrix products, and how many processor threads serve it.

    Networks and images are held in channels-last order everywhere: it is what convolutions with bfloat16 on
    GPUs and on processors with AMX or AVX-512 want, and no slower in float32.
    """

    device: Literal["cpu", "cuda"]
    precision: Literal["float32", "bfloat16"]
    threads: int

    def autocast(self) -> "torch.autocast":
        """Give the context in which forward passes run."""
        import torch

        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")


def choose_placement(device: str, precision: str, threads: int) -> Placement:
    """Resolve ``auto`` and prepare the process for repeatable results.

    Parameters
    ----------
    device
        ``auto``, ``cpu`` or ``cuda``.
    precision
        ``auto``, ``float32`` or ``bfloat16``; ``auto`` takes bfloat16 only where the hardware multiplies it.
    threads
        Processor threads; results are repeatable bit for bit for one machine and one number of threads.

    Raises
    ------
    TrainingError
        If a GPU is asked for and there is none.
    """
    # Asked for by cuBLAS before its first use for repeatable matrix products (CUDA documentation, "Results
    # reproducibility"); harmless without a GPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Threads that wait shall sleep: on a machine shared with others, spinning made training ten times slower.
    # Read by OpenMP when PyTorch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(max(1, threads))
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        what = "train.device is cuda, but PyTorch sees no GPU"
        raise TrainingError(what, where="train.device", remedy="set it to auto, or ask the scheduler for a GPU")
    chosen: Literal["cpu", "cuda"] = "cuda" if device != "cpu" and has_gpu else "cpu"
    # On GPUs the backward pass of max pooling has no repeatable version: warn there, insist elsewhere.
    torch.use_deterministic_algorithms(mode=True, warn_only=chosen == "cuda")
    if precision == "auto":
        return Placement(chosen, "bfloat16" if _multiplies_bfloat16(chosen) else "float32", threads)
    return Placement(chosen, "bfloat16" if precision == "bfloat16" else "float32", threads)


def choose_devices(
    device: str, devices: int | Literal["auto"], precision: str, threads: int, gpus: int
) -> tuple[int, Placement]:
    """Resolve how many processes train a network together, and place each.

    Parameters
    ----------
    device, precision
        As for `choose_placement`.
    devices
        How many; ``auto``: as many as there are GPUs for this job, and one without GPUs.
    threads
        Processor threads of all processes together.
    gpus
        GPUs that the scheduler has given to this job.

    Raises
    ------
    TrainingError
        As `choose_placement`.
    """
    if devices != "auto":
        return devices, choose_placement(device, precision, max(1, threads // devices))
    placement = choose_placement(device, precision, threads)
    count = max(1, gpus) if placement.device == "cuda" else 1
    return count, choose_placement(device, precision, max(1, threads // count))


def _multiplies_bfloat16(device: str) -> bool:
    """Tell whether bfloat16 is faster than float32: GPUs since Ampere, processors with AMX tiles."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    # Private in PyTorch 2.11 to 2.13 and without a public twin; absent means "no".
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())


def device_name(placement: Placement) -> str:
    """Name the GPU, or the processor's architecture and instruction set, which decides on the last bits."""
    import platform

    import torch

    if placement.device == "cuda":
        return torch.cuda.get_device_name()
    return f"processor ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"
