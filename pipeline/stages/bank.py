"""Compute what frozen blocks make of every image, once for all folds, epochs and strategies."""

import shutil
from pathlib import Path

import numpy as np

from pipeline.cohort.kinds import require_one_kind
from pipeline.config import BankSettings, Config
from pipeline.core.artefacts import read_table, write_document
from pipeline.core.errors import ConfigError
from pipeline.core.progress import say
from pipeline.core.provenance import fingerprint
from pipeline.core.records import Image
from pipeline.imaging.pixel_store import open_pixels
from pipeline.learning.bank.files import banks_in
from pipeline.learning.bank.filling import BankOrder, fill_bank
from pipeline.learning.inputs.augmentation import Augmentation
from pipeline.learning.inputs.batches import PixelSource
from pipeline.learning.inputs.devices import choose_placement
from pipeline.learning.loop.checkpoints import locked
from pipeline.learning.networks.backbones import BACKBONES
from pipeline.learning.networks.blocks import boundary_of
from pipeline.learning.strategies import STRATEGIES, banked
from pipeline.learning.volumes.roads import choose_road, network_for, normalisation_for
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.loading import verify
from pipeline.train_settings import TrainSettings


def bank(
    *,
    settings: BankSettings,
    train: TrainSettings,
    seed: int,
    images: Path,
    pixels: Path,
    state: Path,
    manifest: Path,
    threads: int = 1,
) -> None:
    """Fill the bank of the study's strategies; what a killed job left is used, what other settings left is removed.

    Parameters
    ----------
    settings
        The section `bank`.
    train
        The section `train`; of it the strategies, the network and the augmentation are used.
    seed
        Of the study.
    images
        Table of `Image`.
    pixels
        The stored pixels, a ``.npy`` array.
    state
        Folder of the shards, which outlive a job that is killed.
    manifest
        The list of the shards, written.
    threads
        Processor threads.
    """
    index = read_table(images, Image)
    require_one_kind(index)
    order = make_order(
        train,
        open_pixels(pixels, len(index)),
        file_digest(pixels),
        boundary=freeze_boundary(train),
        views=settings.views,
        seed=seed,
        threads=threads,
    )
    with locked(state):
        for other in banks_in(state):  # first, because the new one may need their room; they are never used again
            if other != order.place(state):
                shutil.rmtree(other)
                say("bank: removed the bank of earlier settings")
        filled = fill_bank(order, state)
    write_document(manifest, filled)


def freeze_boundary(train: TrainSettings) -> str | None:
    """Name the first block that a strategy of the study trains above frozen ones; None: none trains blocks."""
    blocks = BACKBONES[train.backbone].blocks
    names = banked((train.strategy, *train.compare), is_random=train.weights.source == "random")
    depths = [STRATEGIES[name].depth or 0 for name in names]
    if not any(depths):
        return None
    return boundary_of(frozenset(blocks[len(blocks) - max(depths) :]), train.backbone)


def make_order(
    train: TrainSettings,
    pixels: np.ndarray,
    pixels_sha256: str,
    *,
    boundary: str | None,
    views: int,
    seed: int,
    threads: int,
) -> BankOrder:
    """Verify the weights, build the network, and say what its bank is made of."""
    weights = verify(train.weights_choice)
    road = choose_road(pixels, **train.volumes.model_dump())
    augmentation = Augmentation(**train.augmentation.model_dump())
    placement = choose_placement(train.device, train.precision, threads)
    say(f"bank: {train.backbone} from {weights.source} on {placement.device}, {placement.precision}, {threads} threads")
    return BankOrder(
        network=network_for(road, train.backbone, weights, 2, seed=seed, head_seed=seed),
        backbone=train.backbone,
        source=PixelSource(pixels, normalisation_for(road, weights.normalisation), placement, augmentation, road=road),
        weights=weights,
        pixels_sha256=pixels_sha256,
        boundary=boundary,
        views=views,
        seed=seed,
        code=fingerprint(__name__),
    )


def order_of_study(study: Config, results: Path, threads: int) -> BankOrder:
    """Say what a bank of pooled features of a preprocessed study is made of; it holds no maps.

    Raises
    ------
    ConfigError
        If the study's weights are random: there is nothing that transfers.
    """
    if study.train.weights.source == "random":
        what = "the study starts from random weights, so that nothing is transferred"
        raise ConfigError(what, where="train.weights", remedy="name a source of weights")
    pixels = results / "images" / "pixels.npy"
    index = read_table(results / "images.tsv", Image)
    require_one_kind(index)
    stored = open_pixels(pixels, len(index))
    return make_order(
        study.train, stored, file_digest(pixels), boundary=None, views=0, seed=study.seed, threads=threads
    )
