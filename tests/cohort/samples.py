"""Images and cohorts for the tests of this package."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from pipeline.core.records import Image

RELAXED = settings(max_examples=50)


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


@dataclass(frozen=True)
class CohortPlan:
    """A random cohort, told in few numbers so that a failing example can be read."""

    seed: int
    patients: int
    classes: int
    mixed: float  # of images with another class than the patient's usual one
    linked: bool

    def build(self) -> tuple[list[Image], dict[str, str], dict[str, str]]:
        """Images in the order of content, labels, and the group of each patient."""
        generator = np.random.default_rng(self.seed)
        images, labels = [], {}
        for patient in range(self.patients):
            for number in range(generator.integers(1, 5)):
                name = f"image {patient}.{number}"
                images.append(image(name, f"patient {patient}", pixels=f"{self.seed} {name}", row=len(images)))
                is_odd = generator.random() < self.mixed
                labels[name] = f"class {generator.integers(self.classes) if is_odd else patient % self.classes}"
        images = by_content(images)
        partner = {f"patient {one}": f"patient {one + 1}" for one in range(0, self.patients - 1, 7) if self.linked}
        return images, labels, {one.patient: f"group of {partner.get(one.patient, one.patient)}" for one in images}


cohort_plans = st.integers(2, 3).flatmap(
    lambda classes: st.builds(
        CohortPlan,
        seed=st.integers(0, 2**31),
        patients=st.integers(12 * classes, 45),
        classes=st.just(classes),
        mixed=st.sampled_from([0.0, 0.1]),
        linked=st.booleans(),
    )
)
