"""Examine the machine and a study: what is at hand, what is missing, and how to mend it."""

import importlib.util
import os
import platform
import shutil
import stat
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from pipeline.config import DEFAULT_FILE, Config, load
from pipeline.core.errors import ConfigError
from pipeline.core.provenance import PACKAGE_FOLDER, available_cores
from pipeline.dicom.indexing.archives import folder_of
from pipeline.learning.weights.sources import SOURCES
from pipeline.prerequisites import OUTPUT_FOLDERS, source_problems, table_problems, weights_problems

DISTRIBUTION = "imaging-transfer"
OLDEST_PYTHON = (3, 11)
# Below these a study of ordinary size becomes tight: one training process needs about 2 GB, images and reports little.
ENOUGH_MEMORY_GB = 4.0
ENOUGH_DISK_GB = 10.0
MOST_ENTRIES_LOOKED_AT = 1000
_MAGIC_OFFSET, _MAGIC = 128, b"DICM"  # PS3.10, 7.1
_EXIT_PROBLEMS = 2


class Check(NamedTuple):
    """One thing looked at: `bad` stops a study, `note` is worth knowing."""

    state: Literal["ok", "note", "bad"]
    what: str
    found: str
    remedy: str = ""


def examine(*, configfile: Path = DEFAULT_FILE) -> int:
    """Print every check and return 0, or 2 if something would stop the study.

    Parameters
    ----------
    configfile
        Configuration of the study (default: the built-in one).
    """
    checks = [*machine_checks(), *study_checks(configfile)]
    for check in checks:
        sys.stdout.write(f"{check.state:4}  {check.what:14} {check.found}\n")
        if check.remedy:
            sys.stdout.write(f"{'':20} what to do: {check.remedy}\n")
    problems = sum(check.state == "bad" for check in checks)
    verdict = f"{problems} to mend before a study can run" if problems else "ready"
    sys.stdout.write(f"\n{verdict}\n")
    return _EXIT_PROBLEMS if problems else 0


def machine_checks() -> Iterator[Check]:
    """Look at Python, packages, processors, memory, disk, GPU and cluster."""
    version = platform.python_version()
    if sys.version_info >= OLDEST_PYTHON:
        yield Check("ok", "python", version)
    else:
        yield Check("bad", "python", version, "install Python 3.11 or newer and make the environment again")
    yield from package_checks()
    yield Check("ok", "cores", str(available_cores()))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    yield _enough("memory", memory, ENOUGH_MEMORY_GB, "train.batch_size or preprocess.size may have to be smaller")
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield _enough("free disk", free, ENOUGH_DISK_GB, "de-identified copies need about as much room as the source")
    yield gpu_check()
    if shutil.which("sbatch") and importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        remedy = "to submit jobs: python -m pip install -c requirements-dev.lock -e '.[slurm]'"
        yield Check("note", "slurm", "this machine submits to Slurm, but Snakemake's plugin is not installed", remedy)


def package_checks() -> Iterator[Check]:
    """Compare installed packages with the ranges that this software asks for."""
    requirements = [Requirement(text) for text in _required_packages()]
    wanted = [item for item in requirements if item.marker is None or item.marker.evaluate({"extra": ""})]
    wrong = 0
    for item in wanted:
        try:
            version = metadata.version(item.name)
        except metadata.PackageNotFoundError:
            version = "not installed"
        if version == "not installed" or not item.specifier.contains(version, prereleases=True):
            wrong += 1
            found = f"{item.name} {version}; wanted {item.specifier}"
            yield Check("bad", "packages", found, "python -m pip install -r requirements.lock")
    if not wrong:
        yield Check("ok", "packages", f"{len(wanted)} of {len(wanted)} within their ranges")


def gpu_check() -> Check:
    """Look for a GPU that PyTorch can use."""
    import torch

    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else "; this build of PyTorch has no GPU support"
        return Check("note", "gpu", f"none{built}; training uses the processor")
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return Check("ok", "gpu", ", ".join(f"{device.name} ({device.total_memory / 1e9:.0f} GB)" for device in devices))


