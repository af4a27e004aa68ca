"""Full fine-tuning on a GPU against the ceiling of the hardware and against MONAI's loop, in one run, in turns.

``python benchmarks/learning_gpu.py [--backbones resnet18 resnet50] [--size 224] [--batch 128] ...`` measures images per
second, utilisation and peak memory of

- ours: the training loop of this project with augmentation, the images resident on the GPU, or read ahead;
- the ceiling: the same network, optimiser, precision and batches on synthetic tensors that are on the GPU already;
- MONAI: its tutorials' loop, ``CacheDataset`` and ``DataLoader`` with workers, given the same precision and optimiser.

Images are synthetic and made on the spot. The numbers, with date and device, go into ``benchmarks/learning_gpu.json``.
Without a GPU the script says so and prints the numbers measured last. ``--device cpu`` runs the same code slowly and
records nothing, unless ``--record FILE`` says where.
"""

import argparse
import copy
import datetime as dt
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from gpu_measures import Measured, last_measured, observed, table, target

from pipeline.learning.inference import predict_logits
from pipeline.learning.inputs.augmentation import Augmentation
from pipeline.learning.inputs.batches import PixelSource
from pipeline.learning.inputs.devices import Placement, choose_placement
from pipeline.learning.inputs.feeding import settle
from pipeline.learning.loop import finetuning
from pipeline.learning.loop.checkpoints import StateFolder
from pipeline.learning.loop.compiling import compiled, missing_compiler
from pipeline.learning.loop.finetuning import FoldData, Task, fine_tune
from pipeline.learning.loop.optimisers import adamw
from pipeline.learning.networks.backbones import BACKBONES, replace_head
from pipeline.learning.recipes import Recipe
from pipeline.learning.strategies import STRATEGIES
from pipeline.learning.weights.loading import RANDOM, build_network
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION

RECORD = Path(__file__).with_suffix(".json")
AUGMENTATION = Augmentation(
    rotation_degrees=7, translation=0.05, scale=0.1, flip=False, contrast=0.2, brightness=0.1, noise=0.02
)
SEED = 1
WANTED_OF_CEILING = 0.9
# Processor in float32 against GPU, where convolutions multiply 11 significant bits (TF32), or 8 (bfloat16).
MOST_APART = {"float32": 0.02, "bfloat16": 0.1}  # the largest difference of logits as a share of their spread
MOST_AREA_APART = 0.01


@dataclass(frozen=True)
class Setting:
    """What all ways share."""

    pixels: np.ndarray
    classes: np.ndarray
    placement: Placement
    batch: int
    workers: int
    monai_images: int
    rounds: int
    work: Path

    def recipe(self, epochs: int = 1000) -> Recipe:
        """Give the numbers of the training; patience never ends."""
        return Recipe(
            epochs=epochs,
            patience=epochs,
            batch_size=self.batch,
            learning_rate=1e-4,
            weight_decay=0.01,
            warmup_fraction=0.1,
            label_smoothing=0.05,
            balance_classes=False,
        )

    def data(self, source: PixelSource, validation: int = 0) -> FoldData:
        """Take all images for training but the last ones."""
        rows = np.arange(len(self.pixels))
        train, rest = rows[: len(rows) - validation], rows[len(rows) - validation :]
        return FoldData(
            inputs=source,
            train_rows=train,
            train_classes=self.classes[train],
            validation_rows=rest,
            validation_classes=self.classes[rest],
            class_weights=np.ones(2),
        )


