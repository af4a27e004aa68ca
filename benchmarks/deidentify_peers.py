"""De-identify a folder with one of the peers; print seconds and processor seconds. Run by the peers' interpreter.

``PYTHON benchmarks/deidentify_peers.py NAME INPUT OUTPUT``: the time of the calls alone, without start and imports.
"""

import contextlib
import io
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path


def dicom_anonymizer(files: Sequence[Path], output: Path) -> None:
    """Run dicom-anonymizer with its defaults."""
    from dicomanonymizer import anonymize_dicom_file

    for number, file in enumerate(files):
        anonymize_dicom_file(str(file), str(output / f"{number}.dcm"))


def dicognito(files: Sequence[Path], output: Path) -> None:
    """Run dicognito with its defaults."""
    import pydicom
    from dicognito.anonymizer import Anonymizer

    anonymizer = Anonymizer()
    for file in files:
        with pydicom.dcmread(file) as dataset:
            anonymizer.anonymize(dataset)
            dataset.save_as(output / f"{dataset.SOPInstanceUID}.dcm", enforce_file_format=True)


def deid(files: Sequence[Path], output: Path) -> None:
    """Run deid with its default recipe."""
    from deid.config import DeidRecipe
    from deid.dicom import get_identifiers, replace_identifiers

    names = [str(file) for file in files]
    found = get_identifiers(names)
    replace_identifiers(
        dicom_files=names, deid=DeidRecipe(), ids=found, save=True, output_folder=str(output), overwrite=True
    )


PEERS: dict[str, Callable[[Sequence[Path], Path], None]] = {
    "dicom-anonymizer": dicom_anonymizer,
    "dicognito": dicognito,
    "deid": deid,
}


def main() -> None:
    """Run one of them."""
    name, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    files = sorted(source.rglob("*.dcm"))
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with contextlib.redirect_stdout(io.StringIO()):
        PEERS[name](files[:1], target)  # what is imported and read once
        begin, worked = time.perf_counter(), time.process_time()
        PEERS[name](files, target)
        seconds, worked = time.perf_counter() - begin, time.process_time() - worked
    if len(list(target.rglob("*.dcm"))) < len({file.name for file in files}):  # deid keeps the names
        sys.exit(f"{name} wrote too few files")
    print(seconds, worked)


if __name__ == "__main__":
    main()
