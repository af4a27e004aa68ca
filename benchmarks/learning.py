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
from dataclasses import dataclass
from pathlib import Path

# For all ways: threads that wait by spinning would be counted as work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from monai import transforms as mt
from monai.data import CacheDataset, DataLoader
from monai.data import Dataset as MonaiDataset
from PIL import Image as Picture
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from torch.utils.data import DataLoader as TorchLoader

from pipeline.learning.augmentation import Augmentation
from pipeline.learning.backbones import BACKBONES, block_of, replace_head
from pipeline.learning.bank import BankInputs, BankOrder, features_of_blocks, fill_bank
from pipeline.learning.batches import Inputs, PixelSource
from pipeline.learning.blocks import upper
from pipeline.learning.checkpoints import StateFolder
from pipeline.learning.devices import choose_placement
from pipeline.learning.finetuning import FoldData, Task, fine_tune
from pipeline.learning.inference import predict_logits
from pipeline.learning.probe import install_head
from pipeline.learning.recipes import Recipe
from pipeline.learning.sources import Normalisation
from pipeline.learning.strategies import STRATEGIES
from pipeline.learning.sweep import ProbeData, choose_probe, probe_at, probe_logits
from pipeline.learning.weight_files import file_digest
from pipeline.learning.weights import RANDOM, VerifiedWeights, WeightsChoice, build_network, verify
from pipeline.phantom.cohort import Order, write_cohort

TEST_WEIGHTS = Path.home() / ".cache/imaging-transfer-test-data/imagenet_resnet18/resnet18_imagenet_expanded_f32.pth"
AUGMENTATION = Augmentation(
    rotation_degrees=7, translation=0.05, scale=0.1, flip=False, contrast=0.2, brightness=0.1, noise=0.02
)
SEED = 1
WANTED = {"probe": 50.0, "last_block": 3.0}
MOST_WORSE = 0.01
BACKBONE = "resnet18"