def main() -> None:
    """Measure, print a table and a line for each target, and record the numbers."""
    options = _options()
    if options.device == "cuda" and not torch.cuda.is_available():
        last_measured(options.record)
        return
    placement = choose_placement(options.device, options.precision, options.threads)
    facts: dict[str, object] = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if placement.device == "cuda" else "processor",
        "torch": torch.__version__,
        "precision": placement.precision,
        "size": options.size,
        "batch": options.batch,
        "images": options.images,
        "workers": options.workers,
    }
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    targets: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="learning-gpu-") as name:
        pixels, classes = _pictures(options.images, options.size, Path(name))
        numbers = (options.batch, options.workers, options.monai_images, options.rounds)
        setting = Setting(pixels, classes, placement, *numbers, Path(name))
        for backbone in options.backbones:
            facts[backbone] = _measure(setting, backbone, targets, with_compiler=not options.no_compile)
            torch.cuda.empty_cache()
    for one in targets:
        print("target {name} measured {measured} wanted >={wanted} {verdict}".format(**one))
    facts["targets"] = targets
    if options.record is not None:
        options.record.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        print(f"recorded in {options.record}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50"], choices=list(BACKBONES))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--precision", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--monai-images", type=int, default=4096, help="of which MONAI trains, as it is slower")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5, help="turns; the median counts")
    parser.add_argument("--workers", type=int, default=8, help="of MONAI's loader")
    parser.add_argument("--threads", type=int, default=2, help="of ours")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--record", type=Path, help="default: beside this script, for a GPU")
    options = parser.parse_args()
    if options.record is None and options.device == "cuda":
        options.record = RECORD
    return options


