"""Write the volumes of a study as compressed NIfTI files, one folder for each patient, for other programs."""

from pathlib import Path

from pipeline.core.artefacts import read_table, write_table
from pipeline.core.errors import ArtefactError
from pipeline.core.progress import Progress, say
from pipeline.core.records import Image
from pipeline.imaging.nifti import compress


def export_volumes(study: Path, *, output: Path) -> None:
    """Compress every volume of a study; voxels and geometry stay as they are.

    Parameters
    ----------
    study
        Folder of the study's results, for example results/mystudy.
    output
        Folder for PATIENT/VOLUME.nii.gz and the table volumes.tsv; names are pseudonyms.

    Raises
    ------
    ArtefactError
        If the study has no volumes, or something cannot be read or written.
    """
    volumes = [image for image in read_table(study / "images.tsv", Image) if image.volume_file]
    if not volumes:
        raise ArtefactError("the study has no volumes", where=str(study), remedy="export is for CT, MR and PET studies")
    progress = Progress("export: volumes", len(volumes))
    for image in volumes:
        target = output / image.patient / f"{image.volume_file}.gz"
        compress(study / "images" / "volumes" / image.volume_file, target)
        progress.advance()
    write_table(output / "volumes.tsv", Image, volumes)
    say(f"export: {len(volumes)} volumes in {output}")
