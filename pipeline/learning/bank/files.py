"""Files of a bank: shards of float16 maps and float32 features, each whole or made anew; a manifest names them.

Shards lie outside the workflow's declared outputs, which Snakemake deletes when a job starts: a job that was killed
goes on with the shards that are missing.
"""

import hashlib
import re
import shutil
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from pipeline.core.artefacts import read_document, replacing, write_document
from pipeline.core.errors import ArtefactError, TrainingError
from pipeline.core.records import Record

GIGABYTE, MEGABYTE = 1e9, 1e6
_AGAIN = "run the rule bank again: snakemake --forcerun bank"
_NAME = re.compile(r"[0-9a-f]{16}")  # the beginning of a bank's key
# Files that `replacing` was killed over have a name of their own before the dot.
_FILE = re.compile(r"\.?(shard|maps|features)-\d{8}\..*")


class Shard(Record):
    """Consecutive images of a bank: its rows, and the size and digest of its two files."""

    key: str  # digest of everything that the values depend on
    first: int
    images: int
    maps_bytes: int  # 0: the bank holds no maps
    maps_sha256: str
    features_bytes: int
    features_sha256: str

    def names(self) -> tuple[str, str]:
        """Names of the files with the maps and with the features."""
        return f"maps-{self.first:08d}.npy", f"features-{self.first:08d}.npy"


class BankManifest(Record):
    """What a bank holds and where; the stage's declared output."""

    key: str
    folder: str
    backbone: str
    weights_source: str
    weights_sha256: str
    pixels_sha256: str
    software: tuple[tuple[str, str], ...]  # versions that can change values
    code: str  # fingerprint of the code that made it
    setting: str  # how images were prepared, as `pipeline.learning.bank.filling.setting_of` gives it
    boundary: str  # the first block behind the maps; empty if there are none
    views: int  # augmented versions of each image, besides the plain one
    map_shape: tuple[int, ...]  # channels, height, width, of volumes one more; empty if there are no maps
    blocks: tuple[str, ...]  # those after which features were taken
    widths: tuple[int, ...]  # features after each of them
    images: int
    looks: int  # about how many images' work one row is above the boundary: many for a volume
    bytes: int
    shards: tuple[Shard, ...]