def _pictures(count: int, size: int, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Make noise with a bright disc in every other picture, as a memory map like that of the stage preprocess."""
    generator = np.random.default_rng(SEED)
    classes = np.arange(count) % 2
    pixels = generator.integers(40, 160, size=(count, size, size), dtype=np.uint8)
    axis = np.arange(size)
    for row in np.flatnonzero(classes):
        y, x = generator.integers(size // 4, 3 * size // 4, size=2)
        pixels[row] += (40 * ((axis[:, None] - y) ** 2 + (axis - x) ** 2 < (size / 10) ** 2)).astype(np.uint8)
    np.save(work / "pixels.npy", pixels)
    return np.load(work / "pixels.npy", mmap_mode="r"), classes


def _network(setting: Setting, backbone: str, source: PixelSource) -> torch.nn.Module:
    """Make a network whose normalisation has seen some images, as one from a source has."""
    network = build_network(backbone, RANDOM, seed=SEED)
    replace_head(network, 2, SEED)
    network.to(setting.placement.device, memory_format=torch.channels_last).train()
    with torch.no_grad():
        for first in range(0, min(4 * setting.batch, len(setting.pixels)), setting.batch):
            network(source.plain(np.arange(first, min(first + setting.batch, len(setting.pixels)))))
    return network.eval()


def _measure(setting: Setting, backbone: str, targets: list[dict[str, object]], *, with_compiler: bool) -> dict:
    """Measure all ways of training one network, in turns."""
    mapped = PixelSource(setting.pixels, IMAGENET_NORMALISATION, setting.placement, AUGMENTATION)
    resident = settle(mapped)
    network = _network(setting, backbone, resident)
    lack = missing_compiler(setting.placement.device) if with_compiler else "not asked for"
    if lack:
        print(f"not compiled: {lack}")
    ways: dict[str, Callable[[], int]] = {
        "ours": _ours(setting, backbone, network, resident, is_compiled=False),
        "ceiling": _ceiling(setting, backbone, network, is_compiled=False),
        "ours, read ahead": _ours(setting, backbone, network, mapped, is_compiled=False),
        "MONAI": _monai(setting, network),
    }
    first: dict[str, float] = {}
    if not lack:
        ways["ours, compiled"] = _ours(setting, backbone, network, resident, is_compiled=True)
        ways["ceiling, compiled"] = _ceiling(setting, backbone, network, is_compiled=True)
    found: dict[str, Measured] = defaultdict(Measured)
    for way, run in ways.items():  # what is made once, compilation among it, is counted apart
        began = time.perf_counter()
        run()
        _wait(setting)
        first[way] = time.perf_counter() - began
    for _ in range(setting.rounds):
        for way, run in ways.items():
            with observed(setting.placement.device, found[way]):
                began = time.perf_counter()
                count = run()
                _wait(setting)
                found[way].speeds.append(count / (time.perf_counter() - began))
    facts: dict[str, object] = {way: one.facts() for way, one in found.items()}
    table(backbone, facts)
    speed = {way: float(np.median(one.speeds)) for way, one in found.items()}
    target(targets, f"{backbone}_to_ceiling", speed["ours"] / speed["ceiling"], WANTED_OF_CEILING)
    target(targets, f"{backbone}_read_ahead_to_ceiling", speed["ours, read ahead"] / speed["ceiling"], 0.9)
    target(targets, f"{backbone}_to_monai", speed["ours"] / speed["MONAI"], 1.2)
    if not lack:
        ratio = speed["ours, compiled"] / speed["ceiling, compiled"]
        target(targets, f"{backbone}_compiled_to_ceiling", ratio, WANTED_OF_CEILING)
        facts["compiling"] = _gain(setting, first, speed)
        print(f"{backbone} compiling: {facts['compiling']}")
    facts["scores"] = _agreement(setting, backbone, network, targets)
    return facts


def _gain(setting: Setting, first: dict[str, float], speed: dict[str, float]) -> dict[str, float | None]:
    """Tell after how many steps compiling has paid."""
    seconds = first["ours, compiled"] - first["ours"]
    plain, fast = (setting.batch / speed[way] for way in ("ours", "ours, compiled"))
    return {
        "seconds_for_one_size": round(seconds, 1),
        "step_ms": round(1000 * plain, 2),
        "compiled_step_ms": round(1000 * fast, 2),
        "pays_after_steps": round(seconds / (plain - fast)) if plain > fast else None,
    }


def _task(backbone: str, *, is_compiled: bool) -> Task:
    plan = STRATEGIES["full"].plan(BACKBONES[backbone].blocks, epochs=1000)
    return Task(
        strategy="full",
        fold=0,
        seed=SEED,
        backbone=backbone,
        plan=plan,
        is_pretrained=True,
        is_compiled=is_compiled,
    )


def _ours(
    setting: Setting, backbone: str, start: torch.nn.Module, source: PixelSource, *, is_compiled: bool
) -> Callable[[], int]:
    """Give the steps of an epoch of the project's own loop."""
    data, task = setting.data(source), _task(backbone, is_compiled=is_compiled)
    run = finetuning._begin(copy.deepcopy(start), data, setting.recipe(), task)
    states = StateFolder(setting.work / "states", "benchmark", minutes=1e6)

    def epoch() -> int:
        finetuning._steps(run, data, setting.recipe(), task, states)
        run.epoch, run.step = run.epoch + 1, 0
        return len(data.train_rows)

    return epoch


def _ceiling(setting: Setting, backbone: str, start: torch.nn.Module, *, is_compiled: bool) -> Callable[[], int]:
    """Give the same steps on normalised tensors that lie on the device; nothing is read, changed or decided."""
    network, device = copy.deepcopy(start), setting.placement.device
    task = _task(backbone, is_compiled=is_compiled)
    finetuning.set_mode(network, backbone, task.open_blocks(1), keep_statistics=True)
    names = [name for name, _ in network.named_parameters()]
    optimiser, _ = adamw(network, names, setting.recipe(), task.plan, backbone, is_pretrained=True)
    shape = (setting.batch, 3, *setting.pixels.shape[1:])
    generator = torch.Generator(device).manual_seed(SEED)
    images = [
        torch.randn(shape, device=device, generator=generator).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    ]
    truth, weights = torch.arange(setting.batch, device=device) % 2, torch.ones(2, device=device)
    forward = compiled(network) if is_compiled else network
    steps = max(1, round(len(setting.pixels) / setting.batch))

    def epoch() -> int:
        for step in range(steps):
            for parameter in network.parameters():
                parameter.grad = None
            with setting.placement.autocast():
                logits = forward(images[step % 2])
            torch.nn.functional.cross_entropy(logits.float(), truth, weight=weights, label_smoothing=0.05).backward()
            optimiser.step()
        return steps * setting.batch

    return epoch


def _monai(setting: Setting, start: torch.nn.Module) -> Callable[[], int]:
    """Give an epoch as MONAI's classification tutorials write it, with the precision and optimiser of ours."""
    from monai import transforms as mt
    from monai.data import CacheDataset, DataLoader

    mean, deviation = IMAGENET_NORMALISATION.mean, IMAGENET_NORMALISATION.deviation
    change = mt.Compose(
        [
            mt.ScaleIntensityRange(0, 255, 0.0, 1.0),
            mt.RepeatChannel(3),
            mt.NormalizeIntensity(subtrahend=list(mean), divisor=list(deviation), channel_wise=True),
            mt.RandRotate(range_x=np.pi / 26, prob=0.5, keep_size=True),
            mt.RandZoom(prob=0.5, min_zoom=[0.9, 0.9], max_zoom=[1.1, 1.1]),
            mt.RandAdjustContrast(prob=0.5),
            mt.RandGaussianNoise(prob=0.5, std=0.02),
        ]
    )
    count = min(setting.monai_images, len(setting.pixels))
    pictures = CacheDataset(
        list(np.array(setting.pixels[:count, None])), change, num_workers=setting.workers or None, progress=False
    )
    more = {"num_workers": setting.workers, "persistent_workers": setting.workers > 0}
    more["pin_memory"] = setting.placement.device == "cuda"
    loader = DataLoader(_Labelled(pictures, setting.classes), batch_size=setting.batch, shuffle=True, **more)
    network, device = copy.deepcopy(start).eval(), setting.placement.device
    is_fused = device == "cuda"
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.01, fused=is_fused)

    def epoch() -> int:
        total = 0.0
        for images, truth in loader:
            plain = images.as_tensor() if hasattr(images, "as_tensor") else images
            inputs, labels = plain.to(device, non_blocking=True), truth.to(device, non_blocking=True)
            optimiser.zero_grad()
            with setting.placement.autocast():
                loss = torch.nn.functional.cross_entropy(network(inputs), labels)
            loss.backward()
            optimiser.step()
            total += loss.item()
        return count

    return epoch