def study_checks(configuration: Path) -> Iterator[Check]:
    """Look at a study's configuration, inputs, weights and places for results."""
    try:
        config = load(configuration)
    except ConfigError as error:
        yield Check("bad", "configuration", f"{error.where}: {error.what}", error.remedy)
        return
    yield Check("ok", "configuration", f"{configuration}: study {config.study}")
    yield from _inputs(config)
    key = config.deidentify.key_file or Path("results") / config.study / "restricted" / "key"
    yield _key_check(key)
    for folder in OUTPUT_FOLDERS:
        existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        if not os.access(existing, os.W_OK | os.X_OK):
            remedy = "run from a folder of yours, or ask for the permission"
            yield Check("bad", str(folder), f"{existing} cannot be written", remedy)


def _inputs(config: Config) -> Iterator[Check]:
    source, table, weights = source_problems(config), table_problems(config), weights_problems(config)
    yield from (Check("bad", *problem) for problem in (*source, *table, *weights))
    if config.phantom is not None and not (source or table):
        yield Check("ok", "data", "synthetic, made by the study itself")
    if config.phantom is None and not source:
        yield _first_file(config.ingest.source)
    if config.phantom is None and not table:
        yield Check("ok", "label.table", str(config.label.table))
    if not weights:
        name = config.train.weights.source
        is_pinned = name in SOURCES or config.train.weights.sha256 is not None
        found = f"{name}, digest as expected" if is_pinned else f"{name}, found; no digest was asked for"
        yield Check("ok", "train.weights", "random: nothing is transferred" if name == "random" else found)


def _first_file(source: Path) -> Check:
    """Look at the first files of the source only; their names may identify and are not printed."""
    if folder_of(source).is_file():
        return Check("ok", "ingest.source", f"{source} is an archive; a study unpacks it beside its results")
    source = folder_of(source)
    looked_at = 0
    entries = (Path(folder) / name for folder, _, names in os.walk(source) for name in sorted(names))
    for path in islice(entries, MOST_ENTRIES_LOOKED_AT):
        looked_at += 1
        try:
            if path.is_file():
                with path.open("rb") as stream:
                    stream.seek(_MAGIC_OFFSET)
                    if stream.read(len(_MAGIC)) == _MAGIC:
                        return Check("ok", "ingest.source", f"{source} holds DICOM files")
        except OSError:
            continue
    if looked_at == 0:
        return Check("bad", "ingest.source", f"{source} holds no files", "name the folder with the DICOM files")
    found = f"none of the first {looked_at} files in {source} starts as DICOM files do"
    return Check("note", "ingest.source", found, "check the folder; files without the usual start are tried as well")


def _key_check(key: Path) -> Check:
    """Look at the secret key's permissions, never at the key."""
    try:
        mode = key.stat().st_mode
    except FileNotFoundError:
        return Check("ok", "secret key", f"will be made: {key}")
    except OSError:
        return Check("bad", "secret key", f"{key} cannot be read", "ask its owner")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Check("bad", "secret key", f"others can read {key}", f"chmod 600 {key}")
    return Check("ok", "secret key", f"{key}, readable by you only")


def _required_packages() -> list[str]:
    """Read the ranges from the project file beside the package, else from the installed package."""
    project = PACKAGE_FOLDER.parent / "pyproject.toml"
    if project.is_file():
        content = tomllib.loads(project.read_text(encoding="utf-8"))
        return list(content["project"]["dependencies"])
    return list(metadata.requires(DISTRIBUTION) or [])


def _enough(what: str, gigabytes: float, wanted: float, remark: str) -> Check:
    if gigabytes >= wanted:
        return Check("ok", what, f"{gigabytes:.0f} GB")
    return Check("note", what, f"{gigabytes:.1f} GB", remark)