class Forecast(NamedTuple):
    """Bytes that a bank will take, and what the alternatives would."""

    images: int
    views: int
    boundary: str
    map_bytes: int  # of one version of one image
    feature_bytes: int  # of one image

    @property
    def total(self) -> int:
        """Bytes of all shards."""
        return self.images * ((self.views + 1) * self.map_bytes + self.feature_bytes)

    def in_words(self) -> str:
        """Say what it takes and what would take less.

        Examples
        --------
        >>> Forecast(10_000, 8, "layer4", 100_352, 3840).in_words().split(";")[0]
        '10000 images x (8 views + 1) at the boundary layer4 are 9.1 GB'
        """
        if not self.map_bytes:
            return f"pooled features of {self.images} images are {_in_words(self.total)}"
        text = f"{self.images} images x ({self.views} views + 1) at the boundary {self.boundary} are "
        text += _in_words(self.total)
        if self.total < GIGABYTE:
            return text
        fewer = self._replace(views=self.views // 2)
        less = [f"{fewer.views} views would be {_in_words(fewer.total)}"] if self.views else []
        less.append(f"the strategy probe without last_block would take {_in_words(self._replace(map_bytes=0).total)}")
        return f"{text}; {', '.join(less)}"


def require_room(folder: Path, forecast: Forecast, present: int) -> None:
    """Stop before the first batch if the disk cannot hold a bank.

    Parameters
    ----------
    present
        Bytes of the shards that are there already.

    Raises
    ------
    TrainingError
        Saying what the bank takes, what there is, and what would take less.
    """
    free = shutil.disk_usage(folder).free
    needed = forecast.total - present
    if needed > free:
        what = f"the bank needs {_in_words(needed)}, and the disk has {_in_words(free)}: "
        remedy = "set bank.views lower, leave last_block out of the strategies (probe needs no maps), or free room"
        raise TrainingError(what + forecast.in_words(), where=str(folder), remedy=remedy)


def banks_in(folder: Path) -> list[Path]:
    """List the banks below a folder: what is named like one and holds nothing but shards; all else is somebody's."""
    return [
        place
        for place in sorted(folder.iterdir())
        if _NAME.fullmatch(place.name)
        and place.is_dir()
        and not place.is_symlink()
        and all(_FILE.fullmatch(path.name) and path.is_file() for path in place.iterdir())
    ]


def find_shard(folder: Path, key: str, first: int, images: int) -> Shard | None:
    """Give the shard of these images if it is whole and of this key, else None: it is then made anew."""
    try:
        shard = read_document(folder / f"shard-{first:08d}.json", Shard)
    except ArtefactError:
        return None
    if (shard.key, shard.first, shard.images) != (key, first, images):
        return None
    wanted = zip(
        shard.names(),
        (shard.maps_bytes, shard.features_bytes),
        (shard.maps_sha256, shard.features_sha256),
        strict=True,
    )
    for name, size, digest in wanted:
        path = folder / name
        if size and (not path.is_file() or path.stat().st_size != size or _digest(path) != digest):
            return None
    return shard


def write_shard(folder: Path, key: str, first: int, maps: np.ndarray | None, features: np.ndarray) -> Shard:
    """Write maps (images, versions, channels, height, width) and features (images, features); the record last."""
    facts: list[tuple[int, str]] = []
    names = Shard(
        key=key, first=first, images=len(features), maps_bytes=0, maps_sha256="", features_bytes=0, features_sha256=""
    )
    for name, values in zip(names.names(), (maps, features), strict=True):
        if values is None:
            facts.append((0, ""))
            continue
        with replacing(folder / name) as temporary:
            with temporary.open("wb") as stream:
                np.save(stream, values, allow_pickle=False)
            facts.append((temporary.stat().st_size, _digest(temporary)))
    (maps_bytes, maps_sha256), (features_bytes, features_sha256) = facts
    shard = names.model_copy(
        update={
            "maps_bytes": maps_bytes,
            "maps_sha256": maps_sha256,
            "features_bytes": features_bytes,
            "features_sha256": features_sha256,
        }
    )
    write_document(folder / f"shard-{first:08d}.json", shard)
    return shard


def open_maps(manifest: BankManifest) -> list[np.ndarray]:
    """Open the maps of all shards as memory maps, shape (images, versions, channels, height, width) each.

    Raises
    ------
    ArtefactError
        If a shard is missing, truncated, or of another shape.
    """
    versions = manifest.views + 1
    return [
        _open(manifest, shard, 0, shard.maps_bytes, (shard.images, versions, *manifest.map_shape))
        for shard in manifest.shards
    ]


def read_features(manifest: BankManifest) -> np.ndarray:
    """Read the features of all images after all blocks, float32 of shape (images, sum of widths).

    Raises
    ------
    ArtefactError
        As `open_maps`.
    """
    parts = [
        _open(manifest, shard, 1, shard.features_bytes, (shard.images, sum(manifest.widths)))
        for shard in manifest.shards
    ]
    return np.concatenate(parts)


def _open(manifest: BankManifest, shard: Shard, which: int, size: int, shape: tuple[int, ...]) -> np.ndarray:
    path = Path(manifest.folder) / shard.names()[which]
    found = path.stat().st_size if path.is_file() else -1
    if found != size:
        what = "a shard of the bank is missing" if found < 0 else f"a shard has {found} bytes where {size} were written"
        raise ArtefactError(what, where=str(path), remedy=_AGAIN)
    try:
        values: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        what = f"a shard of the bank is damaged ({type(error).__name__})"
        raise ArtefactError(what, where=str(path), remedy=_AGAIN) from error
    if values.shape != shape:
        what = f"a shard has shape {values.shape} where {shape} is listed"
        raise ArtefactError(what, where=str(path), remedy=_AGAIN)
    return values


def _in_words(size: int) -> str:
    return f"{size / GIGABYTE:.1f} GB" if size >= GIGABYTE else f"{size / MEGABYTE:.1f} MB"


def _digest(path: Path) -> str:
    stream: BinaryIO
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
