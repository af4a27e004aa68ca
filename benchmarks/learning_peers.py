"""The loops that tutorials write, for `learning.py`: a plain PyTorch loop, and MONAI's data sets with a loader.

They decode, transform and run each picture in every epoch and fold, whatever is frozen.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai import transforms as mt
from monai.data import CacheDataset, DataLoader
from monai.data import Dataset as MonaiDataset
from PIL import Image as Picture
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader as TorchLoader

from pipeline.learning.networks.backbones import block_of, replace_head
from pipeline.learning.weights.loading import VerifiedWeights
from pipeline.learning.weights.sources import Normalisation

BACKBONE = "resnet18"
SEED = 1


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


def area(classes: np.ndarray, logits: np.ndarray) -> float:
    """Area under the ROC curve of two-class logits."""
    return float(roc_auc_score(classes, logits[:, 1] - logits[:, 0]))


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


def plain_loaders(setting: Setting, rows: np.ndarray, *, is_train: bool) -> TorchLoader:
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
            mt.LoadImage(reader="PILReader", image_only=True, ensure_channel_first=True),
            mt.Resize((setting.size, setting.size)),
            mt.ScaleIntensityRange(0, 255, 0.0, 1.0),
            mt.RepeatChannel(3),
            mt.NormalizeIntensity(subtrahend=list(mean), divisor=list(deviation), channel_wise=True),
            *(changes if is_train else []),
        ]
    )


def monai_loaders(setting: Setting, rows: np.ndarray, *, is_train: bool, is_cached: bool = False) -> TorchLoader:
    files = [str(setting.paths[row]) for row in rows]
    kind = CacheDataset if is_cached else MonaiDataset
    more = {"progress": False} if is_cached else {}
    pictures = kind(files, _monai_transforms(setting, is_train=is_train), **more)
    return DataLoader(_Labelled(pictures, setting.classes[rows]), batch_size=setting.batch, shuffle=is_train)


def cached_loaders(setting: Setting, rows: np.ndarray, *, is_train: bool) -> TorchLoader:
    return monai_loaders(setting, rows, is_train=is_train, is_cached=True)


def train_peer(setting: Setting, fold: Fold, loaders: Callable, trained: frozenset[str], epochs: int) -> np.ndarray:
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
        found = area(setting.classes[fold.validation], _predicted(network, validation))
        if found > best:
            best, kept = found, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    return _predicted(network, loaders(setting, fold.test, is_train=False))


def _plain(images: torch.Tensor) -> torch.Tensor:
    return images.as_tensor() if hasattr(images, "as_tensor") else images


def _predicted(network: torch.nn.Module, loader: TorchLoader) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([network(_plain(images)).numpy() for images, _ in loader])