@dataclass(frozen=True)
class Fold:
    """Positions of pictures."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Setting:
    """What all ways share: files, classes, folds, the network as it starts, and the numbers of the recipe."""

    paths: list[Path]
    classes: np.ndarray
    folds: list[Fold]
    network: torch.nn.Module
    weights: VerifiedWeights
    size: int
    batch: int
    rate: float
    views: int
    work: Path

    def start(self) -> torch.nn.Module:
        """Give a fresh copy of the network with its new head."""
        network = copy.deepcopy(self.network)
        replace_head(network, 2, SEED)
        return network

    @property
    def normalisation(self) -> Normalisation:
        """Mean and deviation of the source."""
        return self.weights.normalisation


def main() -> None:
    """Print a table of processor time and AUROC, then one line for each target."""
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="learning-benchmark-") as name:
        setting = _setting(options, Path(name))
        seconds: dict[str, float] = defaultdict(float)
        areas: dict[str, list[float]] = defaultdict(list)
        print(f"{len(setting.paths)} pictures, {len(setting.folds)} folds, {options.size} pixels, {BACKBONE}")
        if "probe" not in options.skip:
            _frozen(setting, "probe", options.probe_epochs, seconds, areas)
        if "last_block" not in options.skip:
            _frozen(setting, "last_block", options.block_epochs, seconds, areas)
        if "full" not in options.skip:
            _full(setting, options.full_epochs, options.rounds, seconds)
    print(f"\n{'way':<30} {'processor s':>12} {'AUROC':>7}")
    for way, cost in seconds.items():
        print(f"{way:<30} {cost:>12.2f} {np.mean(areas[way]) if way in areas else float('nan'):>7.3f}")
    _targets(seconds, areas)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with dicom/ and labels.csv (default: phantoms)")
    parser.add_argument("--positive", default="lesion", help="the label of the positive class")
    parser.add_argument("--weights", type=Path, default=TEST_WEIGHTS if TEST_WEIGHTS.is_file() else None)
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
    parser.add_argument("--skip", nargs="*", default=[], choices=["probe", "last_block", "full"])
    return parser.parse_args()


def _setting(options: argparse.Namespace, work: Path) -> Setting:
    folder = options.data
    if folder is None:
        folder = work / "phantoms"
        write_cohort(Order("radiograph", options.patients, 0.4, options.source_size, 7), folder)
    paths, classes, groups = _as_png(folder, options.positive, work / "png")
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


def _area(classes: np.ndarray, logits: np.ndarray) -> float:
    return float(roc_auc_score(classes, logits[:, 1] - logits[:, 0]))


def _decoded(setting: Setting) -> np.ndarray:
    """Decode and resize every file once, as the stage preprocess does."""
    shape = (setting.size, setting.size)
    return np.stack([np.asarray(Picture.open(path).resize(shape, Picture.Resampling.BOX)) for path in setting.paths])


def _source(setting: Setting, pixels: np.ndarray) -> PixelSource:
    placement = choose_placement("cpu", "float32", torch.get_num_threads())
    return PixelSource(pixels, setting.normalisation, placement, AUGMENTATION)


def _frozen(setting: Setting, strategy: str, epochs: int, seconds: dict, areas: dict) -> None:
    """Compare a strategy with frozen blocks, fold by fold in turns; our bank is filled before the first."""
    trained = STRATEGIES[strategy].trained_blocks(BACKBONES[BACKBONE].blocks) | {"head"}
    ours = f"{strategy}, ours"
    with _counted(seconds, ours):
        source = _source(setting, _decoded(setting))
        boundary = "layer4" if strategy == "last_block" else None
        order = BankOrder(
            network=copy.deepcopy(setting.network),
            backbone=BACKBONE,
            source=source,
            weights=setting.weights,
            pixels_sha256="",
            boundary=boundary,
            views=setting.views,
            seed=SEED,
            code="",
        )
        manifest = fill_bank(order, setting.work / strategy)
        features = features_of_blocks(manifest)
    for number, fold in enumerate(setting.folds):
        with _counted(seconds, ours):
            if strategy == "probe":
                logits = probe_logits(features, choose_probe(features, _probe_data(setting, fold)), fold.test)
            else:
                inputs = BankInputs(manifest, source.placement)
                logits = _ours_last_block(setting, fold, number, features, inputs, epochs)
        areas[ours].append(_area(setting.classes[fold.test], logits))
        for way, loaders in (("plain torch loop", _plain_loaders), ("MONAI Dataset", _monai_loaders)):
            name = f"{strategy}, {way}"
            with _counted(seconds, name):
                logits = _peer(setting, fold, loaders, trained, epochs)
            areas[name].append(_area(setting.classes[fold.test], logits))


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


class _PlainDataset(torch.utils.data.Dataset):
    """What PyTorch's tutorials write: open, resize, to a tensor, normalise, change at random."""

    def __init__(self, setting: Setting, rows: np.ndarray, *, is_train: bool) -> None:
        self.setting, self.rows, self.is_train = setting, rows, is_train
        self.mean = torch.tensor(setting.normalisation.mean).view(3, 1, 1)
        self.deviation = torch.tensor(setting.normalisation.deviation).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        row, size = self.rows[index], self.setting.size
        picture = Picture.open(self.setting.paths[row]).convert("RGB").resize((size, size), Picture.Resampling.BOX)
        if self.is_train:
            angle = float(torch.empty(()).uniform_(-7, 7))
            picture = picture.rotate(angle, resample=Picture.Resampling.BILINEAR)
        values = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        return (values - self.mean) / self.deviation, int(self.setting.classes[row])


def _plain_loaders(setting: Setting, rows: np.ndarray, *, is_train: bool) -> TorchLoader:
    dataset = _PlainDataset(setting, rows, is_train=is_train)
    return TorchLoader(dataset, batch_size=setting.batch, shuffle=is_train)


class _Labelled(torch.utils.data.Dataset):
    """As in MONAI's classification tutorial: transformed pictures beside their labels."""

    def __init__(self, pictures: torch.utils.data.Dataset, labels: np.ndarray) -> None:
        self.pictures, self.labels = pictures, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.pictures[index], int(self.labels[index])


def _monai_transforms(setting: Setting, *, is_train: bool) -> mt.Compose:
    mean, deviation = setting.normalisation.mean, setting.normalisation.deviation
    changes = [
        mt.RandRotate(range_x=np.pi / 26, prob=0.5, keep_size=True),
        mt.RandZoom(prob=0.5, min_zoom=0.9, max_zoom=1.1),
    ]
    return mt.Compose(
        [
            mt.LoadImage(image_only=True, ensure_channel_first=True),
            mt.Resize((setting.size, setting.size)),
            mt.ScaleIntensityRange(0, 255, 0.0, 1.0),
            mt.RepeatChannel(3),
            mt.NormalizeIntensity(subtrahend=list(mean), divisor=list(deviation), channel_wise=True),
            *(changes if is_train else []),
        ]
    )


