"""Images and cohorts for the tests of this package."""

import hashlib
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from pipeline.core.records import Image


def digest(*words: object) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()


def image(
    name: str, patient: str, *, pixels: str = "", perceptual_hash: str = "", site: str = "", row: int = 0, **more
):
    """An image whose pixels are told by a word; equal words are equal pixels."""
    return Image(
        image_id=name,
        row=row,
        patient=patient,
        study_uid=f"study of {name}",
        series_uid=f"series of {name}",
        sop_uid=more.pop("sop_uid", name),
        modality="CR",
        site=site,
        source_rows=8,
        source_columns=8,
        intensity_low=0,
        intensity_high=1,
        pixel_sha256=digest(pixels or name),
        perceptual_hash=perceptual_hash,
        **more,
    )


def by_content(images: Sequence[Image]) -> list[Image]:
    return sorted(images, key=lambda one: one.pixel_sha256)


def hexadecimal(bits: Sequence[int]) -> str:
    return np.packbits(np.asarray(bits, dtype=np.uint8)).tobytes().hex()


@st.composite
def cohorts(draw, classes: int = 3, most_patients: int = 60, most_images: int = 4):
    """Images in the order of content, labels, and a group of each patient: enough of each class for 5 folds."""
    patients = draw(st.integers(12 * classes, max(12 * classes, most_patients)))
    seed = draw(st.integers(0, 2**32 - 1))
    mixed = draw(st.sampled_from([0.0, 0.1]))
    generator = np.random.default_rng(seed)
    images, labels = [], {}
    for patient in range(patients):
        usual = patient % classes
        for number in range(generator.integers(1, most_images + 1)):
            name = f"image {patient}.{number}"
            images.append(image(name, f"patient {patient}", pixels=f"{seed} {name}", row=len(images)))
            is_odd = generator.random() < mixed
            labels[name] = f"class {generator.integers(classes) if is_odd else usual}"
    partner = {f"patient {one}": f"patient {one - one % 2}" for one in range(0, patients, 7)}
    images = by_content(images)
    return images, labels, {one.patient: f"group of {partner.get(one.patient, one.patient)}" for one in images}
