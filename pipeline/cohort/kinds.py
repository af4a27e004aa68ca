"""Kinds: a study holds images or volumes, not both."""

from collections.abc import Sequence

from pipeline.core.errors import CohortError
from pipeline.core.records import Image


def require_one_kind(images: Sequence[Image]) -> None:
    """Make sure that a study holds images or volumes.

    Raises
    ------
    CohortError
        If it holds both: one network cannot take them.
    """
    volumes = sum(bool(image.volume_file) for image in images)
    if 0 < volumes < len(images):
        what = (
            f"the study holds {len(images) - volumes} images and {volumes} volumes, and a network takes one of the two"
        )
        remedy = "take one kind: by its modality (ingest.modalities) or by its headers (ingest.select)"
        raise CohortError(what, remedy=remedy)