class _Labelled(torch.utils.data.Dataset):
    """As in MONAI's classification tutorial: transformed pictures beside their labels."""

    def __init__(self, pictures: torch.utils.data.Dataset, labels: np.ndarray) -> None:
        self.pictures, self.labels = pictures, labels

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.pictures[index], int(self.labels[index])


def _agreement(setting: Setting, backbone: str, start: torch.nn.Module, targets: list[dict[str, object]]) -> dict:
    """Fine-tune whole, judged and saved as in a study, and score the result on the processor and on the GPU."""
    from sklearn.metrics import roc_auc_score

    held = max(2, min(256, len(setting.pixels) // 4))
    count = min(len(setting.pixels), 2048 + held)
    few = replace(setting, pixels=setting.pixels[:count], classes=setting.classes[:count])
    source = PixelSource(few.pixels, IMAGENET_NORMALISATION, few.placement, AUGMENTATION)
    data, network, epochs = few.data(settle(source), held), copy.deepcopy(start), 3
    states = StateFolder(few.work / f"{backbone}-states", "benchmark")
    began = time.perf_counter()
    fine_tune(network, data, few.recipe(epochs), _task(backbone, is_compiled=False), states)
    seconds = time.perf_counter() - began
    facts: dict[str, object] = {"whole_training_images_per_second": round(epochs * len(data.train_rows) / seconds, 1)}
    here = Placement("cpu", "float32", torch.get_num_threads())
    expected = predict_logits(copy.deepcopy(network).cpu(), replace(source, placement=here), data.validation_rows)
    areas = {"processor": roc_auc_score(data.validation_classes, expected[:, 1] - expected[:, 0])}
    spread = float(expected.std())
    for precision, most in MOST_APART.items():
        there = Placement(setting.placement.device, precision, setting.placement.threads)
        logits = predict_logits(network, replace(source, placement=there), data.validation_rows)
        apart = float(np.abs(logits - expected).max()) / spread
        areas[precision] = roc_auc_score(data.validation_classes, logits[:, 1] - logits[:, 0])
        target(targets, f"{backbone}_{precision}_logits_agree", 1 - apart, 1 - most)
        area_apart = abs(areas[precision] - areas["processor"])
        target(targets, f"{backbone}_{precision}_auroc_agrees", 1 - area_apart, 1 - MOST_AREA_APART)
    facts["auroc"] = {way: round(float(area), 4) for way, area in areas.items()}
    print(f"{backbone} whole training with judgement and states: {facts}")
    return facts


def _wait(setting: Setting) -> None:
    if setting.placement.device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
