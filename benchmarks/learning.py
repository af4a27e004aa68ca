"""Fine-tuning against the loops that tutorials write: processor time at equal AUROC, in one run, in turns.

``python benchmarks/learning.py [--data DIR] [--weights FILE] [--patients 100] [--size 64] ...`` compares, on the same
net, pictures, folds and epochs: ours (the bank, and the loop of this project), a plain PyTorch loop, and MONAI's
``Dataset`` or ``CacheDataset`` with ``DataLoader``. All begin with PNG files; ours decodes each once. Peers freeze the
same blocks, and decode, transform and run each picture in every epoch and fold, as their tutorials do. Without
``--data`` (a folder with ``dicom`` and ``labels.csv``) the pictures are phantom radiographs; without ``--weights`` (or
the test data's file) the weights are random, which changes AUROC and no time.
"""

import argparse
import copy
import csv
import os
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# For all ways: threads that wait by spinning would be counted as work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from learning_peers import (
    BACKBONE,
    SEED,
    Fold,
    Setting,
    area,
    cached_loaders,
    monai_loaders,
    plain_loaders,
    train_peer,
)
from PIL import Image as Picture
from sklearn.model_selection import StratifiedGroupKFold

from pipeline.learning.bank.filling import BankInputs, BankOrder, features_of_blocks, fill_bank
from pipeline.learning.inference import predict_logits
from pipeline.learning.inputs.augmentation import Augmentation
from pipeline.learning.inputs.batches import Inputs, PixelSource
from pipeline.learning.inputs.devices import Placement, choose_placement
from pipeline.learning.loop.checkpoints import StateFolder
from pipeline.learning.loop.finetuning import FoldData, Task, fine_tune
from pipeline.learning.networks.backbones import BACKBONES
from pipeline.learning.networks.blocks import upper
from pipeline.learning.probing.probe import install_head
from pipeline.learning.probing.sweep import ProbeData, choose_probe, probe_at, probe_logits
from pipeline.learning.recipes import Recipe
from pipeline.learning.strategies import STRATEGIES
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.loading import RANDOM, WeightsChoice, build_network, verify
from pipeline.phantom.cohort import Order, write_cohort

TEST_WEIGHTS = Path.home() / ".cache/imaging-transfer-test-data/imagenet_resnet18/resnet18_imagenet_expanded_f32.pth"
AUGMENTATION = Augmentation(
    rotation_degrees=7, translation=0.05, scale=0.1, flip=False, contrast=0.2, brightness=0.1, noise=0.02
)
WANTED = {"probe": 50.0, "last_block": 3.0}
MOST_WORSE = 0.01


