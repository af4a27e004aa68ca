"""What a study needs before any work: its configuration file, its inputs, its weights.

The Snakefile asks here before it plans a job, so that a missing folder or a damaged weights file is told at
once and not after hours of reading images; `doctor` prints the same list.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.cohort.findings import read_finding_table, resolve_findings
from pipeline.cohort.labels import read_label_table, resolve_labels
from pipeline.config import Config
from pipeline.core.errors import CohortError, ConfigError, PipelineError
from pipeline.core.places import standing_at
from pipeline.dicom.indexing.archives import folder_of, is_archive
from pipeline.label_settings import LabelSettings
from pipeline.learning.weights.loading import verify

PHANTOM_FOLDER = Path("data/phantom")
"""Place of the built-in study's files. It is fixed, because Snakemake empties the place of a declared output."""
OUTPUT_FOLDERS = (Path("results"), Path("reports"), Path("logs"))


class Problem(NamedTuple):
    """What keeps a study from starting: the key concerned, what was found, what to do."""

    key: str
    found: str
    remedy: str


def choose_file(given: Sequence[Path], built_in: Path) -> Path:
    """Choose the study: the one file of the command line, else the built-in one.

    Raises
    ------
    ConfigError
        If several files were given: merged studies are hard to read and have no line numbers.
    """
    if len(given) > 1:
        what = f"{len(given)} configuration files were given"
        raise ConfigError(what, where="--configfile", remedy="give one file that holds the whole study")
    path = given[0] if given else built_in
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def require(config: Config) -> None:
    """Stop if a study's inputs are not at hand.

    Raises
    ------
    ConfigError
        Naming everything that is missing at once.
    """
    problems = [*source_problems(config), *table_problems(config), *weights_problems(config)]
    if problems:
        lines = [f"{key}: {found}\n    what to do: {remedy}" for key, found, remedy in problems]
        raise ConfigError(f"study {config.study} cannot start\n  " + "\n  ".join(lines))


def source_problems(config: Config) -> list[Problem]:
    """Say what is wrong with the folder or archive of DICOM files; it is not searched."""
    key, source = "ingest.source", config.ingest.source
    if config.phantom is not None:
        return _phantom_problems(key, source, PHANTOM_FOLDER / "dicom")
    standing = standing_at(source)
    if standing == "nothing":
        return [Problem(key, f"there is no folder {source}", "name the folder with the DICOM files, or their archive")]
    if standing == "closed":
        return [_closed(key, source)]
    folder = folder_of(source)
    if not os.access(folder, os.R_OK | os.X_OK if folder.is_dir() else os.R_OK):
        return [Problem(key, f"{source} cannot be read", "ask for the permission")]
    if not folder.is_dir() and not is_archive(source):
        return [Problem(key, f"{source} is neither a folder nor an archive", "name a folder, a zip or a tar")]
    place = folder.resolve()
    own = [folder for folder in OUTPUT_FOLDERS if _overlap(place, folder.resolve())]
    if own:
        return [Problem(key, f"{source} and {own[0]} lie within one another", "choose a folder of its own")]
    return []


def table_problems(config: Config) -> list[Problem]:
    """Say what is wrong with the table of labels, as the stage `label` would hours later; no message repeats a cell.

    Whether its keys are those of images, only the stage can tell.
    """
    key, table = "label.table", config.label.table
    if config.phantom is not None:
        return _phantom_problems(key, table, PHANTOM_FOLDER / "labels.csv")
    standing = standing_at(table)
    if standing == "closed":
        return [_closed(key, table)]
    if standing != "file":
        return [Problem(key, f"there is no file {table}", "name the CSV or TSV file with the labels")]
    if not os.access(table, os.R_OK):
        return [Problem(key, f"the file {table} cannot be read", "ask for the permission")]
    try:
        _read_labels(config.label)
    except CohortError as error:
        return [Problem(key, f"{error.where}: {error.what}", error.remedy)]
    except Exception as error:  # noqa: BLE001  a bug, and its message may repeat a cell: it is printed whole here
        message = f"{type(error).__name__} in the table of labels (its message may repeat input and is withheld)"
        raise RuntimeError(message) from None
    return []


def _read_labels(settings: LabelSettings) -> None:
    """Read the table and decide what each key is, with the keys as they are; nothing is kept."""
    table, key, column = settings.table, settings.key, settings.column
    on_contradiction, on_unknown = settings.on_contradiction, settings.on_unknown_class
    if settings.findings is None:
        found = read_label_table(table, key=key, column=column)
        classes = settings.classes
        resolve_labels(found, classes=classes, on_contradiction=on_contradiction, on_unknown_class=on_unknown)
    else:
        listed = read_finding_table(table, key=key, column=column, layout=settings.findings.layout)
        resolve_findings(listed, on_contradiction=on_contradiction, on_unknown_class=on_unknown)


def weights_problems(config: Config) -> list[Problem]:
    """Say what is wrong with the weights that the network starts from; a file is found and its digest compared."""
    try:
        verify(config.train.weights_choice)
    except PipelineError as error:
        key = "train.weights"
        found = error.what if error.where in {"", key} else f"{error.where}: {error.what}"
        return [Problem(key, found, error.remedy)]
    return []


def _closed(key: str, path: Path) -> Problem:
    return Problem(key, f"{path} cannot be looked up", "ask for the permission to enter every folder on the way to it")


def _phantom_problems(key: str, given: Path, made: Path) -> list[Problem]:
    if given == made:
        return []
    return [Problem(key, f"the section `phantom` makes {made}, not {given}", f"write {made}, or leave `phantom` out")]


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)
