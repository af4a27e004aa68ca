"""What is measured of a way of training on a GPU, its utilisation and memory among it, and how it is shown."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass
class Measured:
    """What was measured of one way: images per second of each round, and the GPU meanwhile."""

    speeds: list[float] = field(default_factory=list)
    utilisation: list[float] = field(default_factory=list)
    peak_mib: float = 0.0

    def facts(self) -> dict[str, float | None]:
        """Give the medians."""
        busy = float(np.median(self.utilisation)) if self.utilisation else None
        return {
            "images_per_second": round(float(np.median(self.speeds)), 1),
            "utilisation_percent": busy,
            "peak_mib": round(self.peak_mib),
        }


def read_last(record: Path) -> dict[str, Any]:
    """Say that there is no GPU, and when one was last there; give what was recorded then, or nothing."""
    print("no GPU here: nothing is measured")
    if not record.is_file():
        print("last measured: never measured")
        return {}
    facts: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    print(f"last measured: {facts['date']} on {facts['device']}, torch {facts['torch']}")
    return facts


def last_measured(record: Path) -> None:
    """Print the numbers of a record, or that there is none."""
    facts = read_last(record)
    if not facts:
        return
    print(f"precision: {facts['precision']}")
    for name, ways in facts.items():
        if isinstance(ways, dict):
            table(name, ways)
    for one in facts["targets"]:
        print("last measured: {name} {measured}, wanted >={wanted}: {verdict}".format(**one))


@contextmanager
def observed(device: str, found: Measured) -> Iterator[None]:
    """Note utilisation and peak memory of the GPU during the block."""
    if device != "cuda":
        yield
        return
    torch.cuda.reset_peak_memory_stats()
    is_over = threading.Event()
    watch = threading.Thread(target=_poll, args=(found.utilisation, is_over))
    watch.start()
    try:
        yield
    finally:
        is_over.set()
        watch.join()
        found.peak_mib = max(found.peak_mib, torch.cuda.max_memory_allocated() / 1024**2)


def _poll(found: list[float], is_over: threading.Event) -> None:
    while not is_over.wait(0.1):
        now = _utilisation()
        if now is None:
            return
        found.append(now)


def _utilisation() -> float | None:
    """Percent of the time in which a kernel ran, by NVML or nvidia-smi; None if neither answers."""
    try:
        return float(torch.cuda.utilization())
    except Exception:  # noqa: BLE001  without NVML's package, or where the driver does not tell
        program = shutil.which("nvidia-smi")
    if program is None:
        return None
    asked = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10)
        return float(answer.stdout.split()[0])
    except (subprocess.SubprocessError, ValueError, IndexError, OSError):
        return None


def table(name: str, ways: dict) -> None:
    """Print the numbers of all ways of one network."""
    print(f"\n{name:<22} {'images/s':>10} {'GPU busy':>9} {'peak MiB':>9}")
    for way, facts in ways.items():
        if "images_per_second" in facts:
            busy = facts["utilisation_percent"]
            shown = "unknown" if busy is None else f"{busy:.0f} %"
            print(f"{way:<22} {facts['images_per_second']:>10.1f} {shown:>9} {facts['peak_mib']:>9.0f}")


def target(targets: list[dict[str, object]], name: str, measured: float, wanted: float) -> None:
    """Add a target and whether it is met."""
    verdict = "ok" if measured >= wanted else "short"
    targets.append({"name": f"gpu_{name}", "measured": round(measured, 4), "wanted": wanted, "verdict": verdict})