def main() -> None:
    """Print a table of processor time and AUROC, then one line for each target."""
    options = _options()
    torch.set_num_threads(options.threads)
    usual = choose_placement("cpu", "auto", options.threads)
    # What the pipeline chooses by itself, and beside it the precision of the peers.
    placements = list(dict.fromkeys([usual, usual._replace(precision="float32")]))
    seconds: dict[str, float] = defaultdict(float)
    areas: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="learning-benchmark-") as name:
        setting = _setting(options, Path(name))
        print(f"{len(setting.paths)} pictures, {len(setting.folds)} folds, {options.size} pixels, {BACKBONE}")
        print(f"{options.threads} threads; by itself the pipeline takes {usual.precision} here")
        for strategy, epochs in (("probe", options.probe_epochs), ("last_block", options.block_epochs)):
            if strategy not in options.skip:
                _frozen(setting, strategy, epochs, placements, seconds, areas)
        if "full" not in options.skip:
            _full(setting, options.full_epochs, options.rounds, placements, seconds)
    print(f"\n{'way':<38} {'processor s':>12} {'AUROC':>7}")
    for way, cost in seconds.items():
        print(f"{way:<38} {cost:>12.2f} {f'{np.mean(areas[way]):.3f}' if way in areas else '-':>7}")
    targets = _targets(seconds, areas, placements)
    for target, measured, wanted in targets:
        print(f"target {target} measured {measured:.3f} wanted >={wanted} {'ok' if measured >= wanted else 'short'}")
    if options.figure:
        _draw(seconds, areas, options.figure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with dicom/ and labels.csv (default: phantoms)")
    parser.add_argument("--positive", default="lesion", help="the label of the positive class")
    parser.add_argument("--weights", type=Path, default=TEST_WEIGHTS if TEST_WEIGHTS.is_file() else None)
    parser.add_argument("--pictures", type=int, default=0, help="take so many of the folder, drawn by chance; 0: all")
    parser.add_argument("--patients", type=int, default=80)
    parser.add_argument("--source-size", type=int, default=512, help="of the phantom files")
    parser.add_argument("--size", type=int, default=64, help="of what the network sees")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--views", type=int, default=4, help="augmented versions in the bank")
    parser.add_argument("--probe-epochs", type=int, default=20, help="of the peers; ours needs none")
    parser.add_argument("--block-epochs", type=int, default=6)
    parser.add_argument("--full-epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="turns of the full fine-tuning; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--figure", type=Path, help="where to draw the table (PNG)")
    parser.add_argument("--skip", nargs="*", default=[], choices=["probe", "last_block", "full"])
    return parser.parse_args()


def _setting(options: argparse.Namespace, work: Path) -> Setting:
    folder = options.data
    if folder is None:
        folder = work / "phantoms"
        write_cohort(Order("radiograph", options.patients, 0.4, options.source_size, 7), folder)
    paths, classes, groups = _as_png(folder, options.positive, work / "png")
    if options.pictures:
        chosen = np.sort(np.random.default_rng(SEED).permutation(len(paths))[: options.pictures])
        paths, classes, groups = [paths[index] for index in chosen], classes[chosen], groups[chosen]
    weights = RANDOM
    if options.weights:
        digest = file_digest(options.weights)
        weights = verify(WeightsChoice(source="file", backbone=BACKBONE, file=options.weights, sha256=digest))
    print(f"weights: {options.weights.name if options.weights else 'random'}")
    folds = []
    for rest, test in StratifiedGroupKFold(5, shuffle=True, random_state=SEED).split(classes, classes, groups):
        inner = StratifiedGroupKFold(5, shuffle=True, random_state=SEED).split(rest, classes[rest], groups[rest])
        train, validation = next(iter(inner))
        folds.append(Fold(rest[train], rest[validation], test))
    network = build_network(BACKBONE, weights, seed=SEED)
    numbers = (options.size, options.batch, options.rate, options.views)
    return Setting(paths, classes, folds, network, weights, *numbers, work)


def _as_png(folder: Path, positive: str, out: Path) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """Write what can be read and has a label as PNG of 8 bits; this is nobody's time."""
    import pydicom

    out.mkdir(parents=True)
    with (folder / "labels.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    key = next(name for name in ("SOPInstanceUID", "StudyInstanceUID") if name in rows[0])
    labels = {row[key]: row["label"] == positive for row in rows}
    paths, classes, groups, seen = [], [], [], set()
    for path in sorted((folder / "dicom").rglob("*")):
        with suppress(Exception):  # the phantoms hold broken files on purpose
            data = pydicom.dcmread(path)
            if data.Modality not in ("CR", "DX") or data[key].value not in labels or data[key].value in seen:
                continue
            values = data.pixel_array.astype(np.float32)
            low, high = np.percentile(values, [0.5, 99.5])
            grey = np.clip((values - low) / max(high - low, 1), 0, 1)
            grey = 1 - grey if data.PhotometricInterpretation == "MONOCHROME1" else grey
            target = out / f"{len(paths):06d}.png"
            Picture.fromarray((grey * 255).astype(np.uint8), mode="L").save(target)
            seen.add(data[key].value)
            paths.append(target)
            classes.append(int(labels[data[key].value]))
            groups.append(str(data.PatientID))
    return paths, np.array(classes), np.array(groups)


@contextmanager
def _counted(seconds: dict[str, float], way: str) -> Iterator[None]:
    """Add the processor time of the block, children included."""
    before = _processor_seconds()
    yield
    seconds[way] += _processor_seconds() - before


def _processor_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _decoded(setting: Setting) -> np.ndarray:
    """Decode and resize every file once, as the stage preprocess does."""
    shape = (setting.size, setting.size)
    return np.stack([np.asarray(Picture.open(path).resize(shape, Picture.Resampling.BOX)) for path in setting.paths])


def _source(setting: Setting, pixels: np.ndarray, placement: Placement) -> PixelSource:
    return PixelSource(pixels, setting.normalisation, placement, AUGMENTATION)


def _frozen(
    setting: Setting, strategy: str, epochs: int, placements: list[Placement], seconds: dict, areas: dict
) -> None:
    """Compare a strategy with frozen blocks, fold by fold in turns; our bank is filled before the first."""
    trained = STRATEGIES[strategy].trained_blocks(BACKBONES[BACKBONE].blocks) | {"head"}
    banks = {}
    for placement in placements:
        with _counted(seconds, _ours(strategy, placement)):
            banks[placement] = _bank(setting, strategy, placement)
    for number, fold in enumerate(setting.folds):
        for placement in placements:
            way = _ours(strategy, placement)
            with _counted(seconds, way):
                features, inputs = banks[placement]
                if inputs is None:
                    logits = probe_logits(features, choose_probe(features, _probe_data(setting, fold)), fold.test)
                else:
                    logits = _ours_last_block(setting, fold, number, features, inputs, epochs)
            areas[way].append(area(setting.classes[fold.test], logits))
        for peer, loaders in (("plain torch loop", plain_loaders), ("MONAI Dataset", monai_loaders)):
            way = f"{strategy}, {peer}"
            with _counted(seconds, way):
                logits = train_peer(setting, fold, loaders, trained, epochs)
            areas[way].append(area(setting.classes[fold.test], logits))


def _ours(strategy: str, placement: Placement) -> str:
    return f"{strategy}, ours, {placement.precision}"


def _bank(setting: Setting, strategy: str, placement: Placement) -> tuple[dict[str, np.ndarray], BankInputs | None]:
    """Decode, fill the bank and open it; the probe needs features, the last block maps as well."""
    boundary = "layer4" if strategy == "last_block" else None
    order = BankOrder(
        network=copy.deepcopy(setting.network),
        backbone=BACKBONE,
        source=_source(setting, _decoded(setting), placement),
        weights=setting.weights,
        pixels_sha256="",
        boundary=boundary,
        views=setting.views if boundary else 0,
        seed=SEED,
        code="",
    )
    manifest = fill_bank(order, setting.work / f"{strategy}-{placement.precision}")
    return features_of_blocks(manifest), BankInputs(manifest, placement) if boundary else None


def _probe_data(setting: Setting, fold: Fold) -> ProbeData:
    classes = setting.classes
    return ProbeData(fold.train, classes[fold.train], fold.validation, classes[fold.validation], np.ones(2))


def _recipe(setting: Setting, epochs: int) -> Recipe:
    return Recipe(
        epochs=epochs,
        patience=epochs,
        batch_size=setting.batch,
        learning_rate=setting.rate,
        weight_decay=0.01,
        warmup_fraction=0.1,
        label_smoothing=0.0,
        balance_classes=False,
    )


def _ours_last_block(
    setting: Setting, fold: Fold, number: int, features: dict[str, np.ndarray], inputs: BankInputs, epochs: int
) -> np.ndarray:
    whole = setting.start()
    install_head(whole, probe_at(features, ("layer4",), _probe_data(setting, fold)).head)
    network = upper(whole, BACKBONE, "layer4")
    _tune(setting, network, fold, number, inputs, "last_block", epochs)
    return predict_logits(network, inputs, fold.test)


def _tune(
    setting: Setting, network: torch.nn.Module, fold: Fold, number: int, inputs: Inputs, strategy: str, epochs: int
) -> None:
    recipe = _recipe(setting, epochs)
    plan = STRATEGIES[strategy].plan(BACKBONES[BACKBONE].blocks, epochs=epochs)
    task = Task(strategy=strategy, fold=number, seed=SEED, backbone=BACKBONE, plan=plan, is_pretrained=True)
    data = FoldData(
        inputs=inputs,
        train_rows=fold.train,
        train_classes=setting.classes[fold.train],
        validation_rows=fold.validation,
        validation_classes=setting.classes[fold.validation],
        class_weights=np.ones(2),
    )
    with tempfile.TemporaryDirectory(dir=setting.work) as states:
        fine_tune(network, data, recipe, task, StateFolder(Path(states), "benchmark"))


def _full(setting: Setting, epochs: int, rounds: int, placements: list[Placement], seconds: dict) -> None:
    """Fine-tune all layers of the first fold: ours, the same steps on tensors in memory, MONAI's two data sets."""
    fold = setting.folds[0]
    everything = frozenset(BACKBONES[BACKBONE].blocks)
    pixels = _decoded(setting)
    ways: dict[str, Callable[[], object]] = {}
    for placement in placements:
        source = _source(setting, pixels, placement)
        ways[_ours("full", placement)] = lambda source=source: _tune(
            setting, setting.start(), fold, 0, source, "full", epochs
        )
        ways[f"full, tensors in memory, {placement.precision}"] = lambda source=source: _in_memory(
            setting, source, fold, epochs
        )
    for peer, loaders in (("MONAI CacheDataset", cached_loaders), ("MONAI Dataset", monai_loaders)):
        ways[f"full, {peer}"] = lambda loaders=loaders: train_peer(setting, fold, loaders, everything, epochs)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for way, run in ways.items():
            cost: dict[str, float] = defaultdict(float)
            with _counted(cost, way):
                run()
            found[way].append(cost[way])
    for way, costs in found.items():
        seconds[way] = float(np.median(costs))


def _in_memory(setting: Setting, source: PixelSource, fold: Fold, epochs: int) -> None:
    """Take the same steps on tensors that are normalised and in memory, without augmentation."""
    network = setting.start().to(memory_format=torch.channels_last).eval()
    images, truth = source.plain(np.arange(len(setting.paths))), torch.from_numpy(setting.classes)
    optimiser = torch.optim.AdamW(network.parameters(), lr=setting.rate, weight_decay=0.01)
    generator = np.random.default_rng(SEED)
    best = -1.0
    for epoch in range(epochs + 1):  # ours judges the network before the first epoch, too
        if epoch:
            order = generator.permutation(fold.train)
            for rows in np.array_split(order, round(len(order) / setting.batch)):
                optimiser.zero_grad(set_to_none=True)
                with source.placement.autocast():
                    logits = network(images[rows])
                torch.nn.functional.cross_entropy(logits.float(), truth[rows]).backward()
                optimiser.step()
        with torch.inference_mode(), source.placement.autocast():
            found = area(setting.classes[fold.validation], network(images[fold.validation]).float().numpy())
        if found > best:
            best, _ = found, copy.deepcopy(network.state_dict())


def _targets(
    seconds: dict[str, float], areas: dict[str, list[float]], placements: list[Placement]
) -> list[tuple[str, float, float]]:
    """Hold ours against the cheaper of the peers: name, what was measured, what is wanted."""
    found: list[tuple[str, float, float]] = []
    for placement in placements:
        for strategy, wanted in WANTED.items():
            ours = _ours(strategy, placement)
            peers = [way for way in seconds if way.startswith(f"{strategy},") and " ours" not in way]
            if peers:
                cheapest = min(seconds[way] for way in peers)
                found.append((f"{strategy}_processor_time_{placement.precision}", cheapest / seconds[ours], wanted))
                difference = np.mean(areas[ours]) - max(np.mean(areas[way]) for way in peers)
                name = f"{strategy}_auroc_minus_best_peer_{placement.precision}"
                found.append((name, float(difference), -MOST_WORSE))
        ours = _ours("full", placement)
        if ours in seconds:
            others = {
                "tensors_in_memory": (f"full, tensors in memory, {placement.precision}", 0.95),
                "monai_cached": ("full, MONAI CacheDataset", 1.2),
                "monai": ("full, MONAI Dataset", 1.2),
            }
            for name, (way, wanted) in others.items():
                found.append((f"full_to_{name}_{placement.precision}", seconds[way] / seconds[ours], wanted))
    return found


def _draw(seconds: dict[str, float], areas: dict[str, list[float]], path: Path) -> None:
    """Draw the processor time of each way, with its AUROC."""
    import matplotlib.pyplot as plt

    strategies = [name for name in ("probe", "last_block", "full") if any(way.startswith(name) for way in seconds)]
    figure, panels = plt.subplots(1, len(strategies), figsize=(12, 2.6), layout="constrained", squeeze=False)
    for panel, strategy in zip(panels[0], strategies, strict=True):
        ways = [way for way in seconds if way.startswith(f"{strategy},")][::-1]
        names = [way.split(", ", maxsplit=1)[1] for way in ways]
        colours = ["#1b6ca8" if name.startswith("ours") else "#9aa5b1" for name in names]
        bars = panel.barh(names, [seconds[way] for way in ways], color=colours)
        texts = [
            f"{seconds[way]:.3g} s" + (f", AUROC {np.mean(areas[way]):.2f}" if way in areas else "") for way in ways
        ]
        panel.bar_label(bars, texts, padding=3, fontsize=8)
        panel.set(title=strategy, xlabel="processor time, s", xlim=(0, 1.75 * max(seconds[way] for way in ways)))
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
