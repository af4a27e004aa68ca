"""Frozen features on real images: random networks, Gabor energies, the embedded source, ImageNet; with their spread."""

import csv
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import irfft2, rfft2
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.core.seeding import derive_seed
from pipeline.learning.inputs.batches import PixelSource, plain_batches
from pipeline.learning.inputs.devices import Placement
from pipeline.learning.networks.backbones import BACKBONES
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.loading import VerifiedWeights, WeightsChoice, build_network, verify
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION, Normalisation

PENALTIES = tuple(10.0**exponent for exponent in (-4, -3, -2, -1, 0))
NETWORKS = 5
FOLD_SEEDS = 3
SHOTS, DRAWS = 10, 10
_SCALES, _DIRECTIONS, _CELLS = 4, 8, 4


@dataclass(frozen=True)
class Real:
    """Real pictures (images, size, size) with class indices and groups that stay together."""

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]
    groups: NDArray[np.int64]

    @property
    def sha256(self) -> str:
        """Digest of everything."""
        digest = hashlib.sha256(str(self.pixels.shape).encode())
        for part in (self.pixels, self.classes, self.groups):
            digest.update(np.ascontiguousarray(part))
        return digest.hexdigest()


@dataclass(frozen=True)
class Kind:
    """Frozen features of one kind.

    Attributes
    ----------
    name, group
        Of the row on record, and of that in the table: several networks of a group are one row there.
    sha256
        Digest of its weights; empty if it has none, or if they follow from the name.
    features
        Takes pixels and placement and gives one or two arrays of shape (images, features).
    """

    name: str
    group: str
    sha256: str
    features: Callable[[NDArray[np.uint8], Placement], Sequence[NDArray[np.float64]]]


def radiographs(folder: Path, size: int) -> Real:
    """Read the radiographs of docs/real-data.md: DICOM files and `labels.csv`."""
    with (folder / "labels.csv").open(encoding="utf-8") as stream:
        rows = {row["SOPInstanceUID"]: row for row in csv.DictReader(stream)}
    pictures, labels, patients = [], [], []
    for path in sorted(one for one in (folder / "dicom").rglob("*") if one.is_file()):
        data = pydicom.dcmread(path)
        row = rows[data.SOPInstanceUID]
        pictures.append(_squared(Image.fromarray(data.pixel_array.astype(np.float32)), size))
        labels.append(row["label"] == "pneumonia")
        patients.append(row["PatientID"])
    _, groups = np.unique(patients, return_inverse=True)
    return Real(np.stack(pictures), np.array(labels, np.int64), groups.astype(np.int64))


def mednist(folder: Path, size: int) -> Real:
    """Read MedNIST: a folder of JPEG files for each class."""
    names = sorted(one.name for one in folder.iterdir() if one.is_dir())
    pictures, labels = [], []
    for place, name in enumerate(names):
        for path in sorted((folder / name).glob("*.jpeg")):
            pictures.append(_squared(Image.open(path).convert("F"), size))
            labels.append(place)
    return Real(np.stack(pictures), np.array(labels, np.int64), np.arange(len(labels)))