def _monai_loaders(setting: Setting, rows: np.ndarray, *, is_train: bool, is_cached: bool = False) -> TorchLoader:
    files = [str(setting.paths[row]) for row in rows]
    kind = CacheDataset if is_cached else MonaiDataset
    more = {"progress": False} if is_cached else {}
    pictures = kind(files, _monai_transforms(setting, is_train=is_train), **more)
    return DataLoader(_Labelled(pictures, setting.classes[rows]), batch_size=setting.batch, shuffle=is_train)


def _cached_loaders(setting: Setting, rows: np.ndarray, *, is_train: bool) -> TorchLoader:
    return _monai_loaders(setting, rows, is_train=is_train, is_cached=True)


def _peer(setting: Setting, fold: Fold, loaders: Callable, trained: frozenset[str], epochs: int) -> np.ndarray:
    """Train as tutorials do: every epoch all pictures through the whole network, the best epoch kept."""
    torch.manual_seed(SEED)
    network = setting.start().eval()  # batch normalisation keeps the source's statistics, as ours does
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(block_of(name, BACKBONE) in trained)
    train, validation = (
        loaders(setting, rows, is_train=is_train) for rows, is_train in ((fold.train, True), (fold.validation, False))
    )
    rate = 1e-3 if trained == {"head"} else setting.rate
    parameters = [value for value in network.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    best, kept = -1.0, copy.deepcopy(network.state_dict())
    for _ in range(epochs):
        for images, truth in train:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(_plain(images)), truth).backward()
            optimiser.step()
        area = _area(setting.classes[fold.validation], _predicted(network, validation))
        if area > best:
            best, kept = area, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    return _predicted(network, loaders(setting, fold.test, is_train=False))


def _plain(images: torch.Tensor) -> torch.Tensor:
    return images.as_tensor() if hasattr(images, "as_tensor") else images


def _predicted(network: torch.nn.Module, loader: TorchLoader) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([network(_plain(images)).numpy() for images, _ in loader])


def _full(setting: Setting, epochs: int, rounds: int, seconds: dict) -> None:
    """Fine-tune all layers of the first fold: ours, the same steps on tensors in memory, MONAI's two data sets."""
    fold = setting.folds[0]
    everything = frozenset(BACKBONES[BACKBONE].blocks)
    source = _source(setting, _decoded(setting))
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: _tune(setting, setting.start(), fold, 0, source, "full", epochs),
        "tensors in memory": lambda: _in_memory(setting, source, fold, epochs),
        "MONAI CacheDataset": lambda: _peer(setting, fold, _cached_loaders, everything, epochs),
        "MONAI Dataset": lambda: _peer(setting, fold, _monai_loaders, everything, epochs),
    }
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for way, run in ways.items():
            cost: dict[str, float] = defaultdict(float)
            with _counted(cost, way):
                run()
            found[way].append(cost[way])
    for way, costs in found.items():
        seconds[f"full, {way}"] = float(np.median(costs))


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
                torch.nn.functional.cross_entropy(network(images[rows]), truth[rows]).backward()
                optimiser.step()
        with torch.inference_mode():
            area = _area(setting.classes[fold.validation], network(images[fold.validation]).numpy())
        if area > best:
            best, _ = area, copy.deepcopy(network.state_dict())


def _targets(seconds: dict[str, float], areas: dict[str, list[float]]) -> None:
    """Hold ours against the cheaper of the peers."""
    print()
    for strategy, wanted in WANTED.items():
        peers = [way for way in seconds if way.startswith(f"{strategy},") and not way.endswith("ours")]
        if peers:
            cheapest = min(peers, key=seconds.__getitem__)
            _target(f"{strategy}_processor_time", seconds[cheapest] / seconds[f"{strategy}, ours"], wanted)
            difference = np.mean(areas[f"{strategy}, ours"]) - max(np.mean(areas[way]) for way in peers)
            _target(f"{strategy}_auroc_minus_best_peer", float(difference), -MOST_WORSE)
    if "full, ours" in seconds:
        ours = seconds["full, ours"]
        _target("full_to_tensors_in_memory", seconds["full, tensors in memory"] / ours, 0.95)
        _target("full_to_monai_cached", seconds["full, MONAI CacheDataset"] / ours, 1.2)
        _target("full_to_monai", seconds["full, MONAI Dataset"] / ours, 1.2)


def _target(name: str, measured: float, wanted: float) -> None:
    print(f"target {name} measured {measured:.3f} wanted >={wanted} {'ok' if measured >= wanted else 'short'}")


if __name__ == "__main__":
    main()