def _squared(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    values = np.array(picture.resize((size, size), Image.Resampling.BILINEAR), np.float32)
    low, high = np.percentile(values, (0.5, 99.5))
    return np.asarray(np.clip((values - low) / max(high - low, 1e-6) * 255, 0, 255), np.uint8)


# --- features


def maps_of(
    network: torch.nn.Module, pixels: NDArray[np.uint8], normalisation: Normalisation, placement: Placement
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pooled features after the fourth and after the third block, each (images, features)."""
    caught: dict[str, torch.Tensor] = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: caught.update({name: out}))
        for name in ("layer3", "layer4")
    ]
    source = PixelSource(pixels, normalisation, placement)
    found: dict[str, list[NDArray[np.float64]]] = {"layer3": [], "layer4": []}
    network.eval()
    with torch.inference_mode():
        for rows in plain_batches(np.arange(len(pixels)), 32):
            with placement.autocast():
                network(source.plain(rows))
            for name, value in caught.items():
                found[name].append(value.float().mean(dim=(2, 3)).double().numpy())
    for hook in hooks:
        hook.remove()
    return np.concatenate(found["layer4"]), np.concatenate(found["layer3"])


def re_estimate(network: torch.nn.Module, pixels: NDArray[np.uint8], placement: Placement) -> None:
    """Let batch normalisation take its statistics from the pictures, without their labels."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
    network.train()
    source = PixelSource(pixels, IMAGENET_NORMALISATION, placement)
    order = np.random.default_rng(0).permutation(len(pixels))[:320]
    with torch.inference_mode(), placement.autocast():
        for rows in plain_batches(order, 32):
            network(source.plain(rows))


def gabor(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Energies of Gabor filters of 4 scales and 8 directions in a grid of 4 x 4 cells: no network."""
    side = pixels.shape[1]
    line = np.arange(side) - side // 2
    y, x = np.meshgrid(line, line, indexing="ij")
    spectra = []
    for scale in range(_SCALES):
        wave, width = 4.0 * 2**scale, 2.0 * 2**scale
        for direction in range(_DIRECTIONS):
            turn = np.pi * direction / _DIRECTIONS
            along = x * np.cos(turn) + y * np.sin(turn)
            bell = np.exp(-(x**2 + y**2) / (2 * width**2))
            bell /= bell.sum()
            spectra += [
                rfft2(np.fft.ifftshift(bell * np.cos(2 * np.pi * along / wave))),
                rfft2(np.fft.ifftshift(bell * np.sin(2 * np.pi * along / wave))),
            ]
    filters = np.stack(spectra)
    cell = side // _CELLS
    rows = []
    for picture in pixels:
        image = picture / 255.0
        answers = irfft2(rfft2(image - image.mean())[None] * filters, (side, side))
        energy = np.sqrt(answers[0::2] ** 2 + answers[1::2] ** 2)[:, : cell * _CELLS, : cell * _CELLS]
        grid = energy.reshape(len(energy), _CELLS, cell, _CELLS, cell).mean(axis=(2, 4))
        rows.append(np.log(grid + 1e-4).ravel())
    return np.stack(rows)


# --- scores


def auroc(features: NDArray[np.float64], real: Real) -> list[float]:
    """AUROC by image over five patient-grouped folds, for each seed of the folds; the penalty is chosen inside."""
    found = []
    for seed in range(FOLD_SEEDS):
        scores = np.zeros(len(features))
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for train, test in folds.split(features, real.classes, real.groups):
            inner = StratifiedGroupKFold(4, shuffle=True, random_state=seed)
            parts = list(inner.split(features[train], real.classes[train], real.groups[train]))
            model = _fitted(features[train], real.classes[train], parts)
            scores[test] = model.decision_function(features[test])
        found.append(float(roc_auc_score(real.classes, scores)))
    return found


def few_shot(features: NDArray[np.float64], real: Real) -> list[float]:
    """Accuracy after ten images of each class, for several draws of these."""
    found = []
    for seed in range(DRAWS):
        rng = np.random.default_rng(derive_seed(seed, "shots"))
        picked = np.concatenate(
            [rng.permutation(np.flatnonzero(real.classes == one))[:SHOTS] for one in np.unique(real.classes)]
        )
        rest = np.setdiff1d(np.arange(len(features)), picked)
        inner = StratifiedKFold(5, shuffle=True, random_state=seed)
        parts = list(inner.split(features[picked], real.classes[picked]))
        model = _fitted(features[picked], real.classes[picked], parts)
        found.append(float((model.predict(features[rest]) == real.classes[rest]).mean()))
    return found


def _fitted(features: NDArray[np.float64], classes: NDArray[np.int64], parts: Sequence[tuple]) -> object:
    losses = []
    for penalty in PENALTIES:
        total = 0.0
        for train, test in parts:
            model = _model(penalty).fit(features[train], classes[train])
            total += log_loss(classes[test], model.predict_proba(features[test]), labels=np.unique(classes))
        losses.append(total)
    return _model(PENALTIES[int(np.argmin(losses))]).fit(features, classes)


def _model(penalty: float) -> object:
    return make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000))


# --- the table


def kinds(imagenet: Path | None, own: VerifiedWeights) -> Iterator[Kind]:
    """Give what is compared, one entry for each network."""

    def random(seed: int, *, is_estimated: bool) -> Callable[..., Sequence[NDArray[np.float64]]]:
        def features(pixels: NDArray[np.uint8], placement: Placement) -> Sequence[NDArray[np.float64]]:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = BACKBONES["resnet18"].build(2)
            if is_estimated:
                re_estimate(network, pixels, placement)
            return maps_of(network, pixels, IMAGENET_NORMALISATION, placement)

        return features

    def loaded(weights: VerifiedWeights) -> Callable[..., Sequence[NDArray[np.float64]]]:
        def features(pixels: NDArray[np.uint8], placement: Placement) -> Sequence[NDArray[np.float64]]:
            return maps_of(build_network("resnet18", weights, seed=0), pixels, weights.normalisation, placement)

        return features

    embedded = "phantom (embedded)" if own.source == "phantom" else "the file given"
    yield Kind(embedded, embedded, own.sha256, loaded(own))
    plain = "Gabor energies, no network"
    yield Kind(plain, plain, "", lambda pixels, _placement: (gabor(pixels),))
    if imagenet is not None:
        digest = file_digest(imagenet)
        choice = WeightsChoice(source="file", backbone="resnet18", file=imagenet, sha256=digest)
        yield Kind("ImageNet", "ImageNet", digest, loaded(verify(choice)))
    for seed in range(NETWORKS):
        for is_estimated, more in ((False, ""), (True, ", statistics re-estimated")):
            name = f"random network {seed + 1}{more}"
            yield Kind(name, f"random networks{more}", "", random(seed, is_estimated=is_estimated))
